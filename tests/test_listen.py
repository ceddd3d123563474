"""What is said and heard: sounds joined to events, silence, and where Whisper listens."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from epcli.errors import MediaError
from epcli.observe import listen, look, sounds
from epcli.observe.listen import voiced
from epcli.observe.look import observe
from epcli.observe.loudness import joined, silences
from epcli.observe.pieces import Mark
from epcli.observe.sounds import PATCH_HOP_S, Events, broader, kinds
from epcli.records import SAMPLE_RATE, Clip, MediaInfo, SeenFeatures, Sight

MEDIA = Path(__file__).parents[1] / "docs" / "media"
INFO = MediaInfo(Path("x.mp4"), "mp4", 12.0, False, 4, 4, 1.0, "h264", ())
CLASSES = ("Animal", "Dog", "Bark", "Bus", "Music", "Piano", "Silence")


def heard(rows: dict[str, list[float]], pieces: int = 1, **more):
    """The events of patches with these probabilities, fed in so many pieces."""
    table = np.zeros((len(next(iter(rows.values()))), len(CLASSES)))
    for name, values in rows.items():
        table[:, CLASSES.index(name)] = values
    events, found, at = Events(CLASSES), [], 0.0
    for part in np.array_split(table, pieces):
        end = at + len(part) * PATCH_HOP_S
        found += events.add(part, at, end, **more)
        at = end
    return {(each.text, round(each.start_s, 2), round(each.end_s, 2)) for each in [*found, *events.finish()]}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"Bus": [0.0, 0.5, 0.3, 0.5, 0.0, 0.0]}, {("bus", 0.72, 2.16)}),  # goes on while it is likely enough
        ({"Bus": [0.0, 0.39, 0.39, 0.39, 0.0]}, set()),  # never likely enough
        ({"Bus": [0.0, 0.6, 0.0, 0.0, 0.0]}, set()),  # a single patch must be sure
        ({"Bus": [0.0, 0.9, 0.0, 0.0, 0.0]}, {("bus", 0.72, 1.2)}),
        ({"Bus": [0.9, 0.9, 0.0, 0.0, 0.9, 0.9]}, {("bus", 0.0, 2.88)}),  # a short gap
        ({"Bus": [0.9, 0.9, *[0.0] * 5, 0.9, 0.9]}, {("bus", 0.0, 1.2), ("bus", 3.6, 4.32)}),
        ({"Animal": [0.9] * 6, "Dog": [0.9] * 6, "Bark": [0.8] * 6}, {("dog barking", 0.0, 2.88)}),  # the narrowest
        ({"Animal": [0.9] * 6, "Dog": [0.1] * 6}, {("animal", 0.0, 2.88)}),  # unsure which
        ({"Animal": [0.9] * 9, "Dog": [*[0.9] * 2, *[0.0] * 7]}, {("animal", 0.0, 4.32), ("dog", 0.0, 1.2)}),
        ({"Music": [0.9] * 4, "Piano": [0.9] * 4}, {("music", 0.0, 1.92), ("piano", 0.0, 1.92)}),  # both count
        ({"Silence": [0.9] * 4}, set()),
    ],
)
def test_patches_become_events_by_the_narrowest_name(rows, expected):
    assert heard(rows) == expected


def test_a_sound_goes_on_from_piece_to_piece():
    assert heard({"Bus": [0.0, *[0.9] * 9, 0.0, 0.0]}, pieces=3) == {("bus", 0.72, 5.04)}


def test_nothing_is_heard_in_silence():
    assert heard({"Bus": [0.9] * 6}, silent=[(0.0, 1.0), (2.0, 9.0)]) == {("bus", 1.0, 2.0)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dog barking", ("dog", "pet", "animal")), ("bus", ("road vehicle", "vehicle")), ("nonsense", ())],
)
def test_a_sound_knows_what_it_is_a_kind_of(name, expected):
    assert broader(name) == expected


@pytest.mark.slow
def test_every_class_of_yamnet_is_in_the_list():
    from epcli.observe.yamnet import load_class_names

    assert set(kinds()) == set(load_class_names())
    assert set(sounds._VOICES) <= set(kinds())


def test_silence_is_told_to_a_tenth_of_a_second():
    sound = np.random.default_rng(0).uniform(-0.1, 0.1, 3 * SAMPLE_RATE).astype(np.float32)
    sound[: SAMPLE_RATE // 2] = 0
    sound[2 * SAMPLE_RATE :] *= 1e-3
    assert silences(sound) == [(0.0, 0.5), (2.0, 3.0)]
    assert silences(sound[:0]) == []


def test_spans_are_joined_over_gaps():
    assert joined([(3, 4), (0, 1), (1.5, 2)], 0.5) == [(0, 2), (3, 4)]


@pytest.mark.parametrize(
    ("voice", "seconds"),
    [
        ([0.0] * 20, []),  # nobody speaks
        ([0.0] * 10 + [0.9] + [0.0] * 10, [(3.8, 6.76)]),  # a margin around a voice
        ([0.9] + [0.0] * 6 + [0.9] + [0.0] * 30, [(0.0, 5.32)]),  # a short pause
        ([0.9] + [0.0] * 20 + [0.9], [(0.0, 1.96), (9.08, 10.56)]),  # a long one; the file ends
    ],
)
def test_whisper_listens_where_somebody_speaks(voice, seconds):
    spans = voiced(np.array(voice), round(len(voice) * PATCH_HOP_S * SAMPLE_RATE))
    assert [(round(a / SAMPLE_RATE, 2), round(b / SAMPLE_RATE, 2)) for a, b in spans] == seconds


@pytest.mark.slow
def test_all_of_a_clip_is_observed_with_its_times():
    said = [each for each in observe(MEDIA / "speech.mp4") if each.kind == "word"]
    assert "check the number" in " ".join(each.text for each in said).lower()
    assert all(0 < each.start_s < each.end_s < 3.2 for each in said)

    found = list(observe(MEDIA / "farm.mp4"))
    assert {(each.kind, each.text) for each in found} >= {("sound", "dog barking"), ("sound", "cow mooing")}
    assert not [each for each in found if each.kind == "word"]
    dog, cow = (next(each for each in found if each.text == name) for name in ("dog barking", "cow mooing"))
    assert dog.start_s < 1 < dog.end_s < cow.start_s < 5 < cow.end_s


@pytest.mark.slow
def test_a_long_file_in_pieces_is_heard_as_at_once(monkeypatch):
    progress: list[tuple[float, float]] = []
    whole = [each for each in observe(MEDIA / "moment.mp4") if each.kind == "sound"]
    monkeypatch.setattr(look, "PIECE_S", 8.0)
    monkeypatch.setattr(listen, "CUT_S", 3.0)
    parts = list(observe(MEDIA / "moment.mp4", on_progress=lambda done, of: progress.append((done, of))))
    assert [each.text for each in parts if each.kind == "sound"] == [each.text for each in whole]
    assert [(each.start_s, each.end_s) for each in parts if each.kind == "silent"] == [(0.0, 31.0), (33.2, 40.0)]
    assert [round(done) for done, _ in progress] == [0, 8, 16, 24, 32, 40]


@pytest.mark.slow
@pytest.mark.parametrize("picture", [True, False])
def test_a_file_that_was_left_goes_on_as_if_nothing_had_happened(monkeypatch, picture):
    monkeypatch.setattr(look, "PIECE_S", 8.0)
    monkeypatch.setattr(listen, "SOUND_PIECE_S", 8.0)
    monkeypatch.setattr(listen, "CUT_S", 3.0)
    parts = {"ears": listen.Ears.load(), "eye": look.Eye() if picture else None, "picture": picture}
    whole, marks = [], []

    def left(mark):
        marks.append((len(whole), json.dumps([asdict(mark), [each.to_row() for each in whole]])))

    for each in observe(MEDIA / "moment.mp4", on_mark=left, **parts):
        whole.append(each)  # noqa: PERF402 - `left` counts them
    assert len(marks) == 4
    for count, text in marks[1], marks[-1]:
        mark, rows = json.loads(text)
        before = [type(whole[0]).of_row(row) for row in rows]
        assert before == whole[:count]
        after = list(observe(MEDIA / "moment.mp4", mark=Mark(**mark), **parts))
        assert before + after == whole
    assert whole[marks[1][0] :]  # something was left


def test_sounds_go_on_from_a_state():
    events, same = Events(CLASSES), Events(CLASSES)
    row = np.zeros((4, len(CLASSES)))
    row[:, [CLASSES.index("Dog"), CLASSES.index("Bark")]] = 0.9
    assert events.add(row, 0.0, 2.0) == []
    same.restore(json.loads(json.dumps(events.state())))
    assert same.add(row, 2.0, 4.0) + same.finish() == events.add(row, 2.0, 4.0) + events.finish() != []


def test_what_is_seen_goes_on_from_piece_to_piece():
    def seen(clip):
        """One sight of the same thing in the frames of this clip, as the eye reports them."""
        frames = tuple((Sight("object", "dog", 0.9, (0.1, 0.1, 0.2, 0.2)),) if k else () for k in clip.frames)
        return SeenFeatures(frames, torch.from_numpy(clip.frame_times_s), 1.0)

    found, state = [], []
    for n, pattern in enumerate(([0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0])):
        watcher = look.Watcher(type("Seeing", (), {"see": staticmethod(seen)})())
        watcher.restore(json.loads(json.dumps(state)))
        clip = Clip(INFO, (4.0 * n, 4.0 * n + 4), np.array(pattern), np.arange(4) + 0.5, None)
        found += watcher.see(clip, last=n == 2)
        state = watcher.state()
    assert [(each.text, each.start_s, each.end_s) for each in found] == [("dog", 2.0, 9.0)]


@pytest.mark.slow
def test_picture_and_sound_are_observed_together():
    found = list(observe(MEDIA / "photos.mp4"))
    assert {each.kind for each in found} >= {"object"}
    assert all(0 <= each.start_s <= each.end_s <= 60 for each in found)
    silent = list(observe(MEDIA / "silent.mp4"))
    assert not [each for each in silent if each.kind in ("word", "sound", "silent")]


def test_a_file_without_sound_is_refused():
    with pytest.raises(MediaError, match=r"silent\.mp4: has no sound"):
        list(observe(MEDIA / "silent.mp4", picture=False))
