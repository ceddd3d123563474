"""Sound decides where picture tokens are spent (in the spirit of OmniZip, arXiv 2511.14582).

1. A sound token is as salient as it differs from the mean of the clip's sound (1 - cosine of the embeddings); the
   most salient stay. How many places sound and picture get is SEATS' published division.
2. Each chunk of 2 s gets picture places in proportion to half its picture tokens and half its sound's salience.
   Without sound the clip is one chunk.
3. In a chunk, the picture tokens stay that differ most from the same cell one frame before, or, where they are
   observations, from the most similar one of the frame before; of the clip's first frame, those that differ most from
   its mean.

OmniZip takes the salience from the audio tower's attention, and merges tokens. Here only the stream is known, and
tokens are only selected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from epcli.sieve.selector import Selector, Tools

if TYPE_CHECKING:
    from torch import Tensor

    from epcli.records import KeptStream, TokenStream
    from epcli.sieve.select import Budget


def keep(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """The `run` of this selector."""
    import torch
    from torch.nn import functional as F

    from epcli.records import CHUNK_S, Modality
    from epcli.sieve.select import apportion, best, best_of_groups, keep_only, split_as_published

    modality, start_s = stream.modality.cpu(), stream.spans_s[:, 0].cpu().nan_to_num()
    kept = modality == Modality.TEXT
    picture, sound = (modality == kind for kind in (Modality.VIDEO, Modality.AUDIO))
    for_picture, for_sound = split_as_published(budget, picture, sound)
    unit = F.normalize(stream.embeds.float(), dim=-1).cpu()
    chunk = (start_s / CHUNK_S).long() * int(sound.any())
    salience = torch.zeros(0)
    if sound.any():
        salience = 1 - unit[sound] @ F.normalize(unit[sound].mean(0), dim=0)
        kept[sound] = best(salience, torch.ones_like(salience, dtype=torch.bool), for_sound)
    if for_picture:
        sizes = chunk[picture].bincount(minlength=int(chunk.max()) + 1)
        heard = chunk[sound].bincount(salience, minlength=len(sizes)).clamp(min=0)
        weights = sizes / sizes.sum() + heard / heard.sum().clamp(min=1e-9)
        cells = stream.cells.cpu()[picture].long()
        change = _change(unit[picture], cells) if stream.boxes is None else _news(unit[picture], cells[:, 0])
        kept[picture] = best_of_groups(change, chunk[picture], apportion(weights, sizes, for_picture))
    return keep_only(stream, kept, None)


def _change(unit: Tensor, cells: Tensor) -> Tensor:
    """(n, D) unit vectors, (n, 3) frame, row, column -> (n,) 1 - cosine to the same cell one frame before."""
    import torch
    from torch.nn import functional as F

    frame, row, column = cells.unbind(-1)
    frame = frame.unique(return_inverse=True)[1]
    place = row * (int(column.max()) + 1) + column
    table = unit.new_zeros(int(frame.max()) + 1, int(place.max()) + 1, unit.shape[-1])
    table[frame, place] = unit
    before = torch.cat([F.normalize(table[0].mean(0), dim=0).expand_as(table[:1]), table[:-1]])
    return 1 - (unit * before[frame, place]).sum(-1)


def _news(unit: Tensor, frame: Tensor) -> Tensor:
    """(n, D) unit vectors of observations, (n,) frame of each -> (n,) 1 - cosine to the most similar of the last frame.

    The last frame is the one before in which anything was observed.
    """
    import torch
    from torch.nn import functional as F

    found, before = torch.empty(len(unit)), F.normalize(unit[frame == frame[0]].mean(0), dim=0)[None]
    for each in frame.unique():
        of = unit[frame == each]
        found[frame == each] = 1 - (of @ before.T).amax(1)
        before = of
    return found


SELECTOR = Selector(
    name="audio-guided",
    help="the most unusual sound, and the picture tokens that change while the sound is unusual; like OmniZip "
    "([2511.14582](https://arxiv.org/abs/2511.14582)), but without its audio-tower attention and token merging",
    shown="They lie where the sound is eventful and the picture changes.",
    run=keep,
)
