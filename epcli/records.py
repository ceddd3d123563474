"""The records that flow through the pipeline, in order. Every field states its shape, dtype and unit.

    MediaInfo ─▶ Clip ─▶ Features ─▶ TokenStream ─▶ KeptStream ─▶ Answer ─▶ Report

Records are frozen; an array or tensor you were handed is read-only. This module imports nothing of ours, and torch only
for type checkers, so that the command line can use it without loading a model library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from epcli.config import Profile
    from epcli.sieve.drops import Drop

REPORT_SCHEMA = 1
PLAN_SCHEMA = 1
POSITION_STEP_S = 0.04  # one step of the time axis: 40 ms, 25 a second (Qwen2.5-Omni, TMRoPE)
CHUNK_S = 2.0  # video and sound alternate in chunks of this length
SAMPLE_RATE = 16_000
REFINER_DEPTH = 4  # layers: the paper's N; its ablation of 2, 3, 4 gives 92.8, 93.0, 99.0 % of the unpruned accuracy


class Modality(IntEnum):
    """What a token of the stream came from."""

    TEXT = 0  # text and marker tokens: always kept
    VIDEO = 1
    AUDIO = 2


@dataclass(frozen=True)
class AudioTrack:
    """One sound track of a file, as `--audio-track` counts them."""

    index: int  # 0 for the file's first sound track
    codec: str
    channels: int
    sample_rate: int  # Hz
    language: str | None
    title: str | None


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds, without decoding it."""

    path: Path
    container: str  # ffmpeg's name of the format
    duration_s: float  # 0.0 for a still picture
    is_image: bool  # a still picture
    width: int  # as displayed: after rotation and with square pixels; 0 without picture
    height: int
    frame_rate: float | None  # average frames a second; None if unknown or no picture
    video_codec: str | None
    audio_tracks: tuple[AudioTrack, ...]

    @property
    def has_video(self) -> bool:
        return self.video_codec is not None

    @property
    def has_audio(self) -> bool:
        return bool(self.audio_tracks)


@dataclass(frozen=True)
class Sampling:
    """What to decode of a file. The model decides the picture size, the user the rest."""

    fps: float  # sampled frames a second
    max_frames: int  # never more than these; the rate drops for long files
    max_pixels: int  # picture area after scaling; aspect ratio is kept as closely as `multiple` allows
    multiple: int  # width and height are multiples of this
    video: bool = True
    audio: bool = True
    audio_track: int | None = None  # None: the file's default
    video_track: int | None = None  # None: a film before a still, the longest, then the largest
    few_pixels: int = 0  # a still, or few frames together, may have so many though that is over `max_pixels` each


@dataclass(frozen=True, eq=False)
class Clip:
    """Decoded media of one file and time range."""

    info: MediaInfo
    range_s: tuple[float, float]  # start and end in the file, seconds
    frames: np.ndarray | None  # (N, H, W, 3) uint8 RGB
    frame_times_s: np.ndarray | None  # (N,) float64, true presentation times, seconds from range_s[0], ascending
    samples: np.ndarray | None  # (S,) float32 mono in [-1, 1] at SAMPLE_RATE, sample 0 at range_s[0]
    warnings: tuple[str, ...] = ()
    silent: bool = False  # there are samples, but none is loud enough to be heard

    @property
    def duration_s(self) -> float:
        """Length of the range, seconds."""
        return self.range_s[1] - self.range_s[0]

    def summary(self) -> ClipSummary:
        """What stays known when pictures and sound are gone."""
        times = () if self.frame_times_s is None else tuple(float(time) for time in self.frame_times_s)
        return ClipSummary(self.info, self.range_s, times, self.samples is not None, self.warnings, self.silent)


@dataclass(frozen=True)
class ClipSummary:
    """A clip without its pictures and sound: what is said about it, and what the feature cache stores of it."""

    info: MediaInfo
    range_s: tuple[float, float]  # start and end in the file, seconds
    frame_times_s: tuple[float, ...]  # of the frames looked at, seconds from range_s[0]; empty without picture
    heard: bool  # there was sound, and it was listened to
    warnings: tuple[str, ...] = ()
    silent: bool = False  # it was listened to, but nothing in it is loud enough to be heard

    @property
    def duration_s(self) -> float:
        """Length of the range, seconds."""
        return self.range_s[1] - self.range_s[0]


