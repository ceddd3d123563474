"""The feature cache: the same question hits, anything else misses, and damage is never an error."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from epcli import content
from epcli.config import Profile
from epcli.records import AudioFeatures, AudioTrack, ClipSummary, Features, MediaInfo, Sampling, VideoFeatures
from epcli.session import cache
from epcli.session.cache import FeatureCache, FeatureKey

SAMPLING = Sampling(fps=1.0, max_frames=8, max_pixels=64 * 64, multiple=32)
KEY = FeatureKey({"family": "test", "weights": ["a"]}, SAMPLING, (None, None), "test-model")


def features(seed: int = 0, dtype: torch.dtype = torch.bfloat16, frames: int = 3) -> Features:
    draw = torch.Generator().manual_seed(seed)
    grid = torch.randn(frames, 2, 3, 8, generator=draw).to(dtype)
    tokens = torch.randn(20, 6, generator=draw).to(dtype)
    words = torch.tensor([-1] * 19 + [7])
    seen, heard = torch.rand(frames, 2, 3, generator=draw), torch.rand(20, generator=draw)
    video = VideoFeatures(grid, torch.arange(frames).double() / 3, 1 / 3, seen)
    return Features(2.4, video, AudioFeatures(tokens, 0.12, words, heard))


def summary(media: Path) -> ClipSummary:
    track = AudioTrack(0, "aac", 2, 48000, None, "a title")
    info = MediaInfo(media, "mov,mp4", 2.4, False, 64, 48, 25.0, "h264", (track,))
    return ClipSummary(info, (0.0, 2.4), (0.0, 1 / 3, 2 / 3), True, (f"{media.name}: is short", "keep: said by nobody"))


def same(found: Features | None, wanted: Features) -> bool:
    assert found is not None
    pairs = [(found.video.grid, wanted.video.grid), (found.video.times_s, wanted.video.times_s)]  # type: ignore[union-attr]
    pairs += [(found.audio.tokens, wanted.audio.tokens), (found.audio.words, wanted.audio.words)]  # type: ignore
    pairs += [(found.video.attention, wanted.video.attention), (found.audio.attention, wanted.audio.attention)]  # type: ignore
    assert all(a.dtype == b.dtype for a, b in pairs)
    steps = (found.video.step_s, found.audio.step_s, found.duration_s)  # type: ignore[union-attr]
    return all(torch.equal(a, b) for a, b in pairs) and steps == (1 / 3, 0.12, 2.4)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(os.urandom(300_000))
    return path


@pytest.fixture
def store(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features", 10**9)


def put(store: FeatureCache, media: Path, key: FeatureKey = KEY, made: Features | None = None) -> Path:
    """Store features of a file, and return the new entry's path."""
    before = set(store._files())
    slot = store.open(media, key)
    assert slot.features is None
    assert slot.store(summary(media), made or features()) is None
    (new,) = set(store._files()) - before
    return new


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_was_stored_comes_back_to_the_bit(store: FeatureCache, media: Path, dtype: torch.dtype) -> None:
    put(store, media, made=features(1, dtype))
    slot = store.open(media, KEY)
    assert same(slot.features, features(1, dtype))
    assert slot.clip == summary(media)


@pytest.mark.parametrize("part", ["video", "audio"])
def test_a_clip_without_picture_or_sound_comes_back_without(store: FeatureCache, media: Path, part: str) -> None:
    put(store, media, made=replace(features(), **{part: None}))
    found = store.open(media, KEY).features
    assert found is not None
    assert getattr(found, part) is None
    assert getattr(found, "audio" if part == "video" else "video") is not None


def test_one_time_out_of_many_is_stored(store: FeatureCache, media: Path) -> None:
    made = features(frames=1)
    assert made.video is not None
    strided = replace(made, video=replace(made.video, times_s=torch.zeros(2).double()[::2]))
    put(store, media, made=strided)
    assert same(store.open(media, KEY).features, strided)


@pytest.mark.parametrize(
    "other",
    [
        *(replace(KEY, sampling=replace(SAMPLING, **{key: value})) for key, value in (
            ("fps", 1.5), ("max_frames", 9), ("max_pixels", 64 * 96), ("multiple", 64), ("video", False),
            ("audio", False), ("audio_track", 1), ("video_track", 1),
        )),
        replace(KEY, range_s=(0.0, None)),
        replace(KEY, range_s=(None, 2.0)),
        replace(KEY, towers={"family": "test", "weights": ["b"]}),
        replace(KEY, towers={"family": "test", "weights": ["a"], "dtype": "torch.float32"}),
    ],
    ids=str,
)  # fmt: skip
def test_any_other_way_of_looking_misses(store: FeatureCache, media: Path, other: FeatureKey) -> None:
    put(store, media)
    assert store.open(media, other).features is None
    assert store.open(media, KEY).features is not None


def test_every_field_of_the_sampling_is_part_of_the_key() -> None:
    assert set(KEY.to_dict()["sampling"]) == set(Sampling.__dataclass_fields__)


