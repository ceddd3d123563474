"""Sound tracks for training: what sounds when, questions about it, and the head that learns what sounds."""

from __future__ import annotations

import itertools
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from epcli.errors import UsageError
from epcli.lab.questions import ask_sounds
from epcli.lab.retold import Retold
from epcli.lab.scenes import Heard, Library, check_apart, render_sound, write_sounds, write_timeline
from epcli.lab.sounds import SILENCE, Patches, coloured, fit_sound, score
from epcli.models.smol.adapter import Adapter, SoundHead
from epcli.models.smol.smollm import load_smollm
from epcli.observe.yamnet import PATCH_FRAMES, Yamnet, load_yamnet
from epcli.records import SAMPLE_RATE

NAMES = [
    ("dog", "a", "animal"), ("cat", "a", "animal"), ("cow", "a", "animal"), ("owl", "an", "animal"),
    ("piano", "a", "instrument"), ("flute", "a", "instrument"), ("harp", "a", "instrument"),
    ("tuba", "a", "instrument"), ("banjo", "a", "instrument"), ("thunder", "", "nature"), ("car", "a", "vehicle"),
    *((name, "a", "animal") for name in ("pig", "hen", "fox", "bee", "frog", "goat", "wolf", "lion", "bear", "sheep")),
]  # fmt: skip
MUTE = ("car",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A library of pure tones, the same in both splits."""
    root = tmp_path_factory.mktemp("library")
    (root / "speech").mkdir()
    things = []
    for i, (name, article, group) in enumerate(NAMES):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 60 * i) * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
        soundfile.write(root / f"{name}.flac", tone, SAMPLE_RATE)
        sounds = {split: [] if name in MUTE else [f"{name}.flac"] for split in ("train", "heldout")}
        things.append({"name": name, "article": article, "group": group, "sounds": sounds})
    soundfile.write(root / "speech" / "a.flac", np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE), SAMPLE_RATE)
    line = json.dumps({"file": "speech/a.flac", "text": "please dial again"})
    for split in ("train", "heldout"):
        (root / "speech" / f"{split}.jsonl").write_text(line + "\n")
    (root / "catalog.json").write_text(json.dumps({"things": things}))
    return root


def thing(lib: Library, name: str):
    return next(t for t in lib.things if t.name == name)


def test_a_library_hears_only_what_has_recordings(folder):
    lib = Library(folder, "train")
    assert [t.name for t in lib.things] == [name for name, *_ in NAMES]
    assert lib.heard_names == [name for name, *_ in NAMES if name not in MUTE]
    assert {t.name for t in lib.instruments} == {"piano", "flute", "harp", "tuba", "banjo"}
    assert (thing(lib, "owl").a, thing(lib, "thunder").a, thing(lib, "dog").the) == ("an owl", "thunder", "the dog")


def test_every_true_answer_is_judged_true_by_its_own_pattern(folder):
    lib, rng = Library(folder, "train"), random.Random(0)
    kinds = set()
    for _ in range(400):
        _, parts = write_sounds(lib, rng)
        for q in ask_sounds(parts, True, lib, rng):
            kinds.add(q.type)
            re.compile(q.reject)
            assert q.judge(q.answer), q
            assert q.answer[0].isupper()
            assert q.answer.endswith((".", '."', '"')), q
            assert "  " not in q.answer, q
            assert all(e.modality == "audio" and e.start_s < e.end_s for e in q.evidence)
    assert {"hear", "hear all", "first", "last", "count", "speech", "silent", "hear at", "order", "after"} <= kinds


def test_a_clip_without_a_track_is_not_called_silent(folder):
    lib, rng = Library(folder, "train"), random.Random(0)
    answers = {
        track: {q.answer for q in ask_sounds((), track, lib, rng) if q.type == "hear"} for track in (True, False)
    }
    assert answers == {True: {"The clip is silent."}, False: {"There is no sound."}}


def test_an_answer_about_another_scene_is_mostly_judged_false(folder):
    lib, rng = Library(folder, "train"), random.Random(1)
    asked = [q for _ in range(150) for q in ask_sounds(write_sounds(lib, rng)[1], True, lib, rng) if q.type == "hear"]
    others = random.Random(2).sample(asked, len(asked))
    wrong = [not q.judge(o.answer) for q, o in zip(asked, others, strict=True) if q.answer != o.answer]
    assert np.mean(wrong) > 0.9


def test_things_that_could_be_confused_never_share_a_scene(folder):
    lib = Library(folder, "train")
    lib.ambiguous = {"dog": {"cat"}}
    dog, cat, cow = (thing(lib, n) for n in ("dog", "cat", "cow"))
    assert not lib.differ(dog, cat)
    assert not lib.differ(dog, dog)
    assert lib.differ(dog, cow)


def test_the_parts_of_a_track_follow_each_other(folder):
    lib, rng = Library(folder, "train"), random.Random(1)
    for _ in range(100):
        duration, parts = write_sounds(lib, rng)
        assert all(a.end_s <= b.start_s + 0.02 for a, b in itertools.pairwise(parts))
        assert parts[-1].end_s <= duration + 0.1
        longer, parts = write_timeline(
            rng, 40.0, lambda avoid: write_sounds(lib, rng, 1.6, 7.0), lambda seconds: round(seconds, 1)
        )
        assert all(a.end_s <= b.start_s + 0.02 for a, b in itertools.pairwise(parts))
        assert 8.0 < longer < 55.0


def test_a_rendered_track_sounds_as_its_parts_say(folder):
    dog = thing(Library(folder, "train"), "dog")
    samples = render_sound(4.0, (Heard(0, 2), Heard(2, 4, (dog,), dog.sounds)), np.random.default_rng(0))
    assert samples.shape == (4 * SAMPLE_RATE,)
    first, last = np.split(samples, 2)
    assert np.abs(last).mean() > 10 * np.abs(first).mean()
    assert abs(np.abs(np.fft.rfft(last)).argmax() / 2 - 200) < 25  # the dog's tone, its pitch changed a little


def test_silence_after_a_sound_stays_silent(folder):
    dog = thing(Library(folder, "train"), "dog")
    parts = (Heard(0, 1, (dog,), dog.sounds), Heard(1, 2), Heard(2, 3))
    samples = render_sound(3.0, parts, np.random.default_rng(0))
    assert np.abs(samples[SAMPLE_RATE + 800 :]).mean() < 0.01 < np.abs(samples[:SAMPLE_RATE]).mean()


def test_a_held_out_recording_that_is_a_training_one_is_refused(folder, tmp_path):
    lib = Library(folder, "heldout")
    with pytest.raises(
        UsageError, match=r"dog\.flac: is held out, but .*dog\.flac of the training sources is the same"
    ):
        check_apart(lib, thing(lib, "dog").sounds)
    other = tmp_path / "other.flac"
    soundfile.write(other, np.random.default_rng(3).normal(0, 0.1, SAMPLE_RATE), SAMPLE_RATE)
    assert check_apart(lib, [Path(other)]) == 1


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
    adapter = Adapter(lib.heard_names, 8)
    head = adapter.sounds.head
    assert isinstance(head, SoundHead)
    fit_sound(head, ear, Patches(lib, ear), 0.2, batch=16)
    # the tower's own classes are not taken: what is named right is what the head learned
    alone, together = score(adapter.sounds, ear, Library(folder, "heldout"))
    assert min(alone, together) > 3 / len(lib.heard_names)
    assert not head.training
