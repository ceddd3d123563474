"""ep-real: its scenes, its questions, and which free answers they take."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("PIL")

from PIL import Image

from epcli.errors import EpError, UsageError
from epcli.lab import photographs, real, real_questions
from epcli.lab.photographs import Photo, matches
from epcli.lab.real import RealScene, Sighting, Sounding, Title
from epcli.lab.scenes import Library
from epcli.lab.sources.catalog import table
from epcli.media.probe import probe
from epcli.records import SAMPLE_RATE

PHOTOS = Path(__file__).parent / "data" / "photos"
KITTEN = Photo(PHOTOS / "kitten.jpg", "animal", "a kitten", "kitten|cat", "grass|plank", "dog", 0, None, "", 0)
BAND = Photo(
    PHOTOS / "musicians.jpg", "person", "four musicians", "musicians?|men|man", "stage|guitar", "", 4, None, "", 0
)
PARKING = Photo(PHOTOS / "parking.jpg", "building", "a car park", "garage|parking", "street", "", 0, None, "EXIT", 0)


def scene(
    *sightings: Sighting, sounds: tuple[Sounding, ...] | None = None, titles: tuple[Title, ...] = ()
) -> RealScene:
    return RealScene(real.Footage(sightings[-1].end_s, (64, 48), ()), sightings, sounds, titles)


def questions(of: RealScene, kind: str) -> list[real.SceneQuestion]:
    found = [q for seed in range(12) for q in real_questions.ask(of, random.Random(seed)) if q.type == kind]
    assert found, f"asks no {kind}"
    return found


@pytest.mark.parametrize(
    ("kind", "answer", "right"),
    [
        ("see", "A cat.", True),
        ("describe", "An animal on grass.", True),
        ("see", "A cat and a piano.", False),
        ("see", "A cat, no piano.", True),
        ("see", "I can't tell.", False),
        ("describe", "A kitten, and a dog barks.", True),
        ("describe", "A lion roars.", False),
        ("hear", "A dog barks.", True),
        ("hear", "A piano.", False),
        ("when", "At 3 s.", True),
        ("when", "It begins at 0:04.", True),
        ("when", "At four seconds.", True),
        ("when", "After 14 s.", False),
        ("when", "From 1 to 4 s.", False),
        ("none", "Nothing is said.", True),
        ("none", "A voice says hello.", False),
    ],
)
def test_a_kitten_and_a_bark(kind, answer, right):
    bark = Sounding("dog", "dog|bark", Path("dog.flac"), 3.6, 6.0, "", "a dog")
    assert all(q.judge(answer) is right for q in questions(scene(Sighting(KITTEN, 0, 8), sounds=(bark,)), kind))


@pytest.mark.parametrize(
    ("answer", "four", "five"),
    [
        ("4", True, True),
        ("Four people.", True, True),
        ("A group.", True, True),
        ("Three.", False, False),
        ("Six.", False, True),
        ("14", False, False),
        ("Nobody.", False, False),
    ],
)
def test_people_are_counted_with_some_slack_where_they_are_many(answer, four, five):
    for people, right in ((4, four), (5, five)):
        asked = questions(scene(Sighting(replace(BAND, people=people), 0, 6)), "count")
        assert all(q.judge(answer) is right for q in asked)


@pytest.mark.parametrize(
    ("kind", "answer", "right"),
    [
        ("first", "A kitten.", True),
        ("first", "Musicians, then a cat.", False),
        ("last", "Men on a stage.", True),
        ("last", "A kitten.", False),
        ("while", "A man.", True),
        ("while", "A cat.", False),
        ("read", "It says LIVE tonight.", True),
        ("read", "I can't tell.", False),
        ("said", "Farmers wait for rain.", True),
        ("said", "The lady has twelve red balls.", False),
    ],
)
def test_a_kitten_then_a_band_and_a_voice(kind, answer, right):
    voice = Sounding("a voice", "farmers|rain|harvest", Path("v.wav"), 5.0, 7.0, "The farmers hope for rain.")
    of = scene(
        Sighting(KITTEN, 0, 4),
        Sighting(BAND, 4, 10),
        sounds=(voice,),
        titles=(Title("LIVE TONIGHT", "live", 4.5, 9.0),),
    )
    assert all(q.judge(answer) is right for q in questions(of, kind))


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Nothing, it is black.", True),
        ("I can't tell what is seen.", True),
        ("A rose and a rat.", False),
        ("A dog.", False),
    ],
)
def test_black_film_is_nothing(answer, right):
    asked = [q for q in questions(scene(Sighting(None, 0, 6), sounds=()), "none") if "see" in q.question.lower()]
    assert asked
    assert all(q.judge(answer) is right for q in asked)


def test_is_there_is_asked_of_what_is_there_and_of_what_is_not():
    asked = questions(scene(Sighting(KITTEN, 0, 6)), "is")
    yes = [q for q in asked if q.judge("Yes.")]
    no = [q for q in asked if q.judge("No, there is not.")]
    assert {q.question.rstrip("?").lower().split("is there ")[-1].split(" in")[0] for q in yes if "there" in q.question}
    assert len(yes) + len(no) == len(asked)
    assert all(re.search("kitten|cat", q.question, re.IGNORECASE) for q in yes)
    assert not any(re.search("kitten|cat|dog", q.question, re.IGNORECASE) for q in no), "a dog it may be taken for"


def test_a_sign_in_a_photograph_is_read():
    assert all(q.judge("EXIT and ENTER") for q in questions(scene(Sighting(PARKING, 0, 6)), "read"))


def test_every_true_answer_is_taken():
    voice = Sounding("a voice", "farmers|rain", Path("v.wav"), 5.0, 7.0, "The farmers hope for rain.")
    harp = Sounding("harp", "harp", Path("h.flac"), 0.5, 3.0, "", "a harp", True)
    of = scene(Sighting(KITTEN, 0, 4), Sighting(None, 4, 7), Sighting(BAND, 7, 12), sounds=(harp, voice))
    for seed in range(20):
        for question in real_questions.ask(of, random.Random(seed)):
            assert question.judge(question.answer), question


def test_times_are_close_and_numbers_whole():
    assert re.search(real_questions.at_second(22.4), "at 23 s")
    assert not re.search(real_questions.at_second(22.4), "at 2 s")
    assert not re.search(real_questions.at_second(2), "at 22 s")


# --- The table ------------------------------------------------------------------------------------


def rows() -> list[dict[str, str]]:
    lines = [line.split("\t") for line in photographs.TABLE.read_text(encoding="utf-8").splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def test_the_labels_are_whole_and_their_patterns_sound():
    labels = rows()
    assert len({(r["package"], r["file"]) for r in labels}) == len(labels) >= 120
    for row in labels:
        assert row["group"] in photographs.COARSE
        assert row["people"] == "-" or row["people"].isdigit()
        for names in (row["accept"], row["also"], row["near"]):
            re.compile(photographs.named(names))
        assert re.search(photographs.named(row["accept"]), row["answer"], re.IGNORECASE), row["answer"]
        if row["group"] == "person":
            assert row["people"] != "0"


def test_a_row_needs_one_file(tmp_path):
    with pytest.raises(EpError, match=r"has 0 files"):
        photographs.photographs({row["package"]: tmp_path for row in rows()})


@pytest.mark.parametrize(
    ("names", "word", "same"), [("bats?", "bats", True), ("cat|kitten", "cats", True), ("cat", "cattle", False)]
)
def test_names_take_plurals_and_no_longer_words(names, word, same):
    assert matches(names, word) is same


# --- The set --------------------------------------------------------------------------------------


@pytest.fixture
def supply(tmp_path) -> real.Supply:
    """Coloured photographs of many names, and tones."""
    things = []
    for i, name in enumerate(("dog", "cow", "owl", "harp", "piano", "siren", "banjo", "pig")):
        for split in ("train", "heldout"):
            wave = 0.3 * np.sin((200 + 50 * i + 9 * len(split)) * 2 * np.pi * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
            soundfile.write(tmp_path / f"{split}-{name}.flac", wave, SAMPLE_RATE)
        sounds = {split: [f"{split}-{name}.flac"] for split in ("train", "heldout")}
        things.append({"name": name, "group": "animal", "pictures": {"train": [], "heldout": []}, "sounds": sounds})
    (tmp_path / "catalog.json").write_text(json.dumps({"things": things}))
    lib = Library(tmp_path, "heldout")
    photos = []
    for i, name in enumerate(("fox", "bus", "rose", "cake", "bridge", "clock", "zebra", "chair", "lamp", "boat")):
        Image.new("RGB", (64, 48), (20 * i, 90, 60)).save(tmp_path / f"{name}.png")
        photos.append(Photo(tmp_path / f"{name}.png", "thing", f"a {name}", name, "", "", 0, None, "", 0))
    accept = table("footage")["sounds"]
    speech = [("the farmers hope for rain", "farmers|rain", tmp_path / "heldout-pig.flac")]
    return real.Supply(
        lib,
        real.Deck(photos, 1),
        real.Deck([(thing, accept[thing.name]) for thing in lib.heard], 1),
        real.Deck(speech, 1),
        real.Deck([("BAKERY", "bakery"), ("Platform 4", "platform")], 1),
        (Path("DejaVuSans.ttf"),),
    )


def test_scenes_are_short_and_long_and_some_are_black_or_silent(supply):
    made = list(real.scenes(supply, 48, 1))
    lengths = [s.footage.duration_s for s in made]
    assert sum(t > 10 for t in lengths) >= 12
    assert max(lengths) > 30
    assert min(lengths) >= real.SHORT[0]
    assert sum(not s.photos for s in made) == 6
    assert {s.sounds is None for s in made} == {True, False}
    for one in made:
        assert [s.start_s for s in one.sightings[1:]] == [s.end_s for s in one.sightings[:-1]]
        assert all(s.end_s - s.start_s > 2.4 for s in one.sightings)
        assert all(0 <= s.start_s < s.end_s <= one.footage.duration_s for s in one.sounds or ())
        assert len({p.path for p in one.photos}) == sum(s.photo is not None for s in one.sightings)


def test_types_are_balanced_yes_and_no_too(supply):
    rng, so_far = random.Random(1), Counter()
    for one in real.scenes(supply, 60, 1):
        chosen = real.choose(real_questions.ask(one, rng), 4, so_far, rng)
        assert len({q.type for q in chosen}) == len(chosen) <= 4
    assert {"see", "hear", "said", "read", "none", "first", "last", "when", "while", "describe"} <= so_far.keys()
    assert abs(so_far["is:Yes"] - so_far["is:No"]) <= 3


def test_the_scene_of_a_number_does_not_hang_on_the_count(supply):
    decks = ("photos", "sounds", "speech", "titles")
    again = replace(supply, **{name: real.Deck(getattr(supply, name).items, 1) for name in decks})
    few, many = list(real.scenes(supply, 3, 1)), list(real.scenes(again, 9, 1))
    assert few == many[:3]


@pytest.mark.slow
def test_a_set_is_written_with_its_media(supply, tmp_path, monkeypatch):
    monkeypatch.setattr(real, "gather", lambda *_: supply)
    monkeypatch.setattr(real, "_written", lambda *_, **__: ((), ()))
    out = tmp_path / "set"
    made = real.make(supply.lib.folder, tmp_path, out, 3, 1)
    lines = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    assert made["questions"] == len(lines)
    assert made["name"] == "scenes", "only the whole set has the name"
    for name in {line["media"] for line in lines}:
        assert probe(out / name).duration_s > 4


def test_a_training_recording_is_refused(supply, tmp_path, monkeypatch):
    for name in ("dog", "cow", "owl", "harp", "piano", "siren", "banjo", "pig"):
        (tmp_path / f"heldout-{name}.flac").write_bytes((tmp_path / f"train-{name}.flac").read_bytes())
    monkeypatch.setattr(real, "gather", lambda *_: supply)
    with pytest.raises(UsageError, match="is held out, but"):
        real.make(tmp_path, tmp_path, tmp_path / "set", 6, 1)
