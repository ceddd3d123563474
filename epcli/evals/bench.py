"""How long the stages take at chosen keep ratios, beside what arithmetic allows (docs/benchmarks.md).

Either whole clips through a model by name, or random weights of a real model's shape: its text decoder and an untrained
sieve, no towers and no tokenizer. Speed does not depend on the values of the weights, so the second needs no download.
Configurations take turns within each repeat, each pass uses the code that answers questions, and medians are reported.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor
from transformers import Qwen2_5OmniThinkerTextModel
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig

from epcli.config import Profile
from epcli.errors import CapacityError, UsageError
from epcli.models import catalog
from epcli.models.attention import fit_to_card
from epcli.models.costs import Decoder
from epcli.models.layout import AudioTokens, VideoTokens, interleave
from epcli.records import POSITION_STEP_S, REFINER_DEPTH, KeptStream, Modality, TokenStream
from epcli.session import generate
from epcli.session.device import choose_device
from epcli.session.kv import cache_bytes, new_cache
from epcli.session.meter import Meter
from epcli.session.session import Session
from epcli.sieve.depths import layer_lengths, mean_keep
from epcli.sieve.early_attention import EARLY_LAYER
from epcli.sieve.seats import window_sizes
from epcli.sieve.select import Budget
from epcli.sieve.selector import WINDOW_TOKENS
from epcli.sieve.selectors import SELECTORS, TRAINED, Tools, select
from epcli.sieve.sieve import Sieve
from epcli.sieve.sync_rope import PAPER_SECTIONS, install

BENCH_SCHEMA = 1
QUESTION = "What is seen and heard?"  # of whole clips
TEXT_BEFORE, TEXT_AFTER = 8, 24  # tokens of chat markup, and of a short question with markup
GRID = (8, 16)  # video tokens of two frames: rows, columns
STEPS_A_SECOND = round(1 / POSITION_STEP_S)  # position steps, and sound tokens
RSS_IS = (
    "most resident memory of the whole process during the counted passes of this configuration, sampled every 20 ms; "
    "weights, the sieve's too where it is not used, and libraries included; freed memory is returned before each pass"
)

Keep = float | None  # None: no sieve


class Configuration(NamedTuple):
    """One configuration."""

    selector: str | None  # None: the model's own
    keep: Keep


@dataclass(frozen=True)
class Pass:
    """One configuration, once."""

    seconds: dict[str, float]  # by stage; "sieve" and "prefill" always
    kv_cache_bytes: int
    peak_rss_bytes: int
    peak_device_bytes: int | None
    flops: float | None  # of sieve and prefill; None for a selector whose arithmetic is not counted
    selector: str = "none"
    mean_keep: float | None = None  # share of the media tokens in the decoder's layers, the mean; None without media


def read_keeps(text: str) -> list[Keep]:
    """ "none,1.0,0.2" -> [None, 1.0, 0.2]. Raises UsageError."""
    keeps: list[Keep] = []
    for word in (part.strip() for part in text.split(",")):
        try:
            keep = None if word == "none" else float(word)
        except ValueError:
            raise UsageError(f"--keep: {word!r} is neither a share nor none; give a list as none,1.0,0.2") from None
        if keep is not None:
            Budget.of(keep)
        if keep in keeps:
            raise UsageError(f"--keep: {word} is there twice")
        keeps.append(keep)
    return keeps


def read_configurations(selectors: str | None, keeps: str) -> list[Configuration]:
    """ "seats,cs2" at "none,0.1" -> no selection once, then each selector at each share. Raises UsageError.

    Without selectors the model's own chooses.
    """
    names: list[str | None] = [None] if selectors is None else [name.strip() for name in selectors.split(",")]
    for name in names:
        if name is not None and (name not in SELECTORS or name == "none"):
            there = ", ".join(each for each in SELECTORS if each != "none")
            raise UsageError(f"--selector: {name!r} is no selector; give a list of: {there}")
    if len(set(names)) < len(names):
        raise UsageError(f"--selector {selectors}: one of them is there twice")
    found: list[Configuration] = []
    for keep in read_keeps(keeps):
        found += [Configuration("none", None)] if keep is None else [Configuration(name, keep) for name in names]
    return found


def alternate(
    run: Callable[[Configuration], Pass],
    configurations: Sequence[Configuration],
    repeat: int,
    on_pass: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """A row for each configuration, from `repeat` rounds in which all take turns. One round before is not counted.

    `on_pass`: called with the passes done and their total, the uncounted round's included.
    """
    passes: dict[Configuration, list[Pass]] = {configuration: [] for configuration in configurations}
    for number in range(repeat + 1):
        for place, configuration in enumerate(configurations):
            _release()
            done = run(configuration)
            if number:
                passes[configuration].append(done)
            on_pass(number * len(configurations) + place + 1, (repeat + 1) * len(configurations))
    rows = [_row(configuration, passes[configuration]) for configuration in configurations]
    whole = next((row for row in rows if row["keep"] is None), None)
    all_flops = whole["flops"] if whole else None
    for row in rows:
        flops = row.pop("flops")
        row["speedup"] = whole["prefill_s"] / row["prefill_s"] if whole else None
        row["limit"] = all_flops / flops if flops and all_flops else None
        row["stages_s"] = row.pop("stages_s")  # last
    return rows


def _row(configuration: Configuration, passes: list[Pass]) -> dict[str, Any]:
    on_device = [one.peak_device_bytes for one in passes if one.peak_device_bytes is not None]
    return {
        "selector": passes[0].selector,
        "keep": configuration.keep,
        "mean_keep": passes[0].mean_keep,
        "prefill_s": median(one.seconds["sieve"] + one.seconds["prefill"] for one in passes),
        "sieve_s": median(one.seconds["sieve"] for one in passes),
        "kv_cache_bytes": max(one.kv_cache_bytes for one in passes),
        "peak_rss_bytes": max(one.peak_rss_bytes for one in passes),
        "peak_device_bytes": max(on_device) if on_device else None,
        "stages_s": {name: median(one.seconds[name] for one in passes) for name in passes[0].seconds},
        "flops": passes[0].flops,
    }


def _release() -> None:
    """Hand freed memory back to the system, or a pass would be charged with what an earlier one needed."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)


