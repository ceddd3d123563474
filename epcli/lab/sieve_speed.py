"""What a training step of ep-smol's sieve costs: `python -m epcli.lab.sieve_speed`.

Random tower features of a clip, one question; milliseconds of one item forward and backward at each keep ratio, of an
item that goes past the sieve with all tokens, and of the relevance-only step. The median over rounds in which every
way takes its turn, so that other work on the machine meets all alike.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from epcli.models.smol.adapter_file import ADAPTER
from epcli.models.smol.ear import AUDIO_WIDTH
from epcli.models.smol.family import AUDIO_STEP_S
from epcli.models.smol.learner import smol_items, smol_learner
from epcli.models.smol.model import media_layout, prompt_ids
from epcli.questions.record import Evidence
from epcli.records import AudioFeatures, Features, Modality, SeenFeatures, Sight
from epcli.train.examples import Example
from epcli.train.recipe import TrainedParts
from epcli.train.sieve_trainer import SieveRecipe, SieveTrainer


def random_features(frames: int, sounds: int) -> Features:
    """Of a clip with a frame a second, six things in each, and `sounds` tokens of sound."""
    torch.manual_seed(0)
    times = torch.arange(frames, dtype=torch.float64)
    names = ("person", "dog", "car", "horse", "bus", "boat")
    things = tuple(Sight("object", name, 0.6, (0.1 * i, 0.2, 0.1 * i + 0.3, 0.8)) for i, name in enumerate(names))
    video = SeenFeatures((things,) * frames, times, 1.0)
    audio = AudioFeatures(torch.randn(sounds, AUDIO_WIDTH).relu().half(), AUDIO_STEP_S, None)
    return Features(float(frames), video, audio)


class OneClip:
    """The same clip and question again and again."""

    def __init__(self, model: Any, features: Features) -> None:
        self.model, self.features = model, features

    def draw(self, _: object) -> list[Example]:
        model = self.model
        start = len(prompt_ids(model.tokenizer, "", None)[0])
        media = media_layout(
            model.adapter, model.decoder.get_input_embeddings().weight, model.tokenizer, self.features, start
        )
        evidence = [Evidence(Modality.AUDIO, 3.0, 4.0)]
        return smol_items(model, media, [("any", "Which instrument plays first?", "A violin plays first.", evidence)])


def main(
    frames: int = 16,
    sounds: int = 60,
    rounds: int = 7,
    threads: int = 2,
    processor_time: Annotated[bool, typer.Option(help="Of all threads, in place of the wall's.")] = False,
    adapter: Annotated[Path, typer.Option(help="Adapter file to start from.")] = ADAPTER,
) -> None:
    clock = time.process_time if processor_time else time.perf_counter
    learner = smol_learner(adapter, TrainedParts(), threads=threads)
    source = OneClip(learner.model, random_features(frames, sounds))
    ways = {f"keep {keep:g}": SieveRecipe(items=1, keep=(keep, keep), plain=0.0) for keep in (0.05, 0.1, 0.3, 1.0)}
    for keep in (0.1, 1.0):
        ways[f"no sieve, keep {keep:g}"] = SieveRecipe(items=1, keep=(keep, keep), plain=1.0, plain_with=("uniform",))
    ways["relevance only"] = SieveRecipe(items=1, relevance_only=1.0, relevance_any=1.0)
    trainers = {name: SieveTrainer(learner, source, None, recipe, Path()) for name, recipe in ways.items()}
    spent: dict[str, list[float]] = {name: [] for name in trainers}
    spent["embedding the clip, backward included"] = []
    for number in range(rounds + 1):
        for name, trainer in trainers.items():
            items = source.draw(None)
            began = clock()
            trainer._accumulate(items, name == "relevance only")
            if number:  # the first round warms up
                spent[name].append(clock() - began)
        began = clock()
        source.draw(None)[0].stream.embeds.float().sum().backward()
        if number:
            spent["embedding the clip, backward included"].append(clock() - began)
    media = int((source.draw(None)[0].stream.modality != Modality.TEXT).sum())
    print(f"{media} media tokens, {threads} threads")
    for name, seconds in spent.items():
        print(f"{name:40} {statistics.median(seconds) * 1000:7.0f} ms")


if __name__ == "__main__":
    typer.run(main)
