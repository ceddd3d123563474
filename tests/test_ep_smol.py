"""ep-smol: true answers about real clips, and training on one's own. Needs the model's parts."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from epcli.config import DEFAULT_LEAST, Profile
from epcli.models.smol.adapter import sight_pieces
from epcli.models.smol.adapter_file import ADAPTER
from epcli.observe import yamnet
from epcli.observe.loudness import normalise_loudness
from epcli.records import STAGES, Modality, TokenCount
from epcli.session.session import Session

MEDIA = Path(__file__).parents[1] / "docs" / "media"


def test_the_shipped_weights_stay_small():
    files = list(ADAPTER.parent.glob("*.safetensors"))
    assert files == [ADAPTER]
    assert ADAPTER.stat().st_size <= 29_000_000


@pytest.mark.slow
def test_every_class_said_to_be_a_name_is_one_of_audiosets():
    known = {c.lower() for c in yamnet.load_class_names()}
    text = (ADAPTER.parent / "same_audioset.txt").read_text(encoding="utf-8")
    said = {c for line in text.splitlines() if not line.startswith("#") for c in line.split(": ")[1].split("; ")}
    assert said
    assert said <= known


@pytest.mark.parametrize(
    ("loud", "expected"),
    [(0.001, 0.0316), (0.1, 0.1), (0.9, 0.27), (0.0, 0.0)],  # 30 dB at most; -20 dBFS; down by a third at most; silence
)
def test_a_quiet_clip_is_raised_to_an_ordinary_level(loud, expected):
    samples = (loud * np.sign(np.sin(np.arange(32000) / 7))).astype(np.float32)
    assert np.abs(normalise_loudness(samples)).mean() == pytest.approx(expected, rel=0.02, abs=1e-6)


@pytest.fixture(scope="module")
def session():
    return Session(Profile(threads=2))


# What the adapter of this version answers truly. docs/ep-smol.md says what it does not.
UNSURE = r"cannot tell|can.t tell"
CLIPS = [
    ("duet.mp4", "what instrument plays?", r"^a piano plays\.$|piano and a violin|first a piano.*violin"),
    ("duet.mp4", "Which instruments do you hear?", r"piano.*violin"),
    ("duet.mp4", "Which instrument plays first?", r"piano"),
    ("duet.mp4", "Which instrument plays last?", r"violin"),
    ("duet.mp4", "In which order do the sounds come?", r"piano.*violin"),
    ("moment.mp4", "What do you hear?", r"dog"),
    ("speech.mp4", "What is said?", r"check the number"),
    ("silent.mp4", "What do you hear?", r"silent|no sound"),
    ("photos.mp4", "What do you see?", r"first you see a sheep.*then.*four people"),
    ("photos.mp4", "What do you see first?", r"sheep"),
    ("photos.mp4", "What do you see last?", r"four people"),
    ("photos.mp4", "How many people are there?", r"\bfour\b"),
    ("photos.mp4", "Is there a sheep?", r"^yes"),
    ("photos.mp4", "Is there a car?", r"^no"),
    ("photos.mp4", "What does the title say?", r"LIVE TONIGHT"),
    ("photos.mp4", "When do the people appear?", r"\b4\b"),
    ("photos.mp4", "What do you hear?", r"sheep.*(fiddle|violin)"),
    ("photos.mp4", "What colour is the sheep?", UNSURE),
]
BLURRED = pytest.mark.xfail(reason="the tokens that are kept do not name the piano clearly", strict=True)
BRIEF = [
    pytest.param("duet.mp4", "Which instrument plays first?", r"piano", marks=BLURRED),
    pytest.param("duet.mp4", "In which order do the sounds come?", r"piano.*violin", marks=BLURRED),
    ("duet.mp4", "Which instrument plays last?", r"violin"),
    ("moment.mp4", "What do you hear?", r"dog"),
    ("photos.mp4", "How many people are there?", r"\bfour\b"),
    ("photos.mp4", "Is there a sheep?", r"^yes"),
    ("photos.mp4", "What does the title say?", r"LIVE TONIGHT"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("clip", "question", "truth"), CLIPS)
def test_it_answers_truly_about_the_sample_clips(session, clip, question, truth):
    report = session.ask(session.look(MEDIA / clip), question)
    assert report.selector == ("cs2" if clip == "moment.mp4" else "none")  # short clips are read whole
    assert re.search(truth, report.answer, re.IGNORECASE), report.answer


@pytest.mark.slow
@pytest.mark.parametrize(("clip", "question", "truth"), BRIEF)
def test_a_twentieth_of_the_tokens_is_enough_where_the_evidence_is_brief(session, clip, question, truth):
    few = Session(Profile(keep=0.05))
    few._model = session._model  # loaded once for all
    report = few.ask(few.look(MEDIA / clip), question)
    assert report.tokens.keep_ratio < 0.06
    assert re.search(truth, report.answer, re.IGNORECASE), report.answer


@pytest.mark.slow
def test_by_default_a_fifth_is_read_but_not_too_few_tokens_of_a_short_clip(session):
    kept = {}
    for clip in ("duet.mp4", "moment.mp4"):
        tokens = session.ask(session.look(MEDIA / clip), "What do you hear?").tokens
        kept[clip] = tokens.media.kept
        assert kept[clip] == min(tokens.media.total, max(math.ceil(0.2 * tokens.media.total), DEFAULT_LEAST))
    assert kept["duet.mp4"] < DEFAULT_LEAST == kept["moment.mp4"]  # all of nine seconds, a part of forty
    told = Session(Profile(keep=0.2))
    told._model = session._model  # loaded once for all
    tokens = told.ask(told.look(MEDIA / "duet.mp4"), "What do you hear?").tokens.media
    assert tokens.kept == math.ceil(0.2 * tokens.total)


@pytest.mark.slow
def test_a_file_without_sound_is_said_to_have_none(session):
    report = session.ask(session.look(MEDIA / "silent.mp4"), "What happens?")
    assert report.warnings == ("silent.mp4 has no sound", "silent.mp4: nothing in the picture was recognised")
    assert report.tokens.audio == TokenCount(0, 0)


@pytest.mark.slow
def test_tokens_are_as_many_as_is_seen_and_as_the_clip_is_long(session):
    looked = session.look(MEDIA / "duet.mp4")  # 9 s, 640 x 360
    plain = Session(Profile(selector="none"))
    plain._model = session._model  # loaded once for all
    report = plain.ask(looked, "What do you hear?")
    seen = looked.features.video
    assert len(seen.frames) == 9  # a frame a second
    assert report.tokens.video.total == len(sight_pieces(seen, session._model.tokenizer).piece) > 0
    assert report.tokens.audio.total == 9 / 0.12
    assert report.tokens.keep_ratio == 1.0
    assert report.finish_reason == "stop"
    assert report.timings_s.total == pytest.approx(sum(getattr(report.timings_s, stage) for stage in STAGES))


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["uniform", "random", "query-aware", "audio-guided"])
def test_a_selector_keeps_the_share_asked_for(session, selector):
    looked = session.look(MEDIA / "duet.mp4")
    chosen = Session(Profile(keep=0.25, selector=selector))
    chosen._model = session._model  # loaded once for all
    report = chosen.ask(looked, "What do you hear?")
    tokens = report.tokens.media
    assert tokens.kept == math.ceil(tokens.total * 0.25)
    assert report.tokens.text.kept == report.tokens.text.total
    assert report.answer


@pytest.mark.slow
def test_seats_drops_inside_the_decoder_and_tells_the_mean_and_the_moments(session):
    looked = session.look(MEDIA / "duet.mp4")
    chosen = Session(Profile(keep=0.1, selector="seats"))
    chosen._model = session._model
    asked = chosen.run(looked, "What do you hear?", with_evidence=True)
    tokens = asked.report.tokens
    assert tokens.mean_keep_ratio == pytest.approx(0.1, abs=0.015)
    assert tokens.keep_ratio > tokens.mean_keep_ratio
    assert tokens.leaves_inside
    assert sum("17, 19, 21 and 25 of 30" in warning for warning in asked.report.warnings) == 1
    assert set(asked.kept.depths.tolist()) <= {17, 19, 21, 25, 30}
    assert asked.evidence.sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_the_stream_interleaves_both_modalities_in_time(session):
    looked = session.look(MEDIA / "farm.mp4")
    stream = session._model.stream(looked.features, "What?", None)
    kinds = stream.modality[stream.modality != Modality.TEXT].tolist()
    changes = sum(a != b for a, b in pairwise(kinds))
    assert changes == 7  # 8 s in 2-second chunks: V A V A V A V A
    assert torch.equal(stream.positions[0], stream.positions[3])


@pytest.mark.slow
def test_pictures_are_tokens_of_what_is_seen_with_a_name_and_a_box(session):
    looked = session.look(MEDIA / "photos.mp4")
    session.ask(looked, "What?")  # loads and looks
    stream = session._model.stream(looked.features, "What?", None)
    video = stream.modality == Modality.VIDEO
    labels = [label for label, is_video in zip(stream.labels, video.tolist(), strict=True) if is_video]
    assert {"sheep", "person", "cut", "text 'LIVE TONIGHT'"} <= set(labels)
    for label, box in zip(labels, stream.boxes[video], strict=True):
        left, top, right, bottom = box.tolist()
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        assert (label in ("person", "sheep", "text 'LIVE TONIGHT'")) == (box.tolist() != [0, 0, 1, 1])
    assert torch.equal(stream.positions[0], stream.positions[3])


@pytest.mark.slow
def test_spoken_words_lie_on_sound_tokens(session):
    looked = session.look(MEDIA / "speech.mp4")
    session.ask(looked, "What is said?")  # loads and listens
    words = looked.features.audio.words
    said = session._model.tokenizer.decode(words[words >= 0])
    assert re.sub(r"[^a-z ]", "", said.lower().strip()).startswith("please check the number")
    first = int((words >= 0).nonzero()[0])
    assert first * 0.12 == pytest.approx(0.5, abs=0.4)


@pytest.mark.slow
def test_training_on_own_clips_resumes_where_it_was_stopped(tmp_path):
    rows = [
        {"media": str(MEDIA / "farm.mp4"), "question": "What is this?", "answer": "A farm."},
        {"media": str(MEDIA / "silent.mp4"), "question": "What is this?", "answer": "A street."},
    ]
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    run = [sys.executable, "-m", "epcli", "train", str(data), "--out", str(tmp_path / "run")]
    env = {**os.environ, "COLUMNS": "80"}
    first = subprocess.run([*run, "--items", "1", "--steps", "1"], capture_output=True, text=True, env=env)
    assert first.returncode == 0, first.stderr
    result = tmp_path / "run" / "adapter.safetensors"
    assert first.stdout.strip() == str(result)
    again = subprocess.run([*run, "--items", "1", "--steps", "1"], capture_output=True, text=True, env=env)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    more = subprocess.run([*run, "--items", "1", "--steps", "2", "--resume"], capture_output=True, text=True, env=env)
    assert more.returncode == 0, more.stderr
    assert "resumed at step 1" in more.stderr
    answer = Session(Profile(model=str(result)))
    report = answer.ask(answer.look(MEDIA / "farm.mp4"), "What do you see?")
    assert report.model == "adapter.safetensors"
    assert report.answer
