"""Decoding: the cache with room, ids that are read late, and what a token costs in copies and waits."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_sieve import make_stream
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from epcli.records import KeptStream
from epcli.session import generate, kv
from epcli.sieve.select import Budget
from epcli.sieve.selectors import Tools, select
from epcli.sieve.sync_rope import install

LAYERS, VOCABULARY = 28, 96
CPU = torch.device("cpu")


class Words:
    """A tokenizer of letters."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(32 + token) for token in ids)


@pytest.fixture(scope="module")
def model() -> Any:
    """As much of AVModel as an answer needs."""
    torch.manual_seed(0)
    config = Qwen2_5OmniTextConfig(
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        pad_token_id=0,
        rope_scaling={"rope_type": "default", "type": "default", "mrope_section": [4, 2, 2]},
    )
    decoder = Qwen2_5OmniThinkerTextModel(config).eval().requires_grad_(False)
    install(decoder, (4, 2, 2))
    head = torch.randn(VOCABULARY, 64) * 3
    return SimpleNamespace(
        name="tiny",
        decoder=decoder,
        device=CPU,
        dtype=torch.float32,
        stop_ids=frozenset(),
        context_tokens=32768,
        tokenizer=Words(),
        logits=lambda hidden: hidden @ head.T,
    )


def kept(model: Any, selector: str) -> KeptStream:
    stream = make_stream(20)
    return select(selector, stream, Budget(ratio=0.3), Tools(decoder=model.decoder))


class Counts(TorchDispatchMode):
    """Counts each operation, and those that tensors of two devices meet in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.linear.default:
            with self:
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        result = func(*args, **(kwargs or {}))
        self.seen[func.overloadpacket.__name__] += 1
        tensors = [each for each in pytree.tree_leaves((args, kwargs, result)) if isinstance(each, torch.Tensor)]
        self.seen["between devices"] += len({each.device for each in tensors}) > 1
        return result


def counted(model: Any, stream: KeptStream, tokens: int, **options: Any) -> Counter[str]:
    with Counts() as counts:
        made = generate.run(model, stream, max_new_tokens=tokens, **options)
    assert len(made.answer.token_ids) == tokens
    return counts.seen


# What waits for a device: a number read from it, a result whose shape depends on values.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal")


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("selector", ["uniform", "seats"])
def test_a_token_waits_for_nothing_and_copies_one_number(
    model: Any, monkeypatch: pytest.MonkeyPatch, selector: str, temperature: float
) -> None:
    """Counted as the difference of a longer and a shorter answer, on the CPU: operations are the same on any device."""
    monkeypatch.setattr(generate, "loops", lambda ids, repeats: False)
    stream = kept(model, selector)
    short, long = (counted(model, stream, tokens, temperature=temperature) for tokens in (4, 12))
    more = long - short
    assert {name: count for name, count in more.items() if name in WAITS} == {}
    assert more["cat"] == 8 * (2 + 2 * LAYERS)  # the positions' fourth row, the angles, rotate_half; none of the cache
    assert more["copy_"] == 8 * (2 * LAYERS + 1)  # keys and values of each layer, and the id on its way to the host


@pytest.mark.slow
def test_nothing_of_a_token_lies_on_another_device(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device: it has no numbers, so that whoever reads one fails."""
    stream, meta = kept(model, "uniform"), torch.device("meta")
    stream = replace(stream, embeds=stream.embeds.to(meta), positions=stream.positions.to(meta))
    decoder, head = copy.deepcopy(model.decoder).to(meta), torch.empty(64, VOCABULARY, device=meta)
    monkeypatch.setattr(torch, "equal", lambda *_: True)  # SyncRope checks the prompt's positions, once
    there = SimpleNamespace(
        **{**vars(model), "decoder": decoder, "device": meta, "logits": lambda hidden: hidden @ head}
    )
    cache = kv.new_cache(decoder)
    hidden, _ = generate.prefill(there, stream, cache)
    steps = generate.decode_steps(there, stream, cache, hidden)
    token = generate._choose(next(steps), 0.0, torch.Generator())
    with Counts() as counts:
        for _ in range(5):
            token = generate._choose(steps.send(token), 0.0, torch.Generator())
    assert counts.seen["linear"] > 0
    assert counts.seen["between devices"] == 0
    assert counts.seen["lift_fresh"] == 0  # a tensor made of a number of the host


