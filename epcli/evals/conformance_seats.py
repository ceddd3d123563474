"""Compare SEATS, and Qwen2.5-Omni's towers and decoder under it, with numbers that its reference code produced.

`python -m epcli.evals.conformance DIR` comes here if DIR's manifest says so. Everything runs in float32 through the
code that answers questions; only windows and rounding are the published code's (`reference=True`), and both ways to
treat the caches are run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from epcli.evals.checks import Checks, check_files
from epcli.models.family import AVModel
from epcli.models.qwen_omni import attention
from epcli.models.qwen_omni.model import Thinker
from epcli.records import KeptStream, Modality, TokenStream
from epcli.session.generate import decode_steps, prefill
from epcli.session.kv import new_cache
from epcli.sieve import seats
from epcli.sieve.drops import Drop, LayerOutput
from epcli.sieve.seats.diversity import keep_diverse, reference_counts
from epcli.sieve.seats.schedule import SURPLUS, layers_of, schedule_of, step_ratios
from epcli.sieve.seats.windows import Step, runs, split_step

KIND = "seats-goldens"
SCORES = {"atol": 1e-6, "rtol": 1e-3}  # shares of attention, about 1 / n

Tensors = dict[str, Tensor]


def run(folder: Path, manifest: dict[str, Any]) -> Checks:
    """Run every check that the folder has data for. Raises WeightsError if the model cannot be loaded."""
    checks = Checks()
    with checks.over("files"):
        check_files(checks, folder, manifest)
    with checks.over("schedules"):
        check_schedules(checks, manifest)
    if (folder / "units.safetensors").exists():
        check_units(checks, load_file(folder / "units.safetensors"))
    model = Thinker.load(folder, dtype=torch.float32, sieve=False)
    with torch.inference_mode():
        for name, case in manifest["cases"].items():
            if (folder / f"case_{name}.safetensors").exists():
                check_case(checks, model, name, case, load_file(folder / f"case_{name}.safetensors"), manifest)
    return checks


def check_schedules(checks: Checks, manifest: dict[str, Any]) -> None:
    """Step ratios of published and scaled layers, where those lie, and how many tokens of a window enter."""
    for depth, drops, late, target, ratios in manifest["schedules"]:
        found = step_ratios(depth, drops, late - 1, target, SURPLUS * target)
        checks.close(f"{depth} layers, {target:g}", numbers(found), numbers(ratios), rtol=0, atol=1e-9)
    listed = {(depth, (*drops,), late - 1) for depth, drops, late, *_ in manifest["schedules"]}
    scaled = [(depth, *layers_of(depth)) in listed for depth in (28, 36)]
    checks.equal("layers", torch.tensor(scaled), torch.tensor([True, True]))
    table = manifest["keep_counts"]
    counts = [int(reference_counts(torch.tensor([n]), SURPLUS * target)) for target, n, _ in table]
    checks.equal("keep_counts", torch.tensor(counts), torch.tensor([count for *_, count in table]))


def check_units(checks: Checks, data: Tensors) -> None:
    """The step inside the decoder, and the picks before it, on made-up numbers."""
    for name in sorted({key.partition(".")[0] for key in data}):
        with checks.over(name):
            want = {key.partition(".")[2]: value for key, value in data.items() if key.startswith(f"{name}.")}
            if "features" in want:
                length, share = want["window_ratio"].tolist()
                n, length = len(want["features"]), int(length)
                sizes = torch.tensor([min(length, n - start) for start in range(0, n, length)])
                counts = reference_counts(sizes, share)
                kept, _ = keep_diverse(want["features"], want["attention"], sizes, counts, reference=True)
                checks.equal("kept", kept.nonzero().squeeze(-1), want["kept"])
                continue
            ratio_v, ratio_a = want["ratios"].tolist()
            kinds = want["kind"].to(torch.uint8)
            check_step(checks, "", split_step(want["scores"], kinds, runs(kinds), (ratio_v, ratio_a)), want)


def check_case(
    checks: Checks, model: Thinker, name: str, case: dict[str, Any], data: Tensors, manifest: dict[str, Any]
) -> None:
    """One prompt: towers, the plain model, and SEATS at every ratio with both caches."""
    checks.group = f"case_{name}"
    with checks.over(f"case_{name}"):
        inputs = {key.removeprefix("inputs."): value for key, value in data.items() if key.startswith("inputs.")}
        stream = prompt(checks, model, inputs, case, data)
        plain = KeptStream(stream, stream.embeds, stream.positions, torch.arange(len(stream.embeds)), None)
        answer = GreedyRun.of(model, plain, len(data["plain.generated_ids"]))
        answer.check(checks, part(data, "plain"))
        for ratio, said in case["runs"].items():
            with checks.over(f"case_{name} {ratio}"):
                targets = manifest["settings"]["targets"][ratio]
                check_run(checks, model, stream, tuple(targets), said, part(data, ratio))


def prompt(checks: Checks, model: Thinker, inputs: Tensors, case: dict[str, Any], data: Tensors) -> TokenStream:
    """The prompt's stream, its towers and positions checked."""
    config, ids = model.thinker.config, inputs["input_ids"]
    kinds = torch.zeros(ids.shape[1], dtype=torch.uint8)  # a picture's tokens count as text
    kinds[ids[0] == config.video_token_id] = Modality.VIDEO
    kinds[ids[0] == config.audio_token_id] = Modality.AUDIO
    paid = torch.ones(ids.shape[1])
    embeds = model.decoder.get_input_embeddings()(ids)
    towers = (
        ("video", config.video_token_id, attention.video_features, ("pixel_values_videos", "video_grid_thw")),
        ("image", config.image_token_id, attention.video_features, ("pixel_values", "image_grid_thw")),
        ("audio", config.audio_token_id, attention.audio_features, ("input_features", "feature_attention_mask")),
    )
    for sense, token, tower, names in towers:
        if names[0] not in inputs:
            continue
        media, layout = (inputs[key] for key in names)
        features, received = tower(model.thinker.model, media.float(), layout)
        checks.close(f"{sense} features", features, data[f"tower.{sense}_features"])
        checks.close(f"{sense} attention", received, data[f"tower.{sense}_attention"])
        embeds = embeds.masked_scatter((ids == token).unsqueeze(-1), features)
        paid[ids[0] == token] = received
    frames = inputs.get("feature_attention_mask")
    positions = model.positions(
        ids,
        inputs["attention_mask"],
        image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs.get("video_grid_thw"),
        video_second_per_grid=inputs.get("video_second_per_grid"),
        mel_frames=None if frames is None else frames.sum(-1),
        use_audio_in_video=case["use_audio_in_video"],
    )[:, 0]
    checks.equal("positions", positions[:3], data["positions"])
    following = int(positions.max()) + 1
    checks.equal("next_position", torch.tensor(following), torch.tensor(case["next_position"]))
    grid = (
        inputs.get("video_grid_thw", torch.zeros(1, 3, dtype=torch.int64))[0, 1:]
        // model.thinker.config.vision_config.spatial_merge_size
    )
    return TokenStream(
        embeds=embeds[0],
        positions=positions,
        modality=kinds,
        spans_s=torch.full((len(kinds), 2), float("nan")),
        cells=torch.full((len(kinds), 3), -1, dtype=torch.int16),
        grid=(int(grid[0]), int(grid[1])),
        next_position=following,
        attention=paid,
    )


