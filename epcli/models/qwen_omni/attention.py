"""How much attention each token receives in the last layer of its tower: SEATS' tower statistics.

The towers run as they are; a hook sees what their last layer's attention reads. Queries and keys of consecutive windows
of 2 s meet there, whatever the layer's own limits are. A token's number is what all queries of its window pay it, the
mean over heads: 1 on average. Whoever runs a tower in batches must cut them at whole windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import apply_rotary_pos_emb_vision

from epcli.compat import vision_window_order

WINDOW_GRIDS = 2  # of the vision tower
GPU_ENTRIES = 1 << 25  # of attention matrices that a GPU holds at once: all heads of the usual window
WINDOW_FRAMES = 100  # of the audio tower, 50 a second after its convolutions


def video_features(model: Any, pixels: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """The vision tower's tokens and the attention that each receives.

    Args:
        model: a Qwen2_5OmniThinkerModel.
        pixels: patches, as transformers' processor has them.
        grid: (N, 3) int64 patch grids (T, H, W); windows have the size of the first.

    Returns:
        (n, D), (n,) float32.
    """
    visual = model.visual
    with _reads(visual.blocks[-1].attn) as seen:
        found = torch.cat(model.get_video_features(pixels, grid).pooler_output)
    attn, (hidden, options) = visual.blocks[-1].attn, seen[-1]
    queries, keys = (part(hidden).view(len(hidden), attn.num_heads, -1) for part in (attn.q, attn.k))
    queries, keys = apply_rotary_pos_emb_vision(queries, keys, *options["position_embeddings"])
    window = WINDOW_GRIDS * int(grid[0, 1]) * int(grid[0, 2])
    paid = received(queries, keys, attn.scaling, window)
    tokens = paid.view(-1, visual.spatial_merge_unit).mean(1)
    return found, tokens[vision_window_order(visual, grid).to(tokens.device).argsort()]


def audio_features(model: Any, mel: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The audio tower's tokens and the attention that each receives.

    Args:
        model: a Qwen2_5OmniThinkerModel.
        mel: (1, bins, frames) log-mel spectrogram.
        mask: (1, frames) int64, 0 at padding.

    Returns:
        (n, D), (n,) float32.
    """
    attn = model.audio_tower.layers[-1].self_attn
    with _reads(attn) as seen:
        found = model.get_audio_features(mel, feature_attention_mask=mask).last_hidden_state
    hidden = seen[-1][0]
    queries, keys = (part(hidden).view(len(hidden), attn.num_heads, -1) for part in (attn.q_proj, attn.k_proj))
    paid = received(queries, keys, attn.scaling, WINDOW_FRAMES)
    return found, paid[: len(paid) // 2 * 2].view(-1, 2).mean(1)


def received(queries: Tensor, keys: Tensor, scale: float, window: int, entries: int | None = None) -> Tensor:
    """(n, H, d) queries and keys -> (n,) float32: attention that each token receives within its window.

    `entries`: of attention matrices that may be held at once, at least one head's. None is what suits the device.
    """
    if entries is None:
        entries = 0 if keys.device.type == "cpu" else GPU_ENTRIES
    parts = []
    for q, k in zip(queries.split(window), keys.split(window), strict=True):
        total = torch.zeros(len(k), device=k.device)
        together = max(entries // len(k) ** 2, 1)  # heads; a window's matrix is large
        for some, own in zip(q.transpose(0, 1).split(together), k.transpose(0, 1).split(together), strict=True):
            total += (some @ own.mT * scale).softmax(-1).sum(1).float().sum(0)
        parts.append(total / k.shape[1])
    return torch.cat(parts) if parts else queries.new_zeros(0, dtype=torch.float32)


@contextmanager
def _reads(module: Any) -> Iterator[list[tuple[Tensor, dict[str, Any]]]]:
    """What a module is called with: its states, and its other arguments."""
    seen: list[tuple[Tensor, dict[str, Any]]] = []

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"], kwargs))

    hook: Callable[..., Any] = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()  # type: ignore[attr-defined]
