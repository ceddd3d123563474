"""`ep train` as one call: data, model, recipe and folder -> a trained model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from epcli.config import Profile
from epcli.errors import UsageError
from epcli.models import catalog
from epcli.models.smol.model import media_layout, prompt_ids
from epcli.models.smol.weights import ADAPTER
from epcli.questions.record import Question
from epcli.records import Features
from epcli.session.device import choose_device, choose_dtype
from epcli.session.session import Session
from epcli.train import data
from epcli.train.data import EachOnce, OwnClips
from epcli.train.examples import Example, qwen_items, smol_items
from epcli.train.learners import qwen_learner, smol_learner
from epcli.train.recipe import Order, Shape, SieveRecipe, rates
from epcli.train.sieve_trainer import Learner, SieveTrainer


def train(order: Order, recipe: SieveRecipe, shape: Shape, profile: Profile, say: Callable[[str], None]) -> Path:
    """Train `profile.model` and return what `--model` takes.

    Raises UsageError for bad data, or if the folder holds a run that was not to be resumed; WeightsError or
    CapacityError.
    """
    if (order.out / "checkpoint.pt").exists() and not order.resume:
        raise UsageError(f"{order.out} holds an earlier run; go on with --resume, or name another folder")
    rows = data.load(order.data, order.media)
    held_rows = data.load(order.held_out, order.media) if order.held_out else []
    learner, make = _learner(order, shape, profile)
    held_items = min(recipe.evaluate_items, sum(map(len, held_rows)))
    recipe = replace(recipe, lr=rates(order.lr, order.method, shape), evaluate_items=held_items)
    session = Session.of(replace(profile, quantize="none"), catalog.find(profile.model), learner.model)
    source = OwnClips(rows, session, make)
    held = EachOnce(held_rows, session, make) if held_rows else None
    trainer = SieveTrainer(learner, source, held, recipe, order.out, say)
    if order.resume:
        trainer.resume()
    return trainer.run()


Make = Callable[[Features, Any], list[Example]]


def _learner(order: Order, shape: Shape, profile: Profile) -> tuple[Learner, Make]:
    """The model made ready, and how its items are made of a clip's features and questions."""
    card = catalog.find(profile.model)

    def told(asked: Sequence[Question]) -> list[tuple[str, str, str, Any]]:
        return [(each.type, each.text, each.answer, each.evidence) for each in asked]

    if profile.dtype == "fp16":
        raise UsageError("--dtype fp16: small gradients vanish in it; train with --dtype bf16, or fp32")
    if card.family.name == "qwen2.5-omni":
        device = choose_device(profile)
        dtype = choose_dtype(profile, device)
        if dtype == torch.float16:
            dtype = torch.float32  # a GPU without bfloat16
        learner = qwen_learner(
            profile.model,
            shape,
            order.method,
            device,
            dtype,
            gradient_checkpointing=order.gradient_checkpointing,
        )
        return learner, lambda features, asked: qwen_items(learner.model, features, told(asked), profile.system)
    if order.method != "lora":
        raise UsageError(f"--method {order.method}: {card.name} is trained with lora; leave the flag out")
    learner = smol_learner(
        card.path or ADAPTER, shape, threads=profile.threads, dtype=choose_dtype(profile, torch.device("cpu"))
    )
    model: Any = learner.model
    start = len(prompt_ids(model.tokenizer, "", profile.system)[0])

    def smol(features: Features, asked: Sequence[Question]) -> list[Example]:
        table = model.decoder.get_input_embeddings().weight
        media = media_layout(model.adapter, table, features, start)
        return smol_items(model, media, told(asked), profile.system)

    return learner, smol
