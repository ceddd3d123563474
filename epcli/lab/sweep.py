"""The same questions under many settings: selectors and keep ratios, within one process.

Each file is decoded and encoded once; each question is laid out once, scored once a selector that scores, and answered
under all settings in a few batches (batched.py). Files come in an order drawn by a seed, so that a sweep that runs out
of time has asked a fair sample, each question under every setting. It goes on where it stopped.
"""

from __future__ import annotations

import random
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epcli.config import Profile
from epcli.errors import CapacityError, UsageError
from epcli.evals.score import ResultsFile, Row, Run, described, failure
from epcli.lab import batched
from epcli.lab.ablate import ABLATIONS, ablated
from epcli.models.family import AVModel
from epcli.questions.evidence import evidence_tokens
from epcli.questions.record import Question, by_files
from epcli.questions.sets import QuestionSet
from epcli.records import KeptStream, TokenStream
from epcli.session.clips import EncodedClip
from epcli.session.reporting import count_tokens
from epcli.session.session import Session
from epcli.sieve.select import Budget, narrow
from epcli.sieve.selectors import SELECTORS, TRAINED, TRAINING_FREE, Tools, select

KEEPS = (1.0, 0.2, 0.1, 0.05, 0.02)
BLIND = "blind"  # about another file, with all of its tokens, without a sieve
FAIR = {"cs2": KEEPS} | dict.fromkeys(("cs2-per-modality", "random", "seats", "uniform"), KEEPS[1:])
MORE = {name: KEEPS[1:] for name in SELECTORS if name not in FAIR and name != "none"}


@dataclass(frozen=True)
class SweepSetting:
    """A selector at a keep ratio: "none", "cs2@0.05", or "blind"; "cs2/causal@0.05" is cs2 with an ablation."""

    selector: str
    keep: float | None = None  # None: everything, without a sieve
    blind: bool = False

    @property
    def name(self) -> str:
        if self.blind:
            return BLIND
        return self.selector if self.keep is None else f"{self.selector}@{self.keep:g}"

    @classmethod
    def read(cls, text: str, judge: str = "cs2") -> SweepSetting:
        """`judge`: the selector of blind questions. Raises UsageError."""
        selector, _, keep = text.partition("@")
        if text == BLIND:
            return cls(judge, 0.2, blind=True)
        known = (*SELECTORS, *(f"cs2/{what}" for what in ABLATIONS))
        if selector not in known or bool(keep) == (selector == "none"):
            raise UsageError(
                f"--settings: {text!r} is none of: none, {BLIND}, or SELECTOR@SHARE with one of {', '.join(known)}"
            )
        try:
            return cls(selector, Budget.of(float(keep)).ratio if keep else None)
        except ValueError:
            raise UsageError(f"--settings: {keep!r} is not a share") from None


def read_settings(text: str, has_sieve: bool) -> list[SweepSetting]:
    """ "main", "all", or a list such as "none,cs2@0.05,random@0.05". Without a trained sieve, cs2 is left out."""
    judge = TRAINED if has_sieve else TRAINING_FREE
    if text in ("main", "all"):
        table = FAIR | (MORE if text == "all" or not has_sieve else {})
        names = [f"{selector}@{keep:g}" for selector, keeps in table.items() for keep in keeps]
        names = [n for n in names if has_sieve or not SELECTORS[n.partition("@")[0]].trained]
        return [SweepSetting.read(name, judge) for name in ("none", *names, BLIND)]
    found = [SweepSetting.read(part.strip(), judge) for part in text.split(",") if part.strip()]
    if not found or len({s.name for s in found}) < len(found):
        raise UsageError(f"--settings {text}: give main, all, or a list of different settings")
    return found


