"""Which shipped profile fits this machine, when nobody has named one. No model library is loaded for it.

A profile `gpu-Ngb` is for NVIDIA cards of N GB and more, and is taken only if its model's weights are here already: the
first question must not start a download of 18 GB. Otherwise the answer comes from `cpu`, with the built-in model.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from epcli.errors import UsageError

CPU, NEUTRAL = "cpu", "default"
THREADS_PER_CPU = 4  # more than a CPU has; beyond that threads only wait for each other
USABLE = 0.9  # of its nominal GB that a card must show; error correction takes some (a 16 GB T4 shows 15)
ASK_S = 10  # a driver that has to wake up first takes seconds


def check_threads(count: int | None, where: str) -> None:
    """Raises UsageError, which `where` opens, for more threads than this machine could make use of."""
    cpus = os.cpu_count() or 1
    if count is not None and count > (most := THREADS_PER_CPU * cpus):
        has = f"this machine has {cpus} CPU{'s' * (cpus != 1)}"
        raise UsageError(f"{where}: {count} threads are too many; {has}, and {most} threads are the most")


@dataclass(frozen=True)
class Gpu:
    """One card, as nvidia-smi counts it."""

    name: str
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.name} with {self.memory_bytes / 2**30:.0f} GiB"


@dataclass(frozen=True)
class ProfileMatch:
    """A profile's name, and why it is the one, as the middle of a sentence."""

    profile: str
    why: str


def choose(
    names: Sequence[str],
    model_of: Callable[[str], str],
    environment: Mapping[str, str],
    model: str | None = None,
    device: str | None = None,
) -> ProfileMatch:
    """The profile for this machine.

    Args:
        names: of the shipped profiles.
        model_of: the model that a profile is for.
        environment: PATH finds nvidia-smi; CUDA_VISIBLE_DEVICES is honoured.
        model: the model that was named without a profile, if one was; its weights need not be here.
        device: the device that was named without a profile.
    """
    if device in ("cpu", "mps"):
        return ProfileMatch(CPU, f"device {device} was asked for")
    card, reason = _card(environment.get("PATH", ""), environment.get("CUDA_VISIBLE_DEVICES"))
    if card is None:
        return ProfileMatch(CPU, reason)
    sizes = {name: int(size[1]) for name in names if (size := re.fullmatch(r"gpu-(\d+)gb", name))}
    fitting = [name for name, size in sizes.items() if size * 2**30 * USABLE <= card.memory_bytes]
    fitting.sort(key=lambda name: -sizes[name])
    if model is not None:
        made_for = next((name for name in fitting if model_of(name) == model), None)
        if made_for:
            return ProfileMatch(made_for, str(card))
        return ProfileMatch(NEUTRAL, f"{card}, for which no profile has model {model}")
    if not fitting:
        return ProfileMatch(CPU, f"{card} is less than the smallest GPU profile needs")
    ready = _first_ready([model_of(name) for name in fitting])
    if ready == 0:
        return ProfileMatch(fitting[0], str(card))
    lacking = f"{card}, but {fitting[0]} lacks its model: `ep models pull {model_of(fitting[0])}`"
    return ProfileMatch(CPU if ready is None else fitting[ready], lacking)


def _first_ready(models: Sequence[str]) -> int | None:
    from epcli.models import catalog

    return next((i for i, model in enumerate(models) if catalog.is_here(model)), None)


@cache
def _card(path: str, visible: str | None) -> tuple[Gpu | None, str]:
    """The card that torch would take, or why there is none."""
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        return None, "CUDA_VISIBLE_DEVICES hides every GPU"
    program = shutil.which("nvidia-smi", path=path)
    if program is None:
        return None, "no NVIDIA GPU was found (there is no nvidia-smi)"
    listed, error = _ask(program, visible)
    cards = [card for line in listed if (card := _read(line))]
    if not cards:
        return None, f"nvidia-smi names no GPU{f' ({error})' if error else ''}"
    # Without a choice of the user's, CUDA counts from the fastest; the largest is the nearest that can be told here.
    card = cards[0] if visible else max(cards, key=lambda each: each.memory_bytes)
    if not _torch_has_cuda():
        return None, f"{card} is here, but this torch is built without CUDA; `ep doctor` tells more"
    return card, ""


def _ask(program: str, visible: str | None) -> tuple[list[str], str]:
    """Lines of "NVIDIA GeForce RTX 4090, 24564" and the program's complaint, if it has one."""
    import subprocess

    chosen = [f"--id={visible.split(',')[0].strip()}"] if visible else []
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits", *chosen]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as failure:
        return [], f"it cannot be run: {type(failure).__name__}"
    said = (run.stdout + run.stderr).strip().splitlines()
    return ([], said[0] if said else f"exit code {run.returncode}") if run.returncode else (said, "")


def _read(line: str) -> Gpu | None:
    """None for a line without a size: a card that is lost, or shared out in MIG slices."""
    name, _, size = line.rpartition(",")
    return Gpu(name.strip(), int(size) * 2**20) if size.strip().isdigit() else None


def _torch_has_cuda() -> bool:
    """Read off torch's version file: importing torch takes a second."""
    from importlib.util import find_spec

    found: Callable[[str], object] = find_spec
    origin = getattr(found("torch"), "origin", None)
    if origin is None:
        return False
    try:
        text = (Path(origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return True  # laid out in another way: let torch itself say
    line = re.search(r"^cuda\b.*= *(.*)$", text, re.MULTILINE)
    return line is None or line[1].strip() != "None"
