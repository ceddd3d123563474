"""A moment in words, and the command that plays it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable

from epcli.find.passages import READ, SAID, SEEN
from epcli.find.search import Hit, Reason
from epcli.text import one_line

WIDTH = 90  # characters of what was said or read that are shown

_PLAYERS = {  # what each is called with, before the file's name
    "mpv": lambda start_s, end_s: [f"--start={start_s:.3f}", f"--end={end_s:.3f}", "--"],
    "vlc": lambda start_s, end_s: [f"--start-time={start_s:.3f}", f"--stop-time={end_s:.3f}", "--"],
    "ffplay": lambda start_s, end_s: ["-ss", f"{start_s:.3f}", "-t", f"{end_s - start_s:.3f}", "-i"],
}


def why(hit: Hit, words: Iterable[str]) -> str:
    """ "heard: dog; seen: dog, left"; `words` of the query tell which part of a long text is shown."""
    words = list(words)
    return one_line("; ".join(_reason(each, words) for each in hit.why))


def _reason(reason: Reason, words: list[str]) -> str:
    if reason.how in (SAID, READ):
        return f'{reason.how}: "{excerpt(reason.text, words)}"'
    name = reason.text
    if reason.how == SEEN and reason.count > 1:
        name = f"{reason.count} {_plural(name)}"
    return f"{reason.how}: {name}" + (f", {reason.place}" if reason.place else "")


def _plural(name: str) -> str:
    from epcli.observe import names

    return names.plural(name) if name in names.all_names() else name


def excerpt(text: str, words: Iterable[str], width: int = WIDTH) -> str:
    """At most `width` characters around the first of the words, with … where something is left out."""
    if len(text) <= width:
        return text
    folded = text.casefold()
    places = [place for word in words if (place := folded.find(word.casefold()[: max(4, len(word) - 3)])) >= 0]
    begin = max(0, min(min(places, default=0) - width // 3, len(text) - width))
    if begin:
        begin = text.find(" ", begin) + 1 or begin
    end = begin + width
    if end < len(text):
        end = text.rfind(" ", begin + 1, end) if " " in text[begin + 1 : end] else end
    return f"{'…' * (begin > 0)}{text[begin:end]}{'…' * (end < len(text))}"


def play(hit: Hit, margin_s: float = 1.0) -> str:
    """The command line, for a POSIX shell (on Windows for its own), that plays a moment in the player that is here."""
    player = next((name for name in _PLAYERS if shutil.which(name)), "mpv")
    start_s, end_s = max(0.0, hit.start_s - margin_s), hit.end_s + margin_s
    command = [player, *_PLAYERS[player](start_s, end_s), os.path.abspath(hit.path)]
    if os.name == "nt":
        return subprocess.list2cmdline(command)
    return " ".join(_quoted(word) for word in command)


def _quoted(word: str) -> str:
    """A word of a command line, which no character of it leaves. What a terminal would obey is written as its code."""
    if word.isprintable():
        return shlex.quote(word)
    letters = {ord("%"): "%%", ord("'"): r"\047", ord("\\"): r"\134"}
    coded = (letters.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in os.fsencode(word))
    return "\"$(printf '" + "".join(coded) + "')\""  # $'…' is unknown to some shells, such as dash
