"""The trainer: adapter and LoRA of ep-smol, on scenes drawn from pools or on your own clips, questions and answers.

Checkpoints are written to a temporary name and moved, so that a kill loses at most the minutes since the last one;
`resume` goes on with the same optimizer, schedule and random state.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor

from epcli.errors import UsageError
from epcli.lab.packing import Pack, attention_bias, loss, pack
from epcli.models.layout import Segment
from epcli.models.smol.adapter import Adapter, HeardNames, sight_pieces
from epcli.models.smol.model import LORA_TARGETS, Language, lay_out, prompt_ids
from epcli.records import Modality, SeenFeatures
from epcli.train import parallel
from epcli.train.attention import use_written_out


@dataclass(frozen=True)
class AdapterRecipe:
    """How to train. Learning rates are peaks of one cosine over `minutes`."""

    minutes: float = 60.0  # of training, evaluation and loading not counted
    tokens: int = 320  # a packed row holds at least one scene and stops growing here
    rows: int = 4  # a step: attention's cost grows with a row's square, so short rows are cheaper than a long one
    questions: int = 14  # asked of each scene: a question costs less than what it asks about
    lr: float = 6e-4
    lora_lr: float = 6e-4
    lora_rank: int = 16
    keep: tuple[float, float] = (0.5, 1.0)  # random share of a scene's tokens that is read: readies for a sieve
    noise: float = 1.0  # a scene's sounds are made doubtful by up to this: standard deviation on the names' logits
    checkpoint_s: float = 180.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Told:
    """A story's reports with questions and answers."""

    duration_s: float
    seen: SeenFeatures | None
    heard: HeardNames | None
    pairs: Sequence[tuple[str, str, str]]  # type, question, answer


class ToldSource(Protocol):
    """Where examples come from."""

    def draw(self, rng: random.Random, progress: float) -> Told:
        """One story with its questions; `progress` of the run, 0 to 1: easy ones first."""
        ...


def drop_tokens(segment: Segment, keep: float, words: Tensor | None, generator: torch.Generator) -> Segment:
    """A random share of the sound tokens; all others, and those with spoken words, stay."""
    stays = torch.rand(len(segment.modality), generator=generator) < keep
    stays |= segment.modality != Modality.AUDIO
    if words is not None:
        stays[segment.modality == Modality.AUDIO] |= words >= 0
    return replace(
        segment,
        embeds=segment.embeds[stays],
        positions=segment.positions[:, stays],
        modality=segment.modality[stays],
        spans_s=segment.spans_s[stays],
        cells=segment.cells[stays],
        attention=segment.attention[stays],
        boxes=None if segment.boxes is None else segment.boxes[stays],
        labels=None
        if segment.labels is None
        else tuple(label for label, stay in zip(segment.labels, stays.tolist(), strict=True) if stay),
    )


