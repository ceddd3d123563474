"""How selectors and both caches of SEATS fare on a question set: python -m epcli.lab.caches QUESTIONS.jsonl --keep 0.1

A line of JSON for each question and setting: the greedy answer, whether it is right, and the mean negative
log-likelihood of the set's true answer, which tells apart settings that few questions cannot.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from epcli.config import Profile
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


def settings(keep: float) -> list[tuple[str, float, bool]]:
    """Selector, share, and whether caches of layers that have run are left alone."""
    return [("none", 1.0, True), ("seats", keep, False), *((name, keep, True) for name in SELECTORS)]


@torch.inference_mode()
def answers(session: Session, model: AVModel, questions: Sequence[Question], keep: float) -> Iterator[dict[str, Any]]:
    """A row for each question, which has a true answer, and setting."""
    for group in by_files(questions):
        looked = group[0].look(session)
        for question in group:
            stream = model.stream(looked.features, question.text, None)
            tools = Tools(decoder=model.decoder, sieve=model.sieve, seed=zlib.crc32(question.text.encode()))
            gold = model.tokenizer(question.answer, add_special_tokens=False)["input_ids"]
            for selector, share, keep_cache in settings(keep):
                kept = select(selector, stream, Budget(ratio=share), tools)
                text, loss, depths = answer(model, kept, gold, keep_cache)
                yield {
                    "media": str(question.media),
                    "question": question.text,
                    "selector": selector,
                    "keep": share,
                    "keep_cache": keep_cache,
                    "mean_keep": mean_keep(replace(kept, depths=depths), len(model.decoder.layers)),
                    "answer": text,
                    "right": question.judge(text),
                    "loss": loss,
                }


def answer(model: AVModel, kept: KeptStream, gold: Sequence[int], keep_cache: bool) -> tuple[str, float, Tensor]:
    """The greedy answer, the mean negative log-likelihood of `gold`, and how deep each token came."""
    cache = DynamicCache(config=model.decoder.config)
    hidden, depths = generate.prefill(model, kept, cache, keep_cache=keep_cache)
    again = copy.deepcopy(cache)
    steps, said = generate.decode_steps(model, kept, cache, hidden), list[int]()
    logits = next(steps)
    while len(said) < NEW_TOKENS and (token := int(logits.argmax())) not in model.stop_ids:
        said.append(token)
        logits = steps.send(token)
    steps, losses = generate.decode_steps(model, kept, again, hidden), []
    logits = next(steps)
    for token in gold:
        losses.append(-float(logits.log_softmax(-1)[token]))
        logits = steps.send(token)
    text = model.tokenizer.decode(said, skip_special_tokens=True).strip()
    return text, sum(losses) / max(len(losses), 1), depths


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m epcli.lab.caches", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("questions", type=Path, help="a JSONL as of `ep eval`, with answers")
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--model", default="ep-smol")
    chosen = parser.parse_args()
    session = Session(Profile(model=chosen.model))
    model = session.load(Meter(session.device))
    found = [each for each in read_set(chosen.questions).questions if each.answer and not each.problem]
    for row in answers(session, model, found, chosen.keep):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
