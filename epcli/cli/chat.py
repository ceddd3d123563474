"""`ep chat`: many questions about one file."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from epcli import streams
from epcli.cli.options import (
    ANSWER,
    OUTPUT,
    DebugFlag,
    EndFlag,
    MediaArgument,
    StartFlag,
    option,
    settings,
    time_range,
)
from epcli.cli.screen import Screen, check_first, redraws, working
from epcli.config import Resolved, state_home
from epcli.errors import EXIT_PARTIAL, EpError, unexpected
from epcli.text import as_question, one_line, visible, visible_json, well_formed

if TYPE_CHECKING:
    from epcli.records import Report
    from epcli.session.chat import Chat


@settings("look", "answer", "tokens", "machine")
def chat(
    media: MediaArgument,
    *,
    start: StartFlag = None,
    end: EndFlag = None,
    resolved: Resolved,
    history: Annotated[bool, option("The model reads what was said before.", "", ANSWER)] = True,
    json: Annotated[bool, option("Print a JSON object for each question, a line each.", "", OUTPUT, "--json")] = False,
    quiet: Annotated[bool, option("Print the answers and nothing else.", "", OUTPUT, "--quiet", "-q")] = False,
    debug: DebugFlag = False,
) -> None:
    """Ask many questions about one file; the model and the file are loaded once.

    On a terminal, /help lists what else can be typed. From a pipe or file, each line is a question.
    """
    start_s, end_s = time_range(start, end)
    streams.check_output()
    check_first(media, resolved)
    with working(resolved, quiet=quiet, json=json) as screen:
        from epcli.compat import import_transformers

        import_transformers()
        from epcli.session.chat import Chat  # the model libraries load here
        from epcli.session.session import Session

        session = Session(resolved.profile, screen.stage, screen.progress)
        talk = Chat(session, media, start_s, end_s, history, resolved.chosen())
        session.load()  # after a hit it is not there yet
    typed = sys.stdin.isatty() and sys.stderr.isatty()
    if not quiet and typed:
        print(f" {one_line(talk.about())} · {resolved.profile.model} · /help for more", file=sys.stderr)
    failed = _Talk(talk, screen, quiet=quiet, json=json, typed=typed, debug=debug).run()
    if failed and not typed:
        raise typer.Exit(EXIT_PARTIAL)


class _Talk:
    """The loop of lines and answers."""

    def __init__(
        self, talk: Chat, screen: Screen, *, quiet: bool, json: bool, typed: bool, debug: bool = False
    ) -> None:
        self._talk, self._screen = talk, screen
        self._quiet, self._json, self._typed, self._debug = quiet, json, typed, debug
        self._told: set[str] = set()  # warnings, once each

    def run(self) -> int:
        """Until the end of the input or /quit; returns how many lines failed."""
        from epcli.session.chat import Quit

        failed = 0
        for line in _typed_lines() if self._typed else _piped_lines():
            try:
                if line.startswith("/"):
                    self._note(self._talk.command(as_question(line, "the line")))
                else:
                    self._answer(line)
            except Quit:
                break
            except EpError as error:
                failed += 1
                self._fail(str(error))
            except OSError:  # standard output is gone
                raise
            except Exception as error:  # one question must not end the conversation
                if self._debug:
                    traceback.print_exc()
                failed += 1
                self._fail(unexpected(error, self._debug))
            except KeyboardInterrupt:
                self._screen.close()
                if not self._typed:
                    raise
                self._note("stopped")
        return failed

    def _fail(self, message: str) -> None:
        self._screen.close()
        print(f"ep: error: {one_line(message)}", file=sys.stderr)

    def _answer(self, question: str) -> None:
        try:
            report, notes = self._talk.ask(question, self._screen.text)
        finally:
            self._screen.close()
        if self._json:
            from json import dumps

            print(visible_json(dumps(report.to_dict(), ensure_ascii=False, allow_nan=False)), flush=True)
        if self._quiet or self._json:
            return
        for text in (*report.warnings, *notes):
            if text not in self._told:
                self._told.add(text)
                print(f"ep: warning: {one_line(text)}", file=sys.stderr)
        if self._typed:
            self._note(_figures(report))

    def _note(self, text: str) -> None:
        if text and not self._quiet:
            dim = self._typed and redraws()
            for line in visible(text).split("\n"):
                print(f"\x1b[2m {line}\x1b[0m" if dim else f" {line}", file=sys.stderr)


def _figures(report: Report) -> str:
    media = report.tokens.media
    facts = [f"{report.speed.first_token_s:.1f} s to the first word", f"{media.kept:,} of {media.total:,} tokens"]
    if report.selector != "none":
        facts.append(report.selector)
    return " · ".join(facts)


def _piped_lines() -> Iterator[str]:
    for line in streams.input_lines():
        if text := line.lstrip("\ufeff").strip():
            yield text


def _typed_lines() -> Iterator[str]:
    """Lines with editing, completion of commands, and the questions of earlier times on the arrow keys."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.output import create_output

    class _History(FileHistory):
        def store_string(self, string: str) -> None:
            super().store_string(well_formed(string))  # it is written as UTF-8

    from epcli.session.chat import ASKED

    kept = state_home() / "chat_history"
    history: FileHistory | InMemoryHistory = InMemoryHistory()
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(kept, os.O_CREAT | os.O_RDWR, 0o600))  # what was asked is nobody else's business
        history = _History(str(kept))
    words = ("range", "history", "evidence", "inspect", "help", "quit", *(name.replace("_", "-") for name in ASKED))
    prompt: PromptSession[str] = PromptSession(
        history=history,
        completer=WordCompleter([f"/{word}" for word in sorted(words)], sentence=True),
        complete_while_typing=False,
        output=create_output(stdout=sys.stderr),  # the answers alone go to stdout
    )
    while True:
        try:
            line = well_formed(prompt.prompt("> ")).strip()
        except EOFError:
            return
        except KeyboardInterrupt:  # throws the line away, as shells do
            continue
        if line:
            yield line
