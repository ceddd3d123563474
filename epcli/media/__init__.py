"""Media files in, `Clip` records out. The only room that starts ffmpeg.

probe.probe(path) -> MediaInfo                     what a file holds, without decoding it
read.read(path, sampling, start, end) -> Clip      sampled frames and 16 kHz mono sound of a time range
write.write(path, frames, fps, samples)            frames and samples as one mp4
"""
