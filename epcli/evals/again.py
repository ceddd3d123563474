"""How many times faster asking again is than asking first: the feature cache, measured (`ep bench --again`).

The model is loaded, and every file and tower has been used once, before anything counts. In each round the cache
begins empty; a file is asked about, then asked about again through a look of its own. Ratios are of the same round, and
their median is reported. Either a model by name, or the towers of a real model's shape with random weights, which end
before prefill.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from epcli.config import Profile
from epcli.errors import UsageError
from epcli.evals.bench import BENCH_SCHEMA, QUESTION, machine
from epcli.models import catalog
from epcli.session.device import choose_device, choose_dtype
from epcli.session.meter import Meter
from epcli.session.session import Session

LOOKING = ("cache", "media", "vision", "audio")  # all that comes before prefill and depends on the file alone


def bench_again(
    media: Sequence[Path],
    repeat: int,
    profile: Profile,
    *,
    shape: str | None = None,
    layers: int | None = None,
    on_pass: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The JSON of `ep bench MEDIA… --again`. `layers` cuts the towers' depth (with `shape`).

    Raises MediaError, UsageError, WeightsError or CapacityError.
    """
    if profile.threads:
        torch.set_num_threads(profile.threads)
    device = choose_device(profile)
    loading = Meter(device)
    rounds: list[tuple[dict[str, float], dict[str, float]]] = []
    with tempfile.TemporaryDirectory(prefix="ep-again-") as folder:
        profile = replace(profile, cache=True, cache_gb=1000.0)
        if shape is None:
            session = Session(profile)
            session.load(loading)
        else:
            session = _random_session(profile, shape, layers)
        for number in range(repeat + 1):
            session.profile = replace(profile, cache_dir=str(Path(folder) / str(number)))
            first, again = (_ask(session, media, answer=shape is None, wanted=cache) for cache in ("miss", "hit"))
            if number:
                rounds.append((first, again))
            on_pass(number + 1, repeat + 1)
        stored = sum(file.stat().st_size for file in Path(folder).glob("1/*.safetensors"))
    rows = [_row(name, [pair[index] for pair in rounds]) for index, name in enumerate(("first", "again"))]
    figures = [key for key in rows[0] if key.endswith("_s") and key != "stages_s"]
    setup = {
        "what": "asking about files for the first time, and again with their features in the cache; load excluded",
        "model": session.source.name,
        "media": [path.name for path in media],
        "question": QUESTION if shape is None else None,
        "stored_bytes": stored,
        "load_s": loading.seconds["load"] if shape is None else None,
        **machine(
            session.device,
            profile.dtype if shape is None else str(choose_dtype(profile, device)).removeprefix("torch."),
            repeat,
        ),
    }
    if shape is not None:
        depth = layers or catalog.shape(shape).tower_layers
        setup["note"] = f"random weights, {depth} layers a tower; ends before prefill"
    return {
        "schema": BENCH_SCHEMA,
        "rows": rows,
        "speedup": {key.removesuffix("_s"): _ratio(rounds, key) for key in figures},
        "setup": setup,
    }


def _random_session(profile: Profile, shape: str, layers: int | None) -> Session:
    """A session with towers of this shape and random weights, `layers` deep (None: all). Raises UsageError."""
    sizes = catalog.shape(shape)
    if layers is not None and layers > sizes.tower_layers:
        raise UsageError(f"--layers {layers}: the towers of {shape} have {sizes.tower_layers}")
    device, source = choose_device(profile), sizes.at_random(layers)
    return Session.of(profile, source, source.family.load(source, device, choose_dtype(profile, device), "none"))


def _ask(session: Session, media: Sequence[Path], *, answer: bool, wanted: str) -> dict[str, float]:
    """Seconds by stage, summed over the files. The cache must do what is `wanted` of it, or nothing is measured."""
    total: dict[str, float] = {}
    for path in media:
        looked = session.look(path)
        if looked.cache != wanted:
            raise UsageError(f"{path.name}: is there twice, or changed while it was measured")
        seconds = asdict(session.ask(looked, QUESTION).timings_s) if answer else looked.seconds
        for stage, value in seconds.items():
            if stage not in ("load", "total"):
                total[stage] = total.get(stage, 0.0) + value
    return total


def _figures(seconds: dict[str, float]) -> dict[str, float]:
    """What is compared: up to prefill, up to the first token's prefill, and all."""
    looking = sum(seconds[stage] for stage in LOOKING)
    if not seconds["prefill"]:
        return {"before_prefill_s": looking}
    prefill = looking + seconds["sieve"] + seconds["prefill"]
    return {"before_prefill_s": looking, "with_prefill_s": prefill, "with_answer_s": prefill + seconds["decode"]}


def _row(name: str, passes: Sequence[dict[str, float]]) -> dict[str, Any]:
    figures = [_figures(one) for one in passes]
    return {
        "asked": name,
        **{key: median(one[key] for one in figures) for key in figures[0]},
        "stages_s": {stage: median(one[stage] for one in passes) for stage in passes[0]},
    }


def _ratio(rounds: Sequence[tuple[dict[str, float], dict[str, float]]], key: str) -> float:
    return median(_figures(first)[key] / _figures(again)[key] for first, again in rounds)
