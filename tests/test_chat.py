"""A conversation about one file: what the model reads, what commands do, how it behaves in a terminal and a pipe."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_omni
from media_samples import X264, shared_film

from epcli.config import Profile
from epcli.errors import CapacityError, EpError, UsageError
from epcli.records import Turn
from epcli.session import chat
from epcli.session.chat import Chat, Quit
from epcli.session.session import Session

TURNS = [Turn("What is seen?", "A cow."), Turn("What is heard? ", "A dog.")]


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_omni.write(tmp_path_factory.mktemp("omni") / "tiny")


@pytest.fixture(scope="module")
def film() -> Path:
    return shared_film("chat.mp4", X264, ("aac",), 2)


@pytest.fixture(scope="module")
def loaded(omni: Path) -> Session:
    return Session(Profile(model=str(omni), device="cpu", max_new_tokens=4, threads=1))


@pytest.fixture
def session(loaded: Session) -> Iterator[Session]:
    before = loaded.profile
    yield loaded
    loaded.profile = before


@pytest.fixture
def talk(session: Session, film: Path) -> Chat:
    return Chat(session, film, None, None)


def test_earlier_turns_stand_between_the_clip_and_the_question(session: Session, talk: Chat) -> None:
    model = session._model
    before, after = model.inputs.prompt("Which first?", "Be brief.", TURNS)  # type: ignore[union-attr]
    assert model.tokenizer.decode(before) == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"  # type: ignore[union-attr]
    assert model.tokenizer.decode(after) == (  # type: ignore[union-attr]
        "What is seen?<|im_end|>\n<|im_start|>assistant\nA cow.<|im_end|>\n"
        "<|im_start|>user\nWhat is heard?<|im_end|>\n<|im_start|>assistant\nA dog.<|im_end|>\n"
        "<|im_start|>user\nWhich first?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_with_history_the_prompt_grows_and_without_it_does_not(talk: Chat) -> None:
    first = talk.ask("What is seen?")[0].tokens.text.total
    second = talk.ask("What is seen?")[0].tokens.text.total
    assert second > first
    assert talk.turns[0].question == "What is seen?"
    talk.command("/history off")
    assert talk.ask("What is seen?")[0].tokens.text.total == first
    assert len(talk.turns) == 2  # nothing is added, nothing lost
    talk.command("/history on")
    talk.command("/history clear")
    assert talk.ask("What is seen?")[0].tokens.text.total == first


def test_every_question_is_chosen_for_anew(talk: Chat) -> None:
    talk.command("/keep 0.3")
    talk.command("/history off")
    one = talk.ask("What is seen?")[0]
    two = talk.ask("Who speaks at the end?")[0]
    again = talk.ask("What is seen?")[0]
    kept = [report.tokens.media.kept for report in (one, two, again)]
    assert 0 < kept[0] == kept[1] < one.tokens.media.total
    assert one.answer == again.answer


def test_the_file_is_looked_at_once(talk: Chat) -> None:
    first, second = (talk.ask("What is seen?")[0] for _ in range(2))
    assert second.timings_s.media == second.timings_s.vision == second.timings_s.cache == 0
    assert second.cache.features == "hit"
    assert first.media == second.media


def test_the_oldest_turns_are_forgotten_when_the_prompt_is_too_long(
    talk: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, _ = talk.ask("What is seen?")
    model = talk.session._model
    room = report.tokens.media.kept + report.tokens.text.kept + 4 + 40
    monkeypatch.setattr(model, "context_tokens", room)
    notes: list[str] = []
    for _ in range(4):
        notes += talk.ask("What is seen?")[1]
    assert len(talk.turns) < 5
    assert "turns were read" in notes[0]
    monkeypatch.setattr(model, "context_tokens", 10)
    with pytest.raises(CapacityError):
        talk.ask("What is seen?")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/keep 0.05", "keep: 0.05"),
        ("/keep auto", "keep: auto"),
        ("/keep none", "keep: 0.2, but 160 tokens at least, with a trained sieve or a selector; else all"),
        ("/budget 40", "budget: 40"),
        ("/selector uniform", "selector: uniform"),
        ("/max-new-tokens 7", "max new tokens: 7"),
        ("/temperature", "temperature: 0.0"),
        ("/history", "history: on, 0 turns remembered"),
        ("/HISTORY off", "history: off, 0 turns remembered"),
        ("/range", "chat.mp4 · 0:00–0:02 · 4 frames · with sound"),
        ("/range 0:00.5-0:01.5", "chat.mp4 · 0:00.5–0:01.5 · 2 frames · with sound"),
        ("/range 1-", "chat.mp4 · 0:01–0:02 · 2 frames · with sound"),
        ("/range all", "chat.mp4 · 0:00–0:02 · 4 frames · with sound"),
    ],
)
def test_a_command_does_what_it_says(talk: Chat, line: str, says: str) -> None:
    assert talk.command(line) == says


def test_help_names_every_command(talk: Chat) -> None:
    page = talk.command("/help")
    for name in ("range", "history", "evidence", "inspect", "quit", *chat.ASKED):
        assert f"/{name.replace('_', '-')}" in page
    assert max(map(len, page.splitlines())) < 80


def test_share_and_budget_replace_each_other(talk: Chat) -> None:
    talk.command("/keep 0.2")
    talk.command("/budget 9")
    assert (talk.session.profile.keep, talk.session.profile.budget) == (None, 9)
    talk.command("/keep 0.2")
    assert (talk.session.profile.keep, talk.session.profile.budget) == (0.2, None)


def test_another_range_forgets_what_was_said_about_the_old_one(talk: Chat) -> None:
    talk.ask("What is seen?")
    assert "forgotten" in talk.command("/range 1-2")
    assert talk.turns == []
    assert talk.ask("What is seen?")[0].media.range_s == (1.0, 2.0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/kep 0.1", "/kep: no such command, did you mean keep?"),
        ("/", "/: no such command"),
        ("/keep 2", "/keep: 2 is not a number over 0 up to 1, or auto"),
        ("/selector best", "/selector: 'best' is not one of cs2"),
        ("/history maybe", "/history: 'maybe' is not on, off or clear"),
        ("/range 10", "/range: '10' is not a range"),
        ("/range 0:02-0:01", "/range: 0:01 is not after 0:02"),
        ("/range soon-later", "/range: 'soon' is not a time"),
        ("/evidence", "/evidence: nothing has been asked yet"),
        ("/inspect", "/inspect: nothing has been asked yet"),
        ("/range 9:00-9:10", "chat.mp4: a start at 9:00 is past the end"),
    ],
)
def test_a_wrong_command_changes_nothing_and_says_why(talk: Chat, line: str, message: str) -> None:
    before = (talk.session.profile, talk.looked, talk.history)
    with pytest.raises(EpError) as error:
        talk.command(line)
    assert str(error.value).startswith(message)
    assert (talk.session.profile, talk.looked, talk.history) == before


def test_the_last_answer_can_be_looked_into(talk: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report, _ = talk.ask("What is seen?")
    assert report.evidence is not None
    assert talk.command("/evidence").splitlines()[0] == " what carried the answer"
    assert talk.command("/inspect") == "wrote chat-kept.html"
    page = (tmp_path / "chat-kept.html").read_text()
    assert "What is seen?" in page
    with pytest.raises(UsageError, match="there is no folder"):
        talk.command("/inspect nowhere/page.html")
    talk.command("/range 1-2")
    with pytest.raises(UsageError, match="nothing has been asked yet"):
        talk.command("/evidence")  # of the part before


@pytest.mark.parametrize("line", ["/quit", "/exit", "/q"])
def test_it_can_be_left(talk: Chat, line: str) -> None:
    with pytest.raises(Quit):
        talk.command(line)


def test_an_empty_question_is_refused(talk: Chat) -> None:
    with pytest.raises(UsageError, match="empty"):
        talk.ask("  ")
    assert talk.turns == []


@pytest.mark.slow
def test_ep_smols_prompt_is_that_of_its_own_chat_template() -> None:
    from epcli.models.smol.model import SYSTEM, prompt_ids
    from epcli.models.smol.smollm import load_smollm

    tokenizer = load_smollm().tokenizer
    before, after = prompt_ids(tokenizer, "Which first?", None, TURNS)
    messages = [{"role": "system", "content": SYSTEM}]
    for number, turn in enumerate(TURNS):  # the clip stands in front of the first question
        question = turn.question.strip()
        messages += [{"role": "user", "content": question if number else f"\n{question}"}]
        messages += [{"role": "assistant", "content": turn.answer}]
    messages += [{"role": "user", "content": "Which first?"}]
    wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(before + after) == wanted


# --- the program


@pytest.fixture
def command(omni: Path, film: Path) -> list[str]:
    settings = ["--model", str(omni), "--device", "cpu", "--max-new-tokens", "4", "--seed", "1"]
    return [sys.executable, "-m", "epcli", "chat", str(film), *settings]


@pytest.mark.slow
def test_from_a_pipe_each_line_is_a_question(command: list[str]) -> None:
    lines = "What is seen?\n\n/keep 7\n/keep 0.5\nWhat else?\n/quit\nNever asked\n"
    run = subprocess.run([*command, "--json"], input=lines, capture_output=True, text=True, timeout=300)
    reports = [json.loads(line) for line in run.stdout.splitlines()]
    assert [report["question"] for report in reports] == ["What is seen?", "What else?"]
    assert [report["settings"]["keep"] for report in reports] == [None, 0.5]
    assert all(report["profile"]["name"] == "cpu" and report["profile"]["why"] for report in reports)
    assert reports[1]["tokens"]["text"]["total"] > reports[0]["tokens"]["text"]["total"]  # it has read the first
    assert run.stderr.count("\n") == 2, run.stderr  # the wrong command, and what the right one has set
    assert "ep: error: /keep: 7 is not" in run.stderr
    assert run.returncode == 3


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            os.execve(command[0], command, environment)
        self.seen = ""

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Read until `text` is shown."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            readable, _, _ = select.select([self.end], [], [], max(deadline - time.monotonic(), 0))
            if not readable:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"{text!r} was not shown: {self.seen[-2000:]!r}")
            try:
                self.seen += os.read(self.end, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(self.seen) from None

    def type(self, text: str) -> None:
        self.seen = ""
        os.write(self.end, text.encode())

    def exit_code(self) -> int:
        while True:  # what is not read would keep it from ending
            if not select.select([self.end], [], [], 60)[0]:
                os.kill(self.pid, signal.SIGKILL)
            try:
                if not os.read(self.end, 65536):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.slow
def test_on_a_terminal_an_interrupt_stops_the_answer_only(command: list[str], tmp_path: Path) -> None:
    slow = (  # an answer that takes its time, for the interrupt to fall into
        "import itertools, sys, time; from torch import tensor; "
        "from epcli import cli; from epcli.session import generate; "
        "count = itertools.count(); "
        "said = lambda: print('THINKING', file=sys.stderr); "
        "generate._choose = lambda *_: (time.sleep(0.1), said(), tensor(next(count) % 90))[2]; "
        "cli.main()"
    )
    long = [command[0], "-c", slow, *command[3:], "--max-new-tokens", "3000", "--no-history"]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    terminal = Terminal(long, environment)
    ready = "\x1b[?2004h"  # what a prompt switches on
    terminal.wait_for(ready)
    terminal.type("What is seen?\r")
    terminal.wait_for("THINKING")
    terminal.type("\x03")
    terminal.wait_for("stopped")
    terminal.wait_for(ready)
    terminal.type("/keep 0.5\r")
    terminal.wait_for("keep: 0.5")
    terminal.seen = terminal.seen.partition("keep: 0.5")[2]
    terminal.wait_for(ready)  # before that, the end of the input would be lost
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    kept = tmp_path / "epcli" / "chat_history"
    assert "What is seen?" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
