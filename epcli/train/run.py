"""`ep train` as one call: data, model, recipe and folder -> a trained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from epcli.config import Profile
from epcli.errors import UsageError
from epcli.models import catalog
from epcli.session.session import Session
from epcli.train import data
from epcli.train.data import EachOnce, OwnClips
from epcli.train.examples import Make
from epcli.train.recipe import Order, SieveRecipe, TrainedParts, rates
from epcli.train.sieve_trainer import Learner, SieveTrainer


def train(order: Order, recipe: SieveRecipe, parts: TrainedParts, profile: Profile, say: Callable[[str], None]) -> Path:
    """Train `profile.model` and return what `--model` takes.

    Raises UsageError for bad data, or if the folder holds a run that was not to be resumed; WeightsError or
    CapacityError.
    """
    if (order.out / "checkpoint.pt").exists() and not order.resume:
        raise UsageError(f"{order.out} holds an earlier run; go on with --resume, or name another folder")
    rows = data.load(order.data, order.media)
    held_rows = data.load(order.held_out, order.media) if order.held_out else []
    learner, make = _learner(order, parts, profile)
    held_items = min(recipe.evaluate_items, sum(map(len, held_rows)))
    recipe = replace(recipe, lr=rates(order.lr, order.method, parts), evaluate_items=held_items)
    session = Session.of(replace(profile, quantize="none"), catalog.find(profile.model), learner.model)
    source = OwnClips(rows, session, make)
    held = EachOnce(held_rows, session, make) if held_rows else None
    trainer = SieveTrainer(learner, source, held, recipe, order.out, say)
    if order.resume:
        trainer.resume()
    return trainer.run()


def _learner(order: Order, parts: TrainedParts, profile: Profile) -> tuple[Learner, Make]:
    """The model made ready, and how its examples are made of a clip's features and questions."""
    if profile.dtype == "fp16":
        raise UsageError("--dtype fp16: small gradients vanish in it; train with --dtype bf16, or fp32")
    source = catalog.find(profile.model)
    made = source.family.learner(source, order, parts, profile)
    if made is None:
        raise UsageError(f"{source.name}: models of this kind are not trained by ep; choose another --model")
    return made
