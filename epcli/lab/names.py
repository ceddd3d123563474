"""Make the tables of everyday names that `epcli/observe/names.py` reads.

    python -m epcli.lab.names WORDNET SYNSETS

WORDNET is the folder with WordNet 3.0's `data.noun` (Debian: wordnet-base, /usr/share/wordnet), SYNSETS a file with the
synset of each ImageNet class in the order of the logits, a line each (timm/data/_info/imagenet_synsets.txt in timm's
wheel).
What people call a class, which coarser names there are and which classes are distrusted stands in `everyday/`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

from epcli.observe.efficientnet_lite import load_class_names

_DATA = Path(__file__).parents[1] / "observe" / "data"
_WORDNET = "the tree of names from WordNet 3.0 (Princeton University, WordNet License)"
_SPEAKS_FOR = "~"  # a class whose probability counts for a coarser name, although it is not one


def lines(name: str) -> Iterator[str]:
    """The lines of a file in `everyday/`, without remarks."""
    text = files("epcli.lab").joinpath(f"everyday/{name}.txt").read_text(encoding="utf-8")
    return (line for line in text.splitlines() if line and not line.startswith("#"))


def pairs(name: str) -> dict[str, str]:
    """The lines "key: value" of a file in `everyday/`; the value is "" where there is no colon."""
    table: dict[str, str] = {}
    for line in lines(name):
        key, _, value = line.partition(": ")
        if key in table:
            raise ValueError(f"{name}.txt: {key!r} stands in it twice")
        table[key] = value
    return table


class WordNet:
    """WordNet's nouns above ImageNet's classes."""

    def __init__(self, data_noun: Path, synsets: Path) -> None:
        self._words: dict[int, tuple[str, ...]] = {}
        self._above: dict[int, tuple[int, ...]] = {}
        for line in data_noun.read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):  # the licence at the top is indented
                self._read(line.partition(" | ")[0].split())
        self._classes: dict[int, list[int]] = defaultdict(list)
        for index, synset in enumerate(synsets.read_text(encoding="utf-8").split()):
            for node in self._ancestors(int(synset.removeprefix("n"))):
                self._classes[node].append(index)

    def _read(self, fields: list[str]) -> None:
        """One synset: offset, lexicographer file, type, words (count in hexadecimal), pointers (wndb(5))."""
        offset, words = int(fields[0]), int(fields[3], 16)
        pointers = fields[5 + 2 * words :]
        self._words[offset] = tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * words : 2])
        self._above[offset] = tuple(
            int(target) for kind, target in zip(pointers[::4], pointers[1::4], strict=False) if kind in ("@", "@i")
        )

    def _ancestors(self, node: int) -> set[int]:
        return {node}.union(*(self._ancestors(above) for above in self._above[node]))

    def below(self, word: str) -> list[int]:
        """The classes below `word`: of its meanings, the one with most classes."""
        covered = [classes for node, classes in self._classes.items() if word in self._words[node]]
        if not covered:
            raise ValueError(f"coarse.txt: WordNet has no {word!r} above a class")
        return max(covered, key=len)


def coarse_classes(classes: tuple[str, ...], wordnet: WordNet) -> dict[str, tuple[set[int], set[int]]]:
    """For each coarser name, the classes that are one, and those that only speak for one."""
    index = {name: i for i, name in enumerate(classes)}
    table = {}
    for name, rule in pairs("coarse").items():
        are: set[int] = set()
        speak: set[int] = set()
        for part in rule.split(", "):
            if part.startswith("@"):
                are |= set(wordnet.below(part[1:]))
            elif part.startswith("-"):
                are.remove(index[part[1:]])
            elif part.startswith(_SPEAKS_FOR):
                speak.add(index[part[1:]])
            else:
                are.add(index[part])
        table[name] = are, speak - are
    return table


def article_and_plural(name: str, exceptions: dict[str, str]) -> tuple[str, str]:
    """ "a", "an" or "" for what is not counted or always many; and several of it."""
    if name in exceptions:
        article, plural = exceptions[name].split(": ")
        return article.replace("-", ""), plural
    article = "an" if name[0].lower() in "aeiou" else "a"
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return article, name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return article, name[:-1] + "ies"
    return article, name + "s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wordnet", type=Path, help="folder with data.noun")
    parser.add_argument("synsets", type=Path, help="file with the synset of each class")
    args = parser.parse_args()
    classes = load_class_names()
    wordnet = WordNet(args.wordnet / "data.noun", args.synsets)
    coarse = coarse_classes(classes, wordnet)
    said, distrusted = pairs("fine"), set(lines("distrusted"))
    if unknown := (said.keys() | distrusted) - set(classes):
        raise ValueError(f"not a class of ImageNet: {min(unknown)!r}")
    narrowest_first = sorted(coarse, key=lambda name: (len(coarse[name][0]), name))

    rows = []
    for index, label in enumerate(classes):
        above = [
            (_SPEAKS_FOR if index in coarse[name][1] else "") + name
            for name in narrowest_first
            if index in coarse[name][0] | coarse[name][1]
        ]
        rows.append((said.get(label, label), "no" if label in distrusted else "yes", ", ".join(above)))
    write(
        "names.tsv",
        "ImageNet's classes in the order of the logits: what people call it; whether that name is trusted on whole"
        f" frames; coarser names, narrowest first ({_SPEAKS_FOR}: its probability speaks for the name, but it is none)",
        rows,
    )

    kinds: dict[str, list[str]] = {
        name: [kind for kind in of.split(", ") if kind] for name, of in pairs("coco").items()
    }
    for name, (are, _) in coarse.items():
        broader = [other for other in narrowest_first if other != name and are < coarse[other][0]]
        kinds[name] = merged(name, kinds.get(name, []), broader)
    for index, (name, _, _) in enumerate(rows):
        broader = [other for other in narrowest_first if index in coarse[other][0]]
        kinds[name] = merged(name, kinds.get(name, []), broader)
    exceptions = pairs("words")
    order = {name: i for i, name in enumerate(narrowest_first)}
    write(
        "kinds.tsv",
        "Every name that may be reported: its article (none: not counted or always many); several of it; its kinds, "
        "narrowest first",
        [
            (name, *article_and_plural(name, exceptions), ", ".join(sorted(of, key=lambda kind: order.get(kind, -1))))
            for name, of in sorted(kinds.items(), key=lambda item: item[0].lower())
        ],
    )


def merged(name: str, some: Iterable[str], more: Iterable[str]) -> list[str]:
    """Both without repeats, and without the name itself."""
    return [kind for kind in dict.fromkeys([*some, *more]) if kind != name]


def write(name: str, remark: str, rows: Iterable[tuple[str, ...]]) -> None:
    """A table with tabs between columns, beside the code that reads it."""
    body = "".join("\t".join(row) + "\n" for row in rows)
    header = f"# {remark}. Made by epcli/lab/names.py; {_WORDNET}: see WORDNET_LICENSE.txt.\n"
    (_DATA / name).write_text(header + body, encoding="utf-8")


if __name__ == "__main__":
    main()
