"""What a file holds, told without decoding it."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import media_samples as samples
import pytest
from PIL import Image

from epcli.errors import MediaError
from epcli.media.probe import probe


def test_a_film_is_described_as_it_is_shown() -> None:
    info = probe(samples.shared_film("plain.mp4"))
    assert (info.width, info.height, info.frame_rate, info.video_codec) == (64, 48, 25.0, "h264")
    assert info.duration_s == pytest.approx(3.0, abs=0.03)
    assert info.has_video
    assert info.has_audio
    assert not info.is_image
    (track,) = info.audio_tracks
    assert (track.index, track.codec, track.channels, track.sample_rate) == (0, "aac", 1, 48000)
    assert track.language is None


def test_audio_tracks_tell_language_and_title_without_steering_the_terminal(tmp_path: Path) -> None:
    film = tmp_path / "tracks.mkv"
    samples.run(
        *("-f", "lavfi", "-i", samples.tone(1), "-f", "lavfi", "-i", samples.tone(1, 44100)),
        *("-map", "0", "-map", "1", "-c:a", "flac", "-ac:a:1", "2"),
        *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra"),
        *("-metadata:s:a:1", "title=com\x1b[31mment\n", film),
    )
    first, second = probe(film).audio_tracks
    assert (first.index, first.language, first.title, first.channels) == (0, "eng", None, 1)
    assert (second.index, second.language, second.title, second.channels) == (1, "fra", "com[31mment", 2)
    assert (first.sample_rate, second.sample_rate) == (48000, 44100)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_size_is_that_after_rotation(degrees: int, tmp_path: Path) -> None:
    info = probe(samples.rotated(samples.shared_film("plain.mp4"), tmp_path / "turned.mp4", degrees))
    assert (info.width, info.height) == ((64, 48) if degrees == 180 else (48, 64))


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(64, 45)])
def test_size_is_that_with_square_pixels(aspect: Fraction, tmp_path: Path) -> None:
    film = tmp_path / "wide.mkv"
    ratio = f"setsar={aspect.numerator}/{aspect.denominator}"
    samples.run("-f", "lavfi", "-i", samples.counting(0.4), "-vf", ratio, "-c:v", "mpeg4", film)
    assert (probe(film).width, probe(film).height) == (round(64 * aspect), 48)


def test_a_rotated_anamorphic_film_is_stretched_before_it_is_turned(tmp_path: Path) -> None:
    flat, turned = tmp_path / "flat.mp4", tmp_path / "turned.mp4"
    samples.run("-f", "lavfi", "-i", samples.counting(0.4), "-vf", "setsar=2", "-c:v", samples.X264[0], flat)
    samples.rotated(flat, turned, 90)
    assert (probe(turned).width, probe(turned).height) == (48, 128)


@pytest.mark.parametrize("suffix", ["mp3", "m4a", "flac"])
def test_a_sound_file_with_a_cover_picture_is_a_sound_file(suffix: str, tmp_path: Path) -> None:
    sound, cover, both = tmp_path / f"plain.{suffix}", tmp_path / "cover.jpg", tmp_path / f"cover.{suffix}"
    samples.run("-f", "lavfi", "-i", samples.tone(1), sound)
    Image.new("RGB", (32, 32), "red").save(cover)
    attach = ("-disposition:v:0", "attached_pic")
    samples.run("-i", sound, "-i", cover, "-map", "0:a", "-map", "1:v", "-c", "copy", *attach, both)
    info = probe(both)
    assert not info.has_video
    assert not info.is_image
    assert info.width == 0
    assert len(info.audio_tracks) == 1
    assert info.duration_s == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif", "avif"])
def test_a_still_picture_has_no_length_whatever_its_extension_says(suffix: str, tmp_path: Path) -> None:
    named, misnamed = tmp_path / f"still.{suffix}", tmp_path / "movie.mp4"
    try:
        Image.new("RGB", (64, 48), "red").save(named)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {suffix}")
    misnamed.write_bytes(named.read_bytes())
    for path in (named, misnamed):
        info = probe(path)
        assert info.is_image
        assert (info.duration_s, info.width, info.height, info.frame_rate) == (0.0, 64, 48, None)


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_an_animation_is_a_film(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"moving.{suffix}"
    frames = [Image.new("RGB", (64, 48), (shade, shade, shade)) for shade in range(0, 250, 25)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=200, loop=0)
    info = probe(path)
    assert not info.is_image
    assert info.duration_s == pytest.approx(2.0)
    assert info.frame_rate == pytest.approx(5.0)


def test_a_photo_that_ffmpeg_would_misread_is_refused_with_what_to_do(tmp_path: Path) -> None:
    tiled = tmp_path / "photo.heic"
    samples.run("-f", "lavfi", "-i", samples.counting(0.2), "-c:v", "mpeg4", "-f", "mp4", tiled)
    data = tiled.read_bytes()
    tiled.write_bytes(data.replace(b"ftypisom", b"ftypheic"))
    assert tiled.read_bytes() != data
    with pytest.raises(MediaError, match=r"photo\.heic: HEIC .* convert it to jpg"):
        probe(tiled)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "live.webm",
            ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus", "-live", "1"),
        ),  # no length, no index
        ("parts.mp4", ("-c:v", *samples.X264, "-movflags", "frag_keyframe+empty_moov")),
        ("stream.ts", ("-c:v", *samples.X264)),  # begins at 1.4 s
        ("late.mkv", ("-c:v", *samples.X264, "-output_ts_offset", "5")),  # both streams begin at 5 s
    ],
)
def test_the_length_is_found_where_the_header_does_not_tell_it(
    name: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    samples.need(*(option for option in options if option.startswith("lib")))
    film = tmp_path / name
    source = ("-f", "lavfi", "-i", samples.counting(8), "-f", "lavfi", "-i", samples.tone(8))
    samples.run(*source, *options, "-pix_fmt", "yuv420p", film)
    assert probe(film).duration_s == pytest.approx(8.0, abs=0.1)


def test_an_mp3_whose_bit_rate_misleads_about_its_length_is_measured(tmp_path: Path) -> None:
    samples.need("libmp3lame")
    sound = tmp_path / "silent then loud.mp3"
    noise = "aevalsrc='random(0)*gte(t,10)':s=44100:d=20"
    samples.run("-f", "lavfi", "-i", noise, "-q:a", "0", "-write_xing", "0", sound)
    assert probe(sound).duration_s == pytest.approx(20.0, abs=0.5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such file; check the path"),
        (lambda path: path.mkdir(), "is a directory; give a media file"),
        (lambda path: path.touch(), "the file is empty"),
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (lambda path: path.write_text("Dear diary,\n" * 500), "not a media file"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(2000)), "not a media file"),
        (lambda path: path.write_bytes(bytes(100_000)), "not a media file"),
    ],
)
def test_what_is_no_media_file_is_refused_in_one_line(make: object, says: str, tmp_path: Path) -> None:
    path = tmp_path / "movie\nclip.mp4"
    make(path)  # type: ignore[operator]
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert str(caught.value).startswith("'movie\\nclip.mp4': " + says)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_one_may_not_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(b"x")
    path.chmod(0)
    is_root = os.geteuid() == 0  # root may read everything, so step down for a moment
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.raises(MediaError, match=r"secret\.mp4: permission denied"):
            probe(path)
    finally:
        if is_root:
            os.seteuid(0)


def test_a_container_without_picture_and_sound_is_refused(tmp_path: Path) -> None:
    lines, film = tmp_path / "lines.srt", tmp_path / "words.mkv"
    lines.write_text("1\n00:00:00,000 --> 00:00:02,000\nHello\n")
    samples.run("-i", lines, "-c:s", "srt", film)
    with pytest.raises(MediaError, match="no picture and no sound found"):
        probe(film)


def test_a_container_without_any_data_is_refused(tmp_path: Path) -> None:
    whole, header = samples.shared_film("plain.mkv"), tmp_path / "header only.mkv"
    data = whole.read_bytes()
    header.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # up to the first cluster
    with pytest.raises(MediaError, match=r"header only\.mkv: .*cut off"):
        probe(header)
