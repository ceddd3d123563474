"""A tokenizer like the language model's, but small: words of a list are one piece each."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from epcli.models import chatml

UNKNOWN = "<unk>"


def word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Each word is one piece where it begins a text, and another where a space stands before it; others are unknown."""
    pieces = [UNKNOWN, "Ċ", ".", ",", "?", "!", *(f"{space}{word}" for word in words for space in ("", "Ġ"))]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([chatml.BEGIN, chatml.END])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
