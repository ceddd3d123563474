"""all-MiniLM-L6-v2: a text as 384 numbers, so that texts of one meaning lie close to each other.

It runs in numpy: `ep find` needs it for one short text, and importing torch and transformers would take several times
as long as the whole search. test_minilm.py compares it with transformers' BertModel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from epcli.observe.weights import MINILM_TOKENIZER, MINILM_WEIGHTS, fetch

WIDTH = 384
LONGEST = 256  # tokens; the model was trained with 128
BATCH = 32  # texts at a time
LAYERS, HEADS = 6, 12
EPSILON = 1e-12  # of a layer norm


class MiniLM:
    """Texts in, vectors out."""

    def __init__(self) -> None:
        """Load it, fetched where the cache does not hold it yet. Raises WeightsError."""
        weights, tokenizer = fetch(MINILM_WEIGHTS, MINILM_TOKENIZER)

        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        self._weights = load_file(weights)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(LONGEST)
        self._tokenizer.enable_padding()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(N, 384) float32 of length 1; the dot product of two is the cosine, 1 for the same meaning."""
        found = np.empty((len(texts), WIDTH), np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # little padding
        for begin in range(0, len(order), BATCH):
            rows = order[begin : begin + BATCH]
            found[rows] = self._batch([texts[row] for row in rows])
        return found

    def is_word(self, word: str) -> bool:
        """Whether it is one of the common English words that the tokenizer holds whole."""
        return self._tokenizer.token_to_id(word.lower()) is not None

    def _batch(self, texts: Sequence[str]) -> np.ndarray:
        encoded = self._tokenizer.encode_batch(list(texts))
        ids = np.array([each.ids for each in encoded])  # (B, L)
        mask = np.array([each.attention_mask for each in encoded], np.float32)
        states = self._weights["embeddings.word_embeddings.weight"][ids]
        states += self._weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        states += self._weights["embeddings.token_type_embeddings.weight"][0]
        states = self._norm("embeddings.LayerNorm", states)
        blind = (1 - mask)[:, None, None, :] * np.float32(-1e9)  # (B, 1, 1, L): nothing looks at padding
        for number in range(LAYERS):
            layer = f"encoder.layer.{number}"
            read = self._dense(
                f"{layer}.attention.output.dense", self._attend(f"{layer}.attention.self", states, blind)
            )
            states = self._norm(f"{layer}.attention.output.LayerNorm", states + read)
            wide = _gelu(self._dense(f"{layer}.intermediate.dense", states))
            states = self._norm(f"{layer}.output.LayerNorm", states + self._dense(f"{layer}.output.dense", wide))
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        unit: np.ndarray = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return unit

    def _attend(self, name: str, states: np.ndarray, blind: np.ndarray) -> np.ndarray:
        """(B, L, 384) -> what each token reads of the others, the same shape."""
        batch, length, width = states.shape

        def heads(part: str) -> np.ndarray:
            return self._dense(f"{name}.{part}", states).reshape(batch, length, HEADS, -1).transpose(0, 2, 1, 3)

        scores = heads("query") @ heads("key").transpose(0, 1, 3, 2) / np.float32((width // HEADS) ** 0.5) + blind
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return (shares @ heads("value")).transpose(0, 2, 1, 3).reshape(batch, length, width)

    def _dense(self, name: str, values: np.ndarray) -> np.ndarray:
        product: np.ndarray = values.reshape(-1, values.shape[-1]) @ self._weights[f"{name}.weight"].T
        product += self._weights[f"{name}.bias"]
        return product.reshape(*values.shape[:-1], -1)

    def _norm(self, name: str, values: np.ndarray) -> np.ndarray:
        centred = values - values.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(EPSILON))
        normed: np.ndarray = scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return normed


def _gelu(x: np.ndarray) -> np.ndarray:
    """x times the normal distribution's share below x. Abramowitz and Stegun 7.1.26 for erf: within 1.5e-7."""
    z = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    powers = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.copysign(1 - powers * np.exp(-z * z), x)
    half: np.ndarray = np.float32(0.5) * x * (1 + erf)
    return half
