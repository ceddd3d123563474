"""The recipe of ep-smol's adapter, step by step; `python -m epcli.train.smol --help`.

python -m epcli.train.sources --out LIBRARY      pictures, sounds and their names
python -m epcli.train.smol pools LIBRARY RUN     encode views and sound tracks
python -m epcli.train.smol heads RUN             teach the projectors the names
python -m epcli.train.smol train RUN             train adapter and LoRA with the language model
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file, save_file

from epcli.models.ep_smol import Adapter, EpSmol, Towers
from epcli.train import heads
from epcli.train.pools import SceneMaker, load_tracks, load_views, make_tracks, make_views
from epcli.train.questions import ask
from epcli.train.scenes import Library
from epcli.train.trainer import Example, Recipe, Trainer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


class SceneSource:
    """Scenes from pools, with their questions."""

    def __init__(self, library: Path, pools: Path, split: str) -> None:
        self.lib = Library(library, split)
        self.maker = SceneMaker(self.lib, load_views(self.lib, pools / split), load_tracks(self.lib, pools / split))

    def draw(self, rng: random.Random) -> Example:
        scene = self.maker.draw(rng)
        pairs = [(q.type, q.question, q.answer) for q in ask(scene.script, self.lib, rng)]
        return Example(scene.features, pairs, scene.video_labels, scene.audio_labels)


@app.command()
def pools(
    library: Path,
    run: Path,
    views: Annotated[int, typer.Option(help="Encoded pictures of the train split.")] = 9000,
    tracks: Annotated[int, typer.Option(help="Encoded sound tracks of the train split.")] = 3000,
    what: Annotated[str, typer.Option(help="views, tracks or both")] = "both",
    split: Annotated[str, typer.Option(help="train, heldout or both")] = "both",
    threads: int = 2,
) -> None:
    """Encode views and sound tracks of both splits into RUN."""
    torch.set_num_threads(threads)
    run.mkdir(parents=True, exist_ok=True)
    (run / "library.json").write_text(json.dumps(str(library.resolve())))
    model = EpSmol(torch.device("cpu"), torch.bfloat16, adapter=None)
    for name, share, seed in (("heldout", 0.08, 2), ("train", 1.0, 1)):
        if split not in (name, "both"):
            continue
        lib = Library(library, name)
        typer.echo(f"{name}: {len(lib.seen)} things seen, {len(lib.heard)} heard, {len(lib.speech)} sentences")
        if what in ("views", "both"):
            make_views(lib, Towers(model.tokenizer, sound=False), int(views * share), seed, run / name, typer.echo)
        if what in ("tracks", "both"):
            make_tracks(lib, Towers(model.tokenizer, vision=False), int(tracks * share), seed, run / name, typer.echo)


@app.command(name="heads")
def fit_heads(run: Path, epochs: int = 8, threads: int = 2) -> None:
    """Fit the projectors' heads on the pools; writes RUN/heads.safetensors."""
    torch.set_num_threads(threads)
    library = Path(json.loads((run / "library.json").read_text()))
    model = EpSmol(torch.device("cpu"), torch.bfloat16, adapter=None)
    lib = Library(library, "train")
    adapter = Adapter(lib.seen_names, lib.heard_names, 576)
    adapter.name_from(model.decoder.get_input_embeddings().weight, model.tokenizer)
    held = Library(library, "heldout")
    held_pools = load_views(held, run / "heldout"), load_tracks(held, run / "heldout")
    heads.warm_up(adapter, load_views(lib, run / "train"), load_tracks(lib, run / "train"), typer.echo, epochs)
    typer.echo(f"held-out: {heads.measure(adapter, *held_pools)}")
    names = json.dumps({"seen": adapter.seen, "heard": adapter.heard})
    save_file({k: v.contiguous() for k, v in adapter.state_dict().items()}, run / "heads.safetensors", {"names": names})


@app.command()
def train(
    run: Path, minutes: float = 60.0, lr: float = 1e-3, lora_lr: float = 1e-3, resume: bool = True, threads: int = 2
) -> None:
    """Train adapter and LoRA on scenes from RUN's pools; checkpoints in RUN, the result in RUN/adapter.safetensors."""
    torch.set_num_threads(threads)
    library = Path(json.loads((run / "library.json").read_text()))
    recipe = replace(Recipe(), minutes=minutes, lr=lr, lora_lr=lora_lr)
    model = EpSmol(torch.device("cpu"), torch.bfloat16, adapter=None)
    source, held = SceneSource(library, run, "train"), SceneSource(library, run, "heldout")
    adapter = Adapter(source.lib.seen_names, source.lib.heard_names, 576)
    adapter.load_state_dict(load_file(run / "heads.safetensors"))
    trainer = Trainer(model, adapter, source, held, recipe, run, typer.echo)
    if resume:
        trainer.resume()
    trainer.run()


if __name__ == "__main__":
    app()
