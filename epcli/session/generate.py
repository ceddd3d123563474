"""Prefill of the kept stream, then streaming decode, one token at a time.

Positions of generated tokens follow the unpruned prompt (CS2 facts, 5). Only the last position's logits are computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache

from epcli.compat import caching
from epcli.errors import CapacityError
from epcli.models.family import AVModel
from epcli.records import Answer, KeptStream

REPEATS = 4  # the same run of tokens this often in a row is a loop, not an answer
LONGEST_LOOP = 24  # tokens

T = TypeVar("T")


def _sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def kv_cache_bytes(cache: DynamicCache) -> int:
    """Bytes of all cached keys and values."""
    tensors = (getattr(layer, name) for layer in cache.layers for name in ("keys", "values"))
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    """(V,) float32 -> id: the likeliest at temperature 0, else drawn."""
    if temperature == 0:
        return int(logits.argmax())
    weights = (logits.cpu() / temperature).softmax(-1)
    return int(torch.multinomial(weights, 1, generator=generator))


def loops(ids: list[int]) -> bool:
    """Whether the end of `ids` is one run of tokens REPEATS times over."""
    for length in range(1, min(LONGEST_LOOP, len(ids) // REPEATS) + 1):
        run = ids[-length:]
        if length == 1 and len(ids) < 12:
            continue
        if all(ids[-length * (i + 1) : len(ids) - length * i] == run for i in range(REPEATS)):
            return True
    return False


class _Text:
    """Turns ids into text as they come, holding back bytes of an unfinished character."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> str:
        """The text that the token adds; none while a character is unfinished."""
        self.ids.append(token)
        return "" if self._decoded().endswith("\ufffd") else self.rest()

    def rest(self) -> str:
        """What has not been given yet."""
        whole = self._decoded()
        new = whole[len(self.text) :]
        if not self.text:
            new = new.lstrip()
        self.text = whole
        return new

    def _decoded(self) -> str:
        return str(self.tokenizer.decode(self.ids, skip_special_tokens=True))


@torch.inference_mode()
def decode_steps(model: AVModel, kept: KeptStream, cache: DynamicCache) -> Generator[Tensor, int, None]:
    """Yield (V,) float32 logits of the next token; `send` the chosen id to go on."""
    hidden = model.decoder(
        inputs_embeds=kept.embeds[None],
        position_ids=kept.positions[:, None],
        attention_mask=None,
        **caching(model.decoder, cache),
    ).last_hidden_state[:, -1]
    position = kept.stream.next_position
    table = model.decoder.get_input_embeddings()
    while True:
        token = yield model.logits(hidden)[0]
        ids = torch.tensor([[token]], device=kept.embeds.device)
        hidden = model.decoder(
            inputs_embeds=table(ids).to(kept.embeds.dtype),
            position_ids=torch.full((4, 1, 1), position, device=kept.embeds.device),
            attention_mask=None,
            **caching(model.decoder, cache),
        ).last_hidden_state[:, -1]
        position += 1


def stream(
    model: AVModel,
    kept: KeptStream,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    cache: DynamicCache | None = None,
) -> Generator[str, None, tuple[Answer, float]]:
    """Answer from a kept stream: yields the text as it grows, returns the answer and the seconds of prefill.

    Time that passes while the caller has a piece is in no figure. `cache`: an empty one to use, for a caller that wants
    the keys and values afterwards. Raises CapacityError if prompt and answer are longer than the decoder's context.
    """
    length = kept.embeds.shape[0]
    if length + max_new_tokens > model.context_tokens:
        raise CapacityError(
            f"{length} prompt tokens and {max_new_tokens} of answer exceed the {model.context_tokens} that "
            f"{model.name} reads; shorten the range (--start/--end), lower --fps or --max-frames, or --keep fewer"
        )
    cache = DynamicCache(config=model.decoder.config) if cache is None else cache
    generator = torch.Generator().manual_seed(seed)
    text, reason = _Text(model.tokenizer), "length"
    _sync(model.device)
    start = time.perf_counter()
    steps = decode_steps(model, kept, cache)
    logits = next(steps)
    _sync(model.device)
    prefill_s = first_token_s = time.perf_counter() - start
    away_s = 0.0
    for count in range(max_new_tokens):
        token = _choose(logits, temperature, generator)
        if count == 0:
            first_token_s = time.perf_counter() - start
        if token in model.stop_ids:
            reason = "stop"
            break
        if piece := text.add(token):
            left = time.perf_counter()
            yield piece
            away_s += time.perf_counter() - left
        if loops(text.ids):
            reason = "repetition"
            break
        if count + 1 < max_new_tokens:
            logits = steps.send(token)
    _sync(model.device)
    decode_s = time.perf_counter() - start - first_token_s - away_s
    if piece := text.rest():
        yield piece
    said = text.text.strip()
    return Answer(said, tuple(text.ids), reason, first_token_s, decode_s, kv_cache_bytes(cache)), prefill_s


def run(model: AVModel, kept: KeptStream, **options: Any) -> tuple[Answer, float]:
    """The whole answer at once, and the seconds of prefill. Options and errors are those of `stream`."""
    return finish(stream(model, kept, **options))


def finish(steps: Generator[str, None, T], on_text: Callable[[str], None] | None = None) -> T:
    """Take all pieces of a stream and return what it returns. `on_text` is called with each piece."""
    while True:
        try:
            piece = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if on_text is not None:
            on_text(piece)
