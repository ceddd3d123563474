"""Scenes for training and measuring: scripts, their questions, their rendering."""

from __future__ import annotations

import itertools
import json
import random
import re
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import soundfile
import torch

from epcli.lab import scenes
from epcli.lab.film import write_film
from epcli.lab.pools import (
    NOTHING,
    UNSURE,
    SceneMaker,
    TrackPool,
    ViewPool,
    cell_labels,
    moved,
    sound_labels,
    tint_labels,
)
from epcli.lab.questions import ask
from epcli.lab.reading import true_names
from epcli.lab.retold import Retold
from epcli.lab.scenes import (
    Heard,
    Library,
    Script,
    Seen,
    View,
    new_view,
    picture_colour,
    render,
    render_sound,
    write_long_script,
    write_script,
)
from epcli.lab.sounds import SILENCE, Patches, coloured, fit_sound, score
from epcli.media.read import read
from epcli.models.smol.model import AUDIO_STEP_S, AUDIO_WIDTH, COLOURS, VIDEO_WIDTH, Adapter, SoundHead
from epcli.models.smol.smollm import load_smollm
from epcli.observe.yamnet import PATCH_FRAMES, Yamnet, load_yamnet
from epcli.records import SAMPLE_RATE, AudioFeatures, Sampling

NAMES = [
    ("dog", "a", "animal"), ("cat", "a", "animal"), ("cow", "a", "animal"), ("owl", "an", "animal"),
    ("piano", "a", "instrument"), ("flute", "a", "instrument"), ("harp", "a", "instrument"),
    ("tuba", "a", "instrument"), ("banjo", "a", "instrument"), ("gloves", "", "clothing"), ("car", "a", "vehicle"),
    *((name, "a", "animal") for name in ("pig", "hen", "fox", "bee", "frog", "goat", "wolf", "lion", "bear", "sheep")),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A library of coloured squares and pure tones, the same in both splits."""
    root = tmp_path_factory.mktemp("library")
    (root / "speech").mkdir()
    things = []
    for i, (name, article, group) in enumerate(NAMES):
        colour = [(40, 40, 200), (60, 150, 50), (200, 80, 50)][i % 3]  # BGR: red, green, blue
        picture = np.zeros((64, 64, 4), np.uint8)
        picture[8:56, 8:56] = (*colour, 255)
        cv2.imwrite(str(root / f"{name}.png"), picture)
        tone = 0.3 * np.sin(2 * np.pi * (200 + 60 * i) * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
        soundfile.write(root / f"{name}.flac", tone, SAMPLE_RATE)
        files = {split: [f"{name}.png"] for split in ("train", "heldout")}
        sounds = {split: [] if name in ("gloves", "car") else [f"{name}.flac"] for split in ("train", "heldout")}
        things.append({"name": name, "article": article, "group": group, "pictures": files, "sounds": sounds})
    soundfile.write(root / "speech" / "a.flac", np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE), SAMPLE_RATE)
    line = json.dumps({"file": "speech/a.flac", "text": "please dial again"})
    for split in ("train", "heldout"):
        (root / "speech" / f"{split}.jsonl").write_text(line + "\n")
    (root / "catalog.json").write_text(json.dumps({"things": things}))
    return root


@pytest.mark.slow
def test_long_scenes_ask_for_times_and_moments_and_say_where_the_evidence_is(folder):
    lib, rng = Library(folder, "train"), random.Random(1)
    kinds = set()
    for _ in range(300):
        script = write_long_script(lib, rng, 40.0)
        assert script.duration_s <= 50
        for part, following in itertools.pairwise(script.sounds):
            assert part.end_s <= following.start_s + 0.02
        for q in ask(script, lib, rng):
            kinds.add(q.type)
            assert q.judge(q.answer), q
            for evidence in q.evidence:
                assert 0 <= evidence.start_s < evidence.end_s <= script.duration_s + 0.1
                assert evidence.modality == "audio" or script.views
    assert {"when", "see when", "see briefly", "hear at", "see while", "where"} <= kinds


def test_an_object_that_changes_sides_is_asked_for_its_way(folder):
    lib, rng = Library(folder, "train"), random.Random(1)
    dog = next(t for t in lib.seen if t.name == "dog")
    there = View(0, 3, "blue", (Seen(dog, "on the left", dog.pictures[0], 0.5, False, "red"),))
    after = replace(moved(there), start_s=3, end_s=6)
    questions = {q.type: q for q in ask(Script(6, (there, after), (), (320, 192), 0), lib, rng)}
    assert questions["move"].judge("The dog moves from the left to the right.")
    assert not questions["move"].judge("It goes from the right to the left.")
    assert questions["where last"].judge("It is on the right.")
    assert "where" not in questions


def test_cells_are_labelled_with_the_colour_of_what_they_show(folder):
    lib = Library(folder, "train")
    dog = next(t for t in lib.seen if t.name == "dog")
    view = View(0, 1, "blue", (Seen(dog, "on the left", dog.pictures[0], 0.5, False, "red"),))
    tints = tint_labels(torch.tensor([[0, NOTHING], [UNSURE, NOTHING]]), view)
    assert tints.tolist() == [[COLOURS.index("red"), COLOURS.index("blue")], [UNSURE, COLOURS.index("blue")]]
    assert tuple(scenes.COLOURS) == COLOURS


def test_every_true_answer_is_judged_true_by_its_own_pattern(folder):
    lib, rng = Library(folder, "train"), random.Random(0)
    kinds = set()
    for _ in range(400):
        for q in ask(write_script(lib, rng), lib, rng):
            kinds.add(q.type)
            assert q.judge(q.answer), q
            assert q.answer[0].isupper()
            assert q.answer.endswith((".", '."', '"')), q
            assert "  " not in q.answer, q
    assert {"hear", "hear all", "first", "last", "count", "see", "where", "place", "colour", "see while"} <= kinds
    assert {"side", "visible", "speech", "silent", "describe", "hear at", "order", "after"} <= kinds


def test_an_answer_about_another_scene_is_mostly_judged_false(folder):
    lib, rng = Library(folder, "train"), random.Random(1)
    asked = [q for _ in range(150) for q in ask(write_script(lib, rng), lib, rng) if q.type == "hear"]
    others = random.Random(2).sample(asked, len(asked))
    wrong = [not q.judge(o.answer) for q, o in zip(asked, others, strict=True) if q.answer != o.answer]
    assert np.mean(wrong) > 0.9


def test_things_that_could_be_confused_never_share_a_scene(folder):
    lib = Library(folder, "train")
    lib.ambiguous = {"dog": {"cat"}}
    dog, cat, cow = (next(t for t in lib.things if t.name == n) for n in ("dog", "cat", "cow"))
    assert not lib.differ(dog, cat)
    assert not lib.differ(dog, dog)
    assert lib.differ(dog, cow)


def test_a_rendered_scene_shows_and_sounds_what_its_script_says(folder):
    lib, rng = Library(folder, "train"), random.Random(4)
    dog = next(t for t in lib.things if t.name == "dog")
    view = new_view(lib, rng, 0.0, 4.0, dog, [])
    script = Script(4.0, (view,), (Heard(0, 2), Heard(2, 4, (dog,), dog.sounds)), (320, 192), 0)
    clip, boxes = render(script)
    assert clip.frames.shape == (4, 192, 320, 3)
    assert clip.frame_times_s.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert len(boxes[0]) == len(view.objects)
    first, last = np.split(clip.samples, 2)
    assert np.abs(last).mean() > 10 * np.abs(first).mean()
    spectrum = np.abs(np.fft.rfft(last))
    assert abs(spectrum.argmax() / 2 - 200) < 25  # the dog's tone, its pitch changed a little


def test_silence_between_two_sounds_stays_silent(folder):
    lib = Library(folder, "train")
    dog = next(t for t in lib.things if t.name == "dog")
    parts = (Heard(0, 1, (dog,), dog.sounds), Heard(1, 2), Heard(2, 3))
    samples = render_sound(Script(3.0, (), parts, (64, 64), 3), np.random.default_rng(0))
    assert np.abs(samples[SAMPLE_RATE + 800 :]).mean() < 0.01 < np.abs(samples[:SAMPLE_RATE]).mean()


def test_a_cell_is_named_after_what_covers_most_of_it():
    labels = cell_labels((128, 64), [(0, 0, 64, 64), (70, 10, 10, 10)], [5, 7])
    assert labels.tolist() == [[5, 5, 7, NOTHING], [5, 5, NOTHING, NOTHING]]
    edge = cell_labels((96, 32), [(0, 0, 40, 32)], [1])
    assert edge.tolist() == [[1, UNSURE, NOTHING]]


def test_sound_tokens_are_named_by_what_sounds_in_their_middle(folder):
    lib = Library(folder, "train")
    dog, cat = (next(t for t in lib.things if t.name == n) for n in ("dog", "cat"))
    labels = sound_labels([Heard(0, 0.24, (dog,)), Heard(0.24, 0.6, (dog, cat))], 5, {"dog": 0, "cat": 1})
    assert labels.tolist() == [[1, 0], [1, 0], [1, 1], [1, 1], [1, 1]]


def pools(lib: Library) -> SceneMaker:
    """Pools as they are after encoding, but for the features, which are random."""
    torch.manual_seed(0)
    rng, shape, sizes = random.Random(2), (4, 4), sorted(set(scenes.SIZES))
    views = [new_view(lib, rng, 0.0, 0.0, lib.seen[i % len(lib.seen)], []) for i in range(12)]
    views = [replace(view, key=i) for i, view in enumerate(views)]
    where = [(sizes[i % len(sizes)], i // len(sizes)) for i in range(12)]
    rows = dict.fromkeys(sizes, 12 // len(sizes))
    labels = {size: torch.randint(UNSURE, len(lib.seen), (n, *shape)) for size, n in rows.items()}
    grids = {size: torch.rand(n, *shape, VIDEO_WIDTH).half() for size, n in rows.items()}
    tracks: list[tuple[float, tuple[Heard, ...]]] = [(3.0, (Heard(0, 3, (thing,)),)) for thing in lib.heard]
    tracks.append((3.0, (Heard(0, 3),)))
    length = round(3 / AUDIO_STEP_S)
    sounds = [
        AudioFeatures(torch.rand(length, AUDIO_WIDTH).half(), AUDIO_STEP_S, torch.full((length,), -1)) for _ in tracks
    ]
    return SceneMaker(lib, ViewPool(views, where, grids, labels, labels, {}), TrackPool(tracks, sounds))


def test_a_scene_of_several_events_has_few_pictures_and_much_to_list(folder):
    maker, rng = pools(Library(folder, "train")), random.Random(3)
    drawn = [maker.several(rng) for _ in range(40)]
    assert all(8 <= scene.features.duration_s <= 14.1 for scene in drawn)
    frames = {len(scene.features.video.times_s) for scene in drawn if scene.features.video}
    assert max(frames) <= 6
    sounds = [sum(bool(part.things) for part in scene.script.sounds) for scene in drawn if scene.features.audio]
    assert sum(count > 1 for count in sounds) > len(sounds) / 3  # though every track of the pool holds one


def test_told_the_true_names_the_heads_are_not_asked(folder):
    lib, rng = Library(folder, "train"), random.Random(4)
    maker, adapter = pools(lib), Adapter(lib.seen_names, lib.heard_names, 8)
    adapter.eval()
    scene = next(s for s in iter(lambda: maker.draw(rng), None) if s.features.video and s.features.audio)
    cells, tokens = scene.features.video.grid.float(), scene.features.audio.tokens.float()
    before = adapter.video.probabilities(cells)
    with true_names(SimpleNamespace(adapter=adapter), scene):  # type: ignore[arg-type]
        seen, heard = adapter.video.probabilities(cells), adapter.audio.probabilities(tokens)
    labels = scene.video_labels
    named = labels >= 0
    assert (seen.argmax(-1) == labels)[named].all()
    assert (seen.amax(-1)[named] == 1).all()
    assert (seen[labels == NOTHING] == 0).all()
    assert torch.equal(seen[labels == UNSURE], before[labels == UNSURE])
    assert torch.equal(heard > 0, scene.audio_labels > 0)
    assert torch.equal(adapter.video.probabilities(cells), before)


def test_a_film_comes_back_from_disk_as_it_was_drawn(folder, tmp_path):
    lib, rng = Library(folder, "train"), random.Random(5)
    view = new_view(lib, rng, 0.0, 2.0, lib.seen[0], [])
    script = Script(2.0, (view,), (Heard(0, 2, (lib.heard[0],), lib.heard[0].sounds),), (320, 192), 9)
    write_film(script, tmp_path / "film.mp4", crf=18)
    clip = read(tmp_path / "film.mp4", Sampling(1.0, 8, 320 * 192, 64))
    drawn, _ = render(script)
    assert clip.frames.shape == drawn.frames.shape
    assert np.abs(clip.frames.astype(int) - drawn.frames).mean() < 12
    assert torch.tensor(clip.samples).std() == pytest.approx(float(drawn.samples.std()), rel=0.2)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.slow
def test_a_voice_told_in_other_words_has_them_where_it_speaks():
    tokenizer = load_smollm(torch.float32, torch.device("cpu"))[2]
    retold, rng = Retold(tokenizer), random.Random(4)
    assert retold.words[0] == "the"
    part = Heard(1.2, 3.6, speech="my sister found the letter")
    said = set()
    for _ in range(60):
        words = torch.full((50,), -1)
        new = retold(rng, part, words)
        where = torch.nonzero(words >= 0).flatten()
        assert where.min() >= 10
        assert where.max() < 30
        written = tokenizer.decode(words[where])
        assert re.sub(r"[,.?!]", "", written).strip().lower() == new.speech
        assert written.strip()[0].isupper()
        assert written[-1] in ".?!"
        said.add(new.speech)
    assert len(said) > 55
    words = torch.full((50,), -1)
    assert retold(rng, replace(part, end_s=1.3), words) is None  # one token has no room for a word and its full stop
    assert (words == -1).all()


def test_the_colour_of_a_picture_is_that_of_most_of_it(folder):
    assert [picture_colour(folder / f"{n}.png") for n in ("dog", "cat", "cow")] == ["red", "green", "blue"]


def test_patterns_compile_and_names_with_spaces_match(folder):
    lib, rng = Library(folder, "train"), random.Random(6)
    for _ in range(50):
        for q in ask(write_script(lib, rng), lib, rng):
            re.compile(q.accept)
            re.compile(q.reject)


def random_ear() -> Yamnet:
    torch.manual_seed(0)
    ear = Yamnet(("one",), 48)
    ear.init_front_end("cpu")
    return ear.eval().requires_grad_(False)


def test_a_changed_sound_keeps_its_pitch_and_its_name(folder):
    lib, generator = Library(folder, "train"), torch.Generator().manual_seed(1)
    patches = Patches(lib, random_ear())
    mel, labels = patches.draw(400, generator)
    assert mel.shape == (400, PATCH_FRAMES, 64)
    assert labels.shape == (400, len(lib.heard_names))
    assert torch.isfinite(mel).all()
    named = labels.sum(1)
    assert set(named.tolist()) == {0.0, 1.0, 2.0}
    assert (labels.sum(0) > 0).all()
    one = next(i for i in range(400) if named[i] == 1)
    again = next(i for i in range(one + 1, 400) if torch.equal(labels[i], labels[one]))
    assert not torch.allclose(mel[one], mel[again], atol=0.5)  # through other filters
    tone = torch.full((1, PATCH_FRAMES, 64), SILENCE)
    tone[..., 30] = 1.0
    loudest = coloured(tone.expand(50, -1, -1), generator).mean(1).argmax(1)
    assert loudest.min() >= 28
    assert loudest.max() <= 32
    assert len(set(loudest.tolist())) > 2


@pytest.mark.slow
def test_the_head_learns_what_sounds(folder):
    lib, ear = Library(folder, "train"), load_yamnet()
    adapter = Adapter(lib.seen_names, lib.heard_names, 8)
    head = adapter.audio.head
    assert isinstance(head, SoundHead)
    fit_sound(head, ear, Patches(lib, ear), 0.2, batch=16)
    # the tower's own classes are not taken: what is named right is what the head learned
    alone, together = score(adapter.audio, ear, Library(folder, "heldout"))
    assert min(alone, together) > 3 / len(lib.heard_names)
    assert not head.training
