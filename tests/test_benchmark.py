"""ep-moments: what its scenes and questions are like, and that nothing of them was trained on."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from epcli.errors import UsageError
from epcli.evals import score
from epcli.lab import benchmark
from epcli.lab.questions import SceneEvidence, SceneQuestion, ask
from epcli.lab.scenes import Library
from epcli.media.probe import probe
from epcli.questions.sets import read_set
from epcli.records import SAMPLE_RATE

THINGS = [("dog", "animal"), ("cat", "animal"), ("cow", "animal"), ("owl", "animal"), ("piano", "instrument"),
          ("flute", "instrument"), ("harp", "instrument"), ("tuba", "instrument"), ("banjo", "instrument"),
          ("drum", "instrument"), ("car", "vehicle"), ("bell", "household")]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A library of coloured squares and tones, other ones in each split."""
    root = tmp_path_factory.mktemp("library")
    things = []
    for i, (name, group) in enumerate(THINGS):
        files: dict[str, dict[str, list[str]]] = {"pictures": {}, "sounds": {}}
        for split, shift in (("train", 0), ("heldout", 1)):
            picture = np.zeros((64, 64, 4), np.uint8)
            picture[8:56, 8:56] = (20 * i, 40 + shift, 200, 255)
            cv2.imwrite(str(root / f"{split}-{name}.png"), picture)
            wave = 0.3 * np.sin(2 * np.pi * (200 + 60 * i + 7 * shift) * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
            soundfile.write(root / f"{split}-{name}.flac", wave, SAMPLE_RATE)
            files["pictures"][split], files["sounds"][split] = [f"{split}-{name}.png"], [f"{split}-{name}.flac"]
        things.append({"name": name, "group": group, **files})
    (root / "catalog.json").write_text(json.dumps({"things": things}))
    (root / "speech").mkdir()
    for split in ("train", "heldout"):
        noise = np.random.default_rng(len(split)).normal(0, 0.1, 2 * SAMPLE_RATE)
        soundfile.write(root / "speech" / f"{split}.flac", noise, SAMPLE_RATE)
        line = json.dumps({"file": f"speech/{split}.flac", "text": f"please dial {split}"})
        (root / "speech" / f"{split}.jsonl").write_text(line + "\n")
    return root


def test_scenes_are_long_and_no_two_hold_the_same_things(folder):
    chosen = list(benchmark.scripts(Library(folder, "heldout"), random.Random(1), 36))
    for number, script in enumerate(chosen):
        low, high = benchmark.LENGTHS[number % len(benchmark.LENGTHS)]
        assert low <= script.duration_s <= high
    assert len({benchmark.things_of(s) for s in chosen}) == len(chosen)
    quiet = [max(v.end_s - v.start_s for v in s.views) for s in chosen if s.views]
    assert max(quiet) > 20, "long still stretches"
    assert any(len(s.views) == 2 and len(benchmark.things_of(s)) for s in chosen)


def test_types_are_balanced_and_tell_what_they_need(folder):
    lib, rng, so_far = Library(folder, "heldout"), random.Random(2), Counter()
    rows = []
    for script in benchmark.scripts(lib, rng, 60):
        chosen = benchmark.choose(ask(script, lib, rng), 4, so_far, rng)
        assert len({q.type for q in chosen}) == len(chosen) <= 4
        rows += [benchmark.as_row("m", q) for q in chosen]
    assert not set(benchmark.LEFT_OUT) & set(so_far)
    assert {"when", "see briefly", "move", "order", "hear while", "see at"} <= set(so_far)
    assert max(so_far.values()) < 25
    needs = {kind: Counter(r["needs"] for r in rows if r["type"] == kind) for kind in so_far}
    assert set(needs["hear while"]) == set(needs["see while"]) == {"both"}
    assert set(needs["when"]) == {"sound"}
    assert set(needs["see briefly"]) == set(needs["move"]) == {"picture"}
    assert min(Counter(r["needs"] for r in rows).values()) > 20


def test_an_absence_needs_the_sense_that_would_notice():
    assert benchmark.needs(SceneQuestion("silent", "?", "a", "a")) == "sound"
    assert benchmark.needs(SceneQuestion("see", "?", "a", "a")) == "picture"
    both = (SceneEvidence("video", 0, 1, "dog"), SceneEvidence("audio", 0, 1))
    assert benchmark.needs(SceneQuestion("visible", "?", "a", "a", evidence=both)) == "both"


@pytest.mark.slow
def test_a_small_set_is_made_and_read_and_made_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "LENGTHS", ((10.0, 13.0),))
    made = benchmark.make(folder, tmp_path, count=3, questions=3)
    assert made["name"] == "scenes", "not the benchmark's size, so not its name"
    assert (made["scenes"], made["sources"] > 4) == (3, True)
    questions = read_set(tmp_path)
    assert questions.name == "scenes v0"
    assert len(questions.questions) == made["questions"] == 9
    for item in questions.questions:
        info = probe(item.media)
        assert 9.9 < info.duration_s < 13.2
        assert all(
            0 <= begin < end <= info.duration_s + 0.1
            for begin, end in ((each.start_s, each.end_s) for each in item.evidence)
        )
        assert item.judge(item.rule.constants[0])
    assert score.majority(questions.questions)["all"] > 0
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.m*4*")}
    before = (tmp_path / "questions.jsonl").read_text()
    benchmark.make(folder, tmp_path, count=3, questions=3)
    assert (tmp_path / "questions.jsonl").read_text() == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "what is there is not made again"


def test_a_source_that_was_trained_on_is_found_by_its_content(folder, tmp_path):
    copy = tmp_path / "library"
    copy.mkdir()
    for path in folder.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    (copy / "heldout-piano.flac").write_bytes((copy / "train-dog.flac").read_bytes())
    lib = Library(copy, "heldout")
    with pytest.raises(UsageError, match=r"heldout-piano\.flac: is held out, but .*train-dog\.flac"):
        benchmark.check_disjoint(lib, list(benchmark.scripts(lib, random.Random(0), 30)))


def test_a_folder_that_is_no_library_is_said_so(tmp_path):
    with pytest.raises(UsageError, match="is no folder of"):
        benchmark.make(tmp_path, tmp_path / "out")


@pytest.mark.slow
def test_short_scenes_are_short_and_mostly_asked_plain_questions(folder, tmp_path):
    lib, rng, so_far = Library(folder, "heldout"), random.Random(3), Counter()
    chosen = list(benchmark.scripts(lib, rng, 40, short=True))
    assert len({benchmark.things_of(s) for s in chosen}) == len(chosen)
    assert max(s.duration_s for s in chosen if not any(p.speech for p in s.sounds)) <= benchmark.SHORT_LENGTH[1]
    for script in chosen:
        benchmark.choose(ask(script, lib, rng), 4, so_far, rng, short=True)
    plain = sum(n for kind, n in so_far.items() if kind in benchmark.PLAIN)
    assert plain > 0.4 * sum(so_far.values())
    made = benchmark.make(folder, tmp_path, count=2, questions=2, short=True)
    assert made["name"] == "scenes", "not the set's size, so not its name"
