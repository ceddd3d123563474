"""Pictures of every kind as a screen shows them: the right track, opaque, in the right colours and shape, in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import media_samples as samples
import numpy as np
import pytest
from media_samples import SMALL, X264, number_of
from PIL import Image, ImageDraw, features

from epcli.errors import MediaError
from epcli.media import ffmpeg, hdr, play
from epcli.media.hdr import Transfer
from epcli.media.probe import probe
from epcli.media.read import read
from epcli.records import Clip, Sampling

SLOW = pytest.mark.slow  # the rarer half of a table
PICTURE = replace(SMALL, audio=False)
X265 = ("libx265", "-preset", "ultrafast", "-x265-params")


def colour(width: int, height: int, name: str, seconds: float, rate: int | str = 10) -> tuple[str, ...]:
    """A lavfi input of one colour."""
    return "-f", "lavfi", "-i", f"color={name}:size={width}x{height}:rate={rate}:duration={seconds}"


def middle(clip: Clip, number: int = 0) -> list[int]:
    """RGB in the middle of a frame."""
    assert clip.frames is not None
    picture = clip.frames[number]
    return picture[picture.shape[0] // 2, picture.shape[1] // 2].astype(int).tolist()


def assert_near(got: list[int], expected: tuple[int, int, int], why: str, within: int = 12) -> None:
    assert max(abs(a - b) for a, b in zip(got, expected, strict=True)) <= within, f"{why}: {got}, not {expected}"


def assert_numbers(clip: Clip, rate: float, why: str, start_s: float = 0.0) -> None:
    """Each counting frame is the one that its time calls for."""
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    expected = np.floor((clip.frame_times_s + start_s) * rate + 0.01) % 100
    got = np.array([number_of(frame) for frame in clip.frames])
    assert np.abs(got - expected).max() < 0.6, f"{why}: shows {got.round(1)}, its times say {expected}"


# --- which of several tracks ------------------------------------------------------------------------------------------

RED, BLUE = (255, 0, 0), (0, 0, 255)
STILL = (*colour(64, 48, "red", 1, 1),)
TRACKS = {  # name: (inputs, options, number of the track that is read)
    "still first.mp4": ((STILL, colour(64, 48, "blue", 4)), ("-c:v:0", "mjpeg", "-c:v:1", "libx264"), 1),
    "still first.mkv": ((STILL, colour(64, 48, "blue", 4)), ("-c:v:0", "mjpeg", "-c:v:1", "libx264"), 1),
    "long still first.mkv": (
        (colour(640, 480, "red", 9, "1/9"), colour(64, 48, "blue", 4)),
        ("-c:v:0", "mjpeg", "-c:v:1", "libx264"),
        1,
    ),
    "still last.mp4": ((colour(64, 48, "blue", 4), STILL), ("-c:v:0", "libx264", "-c:v:1", "mjpeg"), 0),
    "longer.mp4": ((colour(320, 240, "red", 2), colour(64, 48, "blue", 4)), ("-c:v", "libx264"), 1),
    "longer.mkv": ((colour(320, 240, "red", 2), colour(64, 48, "blue", 4)), ("-c:v", "libx264"), 1),
    "longer.ts": ((colour(320, 240, "red", 2), colour(64, 48, "blue", 4)), ("-c:v", "mpeg2video"), 1),
    "larger.mp4": ((colour(64, 48, "red", 4), colour(320, 240, "blue", 4)), ("-c:v", "libx264"), 1),
    "larger.mkv": ((colour(64, 48, "red", 4), colour(320, 240, "blue", 4)), ("-c:v", "libx264"), 1),
    "default last.mp4": (
        (colour(64, 48, "red", 4), colour(64, 48, "blue", 4)),
        ("-c:v", "libx264", "-disposition:v:0", "0", "-disposition:v:1", "default"),
        1,
    ),
    "alike.mp4": ((colour(64, 48, "blue", 4), colour(64, 48, "red", 4)), ("-c:v", "libx264"), 0),
}


def tracks(name: str, folder: Path) -> Path:
    inputs, options, _ = TRACKS[name]
    path = folder / name
    every = [part for each in inputs for part in each]
    maps = [part for number in range(len(inputs)) for part in ("-map", str(number))]
    samples.run(*every, *maps, *options, path)
    return path


@pytest.mark.parametrize("name", TRACKS)
def test_the_film_is_read_and_named_and_another_track_can_be_chosen(name: str, tmp_path: Path) -> None:
    path, chosen = tracks(name, tmp_path), TRACKS[name][2]
    clip = read(path, PICTURE)
    assert_near(middle(clip), BLUE, name)
    assert clip.duration_s == pytest.approx(4.0, abs=0.2)
    (note,) = clip.warnings
    assert f"has 2 video tracks; looking at track {chosen} (" in note
    assert "--video-track chooses another" in note
    other = read(path, replace(PICTURE, video_track=1 - chosen))
    assert_near(middle(other), RED, f"{name}, the other track")
    assert (other.info.width, other.info.height) != (0, 0)


def test_a_video_track_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = tracks("longer.mp4", tmp_path)
    for number in (2, -1):
        with pytest.raises(MediaError, match=rf"no video track {number}; it has 0 \(320x240\), 1 \(64x48\)$"):
            read(path, replace(PICTURE, video_track=number))
    with pytest.raises(MediaError, match=r"no video track 1; it has 0 \(64x48\)$"):
        probe(samples.shared_film("plain.mp4"), video_track=1)
    heard = read(samples.shared_film("plain.mp4"), replace(SMALL, video=False, video_track=7))
    assert heard.samples is not None


def test_the_film_of_the_chosen_track_is_played(tmp_path: Path) -> None:
    path = tracks("longer.mp4", tmp_path)
    for number, expected in ((None, BLUE), (0, RED)):
        frame = next(iter(play.frames(path, 0.0, 1.0, (64, 48), 2.0, number)))
        assert_near(frame[24, 32].tolist(), expected, f"track {number}")


# --- transparency -----------------------------------------------------------------------------------------------------


def cut_out(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A black square on a transparent ground that would be green."""
    picture = Image.new("RGBA", size, (0, 255, 0, 0))
    ImageDraw.Draw(picture).rectangle((16, 12, 47, 35), fill=(0, 0, 0, 255))
    return picture


