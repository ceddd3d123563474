"""all-MiniLM-L6-v2 gives the similarities that its authors publish."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from epcli.observe.minilm import MiniLM
from epcli.observe.weights import MINILM_WEIGHTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    return MiniLM()


def test_the_published_example(minilm: MiniLM) -> None:
    """The example of the model's page on Hugging Face: 0.695, 0.943, 0.257."""
    texts = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    first, *others = minilm.embed(texts)
    assert (np.stack(others) @ first).tolist() == pytest.approx([0.695, 0.943, 0.257], abs=0.001)


def test_a_batch_gives_what_single_texts_give(minilm: MiniLM) -> None:
    texts = [
        "a dog",
        "somebody explains at length what the second law of thermodynamics means",
        "",
        "word " * 400,
        "駅 🚆",
    ]
    together = minilm.embed(texts)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for text, row in zip(texts, together, strict=True):
        assert minilm.embed([text])[0] == pytest.approx(row, abs=1e-5)
    assert minilm.embed([]).shape == (0, 384)


def test_numpy_gives_what_transformers_gives(minilm: MiniLM) -> None:
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    model = BertModel(config, add_pooling_layer=False).eval()
    tensors = load_file(MINILM_WEIGHTS.file)
    model.load_state_dict({name: each for name, each in tensors.items() if name in model.state_dict()})
    for text in ("a dog barking", "The entropy of a closed system never decreases, said Clausius in 1865."):
        ids = torch.tensor([minilm._tokenizer.encode(text).ids])
        with torch.inference_mode():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0)
        assert minilm.embed([text])[0] == pytest.approx((mean / mean.norm()).numpy(), abs=2e-6)


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("loans", "Mortgage payments will become more expensive.", "Now we chop the onions and fry them in butter."),
        ("puppy", "dog", "bus"),
        ("childhood by the ocean", "I grew up in a small village near the sea.", "Please mind the gap."),
    ],
)
def test_meaning_counts_more_than_words(minilm: MiniLM, query: str, near: str, far: str) -> None:
    meaning, close, other = minilm.embed([query, near, far])
    assert meaning @ close > meaning @ other + 0.1


def test_common_words_are_known(minilm: MiniLM) -> None:
    assert all(map(minilm.is_word, ("long", "planet", "Zebra")))
    assert not any(map(minilm.is_word, ("elefant", "bycicle", "captian")))
