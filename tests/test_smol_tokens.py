"""The tokens of ep-smol: what its parts report, as the language model reads it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from word_tokenizer import word_tokenizer

from epcli.errors import WeightsError
from epcli.models.smol import adapter as smol_adapter
from epcli.models.smol.adapter import (
    KINDS,
    PLACE_WIDTH,
    QUIET,
    SAME_FROM,
    SAME_GAIN,
    SAME_SIGHTS,
    TEXT_PIECES,
    Adapter,
    HeardNames,
    SightPieces,
    load_adapter,
    place_features,
    sight_pieces,
)
from epcli.models.smol.ear import AUDIO_WIDTH, level
from epcli.models.smol.model import LATEST, later, lay_out, sound_labels
from epcli.models.smol.same_names import same_names
from epcli.records import Modality, SeenFeatures, Sight

WORDS = (
    "dog",
    "traffic",
    "light",
    "person",
    "cut",
    "black",
    "unsure",
    "EXIT",
    "ONLY",
    "cat",
    "street",
    "one",
    "two",
    *"0123456789",
)
TOKENIZER = word_tokenizer(WORDS)
LEFT = (0.1, 0.2, 0.3, 0.8)


def seen(*frames: tuple[Sight, ...]) -> SeenFeatures:
    return SeenFeatures(frames, torch.arange(len(frames), dtype=torch.float64) + 0.5, 1.0)


def said(pieces: SightPieces) -> list[str]:
    return [TOKENIZER.decode([piece]).strip() for piece in pieces.piece.tolist()]


@pytest.mark.parametrize(
    ("sight", "words", "label"),
    [
        (Sight("object", "dog", 0.6, LEFT), ["dog"], "dog"),
        (Sight("object", "traffic light", 0.6, LEFT), ["traffic", "light"], "traffic light"),
        (Sight("scene", "street", 0.7), ["street"], "street"),
        (Sight("text", "EXIT ONLY", 0.9, LEFT), ["EXIT", "ONLY"], "text 'EXIT ONLY'"),
        (Sight("cut", "", 1.0), ["cut", "0"], "cut"),
        (Sight("black", "", 1.0), ["black"], "black"),
        (Sight("unsure", "", 1.0), ["unsure"], "unsure"),
        (Sight("unsure", "dark", 1.0), ["unsure"], "dark"),
    ],
    ids=lambda value: value.kind if isinstance(value, Sight) else "",
)
def test_a_sight_is_the_word_pieces_of_what_it_is_called(sight, words, label):
    pieces = sight_pieces(seen((sight,)), TOKENIZER)
    assert said(pieces) == words
    assert set(pieces.labels) == {label}
    assert {KINDS[kind] for kind in pieces.kind.tolist()} == {sight.kind}
    assert torch.allclose(pieces.boxes, torch.tensor([sight.box or (0.0, 0.0, 1.0, 1.0)]).expand(len(words), 4))
    assert torch.allclose(pieces.score, torch.tensor(sight.score))


@pytest.mark.parametrize(("count", "read"), [(1, 1), (4, 4), (12, 12), (13, 13), (40, 13)])  # 13 is "many"
def test_each_token_tells_how_many_there_are(count, read):
    pieces = sight_pieces(seen((Sight("object", "dog", 0.6, LEFT, count),)), TOKENIZER)
    assert pieces.many.tolist() == [read]


def test_of_many_alike_three_a_frame_have_tokens_and_all_others_have():
    crowd = tuple(Sight("object", "person", 0.6, LEFT, 7, track) for track in range(7))
    pieces = sight_pieces(seen((*crowd, Sight("object", "dog", 0.5, LEFT)), crowd), TOKENIZER)
    assert said(pieces) == ["person"] * SAME_SIGHTS + ["dog"] + ["person"] * SAME_SIGHTS
    assert pieces.frame.tolist() == [0] * (SAME_SIGHTS + 1) + [1] * SAME_SIGHTS


def test_of_much_text_the_first_pieces_of_a_frame_are_read():
    lines = tuple(Sight("text", "EXIT ONLY EXIT ONLY EXIT", 0.9, LEFT) for _ in range(4))
    pieces = sight_pieces(seen(lines, lines[:1]), TOKENIZER)
    assert torch.bincount(pieces.frame).tolist() == [TEXT_PIECES, 5]


def test_a_clip_in_which_nothing_is_seen_has_no_tokens():
    pieces = sight_pieces(seen((), ()), TOKENIZER)
    assert len(pieces.piece) == len(pieces.labels) == 0
    assert pieces.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("frames", "steps"), [([0, 0, 0, 2, 2], [0, 1, 2, 0, 1]), ([], []), ([0] * 25, [*range(LATEST), *[LATEST] * 5])]
)
def test_the_tokens_of_a_frame_stand_one_after_another(frames, steps):
    assert later(torch.tensor(frames, dtype=torch.int64)).tolist() == steps


def test_places_tell_begin_from_end_and_left_from_right():
    begin, end = place_features(torch.tensor([0.0, 9.9]), 10.0)
    assert (begin - end).norm() > 1
    left, right = place_features(torch.zeros(2), 10.0, torch.tensor([0.5, 0.5]), torch.tensor([0.1, 0.9]))
    assert (left - right).norm() > 1


def test_classes_that_are_a_name():
    same = same_names(("Violin, fiddle", "Whimper (dog)", "Bell (big)", "Jet engine"), ("fiddle", "dog", "airplane"))
    assert same.T.tolist() == [[0, 0], [1, 1], [3, 2]]


# --- sound ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    """Knows two sounds; its embeddings are drawn by chance."""
    torch.manual_seed(0)
    made = Adapter(["dog", "cat"], 16).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    return made


NO_DIGITS = torch.full((2,), -1)
TABLE = torch.randn(len(TOKENIZER), 16, generator=torch.Generator().manual_seed(1))


def heard(names: list[list[float]], quiet: list[bool], words: list[int]) -> HeardNames:
    classes = torch.full((len(quiet), 521), -20.0)
    return HeardNames(torch.tensor(names), classes, torch.tensor(quiet), torch.tensor(words))


def test_what_is_too_quiet_is_silence_whatever_it_resembles(adapter):
    either = heard([[9.0, -9.0], [-9.0, 9.0]], [True, True], [-1, -1])
    dog, cat = adapter.sounds(either, torch.zeros(2, PLACE_WIDTH))
    assert torch.equal(dog, cat)
    assert torch.allclose(dog - adapter.sounds.place(torch.zeros(1, PLACE_WIDTH))[0], adapter.sounds.silent)
    aloud = adapter.sounds(either._replace(quiet=torch.tensor([False, False])), torch.zeros(2, PLACE_WIDTH))
    assert not torch.allclose(aloud[0], aloud[1])


@pytest.mark.parametrize(("loud", "quiet"), [(0.0, True), (0.0005, True), (0.002, False), (0.3, False)])  # -60 dBFS
def test_quiet_is_told_by_the_level(adapter, loud, quiet):
    tokens = torch.zeros(1, AUDIO_WIDTH)
    tokens[:, -1] = level(torch.full((1920,), loud), 1)
    assert (level(torch.full((1920,), loud), 1) <= QUIET).item() is quiet
    assert adapter.sounds.heard(tokens, None).quiet.tolist() == [quiet]


def test_a_spoken_word_lies_on_its_token(adapter):
    word = TOKENIZER(" cat").input_ids[0]
    plain = adapter.embed_sounds(heard([[1.0, 1.0]] * 2, [False] * 2, [-1, -1]), NO_DIGITS, 1.0, TABLE)
    spoken = adapter.embed_sounds(heard([[1.0, 1.0]] * 2, [False] * 2, [-1, word]), NO_DIGITS, 1.0, TABLE)
    assert torch.equal(plain[0], spoken[0])
    assert torch.allclose(spoken[1], 0.25 * plain[1] + adapter.word_gain * TABLE[word])


def test_a_name_that_audiosets_classifier_knows_counts_more_and_others_as_before(adapter):
    before = adapter.sounds.same
    adapter.sounds.same = torch.tensor([[7], [0]])
    known = torch.full((1, 521), -20.0)
    known[0, 7] = 20.0
    try:
        assert adapter.sounds._same_logits(known)[0].tolist() == pytest.approx([SAME_GAIN * -SAME_FROM, 0.0], abs=1e-3)
    finally:
        adapter.sounds.same = before


def test_a_sound_token_is_called_by_its_word_or_its_likely_name(adapter):
    word = TOKENIZER(" two").input_ids[0]
    told = heard([[5.0, -5.0], [-5.0, 5.0], [-5.0, -5.0], [5.0, 5.0], [5.0, -5.0]], [False] * 3 + [True, True],
                 [-1, -1, -1, -1, word])  # fmt: skip
    assert sound_labels(adapter, told, TOKENIZER) == ("dog", "cat", "", "silence", "' two'")


def test_the_sound_head_takes_a_long_clip_in_parts(adapter, monkeypatch):
    tokens = torch.rand(50, AUDIO_WIDTH)
    together = adapter.sounds.head(tokens)
    monkeypatch.setattr(smol_adapter, "NAMING_BATCH", 8)
    torch.testing.assert_close(adapter.sounds.head(tokens), together)


# --- together ---------------------------------------------------------------------------------------------------------


def test_sights_and_sounds_are_laid_out_in_time_with_boxes_and_labels(adapter):
    frames = seen((Sight("object", "dog", 0.6, LEFT),), (), (Sight("cut", "", 1.0), Sight("scene", "street", 0.7)))
    told = heard([[5.0, -5.0]] * 25, [False] * 25, [-1] * 25)
    segment = lay_out(adapter, TABLE, TOKENIZER, 3.0, frames, sight_pieces(frames, TOKENIZER), told, 4)
    video = segment.modality == Modality.VIDEO
    assert [label for label, is_video in zip(segment.labels, video.tolist(), strict=True) if is_video] == [
        "dog", "cut", "cut", "street",
    ]  # fmt: skip
    assert torch.allclose(segment.boxes[video][0], torch.tensor(LEFT))
    assert (segment.modality == Modality.AUDIO).sum() == 25
    assert segment.spans_s[video, 0].tolist() == pytest.approx([0.5, 2.5, 2.5, 2.5])
    first, cut, _, street = segment.positions[:, video].T
    assert street[0] - cut[0] == 2
    assert cut[0] - first[0] == 50  # two seconds of 40 ms steps


def test_only_sight_or_only_sound_is_laid_out_too(adapter):
    frames = seen((Sight("black", "", 1.0),))
    told = heard([[5.0, -5.0]] * 9, [True] * 9, [-1] * 9)
    alone = lay_out(adapter, TABLE, TOKENIZER, 1.0, frames, sight_pieces(frames, TOKENIZER), None, 0)
    mute = lay_out(adapter, TABLE, TOKENIZER, 1.0, None, None, told, 0)
    assert (alone.modality == Modality.VIDEO).sum() == 1
    assert (alone.modality == Modality.AUDIO).sum() == 0
    assert (mute.modality == Modality.AUDIO).sum() == 9


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"epcli": json.dumps({"heard": ["dog", "cat"], "width": 16})}, "an adapter of another version of epcli"),
        ({"epcli": json.dumps({"heard": ["dog"]})}, "not an ep-smol adapter"),
        (None, "not an ep-smol adapter"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, about, told):
    path = tmp_path / "mine.safetensors"
    save_file({"video.names": torch.zeros(2, 16)}, path, about)
    with pytest.raises(WeightsError, match=rf"^mine\.safetensors: {told}[^\n]*$"):
        load_adapter(path)
