"""SEATS outside its reference: mean shares, windows of the clock, plans that prefill executes, what is told of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from inspections import observed_stream
from test_sieve import make_stream
from transformers import DynamicCache
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from epcli.records import Answer, KeptStream, Modality
from epcli.session import evidence
from epcli.session.generate import decode_steps, prefill
from epcli.sieve import seats
from epcli.sieve.depths import layer_lengths, mean_keep, token_depths
from epcli.sieve.drops import Drop
from epcli.sieve.seats.schedule import TARGETS, layers_note, layers_of, schedule_for_mean, schedule_of
from epcli.sieve.select import Budget
from epcli.sieve.selectors import Tools, select
from epcli.sieve.sync_rope import install

LAYERS = 28


class Model:
    """As much of AVModel as prefill needs."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = Qwen2_5OmniTextConfig(
            vocab_size=40,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        )
        config._attn_implementation = "sdpa"
        self.decoder = Qwen2_5OmniThinkerTextModel(config).eval()
        install(self.decoder, (3, 2, 2, 1))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.decoder.embed_tokens.weight.T


@pytest.fixture(scope="module")
def model() -> Any:
    return Model()


def new_cache(model: Any) -> DynamicCache:
    return DynamicCache(config=model.decoder.config)


@pytest.mark.parametrize(
    ("depth", "drops", "last"),
    [(28, (16, 18, 20), 23), (36, (21, 23, 26), 30), (30, (17, 19, 21), 25), (4, (), 4)],
)
def test_drop_layers_are_the_published_ones_to_scale(depth: int, drops: tuple[int, ...], last: int) -> None:
    assert layers_of(depth) == (drops, last)


def test_scaled_layers_are_told() -> None:
    assert [layers_note(depth) for depth in (28, 4)] == [[], []], "published, and too shallow to drop"
    (note,) = layers_note(36)
    assert "after layers 21, 23, 26 and 30 of 36" in note


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 0.8, 0.9, 1.0])
@pytest.mark.parametrize(("video", "sound"), [(1000, 200), (500, 0), (0, 300), (10, 990)])
def test_the_mean_over_the_layers_is_the_share_asked_for(share: float, video: int, sound: int) -> None:
    schedule = schedule_for_mean(LAYERS, share, video, sound)
    total = 0.0
    for n, entering, ratios in zip((video, sound), schedule.entering, schedule.ratios, strict=True):
        left, start = entering, 0
        for layer, ratio in zip((*schedule.drops, schedule.last), (*ratios, 0), strict=True):
            total += n * left * (layer - start)
            left, start = left * ratio, layer
        assert 0 <= entering <= 1
    assert total / LAYERS == pytest.approx(share * (video + sound), rel=1e-3)


@pytest.mark.parametrize("name", TARGETS)
def test_a_published_mean_gives_the_published_shares(name: str) -> None:
    video, sound = TARGETS[name]
    share = (900 * video + 100 * sound) / 1000
    found, wanted = schedule_for_mean(LAYERS, share, 900, 100), schedule_of(LAYERS, (video, sound))
    assert found.entering == pytest.approx(wanted.entering)


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_what_is_kept_on_average_is_told_and_is_what_was_asked(model: Any, share: float) -> None:
    stream = make_stream(60)
    kept = select("seats", stream, Budget(ratio=share), Tools(decoder=model.decoder))
    cache = new_cache(model)
    _, depths = prefill(model, kept, cache)
    kept = replace(kept, depths=depths)
    assert mean_keep(kept, LAYERS) == pytest.approx(share, rel=0.12)
    assert layer_lengths(kept, LAYERS) == [layer.get_seq_length() for layer in cache.layers]  # type: ignore[union-attr]
    text = int((stream.modality == Modality.TEXT).sum())
    assert layer_lengths(kept, LAYERS)[-1] == (text if share < 1 else len(stream.modality))
    assert torch.equal(kept.positions, stream.positions[:, kept.indices])


def test_a_plan_that_drops_is_prefill_with_fewer_tokens_from_there_on(model: Any) -> None:
    """What a layer after the drop makes of what is left is what it makes of it when nothing else was ever there."""
    stream = make_stream(3)
    whole = select("none", stream, Budget(ratio=1.0), Tools())
    stay = torch.arange(0, len(whole.embeds), 2)
    stay = torch.cat([stay, torch.tensor([len(whole.embeds) - 1])]).unique()
    dropping = replace(whole, drops=(Drop(5, lambda found: stay),))
    cache = new_cache(model)
    with torch.inference_mode():
        hidden, depths = prefill(model, dropping, cache)
        states = whole.embeds[None]
        rotation = model.decoder.rotary_emb(states, stream.positions[:, None])
        for layer in model.decoder.layers[:5]:
            states = layer(states, attention_mask=None, position_embeddings=rotation)
        states, rotation = states[:, stay], tuple(each[:, stay] for each in rotation)
        for layer in model.decoder.layers[5:]:
            states = layer(states, attention_mask=None, position_embeddings=rotation)
        torch.testing.assert_close(hidden, model.decoder.norm(states)[:, -1])
    assert depths.tolist() == [LAYERS if place in stay.tolist() else 5 for place in range(len(whole.embeds))]