def by_pillow(mode: str = "RGBA", moving: bool = False, **options: object) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        picture = cut_out().quantize() if mode == "P" else cut_out().convert(mode)
        second = cut_out()
        second.putpixel((0, 0), (1, 0, 0, 255))
        more = {"save_all": True, "append_images": [second.convert(mode)] * 3, "duration": 200} if moving else {}
        picture.save(path, **more, **options)

    return make


def by_ffmpeg(*codec: str, picture: bool = False) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        samples.need(codec[0])
        source = path.with_suffix(".source.png")
        cut_out().save(source)
        length = ("-frames:v", "1") if picture else ("-t", "1")
        samples.run("-loop", "1", "-r", "5", "-i", source, *length, "-c:v", *codec, path)

    return make


TRANSPARENT: dict[str, Callable[[Path], None]] = {
    "rgba.png": by_pillow(),
    "grey.png": by_pillow("LA"),
    "palette.png": by_pillow("P"),
    "still.webp": by_pillow(lossless=True),
    "still.tiff": by_pillow(),
    "still.tga": by_pillow(),
    "still.gif": by_pillow(),
    "still.avif": by_pillow(quality=90),
    "still.jp2": by_ffmpeg("jpeg2000", picture=True),
    "still.jxl": by_ffmpeg("libjxl", "-distance", "0", picture=True),
    "moving.gif": by_pillow(moving=True),
    "moving.png": by_pillow(moving=True),
    "moving.webp": by_pillow(moving=True, lossless=True),
    "moving.avif": by_pillow(moving=True, quality=90),
    "prores.mov": by_ffmpeg("prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"),
    "animation.mov": by_ffmpeg("qtrle"),
    "png.mov": by_ffmpeg("png"),
    "lossless.mkv": by_ffmpeg("ffv1", "-pix_fmt", "yuva420p"),
    "vp8.webm": by_ffmpeg("libvpx", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0"),
    "vp9.webm": by_ffmpeg("libvpx-vp9", "-pix_fmt", "yuva420p", "-deadline", "realtime"),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_lies_on_white(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    try:
        TRANSPARENT[name](path)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {path.suffix}")
    clip = read(path, PICTURE)
    assert clip.frames is not None
    assert clip.warnings == ()
    for frame in (clip.frames[0], clip.frames[-1]):
        assert_near(frame[24, 32].tolist(), (0, 0, 0), "the square", 20)
        assert_near(frame[6, 32].tolist(), (255, 255, 255), "the ground", 20)
        assert_near(frame[24, 60].tolist(), (255, 255, 255), "the ground", 20)


def test_the_transparent_layer_of_h265_is_seen_where_ffmpeg_decodes_it(tmp_path: Path) -> None:
    path = tmp_path / "layered.mov"
    if ffmpeg.find().numbers < (8, 0):
        pytest.skip("this ffmpeg decodes the first layer only")
    try:
        by_ffmpeg("libx265", "-x265-params", "log-level=none:alpha=1", "-pix_fmt", "yuva420p")(path)
    except AssertionError:
        pytest.skip("this ffmpeg's encoder writes one layer only")
    clip = read(path, PICTURE)
    assert clip.frames is not None
    assert_near(clip.frames[0][6, 32].tolist(), (255, 255, 255), "the ground")
    assert_near(clip.frames[0][24, 32].tolist(), (0, 0, 0), "the square")


def test_uncompressed_pictures_that_leave_the_alpha_channel_empty_are_opaque(tmp_path: Path) -> None:
    path = tmp_path / "screen.avi"
    empty = ("-vf", "format=bgra,colorchannelmixer=aa=0", "-c:v", "rawvideo", "-pix_fmt", "bgra")
    samples.run(*colour(64, 48, "blue", 0.4), *empty, path)
    clip = read(path, PICTURE)
    assert_near(middle(clip), BLUE, "uncompressed")
    assert clip.warnings == ()


def test_a_transparent_film_is_played_on_white(tmp_path: Path) -> None:
    for name in ("moving.webp", "animation.mov"):
        TRANSPARENT[name](tmp_path / name)
        frame = next(iter(play.frames(tmp_path / name, 0.0, 0.5, (64, 48), 5.0)))
        assert_near(frame[6, 32].tolist(), (255, 255, 255), name)
        assert_near(frame[24, 32].tolist(), (0, 0, 0), name)


# --- colours ----------------------------------------------------------------------------------------------------------

COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "0x204060": (32, 64, 96), "0xc08060": (192, 128, 96)}


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
def test_the_colour_matrix_that_a_film_names_is_used(matrix: str, tmp_path: Path) -> None:
    for name, expected in COLOURS.items():
        path = tmp_path / "film.mp4"
        convert = f"scale=out_color_matrix={'bt2020' if matrix == 'bt2020nc' else matrix},format=yuv420p"
        samples.run(*colour(64, 48, name, 0.4), "-vf", convert, "-c:v", "libx264", "-colorspace", matrix, path)
        assert_near(middle(read(path, PICTURE)), expected, f"{name} in {matrix}", 6)


def coded(nits: tuple[float, float, float], transfer: Transfer) -> tuple[int, int, int]:
    """The 8-bit code values of linear BT.709 light: each light's code looked up, after turning it to BT.2020."""
    light = np.linalg.inv(hdr._TO_709) @ np.array(nits)
    if transfer is Transfer.HLG:  # undo the display's gamma
        luma = float(hdr._LUMA_2020 @ light) / hdr.PEAK_NITS
        light = light / hdr.PEAK_NITS / luma ** (0.2 / 1.2)
    codes = np.searchsorted(hdr._light(transfer), light.clip(0))
    return tuple(round(code / 257) for code in codes)  # type: ignore[return-value]


@pytest.mark.parametrize("transfer", Transfer)
def test_high_dynamic_range_is_mapped_to_what_a_screen_shows(transfer: Transfer, tmp_path: Path) -> None:
    curve = {Transfer.PQ: "smpte2084", Transfer.HLG: "arib-std-b67"}[transfer]
    samples.need("libx265")
    lights = {  # linear BT.709 in nits, and sRGB of the same share of paper white; light well below it is left as it is
        "grey": ((50.0, 50.0, 50.0), (136, 136, 136)),
        "red": ((60.0, 5.0, 5.0), (148, 42, 42)),
        "blue": ((5.0, 5.0, 60.0), (42, 42, 148)),
        "dark": ((2.0, 2.0, 2.0), (25, 25, 25)),
    }
    for name, (nits, expected) in lights.items():
        path = tmp_path / "hdr.mp4"
        told = f"log-level=none:colorprim=bt2020:transfer={curve}:colormatrix=bt2020nc"
        shade = "0x{:02x}{:02x}{:02x}".format(*coded(nits, transfer))
        samples.run(
            *colour(64, 48, shade, 0.4), "-vf", "format=gbrp,scale=out_color_matrix=bt2020,format=yuv420p10le",
            *("-c:v", *X265, told, "-color_primaries", "bt2020", "-color_trc", curve, "-colorspace", "bt2020nc"), path,
        )  # fmt: skip
        assert_near(middle(read(path, PICTURE)), expected, f"{name} in {transfer.name}", 9)


@pytest.mark.parametrize("transfer", Transfer)
def test_high_dynamic_range_of_a_jpeg_xl_is_mapped(transfer: Transfer, tmp_path: Path) -> None:
    samples.need("libjxl")
    curve = {Transfer.PQ: "smpte2084", Transfer.HLG: "arib-std-b67"}[transfer]
    shade = "0x{:02x}{:02x}{:02x}".format(*coded((50.0, 50.0, 50.0), transfer))
    path = tmp_path / "hdr.jxl"
    told = f"format=rgb48le,setparams=color_primaries=bt2020:color_trc={curve}"
    samples.run(*colour(64, 48, shade, 0.4), "-vf", told, "-frames:v", "1", path)
    assert_near(middle(read(path, PICTURE)), (136, 136, 136), transfer.name, 9)


@pytest.mark.parametrize("transfer", Transfer)
def test_brighter_light_is_never_shown_darker_and_the_brightest_is_white(transfer: Transfer) -> None:
    greys = np.repeat(np.arange(0, 65536, 97, dtype=np.uint16)[None, :, None], 3, -1)
    shown = hdr.to_srgb(greys, transfer)[0, :, 0].astype(int)
    assert (np.diff(shown) >= 0).all()
    assert (shown[0], shown[-1]) == (0, 255)
    brightest = np.full((1, 1, 3), 65535, np.uint16)
    assert hdr.to_srgb(brightest, transfer).tolist() == [[[255, 255, 255]]]


# --- shapes that change -----------------------------------------------------------------------------------------------


def changing(path: Path, first: tuple[int, int], second: tuple[int, int]) -> Path:
    """Two seconds of blue, then two of red in another size."""
    kind = "m2v" if path.suffix == ".m2v" else "ts"
    parts = [path.with_suffix(f".{number}.{kind}") for number in range(2)]
    for part, (size, name) in zip(parts, ((first, "blue"), (second, "red")), strict=True):
        options = ("-c:v", "mpeg2video", "-q:v", "2")
        later = ("-output_ts_offset", "2") if kind == "ts" and part == parts[1] else ()
        samples.run(*colour(*size, name, 2, 25), *options, *later, part)
    joined = path if path.suffix == f".{kind}" else path.with_suffix(f".{kind}")
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    if joined != path:
        samples.run("-i", joined, "-c", "copy", path)
    return path


@pytest.mark.parametrize("suffix", ["m2v", "ts", "mkv"])
def test_a_picture_that_changes_its_shape_is_not_squeezed_and_that_is_told(suffix: str, tmp_path: Path) -> None:
    path = changing(tmp_path / f"change.{suffix}", (64, 48), (48, 96))
    clip = read(path, replace(PICTURE, fps=4.0))
    assert clip.frames is not None
    assert len(clip.frames) == 16
    assert clip.frames.shape[1:] == (48, 64, 3)
    red = [number for number, frame in enumerate(clip.frames) if frame[24, 32, 0] > 200]
    assert red == list(range(8, 16)), "no frame is lost at the change"
    tall = clip.frames[12].astype(int)
    assert (tall[:, 22:42, 0] > 200).all(), "24 columns of red, 1 : 2"
    assert tall[:, :18].max() < 30, "bars"
    assert tall[:, 46:].max() < 30, "bars"
    assert (clip.frames[2][..., 2] > 200).all(), "the first shape fills the frame"
    assert any("the picture changes its shape; 8 of 16 frames stand between black bars" in w for w in clip.warnings)
    late = read(path, PICTURE, start_s=3.0)
    assert any("2 of 2 frames stand between black bars" in warning for warning in late.warnings)


def test_another_size_of_the_same_shape_fills_the_frame(tmp_path: Path) -> None:
    clip = read(changing(tmp_path / "change.ts", (64, 48), (128, 96)), PICTURE)
    assert clip.frames is not None
    assert (clip.frames[-1][..., 0] > 200).all()
    assert not any("shape" in warning for warning in clip.warnings)


# --- when: streams whose packets do not tell --------------------------------------------------------------------------


def counting_film(path: Path, *options: str, rate: int = 25, seconds: float = 6) -> Path:
    samples.run("-f", "lavfi", "-i", samples.counting(seconds, rate), *options, "-pix_fmt", "yuv420p", path)
    return path


UNTIMED = {  # name: (options, frames a second)
    "raw.h264": (X264, 25),
    "slow.h264": (X264, 10),
    "raw.h265": ((*X265, "log-level=none"), 25),
    "slow.hevc": ((*X265, "log-level=none"), 12),
    "raw.m2v": (("mpeg2video", "-q:v", "2", "-dc", "10", "-bf", "2"), 25),
    "plain.y4m": (("rawvideo",), 10),
    "h264.mpg": ((X264[0], "-bf", "0", "-b:v", "20k", "-f", "vob"), 25),
    "reordered.mpg": ((X264[0], "-bf", "2", "-b:v", "20k", "-f", "vob"), 25),
    "h265.mpg": ((*X265, "log-level=none:bframes=0", "-f", "vob"), 25),
}


@pytest.mark.parametrize("name", UNTIMED)
def test_frames_of_streams_without_times_are_found_at_their_times(name: str, tmp_path: Path) -> None:
    codec, rate = UNTIMED[name]
    samples.need(codec[0])
    path = counting_film(tmp_path / name, "-c:v", *codec, rate=rate)
    whole = read(path, SMALL)
    assert whole.warnings == ()
    assert whole.duration_s == pytest.approx(6.0, abs=0.05)
    assert whole.frames is not None
    assert whole.frame_times_s is not None
    assert len(whole.frames) == 12
    assert np.abs(whole.frame_times_s - (np.arange(12) + 0.5) / 2).max() <= 1 / rate
    assert_numbers(whole, rate, name)
    part = read(path, SMALL, start_s=3.3, end_s=5.3)
    assert part.frames is not None
    assert len(part.frames) == 4
    assert_numbers(part, rate, f"{name} from 3.3 s", 3.3)


def test_a_program_stream_that_begins_in_mid_group_shows_frames_at_their_times(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.mpg", tmp_path / "late.mpg"
    source = ("-f", "lavfi", "-i", samples.counting(12), "-f", "lavfi", "-i", samples.tone(12))
    video = ("-c:v", X264[0], "-bf", "0", "-g", "100", "-b:v", "20k", "-pix_fmt", "yuv420p")
    samples.run(*source, *video, "-c:a", "mp2", "-b:a", "32k", "-f", "vob", whole)
    path.write_bytes(whole.read_bytes()[4 * 2048 :])  # packs
    clip = read(path, SMALL)
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    assert len(clip.frames) >= 10
    expected = np.floor(300 - (clip.duration_s - clip.frame_times_s) * 25 + 0.01) % 100
    got = np.array([number_of(frame) for frame in clip.frames])
    assert np.abs((got - expected + 50) % 100 - 50).max() < 1.1, (got.round(1), expected)


def test_a_raw_stream_is_played_from_the_time_asked_for(tmp_path: Path) -> None:
    path = counting_film(tmp_path / "raw.h264", "-c:v", *X264)
    shown = [number_of(frame) for frame in play.frames(path, 3.0, 4.0, (64, 48), 25.0)]
    assert shown[0] == pytest.approx(75, abs=1.1)
    assert len(shown) == 25


@pytest.mark.parametrize("suffix", ["webp", "avif"])
def test_an_animated_picture_shows_its_frames_in_time(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"moving.{suffix}"
    if not features.check(suffix):
        pytest.skip(f"this Pillow cannot write {suffix}")
    frames = [Image.new("RGB", (64, 48), (20 * n, 20 * n, 20 * n)) for n in range(10)]
    lengths = [100, 300, *[200] * 8]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=lengths, lossless=True)
    info = probe(path)
    assert (info.is_image, info.width, info.height, info.frame_rate) == (False, 64, 48, pytest.approx(5.0))
    assert info.duration_s == pytest.approx(2.0)
    clip = read(path, SMALL)
    assert clip.frames is not None
    assert clip.frame_times_s is not None
    assert clip.frame_times_s.tolist() == pytest.approx([0.1, 0.6, 1.2, 1.6])
    assert [round(frame.mean() / 20) for frame in clip.frames] == [1, 3, 6, 8]
    late = read(path, SMALL, start_s=1.5)
    assert late.frames is not None
    assert [round(frame.mean() / 20) for frame in late.frames] == [8]


def test_an_animated_jpeg_xl_shows_its_frames_in_time(tmp_path: Path) -> None:
    samples.need("libjxl_anim")
    path = tmp_path / "moving.jxl"
    source = ("-f", "lavfi", "-i", samples.counting(2, 10))
    samples.run(*source, "-c:v", "libjxl_anim", "-f", "image2pipe", path)
    info = probe(path)
    assert not info.is_image
    assert info.duration_s == pytest.approx(2.0, abs=0.11)
    clip = read(path, SMALL)
    assert_numbers(clip, 10, "jxl")


# --- still pictures of rarer formats ----------------------------------------------------------------------------------

STILLS = {  # name: (codec, whether it has colours)
    "still.jp2": (("jpeg2000",), True),
    "still.j2k": (("jpeg2000",), True),
    "still.jxl": (("libjxl",), True),
    "still.ppm": (("ppm",), True),
    "still.pam": (("pam",), True),
    "still.pgm": (("pgm",), False),
    "still.pbm": (("pbm",), False),
    "still.tga": (("targa",), True),
}


@pytest.mark.parametrize("name", STILLS)
def test_pictures_of_rarer_formats_are_shown_whatever_their_name(name: str, tmp_path: Path) -> None:
    codec, coloured = STILLS[name]
    samples.need(codec[0])
    path, misnamed = tmp_path / name, tmp_path / "movie.mp4"
    halves = "color=red:size=32x48[l];color=white:size=32x48[r];[l][r]hstack"
    samples.run("-f", "lavfi", "-i", halves, "-frames:v", "1", "-c:v", *codec, path)
    misnamed.write_bytes(path.read_bytes())
    for each in (path, misnamed):
        clip = read(each, SMALL)
        assert clip.info.is_image
        assert (clip.info.width, clip.info.height, clip.range_s) == (64, 48, (0.0, 0.0))
        assert clip.frames is not None
        left, right = clip.frames[0, 24, 10].tolist(), clip.frames[0, 24, 54].tolist()
        assert_near(right, (255, 255, 255), name)
        if coloured:
            assert_near(left, RED, name)
        else:
            assert max(left) - min(left) < 3, "grey or black"


def test_a_targa_picture_without_a_mark_is_told_by_its_name_and_header(tmp_path: Path) -> None:
    path, other = tmp_path / "old.tga", tmp_path / "old.bin"
    Image.new("RGB", (64, 48), "red").save(path)
    data = path.read_bytes()
    path.write_bytes(data[:-26] if data.endswith(b"TRUEVISION-XFILE.\0") else data)
    other.write_bytes(path.read_bytes())
    assert_near(middle(read(path, SMALL)), RED, "tga")
    with pytest.raises(MediaError):
        probe(other)
    film = tmp_path / "film.tga"
    film.write_bytes(samples.shared_film("plain.mp4").read_bytes())
    assert probe(film).video_codec == "h264", "content decides"


@pytest.mark.parametrize("name", ["moving.webp", "old.tga", "still.jp2", "raw.h264"])
def test_half_of_such_a_file_is_read_as_far_as_it_goes_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "raw.h264":
        counting_film(path, "-c:v", *X264, seconds=2)
    elif name == "moving.webp":
        noise = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (48, 64, 3), np.uint8)) for n in range(4)]
        noise[0].save(path, save_all=True, append_images=noise[1:], duration=200)
    else:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        clip = read(path, Sampling(2.0, 8, 64 * 48, 16))
    except MediaError as refusal:
        assert str(refusal).startswith(name)  # noqa: PT017 (either is right: decoders differ)
        assert len(str(refusal).splitlines()) == 1  # noqa: PT017
    else:
        assert clip.frames is not None


def test_a_film_of_which_only_the_first_part_is_there_is_shown_so_far(tmp_path: Path) -> None:
    """An AVI file without its index."""
    whole, half = tmp_path / "whole.avi", tmp_path / "half.avi"
    samples.film(whole, ("mpeg4", "-q:v", "2"), (), 6)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    clip = read(half, SMALL)
    assert clip.frames is not None
    assert 2 < clip.duration_s < 4
    assert_numbers(clip, 25, "half an AVI file")
