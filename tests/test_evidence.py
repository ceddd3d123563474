"""The attention that evidence is read from, against the plain way to get it."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_omni
import torch
from transformers import DynamicCache

from epcli.models.qwen_omni.model import QwenOmni
from epcli.records import Answer, AudioFeatures, Features, Modality, VideoFeatures
from epcli.session import generate
from epcli.session.evidence import attention, find_evidence
from epcli.sieve.select import Budget
from epcli.sieve.selectors import Tools, select


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> QwenOmni:
    folder = tiny_omni.write(tmp_path_factory.mktemp("omni"), sieve=True)
    return QwenOmni.open(folder, "tiny", torch.device("cpu"), torch.float32)


def answered(model: QwenOmni, selector: str, keep: float):
    torch.manual_seed(1)
    features = Features(
        4.0,
        VideoFeatures(torch.randn(2, 3, 4, 128), torch.tensor([0.0, 2.0]).double(), 2.0),
        AudioFeatures(torch.randn(100, 128), 0.04),
    )
    stream = model.stream(features, "What?", None)
    kept = select(selector, stream, Budget.of(keep), Tools(decoder=model.decoder, sieve=model.sieve))
    cache = DynamicCache(config=model.decoder.config)
    answer = generate.run(model, kept, max_new_tokens=7, cache=cache).answer
    return kept, answer, cache


@pytest.mark.parametrize(("selector", "keep"), [("none", 1.0), ("cs2", 0.3)])
@torch.inference_mode()
def test_attention_over_the_cache_is_that_of_one_plain_pass(model, selector, keep):
    kept, answer, cache = answered(model, selector, 1.0 if selector == "none" else keep)
    before, length = 3, len(kept.embeds)
    got = dict(attention(model, kept, answer, cache, before))

    said = model.decoder.get_input_embeddings()(torch.tensor([answer.token_ids[:-1]]))
    steps = kept.stream.next_position + torch.arange(said.shape[1])
    config = model.decoder.config
    plain, config._attn_implementation = config._attn_implementation, "eager"
    try:
        whole = model.decoder(
            inputs_embeds=torch.cat([kept.embeds[None], said], 1),
            position_ids=torch.cat([kept.positions[:, None], steps.expand(4, 1, -1)], 2),
            output_attentions=True,
            use_cache=False,
        ).attentions
    finally:
        config._attn_implementation = plain
    for layer, weights in enumerate(whole):
        want = weights[0, :, length - before :, :length].mean(0)
        assert torch.allclose(got[layer], want, atol=1e-5), f"layer {layer}"


@pytest.mark.parametrize("selector", ["none", "random", "cs2"])
def test_evidence_is_only_of_kept_tokens_and_sums_to_one(model, selector):
    kept, answer, cache = answered(model, selector, 1.0 if selector == "none" else 0.2)
    found = find_evidence(model, kept, answer, cache)
    is_av = kept.stream.modality != Modality.TEXT
    was_kept = torch.zeros(len(is_av), dtype=torch.bool)
    was_kept[kept.indices] = True
    assert found.shape == (int(is_av.sum()),)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert not found[~was_kept[is_av].numpy()].any()


def test_an_answer_without_words_has_no_evidence(model):
    kept, _, cache = answered(model, "none", 1.0)
    assert not np.any(find_evidence(model, kept, Answer("", (), "stop", 0.0, 0.0, 0), cache))
