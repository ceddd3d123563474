"""ep-smol, the built-in model: SmolLM2-135M joined to three small frozen towers by a trained adapter.

    frames ─▶ EfficientNet-Lite0 ─▶ 2 x 2 cells a token ─┐
                                                         ├─ Adapter ─▶ 2-second chunks ─▶ SmolLM2 + LoRA
    sound ──▶ YAMNet + Whisper encoder, 120 ms a token ──┘
              └▶ Whisper decoder: spoken word pieces, laid onto the token in which they are spoken

A projected token starts as "what it is called": p(name | feature) times the language model's own embeddings of the
names the adapter was trained on, and for picture tokens p(colour | feature) times those of the colours, plus the words
for where and when it is, plus a free two-layer correction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from epcli.errors import WeightsError
from epcli.models import chatml, layout
from epcli.models.attention import fit_to_card
from epcli.models.sieve_weights import small_sieve
from epcli.models.smol.adapter_file import TUNED
from epcli.models.smol.family import AUDIO_STEP_S, CARD, CONTEXT_TOKENS
from epcli.models.smol.same_names import same_names
from epcli.models.smol.smollm import load_smollm
from epcli.observe import efficientnet_lite, yamnet
from epcli.observe.efficientnet_lite import EfficientNetLite0, load_efficientnet_lite0
from epcli.observe.loudness import normalise_loudness
from epcli.observe.whisper import Window, frames_of, load_whisper
from epcli.observe.yamnet import load_yamnet
from epcli.records import (
    POSITION_STEP_S,
    SAMPLE_RATE,
    AudioFeatures,
    Clip,
    Features,
    TokenStream,
    Turn,
    VideoFeatures,
)
from epcli.sieve.sieve import Sieve
from epcli.sieve.sync_rope import install

SYSTEM = "You watch and listen to a clip and answer questions about it."
SECTIONS = (9, 9, 9, 5)  # Sync-RoPE [T, H, W, T] at 32 rotary frequencies: the paper's 18, 18, 18, 10 halved
WHISPER_FRAMES = 6  # of 20 ms, a token
CELL, LITE0_WIDTH = 32, 1280  # the tower's cells: pixels a side, features
SAME_FRAME = 2.0  # two frames are one if nowhere, over 32 x 32 pixels, they differ by more on the mean, of 255
PICTURE_WIDTH = LITE0_WIDTH + 3  # and a cell's mean red, green and blue in [0, 1]: what a picture token is made of
VIDEO_WIDTH = PICTURE_WIDTH + efficientnet_lite.EARLY_WIDTH  # and the tower's earlier layers, which only name
SOUND_WIDTH = yamnet.WIDTH + 384 + 1  # YAMNet, Whisper and loudness: what a sound token is made of
AUDIO_WIDTH = SOUND_WIDTH + yamnet.EARLY_WIDTH  # and YAMNet's earlier layers, which only name
PLACE_WIDTH = 32
COLOURS = (
    "red", "green", "blue", "yellow", "white", "black", "orange", "purple", "pink", "gray", "brown",
)  # fmt: skip
TENS = (
    "zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred", "eleven",
)  # fmt: skip
SECONDS = 120  # of a clip that have a word of their own; later ones have only their position
TUNED_BLOCKS = 11  # the vision tower's blocks from here on, and its head, are trained too
NAMING_BATCH = 1024  # tokens or cells named together
SAME_GAIN, SAME_FROM = 0.7, -4.0  # what the towers' own classes add to a name's logit: gain, from which log p on
LORA_TARGETS = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")


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

    On what a head was not fitted on it is often wrong in the same way all over a thing, not cell by cell.
    """
    return torch.randn_like(logits) + torch.randn(logits.shape[-1], dtype=logits.dtype, device=logits.device)


def relative_weights(p: Tensor) -> Tensor:
    """(…, K) independent probabilities of names -> weights that sum to 1, or to less where no name is likely."""
    return p / (p.sum(-1, keepdim=True) + 0.1)


