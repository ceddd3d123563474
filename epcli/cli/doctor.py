"""`ep doctor`: is everything here that a run needs, and where does it lie?"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from epcli import config
from epcli.cli.options import DebugFlag
from epcli.errors import EpError
from epcli.text import one_line, size

if TYPE_CHECKING:
    from epcli.models.family import Card


NAMED = ("torch", "transformers", "bitsandbytes")
CODECS = {
    "video": ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "theora"),
    "sound": ("aac", "mp3", "opus", "vorbis", "flac"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    fine: bool
    what: str
    advice: str = ""  # what to do, where something is wrong


def doctor(debug: DebugFlag = False) -> None:
    """Check this machine: libraries, ffmpeg, device, models, cache and settings.

    Exits with 1 if something is wrong; each such line says what to do.
    """
    problems = 0
    for check in (_python, _libraries, _device, _ffmpeg, _models, _caches, _settings):
        for finding in _examine(check):
            problems += not finding.fine
            mark = "ok     " if finding.fine else "problem"
            typer.echo(one_line(f"{mark}  {finding.what}" + (f"; {finding.advice}" if finding.advice else "")))
    if problems:
        raise typer.Exit(1)


def _examine(check: Callable[[], list[Finding]]) -> list[Finding]:
    """A check that stumbles is a finding too: the others still run."""
    try:
        return check()
    except EpError as error:
        return [Finding(False, str(error))]
    except Exception as error:
        what = f"{check.__name__.strip('_')} cannot be checked: {type(error).__name__}: {error}"
        return [Finding(False, " ".join(what.splitlines()))]


def _python() -> list[Finding]:
    from importlib import metadata

    wanted = metadata.metadata("epcli")["Requires-Python"]
    return [_in_range("python", platform.python_version(), wanted, "install ep under such a Python")]


def _libraries() -> list[Finding]:
    """Every library in the range this version was made for; those with compiled or fast-moving parts are named."""
    from importlib import metadata

    from packaging.requirements import Requirement

    findings = []
    needed = [need for need in map(Requirement, metadata.requires("epcli") or []) if not need.marker]
    for need in needed:
        repair = f"run: pip install '{need}'"
        try:
            finding = _in_range(need.name, metadata.version(need.name), str(need.specifier), repair)
            if need.name in NAMED:
                importlib.import_module(need.name)
        except metadata.PackageNotFoundError:
            finding = Finding(False, f"{need.name} is not installed", repair)
        except (ImportError, OSError) as error:
            finding = Finding(False, f"{need.name} cannot be imported: {' '.join(str(error).splitlines())}", repair)
        if not finding.fine or need.name in NAMED:
            findings.append(finding)
    others = len(needed) - len(findings)
    return [*findings, Finding(True, f"{others} other libraries, each in the range this version was made for")]


def _in_range(name: str, version: str, wanted: str, repair: str) -> Finding:
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding(True, f"{name} {version}")
    return Finding(False, f"{name} {version} is not {wanted}, which this version of ep was made for", repair)


def _device() -> list[Finding]:
    import psutil
    import torch

    memory = f"{size(psutil.virtual_memory().total)} of memory, {size(psutil.virtual_memory().available)} free"
    count = torch.get_num_threads()
    findings = [Finding(True, f"cpu: {count} thread{'s' * (count != 1)}, {memory}")]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        findings.append(
            Finding(True, f"cuda:{index}: {torch.cuda.get_device_name(index)}, {size(total)}, {size(free)} free")
        )
    if not torch.cuda.is_available():
        findings.append(_no_cuda(torch.version.cuda is not None))
    if torch.backends.mps.is_available():
        findings.append(Finding(True, "mps: Apple GPU"))
    return findings


def _no_cuda(torch_has_it: bool) -> Finding:
    """Without a card nothing is wrong; a card that torch cannot use is."""
    if shutil.which("nvidia-smi") is None:
        return Finding(True, "cuda: none (no NVIDIA GPU was found)")
    if not torch_has_it:
        how = "install a torch with CUDA, see pytorch.org/get-started"
        return Finding(False, "cuda: there is an nvidia-smi, but this torch is built without CUDA", how)
    return Finding(False, "cuda: there is an nvidia-smi, but torch finds no GPU", "check that nvidia-smi lists it")


def _ffmpeg() -> list[Finding]:
    from epcli.media import ffmpeg

    binary = ffmpeg.find()
    names = ffmpeg.decoders(binary)
    findings = [Finding(True, f"ffmpeg {binary.version}: {binary.path}")]
    for kind, codecs in CODECS.items():
        lacking = [codec for codec in codecs if codec not in names]
        if lacking:
            advice = "files in them cannot be read; put a fuller ffmpeg on the PATH"
            findings.append(Finding(False, f"{kind} codecs: ffmpeg lacks {', '.join(lacking)}", advice))
        else:
            findings.append(Finding(True, f"{kind} codecs: {', '.join(codecs)}"))
    return findings


def _models() -> list[Finding]:
    from epcli.models import catalog

    return [_model(card) for card in catalog.cards()]


def _model(card: Card) -> Finding:
    from epcli.models import catalog

    status = catalog.status(card.name)
    if status == "ready":
        return Finding(True, f"{card.name}: {status}, {catalog.location(card.name)}")
    # Nothing is wrong yet: the first question fetches it.
    return Finding(True, f"{card.name}: {status}", f"`ep models pull {card.name}` fetches {size(card.download_bytes)}")


def _caches() -> list[Finding]:
    from epcli.session.cache import FeatureCache

    ours = _folder("cache", config.cache_home())
    try:
        store = FeatureCache.of(config.resolve().profile)
    except EpError:  # told by the check of the settings
        return [ours]
    if store is None:
        return [ours, Finding(True, "feature cache: off")]
    entries = store.entries()
    features = _folder("feature cache", store.folder)
    held = f"{len(entries)} entries, at most {size(store.limit_bytes)}"
    return [ours, replace(features, what=f"{features.what}, {held}") if features.fine else features]


def _folder(name: str, folder: Path) -> Finding:
    """Whether the folder, or the one it would be made in, can be written, and how much it holds."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(there, os.W_OK):
        return Finding(False, f"{name}: {folder} cannot be written", "make it writable or choose another folder")
    used = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(there).free
    return Finding(True, f"{name}: {folder}, {size(used)} used, {size(free)} free on that disk")


def _settings() -> list[Finding]:
    resolved = config.resolve()
    changed = sorted({s for s in resolved.sources.values() if s != "default" and str(resolved.profile_path) not in s})
    chosen = f"settings: profile {resolved.profile_name} ({resolved.why})"
    return [Finding(True, chosen + "".join(f", {s}" for s in changed))]
