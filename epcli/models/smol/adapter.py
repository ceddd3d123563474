"""The trained part of ep-smol between what its parts report and the language model: reports become tokens.

A token is what a report is called, in the language model's own embeddings, plus where and when it is:

- **Sights** (objects, scenes, text read, cuts, black, unsure): one token for each word piece of the name.
- **Sounds**, one token each 120 ms: p(name) times the embeddings of the names that the sound head knows and of
  AudioSet's classes, or the word piece that is spoken in it, or SILENT.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from epcli.errors import WeightsError
from epcli.models.smol.ear import YAMNET_WIDTH
from epcli.models.smol.family import AUDIO_STEP_S
from epcli.models.smol.same_names import same_names
from epcli.observe import yamnet
from epcli.records import SeenFeatures, Sight

PLACE_WIDTH = 32
SECONDS = 120  # of a clip that have a word of their own; later ones have only their position
TENS = (
    "zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred", "eleven",
)  # fmt: skip
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "many",
)  # fmt: skip
KINDS = ("object", "scene", "text", "cut", "black", "unsure")  # of sights
CALLED = {"cut": "cut", "black": "black", "unsure": "unsure"}  # what a sight without a name is called
SAME_SIGHTS = 3  # of one name in a frame; how many there are is told by each
TEXT_PIECES = 12  # word pieces read in a frame
NAMING_BATCH = 1024  # tokens named together
SAME_GAIN, SAME_FROM = 0.7, -4.0  # what AudioSet's classes add to a name's logit: gain, from which log p on
SMOOTHED, LASTS, MOSTLY, SURE = 5, 8, 6, 0.35  # tokens a name is averaged over; of 8, 6 bear it; probability
SILENCE = 4  # tokens, after which what is heard has just begun
SPEECH_GAP = 8  # tokens without a word, after which the next one begins to speak
QUIET = 0.4  # level of a token up to which it is silent: -60 dBFS


class HeardNames(NamedTuple):
    """What the ear reports of A sound tokens: all that the language model reads of them."""

    names: Tensor  # (A, K) float32 logits of the sound head's names
    classes: Tensor  # (A, C) float32 logits of AudioSet's classes
    quiet: Tensor  # (A,) bool, too quiet to be heard
    words: Tensor  # (A,) int64 word piece spoken in the token, -1 for none


class SightPieces(NamedTuple):
    """The word pieces of a clip's sights, one token each. n of them."""

    piece: Tensor  # (n,) int64
    kind: Tensor  # (n,) int64, index into KINDS
    many: Tensor  # (n,) int64, index into NUMBERS
    score: Tensor  # (n,) float32
    frame: Tensor  # (n,) int64
    boxes: Tensor  # (n, 4) float32 left, top, right, bottom as shares of the picture
    labels: tuple[str, ...]  # what each is part of, for people


def _sinusoids(x: Tensor, periods: tuple[float, ...]) -> Tensor:
    """(…,) -> (…, 2 * periods): sine and cosine of x at each period."""
    angle = x[..., None] * (2 * torch.pi / torch.tensor(periods, device=x.device))
    return torch.cat([angle.sin(), angle.cos()], -1)


def place_features(time_s: Tensor, duration_s: float, y: Tensor | None = None, x: Tensor | None = None) -> Tensor:
    """(…,) times and relative picture coordinates in [0, 1] -> (…, PLACE_WIDTH) smooth features of when and where."""
    share = time_s / max(duration_s, 1e-6)
    when = torch.cat([_sinusoids(time_s, (2.0, 4.0, 8.0, 16.0, 64.0)), _sinusoids(share, (1.0, 2.0, 4.0))], -1)
    if y is None or x is None:
        return F.pad(when, (0, PLACE_WIDTH - when.shape[-1]))
    return torch.cat([when, _sinusoids(y, (0.5, 1.0, 2.0, 4.0)), _sinusoids(x, (0.5, 1.0, 2.0, 4.0))], -1)


def logit_noise(logits: Tensor) -> Tensor:
    """(…, K) Gaussian noise for logits: independent noise for each, plus noise that is the same everywhere.

    On what a head was not fitted on it is often wrong in the same way all along, not token by token.
    """
    return torch.randn_like(logits) + torch.randn(logits.shape[-1], dtype=logits.dtype, device=logits.device)


