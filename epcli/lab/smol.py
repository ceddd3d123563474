"""The recipe of ep-smol's adapter, step by step; `python -m epcli.lab.smol --help`.

python -m epcli.lab.sources --out LIBRARY      pictures, sounds and their names
python -m epcli.lab.smol pools LIBRARY RUN     encode views and sound tracks
python -m epcli.lab.smol heads RUN             teach the projectors the names
python -m epcli.lab.smol train RUN             train adapter and LoRA with the language model
python -m epcli.lab.smol sieve RUN             train the sieve with them
python -m epcli.lab.smol reading RUN           what is wrong with the answers: naming or reading
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.torch import load_file, save_file

from epcli.errors import UsageError
from epcli.lab import heads
from epcli.lab.moments import Moments
from epcli.lab.pools import (
    SceneMaker,
    cell_labels,
    load_tracks,
    load_views,
    make_tracks,
    make_views,
    sound_labels,
    tint_labels,
)
from epcli.lab.questions import ask
from epcli.lab.reading import measure
from epcli.lab.retold import Retold
from epcli.lab.scenes import Library, boxes_of, frame_times, write_long_script, write_script
from epcli.lab.sounds import Patches, fit_sound, score
from epcli.lab.trainer import AdapterExample, AdapterRecipe, Trainer
from epcli.lab.vision import named_cells
from epcli.models.smol.adapter_file import ADAPTER
from epcli.models.smol.family import AUDIO_STEP_S
from epcli.models.smol.learner import smol_learner
from epcli.models.smol.model import Adapter, EpSmol, Language, SoundHead, Towers, load_adapter
from epcli.observe.yamnet import load_yamnet
from epcli.records import AudioFeatures, Features, VideoFeatures
from epcli.session.device import cpu_dtype
from epcli.train import parallel
from epcli.train.recipe import TrainedParts
from epcli.train.sieve_trainer import SieveRecipe, SieveTrainer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


LONG, FRAMES, LONGEST_S = 0.3, 12, 24.0  # share of scenes longer than one event; most pictures of a scene; seconds
SEVERAL = 0.3  # share of shorter ones with several events and few pictures: to tell all there is is learned late
EASY = 0.1, 3  # share and pictures at the beginning of training: reading is learned from few tokens


class SceneSource:
    """Scenes from pools, with their questions."""

    def __init__(self, library: Path, pools: Path, split: str, tokenizer: Any = None) -> None:
        """`tokenizer`: some voices say other words than were recorded."""
        self.lib = Library(library, split)
        views, tracks = load_views(self.lib, pools / split), load_tracks(self.lib, pools / split)
        self.maker = SceneMaker(self.lib, views, tracks, Retold(tokenizer) if tokenizer else None)

    def check(self, adapter: Adapter) -> None:
        """Raises UsageError if the adapter knows other names than the library, whose labels are numbers."""
        if (adapter.seen, adapter.heard) != (self.lib.seen_names, self.lib.heard_names):
            raise UsageError(
                f"{self.lib.folder}: the adapter was trained on other names; give the library it was trained on"
            )

    def draw(self, rng: random.Random, progress: float = 1.0) -> AdapterExample:
        share = EASY[0] + (LONG - EASY[0]) * progress
        frames = round(EASY[1] + (FRAMES - EASY[1]) * progress**2)
        if rng.random() < SEVERAL:
            scene = self.maker.several(rng)
        else:
            scene = self.maker.draw(rng, LONGEST_S if rng.random() < share else 0.0, frames)
        pairs = [(q.type, q.question, q.answer) for q in ask(scene.script, self.lib, rng)]
        return AdapterExample(scene.features, pairs, scene.video_labels, scene.audio_labels, scene.tint_labels)


class ProxySource:
    """Scenes that are only names: no tower runs, the tokens say what they show. For reading before looking."""

    def __init__(self, library: Path, tokenizer: Any) -> None:
        self.lib, self.tokenizer = Library(library, "train"), tokenizer
        self.seen = {name: i for i, name in enumerate(self.lib.seen_names)}
        self.heard = {name: i for i, name in enumerate(self.lib.heard_names)}

    def draw(self, rng: random.Random, progress: float = 1.0) -> AdapterExample:
        script = write_long_script(self.lib, rng, 24.0) if rng.random() < LONG else write_script(self.lib, rng)
        video = audio = video_labels = audio_labels = tints = None
        if script.views:
            times = frame_times(script.duration_s, 1.0)
            nr = np.random.default_rng(script.seed)
            names, colours = [], []
            drawn: dict[float, tuple[torch.Tensor, torch.Tensor]] = {}
            for v in script.views:
                which = cell_labels(script.size, boxes_of(v, script.size, nr), range(len(v.objects)))
                numbers = torch.tensor([self.seen[o.thing.name] for o in v.objects])
                drawn[v.start_s] = (
                    torch.where(which >= 0, numbers[which.clamp(min=0)], which),
                    tint_labels(which, v),
                )
            for t in times:
                name, colour = drawn[script.view_at(float(t)).start_s]  # type: ignore[union-attr]
                names.append(name)
                colours.append(colour)
            video_labels, tints = torch.stack(names), torch.stack(colours)
            video = VideoFeatures(torch.empty(0), torch.from_numpy(times), script.duration_s / len(times))
        if script.sounds:
            tokens = int(np.ceil(script.duration_s / AUDIO_STEP_S))
            audio_labels = sound_labels(script.sounds, tokens, self.heard)
            words = torch.full((tokens,), -1)
            for part in script.sounds:
                pieces = self.tokenizer(" " + part.speech, add_special_tokens=False).input_ids if part.speech else []
                first, last = int(part.start_s / AUDIO_STEP_S), int(part.end_s / AUDIO_STEP_S)
                for at, piece in zip(
                    np.linspace(first, max(last - 1, first), len(pieces)).astype(int), pieces, strict=True
                ):
                    if at < tokens:
                        words[at] = piece
            audio = AudioFeatures(torch.empty(0), AUDIO_STEP_S, words)
        pairs = [(q.type, q.question, q.answer) for q in ask(script, self.lib, rng)]
        return AdapterExample(Features(script.duration_s, video, audio), pairs, video_labels, audio_labels, tints)


@app.command()
def pools(
    library: Path,
    run: Path,
    views: Annotated[int, typer.Option(help="Encoded pictures of the train split.")] = 9000,
    tracks: Annotated[int, typer.Option(help="Encoded sound tracks of the train split.")] = 3000,
    what: Annotated[str, typer.Option(help="views, tracks or all")] = "all",
    split: Annotated[str, typer.Option(help="train, heldout or both")] = "both",
    threads: int = 2,
) -> None:
    """Encode views and sound tracks of both splits into RUN."""
    torch.set_num_threads(threads)
    run.mkdir(parents=True, exist_ok=True)
    (run / "library.json").write_text(json.dumps(str(library.resolve())))
    model = Language(cpu_dtype())
    for name, share, seed in (("heldout", 0.08, 2), ("train", 1.0, 1)):
        if split not in (name, "both"):
            continue
        lib = Library(library, name)
        typer.echo(f"{name}: {len(lib.seen)} things seen, {len(lib.heard)} heard, {len(lib.speech)} sentences")
        if what in ("views", "all"):
            make_views(lib, Towers(model.tokenizer, sound=False), int(views * share), seed, run / name, typer.echo)
        if what in ("tracks", "all"):
            make_tracks(lib, Towers(model.tokenizer, vision=False), int(tracks * share), seed, run / name, typer.echo)


@app.command(name="heads")
def fit_heads(
    run: Path,
    pictures: Annotated[int, typer.Option(help="Drawn anew, to name what their cells show.")] = 28000,
    epochs: int = 6,
    minutes: Annotated[float, typer.Option(help="To learn the names of sounds.")] = 14.0,
    threads: int = 2,
) -> None:
    """Fit the projectors' heads, for pictures and for sounds, on the library; writes RUN/heads.safetensors."""
    torch.set_num_threads(threads)
    library = Path(json.loads((run / "library.json").read_text()))
    model = Language(cpu_dtype())
    lib = Library(library, "train")
    adapter = Adapter(lib.seen_names, lib.heard_names, 576)
    adapter.initialise(Towers(model.tokenizer), model.decoder.get_input_embeddings().weight, model.tokenizer)
    named = named_cells(lib, Towers(model.tokenizer, sound=False), pictures, 1, say=typer.echo)
    heads.warm_up(adapter, named, load_views(lib, run / "train"), typer.echo, epochs)
    del named
    yamnet, ear = load_yamnet(), adapter.audio.head
    assert isinstance(ear, SoundHead)
    fit_sound(ear, yamnet, Patches(lib, yamnet), minutes, say=typer.echo)
    names = json.dumps({"seen": adapter.seen, "heard": adapter.heard})
    save_file({k: v.contiguous() for k, v in adapter.state_dict().items()}, run / "heads.safetensors", {"names": names})
    held = Library(library, "heldout")
    held_pools = load_views(held, run / "heldout"), load_tracks(held, run / "heldout")
    typer.echo(f"held-out: {heads.measure(adapter, *held_pools)}, sounds alone {score(adapter.audio, yamnet, held)}")