@dataclass(frozen=True, eq=False)
class VideoFeatures:
    """What the vision tower made of the sampled frames."""

    grid: Tensor  # (N, rows, cols, Dv) one vector a cell of each sampled frame (or temporal group of frames)
    times_s: Tensor  # (N,) float64 presentation times, seconds from the start of the range
    step_s: float  # seconds from one grid to the next
    attention: Tensor | None = None  # (N, rows, cols) float32 that each cell receives in its tower; None: not known


@dataclass(frozen=True, eq=False)
class AudioFeatures:
    """What the audio towers made of the sound, one vector a token."""

    tokens: Tensor  # (A, Da), token a begins at a * step_s
    step_s: float  # seconds a token covers
    words: Tensor | None = None  # (A,) int64 word piece spoken in the token, -1 for none; None if the model has none
    attention: Tensor | None = None  # (A,) float32 that each token receives in its tower; None: not known


@dataclass(frozen=True)
class Sight:
    """What one small part reports in one frame."""

    kind: str  # "object", "scene", "text", "cut", "black" or "unsure"
    text: str  # the name, or the words read; why it is unsure, "dark", "blurred" or "blank", if known; else ""
    score: float  # 0 to 1
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom as shares of width and height
    count: int = 1  # how many of this name are in the frame
    track: int = -1  # the same thing in other frames has the same number; -1: not followed


@dataclass(frozen=True)
class Observation:
    """What was said, heard, seen or read in a file, and when."""

    kind: str  # "object", "scene", "text", "sound", "word", "cut", "black", "silent" or "unsure"
    text: str  # the name, or the words read or said; "" for cut, black, silent and unsure
    start_s: float  # seconds of the file
    end_s: float
    confidence: float  # 0 to 1
    source: str  # what reports it: "nanodet", "efficientnet-lite0", "rapidocr", "yamnet", "whisper" or "level"
    box: tuple[float, float, float, float] | None = None  # of the largest, as in Sight
    count: int = 1  # most at a time

    def to_row(self) -> list[Any]:
        """As JSON types."""
        box = None if self.box is None else [float(side) for side in self.box]
        times = (float(self.start_s), float(self.end_s), float(self.confidence))
        return [self.kind, self.text, *times, self.source, box, int(self.count)]

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Observation:
        """What `to_row` made."""
        kind, text, start_s, end_s, confidence, source, box, count = row
        return cls(kind, text, start_s, end_s, confidence, source, None if box is None else tuple(box), count)


@dataclass(frozen=True, eq=False)
class SeenFeatures:
    """What the parts that see reported of the sampled frames, in place of a tower's grids."""

    frames: tuple[tuple[Sight, ...], ...]  # of each sampled frame
    times_s: Tensor  # (N,) float64 presentation times, seconds from the start of the range
    step_s: float  # seconds from one frame to the next


@dataclass(frozen=True, eq=False)
class Features:
    """What the frozen towers made of a clip; the same for every question, so it can be cached."""

    duration_s: float  # of the clip's range
    video: VideoFeatures | SeenFeatures | None
    audio: AudioFeatures | None


@dataclass(frozen=True, eq=False)
class TokenStream:
    """One prompt, embedded, in reading order. L tokens of width D."""

    embeds: Tensor  # (L, D) compute dtype
    positions: Tensor  # (4, L) int64: time, height, width, time; time in 40 ms steps
    modality: Tensor  # (L,) uint8, values of Modality
    spans_s: Tensor  # (L, 2) float32: start and end of the token in the clip, seconds; NaN for text
    cells: Tensor  # (L, 3) int16: frame index, grid row, grid column; -1 where not a video token
    grid: tuple[int, int]  # rows and columns of a frame's token grid; (0, 0) without video
    next_position: int  # position of the first generated token on all axes: largest prompt position + 1
    attention: Tensor | None = None  # (L,) float32 that each media token receives in its tower; None: not known
    boxes: Tensor | None = None  # (L, 4) float32 as in Sight, NaN for text and sound; None: picture tokens are cells
    labels: tuple[str, ...] | None = None  # of each token: "person", "text 'EXIT'", "" for none; None: none has any


