"""The form that an answer must have: JSON of a schema, or one of several choices. Loads no model library.

A schema may come from anybody. Its text is bounded, and its references must stay inside it, before the grammar library
reads it: that library is recursive, and a long chain of references would end the process. It fetches nothing.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from epcli.errors import UsageError
from epcli.text import one_line, read_text, size, well_formed

MOST_CHOICES = 64
LONGEST_CHOICE = 500  # characters
LARGEST_SCHEMA = 250_000  # bytes
# Levels of a schema with all that it refers to. The library takes up to 7 kB of stack for a level, and the smallest
# stack of a main thread is 2 MB (Windows).
DEEPEST_SCHEMA = 256
# One line, spaced as most JSON that a model has read. Nothing that a schema says may loosen the grammar.
WRITING: Any = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "coerce_one_of": False,
    "lenient": False,
}


@dataclass(frozen=True)
class Schema:
    """JSON that meets a JSON Schema."""

    text: str  # the schema, as JSON
    name: str  # for messages


@dataclass(frozen=True)
class Choices:
    """One of at least two texts, no two the same."""

    texts: tuple[str, ...]


Form = Schema | Choices


def read_form(
    schema: str | os.PathLike[str] | Mapping[str, Any] | None = None, choices: Sequence[str] | None = None
) -> Form | None:
    """What is asked for; None if that is nothing.

    Args:
        schema: a file with a JSON Schema, or the schema itself.
        choices: the texts to choose from.

    Raises UsageError for both, a schema that cannot be read or used, and choices that are none.
    """
    if schema is not None and choices is not None:
        raise UsageError("an answer has a schema or choices, not both")
    if choices is not None:
        return _choices(choices)
    if schema is None:
        return None
    if isinstance(schema, Mapping):
        return _schema(dict(schema), "the schema")
    return _schema(_load(Path(schema)), str(schema))


def split_choices(values: Sequence[str]) -> list[str]:
    """The choices in values of --choices: separated by commas, in double quotes where a comma belongs to one.

    Raises UsageError for quotes that are not closed.
    """
    found: list[str] = []
    for value in values:
        try:
            found += next(csv.reader([value], skipinitialspace=True, strict=True)) or [""]
        except csv.Error:
            raise UsageError(f"--choices: {one_line(value)}: put a choice with commas in double quotes") from None
    return found


def _choices(texts: Sequence[str]) -> Choices:
    """Raises UsageError."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise UsageError("choices: give a list of texts")
    stripped = [well_formed(text).strip() for text in texts]
    if not all(stripped):
        raise UsageError("choices: one of them is empty")
    for text in stripped:
        if not text.isprintable():
            raise UsageError(f"choices: {one_line(text[:40])!r} holds a line break or a control character")
        if len(text) > LONGEST_CHOICE:
            raise UsageError(f"choices: one is {len(text):,} characters long; {LONGEST_CHOICE} are the most")
        if stripped.count(text) > 1:
            raise UsageError(f"choices: {text!r} is there twice")
    if not 2 <= len(stripped) <= MOST_CHOICES:
        raise UsageError(f"choices: there must be 2 to {MOST_CHOICES} of them, not {len(stripped)}")
    return Choices(tuple(stripped))


def _load(path: Path) -> Any:
    """A JSON file's content. Raises UsageError."""
    try:
        too_large = path.stat().st_size > LARGEST_SCHEMA
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if too_large:
        raise UsageError(f"{path}: is larger than {size(LARGEST_SCHEMA)}, too large for a schema")
    if not path.is_file():  # reading a pipe or a device might never end
        raise UsageError(f"{path}: is not a file")
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise UsageError(_too_deep(str(path))) from None
    except ValueError as error:
        raise UsageError(f"{path}: is not JSON: {error}") from None


def _schema(content: Any, name: str) -> Schema:
    """Raises UsageError if no answer can be made by it."""
    if not isinstance(content, dict):
        raise UsageError(f"{name}: is not a JSON Schema: that is an object in braces")
    content = {key: value for key, value in content.items() if key != "x-guidance"}  # the library's own options
    try:
        text = json.dumps(content, allow_nan=False)
    except RecursionError:
        raise UsageError(_too_deep(name)) from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: is not JSON: {error}") from None
    if len(text) > LARGEST_SCHEMA:
        raise UsageError(f"{name}: is larger than {size(LARGEST_SCHEMA)}, too large for a schema")
    _check_depth(json.loads(text), name)
    schema = Schema(text, name)
    from llguidance import LLTokenizer

    begin(schema, LLTokenizer("byte"))
    return schema


def begin(schema: Schema, tokenizer: Any) -> Any:
    """llguidance's matcher at the beginning of an answer, over the tokens of its `tokenizer`.

    Raises UsageError if the library does not support the schema, or no answer can meet it.
    """
    from llguidance import LLMatcher, LLParserLimits

    try:
        grammar = LLMatcher.grammar_from_json_schema(schema.text, overrides=WRITING)
    except ValueError as error:  # half a character, as "\ud800"
        raise UsageError(f"{schema.name}: cannot be used: {error}") from None
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
    if matcher.is_error():
        raise UsageError(f"{schema.name}: cannot be used: {_plain(matcher.get_error())}")
    matcher.compute_bitmask()
    if matcher.is_error():
        raise UsageError(f"{schema.name}: no answer can meet this schema")
    return matcher


def _plain(error: str) -> str:
    """The library's message in one line, without the state of its parser."""
    text = error.partition("<state>")[0].strip()
    if text.startswith("regex parse error"):
        text = f"pattern: {text.rpartition('error: ')[2]}"
    return " ".join(text.split())[:300]


def _check_depth(schema: dict[str, Any], name: str) -> None:
    """Raises UsageError for a reference out of the schema, and for more levels than the grammar library may be given.

    What is referred to counts once, whatever refers to it: on its way down the library passes each place once at most.
    """
    depth, targets = _depth(schema), {}
    for pointer in _references(schema):
        if pointer not in targets:
            targets[pointer] = _depth(_resolve(schema, pointer, name))
    if depth + sum(targets.values()) > DEEPEST_SCHEMA:
        raise UsageError(_too_deep(name))


def _too_deep(name: str) -> str:
    return f"{name}: has more than {DEEPEST_SCHEMA} levels, with all that it refers to; make it simpler"


def _nodes(content: Any) -> Iterator[tuple[Any, int]]:
    """All values inside, each with its level, without recursion."""
    waiting = [(content, 1)]
    while waiting:
        value, level = waiting.pop()
        yield value, level
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(each, level + 1) for each in inner]


def _depth(content: Any) -> int:
    return max(level for _, level in _nodes(content))


def _references(schema: Any) -> Iterator[str]:
    for value, _ in _nodes(schema):
        for key in ("$ref", "$dynamicRef", "$recursiveRef") if isinstance(value, dict) else ():
            if isinstance(value.get(key), str):
                yield value[key]


def _resolve(schema: Any, pointer: str, name: str) -> Any:
    """What "#/$defs/thing" refers to. Raises UsageError."""
    if pointer != "#" and not pointer.startswith("#/"):
        shown = one_line(pointer[:80])
        raise UsageError(f"{name}: refers to {shown!r}; only places inside the schema, as '#/$defs/thing', can be used")
    place = schema
    for part in pointer.split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        try:
            place = place[int(key)] if isinstance(place, list) else place[key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise UsageError(f"{name}: refers to {one_line(pointer[:80])!r}, which is not there") from None
    return place