def relative_weights(p: Tensor) -> Tensor:
    """(…, K) independent probabilities of names -> weights that sum to 1, or to less where no name is likely."""
    return p / (p.sum(-1, keepdim=True) + 0.1)


class SoundHead(nn.Module):
    """(…, AUDIO_WIDTH) tokens -> (…, K + 1) logits of the names; the last one is "none of them".

    A small network on YAMNet's last and earlier layers. It names .60 of held-out stretches of 0.96 s right among 190
    names, where the last layer alone gives .47.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, names: int, hidden: int = 512) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(YAMNET_WIDTH))
        self.register_buffer("scale", torch.ones(YAMNET_WIDTH))
        self.layers = nn.Sequential(
            nn.Linear(YAMNET_WIDTH, hidden), nn.GELU(), nn.Dropout(0.5), nn.Linear(hidden, names + 1)
        )

    def compress(self, features: Tensor) -> Tensor:
        """(…, YAMNET_WIDTH) -> the same with its range compressed: these are means of rectified units."""
        return features.clamp(min=0).log1p()

    def fit_normalisation(self, features: Tensor) -> None:
        """Set mean and scale to those of (N, YAMNET_WIDTH) features."""
        compressed = self.compress(features)
        self.mean.copy_(compressed.mean(0))
        self.scale.copy_(compressed.std(0) + 1e-3)

    def normalise(self, features: Tensor) -> Tensor:
        """(…, YAMNET_WIDTH) -> (…, YAMNET_WIDTH): compressed, then standardised with the fitted mean and scale."""
        return (self.compress(features) - self.mean) / self.scale

    def forward(self, x: Tensor) -> Tensor:
        parts = max(1, x[..., 0].numel() // NAMING_BATCH)  # normalised at once, a long clip would fill memory
        return torch.cat([self.layers(self.normalise(part[..., :YAMNET_WIDTH])) for part in x.chunk(parts)])


class SoundNames(nn.Module):
    """Sound tokens: names, classes and a place. K names of the head, C of AudioSet's classes, D decoder width."""

    prior_weight: Tensor
    prior_bias: Tensor
    same: Tensor

    def __init__(self, names: int, classes: int, width: int) -> None:
        super().__init__()
        self.head = SoundHead(names)
        self.names = nn.Parameter(torch.zeros(names, width))
        self.gain = nn.Parameter(torch.ones(()))
        # Not in the adapter's file: AudioSet's classifier, from its part.
        self.register_buffer("prior_weight", torch.zeros(classes, yamnet.WIDTH), persistent=False)
        self.register_buffer("prior_bias", torch.zeros(classes), persistent=False)
        # (2, P) classes and the names that they are
        self.register_buffer("same", torch.zeros(2, 0, dtype=torch.int64), persistent=False)
        self.prior_names = nn.Parameter(torch.zeros(classes, width))
        self.prior_gain = nn.Parameter(torch.full((), 0.4))
        self.place = nn.Linear(PLACE_WIDTH, width)
        self.silent = nn.Parameter(torch.zeros(width))

    def load_classifier(self, names: Sequence[str]) -> None:
        """Read AudioSet's classifier from its part. Raises WeightsError if it cannot be had."""
        weight, bias = yamnet.load_classifier()
        self.prior_weight.copy_(weight)
        self.prior_bias.copy_(bias)
        self.same = same_names(yamnet.load_class_names(), names)

    def heard(self, tokens: Tensor, words: Tensor | None) -> HeardNames:
        """(A, AUDIO_WIDTH) -> what is read of them."""
        classes = F.linear(tokens[..., : yamnet.WIDTH], self.prior_weight, self.prior_bias)
        names = self.head(tokens)[..., :-1] + self._same_logits(classes)
        words = torch.full((len(tokens),), -1, dtype=torch.int64) if words is None else words
        return HeardNames(names, classes, tokens[..., -1] <= QUIET, words)

    def _same_logits(self, classes: Tensor) -> Tensor:
        """(A, C) logits -> (A, K) what AudioSet's classes add to the logits of the names that they are.

        The head learned from thousands of recordings, the classifier from millions, but not of every name: what it
        does not think of counts neither for nor against a name.
        """
        known = classes.sigmoid()
        of, names = self.same
        p = known.new_zeros(*known.shape[:-1], len(self.names)).index_add_(-1, names, known[..., of])
        return SAME_GAIN * (p.clamp(min=1e-6).log() - SAME_FROM).clamp(min=0)

    def forward(self, heard: HeardNames, place: Tensor, noise: float = 0.0) -> Tensor:
        """(A, …) reports and (A, PLACE_WIDTH) -> (A, D). `noise`: on the names' logits, in training only."""
        logits = heard.names + noise * logit_noise(heard.names) if noise else heard.names
        called = self.gain * (relative_weights(logits.sigmoid()) @ self.names)
        called = called + self.prior_gain * (relative_weights(heard.classes.sigmoid()) @ self.prior_names)
        return torch.where(heard.quiet[:, None], self.silent, called) + self.place(place)


