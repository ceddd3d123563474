"""How selectors and both caches of SEATS fare on a question set: python -m epcli.lab.caches QUESTIONS.jsonl --keep 0.1

A line of JSON for each question and setting: the greedy answer, whether it is right, and the mean negative
log-likelihood of the set's true answer, which tells apart settings that few questions cannot. With --table the file
holds such lines, and a table of them is written, with 95% intervals by a bootstrap of whole media files.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from epcli.config import Profile
from epcli.evals.tables import markdown
from epcli.models.family import AVModel
from epcli.questions.record import Question, by_files
from epcli.questions.sets import read_set
from epcli.records import KeptStream
from epcli.session import generate
from epcli.session.meter import Meter
from epcli.session.session import Session
from epcli.sieve.depths import mean_keep
from epcli.sieve.select import Budget
from epcli.sieve.selectors import Tools, select

SELECTORS = ("seats", "query-aware", "uniform", "random")
NEW_TOKENS = 20
RESAMPLES = 2000

Setting = tuple[str, float, bool]  # selector, share, and whether caches of layers that have run are left alone


def settings(keeps: Sequence[float], trained: bool, published_cache: bool) -> list[Setting]:
    """All tokens; then every selector at each share, cs2 too if the model has a trained sieve."""
    names = ("cs2", *SELECTORS) if trained else SELECTORS
    published = [("seats", keep, False) for keep in keeps if published_cache]
    return [("none", 1.0, True), *published, *((name, keep, True) for keep in keeps for name in names)]


@torch.inference_mode()
def answers(
    session: Session, model: AVModel, questions: Sequence[Question], wanted: Sequence[Setting], new_tokens: int
) -> Iterator[dict[str, Any]]:
    """A row for each question, which has a true answer, and setting. With 0 `new_tokens` nothing is answered."""
    for group in by_files(questions):
        looked = group[0].look(session)
        for question in group:
            stream = model.stream(looked.features, question.text, None)
            tools = Tools(decoder=model.decoder, sieve=model.sieve, seed=zlib.crc32(question.text.encode()))
            gold = model.tokenizer(question.answer, add_special_tokens=False)["input_ids"]
            for selector, share, keep_cache in wanted:
                kept = select(selector, stream, Budget(ratio=share), tools)
                text, loss, depths = answer(model, kept, gold, keep_cache, new_tokens)
                yield {
                    "media": str(question.media),
                    "question": question.text,
                    "selector": selector,
                    "keep": share,
                    "keep_cache": keep_cache,
                    "mean_keep": mean_keep(replace(kept, depths=depths), len(model.decoder.layers)),
                    **({"answer": text, "right": question.judge(text)} if new_tokens else {}),
                    "loss": loss,
                }


def answer(
    model: AVModel, kept: KeptStream, gold: Sequence[int], keep_cache: bool, new_tokens: int
) -> tuple[str, float, Tensor]:
    """The greedy answer, the mean negative log-likelihood of `gold`, and how deep each token came."""
    cache = DynamicCache(config=model.decoder.config)
    hidden, depths = generate.prefill(model, kept, cache, keep_cache=keep_cache)
    again = copy.deepcopy(cache)
    steps, said = generate.decode_steps(model, kept, cache, hidden), list[int]()
    logits = next(steps)
    while len(said) < new_tokens and (token := int(logits.argmax())) not in model.stop_ids:
        said.append(token)
        logits = steps.send(token)
    steps, losses = generate.decode_steps(model, kept, again, hidden), []
    logits = next(steps)
    for token in gold:
        losses.append(-float(logits.log_softmax(-1)[token]))
        logits = steps.send(token)
    text = model.tokenizer.decode(said, skip_special_tokens=True).strip()
    return text, sum(losses) / max(len(losses), 1), depths


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: each setting's figures, and its log-likelihood against all tokens on the same questions."""
    by_setting: dict[Setting, dict[tuple[str, str], dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        setting = row["selector"], row["keep"], row["keep_cache"]
        by_setting[setting][row["media"], row["question"]] = row
    whole = by_setting["none", 1.0, True]
    answered = any("right" in row for row in rows)
    lines = []
    for (selector, keep, keep_cache), found in by_setting.items():
        there = [key for key in found if key in whole]
        judged = [row for row in found.values() if "right" in row]
        gap = difference([(key[0], found[key]["loss"] - whole[key]["loss"]) for key in there])
        lines.append(
            [
                f"`{selector}`" + ("" if keep_cache else ", caches as published"),
                f"{keep:g}",
                *([f"{sum(row['right'] for row in judged)} of {len(judged)}"] if answered else []),
                f"{sum(row['loss'] for row in found.values()) / len(found):.2f}",
                "-" if selector == "none" else "{:+.2f} ({:+.2f} to {:+.2f})".format(*gap),
            ]
        )
    right = ["right"] if answered else []
    return markdown(["selector", "keep", *right, "negative log-likelihood", "minus that of all tokens"], lines)


def difference(pairs: Sequence[tuple[str, float]], seed: int = 0) -> tuple[float, float, float]:
    """The mean of paired differences, each with its media file, and its 95% interval by a bootstrap of files."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for file, value in pairs:
        sums[file][0] += value
        sums[file][1] += 1
    found = np.array(list(sums.values()))
    draws = np.random.default_rng(seed).multinomial(len(found), np.full(len(found), 1 / len(found)), RESAMPLES)
    total, n = (draws @ found).T
    low, high = np.quantile(total / n, [0.025, 0.975])
    return float(found[:, 0].sum() / found[:, 1].sum()), float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m epcli.lab.caches", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("questions", type=Path, help="a JSONL as of `ep eval`, with answers")
    parser.add_argument("--keep", default="0.1", help="shares, with commas between them")
    parser.add_argument("--model", default="ep-smol")
    parser.add_argument("--loss-only", action="store_true", help="write no answers, which take most of the time")
    parser.add_argument("--published-cache", action="store_true", help="SEATS also with its published code's cache")
    parser.add_argument("--table", action="store_true", help="make a table of the lines that a run wrote")
    chosen = parser.parse_args()
    if chosen.table:
        print(table([json.loads(line) for line in chosen.questions.read_text().splitlines()]))
        return 0
    session = Session(Profile(model=chosen.model))
    model = session.load(Meter(session.device))
    keeps = [float(part) for part in chosen.keep.split(",")]
    wanted = settings(keeps, model.sieve is not None, chosen.published_cache)
    found = [each for each in read_set(chosen.questions).questions if each.answer and not each.problem]
    for row in answers(session, model, found, wanted, 0 if chosen.loss_only else NEW_TOKENS):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