def check_run(
    checks: Checks,
    model: Thinker,
    stream: TokenStream,
    targets: tuple[float, float],
    said: dict[str, Any],
    want: Tensors,
) -> None:
    """One ratio: what enters, what leaves and why, states, logits and ids, with both caches."""
    schedule = schedule_of(len(model.decoder.layers), targets, reference=True)
    checks.close("entering", numbers(schedule.entering), numbers(said["encoder_ratio"]), rtol=0, atol=1e-12)
    checks.close("step ratios", numbers(schedule.ratios[0]), numbers(said["schedule"]), rtol=0, atol=1e-9)
    for sense, kind, share in (("video", 1, schedule.entering[0]), ("audio", 2, schedule.entering[1])):
        picks = seats.enter(stream, Modality(kind), share, reference=True)[1]
        if f"pick_order_{sense}" in want:
            checks.equal(f"pick_order_{sense}", torch.cat(picks), want[f"pick_order_{sense}"])
        else:
            checks.equal(f"pick_order_{sense}", torch.tensor(len(picks)), torch.tensor(0))
    kept = seats.sift(stream, schedule, reference=True)
    checks.equal("kept0", kept.indices, want["kept0"])
    new_tokens = len(want["generated_ids"])
    answer = GreedyRun.of(model, kept, new_tokens, keep_cache=False)
    steps = [drop for drop in answer.drops if isinstance(drop.found, Step)]
    for number, drop in enumerate(steps):
        prefix = f"step{number}"
        step = cast(Step, drop.found)
        if f"{prefix}.scores" in want:
            checks.close(f"{prefix} scores", step.scores, want[f"{prefix}.scores"], **SCORES)
        if f"{prefix}.hidden" in want:
            checks.close(f"{prefix} hidden", drop.hidden, want[f"{prefix}.hidden"])
        places = kept.indices[drop.left]
        check_step(checks, prefix, replace(step, kept=places[step.kept]), part(want, prefix))
    late = answer.drops[-1]
    checks.equal("kept_late", kept.indices[late.left][cast(Tensor, late.found)], want["kept_late"])
    answer.check(checks, want)
    if "final_hidden" in want:
        checks.close("final_hidden", answer.final, want["final_hidden"])
    depths = [int((answer.depths > layer).sum()) for layer in range(len(model.decoder.layers))]
    checks.equal("lengths_per_layer", torch.tensor(depths), torch.tensor(said["lengths_per_layer"]))
    checks.equal("cache_lengths", torch.tensor(answer.cached), torch.tensor(said["cache_lengths"]))
    media = kept.stream.modality != Modality.TEXT
    if "mean_kept_media" in said:
        passed = answer.depths[media[kept.indices]].sum().double()
        mean = passed / (len(model.decoder.layers) * media.sum())
        checks.close("mean_kept_media", mean[None], numbers([said["mean_kept_media"]]), rtol=0, atol=1e-9)
    other = GreedyRun.of(model, kept, new_tokens, keep_cache=True)
    checks.equal("keepcache ids", other.ids, want["keepcache.generated_ids"])
    checks.close("keepcache logits", other.logits[1:2], want["keepcache.logits"])
    checks.equal("keepcache lengths", torch.tensor(other.cached), torch.tensor(said["keepcache_cache_lengths"]))


