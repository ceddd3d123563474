"""Print what the whole-frame classifier and the text reader report of media files, and what a frame costs them.

python -m epcli.lab.parts FILE…
"""

from __future__ import annotations

import sys
import time
from itertools import groupby
from pathlib import Path

import torch

from epcli.lab.eye import SAMPLING
from epcli.media.read import read
from epcli.observe.scenes import SceneNamer, fine_name, name
from epcli.observe.shots import find_shots
from epcli.observe.texts import TextReader


def main(paths: list[str]) -> None:
    """Each stretch of each file on a line; then milliseconds of processor time a frame, with one thread."""
    torch.set_num_threads(1)
    namer, reader = SceneNamer(), TextReader()
    spent = {"scene": 0.0, "text": 0.0}
    looked_at = 0
    for path in paths:
        clip = read(Path(path), SAMPLING)
        if clip.frames is None or clip.frame_times_s is None:
            print(f"{path}: no picture")
            continue
        frames, looked_at = list(clip.frames), looked_at + len(clip.frames)
        start = time.process_time()
        p = namer.probabilities(frames)
        spent["scene"] += time.process_time() - start
        start = time.process_time()
        words = ["; ".join(text for text, _, _ in reader.read(frame)) for frame in frames]
        spent["text"] += time.process_time() - start
        print(path)
        for stretch in find_shots(frames).stretches:
            mean = p[list(stretch)].mean(0)
            named, (fine, share) = name(mean), fine_name(mean)
            said = f"{named[0]} {named[1]:.2f}" if named else "unsure"
            read_here = " | ".join(text for text, _ in groupby(words[k] for k in stretch))
            times = clip.frame_times_s[stretch[0]], clip.frame_times_s[stretch[-1]]
            print(f"  {times[0]:5.1f}–{times[1]:5.1f} s  {said} (best: {fine} {share:.2f})  {read_here}")
    if looked_at:
        print(", ".join(f"{part}: {1000 * s / looked_at:.0f} ms a frame" for part, s in spent.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
