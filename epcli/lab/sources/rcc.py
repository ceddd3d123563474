"""Reader of Qt binary resource files (.rcc, formats 1 to 3), in which GCompris ships its media.

Layout, all big-endian: "qres", u32 version, u32 offsets of the tree, the data and the names. A tree node is u32 name
offset, u16 flags, then for a folder u32 count and u32 first child, for a file u16 country, u16 language, u32 data
offset; formats 2 and 3 append a u64 time stamp. A name is u16 length, u32 hash, UTF-16; data is u32 length and bytes,
zlib-compressed (behind another u32 length) if flag 1 is set, zstd if flag 4 is.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from epcli.errors import MediaError

_ZLIB, _FOLDER, _ZSTD = 1, 2, 4


def files(path: Path) -> Iterator[tuple[str, bytes]]:
    """(path inside the resource, content) of every file. Raises MediaError if `path` is no readable .rcc."""
    raw = path.read_bytes()
    if raw[:4] != b"qres":
        raise MediaError(f"{path.name}: not a Qt resource file")
    try:
        version, tree, data, names = struct.unpack(">4I", raw[4:20])
        if version not in (1, 2, 3):
            raise MediaError(f"{path.name}: Qt resource format {version} is not known (1 to 3 are)")
        yield from _walk(raw, tree, data, names, 14 if version == 1 else 22, 0, "")
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise MediaError(f"{path.name}: damaged Qt resource file ({error}); download it again") from error


def _walk(
    raw: bytes, tree: int, data: int, names: int, node_bytes: int, node: int, parent: str
) -> Iterator[tuple[str, bytes]]:
    start = tree + node * node_bytes
    name_offset, flags = struct.unpack_from(">IH", raw, start)
    if node == 0:
        here = ""  # the root's name is empty
    else:
        length = struct.unpack_from(">H", raw, names + name_offset)[0]
        name = raw[names + name_offset + 6 : names + name_offset + 6 + 2 * length].decode("utf-16-be")
        here = f"{parent}/{name}" if parent else name
    if flags & _FOLDER:
        count, first = struct.unpack_from(">II", raw, start + 6)
        for child in range(first, first + count):
            yield from _walk(raw, tree, data, names, node_bytes, child, here)
        return
    offset = data + struct.unpack_from(">I", raw, start + 10)[0]
    size = struct.unpack_from(">I", raw, offset)[0]
    content = raw[offset + 4 : offset + 4 + size]
    if flags & _ZSTD:
        raise MediaError(f"{here}: zstd-compressed Qt resources are not read here")
    yield here, zlib.decompress(content[4:]) if flags & _ZLIB else content
