"""The recipe of ep-smol's adapter, step by step; `python -m epcli.lab.smol --help`.

python -m epcli.lab.sources --out LIBRARY      recordings, speech and their names
python -m epcli.lab.smol head LIBRARY RUN      teach the sound head the names
python -m epcli.lab.smol tracks LIBRARY RUN    listen to sound tracks of the recordings
python -m epcli.lab.smol train RUN             train adapter and LoRA on simulated scenes with these tracks
python -m epcli.lab.smol sieve RUN             train the sieve with them
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from epcli.lab.asking import ask, rough
from epcli.lab.questions import SceneQuestion
from epcli.lab.retold import Retold
from epcli.lab.scenes import Library
from epcli.lab.sounds import Patches, fit_sound, score
from epcli.lab.stories import Story, StoryMaker, make_story
from epcli.lab.tracks import TrackMaker, load_tracks, make_tracks
from epcli.lab.trainer import AdapterRecipe, Told, Trainer
from epcli.models.smol.adapter import Adapter, load_adapter
from epcli.models.smol.adapter_file import ADAPTER
from epcli.models.smol.ear import Ear
from epcli.models.smol.family import MOST_FRAMES
from epcli.models.smol.learner import smol_learner
from epcli.models.smol.model import Language
from epcli.observe.yamnet import load_yamnet
from epcli.session.device import cpu_dtype
from epcli.train import parallel
from epcli.train.recipe import TrainedParts
from epcli.train.sieve_trainer import SieveRecipe, SieveTrainer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

LONG, LONGEST_S = 0.5, 24.0  # share of scenes longer than one event; seconds
VERY_LONG, VERY_LONGEST_S = 0.25, 60.0  # share of these that are longer still; seconds
SHOTS, MORE_SHOTS = 5, 8  # most of a scene, of a very long one
QUIET_FREE = 1 / 3  # share of scenes that are reported without an error
WORST = 2.0  # times the measured errors, at most
MUTE, BLIND = 0.08, 0.05  # share of scenes without sound, without picture


class StorySource:
    """Simulated scenes with sound tracks of a library's recordings, and their questions."""

    def __init__(self, library: Path, run: Path, split: str, tokenizer: Any) -> None:
        self.lib = Library(library, split)
        retold = Retold(tokenizer)
        self.tracks = TrackMaker(load_tracks(self.lib, run / split), self.lib, retold)
        self.maker = StoryMaker(retold)

    def story(self, rng: random.Random, progress: float = 1.0) -> Story:
        """A scene; simpler ones at the beginning of training."""
        share = 0.1 + (LONG - 0.1) * progress
        longer = rng.random() < VERY_LONG * progress
        longest_s, most_shots = (VERY_LONGEST_S, MORE_SHOTS) if longer else (LONGEST_S, SHOTS)
        track = self.tracks.several(rng, longest_s) if rng.random() < share else self.tracks.one(rng)
        noise = 0.0 if rng.random() < QUIET_FREE else rng.uniform(0.5, WORST)
        kind = rng.random()
        most_frames = 0 if kind < BLIND else MOST_FRAMES
        shots = max(1, round(1 + (most_shots - 1) * min(1.0, 0.4 + progress)))
        duration = track.duration_s
        if kind > 1 - MUTE:
            return make_story(rng, self.maker, None, duration, noise, most_shots=shots, most_frames=most_frames)
        return make_story(rng, self.maker, track, duration, noise, most_shots=shots, most_frames=most_frames)

    def questions(self, story: Story, rng: random.Random) -> list[SceneQuestion]:
        """Every question that the story answers, as people type them."""
        return [replace(q, question=rough(q.question, rng)) for q in ask(story, self.lib, rng)]

    def draw(self, rng: random.Random, progress: float = 1.0) -> Told:
        story = self.story(rng, progress)
        pairs = [(q.type, q.question, q.answer) for q in self.questions(story, rng)]
        return Told(story.duration_s, story.seen, None if story.track is None else story.track.heard, pairs)


@app.command()
def head(
    library: Path,
    run: Path,
    minutes: Annotated[float, typer.Option(help="To learn the names of sounds.")] = 14.0,
    threads: int = 2,
) -> None:
    """Fit the sound head on the library; writes RUN/head.safetensors."""
    torch.set_num_threads(threads)
    model, lib, yamnet = Language(cpu_dtype()), Library(library, "train"), load_yamnet()
    adapter = Adapter(lib.heard_names, 576)
    adapter.initialise(model.decoder.get_input_embeddings().weight, model.tokenizer)
    fit_sound(adapter.sounds.head, yamnet, Patches(lib, yamnet), minutes, say=typer.echo)
    run.mkdir(parents=True, exist_ok=True)
    about = {"heard": adapter.heard, "width": 576}
    save_file(
        {k: v.contiguous() for k, v in adapter.state_dict().items()},
        run / "head.safetensors",
        {"epcli": json.dumps(about)},
    )
    typer.echo(f"held-out sounds: {score(adapter.sounds, yamnet, Library(library, 'heldout'))}")


