"""Media files in, `Clip` records out. The only room that starts ffmpeg.

    probe.probe(path) -> MediaInfo                     what a file holds, without decoding it
    read.read(path, sampling, start, end) -> Clip      sampled frames and 16 kHz mono sound of a time range
    write.write(path, frames, fps, samples)            frames and samples as one mp4
    timecode.parse_time("1:30"), format_time(90.0)     times as people write them

This module imports nothing, so that `epcli.media.timecode` costs neither PyAV nor numpy.
"""