class Head(nn.Module):
    """(…, F) features of a tower -> (…, K + 1) logits of the names; the last one is "none of them"."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, layers: nn.Sequential) -> None:
        """`layers` read `width` normalised features."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.layers = layers

    def tower_features(self, x: Tensor) -> Tensor:
        """(…, F) -> (…, width): the features of the tower within a token or cell."""
        raise NotImplementedError

    def compress(self, features: Tensor) -> Tensor:
        """(…, width) -> (…, width): the features with their range compressed."""
        return features

    def fit_normalisation(self, features: Tensor) -> None:
        """Set mean and scale to those of (N, width) features."""
        compressed = self.compress(features)
        self.mean.copy_(compressed.mean(0))
        self.scale.copy_(compressed.std(0) + 1e-3)

    def normalise(self, features: Tensor) -> Tensor:
        """(…, width) -> (…, width): compressed, then standardised with the fitted mean and scale."""
        return (self.compress(features) - self.mean) / self.scale

    def forward(self, x: Tensor) -> Tensor:
        parts = max(1, x[..., 0].numel() // NAMING_BATCH)  # normalised at once, a long clip would fill memory
        return torch.cat([self.layers(self.normalise(self.tower_features(part))) for part in x.chunk(parts)])


class SoundHead(Head):
    """Of (…, AUDIO_WIDTH) tokens, by a small network on YAMNet's last and earlier layers.

    It names .60 of held-out stretches of 0.96 s right among 190 names, where the last layer alone gives .47.
    """

    def __init__(self, names: int, hidden: int = 512) -> None:
        width = yamnet.WIDTH + yamnet.EARLY_WIDTH
        layers = nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.5), nn.Linear(hidden, names + 1)
        super().__init__(width, nn.Sequential(*layers))

    def tower_features(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., : yamnet.WIDTH], x[..., SOUND_WIDTH:]], -1)

    def compress(self, features: Tensor) -> Tensor:
        return features.clamp(min=0).log1p()  # they are means of rectified units


class PictureHead(Head):
    """Of (…, VIDEO_WIDTH) cells, linear in EfficientNet-Lite0's last and earlier layers."""

    def __init__(self, names: int) -> None:
        width = LITE0_WIDTH + efficientnet_lite.EARLY_WIDTH
        super().__init__(width, nn.Sequential(nn.Dropout(0.3), nn.Linear(width, names + 1)))
        self.names = names

    def tower_features(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :LITE0_WIDTH], x[..., PICTURE_WIDTH:]], -1)


class Projector(nn.Module):
    """Tower features to decoder embeddings: names, a free correction, and a place.

    F tower features, K trained names, C classes of the tower's own classifier, D decoder width. `one_of` says whether
    exactly one name (or nothing) holds for a feature (softmax, picture cells) or any number (sigmoid, sounds).
    """

    prior_weight: Tensor
    prior_bias: Tensor
    same: Tensor

    def __init__(
        self,
        features: int,
        names: int,
        classes: int,
        class_features: int,
        width: int,
        hidden: int = 640,
        *,
        one_of: bool,
    ) -> None:
        super().__init__()
        self.one_of, self.features, self.class_features = one_of, features, class_features
        self.norm = nn.LayerNorm(features)
        # the last logit is "nothing"
        self.head: Head = PictureHead(names) if one_of else SoundHead(names)
        self.names = nn.Parameter(torch.zeros(names, width))
        self.gain = nn.Parameter(torch.ones(()))
        # Not in the adapter's file: the towers' own classifiers, from their parts.
        self.register_buffer("prior_weight", torch.zeros(classes, class_features), persistent=False)
        self.register_buffer("prior_bias", torch.zeros(classes), persistent=False)
        # (2, P) classes and the names that they are
        self.register_buffer("same", torch.zeros(2, 0, dtype=torch.int64), persistent=False)
        self.prior_names = nn.Parameter(torch.zeros(classes, width))
        self.prior_gain = nn.Parameter(torch.full((), 0.4))
        self.correct = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.place = nn.Linear(PLACE_WIDTH, width)
        for parameter in (*self.correct[2].parameters(), *self.place.parameters()):
            nn.init.zeros_(parameter)

    def probabilities(self, features: Tensor, noise: float = 0.0) -> Tensor:
        """(…, F) -> (…, K) how much each name holds; they need not sum to 1."""
        logits = self.head(features) + F.pad(self.prior_logits(features), (0, 1))
        if noise:  # training only: the names must not be trusted blindly
            logits = logits + noise * logit_noise(logits)
        if self.one_of:
            return logits.softmax(-1)[..., :-1]
        return relative_weights(logits[..., :-1].sigmoid())

    def prior_logits(self, features: Tensor) -> Tensor:
        """(…, F) -> (…, K) what the tower's own classifier adds to the logits of the names that it knows.

        The head learned from thousands of sounds and drawings, the classifier from millions of recordings and
        photographs, but not of every name: what it does not think of counts neither for nor against a name.
        """
        (classes, names), known = self.same, self.class_probabilities(features)
        p = known.new_zeros(*known.shape[:-1], len(self.names)).index_add_(-1, names, known[..., classes])
        return SAME_GAIN * (p.clamp(min=1e-6).log() - SAME_FROM).clamp(min=0)

    def class_probabilities(self, features: Tensor) -> Tensor:
        """(…, F) -> (…, C) probabilities of the tower's own classes."""
        logits = F.linear(features[..., : self.class_features], self.prior_weight, self.prior_bias)
        return logits.softmax(-1) if self.one_of else logits.sigmoid()

    def prior(self, features: Tensor) -> Tensor:
        """(…, F) -> (…, C) weights of the classes of the tower's own classifier (ImageNet, AudioSet)."""
        p = self.class_probabilities(features)
        return p if self.one_of else relative_weights(p)

    def forward(self, probabilities: Tensor, features: Tensor | None, place: Tensor) -> Tensor:
        """(…, K), (…, F) or None, (…, PLACE_WIDTH) -> (…, D)."""
        out = self.gain * (probabilities @ self.names) + self.place(place)
        if features is not None:
            out = (
                out
                + self.correct(self.norm(features[..., : self.features]))
                + self.prior_gain * (self.prior(features) @ self.prior_names)
            )
        return out