@app.command()
def read(library: Path, run: Path, minutes: float = 20.0, threads: int = 2) -> None:
    """Train on scenes that are only names; writes RUN/checkpoint.pt, from which `train` goes on."""
    torch.set_num_threads(threads)
    model = Language(cpu_dtype())
    source = ProxySource(library, model.tokenizer)
    adapter = Adapter(source.lib.seen_names, source.lib.heard_names, 576)
    adapter.initialise(Towers(model.tokenizer), model.decoder.get_input_embeddings().weight, model.tokenizer)
    trainer = Trainer(
        model, adapter, source, None, replace(AdapterRecipe(), minutes=minutes, proxy=(1.0, 1.0)), run, typer.echo
    )
    trainer.resume()
    trainer.run()


@app.command()
def train(
    run: Path,
    minutes: float = 60.0,
    lr: float = AdapterRecipe.lr,
    lora_lr: float = AdapterRecipe.lora_lr,
    start_from: Annotated[
        Path | None, typer.Option(help="Checkpoint of `read` to begin from, or an adapter file, of which all is taken.")
    ] = None,
    threads: int = 2,
) -> None:
    """Train adapter and LoRA on scenes from RUN's pools, going on from RUN/checkpoint.pt if there is one.

    On two cores: torchrun --nproc-per-node 2 -m epcli.lab.smol train RUN --threads 1

    Checkpoints go to RUN, the result to RUN/adapter.safetensors.
    """
    torch.set_num_threads(threads)
    parallel.start()
    library = Path(json.loads((run / "library.json").read_text()))
    recipe = replace(AdapterRecipe(), minutes=minutes, lr=lr, lora_lr=lora_lr)
    model = Language(cpu_dtype())
    source = SceneSource(library, run, "train", model.tokenizer)
    held = SceneSource(library, run, "heldout")
    lora: dict[str, torch.Tensor] = {}
    if start_from and start_from.suffix == ".safetensors":
        adapter, lora, _ = load_adapter(start_from)
        source.check(adapter)
    else:
        adapter = Adapter(source.lib.seen_names, source.lib.heard_names, 576)
        adapter.load_state_dict(load_file(run / "heads.safetensors"))
        adapter.load_classifiers()
    trainer = Trainer(model, adapter, source, held, recipe, run, typer.echo)
    if not trainer.resume() and start_from:
        if lora:
            trainer.load_lora(lora)
        else:
            trainer.transfer_from(start_from)
    trainer.run()
    parallel.stop()


