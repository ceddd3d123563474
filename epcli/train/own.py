"""Training on your own clips: a JSONL of {"media", "question", "answer"}, media on disk, paths relative to the file."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from epcli.config import Profile
from epcli.errors import UsageError
from epcli.media.read import read
from epcli.models.ep_smol import ADAPTER, AUDIO_STEP_S, EpSmol, load_adapter, sampling
from epcli.records import AudioFeatures, Features, VideoFeatures
from epcli.train.trainer import Example, Recipe, Trainer


def read_rows(path: Path) -> dict[Path, list[tuple[str, str]]]:
    """Questions and answers by media file. Raises UsageError naming the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}; give a JSONL file of media, question and answer") from None
    rows: dict[Path, list[tuple[str, str]]] = defaultdict(list)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            media, question, answer = (str(row[key]) for key in ("media", "question", "answer"))
        except (ValueError, KeyError, TypeError) as error:
            what = f"no {error.args[0]!r}" if isinstance(error, KeyError) else "not a JSON object"
            raise UsageError(
                f"{path.name}: line {number}: {what}; each line needs media, question and answer"
            ) from None
        if not (path.parent / media).is_file():
            raise UsageError(f"{path.name}: line {number}: no file {media}; media paths are relative to {path.name}")
        rows[path.parent / media].append((question, answer))
    if not rows:
        raise UsageError(f"{path.name}: no questions in it")
    return rows


class OwnClips:
    """Examples from files, decoded and encoded once; tower features are kept in `cache`."""

    def __init__(self, rows: dict[Path, list[tuple[str, str]]], model: EpSmol, cache: Path) -> None:
        self.rows, self.model, self.cache = rows, model, cache
        self.files = sorted(rows)
        cache.mkdir(parents=True, exist_ok=True)

    def draw(self, rng: random.Random) -> Example:
        media = rng.choice(self.files)
        return Example(self.features(media), [("own", q, a) for q, a in self.rows[media]])

    def features(self, media: Path) -> Features:
        """From the cache, else through ffmpeg and the towers. Raises MediaError."""
        with media.open("rb") as file:
            key = hashlib.file_digest(file, "sha256").hexdigest()[:32]
        stored = self.cache / f"{key}.safetensors"
        if not stored.exists():
            clip = read(media, sampling(Profile()))
            video, audio = self.model.encode_video(clip), self.model.encode_audio(clip)
            tensors = {"duration": torch.tensor(clip.duration_s, dtype=torch.float64)}
            if video is not None:
                tensors |= {"grid": video.grid, "times": video.times_s, "step": torch.tensor(video.step_s)}
            if audio is not None:
                tensors |= {"tokens": audio.tokens.contiguous()}
                if audio.words is not None:
                    tensors["words"] = audio.words
            partial = stored.with_suffix(".part")
            save_file(tensors, partial)
            os.replace(partial, stored)
        found = load_file(stored)
        video = VideoFeatures(found["grid"], found["times"], float(found["step"])) if "grid" in found else None
        audio = AudioFeatures(found["tokens"], AUDIO_STEP_S, found.get("words")) if "tokens" in found else None
        return Features(float(found["duration"]), video, audio)


def train(
    data: Path, out: Path, minutes: float, resume: bool, lr: float, held_out: Path | None, say: Callable[[str], None]
) -> Path:
    """Fine-tune the shipped adapter on `data` into `out`/adapter.safetensors, which `--model` takes.

    Raises UsageError for bad data, or if `out` holds a run that was not to be resumed; MediaError for a bad file.
    """
    rows, held_rows = read_rows(data), read_rows(held_out) if held_out else None
    if (out / "checkpoint.pt").exists() and not resume:
        raise UsageError(f"{out} holds an earlier run; go on with --resume, or name another folder")
    model = EpSmol(torch.device("cpu"), torch.bfloat16, adapter=None)
    adapter, lora, _ = load_adapter(ADAPTER)
    source = OwnClips(rows, model, out / "features")
    held = OwnClips(held_rows, model, out / "features") if held_rows else None
    rank = next(v for k, v in lora.items() if k.endswith(".A")).shape[0]
    recipe = replace(Recipe(), minutes=minutes, lr=lr, lora_lr=lr, lora_rank=rank, proxy=(0.0, 0.0))
    trainer = Trainer(model, adapter, source, held, recipe, out, say)
    trainer.take_lora(lora)
    if resume:
        trainer.resume()
    trainer.run()
    return out / "adapter.safetensors"
