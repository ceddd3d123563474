"""Silent sound is told as such, and no answer invents a voice."""

from __future__ import annotations

from pathlib import Path

import media_samples as samples
import pytest

from epcli.config import Profile
from epcli.session.session import Session
from epcli.session.silence import SILENT, _corrected


@pytest.mark.parametrize(
    ("said", "has_pictures", "told"),
    [
        ("The clip is silent.", True, "The clip is silent."),
        ("The clip is silent.", False, "The clip is silent."),
        ("No, there is no music.", False, "No, there is no music."),
        ("B", False, "B"),
        ("(c)", False, "(c)"),
        ("You see a street on the left.", True, "You see a street on the left."),
        ("The sign says EXIT.", True, "The sign says EXIT."),
        ("You hear a trombone.", True, SILENT),
        ('The voice says: "the lady has brought a red ball"', True, SILENT),
        ('The voice says: "it is not dark. Nothing is"', True, SILENT),
        ("Yes, someone speaks.", True, SILENT),
        ("No, you hear a piano.", True, SILENT),
        ("Nothing is said; you hear a bassoon.", True, f"Nothing is said. {SILENT}"),
        ("Nothing is said, but you hear a bassoon.", True, f"Nothing is said. {SILENT}"),
        ("A man walks his dog. You hear a piano.", True, f"A man walks his dog. {SILENT}"),
        ("First a bass drum plays, then a piano.", False, SILENT),
        ("A trombone", False, SILENT),
        ("Two beeps.", True, SILENT),
        ("The whistling starts at two seconds.", True, SILENT),
        ("Two rings and a siren on a car.", True, "Two rings and a siren on a car."),
        ("", False, ""),
    ],
)
def test_an_answer_about_silent_sound_claims_to_hear_nothing(said: str, has_pictures: bool, told: str) -> None:
    assert _corrected(said, has_pictures) == told


QUESTIONS = ("What is said?", "What do you hear?", "Who speaks?", "Which instruments do you hear?", "Is there a voice?")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["wav", "mp4"])
def test_no_voice_is_invented_for_silent_sound(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"quiet.{suffix}"
    picture = ("-f", "lavfi", "-i", "testsrc=size=160x120:rate=5:duration=3", "-c:v", samples.X264[0])
    samples.run("-f", "lavfi", "-i", "anullsrc=r=16000:d=3", *(picture if suffix == "mp4" else ()), path)
    session = Session(Profile(cache=False))
    looked = session.look(path)
    for question in QUESTIONS:
        pieces: list[str] = []
        report = session.ask(looked, question, pieces.append)
        assert f"quiet.{suffix}: the sound is silent" in report.warnings
        assert "".join(pieces) == report.answer
        assert any(word in report.answer.lower() for word in ("silent", "no ", "nothing")), report.answer
        assert not any(word in report.answer.lower() for word in ("hear a", "says", "speaks", "plays")), report.answer
