"""`ep find`: which files, and where in them."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epcli.cli.index import IndexFlag, update
from epcli.cli.options import OUTPUT, DebugFlag, argument, option, path_option
from epcli.cli.screen import from_here
from epcli.errors import EXIT_PARTIAL, EpError, UsageError
from epcli.text import format_range, one_line, parse_age, visible_json

if TYPE_CHECKING:
    from epcli.find.index import Index
    from epcli.find.search import Hit

NARROW, CLIPS = "What to find", "Clips"


def find(
    words: Annotated[
        list[str],
        argument(
            "Folders or files to search, then what to find. Without folders, all that is indexed is searched.",
            "[FOLDER...] QUERY",
        ),
    ],
    *,
    said: Annotated[bool, option("Find what was said.", "", NARROW, "--said")] = False,
    heard: Annotated[bool, option("Find what was heard.", "", NARROW, "--heard")] = False,
    seen: Annotated[bool, option("Find what was seen.", "", NARROW, "--seen")] = False,
    read: Annotated[bool, option("Find what was read on screen.", "", NARROW, "--read")] = False,
    since: Annotated[str | None, option("Only files changed since: 7d, 12h or 2026-11-30.", "AGE|DATE", NARROW)] = None,
    limit: Annotated[int, option("Most moments to show.", "COUNT", NARROW, min=1)] = 10,
    update_index: Annotated[
        bool, option("Look for new and changed files in the folders first.", "", NARROW, "--update/--no-update")
    ] = True,
    index: IndexFlag = None,
    clip: Annotated[Path | None, path_option("Cut the moments out, into this folder.", "FOLDER", CLIPS)] = None,
    exact: Annotated[
        bool, option("Cut at the exact frame, which encodes the moments again.", "", CLIPS, "--exact")
    ] = False,
    play: Annotated[bool, option("Print only command lines that play the moments.", "", OUTPUT, "--play")] = False,
    json: Annotated[bool, option("Print one JSON list and nothing else.", "", OUTPUT, "--json")] = False,
    quiet: Annotated[bool, option("Print the moments and nothing else.", "", OUTPUT, "--quiet", "-q")] = False,
    debug: DebugFlag = False,
) -> None:
    """Find the moments of your files that match, best first, and why.

    What is said, heard, seen and read is searched, by words and by meaning. The first search of a folder indexes it
    (`ep index`).
    """
    *folders, query = words
    places = tuple(_place(each) for each in folders)
    if json and play:
        raise UsageError("--json and --play are two forms: give one of them")
    if exact and clip is None:
        raise UsageError("--exact goes with --clip")
    if clip is not None and clip.exists() and not clip.is_dir():
        raise UsageError(f"--clip {clip}: is no folder")
    since_s = None if since is None else _moment(since)

    from epcli.find.index import Index, default_path
    from epcli.find.query import parse

    terms = [term.text for term in parse(query).terms]  # a bad query is refused before any work
    if not folders and os.path.isdir(query):
        raise UsageError(f"{query}: is a folder; say also what to find: ep find {query} QUERY")
    path = index or default_path()
    hows = frozenset(how for how, on in (("said", said), ("heard", heard), ("seen", seen), ("read", read)) if on)
    with Index(path, make=bool(places) and update_index) as known:
        if places and update_index:
            _update(known, places, quiet=quiet or json or play)
        hits = _search(known, query, places, hows, since_s, limit)
        if not hits and not quiet and not json:
            print(f"ep: {one_line(_nothing(known, query, places, hows, since_s))}", file=sys.stderr)
    cuts = _cut(hits, clip, exact) if clip is not None else []
    if json:
        from json import dumps

        print(visible_json(dumps(_json(hits, cuts), indent=2, ensure_ascii=False)))
    elif play:
        from epcli.find import show

        print("\n".join(show.play(hit) for hit in hits), end="\n" if hits else "")
    else:
        _print(hits, terms)
        if not quiet:
            for cut in filter(None, cuts):
                print(f"ep: {one_line(from_here(os.path.abspath(cut)))}", file=sys.stderr)
    if None in cuts:
        raise typer.Exit(EXIT_PARTIAL)


def _place(word: str) -> Path:
    if not word:
        raise UsageError("the path is empty")
    if not os.path.lexists(word):
        raise UsageError(f"{word}: there is no such file or folder; the last word is the query: put it in quotes")
    return Path(word)


def _moment(since: str) -> float:
    """Seconds since the epoch of an age or a date."""
    try:
        return time.time() - parse_age(since)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(since).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"--since: {since!r} is neither an age nor a date; write 12h, 7d or 2026-11-30") from None


def _update(known: Index, places: tuple[Path, ...], *, quiet: bool) -> None:
    """Index what is new. If another process does that, what it has done by now is searched."""
    from epcli.find.build import Build

    with known.damage(), known.writing() as mine:
        if not mine:
            if not quiet:
                print("ep: another process is indexing; what it has done by now is searched", file=sys.stderr)
            return
        work = Build(known, places)
        work.prepare()
        try:
            update(work, quiet=quiet)
        except KeyboardInterrupt:
            print("ep: what is indexed stays; --no-update searches it", file=sys.stderr)
            raise


def _search(
    known: Index, query: str, places: tuple[Path, ...], hows: frozenset[str], since: float | None, limit: int
) -> list[Hit]:
    from epcli.find.passages import HOWS
    from epcli.find.search import Scope, Search
    from epcli.observe.minilm import MiniLM

    if not places and not known.totals().files:
        raise EpError(f"{known.path}: nothing is indexed yet; name a folder: ep find FOLDER QUERY")
    scope = Scope(places, hows or frozenset(HOWS), since)
    return Search(known, MiniLM().embed).find(query, scope, limit, wanted=os.path.exists)


def _nothing(known: Index, query: str, places: tuple[Path, ...], hows: frozenset[str], since: float | None) -> str:
    """Why nothing was found, or what may have been meant."""
    from epcli.find.spelling import respelled
    from epcli.observe.minilm import MiniLM

    files = [file for file in known.files_within(places) if not file.gone] if places else []
    if places and all(file.failed for file in files):
        what = "no media file there could be read; `ep index` says why" if files else "no media file there is indexed"
        return f"{', '.join(map(str, places))}: {what}"
    with known.damage():
        other = respelled(known, query, MiniLM().is_word)
    meant = other is not None and bool(_search(known, other, places, hows, since, 1))
    return f"nothing found for {query!r}" + (f"; did you mean {other!r}?" if meant else "")


def _cut(hits: list[Hit], folder: Path, exact: bool) -> list[Path | None]:
    """The clip of each moment; None, and a line, for one that cannot be cut."""
    from epcli.media.cut import cut, file_name

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--clip {folder}: cannot be made: {error.strerror}") from None
    same: Counter[str] = Counter()  # moments so far of files with that name
    made: list[Path | None] = []
    for hit in hits:
        same[name := file_name(hit.path, hit.start_s, hit.end_s, "")] += 1
        mark = str(same[name]) if same[name] > 1 else ""
        try:
            made.append(cut(hit.path, hit.start_s, hit.end_s, folder, exact=exact, mark=mark))
        except EpError as error:
            print(f"ep: error: {one_line(str(error))}", file=sys.stderr)
            made.append(None)
    return made


def _json(hits: list[Hit], cuts: list[Path | None]) -> list[dict[str, object]]:
    made = [hit.to_dict() for hit in hits]
    for each, clip in zip(made, cuts, strict=False):
        each["clip"] = os.path.abspath(clip) if clip else None
    return made


def _print(hits: list[Hit], terms: list[str]) -> None:
    from epcli.find import show

    rows = [
        (one_line(from_here(str(hit.path))), format_range(hit.start_s, hit.end_s), show.why(hit, terms)) for hit in hits
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for path, times, why in rows:
        print(f"{path:{widths[0]}}  {times:{widths[1]}}  {why}")
