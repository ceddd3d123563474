"""GPUs before Ampere, and those that the weights do not fit: attention with repeated keys, a sieve on the GPU."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_sieve import make_decoder, make_stream
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from epcli.models import attention
from epcli.models.sieve_weights import build_sieve
from epcli.session import generate, kv
from epcli.sieve.select import Budget
from epcli.sieve.selectors import SELECTORS, Tools, select
from epcli.sieve.sieve import Sieve


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [True, False, None])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (1, 9), (1, 1)])
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (6, 1), (3, 3)])
def test_repeated_keys_attend_as_shared_ones_and_ask_for_no_sharing(
    monkeypatch: pytest.MonkeyPatch, heads: int, groups: int, queries: int, keys: int, causal: bool | None, masked: bool
) -> None:
    torch.manual_seed(0)
    module = SimpleNamespace(is_causal=True, num_key_value_groups=heads // groups)
    query, (key, value) = torch.randn(2, heads, queries, 8), torch.randn(2, 2, groups, keys, 8)
    mask = torch.rand(2, 1, queries, keys) > 0.3 if masked else None
    if mask is not None:
        mask[..., 0] = True
    want, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.4, is_causal=causal)  # type: ignore[arg-type]
    asked: list[Any] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        asked.append(kwargs.get("enable_gqa", False))
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    found, _ = attention.attend_repeated(module, query, key, value, mask, scaling=0.4, is_causal=causal)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)
    assert asked == [False]


@pytest.mark.parametrize("selector", [name for name in SELECTORS if name != "none"])
def test_a_decoder_for_older_cards_gives_the_same_tokens(selector: str) -> None:
    plain = make_decoder()
    older = copy.deepcopy(plain)
    attention.use_repeated(older.config)
    found = []
    for decoder in (plain, older):
        sieve = Sieve.for_decoder(decoder, 1)
        torch.manual_seed(0)
        for parameter in sieve.scorer.parameters():
            torch.nn.init.normal_(parameter)
        model: Any = SimpleNamespace(decoder=decoder, logits=lambda hidden: hidden)
        cache = kv.new_cache(decoder)
        with torch.inference_mode():
            kept = select(selector, make_stream(8), Budget(ratio=0.4), Tools(decoder=decoder, sieve=sieve, seed=1))
            steps = generate.decode_steps(model, kept, cache, generate.prefill(model, kept, cache)[0])
            found.append((kept.indices, torch.stack([next(steps), steps.send(3), steps.send(5)])))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("capability", "repeats"), [((7, 0), True), ((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_the_card_decides(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], repeats: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    for device, expected in (("cuda", repeats), ("cpu", False)):
        decoder = SimpleNamespace(config=SimpleNamespace(_attn_implementation="sdpa"))
        attention.fit_to_card(decoder, torch.device(device))
        assert (decoder.config._attn_implementation == attention.REPEATED) == expected


def test_a_sieve_goes_where_an_offloaded_decoder_computes() -> None:
    """Offloaded weights are on the meta device until their layer is due."""
    decoder = make_decoder()
    weights = {
        f"{part}.{name}": value
        for part, module in (
            ("refiner", Sieve.for_decoder(decoder, 1).refiner),
            ("scorer", Sieve.for_decoder(decoder, 1).scorer),
        )
        for name, value in module.state_dict().items()
    }
    decoder.norm.to("meta")
    sieve = build_sieve(weights, decoder, "here", device=torch.device("cpu"))
    assert {parameter.device.type for parameter in sieve.parameters()} == {"cpu"}