class Trainer:
    """Trains `model` (the language model without LoRA) on `source`, into `folder`."""

    def __init__(
        self,
        model: Language,
        adapter: Adapter,
        source: ToldSource,
        held_out: ToldSource | None,
        recipe: AdapterRecipe,
        folder: Path,
        say: Callable[[str], None] = print,
    ) -> None:
        self.model, self.adapter, self.source, self.held_out = (
            model,
            adapter.train().requires_grad_(True),
            source,
            held_out,
        )
        adapter.freeze_heads()
        self.recipe, self.folder, self.say = recipe, folder, say
        torch.manual_seed(recipe.seed)
        config = LoraConfig(r=recipe.lora_rank, lora_alpha=2 * recipe.lora_rank, target_modules=list(LORA_TARGETS))
        use_written_out(model.decoder.config)
        peft_model: Any = get_peft_model(model.decoder, config)
        self.decoder = peft_model.base_model.model
        self.lora: dict[str, Any] = {n: p for n, p in self.decoder.named_parameters() if p.requires_grad}
        for p in self.lora.values():
            p.data = p.data.float()
        read = [p for p in adapter.parameters() if p.requires_grad]
        groups = [
            {"params": read, "lr": recipe.lr, "peak": recipe.lr},
            {"params": list(self.lora.values()), "lr": recipe.lora_lr, "peak": recipe.lora_lr},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))
        self.rng = random.Random(recipe.seed)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.step, self.spent_s, self.answers = 0, 0.0, 0
        self.table: Tensor = model.decoder.get_input_embeddings().weight
        self.head_length = len(prompt_ids(model.tokenizer, "", None)[0])
        self.rank, self.ranks = parallel.place()

    @property
    def progress(self) -> float:
        return min(1.0, self.spent_s / (self.recipe.minutes * 60))

    # --- one row -------------------------------------------------------------------------------------------------

    def _segment(self, told: Told, training: bool) -> Segment:
        tokenizer = self.model.tokenizer
        pieces = None if told.seen is None else sight_pieces(told.seen, tokenizer)
        noise = self.rng.uniform(0.0, self.recipe.noise) if training else 0.0
        args = self.adapter, self.table, tokenizer, told.duration_s, told.seen, pieces, told.heard
        segment = lay_out(*args, self.head_length, noise)
        if training:
            words = None if told.heard is None else told.heard.words
            segment = drop_tokens(segment, self.rng.uniform(*self.recipe.keep), words, self.generator)
        return segment

    def row(self, source: ToldSource, rng: random.Random, training: bool) -> tuple[Pack, list[str]]:
        """Scenes up to about `recipe.tokens`, and the type of every question in order."""
        scenes: list[tuple[Segment, list[tuple[str, str]]]] = []
        types: list[str] = []
        length = 0
        while length < self.recipe.tokens * 0.8:
            example = source.draw(rng, self.progress if training else 1.0)
            pairs = choose(example.pairs, self.recipe.questions, rng)
            if not pairs:
                continue
            segment = self._segment(example, training)
            scenes.append((segment, [(q, a) for _, q, a in pairs]))
            types += [kind for kind, _, _ in pairs]
            length += len(segment.modality) + 30 * len(pairs)
        return pack(self.table, self.model.tokenizer, scenes), types

    def forward(self, row: Pack) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.model.dtype
        hidden = self.decoder(
            inputs_embeds=row.embeds.to(dtype)[None],
            position_ids=row.positions[:, None],
            attention_mask=attention_bias(row.allowed, dtype),
            use_cache=False,
        ).last_hidden_state[0]
        return loss(hidden, self.table, row)

    # --- the loop ------------------------------------------------------------------------------------------------

    def run(self, evaluate_every_s: float = 900.0) -> None:
        """Train until `recipe.minutes` are spent. Raises UsageError if the loss stops being a number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        saved = evaluated = self.spent_s
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.rank:
            self.rng = random.Random(f"{self.rng.random()} {self.rank}")
            self.generator.manual_seed(self.rng.randrange(1 << 30))
        recent: list[float] = []
        rows = max(1, self.recipe.rows // self.ranks)
        while self.progress < 1:
            began = time.perf_counter()
            factor = min(1.0, (self.step + 1) / 40) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            self.optimizer.zero_grad()
            for _ in range(rows):
                row, types = self.row(self.source, self.rng, training=True)
                value, _, _ = self.forward(row)
                if not torch.isfinite(value):
                    raise UsageError(
                        f"{self.folder}: the loss became {value.item()} at step {self.step}; lower the learning rate"
                    )
                (value / rows).backward()
                self.answers += len(types)
                recent.append(value.item())
            parallel.average_gradients(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            self.step += 1
            self.spent_s = parallel.agree(self.spent_s + time.perf_counter() - began)
            if self.rank:
                continue
            if self.step % 20 == 0:
                mean = sum(recent) / len(recent)
                recent.clear()
                self._log(
                    {
                        "step": self.step,
                        "minutes": round(self.spent_s / 60, 2),
                        "answers": self.answers * self.ranks,
                        "loss": round(mean, 4),
                    }
                )
            if self.spent_s - saved > self.recipe.checkpoint_s:
                self.checkpoint()
                saved = self.spent_s
            if self.held_out is not None and (self.spent_s - evaluated > evaluate_every_s or self.progress >= 1):
                self._log({"step": self.step, "minutes": round(self.spent_s / 60, 2), "held_out": self.evaluate()})
                evaluated = self.spent_s
        if self.rank == 0:
            self.checkpoint()
            self.save(self.folder / "adapter.safetensors")

    @torch.inference_mode()
    def evaluate(self, rows: int = 40) -> dict[str, float]:
        """Share of held-out answers of which every token is the likeliest (teacher forcing), by question type."""
        assert self.held_out is not None
        self.adapter.eval()
        rng, right = random.Random(1234), defaultdict(list)
        for _ in range(rows):
            row, types = self.row(self.held_out, rng, training=False)
            _, hit, question = self.forward(row)
            for number, kind in enumerate(types):
                right[kind].append(bool(hit[question == number].all()))
        self.adapter.train()
        table = {kind: round(sum(v) / len(v), 3) for kind, v in sorted(right.items())}
        every = [x for v in right.values() for x in v]
        return {**table, "all": round(sum(every) / len(every), 3), "n": len(every)}

    def _log(self, entry: dict[str, Any]) -> None:
        self.say(json.dumps(entry))
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    # --- files ---------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Everything needed to go on, at once or not at all."""
        state = {
            "adapter": self.adapter.state_dict(),
            "lora": {k: v.data for k, v in self.lora.items()},
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "counts": {"step": self.step, "spent_s": self.spent_s, "answers": self.answers},
            "seed": self.rng.randrange(1 << 30),
            "names": {"heard": self.adapter.heard},
        }
        partial = self.folder / "checkpoint.pt.part"
        torch.save(state, partial)
        os.replace(partial, self.folder / "checkpoint.pt")

    def resume(self) -> bool:
        """Go on from the folder's checkpoint; False if there is none."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        self.restore(state)
        if "optimizer" in state:  # not after heads were fitted anew
            self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.rng = random.Random(state["seed"])
        counts = state["counts"]
        self.step, self.spent_s, self.answers = counts["step"], counts["spent_s"], counts["answers"]
        self.say(f"resumed at step {self.step}, minute {self.spent_s / 60:.1f}")
        return True

    def load_lora(self, lora: dict[str, Tensor]) -> None:
        """Begin from a shipped adapter's LoRA, `layers.….q_proj.{A,B}`."""
        for key, value in lora.items():
            name, part = key.rsplit(".", 1)
            self.lora[f"{name}.lora_{part}.default.weight"].data.copy_(value)

    def restore(self, state: dict[str, Any]) -> None:
        """Weights of a checkpoint."""
        self.adapter.load_state_dict(state["adapter"])
        for key, value in state["lora"].items():
            self.lora[key].data.copy_(value)

    def save(self, path: Path) -> None:
        """The shipped form: adapter and LoRA in bfloat16, names in the metadata."""
        tensors = {k: v.detach().bfloat16().contiguous() for k, v in self.adapter.state_dict().items()}
        for key, value in self.lora.items():  # layers.0.self_attn.q_proj.lora_A.default.weight
            name, part = key.split(".lora_")
            tensors[f"lora.{name}.{part[0]}"] = value.detach().bfloat16().contiguous()
        meta = {
            "heard": self.adapter.heard,
            "width": self.adapter.markers.shape[1],
            "lora_scale": 2.0,
            "base": "SmolLM2-135M-Instruct",
            "step": self.step,
            "recipe": asdict(self.recipe),
        }
        partial = path.with_suffix(".part")
        save_file(tensors, partial, {"epcli": json.dumps(meta)})
        os.replace(partial, path)


WEIGHT = {  # how often a question of a type is drawn, the others 1.0: what people ask, and what is learned last
    "see": 2.0,
    "count": 1.3,
    "is": 1.3,
    "read": 1.8,
    "hear": 2.5,
    "hear all": 2.5,
    "order": 2.0,
    "speech": 2.5,
    "when": 1.6,
    "while": 2.5,
    "first": 1.8,
    "last": 2.2,
    "describe": 1.0,
    "none": 0.8,
    "cannot": 0.6,
    "shots": 0.4,
    "visible": 0.6,
    "hear?": 0.7,
    "speech?": 0.4,
    "together?": 0.4,
    "sound?": 0.3,
    "silent": 0.3,
}


def choose(pairs: Sequence[tuple[str, str, str]], count: int, rng: random.Random) -> list[tuple[str, str, str]]:
    """Up to `count` different questions, what people ask most more often, the easy yes-or-no ones more seldom."""
    weighed = sorted(pairs, key=lambda p: -(rng.random() ** (1 / WEIGHT.get(p[0], 1.0))))
    return list(weighed[:count])