class ColourHead(nn.Module):
    """(…, VIDEO_WIDTH) cells -> (…, C + 1) logits of COLOURS, the last "no colour with a name".

    From the cell's mean colour, and from the tower's features for things of several colours. The features alone tell
    .69 of held-out backgrounds.
    """

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Linear(3, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, len(COLOURS) + 1)
        )
        self.features = nn.Sequential(
            nn.LayerNorm(LITE0_WIDTH), nn.Dropout(0.5), nn.Linear(LITE0_WIDTH, len(COLOURS) + 1)
        )

    def forward(self, grid: Tensor) -> Tensor:
        return self.mean(grid[..., LITE0_WIDTH:PICTURE_WIDTH] * 4 - 2) + self.features(grid[..., :LITE0_WIDTH])


class Adapter(nn.Module):
    """Everything of ep-smol that was trained, but for the decoder's LoRA."""

    def __init__(self, seen: list[str], heard: list[str], width: int) -> None:
        super().__init__()
        self.seen, self.heard = seen, heard
        self.video = Projector(LITE0_WIDTH, len(seen), 1000, LITE0_WIDTH, width, one_of=True)
        self.audio = Projector(SOUND_WIDTH, len(heard), 521, 1024, width, one_of=False)
        self.tint = ColourHead()
        self.tint_names = nn.Parameter(torch.zeros(len(COLOURS), width))
        self.seconds = nn.Parameter(torch.zeros(SECONDS, width))
        self.word_gain = nn.Parameter(torch.ones(()))
        self.markers = nn.Parameter(torch.zeros(4, width))  # video begin, audio begin, audio end, video end

    def load_classifiers(self) -> None:
        """Read the towers' own classifiers from their parts. Raises WeightsError if they cannot be had."""
        for projector, tower, names, source in (
            (self.video, efficientnet_lite, self.seen, "imagenet"),
            (self.audio, yamnet, self.heard, "audioset"),
        ):
            weight, bias = tower.load_classifier()
            projector.prior_weight.copy_(weight)
            projector.prior_bias.copy_(bias)
            projector.same = same_names(tower.load_class_names(), names, source)

    def initialise(self, towers: Towers, embeddings: Tensor, tokenizer: Any) -> None:
        """Start each name at its word pieces' embeddings, less most of the vocabulary's mean.

        The first piece counts most: it is what an answer begins with, and copying it is something that the language
        model knows how to do. With plain means, names of one piece were read and others not ("a tubstick" for a
        joystick beside a tuba).
        """
        table = embeddings.detach().float()
        mean, scale = table.mean(0), table.norm(dim=1).mean()

        def vectors(names: Sequence[str]) -> Tensor:
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

        self.load_classifiers()
        with torch.no_grad():
            self.tint_names.copy_(0.7 * contrast(COLOURS))
            # A second is its last digit, and a word for its tens: two digits of one kind could not be told apart.
            digits, tens = contrast([str(n) for n in range(10)]), contrast(TENS)
            number = torch.arange(SECONDS)
            self.seconds.copy_(0.5 * (digits[number % 10] + tens[number // 10] * (number >= 10)[:, None]))
            self._initialise_places(contrast)
            for projector, names, classes in (
                (self.video, self.seen, efficientnet_lite.load_class_names()),
                (self.audio, self.heard, towers.yamnet.class_names),
            ):
                projector.names.copy_(vectors(names))
                projector.prior_names.copy_(vectors([c.lower() for c in classes]))
            for row, text in enumerate(("video", "sound", "sound", "video")):
                self.markers[row] = table[tokenizer(" " + text, add_special_tokens=False).input_ids[0]]

    def freeze_heads(self) -> None:
        """Keep what names and colours a feature holds, learned apart: taught on, the heads learn pictures by heart."""
        for head in (self.video.head, self.audio.head, self.tint):
            head.requires_grad_(False)

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
        for projector, words, coordinates in (
            (self.video, when + 0.8 * where, (y, x)),
            (self.audio, when, ()),
        ):
            # clips of several lengths, so that the absolute time explains nothing
            basis = torch.cat(
                [place_features(time * length, length, *coordinates) for length in (5.0, 9.0, 17.0, 40.0)]
            )
            basis = F.pad(basis, (0, 1), value=1.0)
            damped = basis.T @ basis + 1.0 * torch.eye(basis.shape[1])
            solved = torch.linalg.solve(damped, basis.T @ words.repeat(4, 1))
            projector.place.weight.copy_(solved[:-1].T)
            projector.place.bias.copy_(solved[-1])

    def colour_probabilities(self, grid: Tensor, noise: float = 0.0) -> Tensor:
        """(…, VIDEO_WIDTH) cells -> (…, C) probabilities of COLOURS."""
        logits = self.tint(grid)
        if noise:
            logits = logits + noise * torch.randn_like(logits)
        return logits.softmax(-1)[..., :-1]

    def time_embeddings(self, times_s: Tensor) -> Tensor:
        """(…,) seconds -> (…, D): the words for the second; nothing from SECONDS on."""
        second = times_s.long()
        return F.embedding(second.clamp(0, SECONDS - 1), self.seconds) * (second < SECONDS)[..., None]

    def embed_video(self, video: VideoFeatures, duration_s: float, noise: float = 0.0) -> Tensor:
        """(N, 2r, 2c, VIDEO_WIDTH) cells -> (N, r, c, D): four cells a token, probabilities and features averaged."""
        cells = video.grid.float()
        p = pool_cells(self.video.probabilities(cells, noise))
        colours = pool_cells(self.colour_probabilities(cells, noise))
        pooled = pool_cells(cells[..., :LITE0_WIDTH])
        n, rows, cols = pooled.shape[:3]
        out = self.video(p, pooled, video_places(video.times_s, duration_s, n, rows, cols))
        return out + colours @ self.tint_names + self.time_embeddings(video.times_s)[:, None, None]

    def embed_audio(self, audio: AudioFeatures, duration_s: float, embeddings: Tensor, noise: float = 0.0) -> Tensor:
        """(A, F) -> (A, D), spoken word pieces added where they are spoken."""
        tokens = audio.tokens.float()
        out = self.audio(self.audio.probabilities(tokens, noise), tokens, audio_places(len(tokens), duration_s))
        out = out + self.time_embeddings(audio_times(len(tokens)))
        if audio.words is not None:
            spoken = audio.words >= 0
            words = F.embedding(audio.words.clamp(min=0), embeddings).float() * spoken[:, None]
            out = out * torch.where(spoken, 0.25, 1.0)[:, None] + self.word_gain * words
        return out


def pool_cells(grid: Tensor) -> Tensor:
    """(N, 2r, 2c, C) -> (N, r, c, C) means of 2 x 2."""
    n, rows, cols, c = grid.shape
    return grid.view(n, rows // 2, 2, cols // 2, 2, c).mean((2, 4))


def video_places(times_s: Tensor, duration_s: float, n: int, rows: int, cols: int) -> Tensor:
    """(N,) -> (N, r, c, PLACE_WIDTH)."""
    t = times_s.float()[:, None, None].expand(n, rows, cols)
    y = ((torch.arange(rows) + 0.5) / rows)[None, :, None].expand(n, rows, cols)
    x = ((torch.arange(cols) + 0.5) / cols)[None, None, :].expand(n, rows, cols)
    return place_features(t, duration_s, y, x)


def audio_times(tokens: int) -> Tensor:
    """(A,) seconds at the middle of each sound token."""
    return (torch.arange(tokens) + 0.5) * AUDIO_STEP_S


def audio_places(tokens: int, duration_s: float) -> Tensor:
    """(A, PLACE_WIDTH)."""
    return place_features(audio_times(tokens), duration_s)


def load_adapter(path: Path) -> tuple[Adapter, dict[str, Tensor], dict[str, Any]]:
    """Adapter, LoRA tensors (`layers.N.….q_proj.{A,B}`) and metadata. Raises WeightsError if the file is not one."""
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads(file.metadata()["epcli"])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise WeightsError(
            f"{path.name}: not an ep-smol adapter ({error}); reinstall epcli or name another with --model"
        ) from None
    adapter = Adapter(meta["seen"], meta["heard"], meta["width"])
    others = ("lora.", "refiner.", "scorer.")
    try:
        adapter.load_state_dict({k: v.float() for k, v in state.items() if not k.startswith(others)})
    except RuntimeError:
        raise WeightsError(f"{path.name}: an adapter of another version of epcli; train it again") from None
    adapter.load_classifiers()
    lora = {k.removeprefix("lora."): v for k, v in state.items() if k.startswith("lora.")}
    return adapter.eval().requires_grad_(False), lora, meta


def merge_lora(decoder: nn.Module, lora: dict[str, Tensor], scale: float, dtype: torch.dtype) -> None:
    """W += scale * B A, in float32, for every adapted weight of the decoder, which has `dtype` afterwards."""
    with torch.no_grad():
        for key in lora:
            if key.endswith(".A"):
                weight = decoder.get_parameter(f"{key[:-2]}.weight")
                change = lora[key[:-1] + "B"].float() @ lora[key].float() * scale
                weight.data = weight.float().add(change).to(dtype)


def tune_vision(tower: EfficientNetLite0, path: Path) -> None:
    """Put the trained late blocks and head in place. Raises WeightsError if the file does not fit."""
    late = nn.ModuleDict({"blocks": tower.blocks[TUNED_BLOCKS:], "head": tower.head})
    try:
        late.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{path.name}: not the tuned part of the vision tower ({error}); reinstall epcli") from None


class Towers:
    """The three frozen towers, on the CPU. Each picture or sound goes through exactly once.

    In float32, but for the one that sees if `sees_in` is another: bfloat16 halves its time where a CPU has it.
    """

    def __init__(
        self,
        tokenizer: Any,
        tuned: Path | None = TUNED,
        *,
        vision: bool = True,
        sound: bool = True,
        sees_in: torch.dtype = torch.float32,
    ) -> None:
        self.tokenizer = tokenizer
        if vision:
            self.lite0 = load_efficientnet_lite0(sees_in)
            if tuned is not None:
                tune_vision(self.lite0, tuned)
        if sound:
            self.yamnet = load_yamnet()
            self.whisper = load_whisper()
            self.speech_class = self.yamnet.class_names.index("Speech")

    @torch.inference_mode()
    def video(self, clip: Clip) -> VideoFeatures | None:
        """(N, H, W, 3) frames -> (N, H/32, W/32, VIDEO_WIDTH).

        A frame that looks like the one encoded last (a slide, a still shot) is not encoded again.
        """
        if clip.frames is None or clip.frame_times_s is None:
            return None
        grids: list[Tensor] = []
        encoded: Tensor | None = None
        for frame in clip.frames:
            pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
            if encoded is None or F.avg_pool2d((pixels - encoded).abs(), CELL).max() > SAME_FRAME:
                grids.append(self.encode_frames(pixels))
                encoded = pixels
            else:
                grids.append(grids[-1])
        times = torch.from_numpy(np.asarray(clip.frame_times_s, np.float64))
        step = clip.duration_s / max(len(times), 1)
        return VideoFeatures(torch.cat(grids), times, step)

    @torch.inference_mode()
    def encode_frames(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 255] -> (N, H/32, W/32, VIDEO_WIDTH) float16."""
        seen = self.lite0(pixels)
        colours = F.avg_pool2d(pixels, CELL).permute(0, 2, 3, 1) / 255
        return torch.cat([seen[..., :LITE0_WIDTH], colours, seen[..., LITE0_WIDTH:]], -1).half()

    @torch.inference_mode()
    def audio(self, clip: Clip, *, words: bool = True) -> AudioFeatures | None:
        """(S,) samples -> (A, AUDIO_WIDTH): YAMNet, Whisper, loudness, YAMNet's earlier layers; one each 120 ms."""
        if clip.samples is None or len(clip.samples) < 400:
            return None
        samples = torch.from_numpy(normalise_loudness(clip.samples))
        count = max(1, int(np.ceil(len(samples) / (AUDIO_STEP_S * SAMPLE_RATE) - 1e-6)))
        embeddings, scores = self.yamnet(samples[None])
        sound = _resample(embeddings[0], self.yamnet.hop_s, 0.48, count)
        windows = self.whisper.listen(samples)
        speech = _pool_frames(frames_of(windows), count)
        hop = round(AUDIO_STEP_S * SAMPLE_RATE)
        power = F.pad(torch.from_numpy(clip.samples), (0, count * hop - len(samples))).view(count, hop).square().mean(1)
        loud = (power.sqrt() + 1e-5).log10() / 2.5 + 1  # 1 at full scale, -1 at silence
        tokens = torch.cat([sound[:, : yamnet.WIDTH], speech, loud[:, None], sound[:, yamnet.WIDTH :]], -1)
        pieces = torch.full((count,), -1, dtype=torch.int64)
        if words and scores[0].sigmoid()[:, self.speech_class].max() > 0.15:
            self._align_words(windows, pieces)
        return AudioFeatures(tokens.half(), AUDIO_STEP_S, pieces)

    def _align_words(self, windows: Sequence[Window], pieces: Tensor) -> None:
        """Write the word pieces that are spoken into the tokens in which they are spoken, later if one is taken."""
        free = 0
        for word, start_s, end_s, _ in self.whisper.words(windows):
            ids = self.tokenizer(" " + word.strip(), add_special_tokens=False).input_ids
            for i, piece in enumerate(ids):
                at = int((start_s + (end_s - start_s) * i / len(ids)) / AUDIO_STEP_S)
                slot = max(free, at)
                if slot >= len(pieces):
                    return
                pieces[slot] = piece
                free = slot + 1


def _resample(patches: Tensor, hop_s: float, centre_s: float, count: int) -> Tensor:
    """(P, F) patches centred at centre_s + p * hop_s -> (count, F), linear between neighbours."""
    at = (((torch.arange(count) + 0.5) * AUDIO_STEP_S - centre_s) / hop_s).clamp(0, len(patches) - 1)
    low = at.floor().long()
    high = (low + 1).clamp(max=len(patches) - 1)
    share = (at - low)[:, None]
    return patches[low] * (1 - share) + patches[high] * share


def _pool_frames(frames: Tensor, count: int) -> Tensor:
    """(T, F) frames of 20 ms -> (count, F) means over WHISPER_FRAMES."""
    short = count * WHISPER_FRAMES - len(frames)
    if short > 0:
        frames = torch.cat([frames, frames[-1:].expand(short, -1)])
    return frames[: count * WHISPER_FRAMES].view(count, WHISPER_FRAMES, -1).mean(1)


class Language:
    """SmolLM2 with Sync-RoPE: the language model alone, without adapter and towers."""

    def __init__(self, dtype: torch.dtype) -> None:
        """On the CPU. Loads it, and fetches it if needed. Raises WeightsError."""
        self.decoder: Any
        self.decoder, self.head, self.tokenizer = load_smollm(dtype, torch.device("cpu"))
        self.device, self.dtype = torch.device("cpu"), dtype
        install(self.decoder, SECTIONS)
        self.stop_ids = frozenset(self.tokenizer(text).input_ids[0] for text in ("<|im_end|>", "<|endoftext|>"))

    def to(self, device: torch.device, dtype: torch.dtype) -> Language:
        """Moves it; returns itself."""
        self.decoder.to(device, dtype)
        fit_to_card(self.decoder, device)
        self.device, self.dtype = device, dtype
        return self


class EpSmol:
    """The built-in model, behind the protocol `AVModel`."""

    context_tokens = CONTEXT_TOKENS

    def __init__(self, language: Language, adapter: Adapter, sieve: Sieve | None, name: str = CARD.name) -> None:
        """`language`: with the adapter's LoRA, merged or beside it."""
        self.name, self.adapter, self.sieve = name, adapter, sieve
        self.decoder, self.head, self.tokenizer = language.decoder, language.head, language.tokenizer
        self.device, self.dtype, self.stop_ids = language.device, language.dtype, language.stop_ids
        self._towers: Towers | None = None

    @classmethod
    def open(cls, adapter: Path, name: str, device: torch.device, dtype: torch.dtype) -> EpSmol:
        """Load an adapter file and the parts, which are fetched if needed. Raises WeightsError."""
        language = Language(torch.float16)  # as it is stored: each weight is converted once, to what is computed in
        trained, lora, meta = load_adapter(adapter)
        # Before the LoRA: the refiner is stored as a change of the plain decoder's layers.
        sieve = small_sieve(load_file(adapter), meta.get("refiner"), language.decoder, adapter.name, dtype)
        merge_lora(language.decoder, lora, meta["lora_scale"], dtype)
        if sieve is not None:
            sieve.to(device)
        return cls(language.to(device, dtype), trained, sieve, name)

    @property
    def towers(self) -> Towers:
        """Loaded when first needed: a cached clip needs none."""
        if self._towers is None:
            native = self.dtype == torch.bfloat16 and self.device.type == "cpu"
            self._towers = Towers(self.tokenizer, sees_in=torch.bfloat16 if native else torch.float32)
        return self._towers

    def encode_video(self, clip: Clip) -> VideoFeatures | None:
        return self.towers.video(clip)

    def encode_audio(self, clip: Clip) -> AudioFeatures | None:
        return self.towers.audio(clip)

    def stream(
        self, features: Features, question: str, system: str | None, history: Sequence[Turn] = ()
    ) -> TokenStream:
        table = self.decoder.get_input_embeddings().weight
        with torch.inference_mode():
            return build_stream(self.adapter, table, self.tokenizer, features, question, system, self.dtype, history)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden).float()


def embed_ids(table: Tensor, ids: Sequence[int]) -> Tensor:
    """(L, D) float32 rows of the decoder's embedding table."""
    return F.embedding(torch.tensor(list(ids), dtype=torch.int64, device=table.device), table).float()


def media_layout(adapter: Adapter, table: Tensor, features: Features, start: int, noise: float = 0.0) -> layout.Segment:
    """The clip as interleaved tokens, marker tokens around them, positions from `start` on."""
    video = audio = None
    if isinstance(features.video, VideoFeatures):
        embeds = adapter.embed_video(features.video, features.duration_s, noise)
        video = layout.VideoTokens(embeds, features.video.times_s, features.video.step_s)
    if features.audio is not None:
        embeds = adapter.embed_audio(features.audio, features.duration_s, table, noise)
        audio = layout.AudioTokens(embeds, round(AUDIO_STEP_S / POSITION_STEP_S))
    return layout.interleave(video, audio, adapter.markers, start)


def prompt_ids(
    tokenizer: Any, question: str, system: str | None, history: Sequence[Turn] = ()
) -> tuple[list[int], list[int]]:
    """Token ids before and after the media, which stand before the first question."""
    return chatml.prompt_ids(tokenizer, question, system or SYSTEM, history, after_clip="\n")


def build_stream(
    adapter: Adapter,
    table: Tensor,
    tokenizer: Any,
    features: Features,
    question: str,
    system: str | None,
    dtype: torch.dtype,
    history: Sequence[Turn] = (),
) -> TokenStream:
    """Text, media, question: one stream."""
    before, after = prompt_ids(tokenizer, question, system, history)
    media = media_layout(adapter, table, features, len(before))
    head = layout.text(embed_ids(table, before), 0)
    tail = layout.text(embed_ids(table, after), media.next_position)
    return layout.join([head, media, tail], dtype, table.device)
