"""From a decoded frame of any kind to the picture that a screen shows: upright, opaque, in sRGB, in one shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from epcli.media import hdr
from epcli.media.hdr import Transfer
from epcli.media.upright import UPRIGHT, Orientation

_SAME_SHAPE = 0.03  # logarithm of the ratio of two shapes that are still drawn as one
# Transparency lies on white, before scaling: else colours of what is transparent bleed over its edges. A table makes
# the paper, since drawbox with replace=1 crashes ffmpeg 5.1 on RGBA.
_ON_WHITE = "format=rgba,split[ink][under];[under]lutrgb=r=255:g=255:b=255:a=255[paper];[paper][ink]overlay=format=rgb,"


@dataclass(frozen=True)
class Pixels:
    """How the stored pixels of a stream are meant to be seen."""

    aspect: float = 1.0  # width by height on a screen, of the first frame as it is stored
    turn: Orientation = UPRIGHT
    has_alpha: bool = False
    transfer: Transfer | None = None  # of high dynamic range

    def filters(self, size: tuple[int, int]) -> str:
        """Filters of ffmpeg that make any frame one of (width, height) `size`, upright, in `pixel_format`.

        A frame of another shape than the first keeps it, between bars that are transparent; `picture` counts on that.
        """
        width, height = self._stored(size)
        shape = f"(iw*if(between(sar,0.1,10),sar,1)/ih/{self.aspect:.9g})"
        across = f"if(lt(abs(log({shape})),{_SAME_SHAPE}),{width},max(1,round({width}*min(1,{shape}))))"
        down = f"if(lt(abs(log({shape})),{_SAME_SHAPE}),{height},max(1,round({height}*min(1,1/{shape}))))"
        return (
            f"{_ON_WHITE if self.has_alpha else ''}"
            f"scale=w='{across}':h='{down}':eval=frame:flags=bicubic+accurate_rnd+full_chroma_int,setsar=1,"
            # Only bars are transparent. A scaler that ffmpeg puts in by itself would keep the size of the first frame.
            f"format={'rgb48le' if self.transfer else 'rgb24'},scale=iw:ih:eval=frame,format={self.pixel_format},"
            f"pad={width}:{height}:(ow-iw)/2:(oh-ih)/2:color=black@0:eval=frame,format={self.pixel_format}"
        )

    @property
    def pixel_format(self) -> str:
        """ffmpeg's name of the layout that `filters` ends in."""
        return "rgba64le" if self.transfer else "rgba"

    def byte_count(self, size: tuple[int, int]) -> int:
        """Bytes of one frame that `filters` made."""
        return size[0] * size[1] * (8 if self.transfer else 4)

    def picture(self, data: bytes | memoryview, size: tuple[int, int]) -> tuple[np.ndarray, bool]:
        """What `filters` made, as (H, W, 3) uint8 sRGB, upright, and whether it stands between bars."""
        width, height = self._stored(size)
        coded = np.frombuffer(data, "<u2" if self.transfer else np.uint8).reshape(height, width, 4)
        # Bars are centred, so that a corner tells.
        boxed = not coded[0, 0, 3]
        colours = coded[..., :3]
        shown = hdr.to_srgb(colours, self.transfer) if self.transfer else np.ascontiguousarray(colours)
        return self.turn.apply(shown), boxed

    def _stored(self, size: tuple[int, int]) -> tuple[int, int]:
        return (size[1], size[0]) if self.turn.swap else size


AS_STORED = Pixels()
