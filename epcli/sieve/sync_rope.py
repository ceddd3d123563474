"""Sync-RoPE: one clock for sound and picture (EchoingPixels, arXiv 2512.10324).

A rotary embedding turns channel pair i of a head by position * theta^(-2i/d). Sync-RoPE splits the d/2 frequencies into
four runs, in this order of falling frequency, and lets each run read its own position axis:

    axes        T        H        W        T'      T' is a copy of T
    sections   18,      18,      18,      10       at d = 128; they sum to d/2
               fast ------------------------> slow

so the slowest frequencies, which still turn monotonically over a whole film, carry time. The three-axis split of
Qwen2.5-Omni gives them to the width axis, where sparse tokens lose their order.

How to use it with a transformers 5 text model (Qwen2_5OmniThinkerTextModel, or any decoder that calls
`self.rotary_emb(hidden_states, position_ids)` once and hands cos and sin to its layers):

    install(text_model, (18, 18, 18, 10))
    text_model(inputs_embeds=embeds, position_ids=positions)  # (B, L, D) and (4, B, L): [T, H, W, T]
    cos, sin = text_model.rotary_emb(embeds, positions)       # (B, L, head_dim) each, for layers called one by one

Attention sees only the composed cos and sin, so no attention code changes. Positions of three rows [T, H, W], or of one
row (B, L) for plain text, are accepted too. Installing again just replaces the sections. Three sections, such as
Qwen2.5-Omni's own (16, 24, 24), give the plain model's rotation through the same module.

Why `install` also adds a hook: transformers 5's text model reads a four-row `position_ids` as [running count, T, H, W],
cuts the first row off and builds attention masks from it. Since T' repeats T, the hook hands over [T, H, W] and the
rotary module adds T' again. Four rows whose last is not a copy of the first are refused at prefill: they come from
transformers' own `generate()`, which does not know the sieve. Generate with `epcli.session.generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from epcli.errors import UsageError

AXES = 4  # time, height, width, time
PAPER_SECTIONS = (18, 18, 18, 10)  # the paper's best split of 64 frequencies (head size 128)


class SyncRope(nn.Module):
    """Four-axis rotary tables. Takes the place of a decoder's `rotary_emb`.

    `sections`: how many of the head_dim / 2 frequencies, fastest first, read T, H, W and T'; without the fourth number,
    the three axes of the plain model. Raises UsageError if they are not three or four numbers with that sum.
    """

    def __init__(self, head_dim: int, theta: float, sections: Sequence[int]) -> None:
        super().__init__()
        if len(sections) not in (AXES - 1, AXES) or min(sections) < 0 or sum(sections) != head_dim // 2:
            raise UsageError(
                f"rotary sections {list(sections)} do not fit a head of {head_dim}: "
                f"give four numbers [T, H, W, T], or three, that sum to {head_dim // 2}"
            )
        self.sections = tuple(sections)
        # Plain attributes, not buffers: a later model.to(bfloat16) must not round the frequencies.
        self.inv_freq = 1.0 / theta ** (torch.arange(0, head_dim, 2, device="cpu", dtype=torch.float32) / head_dim)
        self.axis = torch.arange(len(sections), device="cpu").repeat_interleave(torch.tensor(sections, device="cpu"))

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, each (B, L, head_dim) in the dtype of `x`, of which only dtype and device matter.

        `position_ids`: (4, B, L) [T, H, W, T], (3, B, L) [T, H, W], (1, B, L) or (B, L). Angles are taken in float32.
        """
        if self.inv_freq.device != x.device:  # once: a copy for each token would make the host wait for the device
            self.inv_freq, self.axis = self.inv_freq.to(x.device), self.axis.to(x.device)
        rows = four_axes(position_ids).to(x.device)
        angles = (
            rows[self.axis].movedim(0, -1).float() * self.inv_freq
        )  # (B, L, head_dim / 2): each frequency reads its own axis
        angles = torch.cat([angles, angles], dim=-1)  # rotate_half pairs channel i with i + head_dim / 2
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def four_axes(positions: Tensor) -> Tensor:
    """(4, B, L) from (4, B, L), from (3, B, L) by repeating time, or from one running count (1, B, L) or (B, L)."""
    if positions.ndim == 2:
        positions = positions.unsqueeze(0)
    if positions.shape[0] == 1:
        return positions.expand(AXES, -1, -1)
    return positions if positions.shape[0] == AXES else torch.cat([positions, positions[:1]])


def install(text_model: Any, sections: Sequence[int]) -> SyncRope:
    """Replace `text_model.rotary_emb` by Sync-RoPE with these sections; returns the new module.

    The frequencies come from the model's own config (head_dim and rope theta). Raises UsageError if the sections do not
    fit the head, or if the model scales its rotary frequencies (a rope_type other than "default").
    """
    config = text_model.config
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        raise UsageError(f"Sync-RoPE needs a model with plain rotary frequencies, this one uses {rope['rope_type']!r}")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if not isinstance(text_model.rotary_emb, SyncRope):
        text_model.register_forward_pre_hook(_hand_over_three_rows, with_kwargs=True)
    text_model.rotary_emb = SyncRope(head_dim, rope["rope_theta"], sections)
    return text_model.rotary_emb


def _hand_over_three_rows(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict]:
    positions = kwargs.get("position_ids")
    if positions is not None and positions.ndim == 3 and positions.shape[0] == AXES:
        # Only for prompts: a decode step has one position on all axes, and the check waits for the device.
        if positions.shape[-1] > 1 and not torch.equal(positions[0], positions[3]):
            raise UsageError(
                "four-row position_ids must be [T, H, W, T]: "
                "with Sync-RoPE use epcli.session.generate, not transformers' generate()"
            )
        kwargs = {**kwargs, "position_ids": positions[:3]}
    return args, kwargs
