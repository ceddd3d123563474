"""How many words `ep transcript` gets right, and how exact their times are, on sound with known words and times.

    python -m epcli.lab.word_times LIBRARY [--speech tiny.en] [--out WORDS.jsonl]

LIBRARY is made by `epcli.lab.sources`: its recorded words are joined with gaps, in an order drawn by a seed. Texts are
spoken by the voices of flite, which tells when it speaks each phone. Prints the table of docs/transcript.md. --out
writes a line for each word that was said.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from epcli.lab.sources import audio
from epcli.lab.sources.fetch import run
from epcli.observe.listen import Ears, listen
from epcli.observe.speech import TINY, load_speech
from epcli.records import SAMPLE_RATE, Observation

VOICES = ("slt", "rms", "awb", "kal")
TEXTS = (
    "The old harbour lies quiet in the morning. Two fishing boats come back with nets full of herring, and a dog runs "
    "along the wall to meet them. Nobody talks much before breakfast.",
    "Today we look at the second law of thermodynamics. Heat flows from a warm body to a cold one, never the other way "
    "round, unless somebody does work. Think of a cup of coffee on your desk.",
    "Our train leaves the station at half past seven. Please keep your tickets ready, and do not leave any luggage "
    "behind. The next stop is the airport, where you can change for the city centre.",
    "When you plant tomatoes, dig a deep hole and water it well. Put the stem in up to the first leaves. After a week "
    "you may add some compost, but do not press the soil too hard.",
)
# No numbers, which Whisper writes as figures
RECORDED = "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august "
RECORDED += "september october november december hello goodbye messages password minutes number family friends urgent "
RECORDED += "extension location"
ORDERS, SEED = 16, 1
LEAD_S, GAP_S = 0.7, (0.1, 0.5)  # before the first recorded word, and between them
NOISE = 5e-4  # RMS of full scale, under all of it: no microphone gives zeros
AUDIBLE = 0.03  # of a recorded word's loudest hundredth of a second (-30 dB): what is less is not the word


def flite(voice: str, text: str, option: str, wav: str | Path) -> list[str]:
    """What flite prints while it speaks a text into a file: a word for each phone."""
    said = run(["flite", "-voice", voice, option, "-o", str(wav), "-t", text]).decode().split()
    return said if option == "-psdur" else [phone for phone in said if phone != "pau"]


def spoken(voice: str, text: str, wav: Path) -> list[Observation]:
    """Let flite speak a text into a file -> its words. Each has as many phones as when it is spoken alone."""
    phones, times, at = 0, [], 0.0
    for name, end_s in (each.split(":") for each in flite(voice, text, "-psdur", wav)):
        if name != "pau":
            times.append((at, float(end_s)))
        at = float(end_s)
    said = []
    for word in text.split():
        first = phones
        phones += len(flite(voice, f"{word} .", "-ps", "none"))  # without the full stop, "a" is a letter
        said.append(Observation("word", word, times[first][0], times[phones - 1][1], 1.0, "flite"))
    if phones != len(times):
        raise ValueError(f"flite {voice} speaks other phones in the text than in its words: {text}")
    return said


def recorded(library: Path, rng: np.random.Generator, wav: Path) -> list[Observation]:
    """Join a human speaker's words in any order, with gaps, in a file."""
    lines = [line for part in ("train", "heldout") for line in (library / f"speech/{part}.jsonl").open()]
    files = {row["text"]: row["file"] for row in map(json.loads, lines) if row["file"].startswith("speech/asterisk")}
    said, sound = [], np.zeros(round(LEAD_S * SAMPLE_RATE))
    for word in rng.permutation(RECORDED.split()):
        samples = audio.read(library / files[word])
        level = np.sqrt(np.convolve(np.square(samples), np.full(SAMPLE_RATE // 100, 100 / SAMPLE_RATE), "same"))
        loud = np.flatnonzero(level > AUDIBLE * level.max())
        start, sound = len(sound), np.concatenate([sound, samples[loud[0] : loud[-1] + 1]])
        said.append(Observation("word", str(word), start / SAMPLE_RATE, len(sound) / SAMPLE_RATE, 1.0, "human"))
        sound = np.pad(sound, (0, round(rng.uniform(*GAP_S) * SAMPLE_RATE)))
    soundfile.write(wav, sound + rng.normal(0, NOISE, len(sound)), SAMPLE_RATE)
    return said


def recordings(library: Path, folder: Path) -> Iterator[tuple[str, Path, list[Observation]]]:
    """All sounds, written into a folder: their kind, file and words."""
    rng = np.random.default_rng(SEED)
    for voice in VOICES:
        for number, text in enumerate(TEXTS):
            yield "flite", (wav := folder / f"{voice}-{number}.wav"), spoken(voice, text, wav)
    for number in range(ORDERS):
        yield "human words", (wav := folder / f"human-{number}.wav"), recorded(library, rng, wav)


def paired(
    said: Sequence[Observation], heard: Sequence[Observation]
) -> Iterator[tuple[Observation, Observation | None]]:
    """Each word that was said, and how it was heard; None where another word was heard, or none."""
    a, b = ([re.sub(r"\W", "", word.text).lower() for word in words] for words in (said, heard))
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    found = {i + k: heard[j + k] for i, j, count in blocks for k in range(count)}
    return ((word, found.get(i)) for i, word in enumerate(said))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--speech", default=TINY, help="as of ep transcript")
    parser.add_argument("--out", type=Path, help="a line for each word: when it was said, and when it was heard")
    given = parser.parse_args()
    ears, lines = Ears.load(load_speech(given.speech)), []
    pairs: dict[str, list[tuple[Observation, Observation | None]]] = {"flite": [], "human words": []}
    with tempfile.TemporaryDirectory() as folder:
        for kind, wav, said in recordings(given.library, Path(folder)):
            heard = [each for each in listen(wav, ears) if each.kind == "word"]
            for one, other in paired(said, heard):
                pairs[kind].append((one, other))
                times = {"said": [one.start_s, one.end_s], "heard": other and [other.start_s, other.end_s]}
                lines.append(json.dumps({"file": wav.stem, "text": one.text, **times}))
    for kind, each_word in pairs.items():
        errors = [(one.start_s - other.start_s, one.end_s - other.end_s) for one, other in each_word if other]
        cells = [f"`{given.speech}`, {kind}", f"{len(errors)} of {len(each_word)}"]
        cells += [f"{value:.2f} s" for value in np.quantile(np.abs(errors), (0.5, 0.9), axis=0).T.flat]
        print(f"| {' | '.join(cells)} |")
    if given.out:
        given.out.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
