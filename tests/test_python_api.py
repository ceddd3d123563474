"""`import epcli`: the library, as docs/python.md describes it.

Run this file to rewrite the outputs in that page: python tests/test_python_api.py
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import tiny_omni
from media_samples import X264, shared_film

import epcli
from epcli import Profile, UsageError

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"
EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def examples() -> list[tuple[str, str]]:
    """The programs in the page and what they print."""
    return EXAMPLE.findall(PAGE.read_text(encoding="utf-8"))


def printed(program: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.chdir(ROOT / "docs" / "media"):
        exec(compile(program, str(PAGE), "exec"), {})
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_the_examples_print_what_the_page_says(number: int) -> None:
    from epcli.session.device import cpu_has_bf16

    program, output = examples()[number]
    if "schema=" in program:
        pytest.importorskip("llguidance")
    said = printed(program)
    assert len(said.splitlines()) == len(output.splitlines())
    if cpu_has_bf16():  # in float32 a share or a word may differ
        assert said == output, "run: python tests/test_python_api.py"


def test_the_page_names_every_record_and_every_error() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert {name for name in epcli.Report.__dataclass_fields__ if f"`{name}`" not in text} <= {"schema"}
    assert all(f"`{error.__name__}`" in text for error in epcli.EpError.__subclasses__())


def test_the_import_is_light() -> None:
    program = "import sys, epcli; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "av", "numpy", "yaml"} & set(run.stdout.split())


def test_every_public_name_is_there_and_no_other() -> None:
    for name in epcli.__all__:
        assert getattr(epcli, name).__name__ == name
        assert name in dir(epcli)
    with pytest.raises(AttributeError, match="Sesion"):
        _ = epcli.Sesion  # type: ignore[attr-defined]


def test_every_record_in_a_report_is_public() -> None:
    from epcli import config, records

    found: set[type] = set()

    def walk(kind: object) -> None:
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in found:
            found.add(kind)
            for inner in get_type_hints(kind, {**vars(records), **vars(config)}).values():
                walk(inner)
        for inner in get_args(kind):
            walk(inner)

    walk(epcli.Report)
    assert {kind.__name__ for kind in found} <= set(epcli.__all__)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_omni.write(tmp_path_factory.mktemp("omni") / "tiny")


@pytest.fixture(scope="module")
def film() -> Path:
    return shared_film("look.mp4", X264, ("aac",), 2)


@pytest.fixture
def session(model: Path, tmp_path: Path) -> epcli.Session:
    return epcli.Session(model=model, device="cpu", max_new_tokens=6, threads=1, cache_dir=tmp_path)


def test_pieces_of_a_stream_make_the_answer_and_then_comes_the_report(session: epcli.Session, film: Path) -> None:
    looked = session.look(str(film))
    heard: list[str] = []
    whole = session.ask(looked, "What is seen?", heard.append)
    answer = session.stream(looked, "What is seen?")
    pieces = list(answer)
    assert pieces == heard
    assert "".join(pieces).strip() == answer.report.answer == whole.answer
    assert answer.report.tokens == whole.tokens
    assert session.stream(looked, "What is seen?").report.answer == whole.answer  # reads the rest by itself


def test_a_stream_that_was_closed_has_no_report_and_the_session_goes_on(session: epcli.Session, film: Path) -> None:
    looked = session.look(film)
    answer = session.stream(looked, "What is seen?")
    next(answer)
    answer.close()
    with pytest.raises(UsageError, match="not read to its end"):
        _ = answer.report
    assert session.ask(looked, "What is seen?").generated_tokens


def test_time_between_the_pieces_is_in_no_figure(session: epcli.Session, film: Path) -> None:
    import time

    answer = session.stream(session.look(film), "What is seen?")
    away = 0.0
    for _ in answer:
        time.sleep(0.5)
        away += 0.5
    assert away >= 1
    assert answer.report.timings_s.decode < away


@pytest.mark.parametrize(("start", "end"), [(0.5, 1.5), ("0.5", "0:01.5"), (0.5, "1.5")])
def test_a_range_may_be_seconds_or_a_time(session: epcli.Session, film: Path, start: object, end: object) -> None:
    assert session.look(film, start, end).clip.range_s == (0.5, 1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("soon", None, "start: 'soon' is not a time"),
        (None, -1.0, "end: -1.0 is not a time"),
        (float("nan"), None, "start: nan is not a time"),
        (1.0, 0.5, "end 0.5 is not after start 1.0"),
        (None, 0, "end 0 is not after the beginning"),
    ],
)
def test_what_is_no_range_is_refused(session: epcli.Session, film: Path, start, end, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=re.escape(message)):
        session.look(film, start, end)


@pytest.mark.slow
def test_a_session_may_be_closed_and_used_again(session: epcli.Session, film: Path) -> None:
    with session:
        looked = session.look(film)
        first = session.ask(looked, "What is seen?")
    again = session.ask(looked, "What is seen?")
    assert again.answer == first.answer
    assert again.timings_s.load > 0


@pytest.mark.slow
def test_one_call_is_a_session_of_one_question(model: Path, film: Path, tmp_path: Path) -> None:
    report = epcli.ask(
        film, "What is seen?", end=1, evidence=True, model=model, device="cpu", max_new_tokens=2, cache_dir=tmp_path
    )
    assert report.media.range_s == (0.0, 1.0)
    assert report.evidence is not None
    assert report.profile is None
    with pytest.raises(UsageError, match="the question is empty"):
        epcli.ask(film, " ")


@pytest.mark.parametrize(
    ("profile", "settings", "wanted"),
    [
        (None, {}, Profile()),
        (None, {"keep": 0.1, "cache": False}, Profile(keep=0.1, cache=False)),
        (Profile(keep=0.1), {"seed": 3}, Profile(keep=0.1, seed=3)),
        (Profile(keep=0.1), {"budget": 50}, Profile(budget=50)),  # two ways to say the same: the keyword holds
        (Profile(keep=0.1), {"keep": None}, Profile()),
    ],
)
def test_settings_are_keywords_over_a_profile(profile, settings, wanted, monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("EP_SEED", "7")  # not read
    (tmp_path / "ep.yaml").write_text("seed: 8")
    monkeypatch.chdir(tmp_path)
    assert epcli.Session(profile, **settings).profile == wanted


def test_a_profile_may_be_a_name_or_a_file(tmp_path: Path) -> None:
    from epcli.config import from_python

    file = tmp_path / "mine.yaml"
    file.write_text("keep: 0.3\nfps: 2\n")
    assert from_python(file, {}) == from_python(str(file), {}) == Profile(keep=0.3, fps=2.0)
    assert from_python("gpu-24gb", {}).model == "qwen2.5-omni-7b"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kep": 0.1}, "kep: there is no such setting, did you mean keep?"),
        ({"keep": 2}, "keep: 2 is not"),
        ({"keep": 0.1, "budget": 5}, "both say how much to keep"),
        ({"video": False, "audio": False}, "neither picture nor sound"),
        ({"profile": "gpu-25gb"}, "unknown profile 'gpu-25gb'"),
        ({"model": "gpt"}, "no model named 'gpt'"),
    ],
)
def test_a_wrong_setting_is_a_usage_error(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        epcli.Session(**settings)  # type: ignore[arg-type]


if __name__ == "__main__":
    os.chdir(ROOT)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        EXAMPLE.sub(lambda found: f"```python\n{found[1]}```\n\n```text\n{printed(found[1])}```", text),
        encoding="utf-8",
    )
