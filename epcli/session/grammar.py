"""Decoding that can only say what a JSON Schema allows: before each token, those that it forbids are taken out.

The rules are llguidance's. It works on the bytes of the tokens, so that any tokenizer and any model will do.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from epcli.errors import EpError
from epcli.models.family import AVModel
from epcli.session.form import Schema, begin

_tokenizers: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # llguidance's, a second's work for a large vocabulary


class Grammar:
    """Where one answer stands in its schema."""

    def __init__(self, schema: Schema, model: AVModel) -> None:
        """Raises UsageError if no answer of this model can meet the schema."""
        self.schema = schema
        self._matcher = begin(schema, _tokenizer(model))

    @property
    def complete(self) -> bool:
        """Whether the answer meets the schema, and nothing can be added to it."""
        stopped: bool = self._matcher.is_stopped()
        return stopped

    def allowed(self, logits: Tensor) -> Tensor:
        """(V,) logits -> the same, -inf for a token that the schema forbids. Raises EpError if it grows too complex."""
        bits = torch.from_numpy(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8).copy())
        if self._matcher.is_error():
            raise self._trouble()
        each = (bits[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten()[: len(logits)].bool()
        mask = torch.zeros(len(logits), dtype=torch.bool)  # models have more logits than tokens
        mask[: len(each)] = each
        return logits.masked_fill(~mask.to(logits.device), -torch.inf)

    def add(self, token: int) -> None:
        """The answer goes on with this token. Raises EpError if it grows too complex."""
        if not self._matcher.consume_token(token):
            raise self._trouble()

    def unfinished(self, reason: str, max_new_tokens: int) -> EpError:
        """The error for an answer that ended before its JSON did."""
        bound = f"bound what {self.schema.name} leaves open (maxItems, maxLength, additionalProperties)"
        if reason == "length":
            return EpError(
                f"the answer reached --max-new-tokens {max_new_tokens} before its JSON was complete; "
                f"raise that, or {bound}"
            )
        return EpError(f"the answer repeated itself, so its JSON was not completed; {bound}")

    def _trouble(self) -> EpError:
        return EpError(f"{self.schema.name}: is too complex: {self._matcher.get_error().splitlines()[0][:200]}")


def _tokenizer(model: AVModel) -> Any:
    """llguidance's tokenizer of a model, made once."""
    from llguidance.hf import from_tokenizer

    if model.tokenizer not in _tokenizers:
        _tokenizers[model.tokenizer] = from_tokenizer(model.tokenizer, eos_token=sorted(model.stop_ids))
    return _tokenizers[model.tokenizer]