def check_step(checks: Checks, prefix: str, step: Step, want: Tensors) -> None:
    """One drop inside the decoder, as far as `want` has it."""
    fields = {
        "kept": step.kept,
        "totals": torch.tensor(step.totals),
        "window_sizes": step.sizes,
        "window_means": step.means,
        "window_weights": step.weights,
        "window_budget_raw": step.raw,
        "window_budget": step.budget,
        "budgets": step.budgets,
    }
    windowed = "budgets" in want
    checks.equal(f"{prefix} windowed".strip(), torch.tensor(step.budgets is not None), torch.tensor(windowed))
    for name, got in fields.items():
        if name not in want or got is None:
            continue
        label = f"{prefix} {name}".strip()
        if want[name].is_floating_point():
            checks.close(label, got, want[name], **(SCORES if name == "window_means" else {}))
        else:
            checks.equal(label, got, want[name])


@dataclass(frozen=True, eq=False)
class Dropped:
    """One drop as it happened."""

    hidden: Tensor  # (n, D)
    left: Tensor  # (n,) places in the kept stream
    found: Step | Tensor


@dataclass(frozen=True, eq=False)
class GreedyRun:
    """A greedy answer, and what happened inside."""

    ids: Tensor
    logits: Tensor  # (T, V)
    last: Tensor  # (layers, D) the last position after each layer
    final: Tensor  # (n, D) the last layer's output
    depths: Tensor  # (K,)
    cached: list[int]  # tokens in each layer's cache after prefill
    drops: list[Dropped] = field(default_factory=list)

    @classmethod
    def of(cls, model: Thinker, kept: KeptStream, new_tokens: int, *, keep_cache: bool = False) -> GreedyRun:
        drops: list[Dropped] = []
        watched = replace(kept, drops=tuple(Drop(each.after, partial(_noting, drops, each)) for each in kept.drops))
        cache = new_cache(model.decoder)
        with _outputs(model.decoder) as outputs:
            hidden, depths = prefill(cast(AVModel, model), watched, cache, keep_cache=keep_cache)
        cached = [cast(Any, layer).get_seq_length() for layer in cache.layers]
        steps = decode_steps(cast(AVModel, model), watched, cache, hidden)
        logits = [next(steps)]
        for _ in range(new_tokens - 1):
            logits.append(steps.send(logits[-1].argmax()))
        found = torch.stack(logits)
        last = torch.stack([output[0, -1] for output in outputs])
        return cls(found.argmax(-1), found, last, outputs[-1][0], depths, cached, drops)

    def check(self, checks: Checks, want: Tensors) -> None:
        checks.equal("generated_ids", self.ids, want["generated_ids"])
        checks.close("logits", self.logits[: len(want["logits"])], want["logits"])
        if "last_hidden" in want:
            checks.close("last_hidden", self.last, want["last_hidden"])


def _noting(drops: list[Dropped], drop: Drop, found: LayerOutput) -> Tensor:
    if isinstance(drop.rule, seats.InLayer):
        step = drop.rule.step(found)
        drops.append(Dropped(found.hidden, found.left, step))
        return step.kept
    stay = drop.rule(found)
    drops.append(Dropped(found.hidden, found.left, stay))
    return stay


@contextmanager
def _outputs(decoder: Any) -> Iterator[list[Tensor]]:
    """What each decoder layer returns."""
    outputs: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, args, output: outputs.append(output)) for layer in decoder.layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def part(data: Tensors, prefix: str) -> Tensors:
    """The tensors under a prefix, without it."""
    return {key.removeprefix(f"{prefix}."): value for key, value in data.items() if key.startswith(f"{prefix}.")}


def numbers(values: Any) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)
