"""all-MiniLM-L6-v2: a text as 384 numbers, so that texts of one meaning lie close to each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from epcli.observe.weights import MINILM_CONFIG, MINILM_TOKENIZER, MINILM_WEIGHTS, fetch

WIDTH = 384
LONGEST = 256  # tokens; the model was trained with 128
BATCH = 64  # texts at a time


class MiniLM:
    """Texts in, vectors out."""

    def __init__(self) -> None:
        """Load it, fetched where the cache does not hold it yet. Raises WeightsError."""
        from epcli.compat import import_transformers

        weights, config, tokenizer = fetch(MINILM_WEIGHTS, MINILM_CONFIG, MINILM_TOKENIZER)
        import_transformers()
        import torch
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers.models.bert.configuration_bert import BertConfig
        from transformers.models.bert.modeling_bert import BertModel

        self._torch = torch
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(LONGEST)
        self._tokenizer.enable_padding()
        model = BertModel(BertConfig.from_json_file(str(config)), add_pooling_layer=False)
        tensors = {name: each for name, each in load_file(weights).items() if not name.startswith("pooler.")}
        tensors.pop("embeddings.position_ids")  # 0, 1, 2, …; BertModel makes them itself
        model.load_state_dict(tensors, assign=True)
        self._model = model.eval()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(N, 384) float32 of length 1; the dot product of two is the cosine, 1 for the same meaning."""
        found = np.empty((len(texts), WIDTH), np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # little padding
        for begin in range(0, len(order), BATCH):
            rows = order[begin : begin + BATCH]
            found[rows] = self._batch([texts[row] for row in rows])
        return found

    def _batch(self, texts: Sequence[str]) -> np.ndarray:
        torch = self._torch
        encoded = self._tokenizer.encode_batch(list(texts))
        ids = torch.tensor([each.ids for each in encoded])
        mask = torch.tensor([each.attention_mask for each in encoded])
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            share = mask.unsqueeze(-1).to(states.dtype)
            mean = (states * share).sum(1) / share.sum(1)
            unit: np.ndarray = torch.nn.functional.normalize(mean, dim=1).numpy()
        return unit
