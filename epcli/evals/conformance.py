"""Compare the sieve, and Qwen2.5-Omni around it, with numbers that the reference code of its methods produced.

    python -m epcli.evals.conformance DIR

DIR holds a checkpoint (`config.json`, `model.safetensors`), `manifest.json`, and safetensors files of inputs and
outputs; sizes, sections, cases and ratios are read from there. The manifest says which method the numbers are of:
EchoingPixels (checked here) or SEATS (conformance_seats.py). One line for each case and check says the largest
difference. The exit code is 0 if all pass. Everything runs in float32 through the code that answers questions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from epcli.errors import EpError, WeightsError
from epcli.evals import conformance_seats
from epcli.evals.checks import RTOL, Checks, check_files
from epcli.models.family import AVModel
from epcli.models.qwen_omni.model import REFINER, SCORER, Thinker
from epcli.records import KeptStream, TokenStream
from epcli.session.generate import decode_steps
from epcli.session.generate import prefill as run_prompt
from epcli.session.kv import new_cache
from epcli.sieve.refiner import Refiner
from epcli.sieve.select import Budget, keep_count, kept_indices, take
from epcli.sieve.sieve import Sieve, Sieved
from epcli.sieve.sync_rope import AXES, SyncRope, install

PREFIX = "thinker."
IGNORED = -100  # label of a position without loss

Tensors = dict[str, Tensor]


def run(folder: Path) -> Checks:
    """Run every check that the folder has data for. Raises WeightsError if it is no conformance folder."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest.get("kind") == conformance_seats.KIND:
            return conformance_seats.run(folder, manifest)
        said = manifest["environment"]
        sections = manifest.get("mrope_section_4axis") or [int(size) for size in said["MROPE_SECTION"].split(",")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{folder}: no conformance folder: manifest.json is missing or not one of its kind"
        ) from error
    checks = Checks()
    with checks.over("files"):
        check_files(checks, folder, manifest)
    with checks.over("keep_count"):
        check_keep_count(checks, manifest)
    if (folder / "rope_apply.safetensors").exists():
        with checks.over("rope_apply"):
            check_rotation(checks, load_file(folder / "rope_apply.safetensors"))
    model = Thinker.load(folder, dtype=torch.float32, sections=sections)
    plain = Thinker.load(folder, dtype=torch.float32, sieve=False)
    if "mrope_section_3axis_baseline" in manifest:
        install(plain.decoder, manifest["mrope_section_3axis_baseline"])
    if model.sieve is None:
        raise WeightsError(f"{folder}: model.safetensors holds no refiner and score head")
    if (folder / "rope_index.safetensors").exists():
        check_positions(checks, model, load_file(folder / "rope_index.safetensors"), manifest["layouts"])
    with torch.inference_mode():
        for name, case in manifest.get("cases", {}).items():
            runs = {
                file: {"retain_token": said.get("RETAIN_TOKEN", "av"), **settings}
                for file, settings in case["runs"].items()
            }
            check_case(checks, folder, model, plain, name, {**case, "runs": runs})
    if "train" in manifest:
        with checks.over(manifest["train"]["file"].removesuffix(".safetensors")):
            check_training(checks, folder, model, manifest)
    return checks


def check_keep_count(checks: Checks, manifest: dict[str, Any]) -> None:
    """(candidates, ratio, kept), read off the reference's compressor."""
    table = manifest["keep_count"]
    got = [Budget(ratio=ratio).count(n) for n, ratio, _ in table]
    checks.equal("table", torch.tensor(got), torch.tensor([kept for _, _, kept in table]))
    edges = manifest.get("keep_count_float_edge", [])
    over = [keep_count(n, ratio) - round(n * ratio) for n, ratio in edges]
    checks.equal("float edge rounds up", torch.tensor(over), torch.ones(len(edges), dtype=torch.int64))


