"""Writing a scene as a real media file, for question sets and sample clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from epcli.lab.scenes import Script, draw_view, render_sound
from epcli.media.write import write

FPS = 8


def write_film(script: Script, path: Path, *, crf: int = 30) -> None:
    """Render a script to `path` (mp4: H.264 and AAC; m4a if it has no picture). Raises EpError if ffmpeg fails."""
    nr = np.random.default_rng(script.seed)
    drawn = {v.look: draw_view(v, script.size, nr)[0] for v in script.views}  # the same look is the same picture
    shown = (script.view_at(i / FPS) for i in range(round(script.duration_s * FPS)))
    frames = (drawn[view.look] for view in shown if view is not None)
    write(path, frames if drawn else None, FPS, render_sound(script, nr), crf=crf, audio_bitrate="48k")