@app.command()
def sieve(
    run: Path,
    minutes: float = 20.0,
    find: Annotated[float, typer.Option(help="Minutes before, in which refiner and score head learn to find.")] = 10.0,
    begin: Annotated[
        Path | None, typer.Option(help="Adapter to begin with (default: RUN/adapter.safetensors).")
    ] = None,
    threads: int = 2,
) -> None:
    """Train the sieve on scenes from RUN's pools; an earlier run goes on.

    First refiner and score head alone, into RUN/find: the tokens that hold the evidence are to score high, on a few
    tokens of each scene, which is cheap. Then sieve, adapter and LoRA together, into RUN/sieve.
    """
    torch.set_num_threads(threads)
    parallel.start()
    library = Path(json.loads((run / "library.json").read_text()))
    learner = smol_learner(begin or run / "adapter.safetensors", TrainedParts())
    training = SceneSource(library, run, "train", learner.model.tokenizer)
    held = SceneSource(library, run, "heldout")
    recipe = SieveRecipe(minutes=minutes, relevance_any=0.5, relevance_all=0.3, evaluate_s=900.0, evaluate_items=48)
    rates = {"adapter": 1e-4, "decoder": 2e-4, "refiner": 1e-3, "scorer": 1e-3}
    if find and not (run / "sieve" / "checkpoint.pt").exists():
        few = Moments(
            training.lib,
            training.maker,
            learner.model,
            noise=1.4,
            questions=8,
            long=0.4,
            longest_s=44.0,
            thinned=(0.15, 0.5),
        )
        finding = replace(recipe, minutes=find, items=32, relevance_only=1.0, anchor=0.3, lr=rates)
        finder = SieveTrainer(learner, few, None, finding, run / "find", typer.echo)
        finder.resume()
        finder.run()
    scenes, unseen = (
        Moments(s.lib, s.maker, learner.model, noise=noise, long=0.3, several=SEVERAL, longest_s=44.0, most_frames=20)
        for s, noise in ((training, AdapterRecipe.noise), (held, 0.0))
    )
    together = replace(recipe, lr=rates | {"refiner": 3e-4, "scorer": 5e-4})
    trainer = SieveTrainer(learner, scenes, unseen, together, run / "sieve", typer.echo)
    trainer.resume()
    trainer.run()
    parallel.stop()


@app.command()
def reading(
    run: Path,
    adapter: Annotated[Path, typer.Argument(help="The adapter to ask.")] = ADAPTER,
    scenes: int = 60,
    long: Annotated[float, typer.Option(help="Share of scenes of up to 24 s.")] = 0.3,
    split: Annotated[str, typer.Option(help="heldout, or train: sources the heads know")] = "heldout",
    threads: int = 2,
) -> None:
    """Ask about scenes from RUN's pools twice, with the heads' names and with the true ones: naming or reading?"""
    torch.set_num_threads(threads)
    library = Path(json.loads((run / "library.json").read_text()))
    source = SceneSource(library, run, split)
    model = EpSmol.open(adapter, adapter.name, torch.device("cpu"), cpu_dtype())
    source.check(model.adapter)
    counts = measure(model, source.maker, scenes, long)
    for kind in sorted(counts, key=lambda kind: (kind == "all", kind)):
        typer.echo(f"{kind:12} {counts[kind]}")


if __name__ == "__main__":
    app()
