"""What to change so that a question fits: each change is planned before it is recommended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from epcli.config import Profile
from epcli.errors import UsageError
from epcli.models import catalog
from epcli.records import Plan

SHARES = (0.5, 0.2, 0.1, 0.05, 0.02)  # keep ratios to try

Try = Callable[..., Plan | None]  # plans with some settings changed; None for settings that do not go together


def advice(made: Plan, profile: Profile, cost: Callable[[Profile], Plan]) -> tuple[str, ...]:
    """The first change of each kind that helps; nothing if all fits. `cost` plans other settings."""

    def attempt(**settings: Any) -> Plan | None:
        try:
            return cost(replace(profile, **settings))
        except UsageError:
            return None

    shares = [share for share in SHARES if not isinstance(profile.keep, float) or share < profile.keep]
    found = [] if made.context.fits else [*_for_context(made, shares, attempt)]
    if made.available.fits is False:
        found += _for_memory(profile, shares, attempt)
        if made.device == "cuda":
            found.append("without a change, layers that do not fit stay in host memory, which is slower")
    return tuple(found)


def _for_context(made: Plan, shares: list[float], attempt: Try) -> Iterator[str]:
    for share in shares:
        if (other := attempt(keep=share, budget=None)) and other.context.fits:
            yield f"--keep {share:g} fits the context"
            break
    frames = made.media.frames
    while frames > 2:
        frames //= 2
        if (other := attempt(max_frames=frames)) and other.context.fits:
            yield f"--max-frames {frames} fits the context"
            break


def _for_memory(profile: Profile, shares: list[float], attempt: Try) -> Iterator[str]:
    for settings in _to_try(profile, shares):
        if (other := attempt(**settings)) and other.available.fits:
            yield f"{_flags(settings)} fits: {other.peak_bytes / 1e9:.1f} GB"
            break


def _to_try(profile: Profile, shares: list[float]) -> Iterator[dict[str, Any]]:
    """Settings that need less memory, the least loss first. Not int8: nf4 needs less and computes faster."""
    whole = profile.quantize == "none"
    if whole:
        yield {"quantize": "nf4"}
    yield from ({"keep": share, "budget": None} for share in shares)
    yield from ({"quantize": "nf4", "keep": share, "budget": None} for share in shares if whole)
    yield from ({"model": name, "quantize": "nf4"} for name in _smaller(profile.model))
    if profile.model != Profile.model:
        yield {"model": Profile.model, "quantize": "none"}


def _flags(settings: dict[str, Any]) -> str:
    return " ".join(
        f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}"
        for name, value in settings.items()
        if value is not None
    )


def _smaller(model: str) -> list[str]:
    """Smaller models of the same family, the largest first; none for weights of the user's own."""
    source = catalog.find(model)
    if source.card not in source.family.cards():
        return []
    smaller = [card for card in source.family.cards() if card.parameters < source.card.parameters]
    return [card.name for card in sorted(smaller, key=lambda card: -card.parameters)]
