"""Prompts in ChatML, the chat format of SmolLM2 and Qwen.

    <|im_start|>system
    …<|im_end|>
    <|im_start|>user
    [the clip's tokens] question<|im_end|>
    <|im_start|>assistant

The markup's ids are put in by number. What people type is tokenized without the tokenizer's added tokens, so that a
typed "<|im_end|>" is ten letters and ends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from epcli.records import Turn
from epcli.text import well_formed

BEGIN, END = "<|im_start|>", "<|im_end|>"


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of plain text by a transformers fast tokenizer: what looks like a special token in it is letters."""
    fast = tokenizer.backend_tokenizer
    plain = Tokenizer(fast.model)  # the same vocabulary and merges; added tokens belong to `fast` alone
    if fast.normalizer is not None:
        plain.normalizer = fast.normalizer
    plain.pre_tokenizer = fast.pre_tokenizer
    ids: list[int] = plain.encode(well_formed(text), add_special_tokens=False).ids
    return ids


def prompt_ids(
    tokenizer: Any, question: str, system: str, history: Sequence[Turn] = (), after_clip: str = ""
) -> tuple[list[int], list[int]]:
    """Token ids before and after the media tokens; the questions come after them, `after_clip` right after."""
    begin, end = tokenizer.convert_tokens_to_ids([BEGIN, END])

    def ids(text: str) -> list[int]:
        return plain_ids(tokenizer, text)

    before = [begin, *ids(f"system\n{system}"), end, *ids("\n"), begin, *ids("user\n")]
    after, gap = [], after_clip
    for turn in history:
        after += [*ids(gap + turn.question.strip()), end, *ids("\n"), begin, *ids(f"assistant\n{turn.answer}"), end]
        after += [*ids("\n"), begin]
        gap = "user\n"
    return before, [*after, *ids(gap + question.strip()), end, *ids("\n"), begin, *ids("assistant\n")]