def check_rotation(checks: Checks, data: Tensors) -> None:
    """The four-axis rotation alone. The file has a table an axis; which axis a channel reads is found from `q`."""
    q, want, half = data["q"], data["q_rotated"], data["q"].shape[-1] // 2
    cos, sin = data["cos"].unsqueeze(2), data["sin"].unsqueeze(2)  # (4, 1, 1, L, head): one table an axis
    gap = (rotate(q, cos, sin) - want).abs()[..., :half].amax((1, 2, 3))  # (4, half)
    sections = [0] * AXES
    for axis, size in zip(
        *(each.tolist() for each in gap.argmin(0).unique_consecutive(return_counts=True)), strict=True
    ):
        # Where the fourth axis repeats the first, both explain the last run of channels.
        sections[AXES - 1 if axis == 0 and sections[0] else axis] += size
    theta = round(data["inv_freq"][-1].double().item() ** (-half / (half - 1)))  # the last is theta^(-(half - 1)/half)
    rope = SyncRope(2 * half, theta, sections)
    checks.close("inv_freq", rope.inv_freq, data["inv_freq"], atol=0, rtol=1e-6)
    cos, sin = rope(q, data["position_ids"])
    for name in ("q", "k"):
        checks.close(f"{name} at {sections}", rotate(data[name], cos[:, None], sin[:, None]), data[f"{name}_rotated"])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The decoder's rotation, written out: (..., L, head) by tables (..., L, head)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def check_positions(checks: Checks, model: Thinker, data: Tensors, layouts: dict[str, Any]) -> None:
    """Position ids of many prompt layouts, no weights needed."""
    for name, layout in layouts.items():
        with checks.over(f"rope_index {name}"):
            fields = {key.removeprefix(f"{name}."): value for key, value in data.items() if key.startswith(f"{name}.")}
            mask = fields["attention_mask"]
            positions = model.positions(
                fields["input_ids"],
                mask,
                image_grid_thw=fields.get("image_grid_thw"),
                video_grid_thw=fields.get("video_grid_thw"),
                video_second_per_grid=fields.get("video_second_per_grid"),
                mel_frames=fields.get("audio_seqlens"),
                use_audio_in_video=layout["use_audio_in_video"],
            )
            checks.equal("position_ids", positions, fields["position_ids"])
            following = positions.amax(0).masked_fill(mask == 0, -1).amax(-1, keepdim=True) + 1
            checks.equal("deltas", following - mask.sum(-1, keepdim=True), fields["mrope_position_deltas"])


def check_case(checks: Checks, folder: Path, model: Thinker, plain: Thinker, name: str, case: dict[str, Any]) -> None:
    """One prompt, at every ratio and variant that the manifest lists, and through the plain model."""
    with checks.over(f"case_{name}"):
        inputs = load_file(folder / f"case_{name}.inputs.safetensors")
        embeds = embed(model, inputs)
        positions = place(model, inputs, case["use_audio_in_video"])
        if (folder / f"case_{name}.sieve.safetensors").exists():
            want = load_file(folder / f"case_{name}.sieve.safetensors")
            checks.close("inputs_embeds", embeds, want["inputs_embeds"])
            refined = sift(model, inputs, embeds, positions, {"compression_ratio": 1.0}).refined
            checks.close("refined_hidden", refined, want["refined_hidden"])
        for file, settings in case["runs"].items():
            with checks.over(file.removesuffix(".safetensors")):
                want = load_file(folder / file)
                check_run(checks, model, inputs, positions, sift(model, inputs, embeds, positions, settings), want)
        if "baseline" in case:
            with checks.over(f"case_{name}.baseline"):
                want = load_file(folder / case["baseline"]["file"])
                check_baseline(checks, plain, inputs, embed(plain, inputs), positions, want)


def embed(model: Thinker, inputs: Tensors) -> Tensor:
    """Token embeddings and tower outputs of one case."""
    names = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "input_features")
    given = {key: inputs[key] for key in (*names, "feature_attention_mask") if key in inputs}
    return model.embed(inputs["input_ids"], **given)


def place(model: Thinker, inputs: Tensors, use_audio_in_video: bool) -> Tensor:
    """(4, B, L) position ids of one case."""
    frames = inputs.get("feature_attention_mask")
    given = {key: inputs[key] for key in ("image_grid_thw", "video_grid_thw", "video_second_per_grid") if key in inputs}
    return model.positions(
        inputs["input_ids"],
        inputs["attention_mask"],
        **given,
        mel_frames=None if frames is None else frames.sum(-1),
        use_audio_in_video=use_audio_in_video,
    )