@dataclass(frozen=True, eq=False)
class KeptStream:
    """What the selector kept of a stream, in original order. K tokens."""

    stream: TokenStream  # before selection
    embeds: Tensor  # (K, D) decoder input (refined by cs2, else the original)
    positions: Tensor  # (4, K) original positions, not renumbered
    indices: Tensor  # (K,) int64 ascending indices into the stream
    scores: Tensor | None  # (L,) float32, higher is kept first; None if the selector does not score
    drops: tuple[Drop, ...] = ()  # which of these leave inside the decoder, in order of layers
    depths: Tensor | None = None  # (K,) int64 decoder layers that each passed; None before prefill


@dataclass(frozen=True)
class Turn:
    """An earlier question about the same clip, and what was answered."""

    question: str
    answer: str


@dataclass(frozen=True)
class Answer:
    """What the model said."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str  # "stop", "length" or "repetition"
    first_token_s: float  # from the start of prefill
    decode_s: float  # all tokens after the first
    kv_cache_bytes: int  # at the end of decoding


@dataclass(frozen=True, eq=False)
class MediaTokens:
    """The sound and picture tokens of a stream, in reading order, as a person would look for them in the file."""

    modality: np.ndarray  # (n,) uint8, Modality.VIDEO or AUDIO
    spans_s: np.ndarray  # (n, 2) float64 seconds of the file; a picture stands for the time halfway to its neighbours
    cells: np.ndarray  # (n, 3) int16: frame, row, column of the grid; -1 for sound
    boxes: np.ndarray  # (n, 4) int32 left, top, right, bottom in pixels of the displayed picture; -1 for sound
    grid: tuple[int, int]  # rows and columns of a frame's token grid; (0, 0) without picture
    size: tuple[int, int] = (0, 0)  # width and height of the displayed picture, pixels
    observed: bool = False  # picture tokens are observations, any number a frame, and `boxes` are theirs, not cells
    labels: tuple[str, ...] | None = None  # of each token: "person", "text 'EXIT'", "" for none; None: none has any


@dataclass(frozen=True)
class Moment:
    """A stretch of the clip that carried an answer."""

    modality: str  # "video" or "audio"
    start_s: float  # seconds of the file
    end_s: float
    peak_s: float  # middle of the token with the most evidence
    where: str | None  # "lower left"; None for sound, and where the whole picture counts
    box: tuple[int, int, int, int] | None  # left, top, right, bottom in pixels of the displayed picture
    share: float  # of the evidence in the whole clip
    label: str  # "0:12–0:14 sound", "0:31 picture, lower left", "person, left, 0:02–0:07", "dog, 0:04–0:06 sound"
    name: str | None = None  # what was seen, read or heard; None where the tokens have no names


@dataclass(frozen=True)
class MediaUse:
    """The file of a question, and what was looked at of it."""

    path: str
    duration_s: float  # of the whole file; 0.0 for a still picture
    has_video: bool
    has_audio: bool
    frames: int  # looked at
    range_s: tuple[float, float]  # looked at: start and end, seconds of the file


@dataclass(frozen=True)
class TokenCount:
    """Tokens of one modality, before and after the selector."""

    total: int
    kept: int


@dataclass(frozen=True)
class TokenCounts:
    """Tokens by modality."""

    video: TokenCount
    audio: TokenCount
    text: TokenCount  # always kept

    def of(self, modality: str) -> TokenCount:
        """The count of "video", "audio" or "text"."""
        count: TokenCount = {"video": self.video, "audio": self.audio, "text": self.text}[modality]
        return count

    @property
    def media(self) -> TokenCount:
        """Sound and picture together."""
        return TokenCount(self.video.total + self.audio.total, self.video.kept + self.audio.kept)


@dataclass(frozen=True)
class Requested:
    """How much the settings asked to keep. Both None: the default."""

    keep: float | str | None  # share of the sound and picture tokens, or "auto"
    budget: int | None  # tokens


@dataclass(frozen=True)
class MeanKept:
    """Tokens in a layer of the decoder, the mean over its layers: fewer than entered, where some leave inside."""

    video: float
    audio: float


@dataclass(frozen=True)
class TokenUse(TokenCounts):
    """Tokens by modality, and the share that was kept: what entered the decoder, and the mean over its layers."""

    keep_ratio: float | None  # of the sound and picture tokens, that entered the decoder; None without any
    requested: Requested
    mean_keep_ratio: float | None = None  # of the sound and picture tokens, the mean over the layers; None without any
    mean_kept: MeanKept | None = None

    @property
    def leaves_inside(self) -> bool:
        """Whether tokens left inside the decoder, so that the mean over its layers is less than what entered."""
        entered, mean = self.keep_ratio, self.mean_keep_ratio
        return entered is not None and mean is not None and abs(entered - mean) > 1e-9


@dataclass(frozen=True)
class StageSeconds:
    """Seconds that each stage kept the user waiting; 0.0 for a stage that did not run."""

    start: float  # the program and its libraries, of `ep ask`; 0.0 where the program was running already
    load: float
    cache: float
    media: float
    vision: float
    audio: float
    sieve: float
    prefill: float
    decode: float
    evidence: float
    total: float  # the sum of the others


STAGES = tuple(field.name for field in fields(StageSeconds) if field.name != "total")


@dataclass(frozen=True)
class Speed:
    """How soon and how fast the answer came."""

    first_token_s: float  # from the beginning of the first stage, `start` included, to the first token, seconds
    decode_tokens_per_s: float  # of the tokens after the first; 0.0 if there were none


@dataclass(frozen=True)
class MemoryUse:
    """Peak memory, in bytes."""

    peak_rss_bytes: int  # of the process, in host memory
    peak_device_bytes: int | None  # of the tensors on a GPU; None without one
    kv_cache_bytes: int  # at the end of decoding


@dataclass(frozen=True)
class CacheUse:
    """Whether a cache was of use."""

    features: str  # "hit", "miss" or "off"


@dataclass(frozen=True)
class ProfileChoice:
    """The profile that the settings began with, and why it was the one."""

    name: str
    why: str  # who named it, or what the hardware is


@dataclass(frozen=True)
class EvidenceShares:
    """Shares of the evidence; they sum to 1, or are both 0."""

    video: float
    audio: float


@dataclass(frozen=True)
class AnswerEvidence:
    """What carried an answer."""

    rule: str  # how it was found
    shares: EvidenceShares
    moments: tuple[Moment, ...]  # most evidence first


@dataclass(frozen=True)
class ChoiceProbability:
    """One of the answers that a question left to choose from."""

    text: str
    probability: float  # that the model gives this answer, if it gives one of them; all sum to 1


@dataclass(frozen=True)
class Report:
    """An answer, and everything that was measured. Views format this; they never measure."""

    question: str
    answer: str
    model: str
    selector: str
    device: str
    dtype: str
    media: MediaUse
    tokens: TokenUse
    timings_s: StageSeconds
    speed: Speed
    generated_tokens: int
    finish_reason: str  # "stop", "length" or "repetition"
    memory: MemoryUse
    cache: CacheUse
    settings: Profile
    profile: ProfileChoice | None = None  # None: the settings came from Python
    warnings: tuple[str, ...] = ()
    evidence: AnswerEvidence | None = None  # None: not asked for
    choices: tuple[ChoiceProbability, ...] | None = None  # in the order given; None: the answer was free
    schema: int = REPORT_SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `ep ask --json`: JSON types, `schema` first."""
        body = _json_types(asdict(self))
        return {"schema": body.pop("schema"), **body}


