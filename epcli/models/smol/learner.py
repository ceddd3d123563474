"""ep-smol made ready for `ep train`: adapter, decoder and sieve learn together, from an adapter file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from epcli.config import Profile
from epcli.errors import UsageError
from epcli.models import layout
from epcli.models.chatml import END, plain_ids
from epcli.models.family import Source
from epcli.models.layout import Segment
from epcli.models.smol.adapter import load_adapter
from epcli.models.smol.adapter_file import ADAPTER
from epcli.models.smol.model import (
    LORA_TARGETS,
    EpSmol,
    Language,
    embed_ids,
    media_layout,
    prompt_ids,
)
from epcli.questions.evidence import evidence_tokens
from epcli.questions.record import Evidence, Question
from epcli.records import Features
from epcli.session.device import choose_dtype, cpu_dtype
from epcli.sieve.sieve import Sieve
from epcli.train.attention import use_written_out
from epcli.train.examples import Example, Make, rows
from epcli.train.learners import LORA_SCALE, add_low_rank, add_sieve, low_rank_of, stored, take, write
from epcli.train.recipe import Order, TrainedParts
from epcli.train.sieve_trainer import Learner


def learner(source: Source, order: Order, parts: TrainedParts, profile: Profile) -> tuple[Learner, Make]:
    """As `Family.learner`."""
    if order.method != "lora":
        raise UsageError(f"--method {order.method}: {source.name} is trained with lora; leave the flag out")
    dtype = choose_dtype(profile, torch.device("cpu"))
    made = smol_learner(source.path or ADAPTER, parts, threads=profile.threads, dtype=dtype)
    model: Any = made.model
    start = len(prompt_ids(model.tokenizer, "", profile.system)[0])

    def examples(features: Features, asked: Sequence[Question]) -> list[Example]:
        table = model.decoder.get_input_embeddings().weight
        media = media_layout(model.adapter, table, model.tokenizer, features, start)
        return smol_items(model, media, rows(asked), profile.system)

    return made, examples


def smol_learner(
    start: Path,
    parts: TrainedParts,
    *,
    train_adapter: bool = True,
    threads: int | None = None,
    dtype: torch.dtype | None = None,
) -> Learner:
    """ep-smol from an adapter file, with or without a sieve in it, for training on.

    A sieve that the file holds is trained further, if it has the shape; decoder LoRA keeps the file's rank. The model's
    adapter is `learner.model.adapter`. It computes in `dtype`, if given, else as the processor does best. Raises
    WeightsError.
    """
    if threads:
        torch.set_num_threads(threads)
    adapter, lora, meta = load_adapter(start)
    language = Language(dtype or cpu_dtype())
    adapter.requires_grad_(train_adapter)
    adapter.freeze_heads()
    use_written_out(language.decoder.config)
    plain = dict(language.decoder.state_dict())  # before LoRA is put beside it
    sieve: Sieve | None = None
    groups: dict[str, dict[str, nn.Parameter]] = {}
    if parts.sieve:
        sieve, groups = add_sieve(language.decoder, parts, plain.__getitem__, list(plain))
        sieve.reads_refined = meta.get("reads_refined", True)
    rank = next(v for k, v in lora.items() if k.endswith(".A")).shape[0] if lora else parts.lora_rank
    groups["decoder"] = add_low_rank(language.decoder, rank, LORA_TARGETS)
    if lora:
        take(groups["decoder"], lora)
    groups["adapter"] = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    earlier = meta.get("refiner")
    if parts.sieve and earlier == vars(low_rank_of(parts)):
        values = load_file(start)
        for group in ("refiner", "scorer"):
            take(groups[group], {name: values[f"{group}.{name}"] for name in groups[group]})

    def save(folder: Path, about: dict[str, Any]) -> Path:
        tensors = {k: v.detach().bfloat16().contiguous() for k, v in adapter.state_dict().items()}
        tensors |= {f"lora.{k}": v.detach().bfloat16().contiguous() for k, v in groups["decoder"].items()}
        tensors |= stored(groups)
        known = {**meta, "lora_scale": LORA_SCALE, "sieve_training": about}
        known.pop("refiner", None)
        if parts.sieve:
            known["refiner"] = vars(low_rank_of(parts))
        return write(folder / "adapter.safetensors", tensors, known)

    return Learner(EpSmol(language, adapter, sieve), groups, save, (adapter,))


def smol_items(
    model: Any,
    media: Segment,
    questions: Sequence[tuple[str, str, str, Sequence[Evidence] | None]],
    system: str | None = None,
) -> list[Example]:
    """ep-smol's items of one clip.

    Args:
        model: an EpSmol.
        media: the clip's tokens (`media_layout`), positions from the length of the prompt's head on; with gradients
            where the adapter is trained.
        questions: type, question, answer and evidence (None: not known).
        system: None takes the model's own.
    """
    table = model.decoder.get_input_embeddings().weight
    items = []
    for kind, question, answer, evidence in questions:
        before, after = prompt_ids(model.tokenizer, question, system)
        head = layout.text(embed_ids(table, before), 0)
        tail = layout.text(embed_ids(table, after), media.next_position)
        parts = [head, media, tail]
        stream = layout.join(parts, model.dtype, table.device)
        said = [*plain_ids(model.tokenizer, answer.strip()), model.tokenizer.convert_tokens_to_ids(END)]
        marked = None if evidence is None else evidence_tokens(stream, evidence)
        items.append(Example(stream, torch.tensor(said, device=table.device), marked, kind))
    return items