def sift(
    model: Thinker,
    inputs: Tensors,
    embeds: Tensor,
    positions: Tensor,
    settings: dict[str, Any],
    labels: Tensor | None = None,
) -> Sieved:
    """The sieve under one run's settings: a ratio, and the reference's variants of it."""
    sieve, ids, config = model.sieve, inputs["input_ids"], model.thinker.config
    assert sieve is not None
    if "av_refiner_layers" in settings:
        layers = list(sieve.refiner.layers)[: settings["av_refiner_layers"]]
        sieve = Sieve(Refiner(layers, sieve.refiner.config), sieve.scorer, sieve.rope)
    senses = settings.get("retain_token", "av")
    candidates = model.is_av(ids)
    if "a" not in senses:
        candidates &= ids != config.audio_token_id
    if "v" not in senses:
        candidates &= ids == config.audio_token_id
    return sieve(
        embeds,
        positions,
        model.is_av(ids),
        Budget(ratio=settings["compression_ratio"]),
        valid=inputs["attention_mask"].bool(),
        answer=None if labels is None else labels != IGNORED,
        candidates=candidates,
    )


def check_run(
    checks: Checks, model: Thinker, inputs: Tensors, positions: Tensor, sieved: Sieved, want: Tensors
) -> None:
    """Everything between the sieve's input and the generated ids, as far as `want` has it."""
    mask = inputs["attention_mask"].bool()
    right = kept_indices(sieved.mask, pad="right")  # the reference's layout, for comparison only
    if "position_ids" in want:
        checks.equal("position_ids", positions, want["position_ids"])
    following = sieved.next_positions.unsqueeze(-1) - mask.shape[-1]
    checks.equal("rope_deltas", following, want["rope_deltas"])
    if "scores" in want:
        checks.close("scores", sieved.scores * mask, want["scores"])
        checks.equal("kept_indices", take(sieved.indices, right, fill=-1), want["kept_indices"])
        checks.close("compressed_hidden", take(sieved.embeds, right), want["compressed_hidden"])
        kept = torch.stack([take(axis, right) for axis in sieved.positions])
        checks.equal("compressed_position_ids", kept, want["compressed_position_ids"])
        checks.equal("compressed_mask", (right >= 0).long(), want["compressed_attention_mask"])
    checks.close("logits", take(prefill(model, sieved.embeds, sieved.positions, sieved.mask), right), want["logits"])
    if "generated_ids" in want:
        for row, rows_want in each_row(want):
            there = sieved.mask[row]
            start = int(sieved.next_positions[row])
            check_generation(
                checks, model, sieved.embeds[row, there], sieved.positions[:, row, there], start, rows_want
            )


def check_baseline(
    checks: Checks, plain: Thinker, inputs: Tensors, embeds: Tensor, positions: Tensor, want: Tensors
) -> None:
    """The same prompt without a sieve: the plain thinker."""
    mask = inputs["attention_mask"].bool()
    checks.equal("position_ids", positions[:3], want["position_ids"])
    logits = prefill(plain, embeds, positions, mask) * mask.unsqueeze(-1)
    checks.close("logits", logits, want["logits"])
    if "generated_ids" in want:
        for row, rows_want in each_row(want):
            there = positions[:, row, mask[row]]
            check_generation(checks, plain, embeds[row, mask[row]], there, int(there.max()) + 1, rows_want)


def each_row(want: Tensors) -> Iterator[tuple[int, Tensors]]:
    """The continuation expected of each row of a batch: ids and logits (1, ...), positions (A, 1, ...)."""
    for row in range(len(want["generated_ids"])):
        one = slice(row, row + 1)
        ids, logits = want["generated_ids"][one], want["generated_logits"][one]
        decoded = want["decode_position_ids"][:, one]
        yield row, {"generated_ids": ids, "generated_logits": logits, "decode_position_ids": decoded}