def _json_types(value: Any) -> Any:
    """Tuples become lists, at any depth."""
    if isinstance(value, dict):
        return {key: _json_types(each) for key, each in value.items()}
    return [_json_types(each) for each in value] if isinstance(value, tuple | list) else value


@dataclass(frozen=True)
class PlannedMedia:
    """The file of a planned question, and what would be looked at of it."""

    path: str
    duration_s: float  # of the range; 0.0 for a still picture
    frames: int
    frame_size: tuple[int, int]  # width and height after scaling, pixels; (0, 0) without picture
    has_video: bool
    has_audio: bool


@dataclass(frozen=True)
class ContextUse:
    """The model's context: tokens of prompt and answer."""

    used: int
    limit: int
    fits: bool


@dataclass(frozen=True)
class PlannedMemory:
    """Bytes by what needs them. All are estimates but weights (language model, towers, sieve) and the KV cache."""

    language_model: int
    towers: int
    sieve: int
    frames_and_samples: int
    looking: int
    listening: int
    token_embeddings: int
    choosing: int
    prefill: int
    kv_cache: int


@dataclass(frozen=True)
class StagePeaks:
    """Bytes in use at the peak of each stage, weights and libraries included."""

    vision: int
    audio: int
    sieve: int
    prefill: int
    decode: int


