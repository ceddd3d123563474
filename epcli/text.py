"""Text that comes in from people and files, and text that goes out to a screen."""

from __future__ import annotations

import re
from pathlib import Path

from epcli.errors import UsageError

LONGEST_QUESTION = 200_000  # characters, some 40,000 tokens: more than any model here reads

# What moves a terminal's cursor, reorders a line or cannot be encoded: control characters but for tab and line feed,
# line and paragraph separators, switches of writing direction, and surrogates, as bytes that are not UTF-8 become.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    """Text that cannot steer a terminal, with U+FFFD for what could. Tabs and line feeds stay."""
    return _STEERING.sub("\ufffd", text)


def one_line(text: str) -> str:
    """`visible`, and on a single line."""
    return visible(" ".join(text.split("\n")))


def visible_json(text: str) -> str:
    """JSON text that cannot steer a terminal and can be encoded: what could is written as an escape."""
    return _STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def well_formed(text: str) -> str:
    """Text that can be encoded: U+FFFD for each surrogate, which stands for a byte that was not UTF-8."""
    return _SURROGATE.sub("\ufffd", text)


def as_question(text: str, what: str = "the question") -> str:
    """A question as it can be asked: stripped, well formed, without a byte order mark.

    Raises UsageError, which begins with `what`, for one that is empty, far too long, or holds a zero byte.
    """
    question = well_formed(text).strip("\ufeff \t\r\n\v\f").strip()
    if not question:
        raise UsageError(f"{what} is empty: say what you want to know about the file")
    if "\0" in question:
        raise UsageError(f"{what} holds a zero byte, so it is not UTF-8 text; save it as UTF-8")
    if len(question) > LONGEST_QUESTION:
        raise UsageError(f"{what} is {len(question):,} characters long; {LONGEST_QUESTION:,} are the most")
    return question


def read_text(path: Path) -> str:
    """A UTF-8 file's text, without a byte order mark. Raises UsageError that says why it cannot be read."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{path}: is UTF-16 text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}: line {line} is not UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UsageError(f"{path}: line {line} holds a zero byte, so it is not UTF-8 text; save the file as UTF-8")
    return text
