"""`ep summary`: chapters where words, sound and picture change, and their forms."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from epcli.config import Profile
from epcli.errors import MediaError
from epcli.media import ffmpeg
from epcli.observe.chapters import Chapter, chapters, segments
from epcli.records import MediaInfo, Observation
from epcli.report.summary import to_ffmetadata, to_json, to_text, to_youtube
from epcli.session.summary import Part, Summary, listed, summarise

MEDIA = Path(__file__).parents[1] / "docs" / "media"
BREAD = "Bread begins with flour. The dough needs a warm oven. Knead the dough and salt the bread. " * 5
STARS = "Saturn has rings. A telescope shows the moons of Saturn. Every comet has an orbit. " * 5
INFO = MediaInfo(Path("x.mp4"), "mp4", 120.0, False, 4, 4, 1.0, "h264", ())
PLAIN = Chapter(0.0, 60.4, ("bread", "dough"), "Knead the dough.", ("music",), ("person",), ("BAKERY",))


def words(text: str, start_s: float) -> list[Observation]:
    said = []
    for word in text.split():
        said.append(Observation("word", word, start_s, start_s + 0.3, 0.9, "whisper"))
        start_s += 0.35 + 0.5 * word.endswith(".")
    return said


def meanings(texts) -> np.ndarray:
    """Which of the two subjects each text is about, by its words."""
    about = [any(word in text for word in ("Saturn", "comet", "telescope")) for text in texts]
    return np.eye(2, dtype=np.float32)[np.array(about, int)]


def summary(*parts: Chapter) -> Summary:
    return Summary(INFO, (0.0, 120.0), None, tuple(Part(each, listed(each)) for each in parts), ())


def test_chapters_are_cut_where_the_words_change():
    first = words(BREAD, 0.0)
    second = words(STARS, first[-1].end_s + 1.0)
    end = second[-1].end_s
    one, two = chapters([*second, *first], (0.0, end), meanings)
    assert (one.start_s, two.end_s) == (0.0, end)
    assert one.end_s == two.start_s == pytest.approx(first[-1].end_s + 0.5)
    assert set(one.key_words) >= {"bread", "dough"}
    assert "Saturn" in two.key_words  # a name keeps its capital
    assert one.said in BREAD
    assert two.said in STARS


def test_one_word_that_is_said_twice_is_not_the_whole_title():
    said = words("Please keep the harbour lights on. The harbour master waits. Please call the captain tonight.", 0.0)
    (one,) = chapters(said, (0.0, said[-1].end_s), meanings)
    assert one.key_words[0] == "harbour"
    assert len(one.key_words) == 5
    assert "please" not in one.key_words


def test_chapters_are_cut_where_picture_and_sound_change():
    seen = [
        Observation("object", "dog", 0, 100, 0.9, "nanodet"),
        Observation("cut", "", 100.5, 100.5, 1.0, "level"),
        Observation("object", "boat", 101, 200, 0.9, "nanodet"),
        Observation("sound", "dog barking", 0, 99, 0.9, "yamnet"),
        Observation("sound", "waves", 101, 200, 0.9, "yamnet"),
        Observation("text", "THE END", 190, 200, 0.9, "rapidocr"),
    ]
    one, two = chapters(seen, (0.0, 200.0), None)
    assert one.end_s == 100.5
    assert (one.seen, one.heard, one.read) == (("dog",), ("dog barking",), ())
    assert (two.seen, two.heard, two.read) == (("boat",), ("waves",), ("THE END",))
    assert (one.title, one.said) == ("dog, dog barking", None)


def test_one_thing_throughout_is_one_chapter():
    said = words(BREAD * 3, 0.0)
    assert len(chapters(said, (0.0, said[-1].end_s), meanings)) == 1
    (empty,) = chapters([], (0.0, 300.0), None)
    assert (empty.start_s, empty.end_s, empty.title) == (0.0, 300.0, "nothing recognised")
    assert listed(empty) == "Nothing was recognised."


@pytest.mark.parametrize(
    ("pattern", "shortest", "cuts"),
    [
        ([0] * 20 + [1] * 20, 5, [20]),
        ([0] * 20 + [1] * 3 + [0] * 20, 5, []),  # too short
        ([0] * 20 + [1] * 20 + [0] * 20, 5, [20, 40]),
        ([0] * 3, 5, []),  # less than one segment
        ([0], 1, []),
    ],
)
def test_segments_have_little_variance_inside(pattern, shortest, cuts):
    assert segments(np.eye(2)[pattern], 2.5, shortest) == cuts


def test_a_sentence_lists_what_was_observed():
    assert listed(PLAIN) == "“Knead the dough.” Heard: music. Seen: person. On screen: “BAKERY”."


def test_youtube_begins_at_zero():
    later = replace(PLAIN, start_s=3661.9, end_s=4000.0, key_words=(), seen=("boat",) * 2)
    assert to_youtube(summary(replace(PLAIN, start_s=30.0), later)) == "0:00 bread, dough\n1:01:01 boat, boat, music\n"


def test_ffmpeg_reads_the_chapters(tmp_path):
    odd = replace(PLAIN, start_s=60.4, end_s=120.0, key_words=("a=b; #c\\d\n[CHAPTER]",))
    (tmp_path / "chapters.txt").write_text(to_ffmetadata(summary(PLAIN, odd)), encoding="utf-8")
    command = [ffmpeg.find().path, "-v", "error", "-i", str(tmp_path / "chapters.txt"), "-f", "ffmetadata", "-"]
    back = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert back.count("\n[CHAPTER]\n") == 2
    assert "START=60400" in back
    assert "title=bread, dough" in back
    assert r"title=a\=b\; \#c\\d [CHAPTER]" in back


def test_text_and_json_tell_the_same_and_cannot_steer_a_terminal():
    odd = replace(PLAIN, said="a\x1b[2Jb")
    text = to_text(summary(PLAIN, odd), 60)
    assert text.startswith("0:00–1:00  bread, dough\n  “Knead the dough.” Heard: music.")
    assert "\x1b" not in text
    told = to_json(summary(PLAIN, odd))
    assert "\x1b" not in told
    found = json.loads(told)
    assert found["chapters"][0]["sentence"] == listed(PLAIN)
    assert found["chapters"][0]["key_words"] == ["bread", "dough"]
    assert found["model"] is None


def test_a_still_picture_has_no_chapters(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    with pytest.raises(MediaError, match=r"x\.png: is a still picture"):
        summarise(tmp_path / "x.png", Profile())


@pytest.mark.slow
def test_a_clip_is_summed_up_by_what_is_in_it():
    command = [sys.executable, "-m", "epcli", "summary", str(MEDIA / "farm.mp4"), "--json", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    (only,) = json.loads(done.stdout)["chapters"]
    assert set(only["heard"]) >= {"dog barking", "cow mooing"}
    assert only["sentence"].startswith("Heard:")
