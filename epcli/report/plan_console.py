"""A plan for people: what `ep plan` prints, 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from epcli.records import Plan
from epcli.text import format_time, size

NEEDS = {  # of PlannedMemory
    "language_model": "language model",
    "towers": "towers",
    "sieve": "sieve",
    "frames_and_samples": "frames, samples",
    "looking": "looking",
    "listening": "listening",
    "token_embeddings": "embeddings",
    "choosing": "choosing",
    "prefill": "prefill",
    "kv_cache": "KV cache",
}


def describe(plan: Plan) -> str:
    """The plan as text."""
    parts = (_heading(plan), _tokens(plan), _memory(plan), _verdict(plan))
    return "\n".join(line for part in parts for line in part)


def _heading(plan: Plan) -> Iterator[str]:
    media = plan.media
    facts = [Path(media.path).name, format_time(media.duration_s)]
    if media.frames:
        facts.append("{} frames of {}x{}".format(media.frames, *media.frame_size))
    facts += [plan.model, f"{plan.device} {plan.dtype}"]
    facts += [plan.quantize] if plan.quantize != "none" else []
    facts += [f"selector {plan.selector}"] if plan.selector != "none" else []
    yield " · ".join(facts)
    yield ""


def _tokens(plan: Plan) -> Iterator[str]:
    yield f"{'tokens':12}{'total':>10}{'kept':>10}"
    for name in ("video", "audio", "text"):
        count = plan.tokens.of(name)
        yield f"{name:12}{count.total:>10,}{count.kept:>10,}"
    context = plan.context
    yield ""
    yield f"context     {context.used:,} of {context.limit:,} tokens" + ("" if context.fits else ": does not fit")
    yield ""


def _memory(plan: Plan) -> Iterator[str]:
    yield f"{'memory':18}{'':>10}"
    for name, amount in asdict(plan.memory).items():
        if amount:
            yield f"{NEEDS[name]:18}{size(amount):>10}"
    yield f"{'at most':18}{size(plan.peak_bytes):>10}  (stage {plan.largest_stage}, libraries included)"
    yield ""


def _verdict(plan: Plan) -> Iterator[str]:
    memory = plan.available
    if memory.bytes is None:
        yield f"whether it fits is not known: {memory.what}"
    else:
        yield f"{'fits' if memory.fits else 'does not fit'}: {size(memory.bytes)} {memory.what}"
    yield from (f"  {line}" for line in plan.advice)
    yield from (f"note: {line}" for line in plan.notes)
