"""How likely a model is to name each of several choices before any other, in its own words.

Models answer in sentences. The likelihood of a bare "piano" says little about a model that is about to say "The piano
plays first.": of 19 questions about the clips in docs/media, ep-smol chose right in 18 this way, and in 10 by the
likelihood of the bare choice. Step by step:

1. The model answers, each token the likeliest. The words so far have a probability, the product over their tokens.
2. Before each token, every choice might be named instead. The probability of that is the product of the words so far
   and of the choice's tokens after them. It counts with or without a capital, and with or without a space before it.
3. Where one choice begins with another, as "no one" with "no", the longer is taken off the shorter.
4. The answer stops when it has named a choice, or nothing that could follow would matter.
5. A choice's score is the sum over the places where it could be named. These are different answers, none counted twice,
   so that the scores, divided by their sum, are probabilities: which choice is named first, if one is.

A score is a product of all tokens, not a mean over them: a mean is no probability, and favours long choices whose later
tokens follow from the first. Step 3 is what an end after the choice would do for a model that answers in one word.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from epcli.compat import caching
from epcli.errors import CapacityError, EpError
from epcli.models.chatml import plain_ids
from epcli.models.family import AVModel
from epcli.records import Answer, ChoiceProbability, KeptStream
from epcli.session.finite import overflow
from epcli.session.form import Choices
from epcli.session.generate import Generated, decode_steps, loops, prefill, synchronize
from epcli.session.kv import cache_bytes, masks_that_fit

NEGLIGIBLE = 1e-3  # of the best score so far: what cannot add more is not computed


@dataclass(frozen=True)
class Naming:
    """One way to write a choice."""

    choice: int
    text: str
    ids: tuple[int, ...]


def namings(model: AVModel, choices: Choices) -> list[Naming]:
    """All ways to write the choices: as given and with the other case of the first letter, each also after a space.

    A single letter has its case: "a" is also a word.
    """
    found: list[Naming] = []
    for number, text in enumerate(choices.texts):
        cases = [text] if len(text) == 1 else dict.fromkeys((text, text[0].swapcase() + text[1:]))
        written = [space + case for case in cases for space in ("", " ")]
        found += [Naming(number, each, tuple(plain_ids(model.tokenizer, each))) for each in written]
    return found


@torch.inference_mode()
def choose(
    model: AVModel, kept: KeptStream, choices: Choices, cache: DynamicCache, max_new_tokens: int
) -> Generator[str, None, Generated]:
    """Yield the likeliest choice, of equals the first; return it as `generate.stream` does, with all probabilities.

    The answer's tokens are the model's words up to the choice, and the choice. Nothing is drawn, so temperature and
    seed change nothing. `cache`: an empty one. Raises CapacityError, UsageError and WeightsError as `generate.stream`,
    and EpError if the probability of every choice is 0.
    """
    ways, length = namings(model, choices), len(kept.embeds)
    room = max_new_tokens + max(len(way.ids) for way in ways)
    if length + room > model.context_tokens:
        raise CapacityError(
            f"{length} prompt tokens and {room} of answer exceed the {model.context_tokens} that {model.name} reads; "
            "shorten the range (--start/--end), lower --fps or --max-frames, or --keep fewer"
        )
    synchronize(model.device)
    start = time.perf_counter()
    hidden, depths = prefill(model, kept, cache)
    synchronize(model.device)
    prefill_s = time.perf_counter() - start
    scores, said = _walk(model, kept, choices, ways, cache, hidden, max_new_tokens)
    synchronize(model.device)
    total_s = time.perf_counter() - start
    whole = sum(scores)
    if not whole:
        raise EpError(f"{model.name} would say none of the choices, so they cannot be compared; make them shorter")
    best = scores.index(max(scores))
    shares = [score / whole for score in scores]
    answer = Answer(choices.texts[best], said[best], "stop", total_s, 0.0, cache_bytes(cache))
    yield answer.text
    probabilities = tuple(map(ChoiceProbability, choices.texts, shares))
    return Generated(answer, prefill_s, depths, probabilities)


def _walk(
    model: AVModel,
    kept: KeptStream,
    choices: Choices,
    ways: Sequence[Naming],
    cache: DynamicCache,
    hidden: Tensor,
    max_new_tokens: int,
) -> tuple[list[float], list[tuple[int, ...]]]:
    """The score of each choice, and the likeliest tokens that name it, the words before it included."""
    scores, most = [0.0] * len(choices.texts), [-1.0] * len(choices.texts)
    said: list[tuple[int, ...]] = [()] * len(choices.texts)
    first_ids = torch.tensor([way.ids[0] for way in ways], device=kept.embeds.device)
    steps = decode_steps(model, kept, cache, hidden)
    logits, path, text, mass = next(steps), list[int](), "", 1.0
    while True:
        logs = logits.log_softmax(-1)  # float32: not every device has float64
        likeliest = int(logs.argmax())
        if not logs[likeliest].isfinite():
            raise overflow(model, "decoder")
        firsts = zip(ways, logs[first_ids].exp().tolist(), strict=True)
        found: dict[Naming, float] = {}
        for way, chance in sorted(firsts, key=lambda pair: -pair[1]):  # what comes later is more often negligible
            chance *= mass
            if chance > NEGLIGIBLE * max(*scores, *found.values()) and _stands_apart(text, way, choices):
                position = kept.stream.next_position + len(path)
                found[way] = chance * (_rest(model, kept, cache, position, way.ids) if len(way.ids) > 1 else 1.0)
        for way, chance in _without_longer(found).items():
            scores[way.choice] += chance
            if chance > most[way.choice]:
                most[way.choice], said[way.choice] = chance, (*path, *way.ids)
        mass *= float(logs[likeliest].exp())
        path.append(likeliest)
        if likeliest in model.stop_ids or len(path) == max_new_tokens or mass <= NEGLIGIBLE * max(scores):
            return scores, said
        text = str(model.tokenizer.decode(path, skip_special_tokens=True))
        if _names_one(text, choices) or loops(path):
            return scores, said
        logits = steps.send(likeliest)


def _rest(model: AVModel, kept: KeptStream, cache: DynamicCache, position: int, ids: Sequence[int]) -> float:
    """The probability of all tokens after the first, given the first and what the cache holds. One pass."""
    tokens = torch.tensor([ids], device=kept.embeds.device)
    steps = position + torch.arange(len(ids) - 1, device=tokens.device)
    with masks_that_fit(model.decoder, cache):
        hidden = model.decoder(
            inputs_embeds=model.decoder.get_input_embeddings()(tokens[:, :-1]).to(kept.embeds.dtype),
            position_ids=steps.expand(4, 1, -1),
            attention_mask=None,
            **caching(model.decoder, cache),
        ).last_hidden_state[0]
    cache.crop(1 - len(ids))
    logs = model.logits(hidden).log_softmax(-1)
    return math.exp(float(logs.gather(1, tokens[0, 1:, None]).sum()))  # float32 would make 0 of a long sentence


def _stands_apart(before: str, way: Naming, choices: Choices) -> bool:
    """Whether a choice after these words is a word of its own, and not the end of a longer choice."""
    if before[-1:].isalnum() and not way.text.startswith(" "):
        return False
    return not any(
        len(other) > len(choices.texts[way.choice]) and (before + way.text).casefold().endswith(other.casefold())
        for other in choices.texts
    )


def _without_longer(found: dict[Naming, float]) -> dict[Naming, float]:
    """Probabilities that a choice is named and does not go on as another one."""
    alone: dict[Naming, float] = {}
    for way in sorted(found, key=lambda way: -len(way.ids)):
        longer = (chance for each, chance in alone.items() if each.ids[: len(way.ids)] == way.ids)
        alone[way] = max(found[way] - sum(longer), 0.0)
    return alone


def _names_one(text: str, choices: Choices) -> bool:
    return any(
        re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", text, re.IGNORECASE if len(choice) > 1 else 0)
        for choice in choices.texts
    )
