"""Silent sound is told as such, and no answer invents a voice."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import media_samples as samples
import pytest
import torch

from epcli.config import Profile
from epcli.records import Answer, AudioTrack, ClipSummary, MediaInfo
from epcli.session import generate
from epcli.session.generate import Generated
from epcli.session.session import Session
from epcli.session.silence import NO_SOUND, NOT_HEARD, SILENT, _corrected, checked


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


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("You see a street.", ["You see a street."]),
        ("You hear a trombone.", [NO_SOUND]),
        ("A man walks his dog. You hear a piano.", ["A man walks his dog.", f" {NO_SOUND}"]),
        ("You hear a piano. The car is red.", ["The car is red.", f" {NO_SOUND}"]),
        ('The voice says: "it is not dark. Nothing is"', [NO_SOUND]),
        ("Yes, someone speaks.", [NO_SOUND]),
        ("Yes, there is music.", [NO_SOUND]),
        ("No, you hear nothing.", ["No, you hear nothing."]),
        # what can be seen as well stays
        ("A man is talking on the phone. He wears a hat.", ["A man is talking on the phone.", " He wears a hat."]),
        ("The sign says EXIT.", ["The sign says EXIT."]),
        ("A band plays music on a stage 3.5 m high.", ["A band plays music on a stage 3.5 m high."]),
        ("B", ["B"]),
        ("", []),
    ],
)
def test_an_answer_about_a_clip_without_sound_claims_nothing_that_only_an_ear_could_know(said, told):
    assert answered(said, silent_film()) == told


@pytest.mark.parametrize(
    ("tracks", "instead"), [((), NO_SOUND), ((AudioTrack(0, "aac", 2, 48_000, None, None),), NOT_HEARD)]
)
def test_sound_that_is_not_there_is_not_called_sound_that_was_switched_off(tracks, instead):
    assert answered("You hear a dog.", silent_film(tracks)) == [instead]


def silent_film(tracks: tuple[AudioTrack, ...] = ()) -> ClipSummary:
    info = MediaInfo(Path("clip.mp4"), "mov", 2.0, False, 64, 48, 25.0, "h264", tracks)
    return ClipSummary(info, (0.0, 2.0), (0.5, 1.5), heard=False)


def answered(said: str, clip: ClipSummary) -> list[str]:
    """The pieces of an answer that a model gives three letters at a time."""

    def saying() -> Generator[str, None, Generated]:
        yield from (said[at : at + 3] for at in range(0, len(said), 3))
        return Generated(Answer(said, (), "stop", 0.0, 0.0, 0), 0.0, torch.zeros(0))

    pieces: list[str] = []
    made = generate.finish(checked(saying(), clip), pieces.append)
    assert made.answer.text == "".join(pieces)
    return pieces


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
        assert any(word in report.answer.lower() for word in ("silent", "no ", "nothing", "cannot tell")), report.answer
        assert not any(word in report.answer.lower() for word in ("hear a", "says", "speaks", "plays")), report.answer


@pytest.mark.slow
def test_no_sound_is_invented_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    samples.run("-f", "lavfi", "-i", "testsrc=size=160x120:rate=5:duration=3", "-c:v", samples.X264[0], path)
    session = Session(Profile(cache=False))
    looked = session.look(path)
    for question in ("What do you hear?", "Who speaks?", "Which instrument plays?"):
        answer = session.ask(looked, question).answer
        assert any(word in answer.lower() for word in ("silent", "no ", "nothing", "cannot tell")), answer
        assert not any(word in answer.lower() for word in ("hear a", "says", "speaks")), answer