class SightNames(nn.Module):
    """Picture tokens: a word piece, and what kind of report it is part of, how sure it is, how many and where."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(len(KINDS)))
        self.kinds = nn.Parameter(torch.zeros(len(KINDS), width))
        self.counts = nn.Parameter(torch.zeros(len(NUMBERS), width))
        self.sure = nn.Parameter(torch.zeros(width))
        self.place = nn.Linear(PLACE_WIDTH, width)

    def forward(self, pieces: SightPieces, table: Tensor, place: Tensor) -> Tensor:
        """n pieces, the decoder's (V, D) embeddings and (n, PLACE_WIDTH) -> (n, D)."""
        called = F.embedding(pieces.piece, table).float() * self.gain[pieces.kind][:, None]
        counted = F.embedding(pieces.many, self.counts) * (pieces.kind == 0)[:, None]
        sure = (pieces.score - 0.5)[:, None] * self.sure
        return called + self.kinds[pieces.kind] + counted + sure + self.place(place)


class Adapter(nn.Module):
    """Everything of ep-smol that was trained, but for the decoder's LoRA and the sieve."""

    def __init__(self, heard: list[str], width: int) -> None:
        """`heard`: the names that the sound head knows."""
        super().__init__()
        self.heard = heard
        self.sights = SightNames(width)
        self.sounds = SoundNames(len(heard), 521, width)
        self.seconds = nn.Parameter(torch.zeros(SECONDS, width))
        self.word_gain = nn.Parameter(torch.ones(()))
        self.began = nn.Parameter(torch.zeros(width))  # of a digit that tells when a sound begins
        self.markers = nn.Parameter(torch.zeros(4, width))  # video begin, audio begin, audio end, video end

    def initialise(self, embeddings: Tensor, tokenizer: Any) -> None:
        """Start each name, number, place and second at the embeddings of its words."""
        table = embeddings.detach().float()
        mean, scale = table.mean(0), table.norm(dim=1).mean()

        def vectors(names: Sequence[str]) -> Tensor:
            """The first piece counts most: an answer begins with it, and the language model knows how to copy it."""
            rows = []
            for name in names:
                pieces = tokenizer(name if name.isdigit() else " " + name, add_special_tokens=False).input_ids
                first, rest = table[pieces[0]], table[pieces[1:]]
                vector = first - 0.8 * mean
                if len(pieces) > 1:
                    vector = vector + 0.4 * (rest.mean(0) - 0.8 * mean)
                rows.append(vector / vector.norm() * scale)
            return torch.stack(rows)

        def contrast(words: Sequence[str]) -> Tensor:
            """What tells the words of one kind apart: left and right, or two digits, have almost the same embedding."""
            apart = vectors(words)
            apart = apart - apart.mean(0)
            return apart / apart.norm(dim=1, keepdim=True) * scale

        self.sounds.load_classifier(self.heard)
        with torch.no_grad():
            # A second is its last digit, and a word for its tens: two digits of one kind could not be told apart.
            digits, tens = contrast([str(n) for n in range(10)]), contrast(TENS)
            number = torch.arange(SECONDS)
            self.seconds.copy_(0.5 * (digits[number % 10] + tens[number // 10] * (number >= 10)[:, None]))
            self.sights.counts.copy_(0.5 * contrast(NUMBERS))
            self._initialise_places(contrast)
            self.sounds.names.copy_(vectors(self.heard))
            self.sounds.prior_names.copy_(vectors([c.lower() for c in yamnet.load_class_names()]))
            self.sounds.silent.copy_(vectors(["silence"])[0])
            for row, text in enumerate(("video", "sound", "sound", "video")):
                self.markers[row] = table[tokenizer(" " + text, add_special_tokens=False).input_ids[0]]

    def _initialise_places(self, contrast: Callable[[Sequence[str]], Tensor]) -> None:
        """Start `place` as the linear map of place features that comes nearest to the words for where and when."""
        share = (torch.arange(24) + 0.5) / 24
        time, y, x = (axis.flatten() for axis in torch.meshgrid(share, share[::3], share[::3], indexing="ij"))
        first, last = contrast(["first", "last"])
        left, right, top, bottom, middle = contrast(["left", "right", "top", "bottom", "middle"])
        when = 0.3 * ((time < 0.3)[:, None] * first + (time > 0.7)[:, None] * last)
        edge = ((x - 0.5).abs() > 0.15) | ((y - 0.5).abs() > 0.2)
        where = (x < 0.38)[:, None] * left + (x > 0.62)[:, None] * right
        where = where + (y < 0.33)[:, None] * top + (y > 0.67)[:, None] * bottom + (~edge)[:, None] * middle
        for place, words, coordinates in (
            (self.sights.place, when + 0.8 * where, (y, x)),
            (self.sounds.place, when, ()),
        ):
            # clips of several lengths, so that the absolute time explains nothing
            basis = torch.cat(
                [place_features(time * length, length, *coordinates) for length in (5.0, 9.0, 17.0, 40.0)]
            )
            basis = F.pad(basis, (0, 1), value=1.0)
            damped = basis.T @ basis + 1.0 * torch.eye(basis.shape[1])
            solved = torch.linalg.solve(damped, basis.T @ words.repeat(4, 1))
            place.weight.copy_(solved[:-1].T)
            place.bias.copy_(solved[-1])

    def freeze_heads(self) -> None:
        """Keep the sound head as it was fitted: taught on with the language model, it learns recordings by heart."""
        self.sounds.head.requires_grad_(False)

    def time_embeddings(self, times_s: Tensor) -> Tensor:
        """(…,) seconds -> (…, D): the words for the second; nothing from SECONDS on."""
        second = times_s.long()
        return F.embedding(second.clamp(0, SECONDS - 1), self.seconds) * (second < SECONDS)[..., None]

    def embed_sights(self, pieces: SightPieces, times_s: Tensor, duration_s: float, table: Tensor) -> Tensor:
        """n pieces and (N,) times of the frames -> (n, D)."""
        when = times_s.float()[pieces.frame]
        left, top, right, bottom = pieces.boxes.unbind(-1)
        place = place_features(when, duration_s, (top + bottom) / 2, (left + right) / 2)
        return self.sights(pieces, table, place) + self.time_embeddings(when)

    def embed_sounds(
        self, heard: HeardNames, begins: Tensor, duration_s: float, table: Tensor, noise: float = 0.0
    ) -> Tensor:
        """A reports and what `beginnings` gives -> (A, D), word pieces laid over the sounds where they are spoken."""
        times = audio_times(len(heard.quiet))
        spoken = (heard.words >= 0)[:, None]
        said = F.embedding(heard.words.clamp(min=0), table).float() * spoken
        out = self.sounds(heard, place_features(times, duration_s), noise) + self.time_embeddings(times)
        told = (begins >= 0)[:, None]
        digits = (F.embedding(begins.clamp(min=0), table).float() + self.began) * told
        return out * torch.where(spoken | told, 0.25, 1.0) + self.word_gain * (said + digits)


def audio_times(tokens: int) -> Tensor:
    """(A,) seconds at the middle of each sound token."""
    return (torch.arange(tokens) + 0.5) * AUDIO_STEP_S


def beginnings(heard: HeardNames, tokenizer: Any) -> Tensor:
    """(A,) int64: the digits of the second at which a sound begins, in its first tokens without a word; else -1.

    A sound begins after silence, or where another name becomes the likeliest and lasts, or where someone speaks.
    """
    p = heard.names.sigmoid() * ~heard.quiet[:, None]
    smooth = F.avg_pool1d(p.T[None], SMOOTHED, 1, SMOOTHED // 2, count_include_pad=False)[0].T if len(p) else p
    sure, name = smooth.max(-1)
    names = torch.where(heard.quiet | (sure < SURE), -1, name).tolist()
    words = (heard.words >= 0).tolist()
    marks = torch.full((len(names),), -1, dtype=torch.int64)
    quiet = heard.quiet.tolist()
    last, spoken, marked, still = -1, -SPEECH_GAP, -LASTS, SILENCE
    for at, called in enumerate(names):
        ahead = names[at : at + LASTS]
        begins = words[at] and at - spoken >= SPEECH_GAP
        if words[at]:
            spoken = at
        elif called >= 0 and called != last and ahead.count(called) >= min(MOSTLY, len(ahead)):
            begins, last = at - marked >= LASTS, called
        if not quiet[at] and still >= SILENCE:
            begins, last = True, called if called >= 0 else last
        still = still + 1 if quiet[at] else 0
        if begins:
            marked = at
            free = [k for k in range(max(0, at - 1), len(names)) if not words[k]]
            digits = tokenizer(str(round(at * AUDIO_STEP_S)), add_special_tokens=False).input_ids
            for k, digit in zip(free, digits, strict=False):
                marks[k] = digit
    return marks


def sight_pieces(seen: SeenFeatures, tokenizer: Any) -> SightPieces:
    """The sights of a clip as word pieces, frame by frame."""
    rows: list[tuple[int, int, int, float, int, tuple[float, float, float, float]]] = []
    labels: list[str] = []
    for frame, sights in enumerate(seen.frames):
        read = 0
        for sight in _chosen(sights):
            called = " " + (CALLED.get(sight.kind) or sight.text)
            pieces = tokenizer(called, add_special_tokens=False).input_ids
            if sight.kind == "cut":
                second = str(int(seen.times_s[frame]))
                pieces = [*pieces, *tokenizer(second, add_special_tokens=False).input_ids]
            if sight.kind == "text":
                pieces = pieces[: TEXT_PIECES - read]
                read += len(pieces)
            count = min(sight.count, len(NUMBERS) - 1)
            facts = KINDS.index(sight.kind), count, sight.score, frame, sight.box or (0.0, 0.0, 1.0, 1.0)
            rows += [(piece, *facts) for piece in pieces]
            labels += [label_of(sight)] * len(pieces)
    piece, kind, count_, score, frame_, boxes = zip(*rows, strict=True) if rows else ((),) * 6
    return SightPieces(
        torch.tensor(piece, dtype=torch.int64),
        torch.tensor(kind, dtype=torch.int64),
        torch.tensor(count_, dtype=torch.int64),
        torch.tensor(score, dtype=torch.float32),
        torch.tensor(frame_, dtype=torch.int64),
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        tuple(labels),
    )


def _chosen(sights: Sequence[Sight]) -> list[Sight]:
    """Of many alike only the first SAME_SIGHTS."""
    chosen: list[Sight] = []
    for sight in sights:
        if sight.kind != "object" or sum(s.text == sight.text for s in chosen) < SAME_SIGHTS:
            chosen.append(sight)
    return chosen


def label_of(sight: Sight) -> str:
    """What a sight is called in a list of what was observed."""
    return f"text '{sight.text}'" if sight.kind == "text" else sight.text or sight.kind


def load_adapter(path: Path) -> tuple[Adapter, dict[str, Tensor], dict[str, Any]]:
    """Adapter, LoRA tensors (`layers.N.….q_proj.{A,B}`) and metadata. Raises WeightsError if the file is not one."""
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {})["epcli"])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        adapter = Adapter(meta["heard"], meta["width"])
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise WeightsError(
            f"{path.name}: not an ep-smol adapter ({error}); reinstall epcli or name another with --model"
        ) from None
    others = ("lora.", "refiner.", "scorer.")
    try:
        adapter.load_state_dict({k: v.float() for k, v in state.items() if not k.startswith(others)})
    except RuntimeError:
        raise WeightsError(f"{path.name}: an adapter of another version of epcli; train it again") from None
    adapter.sounds.load_classifier(adapter.heard)
    lora = {k.removeprefix("lora."): v for k, v in state.items() if k.startswith("lora.")}
    return adapter.eval().requires_grad_(False), lora, meta