@pytest.mark.parametrize("room", [1, 5, 256])
@pytest.mark.parametrize("keep_cache", [True, False])
@pytest.mark.parametrize("selector", ["uniform", "seats"])
def test_the_cache_with_room_gives_the_logits_of_transformers_own(
    model: Any, monkeypatch: pytest.MonkeyPatch, selector: str, keep_cache: bool, room: int
) -> None:
    monkeypatch.setattr(kv, "ROOM", room)
    stream = kept(model, selector)
    found = []
    for cache in (DynamicCache(config=model.decoder.config), kv.new_cache(model.decoder)):
        hidden, _ = generate.prefill(model, stream, cache, keep_cache=keep_cache)
        steps = generate.decode_steps(model, stream, cache, hidden)
        logits = [next(steps), *(steps.send(token) for token in range(12))]
        sizes = [layer.get_seq_length() for layer in cache.layers]  # type: ignore[union-attr]
        found.append((torch.stack(logits), sizes, kv.cache_bytes(cache)))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def test_a_cache_may_be_cropped_selected_and_written_again(model: Any) -> None:
    states = torch.randn(3, 2, 9, 4)
    layer, plain = kv.RoomyLayer(), DynamicCache(config=model.decoder.config).layers[0]
    for each in (layer, plain):
        each.update(states[:, :, :5], -states[:, :, :5])
        each.crop(-2)  # type: ignore[union-attr]
        each.update(states[:, :, 5:6], -states[:, :, 5:6])
        each.keys, each.values = each.keys[:, :, [0, 2]], each.values[:, :, [0, 2]]  # type: ignore[index]
        each.update(states[:, :, 6:8], -states[:, :, 6:8])
        each.batch_select_indices(torch.tensor([2, 0]))  # type: ignore[union-attr]
        each.update(states[:2, :, 8:], -states[:2, :, 8:])
    assert torch.equal(layer.keys, plain.keys)  # type: ignore[arg-type]
    assert torch.equal(layer.values, plain.values)  # type: ignore[arg-type]
    layer.reset()
    assert layer.get_seq_length() == 0


def test_tokens_are_written_behind_the_others_without_moving_them(model: Any) -> None:
    cache = kv.new_cache(model.decoder)
    stream = kept(model, "uniform")
    steps = generate.decode_steps(model, stream, cache, generate.prefill(model, stream, cache)[0])
    next(steps)
    places = [layer.keys.data_ptr() for layer in cache.layers]  # type: ignore[union-attr]
    for token in range(20):
        steps.send(token)
    assert [layer.keys.data_ptr() for layer in cache.layers] == places  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("stop", "loops_at", "reason"), [(6, 0, "stop"), (0, 5, "repetition"), (99, 99, "length")])
def test_ids_that_are_read_late_give_the_same_answer_pieces_and_cache(
    model: Any, monkeypatch: pytest.MonkeyPatch, stop: int, loops_at: int, reason: str, temperature: float
) -> None:
    stream = kept(model, "seats")
    monkeypatch.setattr(generate, "loops", lambda ids, repeats: False)
    free = generate.run(model, stream, max_new_tokens=16, temperature=temperature).answer.token_ids
    monkeypatch.setattr(generate, "loops", lambda ids, repeats: len(ids) == loops_at)
    ends = frozenset([free[stop]]) if stop and stop < len(free) else frozenset()
    asked = SimpleNamespace(**{**vars(model), "stop_ids": ends})
    found = []
    for ahead in (0, 1, 3):
        monkeypatch.setattr(generate, "AHEAD", {"cpu": ahead})
        cache, pieces = kv.new_cache(model.decoder), list[str]()
        saying = generate.stream(asked, stream, max_new_tokens=16, temperature=temperature, cache=cache)
        answer = generate.finish(saying, pieces.append).answer
        sizes = [layer.get_seq_length() for layer in cache.layers]  # type: ignore[union-attr]
        found.append((answer.token_ids, answer.text, answer.finish_reason, answer.kv_cache_bytes, pieces, sizes))
    assert found[0] == found[1] == found[2]
    assert found[0][2] == reason


def test_text_comes_before_the_next_but_one_step(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "AHEAD", {"cpu": 1})
    monkeypatch.setattr(generate, "loops", lambda ids, repeats: False)
    chosen, choose = [], generate._choose

    def watched(*args: Any) -> torch.Tensor:
        chosen.append(choose(*args))
        return chosen[-1]

    monkeypatch.setattr(generate, "_choose", watched)
    saying = generate.stream(model, kept(model, "uniform"), max_new_tokens=6)
    counts = [len(chosen) for _ in saying]
    assert counts[0] == 1  # the first is read at once
    assert all(count <= place + 2 for place, count in enumerate(counts))


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_a_draw_is_that_of_torch_multinomial(temperature: float) -> None:
    for seed in range(50):
        logits = torch.randn(500, generator=torch.Generator().manual_seed(seed)) * 4
        drawn = generate._choose(logits, temperature, torch.Generator().manual_seed(seed))
        weights = (logits / temperature).softmax(-1)
        assert drawn == torch.multinomial(weights, 1, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_choose_no_token(bad: float, temperature: float) -> None:
    logits = torch.tensor([0.0, bad, 1.0])
    assert generate._choose(logits, temperature, torch.Generator().manual_seed(0)) == -1