@app.command()
def tracks(
    library: Path,
    run: Path,
    count: Annotated[int, typer.Option(help="Sound tracks of the train split.")] = 2500,
    begin: Annotated[Path, typer.Option(help="The file whose sound head names them.")] = ADAPTER,
    threads: int = 2,
) -> None:
    """Listen to sound tracks of both splits; writes RUN/train and RUN/heldout."""
    torch.set_num_threads(threads)
    adapter, _, _ = load_adapter(begin)
    ear = Ear(None)
    for split, share, seed in (("heldout", 0.08, 2), ("train", 1.0, 1)):
        lib = Library(library, split)
        make_tracks(lib, ear, adapter.sounds, int(count * share), seed, run / split, typer.echo)
    (run / "library.json").write_text(json.dumps(str(library.resolve())))


@app.command()
def train(
    run: Path,
    minutes: float = 60.0,
    lr: float = AdapterRecipe.lr,
    lora_lr: float = AdapterRecipe.lora_lr,
    begin: Annotated[Path, typer.Option(help="Begin with this adapter.")] = ADAPTER,
    threads: int = 2,
) -> None:
    """Train adapter and LoRA on simulated scenes, going on from RUN/checkpoint.pt if there is one.

    On two cores: torchrun --nproc-per-node 2 -m epcli.lab.smol train RUN --threads 1

    Checkpoints go to RUN, the result to RUN/adapter.safetensors.
    """
    torch.set_num_threads(threads)
    parallel.start()
    library = Path(json.loads((run / "library.json").read_text()))
    model = Language(cpu_dtype())
    source, held = (StorySource(library, run, split, model.tokenizer) for split in ("train", "heldout"))
    adapter, lora, _ = load_adapter(begin)
    trainer = Trainer(
        model, adapter, source, held, replace(AdapterRecipe(), minutes=minutes, lr=lr, lora_lr=lora_lr), run, typer.echo
    )
    if not trainer.resume() and lora:
        trainer.load_lora(lora)
    trainer.run()
    if trainer.rank == 0:
        carry_sieve(begin, run / "adapter.safetensors")
    parallel.stop()


def carry_sieve(begin: Path, adapter: Path) -> None:
    """Put the sieve of the file that training began with, if it has one, into the file that it wrote."""
    with safe_open(begin, "pt") as file:
        before = json.loads(file.metadata()["epcli"])
        sieve = {k: file.get_tensor(k) for k in file.keys() if k.startswith(("refiner.", "scorer."))}  # noqa: SIM118
    with safe_open(adapter, "pt") as file:
        about = json.loads(file.metadata()["epcli"])
    about |= {key: before[key] for key in ("refiner", "reads_refined") if key in before}
    save_file(load_file(adapter) | sieve, adapter, {"epcli": json.dumps(about)})


@app.command()
def sieve(
    run: Path,
    minutes: float = 20.0,
    find: Annotated[float, typer.Option(help="Minutes before, in which refiner and score head learn to find.")] = 8.0,
    begin: Annotated[
        Path | None, typer.Option(help="Adapter to begin with (default: RUN/adapter.safetensors).")
    ] = None,
    threads: int = 2,
) -> None:
    """Train the sieve on simulated scenes; an earlier run goes on.

    First refiner and score head alone, into RUN/find: the tokens that hold the evidence are to score high. Then sieve,
    adapter and LoRA together, into RUN/sieve.
    """
    from epcli.lab.moments import Moments

    torch.set_num_threads(threads)
    parallel.start()
    library = Path(json.loads((run / "library.json").read_text()))
    learner = smol_learner(begin or run / "adapter.safetensors", TrainedParts())
    tokenizer = learner.model.tokenizer
    training, held = (StorySource(library, run, split, tokenizer) for split in ("train", "heldout"))
    recipe = SieveRecipe(
        minutes=minutes,
        keep=(0.03, 0.5),
        plain=0.3,
        plain_with=("none", "none", "random"),  # so that all tokens are still read well
        relevance_any=0.3,
        relevance_all=0.7,
        evaluate_s=900.0,
        evaluate_items=48,
    )
    rates = {"adapter": 5e-5, "decoder": 1e-4, "refiner": 1e-3, "scorer": 1e-3}
    if find and not (run / "sieve" / "checkpoint.pt").exists():
        few = Moments(training, learner.model, noise=1.0, questions=8, gradients=False)
        finding = replace(recipe, minutes=find, items=32, relevance_only=1.0, lr=rates)
        finder = SieveTrainer(learner, few, None, finding, run / "find", typer.echo)
        finder.resume()
        finder.run()
    scenes, unseen = (Moments(source, learner.model, noise=noise) for source, noise in ((training, 1.0), (held, 0.0)))
    together = replace(recipe, lr=rates | {"refiner": 3e-4, "scorer": 5e-4})
    trainer = SieveTrainer(learner, scenes, unseen, together, run / "sieve", typer.echo)
    trainer.resume()
    trainer.run()
    parallel.stop()


if __name__ == "__main__":
    app()
