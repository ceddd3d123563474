"""A conversation about one file: many questions, the model and the file's features loaded once.

`Chat` holds what commands change and what was said; it knows no terminal. With history, earlier questions and answers
stand between the clip and the question, in the model's own chat format, and the oldest are dropped when they no longer
fit. Kept tokens are chosen anew for each question.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from epcli.config import SETTINGS
from epcli.errors import CapacityError, UsageError
from epcli.files import check_output, whole
from epcli.media.ffmpeg import name
from epcli.records import ProfileChoice, Report, Turn
from epcli.session.clips import EncodedClip
from epcli.session.plan import plan
from epcli.session.session import Answered, Session
from epcli.sieve.selectors import SELECTORS
from epcli.text import did_you_mean, format_range, parse_time

ASKED = ("keep", "budget", "selector", "system", "max_new_tokens", "temperature", "seed")  # settings of a question

HELP = """\
/range 0:10-0:20   look at this part; /range all: at the whole file again
/keep 0.05         share of the sound and picture tokens to keep; auto; none
/budget 500        most sound and picture tokens to keep, or none
/selector NAME     how they are chosen:
{selectors}
/history on|off    whether the model reads what was said; clear forgets it
/evidence          the moments that carried the last answer
/inspect FILE.html a page that shows what was kept for the last answer
/system, /max-new-tokens, /temperature, /seed   as the flags of `ep ask`
/help, /quit       this list; the end (Ctrl-D too; Ctrl-C stops an answer)"""


class Quit(Exception):
    """The conversation is over."""


class Chat:
    """A conversation about one file."""

    def __init__(
        self,
        session: Session,
        media: Path,
        start_s: float | None,
        end_s: float | None,
        history: bool = True,
        profile: ProfileChoice | None = None,
    ) -> None:
        """Looks at the file. `profile`: the one that the settings began with, for the reports.

        Raises as `Session.look`.
        """
        self.session, self.media, self.history, self.profile = session, media, history, profile
        self.turns: list[Turn] = []
        self.last: Answered | None = None
        self.looked: EncodedClip = session.look(media, start_s, end_s)

    def ask(self, question: str, on_text: Callable[[str], None] | None = None) -> tuple[Report, list[str]]:
        """The answer, and what the user should be told. Raises UsageError or CapacityError."""
        turns, began, notes = list(self.turns) if self.history else [], False, []

        def say(piece: str) -> None:
            nonlocal began
            began = True
            if on_text is not None:
                on_text(piece)

        while True:
            try:
                asked = self.session.run(self.looked, question, say, turns)
                break
            except CapacityError:
                if began or not turns:
                    raise
                turns = turns[1:]
        if self.history and len(turns) < len(self.turns):
            notes.append(f"the prompt became too long: only {len(turns)} of {len(self.turns)} turns were read")
        if self.history:
            self.turns = [*turns, Turn(question, asked.report.answer)]
        self.last = asked = replace(asked, report=replace(asked.report, profile=self.profile))
        self.looked = self.looked.again()
        return asked.report, notes

    def command(self, line: str) -> str:
        """Do what a line that begins with a slash says; returns what to tell. Raises Quit or EpError."""
        name, _, value = line[1:].strip().partition(" ")
        name, value = name.lower().replace("-", "_"), value.strip()
        if name in ("quit", "exit", "q"):
            raise Quit
        if name in ASKED:
            return self._set(name, value)
        commands = {
            "help": lambda value: _help(),
            "history": self._history,
            "range": self._range,
            "evidence": self._evidence,
            "inspect": self._inspect,
        }
        if name not in commands:
            hint = did_you_mean(name, [*commands, *ASKED, "quit"])
            raise UsageError(f"/{name.replace('_', '-')}: no such command{hint}; /help lists them")
        return commands[name](value)

    def about(self) -> str:
        """What is talked about, in one line."""
        clip = self.looked.clip
        start, end = clip.range_s
        facts = [name(self.media)]
        if end > start:
            facts.append(format_range(start, end))
        if count := len(clip.frame_times_s):
            facts.append(f"{count} frame{'s' * (count > 1)}")
        facts.append("with sound" if clip.heard else "without sound")
        return " · ".join(facts)

    def _set(self, name: str, value: str) -> str:
        flag = f"/{name.replace('_', '-')}"
        if value:
            parsed = SETTINGS[name].parse(value, flag)
            if name == "selector" and parsed is not None and parsed not in SELECTORS:
                raise UsageError(f"{flag}: no selector named {parsed!r}; there are: {', '.join(SELECTORS)}")
            changes = {name: parsed}
            rival = {"keep": "budget", "budget": "keep"}.get(name)
            if rival and parsed is not None:  # two ways to say the same: the later one holds
                changes[rival] = None
            self.session.profile = replace(self.session.profile, **changes)
        now = getattr(self.session.profile, name)
        return f"{name.replace('_', ' ')}: {SETTINGS[name].null if now is None else now}"

    def _history(self, value: str) -> str:
        if value not in ("", "on", "off", "clear"):
            raise UsageError(f"/history: {value!r} is not on, off or clear")
        if value == "clear":
            self.turns = []
        elif value:
            self.history = value == "on"
        count = len(self.turns)
        return f"history: {'on' if self.history else 'off'}, {count} turn{'s' * (count != 1)} remembered"

    def _range(self, value: str) -> str:
        if value:
            start_s, end_s = _parse_range(value)
            self.looked = self.session.look(self.media, start_s, end_s)  # if this fails, all stays as it was
            forgotten = " · earlier turns, about another part, are forgotten" if self.turns else ""
            self.turns, self.last = [], None
            return self.about() + forgotten
        return self.about()

    def _evidence(self, value: str) -> str:
        from epcli.report.console import evidence_lines

        return "\n".join(line.plain.strip("\n") for line in evidence_lines(self._answered("/evidence").report))

    def _inspect(self, value: str) -> str:
        from epcli.report.html import to_html
        from epcli.session import inspection

        asked, path = self._answered("/inspect"), Path(os.path.expanduser(value or f"{self.media.stem}-kept.html"))
        check_output(path, "/inspect", source=self.media)
        start_s, end_s = self.looked.range_s
        planned = plan(self.media, self.session.profile, start_s=start_s, end_s=end_s)
        page = to_html(inspection.shown(self.looked, [asked], planned))
        with whole(path) as partial:
            partial.write_text(page, encoding="utf-8")
        return f"wrote {path}"

    def _answered(self, command: str) -> Answered:
        if self.last is None:
            raise UsageError(f"{command}: nothing has been asked yet; it is about the last answer")
        return self.last


def _help() -> str:
    names = textwrap.fill(
        ", ".join(SELECTORS), 76, break_on_hyphens=False, initial_indent=" " * 19, subsequent_indent=" " * 19
    )
    return HELP.format(selectors=names)


def _parse_range(text: str) -> tuple[float | None, float | None]:
    """ "0:10-0:20", "0:10-", "-0:20" or "all" -> start and end, None where open. Raises UsageError."""
    if text == "all":
        return None, None
    begin, dash, end = (part.strip() for part in text.replace("–", "-").partition("-"))
    if not dash or not (begin or end):
        raise UsageError(f"/range: {text!r} is not a range; write 0:10-0:20, 0:10-, -0:20 or all")
    try:
        start_s, end_s = (parse_time(part) if part else None for part in (begin, end))
    except UsageError as error:
        raise UsageError(f"/range: {error}") from error
    if end_s is not None and end_s <= (start_s or 0.0):
        raise UsageError(f"/range: {end} is not after {begin or 'the beginning'}")
    return start_s, end_s
