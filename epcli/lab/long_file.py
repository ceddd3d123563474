"""What `ep transcript`, `ep summary` and `ep index` need for a long film: clips joined until it is long enough.

    nice -n 19 python -m epcli.lab.long_file MINUTES CLIP…

Prints one JSON object for each command: `peak_mb` is the largest resident set (10^6 bytes) of any process of it, and
`cpu_s` the processor seconds of all its processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from epcli.media import ffmpeg
from epcli.media.probe import probe

SAME = ["-vf", "scale=640:360:force_original_aspect_ratio=decrease,pad=640:360:-1:-1,fps=25,format=yuv420p"]
SAME += ["-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac", "-ar", "44100", "-ac", "1"]


def film(clips: Sequence[Path], minutes: float, folder: Path) -> Path:
    """Join clips of sound and picture, again and again, in a folder -> the film."""
    binary = ffmpeg.find().path
    parts: list[Path] = []
    for number, clip in enumerate(clips):
        info = probe(clip)
        if info.has_video and info.has_audio and not info.is_image:
            parts.append(folder / f"{number}.mkv")
            subprocess.run([binary, "-v", "error", "-i", clip, *SAME, parts[-1]], stdin=subprocess.DEVNULL, check=True)
    lengths = {part: probe(part).duration_s for part in parts}
    listed, left_s = [], 60 * minutes
    for part in cycle(parts):
        if left_s <= 0:
            break
        listed.append(f"file '{part.name}'\n")
        left_s -= lengths[part]
    (folder / "list.txt").write_text("".join(listed))
    made = folder / "film.mkv"
    joined: list[str | Path] = [binary, "-v", "error", "-f", "concat", "-i", folder / "list.txt", "-c", "copy", made]
    subprocess.run(joined, stdin=subprocess.DEVNULL, check=True)
    return made


def measure(*arguments: str | Path) -> dict[str, float]:
    """What one `ep` command needs."""
    child = subprocess.Popen([sys.executable, "-m", "epcli", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"ep {arguments[0]} failed")
    return {"peak_mb": round(usage.ru_maxrss * 1024 / 1e6), "cpu_s": round(usage.ru_utime + usage.ru_stime)}


def main(minutes: str, *clips: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made = film([Path(clip) for clip in clips], float(minutes), folder)
        index = folder / "index.sqlite"
        commands: dict[str, list[str | Path]] = {
            "transcript": ["transcript", made, "--json", "-q"],
            "summary": ["summary", made, "-q"],
            "index": ["index", made, "-q", "--index", index],
        }
        for name, arguments in commands.items():
            row = {"command": name, "minutes": round(probe(made).duration_s / 60, 1), **measure(*arguments)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
