"""Numbers that overflow their format are an error with the flag to use, and `--dtype auto` avoids them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import tiny_omni
import torch

from epcli.config import Profile
from epcli.errors import EpError, UsageError, WeightsError
from epcli.models import catalog
from epcli.models.qwen_omni.model import QwenOmni
from epcli.records import Clip, MediaInfo
from epcli.session import plan
from epcli.session.clips import OpenedClip
from epcli.session.device import choose_dtype
from epcli.session.session import Session

PLACES = {"vision tower": "visual.merger.mlp.2", "audio tower": "audio_tower.proj", "decoder": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_omni.write(tmp_path_factory.mktemp("finite") / "tiny")


def clip() -> Clip:
    noise = np.random.default_rng(0)
    info = MediaInfo(Path("clip.mp4"), "mp4", 2.0, False, 84, 56, 25.0, "h264", ())
    pictures = noise.integers(0, 256, (2, 56, 84, 3), dtype=np.uint8)
    return Clip(info, (0.0, 2.0), pictures, np.array([0.5, 1.5]), noise.normal(0, 0.1, 32000).astype(np.float32))


def overflowing(folder: Path, place: str, dtype: torch.dtype) -> QwenOmni:
    """A model whose `place` writes numbers beyond its format."""
    model = QwenOmni.open(folder, "tiny", torch.device("cpu"), dtype)
    module = model.thinker.model.get_submodule(PLACES[place]) if PLACES[place] else model.thinker.lm_head
    with torch.no_grad():
        signs = torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(0)).sign()
        module.weight.copy_(signs * torch.finfo(dtype).max)
    return model


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("dtype", "name", "error", "advice"),
    [
        (torch.float16, "fp16", UsageError, "overflows in float16, so there is no answer; use --dtype bf16 or --dtype"),
        (torch.float32, "fp32", WeightsError, "gives numbers that are not finite; fetch the weights again"),
    ],
)
def test_numbers_that_are_not_finite_are_one_line_that_names_the_place(
    folder: Path, place: str, dtype: torch.dtype, name: str, error: type[EpError], advice: str
) -> None:
    profile = Profile(model=str(folder), dtype=name, device="cpu", cache=False, max_new_tokens=3)
    session = Session.of(profile, catalog.find(str(folder)), overflowing(folder, place, dtype))
    made = clip()
    opened = OpenedClip(made.info.path, (None, None), session.sampling, made, None, defaultdict(float), 0)
    with pytest.raises(error) as raised:
        session.ask(session.encode(opened), "What?")
    assert f"the {place} of tiny {advice}" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "asked", "has_bf16", "expected"),
    [
        ("cuda", "auto", True, torch.bfloat16),
        ("cuda", "auto", False, torch.float32),
        ("cuda", "fp16", False, torch.float16),
        ("mps", "auto", True, torch.bfloat16),
        ("mps", "auto", False, torch.float32),
    ],
)
def test_auto_never_computes_in_float16(
    monkeypatch: pytest.MonkeyPatch, kind: str, asked: str, has_bf16: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: has_bf16)
    assert choose_dtype(Profile(dtype=asked), torch.device(kind)) == expected


def test_the_plan_counts_float32_on_a_card_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    info = MediaInfo(Path("film.mkv"), "matroska", 60.0, False, 1920, 1080, 24.0, "h264", ())
    towers = []
    for has_bf16 in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, it=has_bf16: it)
        made = plan.plan_of(info, 60.0, Profile(model="qwen2.5-omni-3b", device="cuda"), 16_000_000_000)
        towers.append((made.dtype, made.memory.towers))
    assert towers == [("bfloat16", towers[0][1]), ("float32", 2 * towers[0][1])]