def sweep(
    questions: QuestionSet,
    profile: Profile,
    settings: str,
    out: Path,
    *,
    limit: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    on_question: Callable[[int, int, int], None] = lambda done, total, failed: None,
) -> list[Row]:
    """Ask the questions under every setting; a line for each of both. Returns all lines.

    `limit`: only so many questions, of files as drawn. `minutes`: start no question after so long; 0 reads what is
    there. Settings of an earlier run with the same `out` may be other ones. Raises as `score.score`.
    """
    start = time.monotonic()
    profile = replace(profile, selector=None, keep=None, budget=None)
    run = Run({"set": questions.name, "model": profile.model}, Run.of(questions, profile).fingerprint)
    if minutes == 0:
        return ResultsFile.lines(out, run)
    results = ResultsFile(out, run)
    session = Session(profile)
    model = session.load()
    wanted = read_settings(settings, model.sieve is not None)
    groups = drawn(questions, limit, seed)
    total = sum(map(len, groups))
    previous: EncodedClip | None = None
    done = failed = 0
    for group in groups:
        todo = [(i, [s for s in wanted if _key(i, s) not in results.rows]) for i in group]
        done += len(todo)
        todo = [(item, missing) for item, missing in todo if any(not s.blind for s in missing)]
        done -= len(todo)
        looked = None
        for item, missing in todo:
            if minutes is not None and time.monotonic() - start > 60 * minutes:
                return list(results.rows.values())
            try:
                if looked is None:
                    looked = item.look(session)
                rows = _ask(model, item, missing, looked, previous, profile)
            except Exception as error:  # one bad file must not end a run of hours
                rows = [{**_about(item, s), "error": failure(error)} for s in missing]
            for row in rows:
                results.add(row)
                failed += "error" in row
            done += 1
            on_question(done, total, failed)
        previous = looked or previous
    return list(results.rows.values())


def drawn(questions: QuestionSet, limit: int | None, seed: int = 0) -> list[list[Question]]:
    """`limit` questions or all, those about one file together, the files in an order drawn by a seed."""
    groups = by_files([i for i in questions.questions if not i.problem])
    random.Random(seed).shuffle(groups)
    return by_files([item for group in groups for item in group][:limit])


def _key(item: Question, setting: SweepSetting) -> str:
    return f"{item.key} {setting.name}"


def _about(item: Question, setting: SweepSetting) -> Row:
    about = {"selector": setting.selector, "keep": setting.keep, "setting": setting.name}
    return described(item) | {"key": _key(item, setting), "item": item.key} | about


def _ask(
    model: AVModel,
    item: Question,
    settings: Sequence[SweepSetting],
    looked: EncodedClip,
    other: EncodedClip | None,
    profile: Profile,
) -> list[Row]:
    """A row for each setting of one question; none for the blind one where there is no `other` file yet."""
    stream = model.stream(looked.features, item.text, profile.system)
    evidence = evidence_tokens(stream, item.evidence).cpu() if item.evidence else None
    tools = Tools(decoder=model.decoder, sieve=model.sieve, seed=zlib.crc32(item.key.encode()))
    whole: dict[str, KeptStream] = {}
    rows, kept = [], []
    for setting in settings:
        if setting.blind:
            if other is None:
                continue
            kept.append(select("none", model.stream(other.features, item.text, profile.system), Budget.of(1), tools))
        else:
            kept.append(_select(setting, stream, tools, whole))
        rows.append(_about(item, setting))
    longest = max((len(k.embeds) for k in kept), default=0) + profile.max_new_tokens
    if longest > model.context_tokens:
        raise CapacityError(f"{longest} tokens exceed the {model.context_tokens} that {model.name} reads")
    texts = batched.answers(model, kept, profile.max_new_tokens)
    return [
        {
            **row,
            "answer": text,
            "right": item.judge(text),
            **item.reading(text),
            "tokens": {m: asdict(count_tokens(k).of(m)) for m in ("video", "audio")},
            **({} if evidence is None or row["setting"] == BLIND else {"evidence": _counted(evidence, k)}),
        }
        for row, k, text in zip(rows, kept, texts, strict=True)
    ]


def _select(setting: SweepSetting, stream: TokenStream, tools: Tools, whole: dict[str, KeptStream]) -> KeptStream:
    """What a setting keeps; a selector that scores runs once a question (in `whole`), for all ratios."""
    budget = Budget.of(setting.keep or 1.0)
    name, _, ablation = setting.selector.partition("/")
    scorer = setting.selector if ablation else SELECTORS[name].scored_by
    if scorer is None:
        return select(name, stream, budget, tools)
    if scorer not in whole:
        if ablation and tools.sieve is not None:
            tools = replace(tools, sieve=ablated(tools.sieve, ablation, stream.modality), window_tokens=sys.maxsize)
        whole[scorer] = select(name, stream, Budget.of(1.0), tools)
    if whole[scorer].scores is None:  # a prompt without media
        return whole[scorer]
    with torch.inference_mode():
        return narrow(whole[scorer], budget, per_modality=setting.selector == "cs2-per-modality")


def _counted(mask: Tensor, kept: KeptStream) -> dict[str, Any]:
    return {"total": int(mask.sum()), "kept": int(mask[kept.indices.cpu()].sum())}
