"""What a file holds, by name: a changed file is never taken for the one it was."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from epcli import content


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Files that were read from end to end. Every file counts as settled."""
    read: list[Path] = []
    whole = content._sha256

    def counted(path: Path) -> str:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(content, "_sha256", counted)
    monkeypatch.setattr(content, "memory", lambda: tmp_path / "hashes")
    monkeypatch.setattr(content, "SETTLED_NS", -(10**18))
    return read


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


def test_an_unchanged_file_is_read_once(film: Path, calls: list[Path]) -> None:
    wanted = hashlib.sha256(film.read_bytes()).hexdigest()
    assert content.sha256(film) == wanted
    assert content.sha256(film) == wanted
    assert calls == [film]


def test_an_edit_of_the_same_length_with_its_time_put_back_is_seen(film: Path, calls: list[Path]) -> None:
    before, times = content.sha256(film), film.stat()
    data = bytearray(film.read_bytes())
    data[70_000] ^= 1
    film.write_bytes(data)
    os.utime(film, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert film.stat().st_mtime_ns == times.st_mtime_ns
    assert content.sha256(film) != before


def test_another_file_moved_over_it_is_seen(film: Path, calls: list[Path], tmp_path: Path) -> None:
    before = content.sha256(film)
    other = tmp_path / "other.mp4"
    other.write_bytes(bytes(film.stat().st_size))
    other.replace(film)
    assert content.sha256(film) != before


def test_a_file_written_just_now_is_not_remembered(
    film: Path, calls: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "SETTLED_NS", 3_600_000_000_000)
    content.sha256(film)
    content.sha256(film)
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"stamp": null}', '{"stamp": [1, 2, 3, 4], "value": "0"}'])
def test_a_damaged_memory_costs_time_and_nothing_else(film: Path, calls: list[Path], damage: str) -> None:
    wanted = content.sha256(film)
    for record in content.memory().iterdir():
        record.write_text(damage)
    assert content.sha256(film) == wanted
    assert len(calls) == 2


def test_two_things_remembered_of_one_file_are_kept_apart(film: Path, calls: list[Path]) -> None:
    assert content.remembered(film, "colour", lambda path: "red") == "red"
    assert content.remembered(film, "sound", lambda path: "loud") == "loud"
    assert content.remembered(film, "colour", lambda path: "green") == "red"


def test_the_quick_digest_differs_with_length_beginning_middle_and_end(tmp_path: Path) -> None:
    whole = bytes(1_000_000)
    contents = [whole, whole + b"\0", b"1" + whole[1:], whole[:500_000] + b"1" + whole[500_001:], whole[:-1] + b"1"]
    digests = []
    for number, data in enumerate(contents):
        path = tmp_path / str(number)
        path.write_bytes(data)
        digests.append(content.quick(path))
    assert len(set(digests)) == len(contents)
    (tmp_path / "copy").write_bytes(whole)
    assert content.quick(tmp_path / "copy") == digests[0]


@pytest.mark.parametrize("length", [1, 1000, 100_000])
def test_a_small_file_has_a_quick_digest_too(tmp_path: Path, length: int) -> None:
    path = tmp_path / "small"
    path.write_bytes(bytes(length))
    assert len(content.quick(path)) == 16
