"""Which tokens of a prompt hold the evidence of a question: one rule for training and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from epcli.questions.record import Evidence
from epcli.records import Modality, TokenStream

if TYPE_CHECKING:
    from torch import Tensor


def evidence_tokens(stream: TokenStream, evidence: Sequence[Evidence]) -> Tensor:
    """(L,) bool: the stream's sound and picture tokens in which a piece of evidence lies.

    A token counts if the middle of its stretch of time lies in the piece, and for a piece with a box if the middle of
    its cell, or of the box that it observed, lies in the box: at a cut, a token belongs to what its middle shows. A
    piece that is shorter than a token, or a box smaller than a cell, holds no middle; then the tokens count that its
    own middle lies in.
    """
    import torch

    start, end = stream.spans_s.unbind(-1)
    modality = stream.modality.cpu()
    found = torch.zeros(len(modality), dtype=torch.bool)
    for piece in evidence:
        hit = modality == piece.modality
        hit &= _inside(start, end, piece.start_s, piece.end_s, hit)
        if piece.box is not None and piece.modality == Modality.VIDEO:
            (top, left, bottom, right), seen = piece.box, hit.clone()
            x0, y0, x1, y1 = _boxes(stream).unbind(-1)
            hit &= _inside(y0, y1, top, bottom, seen) & _inside(x0, x1, left, right, seen)
        found |= hit
    return found.to(stream.modality.device)


def _boxes(stream: TokenStream) -> Tensor:
    """(L, 4) left, top, right, bottom of each picture token, as shares of width and height; others mean nothing."""
    import torch

    if stream.boxes is not None:
        return stream.boxes
    (rows, columns), (row, column) = stream.grid, stream.cells[:, 1:].unbind(-1)
    return torch.stack([column / columns, row / rows, (column + 1) / columns, (row + 1) / rows], -1)


def _inside(low: Tensor, high: Tensor, begin: float, end: float, among: Tensor) -> Tensor:
    """(L,) bool: whether the middle of [low, high) lies in [begin, end); if none does of those `among`, the reverse."""
    middle = (low + high) / 2
    inside = (middle >= begin) & (middle < end)
    if (inside & among).any():
        return inside
    centre = (begin + end) / 2
    return (low <= centre) & (high > centre)
