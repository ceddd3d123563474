"""Which selector chooses the tokens, and how many it keeps: decided by the settings and the model."""

from __future__ import annotations

from epcli.config import DEFAULT_KEEP, DEFAULT_LEAST, Profile
from epcli.errors import UsageError
from epcli.models.family import AVModel
from epcli.sieve.select import Budget
from epcli.sieve.selectors import TRAINED, TRAINING_FREE, TRAINING_FREE_SCORED


def default_selector(profile: Profile, trained: bool) -> str:
    """The selector of a profile that names none.

    The trained sieve if the model has one; else everything is kept, unless `--keep` or `--budget` asks for less: then
    the best training-free selector.
    """
    if trained:
        return TRAINED
    if profile.keep is None and profile.budget is None:
        return "none"
    return TRAINING_FREE_SCORED if profile.keep == "auto" and profile.budget is None else TRAINING_FREE


def choose_selector(profile: Profile, model: AVModel) -> tuple[str, Budget, list[str]]:
    """Which selector, how much it keeps, and what the user should be told. An untrained sieve is never run.

    Raises UsageError if selector and budget do not go together.
    """
    name, notes = profile.selector, []
    if name is None:
        name = default_selector(profile, trained=model.sieve is not None)
        if name in (TRAINING_FREE, TRAINING_FREE_SCORED):
            notes = [f"{model.name} has no trained sieve; the training-free selector {name} chose the tokens"]
    if name == "none":
        if profile.keep is not None or profile.budget is not None:
            raise UsageError("--selector none keeps every token: leave out --keep and --budget, or choose another")
        return name, Budget.of(1.0), notes
    return name, budget_of(profile), notes


def read_whole(profile: Profile, media_tokens: int) -> bool:
    """Whether a clip is so short that by default all of it is read: then nothing needs to choose, or to refine."""
    named = profile.selector is not None or profile.keep is not None or profile.budget is not None
    return not named and media_tokens <= DEFAULT_LEAST


def budget_of(profile: Profile) -> Budget:
    """What a selector other than none keeps; with no word on it DEFAULT_KEEP, but at least DEFAULT_LEAST tokens."""
    if profile.keep is None and profile.budget is None:
        return Budget(ratio=DEFAULT_KEEP, least=DEFAULT_LEAST)
    return Budget.of(profile.keep or DEFAULT_KEEP, profile.budget)