@pytest.mark.parametrize("what", ["FORMAT", "code"])
def test_another_format_or_other_code_misses(
    store: FeatureCache, media: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    put(store, media)
    monkeypatch.setattr(cache, what, 99 if what == "FORMAT" else lambda: "other code")
    assert store.open(media, KEY).features is None


def test_the_digest_of_the_code_covers_decoding_and_models(monkeypatch: pytest.MonkeyPatch) -> None:
    read = set()
    plain = Path.read_bytes

    def recorded(path: Path) -> bytes:
        read.add(path.name)
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", recorded)
    cache.code.cache_clear()
    cache.code()
    assert {"decode.py", "pixels.py", "model.py", "inputs.py"} <= read


def test_a_changed_file_never_hits_whatever_its_times_say(store: FeatureCache, media: Path) -> None:
    put(store, media)
    times, data = media.stat(), bytearray(media.read_bytes())
    data[100_000] ^= 1  # where the quick digest does not look
    quick = content.quick(media)
    media.write_bytes(data)
    os.utime(media, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content.quick(media) == quick
    assert store.open(media, KEY).features is None


def test_a_copy_under_another_name_hits_and_is_called_by_its_name(store: FeatureCache, media: Path) -> None:
    put(store, media)
    copy = Path(shutil.copy(media, media.with_name("copy.mp4")))
    clip = store.open(copy, KEY).clip
    assert clip is not None
    assert clip.info.path == copy
    assert clip.warnings == ("copy.mp4: is short", "keep: said by nobody")


def test_a_name_that_is_not_utf8_is_stored(store: FeatureCache, media: Path) -> None:
    odd = media.rename(media.with_name(os.fsdecode(b"caf\xe9.mp4")))
    put(store, odd)
    clip = store.open(odd, KEY).clip
    assert clip is not None
    assert clip.info.path == odd
    assert store.entries()[0].media == str(odd)


def test_a_file_changed_while_it_was_looked_at_is_not_stored(store: FeatureCache, media: Path) -> None:
    slot = store.open(media, KEY)
    media.write_bytes(b"another film")
    assert slot.store(summary(media), features()) is None
    assert store.entries() == []


def test_a_file_that_is_not_known_is_decoded_while_it_is_hashed(
    store: FeatureCache, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, whole = threading.Event(), content.sha256

    def slow(path: Path) -> str:
        assert go.wait(60)
        return whole(path)

    monkeypatch.setattr(content, "sha256", slow)
    slot = store.open(media, KEY)  # comes back, although no hash is there yet
    go.set()
    slot.store(summary(media), features())
    assert store.open(media, KEY).features is not None


def damaged(data: bytes) -> dict[str, bytes]:
    """An entry's bytes, spoilt in different ways."""
    length = 8 + int.from_bytes(data[:8], "little")

    def flipped(place: int) -> bytes:
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return {
        "empty": b"",
        "text": b"not an entry",
        "cut off": data[:-1],
        "header cut off": data[: length // 2],
        "longer": data + b"\0",
        "zeros": bytes(len(data)),
        "first tensor": flipped(length),
        "last byte": flipped(len(data) - 1),
        "a fact": data.replace(b'\\"duration_s\\": 2.4', b'\\"duration_s\\": 2.5'),
        "no checksum": data.replace(b'\\"sum\\"', b'\\"mus\\"'),
        "length": flipped(0),
        "huge length": b"\xff" * 8 + data[8:],
    }


@pytest.mark.parametrize("how", list(damaged((8).to_bytes(8, "little") + bytes(99))))
def test_a_damaged_entry_is_a_miss_and_is_removed_and_made_again(store: FeatureCache, media: Path, how: str) -> None:
    entry = put(store, media)
    spoilt = damaged(entry.read_bytes())[how]
    assert spoilt != entry.read_bytes()
    entry.write_bytes(spoilt)
    slot = store.open(media, KEY)
    assert slot.features is None
    assert not entry.exists()
    slot.store(summary(media), features())
    assert store.open(media, KEY).features is not None


def test_a_whole_entry_under_another_ones_name_is_a_miss(store: FeatureCache, media: Path) -> None:
    mine = put(store, media)
    other = replace(KEY, range_s=(1.0, None))
    theirs = put(store, media, other, features(5))
    shutil.copy(theirs, mine)
    assert store.open(media, KEY).features is None
    assert same(store.open(media, other).features, features(5))


def test_the_least_used_go_first_and_a_hit_counts_as_use(tmp_path: Path) -> None:
    store = FeatureCache(tmp_path / "features", 10**9)
    films = []
    for number in range(4):
        films.append(tmp_path / f"{number}.mp4")
        films[-1].write_bytes(bytes([number]) * 1000)
        entry = put(store, films[-1])
        os.utime(entry, (1000 + number, 1000 + number))
    size = entry.stat().st_size
    assert store.open(films[0], KEY).features is not None  # the oldest, used again
    store.limit_bytes = 3 * size + 100
    new = tmp_path / "new.mp4"
    new.write_bytes(b"new")
    put(store, new)
    assert [Path(entry.media).name for entry in store.entries()] == ["new.mp4", "0.mp4", "3.mp4"]


def test_what_is_larger_than_the_limit_is_not_stored(store: FeatureCache, media: Path) -> None:
    store.limit_bytes = 100
    assert store.open(media, KEY).store(summary(media), features()) is None
    assert store._files() == []


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, media: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = FeatureCache(tmp_path / "file", 10**9).open(media, KEY).store(summary(media), features())
    assert said is not None
    assert str(tmp_path / "file") in said
    assert "--no-cache" in said


def test_pruning_takes_the_old_the_chosen_the_damaged_and_what_was_left_behind(tmp_path: Path) -> None:
    store = FeatureCache(tmp_path / "features", 10**9)
    entries: dict[str, Path] = {}
    for name in ("new", "old", "chosen", "broken"):
        film = tmp_path / f"{name}.mp4"
        film.write_text(name)
        entries[name] = put(store, film)
    day = time.time() - 86400
    os.utime(entries["old"], (day, day))
    entries["broken"].write_text("?")
    mine = store.folder / "notes.txt"
    mine.write_text("not ours, stays")
    young, old = store.folder / "a.1.part", store.folder / "b.2.part"
    young.touch()
    old.touch()
    os.utime(old, (day, day))

    def prune(dry_run: bool) -> list[str]:
        gone = store.prune(unused_s=3600, chosen=lambda entry: "chosen" in entry.media, dry_run=dry_run)
        return sorted(Path(entry.media).stem for entry in gone)

    assert prune(dry_run=True) == ["chosen", "old"]
    assert len(store.entries()) == 3
    assert prune(dry_run=False) == ["chosen", "old"]
    assert sorted(file.name for file in store.folder.iterdir() if file.name != ".lock") == sorted(
        [entries["new"].name, "notes.txt", "a.1.part"]
    )


def _writer(folder: Path, films: list[Path], limit: int) -> None:
    store = FeatureCache(folder, limit)
    for film in films * 3:
        slot = store.open(film, KEY)
        if slot.features is None:
            slot.store(summary(film), features(int(film.stem)))
        else:
            assert same(slot.features, features(int(film.stem)))


@pytest.mark.slow
def test_several_processes_share_a_small_folder(tmp_path: Path) -> None:
    films = []
    for number in range(4):
        films.append(tmp_path / f"{number}.mp4")
        films[-1].write_text(str(number))
    folder = tmp_path / "features"
    size = put(FeatureCache(folder, 10**9), films[0], made=features(0)).stat().st_size
    context = multiprocessing.get_context("fork")
    workers: list[Any] = [
        context.Process(target=_writer, args=(folder, films[n:] + films[:n], 2 * size + 100)) for n in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)
    assert 1 <= len(FeatureCache(folder, 0).entries()) <= 2
    assert [file for file in folder.iterdir() if file.name.endswith(".part")] == []


def test_an_entry_that_another_process_removes_while_it_is_opened_is_a_miss(
    store: FeatureCache, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(store, media)
    original = torch.UntypedStorage.from_file

    def late(*args: Any, **options: Any) -> Any:
        file.unlink(missing_ok=True)
        return original(*args, **options)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", late)
    assert store.open(media, KEY).features is None
    assert not file.exists()


def test_the_settings_choose_folder_and_size(tmp_path: Path) -> None:
    assert FeatureCache.of(Profile(cache=False)) is None
    store = FeatureCache.of(Profile(cache_dir=str(tmp_path), cache_gb=0.5))
    assert store is not None
    assert (store.folder, store.limit_bytes) == (tmp_path, 500_000_000)
    default = FeatureCache.of(Profile())
    assert default is not None
    assert default.folder == cache.default_folder()


def test_entries_are_read_without_a_model_library(store: FeatureCache, media: Path) -> None:
    import subprocess
    import sys

    put(store, media)
    program = (
        "import sys, pathlib; from epcli.session.cache import FeatureCache; "
        f"print([e.frames for e in FeatureCache(pathlib.Path({str(store.folder)!r}), 0).entries()]); "
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "[3]\n", run.stderr


def test_an_entry_tells_what_it_is_in_json(store: FeatureCache, media: Path) -> None:
    put(store, media)
    (entry,) = store.entries()
    body = json.loads(json.dumps(entry.to_dict()))
    assert body["media"] == str(media)
    assert (body["model"], body["range_s"], body["frames"], body["heard"]) == ("test-model", [0.0, 2.4], 3, True)
    assert body["size_bytes"] == Path(body["file"]).stat().st_size


def test_the_code_of_media_and_of_every_family_is_part_of_an_entrys_name() -> None:
    names = {file.relative_to(cache.ROOT).as_posix() for file in cache.code_files()}
    assert {"media/decode.py", "observe/whisper.py", "models/qwen_omni/model.py"} <= names