@dataclass(frozen=True)
class AvailableMemory:
    """Memory to plan for."""

    bytes: int | None  # None where the device is not here
    what: str  # where the number comes from
    fits: bool | None  # None where `bytes` is not known


@dataclass(frozen=True)
class Plan:
    """What one question would cost."""

    model: str
    selector: str
    device: str
    dtype: str
    quantize: str
    media: PlannedMedia
    tokens: TokenCounts
    context: ContextUse
    memory: PlannedMemory
    stages: StagePeaks
    available: AvailableMemory
    advice: tuple[str, ...]  # what to change so that it fits
    notes: tuple[str, ...]

    @property
    def largest_stage(self) -> str:
        """The stage that needs most memory."""
        peaks: dict[str, int] = asdict(self.stages)
        return max(peaks, key=lambda stage: peaks[stage])

    @property
    def peak_bytes(self) -> int:
        """Bytes that the largest stage needs."""
        peak: int = getattr(self.stages, self.largest_stage)
        return peak

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `ep plan --json`: JSON types, `schema` first."""
        body = _json_types(asdict(self))
        lists = {name: body.pop(name) for name in ("advice", "notes")}
        return {"schema": PLAN_SCHEMA, **body, "peak_bytes": self.peak_bytes, **lists}


@dataclass(frozen=True, eq=False)
class InspectionRun:
    """One question, answered on what one selector kept. n media tokens."""

    report: Report
    kept: np.ndarray  # (n,) bool
    scores: np.ndarray | None  # (n,) float32, higher is kept first; None if the selector does not score
    evidence: np.ndarray  # (n,) float32, what each token gave to the answer; sums to 1, or 0 if nothing is known
    layers: np.ndarray | None = None  # (n,) int16 decoder layers that each token passed, 0 if it was dropped before


@dataclass(frozen=True, eq=False)
class Preview:
    """What can be shown and played of a clip."""

    frames: np.ndarray | None  # (G, H, W, 3) uint8 RGB, the picture of each frame grid
    times_s: np.ndarray | None  # (G,) float64 seconds of the file
    samples: np.ndarray | None  # (S,) float32 mono at SAMPLE_RATE
    wave: np.ndarray | None  # (P, 2) float32 lowest and highest sample of each column
    mel: np.ndarray | None  # (64, P) float32 in [0, 1], loudness of each band, low notes first


@dataclass(frozen=True, eq=False)
class Inspection:
    """One file looked at, and questions answered on what selectors kept of it. Views format this."""

    info: MediaInfo
    range_s: tuple[float, float]  # seconds of the file
    plan: Plan
    tokens: MediaTokens  # the same for every run
    preview: Preview
    runs: tuple[InspectionRun, ...]  # at least one
