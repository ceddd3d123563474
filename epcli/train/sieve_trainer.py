"""Training sieve and model together (CS2 of EchoingPixels, arXiv 2512.10324), for every keep ratio at once.

One step, for each of some items:

    1 draw      a keep ratio, log-uniform over a range; or no sieve at all, and tokens thinned by `uniform` or `random`
    2 sieve     refine the prompt, score, keep the best k of the joint pool, times the straight-through factor
    3 read      kept states and the answer's embeddings through the decoder, causally
    4 learn     cross-entropy of the answer; where known, scores towards the tokens that hold the evidence; if asked
                for, nearness to what the same model says from all tokens

The answer is no key in the refiner and keeps its embeddings, so the refiner runs on the prompt alone, which is the same
and needs no mask. One row at a time: no padding. Checkpoints are written to a temporary name and moved; a killed run
goes on with the same optimizer, schedule and random state.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from epcli.errors import UsageError
from epcli.models.family import AVModel
from epcli.records import Modality
from epcli.sieve.select import Budget
from epcli.sieve.selectors import Tools, select
from epcli.train import parallel
from epcli.train.examples import Example, ExampleSource
from epcli.train.plot import draw
from epcli.train.recipe import SieveRecipe


@dataclass(eq=False)
class Learner:
    """A model made ready for training: what is trained, and how it is written down."""

    model: AVModel  # its sieve (None: train without) and decoder already carry their low-rank changes
    groups: dict[str, dict[str, nn.Parameter]]  # adapter, decoder, refiner, scorer -> name -> float32 parameter
    save: Callable[[Path, dict[str, Any]], Path]  # write what `ep ask --model` takes into a folder
    modules: Sequence[nn.Module] = ()  # others that are trained, for their training mode

    def named(self) -> dict[str, nn.Parameter]:
        return {f"{group}/{name}": p for group, part in self.groups.items() for name, p in part.items()}


@dataclass(frozen=True, eq=False)
class Reading:
    """What the model made of an item."""

    logits: Tensor  # (A, V) float32, one row for each answer token
    kept: Tensor  # (K,) int64 prompt tokens that were kept
    scores: Tensor | None  # (L,) float32 with gradients; None without the sieve


def read_item(
    model: AVModel, item: Example, embeds: Tensor, keep: float, selector: str = "cs2", seed: int = 0
) -> Reading:
    """One item through sieve and decoder, the answer given (teacher forcing).

    Args:
        embeds: (L, D) of the prompt; `item.stream.embeds`, or a leaf with its values.
        keep: share of sound and picture tokens that stay.
        selector: cs2, or one that needs no training.
        seed: for the selector `random`.
    """
    stream = item.stream
    if selector == "cs2":
        assert model.sieve is not None
        is_av = stream.modality != Modality.TEXT
        out = model.sieve(embeds[None], stream.positions[:, None], is_av[None], Budget(ratio=keep))
        kept, states, positions, scores = out.indices[0], out.embeds[0], out.positions[:, 0], out.scores[0]
    else:
        kept = select(selector, stream, Budget(ratio=keep), Tools(decoder=model.decoder, seed=seed)).indices.clone()
        states, positions, scores = embeds[kept], stream.positions[:, kept], None
    said = model.decoder.get_input_embeddings()(item.answer[:-1]).to(states.dtype)
    following = stream.next_position + torch.arange(len(said), device=positions.device)
    hidden = model.decoder(
        inputs_embeds=torch.cat([states, said])[None],
        position_ids=torch.cat([positions, following.expand(4, -1)], 1)[:, None],
        use_cache=False,
    ).last_hidden_state[0]
    return Reading(model.logits(hidden[len(states) - 1 :]), kept, scores)


def relevance_losses(scores: Tensor, is_av: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """How far the scores are from the evidence: (any, all).

    `any`: -log of the softmax mass that a piece's tokens have together, the mean of all pieces; one token of each
    suffices. `all`: the mean of each relevant token's -log share; small only if all of them lead.
    `scores` (L,), `is_av` (L,) bool, `relevant` (L,) or (E, L) bool.
    """
    shares = scores[is_av].log_softmax(-1)
    pieces = relevant.reshape(-1, relevant.shape[-1])[:, is_av]
    some = -shares.masked_fill(~pieces, -torch.inf).logsumexp(-1).mean()
    return some, -shares[pieces.any(0)].mean()


def evidence_found(item: Example, kept: Tensor) -> tuple[str, float]:
    """The sense that an item's evidence needs ("video", "audio" or "both"), and how much of it was kept.

    Kept evidence tokens over the most that could be: all of them, or the whole budget.
    """
    assert item.relevant is not None
    modality = item.stream.modality
    holds = item.relevant.reshape(-1, len(modality)).any(0)
    senses = {Modality(int(kind)).name.lower() for kind in modality[holds].unique()}
    places = int((modality[kept] != Modality.TEXT).sum())
    share = float(holds[kept].sum() / max(1, min(int(holds.sum()), places)))
    return senses.pop() if len(senses) == 1 else "both", share


class SieveTrainer:
    """Trains `learner` on items of `source`, into `folder`: checkpoint.pt, log.jsonl, training.svg and the model."""

    def __init__(
        self,
        learner: Learner,
        source: ExampleSource,
        held_out: ExampleSource | None,
        recipe: SieveRecipe,
        folder: Path,
        say: Callable[[str], None] = print,
    ) -> None:
        self.learner, self.model, self.recipe, self.folder, self.say = learner, learner.model, recipe, folder, say
        self.source, self.held_out = source, held_out
        self.named = learner.named()
        groups = []
        for name, parameters in learner.groups.items():
            rate = recipe.lr[name]
            for parameter in parameters.values():
                parameter.requires_grad_(rate > 0)
            if rate > 0 and parameters:
                groups.append({"params": list(parameters.values()), "lr": rate, "peak": rate, "name": name})
        if not groups:
            raise UsageError("nothing to train: every learning rate is 0")
        self.optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, betas=(0.9, 0.98))
        self.rng = random.Random(recipe.seed)
        torch.manual_seed(recipe.seed)
        self.step, self.spent_s, self.questions = 0, 0.0, 0
        self.rank, self.ranks = parallel.place()
        self.recent: dict[str, list[float]] = defaultdict(list)

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        done = self.step / self.recipe.steps if self.recipe.steps else self.spent_s / (self.recipe.minutes * 60)
        return min(1.0, done)

    # --- one item ------------------------------------------------------------------------------------------------

    def loss(self, item: Example, embeds: Tensor, warming: bool) -> Tensor:
        """The loss of one item at ratio and selector drawn for it. Notes what it saw in `recent`."""
        recipe, model = self.recipe, self.model
        is_av = item.stream.modality != Modality.TEXT
        known = item.relevant is not None and bool(item.relevant.any())
        if warming:
            assert model.sieve is not None
            assert item.relevant is not None
            keys = torch.ones_like(is_av)[None]
            states, scores = model.sieve.refine_and_score(embeds[None], item.stream.positions[:, None], keys)
            moved = (states[0].float() - embeds).square().mean() / embeds.float().square().mean()
            self.recent["moved"].append(moved.item())
            return self._relevance(scores[0], is_av, item.relevant) + recipe.anchor * moved
        low, high = recipe.keep
        keep = math.exp(self.rng.uniform(math.log(low), math.log(high)))
        plain = model.sieve is None or self.rng.random() < recipe.plain
        selector = self.rng.choice(recipe.plain_with) if plain else "cs2"
        seed = self.rng.getrandbits(31)
        reading = read_item(model, item, embeds, keep, selector, seed)
        each = F.cross_entropy(reading.logits, item.answer, reduction="none")
        total = each.mean()
        self._note_kept(item, reading)
        self.recent["keep"].append(1.0 if selector == "none" else keep)
        self.recent["answer"].append(total.item())
        self.recent["exact"].append(float((reading.logits.argmax(-1) == item.answer).all()))
        if recipe.distil and selector != "none":
            with torch.no_grad():
                teacher = read_item(model, item, embeds.detach(), 1.0, "none").logits.log_softmax(-1)
            away = F.kl_div(reading.logits.log_softmax(-1), teacher, log_target=True, reduction="batchmean")
            self.recent["distil"].append(away.item())
            total = total + recipe.distil * away
        if reading.scores is not None and known and (recipe.relevance_any or recipe.relevance_all):
            assert item.relevant is not None
            total = total + self._relevance(reading.scores, is_av, item.relevant)
        return total

    def _relevance(self, scores: Tensor, is_av: Tensor, relevant: Tensor) -> Tensor:
        some, every = relevance_losses(scores, is_av, relevant)
        self.recent["relevance_any"].append(some.item())
        self.recent["relevance_all"].append(every.item())
        with torch.no_grad():  # how much of the evidence a tenth of the tokens would hold
            pool, count = scores[is_av], Budget(ratio=0.1).count(int(is_av.sum()))
            best = torch.zeros_like(pool, dtype=torch.bool)
            best[pool.topk(count).indices] = True
            wanted = relevant.reshape(-1, relevant.shape[-1]).any(0)[is_av]
            hits = (best & wanted).sum() / wanted.sum().clamp(max=count)
            self.recent["evidence_in_tenth"].append(float(hits))
        return self.recipe.relevance_any * some + self.recipe.relevance_all * every

    def _note_kept(self, item: Example, reading: Reading) -> None:
        for kind in (Modality.VIDEO, Modality.AUDIO):
            there = item.stream.modality == kind
            if there.any():
                self.recent[f"kept_{kind.name.lower()}"].append(float(there[reading.kept].sum() / there.sum()))

    # --- one step ------------------------------------------------------------------------------------------------

    def _accumulate(self, items: Sequence[Example], warming: bool) -> int:
        """Add the gradients of a clip's items; one graph of theirs is alive at a time. Returns how many there were."""
        done, shared = 0, []
        for item in items:
            if warming and (item.relevant is None or not item.relevant.any()):
                continue
            # The items of a clip share the adapter's graph: each stops at a leaf, and the sum goes down once.
            flows = item.stream.embeds.requires_grad and not warming
            embeds = item.stream.embeds.detach().requires_grad_(flows)
            with self._computing():
                value = self.loss(item, embeds, warming)
            if not torch.isfinite(value):
                raise UsageError(
                    f"{self.folder}: the loss became {value.item()} at step {self.step}; lower the learning rates"
                )
            value.backward()
            self.recent["loss"].append(value.item())
            if flows and embeds.grad is not None:
                shared.append((item.stream.embeds, embeds.grad))
            done += 1
        if shared:
            torch.autograd.backward([whole for whole, _ in shared], [grad for _, grad in shared])
        return done

    def _advance(self) -> None:
        """One optimizer step. Raises UsageError if the source has nothing to learn from, or the loss is no number."""
        recipe, progress = self.recipe, self.progress
        rises = min(1.0, (self.step + 1) / max(recipe.lr_warmup_steps, 1))
        factor = rises * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        warming = progress < recipe.relevance_only and self.model.sieve is not None
        self.optimizer.zero_grad()
        done, draws = 0, 0
        while done < max(1, recipe.items // self.ranks):
            done += self._accumulate(self.source.draw(self.rng), warming)
            draws += 1
            if draws >= 100 * recipe.items and not done:
                raise UsageError("no item says where its evidence is: set the recipe's relevance_only to 0")
        parameters = [p for p in self.named.values() if p.grad is not None]
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.div_(done)
        if self.ranks > 1:  # all processes must name the same parameters
            learning = ("refiner", "scorer") if warming else self.learner.groups
            parameters = [p for name in learning for p in self.learner.groups[name].values() if p.requires_grad]
            parallel.average_gradients(parameters)
        self.recent["gradient"].append(float(nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)))
        self.optimizer.step()
        self.step += 1
        self.questions += done * self.ranks

    def _computing(self) -> torch.autocast:
        """float32 parameters compute in the model's dtype. Sources draw outside: adapters compute as they answer."""
        low = self.model.dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self.model.device.type, self.model.dtype, enabled=low)

    def _mode(self, training: bool) -> None:
        for module in self.learner.modules:
            module.train(training)

    def run(self) -> Path:
        """Train to the end; returns the model that was written. Raises UsageError if the loss is no number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        saved = evaluated = self.spent_s
        if self.rank:  # other data than the first process draws
            self.rng = random.Random(f"{self.rng.random()} {self.rank}")
            torch.manual_seed(self.rng.randrange(1 << 30))
        while self.progress < 1:
            began = time.perf_counter()
            self._mode(training=True)
            self._advance()
            self.spent_s = parallel.agree(self.spent_s + time.perf_counter() - began)
            if self.rank:
                self.recent.clear()
                continue
            if self.step % 10 == 0 or self.progress >= 1:
                self._log_recent()
            if self.held_out is not None and (self.spent_s - evaluated >= self.recipe.evaluate_s or self.progress >= 1):
                self._log({"held_out": self.evaluate()})
                evaluated = self.spent_s
            if self.spent_s - saved >= self.recipe.checkpoint_s and self.progress < 1:
                self.checkpoint()
                saved = self.spent_s
        return self.folder if self.rank else self.checkpoint()

    # --- measuring -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> dict[str, Any]:
        """Held-out items, always the same: at each ratio, the share of answers of which every token is the likeliest.

        Returns for each ratio (`none`: no sieve, all tokens) exact, loss, kept shares, evidence found by the sense in
        which it lies, and exact by type of question.
        """
        assert self.held_out is not None
        rng = random.Random(1234)
        items: list[Example] = []
        self._mode(training=False)
        ways = [("none", 1.0)]
        ways += [("cs2" if self.model.sieve is not None else "uniform", r) for r in self.recipe.evaluate_keep]
        with torch.random.fork_rng():
            while len(items) < self.recipe.evaluate_items:
                items += self.held_out.draw(rng)
            return {
                (name if name == "none" else f"{keep:g}"): self._score(items, name, keep)
                for name, keep in ways
                if (name, keep) != ("uniform", 1.0)  # is `none`
            }

    def _score(self, items: Sequence[Example], selector: str, keep: float) -> dict[str, Any]:
        right, losses, shares, found = defaultdict(list), [], defaultdict(list), defaultdict(list)
        for item in items:
            with self._computing():
                reading = read_item(self.model, item, item.stream.embeds, keep, selector)
            if item.relevant is not None and item.relevant.any():
                sense, share = evidence_found(item, reading.kept)
                found[sense].append(share)
            losses.append(F.cross_entropy(reading.logits, item.answer).item())
            right[item.type].append(bool((reading.logits.argmax(-1) == item.answer).all()))
            for kind in (Modality.VIDEO, Modality.AUDIO):
                there = item.stream.modality == kind
                if there.any():
                    shares[kind.name.lower()].append(float(there[reading.kept].sum() / there.sum()))
        every = [hit for hits in right.values() for hit in hits]
        return {
            "exact": round(sum(every) / len(every), 4),
            "loss": round(sum(losses) / len(losses), 4),
            "n": len(every),
            "kept_share": {kind: round(sum(v) / len(v), 4) for kind, v in shares.items()},
            "found": {sense: round(sum(v) / len(v), 4) for sense, v in sorted(found.items())},
            "by_type": {kind: round(sum(v) / len(v), 3) for kind, v in sorted(right.items())},
        }

    def _log_recent(self) -> None:
        means = {key: round(sum(values) / len(values), 4) for key, values in self.recent.items() if values}
        self.recent.clear()
        self._log(means)

    def _log(self, entry: dict[str, Any]) -> None:
        about = {"step": self.step, "minutes": round(self.spent_s / 60, 2), "questions": self.questions}
        line = json.dumps(about | entry)
        self.say(line)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _forget_later(self) -> None:
        """Take out of the log what came after the checkpoint: it is about to be done again."""
        log = self.folder / "log.jsonl"
        if log.exists():
            lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            partial = log.with_suffix(".part")
            partial.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= self.step), "utf-8")
            os.replace(partial, log)

    # --- files ---------------------------------------------------------------------------------------------------

    def checkpoint(self) -> Path:
        """Everything needed to go on, at once or not at all, and the model as it is now; returns the model's path."""
        state = {
            "parameters": {name: p.data for name, p in self.named.items()},
            "optimizer": self.optimizer.state_dict(),
            "python_rng": self.rng.getstate(),
            "torch_rng": torch.get_rng_state(),
            "counts": {"step": self.step, "spent_s": self.spent_s, "questions": self.questions},
        }
        partial = self.folder / "checkpoint.pt.part"
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.folder / "checkpoint.pt")
        if (self.folder / "log.jsonl").exists():
            draw(self.folder / "log.jsonl", self.folder / "training.svg")
        about = {"step": self.step, "questions": self.questions, "recipe": asdict(self.recipe)}
        return self.learner.save(self.folder, about)

    def resume(self) -> bool:
        """Go on from the folder's checkpoint; False if there is none. Raises UsageError if it does not fit."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return False
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            if state["parameters"].keys() != self.named.keys():
                raise ValueError("other parameters are trained now")
            with torch.no_grad():
                for name, value in state["parameters"].items():
                    self.named[name].copy_(value)
            self.optimizer.load_state_dict(state["optimizer"])
            self.rng.setstate(state["python_rng"])
            torch.set_rng_state(state["torch_rng"])
            counts = state["counts"]
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: cannot be resumed ({str(error).splitlines()[0]}); "
                "give the settings it was started with, or another folder"
            ) from None
        self.step, self.spent_s, self.questions = counts["step"], counts["spent_s"], counts["questions"]
        if not self.rank:
            self._forget_later()
        self.say(f"resumed at step {self.step}, minute {self.spent_s / 60:.1f}")
        return True
