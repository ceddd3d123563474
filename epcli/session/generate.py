"""Prefill of the kept stream, by its plan of what leaves inside the decoder; then streaming decode, token by token.

Positions of generated tokens follow the unpruned prompt (CS2 facts, 5). Only the last position's logits are computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache

from epcli.compat import caching
from epcli.errors import CapacityError
from epcli.models.family import AVModel
from epcli.records import Answer, ChoiceProbability, KeptStream
from epcli.session.finite import overflow
from epcli.session.grammar import Grammar
from epcli.session.kv import cache_bytes, new_cache
from epcli.sieve.drops import LayerOutput

REPEATS = 4  # the same run of tokens this often in a row is a loop, not an answer
JSON_REPEATS = 16  # of JSON: lists hold equal items
LONGEST_LOOP = 24  # tokens
# What leaves inside the decoder stays in the caches of the layers that it has passed, so that the answer's tokens can
# attend to it there. False drops it from those too, as SEATS' published code does: the answer then reads text only.
KEEP_CACHE = True
# Steps that are queued before an id is read, by kind of device. Up to so many are in vain at an answer's end.
AHEAD = {"cuda": 1}

T = TypeVar("T")


class Generated(NamedTuple):
    """What `stream` and `run` return."""

    answer: Answer
    prefill_s: float
    depths: Tensor  # (K,) int64 decoder layers that each kept token passed
    choices: tuple[ChoiceProbability, ...] | None = None  # where the answer was one of several


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """(V,) float32 -> () int64 id, on the same device: the likeliest at temperature 0, else drawn; -1 if not finite."""
    best = logits.argmax()  # of a NaN, if there is one
    finite = logits.take(best).isfinite()
    if temperature > 0:
        weights = (logits / temperature).softmax(-1)
        # What torch.multinomial does for one sample, but for its check of the weights, which waits for the device.
        best = (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax()
    return best.where(finite, -1)


def loops(ids: list[int], repeats: int = REPEATS) -> bool:
    """Whether the end of `ids` is one run of tokens `repeats` times over."""
    for length in range(1, min(LONGEST_LOOP, len(ids) // repeats) + 1):
        run = ids[-length:]
        if length == 1 and len(ids) < 12:
            continue
        if all(ids[-length * (i + 1) : len(ids) - length * i] == run for i in range(repeats)):
            return True
    return False


class _Ids:
    """Chosen ids on their way to the host, each copied behind the step that made it and read when it is due."""

    def __init__(self, most: int, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.host = torch.empty(most, dtype=torch.int64, pin_memory=self.on_gpu)
        self.arrived: list[torch.cuda.Event] = []
        self.sent = 0

    def send(self, token: Tensor) -> None:
        """`token`: () int64 on the device. Waits for nothing on CUDA."""
        self.host[self.sent].copy_(token, non_blocking=self.on_gpu)
        if self.on_gpu:
            self.arrived.append(torch.cuda.Event())
            self.arrived[-1].record()
        self.sent += 1

    def read(self, place: int) -> int:
        """The id sent as number `place`, once its own step is done; later steps may still run."""
        if self.on_gpu:
            self.arrived[place].synchronize()
        return int(self.host.numpy()[place])


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


class _Prefill:
    """Drops tokens while the decoder's own forward runs: hooks before its layers hand on what stays."""

    def __init__(self, decoder: Any, kept: KeptStream, cache: DynamicCache, keep_cache: bool) -> None:
        self.layers, self.cache, self.keep_cache = decoder.layers, cache, keep_cache
        self.rules = {drop.after: drop.rule for drop in kept.drops}
        assert all(0 < after < len(self.layers) for after in self.rules), "tokens leave between two layers"
        self.left = torch.arange(len(kept.embeds), device=kept.embeds.device)
        self.depths = torch.full_like(self.left, len(self.layers))

    @contextmanager
    def watching(self) -> Iterator[None]:
        first = min(self.rules, default=len(self.layers))
        hooks = [
            layer.register_forward_pre_hook(partial(self._before, first + place), with_kwargs=True)
            for place, layer in enumerate(self.layers[first:])
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _before(self, done: int, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Before the layer after the first `done`. The decoder hands all but the states to it for all K tokens."""
        hidden = args[0] if args else kwargs.pop("hidden_states")
        turns = kwargs["position_embeddings"]
        if done in self.rules:
            cos, sin = (each[0, self.left] for each in turns)
            stay = self.rules[done](LayerOutput(self.layers[done - 1], hidden[0], (cos, sin), self.left))
            gone = torch.ones_like(self.left, dtype=torch.bool)
            gone[stay] = False
            self.depths[self.left[gone]] = done
            hidden, self.left = hidden[:, stay], self.left[stay]
            if not self.keep_cache:
                stored: Any
                for stored in self.cache.layers[:done]:
                    stored.keys, stored.values = stored.keys[:, :, stay], stored.values[:, :, stay]
        kwargs["position_embeddings"] = tuple(each[:, self.left] for each in turns)
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = kwargs["position_ids"][..., self.left]
        if kwargs.get("attention_mask") is not None:
            kwargs["attention_mask"] = kwargs["attention_mask"][..., self.left, :][..., self.left]
        return (hidden, *args[1:]), kwargs


@torch.inference_mode()
def prefill(
    model: AVModel, kept: KeptStream, cache: DynamicCache, *, keep_cache: bool = KEEP_CACHE
) -> tuple[Tensor, Tensor]:
    """Run the decoder over a kept stream, dropping inside it what `kept.drops` say.

    Args:
        model, kept: the decoder, and what it reads.
        cache: empty; afterwards it has each layer's keys and values.
        keep_cache: see KEEP_CACHE.

    Returns:
        (1, D) final state of the last token, and (K,) int64 how many layers each token passed.
    """
    dropping = _Prefill(model.decoder, kept, cache, keep_cache)
    with dropping.watching():
        hidden = model.decoder(
            inputs_embeds=kept.embeds[None],
            position_ids=kept.positions[:, None],
            attention_mask=None,
            **caching(model.decoder, cache),
        ).last_hidden_state[:, -1]
    return hidden, dropping.depths


@torch.inference_mode()
def decode_steps(
    model: AVModel, kept: KeptStream, cache: DynamicCache, hidden: Tensor
) -> Generator[Tensor, int | Tensor, None]:
    """Yield (V,) float32 logits of the next token; `send` the chosen id to go on. `hidden` comes from `prefill`.

    An id that is a tensor on the device is neither copied nor waited for.
    """
    position = kept.stream.next_position
    table = model.decoder.get_input_embeddings()
    while True:
        token = yield model.logits(hidden)[0]
        ids = torch.as_tensor(token, device=kept.embeds.device).view(1, 1)
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
    grammar: Grammar | None = None,
) -> Generator[str, None, Generated]:
    """Answer from a kept stream: yields the text as it grows, returns the answer and what prefill did.

    Time that passes while the caller has a piece is in no figure. `cache`: an empty one to use, for a caller that wants
    the keys and values afterwards. `grammar`: what alone may be said. Raises CapacityError if prompt and answer are
    longer than the decoder's context, UsageError or WeightsError if the decoder's numbers are not finite, and EpError
    if the answer ends before the grammar lets it.
    """
    length = kept.embeds.shape[0]
    if length + max_new_tokens > model.context_tokens:
        raise CapacityError(
            f"{length} prompt tokens and {max_new_tokens} of answer exceed the {model.context_tokens} that "
            f"{model.name} reads; shorten the range (--start/--end), lower --fps or --max-frames, or --keep fewer"
        )
    cache = new_cache(model.decoder) if cache is None else cache
    # What the grammar allows follows from the token before, so that none can be chosen ahead of it.
    most_ahead = 0 if grammar else AHEAD.get(model.device.type, 0)
    repeats = JSON_REPEATS if grammar else REPEATS
    generator = torch.Generator(model.device).manual_seed(seed)
    text, reason = _Text(model.tokenizer), "length"
    synchronize(model.device)
    start = time.perf_counter()
    hidden, depths = prefill(model, kept, cache)
    steps = decode_steps(model, kept, cache, hidden)
    logits = next(steps)
    synchronize(model.device)
    prefill_s = first_token_s = time.perf_counter() - start
    away_s = 0.0
    ids = _Ids(max_new_tokens, model.device)

    def choose(logits: Tensor) -> Tensor:
        return _choose(logits if grammar is None else grammar.allowed(logits), temperature, generator)

    token = choose(logits)
    ids.send(token)
    for place in range(max_new_tokens):
        # The step after this one is queued before this one's id is read, so that the device need not wait for the host.
        ahead = min(place + 1 + (most_ahead if place else 0), max_new_tokens)
        while ids.sent < ahead:
            token = choose(steps.send(token.clamp(min=0)))
            ids.send(token)
        number = ids.read(place)
        if number < 0:
            raise overflow(model, "decoder")
        if place == 0:
            first_token_s = time.perf_counter() - start
        if number in model.stop_ids:
            reason = "stop"
            break
        if grammar is not None:
            grammar.add(number)
        if piece := text.add(number):
            left = time.perf_counter()
            yield piece
            away_s += time.perf_counter() - left
        if grammar is not None and grammar.complete:
            reason = "stop"
            break
        if loops(text.ids, repeats):
            reason = "repetition"
            break
    synchronize(model.device)
    decode_s = time.perf_counter() - start - first_token_s - away_s
    if piece := text.rest():
        yield piece
    if grammar is not None and reason != "stop":
        raise grammar.unfinished(reason, max_new_tokens)
    if vain := ids.sent - 1 - place:
        cache.crop(-vain)
    said = text.text.strip()
    answer = Answer(said, tuple(text.ids), reason, first_token_s, decode_s, cache_bytes(cache))
    return Generated(answer, prefill_s, depths)


def run(model: AVModel, kept: KeptStream, **options: Any) -> Generated:
    """The whole answer at once. Options and errors are those of `stream`."""
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
