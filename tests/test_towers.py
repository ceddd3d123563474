"""The towers in fewer steps give what transformers' own give."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_omni
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from epcli.models.qwen_omni import attention as tower_attention
from epcli.models.qwen_omni import model as qwen
from epcli.models.qwen_omni import towers
from epcli.models.qwen_omni.inputs import Inputs
from epcli.models.qwen_omni.model import QwenOmni
from epcli.records import Clip, Features, MediaInfo


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> QwenOmni:
    folder = tiny_omni.write(tmp_path_factory.mktemp("towers") / "tiny")
    return QwenOmni.open(folder, "tiny", torch.device("cpu"), torch.float32)


def clip(frames: int, seconds: float, width: int = 196, height: int = 140) -> Clip:
    noise = np.random.default_rng(frames)
    info = MediaInfo(Path("clip.mp4"), "mp4", seconds, False, width, height, 25.0, "h264", ())
    times = (np.arange(frames) + 0.5) * seconds / frames
    pictures = noise.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return Clip(info, (0.0, seconds), pictures, times, noise.normal(0, 0.1, round(seconds * 16000)).astype(np.float32))


def as_upstream(model: QwenOmni, monkeypatch: pytest.MonkeyPatch, *, convolution: bool = True) -> None:
    """The towers as transformers has them, until the end of the test."""
    whole = model.thinker.model
    for tower in (whole.visual, whole.audio_tower):
        monkeypatch.setattr(tower.config, "_attn_implementation_internal", "sdpa")
    if convolution:
        monkeypatch.setattr(whole.visual.patch_embed.proj, "__class__", torch.nn.Conv3d)


class Attentions(TorchDispatchMode):
    """Counts calls of attention, and how often a number is read from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.moved: list[torch.dtype] = []  # number formats of what went to another device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.seen["attention" if "scaled_dot_product" in name else name] += 1
        result = func(*args, **(kwargs or {}))
        if name == "_to_copy" and result.device != args[0].device:
            self.moved.append(args[0].dtype)
        return result


def seen(model: QwenOmni, made: Clip) -> tuple[list[torch.Tensor], Counter[str]]:
    with Attentions() as counts:
        video, audio = model.encode_video(made), model.encode_audio(made)
    assert video is not None
    assert video.attention is not None
    assert audio is not None
    assert audio.attention is not None
    return [video.grid, video.attention, audio.tokens, audio.attention], counts.seen


@pytest.mark.parametrize(
    ("frames", "seconds", "width", "height"),
    [(4, 2.0, 196, 140), (8, 5.3, 224, 224), (2, 0.7, 28, 28), (6, 9.0, 364, 84)],
)
def test_tokens_are_those_of_transformers_with_an_attention_for_each_length(
    model: QwenOmni, monkeypatch: pytest.MonkeyPatch, frames: int, seconds: float, width: int, height: int
) -> None:
    made = clip(frames, seconds, width, height)
    ours, few = seen(model, made)
    as_upstream(model, monkeypatch, convolution=False)
    theirs, many = seen(model, made)
    assert all(torch.equal(got, want) for got, want in zip(ours, theirs, strict=True))
    as_upstream(model, monkeypatch)
    for got, want in zip(ours, seen(model, made)[0], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)  # a convolution sums in another order
    layers = len(model.thinker.model.visual.blocks) + len(model.thinker.model.audio_tower.layers)
    assert few["attention"] <= 4 * layers  # a grid has windows of at most four sizes, a sound of two
    assert few["attention"] <= many["attention"]


def test_the_calls_do_not_grow_with_the_clip(model: QwenOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (seen(model, clip(frames, frames / 2))[1]["attention"] for frames in (8, 32))
    assert short == long
    as_upstream(model, monkeypatch)
    assert seen(model, clip(32, 16.0))[1]["attention"] > 10 * long


@pytest.mark.parametrize("lengths", [[3, 3, 3], [4, 2, 4, 2, 1], [5], [2, 7], [0, 3, 0, 3]])
def test_each_window_attends_to_itself_bit_for_bit(lengths: list[int]) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, sum(lengths), 8)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    found, _ = towers.attend_in_windows(None, query, key, value, None, 0.3, bounds)
    parts = zip(*(each.split(lengths, 2) for each in (query, key, value)), strict=True)
    one = [torch.nn.functional.scaled_dot_product_attention(*part, scale=0.3) for part in parts if part[0].numel()]
    assert torch.equal(found, torch.cat(one, 2).transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_together_receive_what_they_receive_one_by_one(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 25, 5, 8).to(dtype)
    one, three, all_five = (tower_attention.received(queries, keys, 0.3, 10, size) for size in (0, 300, 10_000))
    assert len(one) == 25
    torch.testing.assert_close(three, one, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(all_five, one, rtol=1e-6, atol=1e-6)
    assert torch.equal(tower_attention.received(queries, keys, 0.3, 10), one)


def test_weights_keep_their_names(model: QwenOmni) -> None:
    assert "model.visual.patch_embed.proj.weight" in model.thinker.state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_patch_embedding_is_the_convolution(model: QwenOmni, dtype: torch.dtype) -> None:
    projection = model.thinker.model.visual.patch_embed.proj
    weight, patches = projection.weight.to(dtype), torch.randn(9, 3, 2, 14, 14).to(dtype)
    want = torch.nn.functional.conv3d(patches.double(), weight.double(), stride=projection.stride)
    found = projection._conv_forward(patches, weight, None)
    assert found.shape == want.shape
    torch.testing.assert_close(found.double(), want, rtol=2 ** (-7 if dtype == torch.bfloat16 else -18), atol=1e-5)


def test_frames_travel_as_bytes(model: QwenOmni) -> None:
    """On the meta device, whose tensors hold no numbers: it is the traffic that counts."""
    frames = np.zeros((4, 56, 84, 3), np.uint8)
    with Attentions() as counts:
        pixels, grid = Inputs.patches(copy.copy(model.inputs), frames, "meta")
    assert (pixels.device.type, pixels.dtype, grid) == ("meta", torch.float32, (2, 4, 6))
    assert counts.moved == [torch.float32, torch.float32, torch.uint8]  # mean and deviation, once; then the frames


def test_media_of_a_clip_are_placed_on_the_device_once(model: QwenOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {frames: clip(frames, 2.0) for frames in (2, 4)}
    first, second = (Features(2.0, model.encode_video(each), model.encode_audio(each)) for each in (found[2], found[4]))
    asked = [
        (first, "What?", None),
        (first, "And who is it?", None),
        (first, "What?", "Be brief."),
        (second, "What?", None),
    ]
    fresh = [model.stream(*each) for each in asked]
    made: list[int] = []
    interleave = qwen.interleave
    monkeypatch.setattr(qwen, "interleave", lambda *args: (made.append(1), interleave(*args))[1])
    monkeypatch.setattr(model, "holds_media", True)
    for each, want in zip(asked, fresh, strict=True):
        stream = model.stream(*each)
        assert torch.equal(stream.embeds, want.embeds)
        assert torch.equal(stream.positions, want.positions)
    assert len(made) == 3  # not again for the second question
    assert model._media is not None
    assert model._media[0]() is second
    del first, second, asked, each
    assert model._media[0]() is None
    monkeypatch.setattr(model, "_media", None)
