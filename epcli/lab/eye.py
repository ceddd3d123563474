"""Print what the eye sees in media files, and what it costs.

python -m epcli.lab.eye FILE…
"""

from __future__ import annotations

import sys
import time
from itertools import groupby
from pathlib import Path

from epcli.media.read import read
from epcli.observe.picture import Eye
from epcli.records import Sampling, Sight

SAMPLING = Sampling(fps=1.0, max_frames=64, max_pixels=640 * 384, multiple=32, audio=False)


def line(sights: tuple[Sight, ...]) -> str:
    """The sights of one frame on one line."""
    parts = []
    for sight in sights:
        named = f"{sight.kind}{f' {sight.text!r}' if sight.text else ''} {sight.score:.2f}"
        parts.append(named + (f" ({sight.count})" if sight.count > 1 else ""))
    return ", ".join(parts)


def main(paths: list[str]) -> None:
    """Look at each file."""
    eye = Eye()
    for path in paths:
        clip = read(Path(path), SAMPLING)
        start = time.process_time()
        seen = eye.see(clip)
        spent = time.process_time() - start
        if seen is None:
            print(f"{path}: no picture")
            continue
        print(f"{path}: {len(seen.frames)} frames, {1000 * spent / len(seen.frames):.0f} ms of processor time each")
        for text, frames in groupby(range(len(seen.frames)), key=lambda k: line(seen.frames[k])):
            ks = list(frames)
            print(f"  {seen.times_s[ks[0]]:5.1f}–{seen.times_s[ks[-1]]:5.1f} s  {text}")


if __name__ == "__main__":
    main(sys.argv[1:])
