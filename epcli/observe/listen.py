"""What is said and heard in a sound track of any length, as observations.

The sound is read piece by piece. YAMNet hears it first. Whisper then listens only where somebody speaks, in
windows of at most 30 s that are cut where it is quiet, so that no word is cut in two and none is made up in silence
or music.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch

from epcli.observe import sounds
from epcli.observe.loudness import joined, normalise_loudness, silences
from epcli.observe.pieces import SOUND_PIECE_S, Mark, Progress, pieces
from epcli.observe.sounds import PATCH_HOP_S, Events
from epcli.observe.whisper import Word, load_whisper, speech_windows
from epcli.observe.yamnet import Yamnet, load_yamnet
from epcli.records import SAMPLE_RATE, Observation, Sampling

VOICE = 0.15  # probability of a voice from which on Whisper listens
VOICE_MARGIN_S = 1.0  # listened to before and after a voice
CUT_S = 10.0  # the last so many seconds of a piece, of which the quietest place is where it is cut
PAUSE_S = 2.0  # a voice that stops for longer begins a new window
LONG_WORD_S, LONG_WORD = 0.7, 2.0  # longest first word of a window, in seconds, and times the usual length; the larger
LONGER_S = 0.35  # a word may end so much later than its attention says
QUIET = 0.08  # of a word's loudest hundredth of a second (-22 dB): what is less is no longer the word
SHORTEST_SILENCE_S = 1.0

# What a window's words must satisfy: the geometric mean of their probabilities, and the probability of a voice
SURE = 0.4
FEW_WORDS, SURE_FEW, VOICE_FEW = 3, 0.5, 0.4  # with fewer words than these
SURE_MADE_UP = 0.8  # for what Whisper, trained on subtitles, writes where there is nothing
MADE_UP = frozenset(
    (
        *("you", "thank you", "thanks", "thank you very much", "thanks for watching", "thank you for watching"),
        *("please subscribe", "bye", "bye bye", "subtitles by the amara org community", "the end"),
        *("untertitel der amara org community", "untertitel von stephanie geiges", "vielen dank"),
        *("sous titres réalisés par la communauté d amara org", "sous titrage st 501", "merci"),
        *("sous titrage société radio canada", "subtítulos por la comunidad de amara org", "gracias"),
        *("sottotitoli creati dalla comunità amara org", "ご視聴ありがとうございました", "谢谢观看"),
    )
)
HOP = round(PATCH_HOP_S * SAMPLE_RATE)


class Speech(Protocol):
    """What hears words."""

    def transcribe_words(self, samples: np.ndarray) -> list[Word]:
        """(S,) 16 kHz in [-1, 1], at most 30 s -> the words spoken in it, in order."""


@dataclass(frozen=True, eq=False)
class Ears:
    """The parts that hear."""

    yamnet: Yamnet
    speech: Speech | None  # None: sounds only

    @classmethod
    def load(cls, speech: Speech | None = None, *, words: bool = True) -> Ears:
        """YAMNet and, unless another is given, Whisper tiny.en. Raises WeightsError."""
        return cls(load_yamnet(), speech or (load_whisper() if words else None))


class Listener:
    """Listens to a file's sound piece by piece, in the order of time."""

    def __init__(self, ears: Ears, on_heard: Callable[[float], None] | None = None) -> None:
        """`on_heard` is told up to which second of the file words are known, now and then."""
        self.ears = ears
        self._on_heard = on_heard
        self._events = Events(ears.yamnet.class_names)
        self._rest = np.zeros(0, np.float32)  # what of the last piece is not listened to yet
        self._at = 0  # sample of the file at which it begins
        self._silent: list[tuple[float, float]] = []  # the last silence, which may go on

    def hear(self, samples: np.ndarray, start_s: float, *, last: bool) -> list[Observation]:
        """(S,) float32 samples from `start_s` of the file -> what is heard, by its start.

        They follow the samples before, or begin later (silence in between). Up to CUT_S of them wait for those that
        follow, unless these are the `last`.
        """
        begin = round(start_s * SAMPLE_RATE)
        found: list[Observation] = []
        if len(self._rest) and begin > self._at + len(self._rest):
            found += self._stretch(self._rest)
            self._rest = self._rest[:0]
        if not len(self._rest):
            self._at = begin
        self._rest = np.concatenate([self._rest, samples])
        cut = len(self._rest) if last else _cut(self._rest)
        found += self._stretch(self._rest[:cut])
        self._rest, self._at = self._rest[cut:], self._at + cut
        if last:
            found += self._events.finish() + self._silences(float("inf"))
        return sorted(found, key=lambda each: each.start_s)

    def state(self) -> dict[str, Any]:
        """What is kept from piece to piece, as JSON types."""
        rest = base64.b64encode(self._rest.astype("<f4").tobytes()).decode()
        return {"at": self._at, "rest": rest, "silent": self._silent, "events": self._events.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self._at, self._silent = state["at"], [(start, end) for start, end in state["silent"]]
        self._rest = np.frombuffer(base64.b64decode(state["rest"]), "<f4").astype(np.float32)
        self._events.restore(state["events"])

    def _stretch(self, samples: np.ndarray) -> list[Observation]:
        if not len(samples):
            return []
        start_s = self._at / SAMPLE_RATE
        end_s = start_s + len(samples) / SAMPLE_RATE
        quiet = [(start_s + begin, start_s + end) for begin, end in silences(samples)]
        self._silent += quiet
        loud = normalise_loudness(samples)
        probabilities = self._probabilities(loud)
        found = self._events.add(probabilities, start_s, end_s, quiet) + self._silences(end_s)
        if self.ears.speech is not None:
            voice = sounds.voices(probabilities, self.ears.yamnet.class_names)
            for until, words in _words(self.ears.speech, loud, voice):
                found += [_observed(word, start_s) for word in words]
                if self._on_heard is not None:
                    self._on_heard(start_s + until)
        return found

    @torch.inference_mode()
    def _probabilities(self, samples: np.ndarray) -> np.ndarray:
        """(S,) -> (P, C) of AudioSet's classes in patches every PATCH_HOP_S."""
        _, logits = self.ears.yamnet(torch.from_numpy(samples)[None])
        return logits[0].sigmoid().numpy()

    def _silences(self, now_s: float) -> list[Observation]:
        """The silences that are over at `now_s`."""
        whole = joined(self._silent, 0.01)
        going = [span for span in whole if span[1] >= now_s - 0.01]
        over = [span for span in whole if span not in going and span[1] - span[0] >= SHORTEST_SILENCE_S]
        self._silent = going
        return [Observation("silent", "", start, end, 1.0, "level") for start, end in over]


def listen(
    path: Path,
    ears: Ears,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    audio_track: int | None = None,
    on_progress: Progress | None = None,
    on_warning: Callable[[str], None] | None = None,
    mark: Mark | None = None,
    on_mark: Callable[[Mark], None] | None = None,
) -> Iterator[Observation]:
    """What is said and heard in a file, in the order of its start within each piece; in bounded memory.

    `mark` and `on_mark` are those of `look.observe`.

    Raises MediaError for a file that cannot be read or has no sound, UsageError for an impossible range.
    """
    begin, total = start_s or 0.0, 0.0

    def heard(at_s: float) -> None:
        if on_progress is not None and total:
            on_progress(at_s - begin, total)

    def read_so_far(done_s: float, of_s: float) -> None:
        nonlocal total
        total = of_s
        if on_progress is not None:
            on_progress(done_s, of_s)

    listener = Listener(ears, heard)
    if mark is not None and mark.heard is not None:
        listener.restore(mark.heard)
    read = pieces(path, sampling_sound(audio_track), SOUND_PIECE_S, start_s, end_s, read_so_far, on_warning, mark)
    for clip, last in read:
        samples = np.zeros(0, np.float32) if clip.samples is None else clip.samples
        if len(samples) or last:
            yield from listener.hear(samples, clip.range_s[0], last=last)
        if on_mark is not None and not last and clip.samples is not None:
            on_mark(Mark(clip.range_s[1], listener.state(), None))


def sampling_sound(audio_track: int | None) -> Sampling:
    """The sound alone."""
    return Sampling(fps=1.0, max_frames=1, max_pixels=1024, multiple=1, video=False, audio_track=audio_track)


def _cut(samples: np.ndarray) -> int:
    """(S,) -> where to stop: the quietest place of the last CUT_S on the patches' grid; 0 if there are fewer."""
    first = max(1, (len(samples) - round(CUT_S * SAMPLE_RATE)) // HOP)
    places = range(first * HOP, len(samples) - HOP // 4, HOP)
    return min(places, key=lambda at: float(np.square(samples[at - HOP // 4 : at + HOP // 4]).sum()), default=0)


def _words(speech: Speech, samples: np.ndarray, voice: np.ndarray) -> Iterator[tuple[float, list[Word]]]:
    """The words in (S,) samples, where (P,) probabilities of a voice say that somebody speaks: a window at a time.

    With each window's words comes its end, in seconds.
    """
    for start, end in voiced(voice, len(samples)):
        for first, last in speech_windows(samples[start:end]):
            window = samples[start + first : start + last]
            spoken = fitted(speech.transcribe_words(window), window)
            words = [_later(word, (start + first) / SAMPLE_RATE) for word in spoken]
            yield (start + last) / SAMPLE_RATE, credible(words, voice)


def credible(words: Sequence[Word], voice: np.ndarray) -> list[Word]:
    """The words of a window that were said, as far as can be told: none of them, or those near a voice.

    voice: (P,) probabilities of a voice. Whisper makes up words for grunts, breath and noise, few at a time and with
    little conviction.
    """
    near = [word for word in words if _near(voice, word) >= VOICE]
    if not near:
        return []
    sure = float(np.exp(np.mean([np.log(max(word.probability, 1e-6)) for word in near])))
    heard = max(_near(voice, word) for word in near)
    few = len(near) < FEW_WORDS
    if sure < (SURE_FEW if few else SURE) or (few and heard < VOICE_FEW):
        return []
    said = " ".join(re.sub(r"\W", " ", word.text) for word in near).lower()
    made_up = " ".join(said.split()) in MADE_UP and (sure < SURE_MADE_UP or heard < VOICE_FEW)
    return [] if made_up else near


def fitted(words: Sequence[Word], samples: np.ndarray) -> list[Word]:
    """Words whose times fit the loudness of (S,) samples: no quiet at their ends, and none ends after the next begins.

    A word goes on while it is loud, up to LONGER_S after the end that its attention tells. The attention of the first
    one may lie on noise before it: it is not longer than words are.
    """
    if not words:
        return []
    most_s = max(LONG_WORD_S, LONG_WORD * median(word.end_s - word.start_s for word in words))
    words = [words[0]._replace(start_s=max(words[0].start_s, words[0].end_s - most_s)), *words[1:]]
    frame = SAMPLE_RATE // 100
    level = np.sqrt(np.square(np.pad(samples, (0, -len(samples) % frame)).reshape(-1, frame)).mean(1))
    starts = [word.start_s for word in words[1:]] + [len(samples) / SAMPLE_RATE]
    fit = []
    for word, next_s in zip(words, starts, strict=True):
        first = min(round(word.start_s * 100), len(level) - 1)
        last = max(first + 1, round(min(word.end_s + LONGER_S, max(next_s, word.start_s + 0.1)) * 100))
        loud = np.flatnonzero(level[first:last] >= QUIET * level[first:last].max())
        fit.append(word._replace(start_s=(first + int(loud[0])) / 100, end_s=(first + int(loud[-1]) + 1) / 100))
    return fit


def _later(word: Word, offset_s: float) -> Word:
    return word._replace(start_s=word.start_s + offset_s, end_s=word.end_s + offset_s)


def voiced(voice: np.ndarray, samples: int) -> list[tuple[int, int]]:
    """(P,) probabilities of a voice in `samples` samples -> first and last sample where Whisper is to listen."""
    at = np.flatnonzero(voice >= VOICE) * PATCH_HOP_S
    spans = joined(((max(0.0, t - VOICE_MARGIN_S), t + 2 * PATCH_HOP_S + VOICE_MARGIN_S) for t in at), PAUSE_S)
    return [(round(start * SAMPLE_RATE), min(samples, round(end * SAMPLE_RATE))) for start, end in spans]


def _near(voice: np.ndarray, word: Word) -> float:
    """The highest probability of a voice in the patches that a word is in, and their neighbours."""
    first = max(0, int(word.start_s / PATCH_HOP_S) - 2)
    return float(voice[first : int(word.end_s / PATCH_HOP_S) + 2].max(initial=0.0))


def _observed(word: Word, offset_s: float) -> Observation:
    start_s, end_s = offset_s + word.start_s, offset_s + word.end_s
    return Observation("word", word.text, start_s, end_s, word.probability, "whisper")