# --- Arithmetic -----------------------------------------------------------------------------------


def prefill_flops(shape: Decoder, tokens: int | Sequence[int]) -> float:
    """Of the decoder over `tokens`, causal, and the output head at the last. Norms and activations are left out.

    `tokens`: in all layers, or one number a layer where tokens leave inside.
    """
    lengths = [tokens] * shape.layers if isinstance(tokens, int) else tokens
    return sum(_layer_flops(shape, n) for n in lengths) + 2 * shape.vocabulary * shape.width


def _layer_flops(shape: Decoder, n: int) -> float:
    """Of one causal layer over n tokens."""
    return _linear_flops(shape, n) + 2 * n * (n + 1) * shape.heads * shape.head  # q k^T, and its product with v


def asking_flops(shape: Decoder, tokens: int) -> float:
    """Of query-aware: the layers before the one that it reads over all tokens, and that layer's keys."""
    keys = 2 * tokens * shape.width * shape.kv_heads * shape.head
    return EARLY_LAYER * _layer_flops(shape, tokens) + keys


def dropping_flops(shape: Decoder, stream: TokenStream, lengths: Sequence[int]) -> float:
    """Of SEATS' choices: distances within windows of 2 s, and one query against all keys before each drop."""
    sizes = window_sizes(stream)
    drops = [before for before, after in pairwise(lengths) if after < before][:-1]  # the last one drops all media
    scores = sum(2 * n * (shape.width * shape.kv_heads * shape.head + shape.heads * shape.head) for n in drops)
    return sum(2 * size**2 * shape.width for size in sizes) + scores


