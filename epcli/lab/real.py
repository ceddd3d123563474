"""ep-real, a benchmark of real photographs and recordings: `python -m epcli.lab.real LIBRARY OUT` writes it.

Films of 5 to 60 s in which a camera pans and zooms over photographs that people labelled by looking at them
(photographs.py), with held-out recordings and spoken sentences, words on screen, black stretches and silent tracks.
Nothing of it was trained on: that no recording is, by content, among the training ones is checked.
The same packages, version and seed give the same scripts and questions.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import typer

from epcli.errors import EpError, UsageError
from epcli.files import whole
from epcli.lab.footage import Camera, Caption, Cue, Footage, Shot, write_footage
from epcli.lab.photographs import TABLE, Photo, matches, photographs
from epcli.lab.questions import SceneQuestion, as_row
from epcli.lab.real_questions import ask
from epcli.lab.scenes import Library, Thing, check_apart
from epcli.lab.sources import audio, fetch
from epcli.lab.sources.catalog import table
from epcli.lab.sources.fetch import run
from epcli.records import SAMPLE_RATE

T = TypeVar("T")

NAME, VERSION, SEED = "ep-real", 1, 2611
SCENES, QUESTIONS = 70, 4
MANIFEST = "benchmark.json"
SHORT = (5.0, 10.0)  # seconds
LONG = ((12.0, 20.0), (20.0, 35.0), (35.0, 60.0))  # in turn
LONG_ONES = (2, 5, 8)  # of each ten scenes
BLACK_ONES = {6: "sound", 13: "silence", 20: "title"}  # of each 24 scenes: black, with this and nothing else
SIZES = ((640, 360), (640, 360), (640, 360), (640, 480), (480, 360), (360, 640))
SHORTEST_SHOT_S, SHORTEST_SOUND_S = 2.5, 1.2
# Shares of a photograph's width and height that must stay if it is cut to the frame; else it gets black bars.
KEPT_WIDTH, KEPT_HEIGHT = 0.9, 0.72
STYLES = ("outline", "band", "board")
COLOURS = ((255, 255, 255), (255, 255, 255), (250, 220, 60), (20, 20, 20), (150, 20, 30))
# Voices that speak no training sentence.
VOICES: Mapping[str, Sequence[str]] = {
    "espeak-rp": ("espeak-ng", "-v", "en-gb-x-rp", "-s", "140", "--stdout"),
    "espeak-gbcwmd": ("espeak-ng", "-v", "en-gb-x-gbcwmd", "-s", "145", "--stdout"),
    "flite-kal": ("flite", "-voice", "kal", "-o", "/dev/stdout", "-t"),
}


@dataclass(frozen=True)
class Sighting:
    """A photograph, or black, on screen."""

    photo: Photo | None
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Sounding:
    """Something heard: a thing and what it may be called, or spoken words and those of which one is to be repeated."""

    name: str
    accept: str
    file: Path
    start_s: float
    end_s: float
    words: str = ""  # "" if it is no speech
    name_with_article: str = ""
    instrument: bool = False


@dataclass(frozen=True)
class Title:
    """Words on screen, and what a true reading holds."""

    text: str
    accept: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class RealScene:
    """A film and its truth. `sounds` None: no sound stream."""

    footage: Footage
    sightings: tuple[Sighting, ...]
    sounds: tuple[Sounding, ...] | None
    titles: tuple[Title, ...]

    @property
    def photos(self) -> list[Photo]:
        """Every photograph once."""
        return list({s.photo.path: s.photo for s in self.sightings if s.photo is not None}.values())


class Deck(Generic[T]):
    """Deals its items in a drawn order; when they are all dealt, in another one."""

    def __init__(self, items: Sequence[T], seed: int) -> None:
        self.items, self._rng = list(items), random.Random(seed)
        self._left: list[T] = []

    def deal(self) -> T:
        """The next item."""
        if not self._left:
            self._left = self._rng.sample(self.items, len(self.items))
        return self._left.pop()


@dataclass(frozen=True)
class Supply:
    """What scenes are made of, each dealt out before it comes again."""

    lib: Library
    photos: Deck[Photo]
    sounds: Deck[tuple[Thing, str]]  # and what it may be called
    speech: Deck[tuple[str, str, Path]]  # words, those of which one is to be repeated, recording
    titles: Deck[tuple[str, str]]  # words, what a true reading holds
    fonts: tuple[Path, ...]

    def sound(self, rng: random.Random, others: Sequence[Sounding]) -> Sounding:
        """One that could not be taken for the others, to be placed yet."""
        for _ in range(200):
            thing, accept = self.sounds.deal()
            names = _names(self.lib, thing, accept)
            if not any(matches(o.accept, a) for o in others for a in names.split("|")):
                file = rng.choice(thing.sounds)
                return Sounding(thing.name, names, file, 0, 0, "", thing.a, thing.group == "instrument")
        raise UsageError(f"{self.lib.folder}: too few held-out sounds")


def gather(library: Path, packages: Path, spoken: Path, seed: int) -> Supply:
    """Everything, with the packages fetched and the sentences spoken into the folder `spoken`.

    Raises UsageError for a folder that is no library, EpError if a package or a program is missing.
    """
    try:
        lib = Library(library, "heldout")
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{library}: is no folder of `python -m epcli.lab.sources` ({error})") from None
    words = table("footage")
    fonts = [line.split(" ", 1) for line in words["fonts"]]
    wanted = {key for key, _ in fonts} | {line.split("\t")[0] for line in TABLE.read_text("utf-8").splitlines()[1:]}
    folders = fetch.fetch(packages, [p for p in (*fetch.PACKAGES, *fetch.FOOTAGE_PACKAGES) if p.key in wanted])
    photos = photographs(folders)
    known = {thing.name: thing for thing in lib.heard}
    sounds = [(known[name], accept) for name, accept in words["sounds"].items() if name in known]
    if not sounds:
        raise UsageError(f"{library}: has no held-out sounds")
    prompts = [(s["text"], _long_words(s["text"]), library / s["file"]) for s in lib.speech]
    made = [tuple(line.split(": ", 1)) for line in words["sentences"]]
    voices = itertools.cycle(VOICES)
    return Supply(
        lib,
        Deck([*photos, *(p for p in photos if p.group == "person")], seed),  # people twice: they are few
        Deck(sounds, seed),
        Deck(
            [
                *(prompt for prompt in prompts if len(prompt[0].split()) >= 4),
                *((text, accept, _speak(text, next(voices), spoken)) for accept, text in made),
            ],
            seed,
        ),
        Deck([(text, accept) for accept, text in (line.split(": ", 1) for line in words["titles"])], seed),
        tuple(next(folders[key].resolve().rglob(Path(end).name)) for key, end in fonts),
    )


def _names(lib: Library, thing: Thing, accept: str) -> str:
    more = lib.ambiguous.get(thing.name, set()) if thing.group == "instrument" else set()
    return "|".join([accept, *sorted(more)])


def _long_words(text: str) -> str:
    """The words of which a true answer holds one."""
    common = {"the", "and", "there", "this", "that", "your", "have", "will", "when", "they", "been", "press", "number"}
    words = [w for w in text.split() if len(w) >= 4 and w not in common]
    return "|".join(words or text.split())


def _speak(text: str, voice: str, folder: Path) -> Path:
    """The sentence as a sound file, made once."""
    path = folder / f"{voice}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.wav"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial:
            partial.write_bytes(run([*VOICES[voice], text]))
    return path


# --- Scripts --------------------------------------------------------------------------------------


def scenes(supply: Supply, count: int, seed: int) -> Iterator[RealScene]:
    """`count` scenes; the scene of a number is the same whatever the count."""
    for number in range(count):
        rng = random.Random(f"{NAME} {seed} {number}")
        black = BLACK_ONES.get(number % 24)
        longer = number % 10 in LONG_ONES and black is None
        yield scene(supply, rng, LONG[number // 3 % 3] if longer else SHORT, black, longer=longer)


def scene(
    supply: Supply, rng: random.Random, length: tuple[float, float], black: str | None, *, longer: bool
) -> RealScene:
    """One scene of a length in seconds. `black`: nothing is seen but, it may be, a title; "sound" lets it sound."""
    duration = round(rng.uniform(*length), 1)
    size = rng.choice(SIZES)
    if black:
        sightings: tuple[Sighting, ...] = (Sighting(None, 0, duration),)
    else:
        most = max(1, int(duration / SHORTEST_SHOT_S))
        number = min(most, rng.randint(3, 7) if longer else rng.choice((1, 1, 1, 1, 2, 2, 3)))
        sightings = _sightings(supply, rng, _parts(rng, duration, number), dark=longer and rng.random() < 0.3)
    shown = [s.photo for s in sightings if s.photo is not None]
    if black in ("silence", "title"):
        sounds: tuple[Sounding, ...] | None = None if rng.random() < 0.3 else ()
    else:
        sounds = _soundings(supply, rng, duration, longer=longer, needed=black == "sound")
    titles, captions = _written(supply, rng, duration, shown, longer=longer, black=black)
    shots = tuple(_shot(rng, s, size) for s in sightings)
    cues = None if sounds is None else tuple(_cue(rng, s) for s in sounds)
    return RealScene(Footage(duration, size, shots, captions, cues), sightings, sounds, titles)


def _parts(rng: random.Random, duration: float, number: int) -> list[float]:
    """The ends of `number` stretches, in tenths of a second, none too short."""
    spare = duration - number * SHORTEST_SHOT_S
    cuts = sorted(rng.uniform(0, spare) for _ in range(number - 1))
    return [*(round(c + (i + 1) * SHORTEST_SHOT_S, 1) for i, c in enumerate(cuts)), duration]


def _sightings(supply: Supply, rng: random.Random, ends: Sequence[float], *, dark: bool) -> tuple[Sighting, ...]:
    """A photograph for each stretch, none that could be called like another; one of them black if `dark`."""
    black = rng.randrange(len(ends)) if dark and len(ends) > 2 else None
    found: list[Sighting] = []
    start = 0.0
    for i, end in enumerate(ends):
        photo = None if i == black else _unlike(supply, [s.photo for s in found if s.photo is not None])
        found.append(Sighting(photo, start, end))
        start = end
    return tuple(found)


def _unlike(supply: Supply, others: Sequence[Photo]) -> Photo:
    for _ in range(200):
        photo = supply.photos.deal()
        words = photo.accept.replace("?", "").split("|")
        if not any(matches(o.possible, w) for o in others for w in words) and not any(
            matches(photo.possible, w) for o in others for w in o.accept.replace("?", "").split("|")
        ):
            return photo
    raise UsageError("photographs.tsv: too few photographs that differ")


def _shot(rng: random.Random, sighting: Sighting, size: tuple[int, int]) -> Shot:
    photo = sighting.photo
    if photo is None:
        return Shot(sighting.start_s, sighting.end_s, None)
    counted = photo.people or photo.count or photo.text
    bars = bool(counted) or _needs_bars(photo, size)
    near = Camera(zoom=1.06) if counted else Camera(rng.uniform(0.46, 0.54), rng.uniform(0.44, 0.56), 1.18)
    moves = [(Camera(), Camera()), (Camera(), near), (near, Camera())]
    if not counted and not bars:
        moves += [
            (Camera(0.35, 0.5, 1.15), Camera(0.65, 0.5, 1.15)),
            (Camera(0.65, 0.5, 1.15), Camera(0.35, 0.5, 1.15)),
        ]
    return Shot(sighting.start_s, sighting.end_s, photo.path, rng.choice(moves), photo.turn, bars)


def _needs_bars(photo: Photo, size: tuple[int, int]) -> bool:
    """Whether too much of the photograph is lost when it fills the frame."""
    wide, frame = photo.size[0] / photo.size[1], size[0] / size[1]
    return frame / wide < KEPT_WIDTH or wide / frame < KEPT_HEIGHT


def _soundings(
    supply: Supply,
    rng: random.Random,
    duration: float,
    *,
    longer: bool,
    needed: bool,
) -> tuple[Sounding, ...] | None:
    """What is heard and when; () for a silent track, None for none."""
    drawn = rng.random()
    if not needed and drawn < 0.22:
        return None if drawn < 0.1 else ()
    number = rng.choice((2, 3, 3, 4)) if longer else rng.choice((1, 1, 1, 1, 2))
    number = min(number, int(duration / 3))
    ends = _parts(rng, duration, number)
    spans = list(zip([0.0, *ends[:-1]], ends, strict=True))
    speaks = rng.randrange(number) if rng.random() < (0.6 if longer else 0.35) else None
    found: list[Sounding] = []
    for i, (start, end) in enumerate(spans):
        if i == speaks:
            words, accept, file = supply.speech.deal()
            length = audio.read(file).size / SAMPLE_RATE
            if length <= end - start:
                begin = round(start + rng.uniform(0, end - start - length), 1)
                found.append(Sounding("a voice", accept, file, begin, min(begin + length, duration), words))
                continue
        sound = supply.sound(rng, found)
        begin = round(start + rng.uniform(0, max(0.0, (end - start) / 2 - SHORTEST_SOUND_S / 2)), 1)
        stop = round(min(end, begin + rng.uniform(2.0, 8.0)), 1)
        found.append(replace(sound, start_s=begin, end_s=stop))
    return tuple(found)


def _cue(rng: random.Random, sound: Sounding) -> Cue:
    return Cue(sound.start_s, sound.end_s, sound.file, gain=round(rng.uniform(0.6, 1.2), 2), again=not sound.words)


def _written(
    supply: Supply, rng: random.Random, duration: float, shown: Sequence[Photo], *, longer: bool, black: str | None
) -> tuple[tuple[Title, ...], tuple[Caption, ...]]:
    """Titles, none beside a photograph with words of its own."""
    if black in ("sound", "silence") or any(p.text for p in shown):
        return (), ()
    number = 1 if black == "title" else (rng.choice((0, 1, 1, 2)) if longer else rng.choice((0, 0, 1, 1)))
    titles, captions = [], []
    for i in range(number):
        text, accept = supply.titles.deal()
        low, high = duration * i / number, duration * (i + 1) / number
        start = 0.0 if rng.random() < 0.3 and i == 0 else round(rng.uniform(low, max(low, high - 3.0)), 1)
        end = round(min(high, start + rng.uniform(2.5, 6.0)), 1)
        titles.append(Title(text, accept, start, end))
        captions.append(
            Caption(
                start,
                end,
                text,
                rng.choice(supply.fonts),
                "middle" if black else rng.choice(("top", "bottom", "bottom")),  # beside what is seen
                rng.choice(STYLES),
                rng.choice(COLOURS),
                rng.choice((0.08, 0.1, 0.13)),
            )
        )
    return tuple(titles), tuple(captions)


# --- The set --------------------------------------------------------------------------------------


def choose(asked: Sequence[SceneQuestion], count: int, so_far: Counter[str], rng: random.Random) -> list[SceneQuestion]:
    """`count` questions of different types, of those asked least so far; yes and no are different types here."""
    kinds: dict[str, list[SceneQuestion]] = {}
    for question in asked:
        kinds.setdefault(_kind(question), []).append(question)
    first = sorted(kinds, key=lambda kind: (so_far[kind], rng.random()))
    picked: list[str] = []
    for kind in first:  # not yes and no of one scene
        if len(picked) < count and kind.split(":")[0] not in {p.split(":")[0] for p in picked}:
            picked.append(kind)
    so_far.update(picked)
    return [rng.choice(kinds[kind]) for kind in picked]


def _kind(question: SceneQuestion) -> str:
    """The type, and for "is" whether the answer is yes."""
    return f"is:{question.answer.split(',')[0]}" if question.type == "is" else question.type


def make(library: Path, packages: Path, out: Path, count: int = SCENES, seed: int = SEED) -> dict[str, Any]:
    """Write OUT/media, OUT/questions.jsonl and OUT/benchmark.json; returns the last.

    Raises UsageError, MediaError, or EpError if a package cannot be fetched.
    """
    supply = gather(library, packages, out / "spoken", seed)
    found = list(scenes(supply, count, seed))
    used = {s.file for one in found for s in one.sounds or () if library in s.file.parents}
    sources = check_apart(supply.lib, used)
    (out / "media").mkdir(parents=True, exist_ok=True)
    rng, so_far = random.Random(seed), Counter[str]()
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(found):
        name = f"media/r{number:03d}.mp4"
        rows += [as_row(name, q) for q in choose(ask(one, rng), QUESTIONS, so_far, rng)]
        if not (out / name).exists():  # whole or not at all, so a run that was stopped goes on
            write_footage(one.footage, out / name)
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {count} scenes", end="", file=sys.stderr, flush=True)
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    ours = (count, seed) == (SCENES, SEED)
    manifest = {
        "name": NAME if ours else "scenes",
        "version": VERSION if ours else 0,
        "seed": seed,
        "scenes": count,
        "seconds": round(sum(s.footage.duration_s for s in found), 1),
        "questions": len(rows),
        "needs": dict(sorted(Counter(r["needs"] for r in rows).items())),
        "types": dict(sorted(Counter(r["type"] for r in rows).items())),
        "photographs": len({p.path for one in found for p in one.photos}),
        "sources": sources,
        "questions_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    for path, content in ((out / "questions.jsonl", text), (out / MANIFEST, json.dumps(manifest, indent=2) + "\n")):
        with whole(path) as partial:
            partial.write_text(content, encoding="utf-8")
    return manifest


def main(
    library: Annotated[Path, typer.Argument(help="Folder written by `python -m epcli.lab.sources`.")],
    out: Annotated[Path, typer.Argument(help="Where to write media and questions.jsonl.")],
    packages: Annotated[
        Path | None, typer.Option(help="Folder of fetched packages (default: packages beside the library).")
    ] = None,
    count: Annotated[
        int, typer.Option(help="Scenes; another number is another set, without the name.", min=1)
    ] = SCENES,
    seed: int = SEED,
) -> None:
    """Write ep-real, or a set made in its way."""
    try:
        made = make(library, packages or library.resolve().parent / "packages", out, count, seed)
    except EpError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    typer.echo(
        f"{made['name']} v{made['version']}: {made['questions']} questions about {made['scenes']} scenes in {out}"
    )


if __name__ == "__main__":
    typer.run(main)
