"""Simulated scenes: what is reported of them, and what is asked about them."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from types import SimpleNamespace

import pytest
import torch
from word_tokenizer import word_tokenizer

from epcli.lab import asking
from epcli.lab.asking import ask, number_of, place_of, rough
from epcli.lab.moments import evidence_tokens
from epcli.lab.questions import SceneEvidence, SceneQuestion
from epcli.lab.retold import Retold
from epcli.lab.scenes import Heard, Library
from epcli.lab.stories import PEOPLE, Shot, Shown, Story, StoryMaker, make_story
from epcli.lab.tracks import Track, TrackMaker, called_as_heard, joined, load_tracks, make_tracks, silence
from epcli.lab.trainer import choose, drop_tokens
from epcli.models import layout
from epcli.models.smol.adapter import Adapter, HeardNames, sight_pieces
from epcli.models.smol.ear import Ear
from epcli.models.smol.family import AUDIO_STEP_S
from epcli.models.smol.model import lay_out
from epcli.observe import names
from epcli.observe.nanodet import CLASSES
from epcli.records import Modality, Sight

SOUNDS = ("dog", "cat", "cow", "piano", "flute", "thunder")
COMMON = ("the", "day", "road", "open", "market", "river", "green", "seven", "letter", "garden", "water", "house")
TOKENIZER = word_tokenizer(
    dict.fromkeys([*(w for name in names.all_names() for w in name.split()), *COMMON, "cut", "black", "unsure"])
)
BOX = (0.1, 0.2, 0.3, 0.6)
PICTURE_TYPES = {
    *("see", "who", "count", "is", "none", "read", "shots", "first", "last", "see at", "when", "after", "before"),
    *("where", "while", "describe"),
}


@pytest.fixture(scope="module")
def lib(tmp_path_factory) -> Library:
    folder = tmp_path_factory.mktemp("library")
    groups = {"piano": "instrument", "flute": "instrument", "thunder": "nature"}
    things = [
        {
            "name": name,
            "article": "" if name == "thunder" else "a",
            "group": groups.get(name, "animal"),
            "sounds": {"train": [f"{name}.flac"], "heldout": []},
        }
        for name in SOUNDS
    ]
    (folder / "catalog.json").write_text(json.dumps({"things": things}))
    return Library(folder, "train")


@pytest.fixture(scope="module")
def retold() -> Retold:
    return Retold(SimpleNamespace(get_vocab=lambda: {f"Ġ{word}": i for i, word in enumerate(COMMON)}))


def heard(*tokens: int) -> HeardNames:
    """Sound tokens in which the thing of that number of SOUNDS is heard; -1: silence."""
    logits = torch.full((len(tokens), len(SOUNDS)), -6.0)
    for at, number in enumerate(tokens):
        if number >= 0:
            logits[at, number] = 4.0
    quiet = torch.tensor([number < 0 for number in tokens])
    return HeardNames(logits, torch.full((len(tokens), 521), -20.0), quiet, torch.full((len(tokens),), -1))


@pytest.fixture(scope="module")
def tracks(lib: Library) -> list[Track]:
    """One thing each, two things one after another, and silence."""
    length = round(3 / AUDIO_STEP_S)
    alone = [Track(3.0, (Heard(0, 3, (t,), t.sounds),), heard(*[i] * length)) for i, t in enumerate(lib.things)]
    a, b = lib.things[:2]
    both = Track(6.0, (Heard(0, 3, (a,), a.sounds), Heard(3, 6, (b,), b.sounds)), heard(*[0] * length, *[1] * length))
    return [*alone, both, Track(3.0, (Heard(0, 3),), heard(*[-1] * length))]


def stories(retold: Retold, tracks: list[Track], count: int, noise: float, seed: int = 0) -> list[Story]:
    """A sixth without sound, an eighth without picture, of up to five shots."""
    maker, made = StoryMaker(retold), []
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        track = None if number % 6 == 5 else rng.choice(tracks)
        seconds = rng.uniform(3.0, 14.0) if track is None else track.duration_s
        frames = 0 if track and number % 8 == 7 else 16
        made.append(make_story(rng, maker, track, seconds, noise, most_shots=5, most_frames=frames))
    return made


# --- what is reported -------------------------------------------------------------------------------------------------


SHOTS = (
    Shot(0.0, 2.0, (Shown("dog", (BOX, BOX)), Shown(PEOPLE, (BOX,) * 14)), "golden retriever", 0.8),
    Shot(2.0, 4.0, black=True),
    Shot(4.0, 6.0, texts=("OPEN", "Road 7")),
    Shot(6.0, 8.0, scene="beach", sure=0.6),
)


def test_without_noise_reports_are_exact(retold):
    seen, told = StoryMaker(retold).report(random.Random(0), SHOTS, 8.0, 0.0, 16)
    assert [len(seen.frames), seen.step_s, seen.times_s.tolist()] == [8, 1.0, [i + 0.5 for i in range(8)]]
    kinds = [[sight.kind for sight in frame] for frame in seen.frames]
    with_things = ["object"] * 10 + ["scene"]  # of 14 people eight are placed
    assert kinds == [
        with_things, with_things, ["cut", "black"], ["black"], ["cut", "unsure", "text", "text"], ["unsure"],
        ["cut", "scene"], ["scene"],
    ]  # fmt: skip
    for sight in seen.frames[0]:
        if sight.kind == "object":
            assert (sight.count, sight.box) == ({"dog": 2, PEOPLE: 14}[sight.text], BOX)
    assert seen.frames[6][1] == Sight("scene", "beach", 0.6)
    assert [s.text for s in seen.frames[4] if s.kind == "text"] == ["OPEN", "Road 7"]
    assert [t.counts for t in told] == [{"dog": 2, PEOPLE: 14}, {}, {}, {}]
    assert [(t.scene, t.texts, t.black, t.unsure) for t in told] == [
        ("golden retriever", (), False, False), ("", (), True, False), ("", ("OPEN", "Road 7"), False, True),
        ("beach", (), False, False),
    ]  # fmt: skip


def test_a_thing_keeps_its_track_within_a_shot_and_has_another_in_the_next(retold):
    shots = [Shot(at, at + 3.0, (Shown("dog", (BOX, BOX)),)) for at in (0.0, 3.0)]
    seen, _ = StoryMaker(retold).report(random.Random(0), shots, 6.0, 0.0, 16)
    followed = [{sight.track for sight in frame if sight.kind == "object"} for frame in seen.frames]
    assert followed[:3] == [followed[0]] * 3
    assert followed[3:] == [followed[3]] * 3
    assert not followed[0] & followed[3]


def test_with_noise_what_is_told_of_a_shot_is_what_its_frames_report(retold):
    maker, changed = StoryMaker(retold), 0
    for seed in range(200):
        rng = random.Random(seed)
        shots = maker.shots(rng, 12.0, (), 4)
        seen, told = maker.report(rng, shots, 12.0, 2.0, 16)
        for shot in told:
            frames = [
                f for f, t in zip(seen.frames, seen.times_s.tolist(), strict=True) if shot.start_s <= t < shot.end_s
            ]
            assert frames
            sights = [sight for frame in frames for sight in frame]
            assert set(shot.counts) == {s.text for s in sights if s.kind == "object"}
            assert {shot.scene} - {""} == {s.text for s in sights if s.kind == "scene"}
            assert list(shot.texts) == [s.text for s in sights if s.kind == "text"]
            assert shot.black == any(s.kind == "black" for s in sights)
            assert shot.unsure == (not any(s.kind in ("object", "scene", "black") for s in sights))
            for name, count in shot.counts.items():
                found = Counter(
                    next(s.count for s in f if s.text == name) for f in frames if any(s.text == name for s in f)
                )
                assert found[count] == max(found.values())
            assert all(0 <= edge <= 1 for s in sights if s.box for edge in s.box)
        drawn = [(t.name, len(t.boxes)) for s in shots for t in s.things]
        changed += sorted(drawn) != sorted(item for t in told for item in t.counts.items())
    assert changed > 20


def test_what_is_heard_is_often_seen(retold):
    maker, rng = StoryMaker(retold), random.Random(0)

    def shows(shots):
        return any("dog" in (n, *names.kinds(n)) for s in shots for n in (*(t.name for t in s.things), s.scene) if n)

    told, untold = (sum(shows(maker.shots(rng, 6.0, who, 3)) for _ in range(300)) for who in (("dog",), ()))
    assert told > 1.5 * untold


# --- what is asked ----------------------------------------------------------------------------------------------------


LONGEST_FIRST = sorted(
    {form.lower(): name for name in names.all_names() for form in (name, names.plural(name))}.items(),
    key=lambda item: -len(item[0]),
)
NAMED = re.compile(rf"\b({'|'.join(re.escape(form) for form, _ in LONGEST_FIRST)})\b")
NAME_OF = dict(LONGEST_FIRST)
FIXED = {"picture", "sound", "text", "shot", "voice"}  # words of the answers themselves, whoever reports them


def named(text: str) -> set[str]:
    """Every name that may be reported and stands in a text, outside of what is quoted."""
    return {NAME_OF[form] for form in NAMED.findall(re.sub(r'"[^"]*"', "", text).lower())} - FIXED


@pytest.mark.parametrize("noise", [0.0, 1.0, 2.0])
def test_no_answer_names_what_is_not_reported(retold, tracks, lib, noise):
    said = 0
    for story in stories(retold, tracks, 150, noise):
        reported = {
            s.text for f in (story.seen.frames if story.seen else ()) for s in f if s.kind in ("object", "scene")
        }
        sounding = {t.name for p in story.sounds for t in p.things}
        for q in ask(story, lib, random.Random(1)):
            if q.type not in PICTURE_TYPES:
                continue
            allowed = {kind for name in reported | sounding for kind in (name, *names.kinds(name))}
            assert named(q.answer) <= allowed | named(q.question), (q, reported)
            said += len(named(q.answer))
    assert said > 300  # the rule is not empty


def test_every_kind_of_question_is_asked_in_ordinary_words(retold, tracks, lib):
    wordings: dict[str, set[str]] = defaultdict(set)
    for story in stories(retold, tracks, 300, 1.0):
        for q in ask(story, lib, random.Random(2)):
            wordings[q.type].add(q.question)
            assert q.question[0].isupper(), q
            assert q.question[-1] in "?.ko", q  # "Summarise this video"
            assert q.answer[0].isupper() or q.answer[0] in '"0123456789', q
            assert q.answer.endswith((".", '."', '"')), q
            assert "  " not in q.question + q.answer, q
            assert "{" not in q.question + q.answer, q
    assert wordings.keys() >= {*PICTURE_TYPES, "hear", "hear all", "cannot"}
    for kind in ("see", "count", "is", "none", "read", "describe", "when", "cannot"):
        assert len(wordings[kind]) >= 10, kind


def answers(told: list[Story], lib: Library, kind: str) -> list[tuple[Story, SceneQuestion]]:
    return [(s, q) for s in told for q in ask(s, lib, random.Random(3)) if q.type == kind]


def test_is_there_is_about_half_yes(retold, tracks, lib):
    said = [
        q.answer for s, q in answers(stories(retold, tracks, 300, 1.0), lib, "is") if not all(t.black for t in s.shots)
    ]
    share = sum(answer.startswith("Yes") for answer in said) / len(said)
    assert 0.35 < share < 0.65


def test_a_counted_number_is_the_reported_one(retold, tracks, lib):
    checked = 0
    for story, q in answers(stories(retold, tracks, 200, 1.0), lib, "count"):
        if "people" in q.question:
            most = max((s.counts.get(PEOPLE, 0) for s in story.shots), default=0)
            assert q.answer.lower().startswith(
                "none" if not most else "one person" if most == 1 else f"{number_of(PEOPLE, most)}"
            ), (q, most)
            checked += 1
    assert checked > 50


def test_a_sign_is_read_as_it_is_reported(retold, tracks, lib):
    asked = answers(stories(retold, tracks, 200, 2.0), lib, "read")
    for story, q in asked:
        lines = " ".join(t for s in story.shots for t in s.texts)
        assert all(quoted in lines for quoted in re.findall(r'"([^"]*)"', q.answer)), q
        assert all(number in lines for number in re.findall(r"\d+", q.answer)), q
    assert len(asked) > 30


def test_where_nothing_is_recognised_the_answer_says_so(retold, lib):
    for shots in ((Shot(0.0, 4.0),), (Shot(0.0, 4.0, texts=("OPEN",)),), (Shot(0.0, 4.0, black=True),)):
        seen, told = StoryMaker(retold).report(random.Random(0), shots, 4.0, 0.0, 16)
        asked = [q for seed in range(20) for q in ask(Story(4.0, told, seen, None), lib, random.Random(seed))]
        said = {q.answer for q in asked if q.question in asking.SEE}
        if shots[0].black:
            assert said == {"Nothing, the picture is black."}
        else:
            assert said == ({'I can only read "OPEN".'} if shots[0].texts else {asking.UNSURE})


def test_without_picture_nothing_is_seen(tracks, lib):
    asked = ask(Story(3.0, (), None, tracks[0]), lib, random.Random(0))
    assert {q.answer for q in asked if q.question in asking.SEE} == {"There is no picture, only sound."}


@pytest.mark.parametrize(
    ("name", "count", "said"),
    [("dog", 1, "a dog"), ("elephant", 1, "an elephant"), ("person", 3, "three people"), ("person", 13, "many people"),
     ("scissors", 1, "scissors")],
)  # fmt: skip
def test_how_many_in_words(name, count, said):
    assert number_of(name, count) == said


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((0.0, 0.4, 0.2, 0.6), "on the left"),
        ((0.8, 0.0, 1.0, 0.2), "in the top right"),
        ((0.4, 0.8, 0.6, 1.0), "at the bottom"),
        ((0.3, 0.3, 0.7, 0.7), "in the middle"),
    ],
)
def test_a_place_in_words(box, place):
    assert place_of(box) == place


def test_a_question_is_typed_roughly_but_with_the_same_letters():
    rng, question = random.Random(0), "How many people are there in the picture?"
    typed = {rough(question, rng) for _ in range(300)}
    assert len(typed) > 6
    assert question in typed
    assert {t.endswith("?") for t in typed} == {True, False}
    assert all(sorted(t.lower().rstrip("?")) == sorted(question.lower().rstrip("?")) for t in typed)


def test_things_of_the_detector_have_everyday_names():
    assert set(CLASSES) <= set(names.all_names())
    assert len(set(CLASSES)) == len(CLASSES) == 80


# --- the tokens that hold an answer -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    torch.manual_seed(0)
    return Adapter(list(SOUNDS), 8).eval().requires_grad_(False)


def laid(story: Story, adapter: Adapter) -> layout.Segment:
    table = torch.zeros(len(TOKENIZER), 8)
    pieces = None if story.seen is None else sight_pieces(story.seen, TOKENIZER)
    track = None if story.track is None else story.track.heard
    return lay_out(adapter, table, TOKENIZER, story.duration_s, story.seen, pieces, track, 0)


def test_tokens_hold_every_piece_of_evidence(retold, tracks, lib, adapter):
    pieces = 0
    for story in stories(retold, tracks, 60, 0.0):
        stream = layout.join([laid(story, adapter)], torch.float32, torch.device("cpu"))
        for q in ask(story, lib, random.Random(4)):
            shown = [e for e in q.evidence if e.modality == "video" and not e.thing.startswith("text")]
            found = evidence_tokens(stream, shown, None, None)
            assert len(found) == len(shown), (q, stream.labels)
            for piece, tokens in zip(shown, found, strict=True):
                assert {stream.labels[i] for i in tokens.nonzero().flatten().tolist()} == {piece.thing}
                assert (stream.modality[tokens] == Modality.VIDEO).all()
                pieces += 1
    assert pieces > 150


def test_a_sound_is_told_by_its_surest_tokens_and_the_digits_of_its_beginning(lib, adapter):
    quiet = silence(30, len(SOUNDS), 521)
    names, words = quiet.names.clone(), quiet.words.clone()
    names[10:20, 0] = torch.tensor([0.0, 1, 2, 3, 4.5, 5, 4, 3, 2, 1])
    words[24], words[26] = 3, 4
    track = HeardNames(names, quiet.classes, torch.arange(30) < 10, words)
    story = Story(3.6, (), None, Track(3.6, (), track))
    stream = layout.join([laid(story, adapter)], torch.float32, torch.device("cpu"))
    begins = torch.full((30,), -1)
    begins[10] = 5
    sound, speech = (SceneEvidence("audio", a * AUDIO_STEP_S, b * AUDIO_STEP_S) for a, b in ((8, 20), (22, 30)))
    found = evidence_tokens(stream, [sound, speech], track, begins)
    of_sound = (stream.modality == Modality.AUDIO).nonzero().flatten()
    assert [torch.isin(of_sound, f.nonzero().flatten()).nonzero().flatten().tolist() for f in found] == [
        [10, 14, 15],
        [24, 26],
    ]
    hushed = SceneEvidence("audio", 0.0, 8 * AUDIO_STEP_S)
    assert len(evidence_tokens(stream, [hushed], track, begins)) == 0, "silence has no token that tells a sound"


def test_a_thing_is_told_by_the_first_frame_that_shows_it(retold, adapter):
    shots = (Shot(0.0, 4.0, (Shown("dog", (BOX,)),)), Shot(4.0, 8.0, (Shown("cat", (BOX,)),)))
    seen, told = StoryMaker(retold).report(random.Random(0), shots, 8.0, 0.0, 16)
    stream = layout.join([laid(Story(8.0, told, seen, None), adapter)], torch.float32, torch.device("cpu"))
    found = evidence_tokens(stream, [SceneEvidence("video", 0.0, 8.0, "cat")], None, None)
    assert [stream.spans_s[i, 0].item() for i in found[0].nonzero().flatten()] == [4.5]


def test_dropping_thins_sounds_and_leaves_pictures_and_words(retold, tracks, adapter):
    seen, told = StoryMaker(retold).report(random.Random(0), SHOTS, 8.0, 0.0, 16)
    segment = laid(Story(8.0, told, seen, tracks[0]), adapter)
    words = torch.full((len(tracks[0].heard.quiet),), -1)
    words[::5] = 3
    left = drop_tokens(segment, 0.4, words, torch.Generator().manual_seed(0))
    pictures, sounds = (int((segment.modality == kind).sum()) for kind in (Modality.VIDEO, Modality.AUDIO))
    assert int((left.modality == Modality.VIDEO).sum()) == pictures
    assert 5 <= int((left.modality == Modality.AUDIO).sum()) < sounds
    assert len(left.labels) == len(left.modality) == len(left.boxes)


def test_what_people_ask_is_drawn_more_often():
    pairs = [(kind, f"{kind} {i}", "") for kind in ("see", "silent") for i in range(10)]
    drawn = Counter(kind for seed in range(100) for kind, _, _ in choose(pairs, 4, random.Random(seed)))
    assert drawn["see"] > 2 * drawn["silent"] > 0
    assert len(choose(pairs, 50, random.Random(0))) == len(pairs)


# --- sound tracks -----------------------------------------------------------------------------------------------------


def test_a_single_sound_is_called_as_the_ear_clearly_hears_it(lib):
    dog, cat = lib.things[0], lib.things[1]
    part = Heard(0, 1.2, (dog,))
    clear, doubtful = heard(*[1] * 10), heard(*[-1] * 10)
    assert called_as_heard(part, clear, lib).things == (cat,)
    assert called_as_heard(part, doubtful, lib).things == (dog,)
    assert called_as_heard(Heard(0, 1.2, (dog, cat)), clear, lib).things == (dog, cat)


def test_several_tracks_follow_each_other_with_silence_between(lib, tracks):
    maker = TrackMaker(tracks, lib, Retold(TOKENIZER))
    for seed in range(30):
        track = maker.several(random.Random(seed), 24.0)
        assert len(track.heard.quiet) == pytest.approx(track.duration_s / AUDIO_STEP_S, abs=1)
        for part in track.parts:
            inside = slice(round(part.start_s / AUDIO_STEP_S) + 1, round(part.end_s / AUDIO_STEP_S) - 1)
            assert track.heard.quiet[inside].all().item() is not bool(part.things)
            for thing in part.things:
                assert (track.heard.names[inside].argmax(1) == SOUNDS.index(thing.name)).all()


def test_silence_is_quiet_and_joins(tracks):
    both = joined([tracks[0].heard, silence(4, len(SOUNDS), 521)])
    assert both.quiet.tolist() == [False] * len(tracks[0].heard.quiet) + [True] * 4
    assert (both.names[-4:].sigmoid() < 1e-6).all()


@pytest.mark.slow
def test_tracks_come_back_from_disk_as_they_were_heard(tmp_path):
    """Needs YAMNet."""
    import numpy as np
    import soundfile

    from epcli.records import SAMPLE_RATE

    things = []
    for i, name in enumerate(SOUNDS):
        wave = 0.3 * np.sin(2 * np.pi * (200 + 60 * i) * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
        soundfile.write(tmp_path / f"{name}.flac", wave, SAMPLE_RATE)
        things.append({"name": name, "group": "instrument", "sounds": {"train": [f"{name}.flac"], "heldout": []}})
    (tmp_path / "catalog.json").write_text(json.dumps({"things": things}))
    library = Library(tmp_path, "train")
    adapter = Adapter(library.heard_names, 8).eval().requires_grad_(False)
    adapter.sounds.load_classifier(library.heard_names)
    make_tracks(library, Ear(None), adapter.sounds, 6, 3, tmp_path / "run", lambda _: None)
    tracks = load_tracks(library, tmp_path / "run")
    assert len(tracks) == 6
    for track in tracks:
        assert len(track.heard.quiet) == pytest.approx(track.duration_s / AUDIO_STEP_S, abs=1)
        assert track.heard.names.shape[1] == len(SOUNDS)
        assert track.parts[-1].end_s <= track.duration_s + 0.1
        for part in track.parts:
            inside = slice(int(part.start_s / AUDIO_STEP_S) + 1, int(part.end_s / AUDIO_STEP_S) - 1)
            assert track.heard.quiet[inside].all().item() is not bool(part.things)