def sieve_flops(shape: Decoder, media: int, text: int, depth: int) -> float:
    """Of refiner and score head over media and text tokens; every token attends to every token of its window."""
    windows = max(-(-media // WINDOW_TOKENS), 1)
    seen = media / windows + text
    layer = _linear_flops(shape, seen) + 4 * seen**2 * shape.heads * shape.head
    return windows * (depth * layer + 2 * seen * (shape.width**2 + shape.width))


def _linear_flops(shape: Decoder, tokens: float) -> float:
    return 2 * tokens * sum(rows * columns for rows, columns in shape.linear_shapes)


def _flops(shape: Decoder, selector: str, kept: KeptStream, depth: int) -> float | None:
    """`kept` after prefill."""
    if selector not in ("none", "random", "uniform", "query-aware", TRAINED, "seats"):
        return None
    stream, lengths = kept.stream, layer_lengths(kept, shape.layers)
    text = int((stream.modality == Modality.TEXT).sum())
    chosen = 0.0
    if selector == TRAINED:
        chosen = sieve_flops(shape, len(stream.modality) - text, text, depth)
    elif selector == "seats":
        chosen = dropping_flops(shape, stream, lengths)
    elif selector == "query-aware":
        chosen = asking_flops(shape, len(stream.modality))
    return chosen + prefill_flops(shape, lengths)


# --- Random weights of a real model's shape -------------------------------------------------------


@dataclass(frozen=True)
class ShapeModel:
    """As much of `models.base.AVModel` as prefill needs. The embedding table serves as the output head too."""

    decoder: Any
    sieve: Sieve

    def logits(self, hidden: Tensor) -> Tensor:
        return (hidden @ self.decoder.embed_tokens.weight.T).float()


@torch.no_grad()
def build(shape: Decoder, device: torch.device, depth: int = REFINER_DEPTH) -> ShapeModel:
    """A decoder of that shape in bfloat16 and its untrained sieve. Raises CapacityError if they do not fit.

    One layer at a time gets memory, and all layers the same random weights, which costs a copy instead of a draw.
    """
    _check_room(shape, device, depth)
    config: Any = Qwen2_5OmniTextConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.mlp,
        vocab_size=shape.vocabulary,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        decoder: Any = Qwen2_5OmniThinkerTextModel(config)
    decoder.to(torch.bfloat16).eval().requires_grad_(False)
    for part in (decoder.layers[0], decoder.embed_tokens, decoder.norm):
        part.to_empty(device=device)
        for name, parameter in part.named_parameters():
            if parameter.ndim == 2:
                parameter.uniform_(-0.03, 0.03)  # about the spread of real weights
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    first = decoder.layers[0].state_dict()
    for layer in decoder.layers[1:]:
        layer.to_empty(device=device).load_state_dict(first)
    install(decoder, PAPER_SECTIONS)
    fit_to_card(decoder, device)
    return ShapeModel(decoder, Sieve.for_decoder(decoder, depth=depth).eval().requires_grad_(False))


def _check_room(shape: Decoder, device: torch.device, depth: int) -> None:
    weights = 2 * (replace(shape, tied=True).parameters + shape.sieve_parameters(depth))
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif device.type == "cpu":
        free = psutil.virtual_memory().available
    else:
        return
    if weights > free:
        raise CapacityError(
            f"the weights alone need {weights / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "cut the depth with --layers, or choose a smaller --shape"
        )


def random_stream(shape: Decoder, av_tokens: int, device: torch.device) -> TokenStream:
    """`av_tokens` of sound and picture, interleaved and placed as those of a clip at 2 frames a second, and some text.

    153 tokens a second: 128 of a pair of frames and 25 of sound. The last second is cut off where the count is reached.
    """
    seconds = -(-av_tokens // (GRID[0] * GRID[1] + STEPS_A_SECOND))
    times = torch.arange(seconds, dtype=torch.float64)
    video = VideoTokens(torch.zeros(seconds, *GRID, 1), times, 1.0)
    audio = AudioTokens(torch.zeros(seconds * STEPS_A_SECOND, 1), 1)
    placed = interleave(video, audio, torch.zeros(4, 1), TEXT_BEFORE - 1)
    cut = slice(2, 2 + av_tokens)  # between the markers
    media = placed.positions[:, cut]
    end = int(media.max()) + 1
    positions = torch.cat(
        [
            torch.arange(TEXT_BEFORE).expand(4, -1),
            media,
            (end + torch.arange(TEXT_AFTER)).expand(4, -1),
        ],
        dim=1,
    )
    length = positions.shape[1]
    modality = torch.zeros(length, dtype=torch.uint8)
    inside = slice(TEXT_BEFORE, TEXT_BEFORE + av_tokens)
    spans, cells = torch.full((length, 2), float("nan")), torch.full((length, 3), -1, dtype=torch.int16)
    modality[inside], spans[inside], cells[inside] = placed.modality[cut], placed.spans_s[cut], placed.cells[cut]
    embeds = 0.03 * torch.randn(length, shape.width, generator=torch.Generator().manual_seed(0))
    return TokenStream(
        embeds.to(device, torch.bfloat16),
        positions.to(device),
        modality.to(device),
        spans,
        cells,
        GRID,
        end + TEXT_AFTER,
    )


def bench_shape(
    name: str,
    configurations: Sequence[Configuration],
    repeat: int,
    profile: Profile,
    *,
    av_tokens: int,
    layers: int | None = None,
    on_pass: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The JSON of `ep bench --shape NAME`. `layers` cuts the decoder's depth. Raises UsageError or CapacityError."""
    shape = catalog.shape(name).decoder
    if layers is not None and layers > shape.layers:
        raise UsageError(f"--layers {layers}: {name} has {shape.layers}")
    return bench_decoder(
        replace(shape, layers=layers or shape.layers),
        name,
        configurations,
        repeat,
        profile,
        av_tokens,
        shape.layers,
        on_pass,
    )


def bench_decoder(
    shape: Decoder,
    name: str,
    configurations: Sequence[Configuration],
    repeat: int,
    profile: Profile,
    av_tokens: int,
    real_layers: int,
    on_pass: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """`bench_shape` of any shape with heads of 128; `real_layers` is the depth of the model it stands for."""
    if profile.threads:
        torch.set_num_threads(profile.threads)
    device = choose_device(profile)
    depth = min(REFINER_DEPTH, shape.layers)
    model = build(shape, device, depth)
    stream = random_stream(shape, av_tokens, device)
    rows = alternate(
        lambda configuration: _shape_pass(model, shape, stream, configuration, depth), configurations, repeat, on_pass
    )
    setup = {
        "what": "sieve and decoder prefill on random weights, last position's logits",
        "shape": name,
        "layers": shape.layers,
        "of_layers": real_layers,
        "refiner_layers": depth,
        "av_tokens": av_tokens,
        "text_tokens": TEXT_BEFORE + TEXT_AFTER,
        "sieve_bytes": 2 * shape.sieve_parameters(depth),
        **machine(device, "bfloat16", repeat),
    }
    if shape.layers != real_layers:
        setup["note"] = f"{shape.layers} of {real_layers} layers; nothing is scaled, so this is not the whole model"
    return {"schema": BENCH_SCHEMA, "rows": rows, "setup": setup}


def _shape_pass(model: Any, shape: Decoder, stream: TokenStream, configuration: Configuration, depth: int) -> Pass:
    selector = configuration.selector or TRAINED
    cache = new_cache(model.decoder)
    with Meter(stream.embeds.device) as meter:
        with meter.stage("sieve"):
            budget = Budget.of(configuration.keep or 1.0)
            kept = select(selector, stream, budget, Tools(decoder=model.decoder, sieve=model.sieve))
        with meter.stage("prefill"):
            hidden, depths = generate.prefill(model, kept, cache)
            next(generate.decode_steps(model, kept, cache, hidden))
    kept = replace(kept, depths=depths)
    return Pass(
        {stage: meter.seconds[stage] for stage in ("sieve", "prefill")},
        cache_bytes(cache),
        meter.peak_rss,
        meter.peak_device(),
        _flops(shape, selector, kept, depth),
        selector,
        mean_keep(kept, shape.layers),
    )


def machine(device: torch.device, dtype: str, repeat: int) -> dict[str, Any]:
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": str(device),
        "chip": chip,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeat": repeat,
        "peak_rss_is": RSS_IS,
    }


# --- Whole clips ----------------------------------------------------------------------------------


def bench_clips(
    media: Sequence[Path],
    configurations: Sequence[Configuration],
    repeat: int,
    profile: Profile,
    on_pass: Callable[[int, int], None] = lambda done, total: None,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """The JSON of `ep bench MEDIA…`: every stage of asking about each file; a pass is all files, its seconds their sum.

    Raises MediaError, UsageError, WeightsError or CapacityError.
    """
    profile = replace(profile, cache=False)  # every pass looks at its files anew
    session = Session(profile, on_progress=on_progress)
    loading = Meter(session.device)
    model = session.load(loading)
    shape, depth = decoder_shape(model.decoder.config), len(model.sieve.refiner.layers) if model.sieve else 0
    selectors: dict[str, str] = {}

    def run(configuration: Configuration) -> Pass:
        keep = configuration.keep
        session.profile = replace(profile, keep=keep, budget=None, selector=configuration.selector or profile.selector)
        answered = [session.run(session.look(path), QUESTION, with_evidence=False) for path in media]
        reports = [each.report for each in answered]
        selectors["none" if keep is None else f"{keep:g}"] = reports[0].selector
        flops = [_flops(shape, each.report.selector, each.kept, depth) for each in answered]
        on_device = [peak for report in reports if (peak := report.memory.peak_device_bytes) is not None]
        seconds = [asdict(report.timings_s) for report in reports]
        return Pass(
            {stage: sum(one[stage] for one in seconds) for stage in seconds[0] if stage != "load"},
            max(report.memory.kv_cache_bytes for report in reports),
            max(report.memory.peak_rss_bytes for report in reports),
            max(on_device) if on_device else None,
            None if None in flops else sum(count or 0 for count in flops),
            reports[0].selector,
            mean_keep(answered[0].kept, shape.layers),
        )

    rows = alternate(run, configurations, repeat, on_pass)
    setup = {
        "what": "every stage of asking about whole clips, summed over them",
        "model": model.name,
        "media": [path.name for path in media],
        "question": QUESTION,
        "selectors": selectors,
        "load_s": loading.seconds["load"],
        **machine(session.device, str(model.dtype).removeprefix("torch."), repeat),
    }
    return {"schema": BENCH_SCHEMA, "rows": rows, "setup": setup}


def decoder_shape(config: Any) -> Decoder:
    """The shape of a transformers text model of the Llama kind, as far as its arithmetic goes."""
    heads = config.num_attention_heads
    return Decoder(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=config.num_key_value_heads or heads,
        head=getattr(config, "head_dim", None) or config.hidden_size // heads,
        mlp=config.intermediate_size,
        vocabulary=config.vocab_size,
        biases=False,
        tied=False,
    )
