"""How the towers of Qwen2.5-Omni run here: the modules of transformers, with fewer and larger steps.

- Attention within windows: one call for all windows of a length, where transformers loops over the windows in Python.
- The patch embedding is a product of matrices. Its convolution's kernel and stride are equal, so that each patch meets
  the weights once; and Conv3d in bfloat16 is slow in torch 2.9 and later (pytorch#166643).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface

# transformers hands the whole sequence and the windows' bounds to what has "flash" in its name, and loops for others.
WINDOWS = "ep_windows_flash"
_groups: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # bounds -> _grouped(bounds), which every layer asks for


def simplify(model: Any) -> None:
    """Let a Qwen2_5OmniThinkerModel's towers run so. What they give is the same."""
    AttentionInterface.register(WINDOWS, attend_in_windows)
    model.visual.config._attn_implementation = WINDOWS
    model.audio_tower.config._attn_implementation = WINDOWS
    model.visual.patch_embed.proj.__class__ = _PatchProduct  # the weights, and hooks of whoever moves them, stay


def attend_in_windows(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """(1, H, L, d) queries, keys and values -> (1, L, H, d). Each of L places attends to those of its own window.

    `cu_seq_lens_q`: (W + 1,) ascending bounds of the windows, from 0 to L.
    """
    sizes, places, back = _windows(cu_seq_lens_q)
    query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))  # (L, H, d)
    if places is not None:
        query, key, value = (each[places] for each in (query, key, value))
    done, begin = [], 0
    for count, length in sizes:
        q, k, v = (
            each[begin : begin + count * length].view(count, length, *each.shape[1:]).transpose(1, 2)
            for each in (query, key, value)
        )
        done.append(F.scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1))
        begin += count * length
    whole = torch.cat(done)
    return (whole if back is None else whole[back])[None], None


def _windows(bounds: Tensor) -> tuple[list[tuple[int, int]], Tensor | None, Tensor | None]:
    """`_grouped`, worked out once for the layers of a pass."""
    if bounds not in _groups:
        _groups[bounds] = _grouped(bounds)
    return _groups[bounds]


def _grouped(bounds: Tensor) -> tuple[list[tuple[int, int]], Tensor | None, Tensor | None]:
    """Bounds of windows -> [(how many, of which length)], (L,) the places in this order, (L,) the way back.

    No places where the windows of each length follow each other already.
    """
    edges = bounds.tolist()
    windows = [(begin, end - begin) for begin, end in pairwise(edges) if end > begin]
    lengths = [length for _, length in windows]
    sizes = [(lengths.count(length), length) for length in dict.fromkeys(lengths)]
    ordered = sorted(windows, key=lambda window: list(dict.fromkeys(lengths)).index(window[1]))
    if ordered == windows:
        return sizes, None, None
    places = torch.cat([torch.arange(begin, begin + length) for begin, length in ordered])
    return sizes, places.to(bounds.device), places.argsort().to(bounds.device)


class _PatchProduct(torch.nn.Conv3d):
    """A Conv3d over patches of the size of its kernel, as the product that it is."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(n, C, T, H, W) -> (n, D, 1, 1, 1)."""
        return F.linear(input.flatten(1), weight.flatten(1), bias)[..., None, None, None]