def test_an_empty_plan_is_the_decoder_as_it_is_to_the_bit(model: Any) -> None:
    kept = select("none", make_stream(3), Budget(ratio=1.0), Tools())
    with torch.inference_mode():
        hidden, depths = prefill(model, kept, new_cache(model))
        plain = model.decoder(inputs_embeds=kept.embeds[None], position_ids=kept.positions[:, None])
    assert torch.equal(hidden, plain.last_hidden_state[:, -1])
    assert (depths == LAYERS).all()


def test_the_two_caches_agree_on_the_first_token_and_hold_what_they_should(model: Any) -> None:
    kept = select("seats", make_stream(20), Budget(ratio=0.3), Tools(decoder=model.decoder))
    first, second, sizes = [], [], []
    for keep_cache in (True, False):
        cache = new_cache(model)
        steps = decode_steps(model, kept, cache, prefill(model, kept, cache, keep_cache=keep_cache)[0])
        sizes.append([layer.get_seq_length() for layer in cache.layers])  # type: ignore[union-attr]
        first.append(next(steps))
        second.append(steps.send(3))
    assert torch.equal(*first)
    assert not torch.allclose(*second)
    assert set(sizes[1]) == {7}
    assert sizes[0][0] > sizes[0][-1] == 7


def test_evidence_is_read_from_layers_of_unequal_length(model: Any) -> None:
    kept = select("seats", make_stream(20), Budget(ratio=0.3), Tools(decoder=model.decoder))
    cache = new_cache(model)
    hidden, depths = prefill(model, kept, cache)
    kept = replace(kept, depths=depths)
    steps, said = decode_steps(model, kept, cache, hidden), (3, 5, 9)
    next(steps)
    for token in said[:-1]:
        steps.send(token)
    answer = Answer("", said, "length", 0.0, 0.0, 0)
    for layer, heed in evidence.attention(model, kept, answer, cache, before=2):
        torch.testing.assert_close(heed.sum(1)[0], torch.tensor(1.0))  # the prompt's last tokens see the prompt only
        assert (heed[:, depths <= layer] == 0).all()
        assert (heed[0, :-1][(depths > layer)[:-1]] > 0).all()
    gone = token_depths(kept, LAYERS)[kept.stream.modality != Modality.TEXT] == 0
    assert gone.any()


def test_windows_of_the_clock_do_not_depend_on_the_rate_of_pictures() -> None:
    stream = make_stream(12)
    windows = seats.clock_windows(stream)
    starts = stream.spans_s[:, 0].nan_to_num()
    assert torch.equal(windows, (starts / 2 + 1e-6).long())
    kept, _ = seats.enter(stream, Modality.AUDIO, 0.5)
    assert int(kept.sum()) == round(0.5 * len(kept)), "the share of all windows together"


def test_windows_do_not_part_the_observations_of_a_frame(model: Any) -> None:
    stream = observed_stream(width=64)
    windows, frame = seats.clock_windows(stream), stream.cells[:, 0]
    picture = stream.modality == Modality.VIDEO
    assert windows[picture].tolist() == (frame[picture] // 2).tolist(), "two frames a window, however many tokens"
    assert seats.window_sizes(stream)[:4] == [2, 3, 4, 3]
    kept = seats.sift(stream, schedule_for_mean(LAYERS, 0.3, int(picture.sum()), 67))
    _, depths = prefill(model, kept, new_cache(model))
    assert mean_keep(replace(kept, depths=depths), LAYERS) == pytest.approx(0.3, abs=0.05)


def test_attention_of_the_towers_draws_the_choice() -> None:
    stream = make_stream(12)
    picture = (stream.modality == Modality.VIDEO).nonzero().squeeze(-1)
    loud = torch.ones(len(stream.modality))
    loud[picture[::2]] = 100.0
    chosen = seats.enter(replace(stream, attention=loud), Modality.VIDEO, 0.5)[0]
    assert chosen[::2].float().mean() > 0.8
    assert seats.enter(stream, Modality.VIDEO, 0.5)[0][::2].float().mean() < 0.8


def test_equal_tokens_are_picked_once_each() -> None:
    stream = make_stream(12)
    alike = replace(stream, embeds=torch.ones_like(stream.embeds), attention=torch.full((len(stream.modality),), 50.0))
    for kind in (Modality.VIDEO, Modality.AUDIO):
        kept, _ = seats.enter(alike, kind, 0.5)
        assert int(kept.sum()) == round(0.5 * len(kept))


def test_selectors_that_drop_nothing_inside_have_no_plan() -> None:
    kept: KeptStream = select("uniform", make_stream(4), Budget(ratio=0.3), Tools())
    assert kept.drops == ()
    assert kept.depths is None