def prefill(model: Thinker, embeds: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """(B, K, V) logits."""
    out = model.decoder(inputs_embeds=embeds, position_ids=positions, attention_mask=mask.long(), use_cache=False)
    return model.logits(out.last_hidden_state)


def check_generation(
    checks: Checks, model: Thinker, embeds: Tensor, positions: Tensor, start: int, want: Tensors
) -> None:
    """Greedy continuation of one prompt by the product's own decode loop."""
    length = len(embeds)
    stream = TokenStream(
        embeds=embeds,
        positions=positions,
        modality=torch.zeros(length, dtype=torch.uint8),
        spans_s=torch.full((length, 2), float("nan")),
        cells=torch.full((length, 3), -1, dtype=torch.int16),
        grid=(0, 0),
        next_position=start,
    )
    kept = KeptStream(stream, embeds, positions, torch.arange(length), None)
    seen: list[Tensor] = []
    watch = model.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True, prepend=True
    )
    try:
        cache = new_cache(model.decoder)
        hidden, _ = run_prompt(cast(AVModel, model), kept, cache)
        steps: Any = decode_steps(cast(AVModel, model), kept, cache, hidden)
        logits = [next(steps)]
        for _ in range(want["generated_ids"].shape[-1] - 1):
            logits.append(steps.send(logits[-1].argmax()))
    finally:
        watch.remove()
    found = torch.stack(logits)[None]
    checks.equal("generated_ids", found.argmax(-1), want["generated_ids"])
    checks.close("generated_logits", found, want["generated_logits"])
    axes = len(want["decode_position_ids"])
    checks.equal("decode_position_ids", torch.cat(seen[1:], dim=-1)[:axes], want["decode_position_ids"])


def check_training(checks: Checks, folder: Path, model: Thinker, manifest: dict[str, Any]) -> None:
    """One forward and backward with labels: what the refiner must not see, the loss, the gradients."""
    train = manifest["train"]
    case = manifest["cases"][train["case"]]
    inputs, want = (load_file(folder / name) for name in (f"case_{train['case']}.inputs.safetensors", train["file"]))
    embeds = embed(model, inputs)
    positions = place(model, inputs, case["use_audio_in_video"])
    sieved = sift(model, inputs, embeds, positions, train, labels=want["labels"])
    checks.close("refined_hidden", sieved.refined, want["refined_hidden"])
    checks.close("scores", sieved.scores, want["scores"])
    right = kept_indices(sieved.mask, pad="right")
    checks.equal("kept_indices", take(sieved.indices, right, fill=-1), want["kept_indices"])
    labels = take(want["labels"], sieved.indices, fill=IGNORED)
    checks.equal("compressed_labels", take(labels, right, fill=IGNORED), want["compressed_labels"])
    logits = prefill(model, sieved.embeds, sieved.positions, sieved.mask)
    checks.close("logits", take(logits, right), want["logits"])
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    checks.close("loss", loss[None], want["loss"])
    loss.backward()
    for key, gradient in want.items():
        if key.startswith("grad."):
            name = key.removeprefix("grad.")
            # Relative to the tensor's largest entry; a bias that shifts all scores alike has none but rounding.
            got, scale = parameter(model, name).grad, gradient.abs().max().item()
            assert got is not None
            checks.close(f"grad {name.removeprefix(PREFIX)}", got, gradient, rtol=0, atol=max(RTOL * scale, 1e-6))


def parameter(model: Thinker, key: str) -> torch.nn.Parameter:
    """The parameter that the reference calls `key`."""
    assert model.sieve is not None
    for prefix, module in (
        (REFINER, model.sieve.refiner),
        (SCORER, model.sieve.scorer),
        ("thinker.model.", model.decoder),
    ):
        if key.startswith(prefix):
            return module.get_parameter(key.removeprefix(prefix))
    return model.thinker.model.get_parameter(key.removeprefix(PREFIX))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m epcli.evals.conformance", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder with manifest.json")
    try:
        checks = run(parser.parse_args(arguments).folder)
    except EpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{checks.passed} passed, {checks.failed} failed")
    return int(checks.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
