"""Writing a scene as a real media file, for question sets and sample clips."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import ffmpeg
import numpy as np
import soundfile

from epcli.errors import MediaError
from epcli.media.ffmpeg import find
from epcli.records import SAMPLE_RATE
from epcli.train.scenes import Script, draw_view, render_sound

FPS = 8


def write_film(script: Script, path: Path, *, crf: int = 30) -> None:
    """Render a script to `path` (mp4: H.264 and AAC; m4a if it has no picture). Raises MediaError if ffmpeg fails."""
    nr = np.random.default_rng(script.seed)
    with tempfile.TemporaryDirectory() as scratch:
        inputs = []
        options: dict[str, object] = {}
        if script.views:
            frames = Path(scratch) / "frames.rgb"
            with frames.open("wb") as file:
                drawn = {v.start_s: draw_view(v, script.size, nr)[0] for v in script.views}
                for i in range(round(script.duration_s * FPS)):
                    view = script.view_at(i / FPS)
                    assert view is not None
                    file.write(drawn[view.start_s].tobytes())
            inputs.append(
                ffmpeg.input(
                    str(frames), format="rawvideo", pixel_format="rgb24", video_size=script.size, framerate=FPS
                )
            )
            options |= {"vcodec": "libx264", "crf": crf, "pix_fmt": "yuv420p", "preset": "veryfast"}
        samples = render_sound(script, nr)
        if samples is not None:
            wave = Path(scratch) / "sound.wav"
            soundfile.write(wave, samples, SAMPLE_RATE)
            inputs.append(ffmpeg.input(str(wave)))
            options |= {"acodec": "aac", "audio_bitrate": "48k"}
        partial = path.with_name(f".{path.name}.part{path.suffix}")
        try:
            ffmpeg.output(*inputs, str(partial), movflags="+faststart", **options).overwrite_output().run(
                cmd=find().path, quiet=True
            )
        except ffmpeg.Error as error:
            last = error.stderr.decode(errors="replace").strip().splitlines()[-1]
            raise MediaError(f"{path.name}: ffmpeg could not write it: {last}") from None
        os.replace(partial, path)
