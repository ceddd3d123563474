"""`ep bench` on tiny shapes: what is timed, counted and printed, not how fast it is."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_omni
import torch
from media_samples import X264, shared_film
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import epcli.models.qwen_omni.family  # noqa: F401  (makes its cards of the true shapes, before a test changes them)
from epcli.cli import app
from epcli.errors import CapacityError, UsageError
from epcli.evals import bench
from epcli.evals.bench import Configuration, Pass
from epcli.media import ffmpeg
from epcli.models import catalog
from epcli.models.costs import Decoder
from epcli.models.qwen_omni.costs import SHAPES, Omni
from epcli.records import Modality
from epcli.sieve.select import Budget, keep_count
from epcli.sieve.selectors import Tools, select

TINY = Decoder(256, 5, 2, 1, 128, 320, 100, biases=True, tied=False)
CPU = torch.device("cpu")
KEEPS: list[bench.Keep] = [None, 1.0, 0.25]


def test_the_list_of_ratios_is_read_and_checked() -> None:
    assert bench.read_keeps("none,1.0, 0.2") == [None, 1.0, 0.2]
    for wrong in ("none,x", "0", "1.5", "0.2,0.20", "", "nan"):
        with pytest.raises(UsageError):
            bench.read_keeps(wrong)


@pytest.mark.slow
def test_configurations_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[bench.Keep] = []
    choices = [Configuration("none", None), Configuration("cs2", 0.1)]
    seconds = iter([100.0, 100.0, 4.0, 1.0, 5.0, 9.0, 60.0, 2.0])

    def run(choice: Configuration) -> Pass:
        keep = choice.keep
        order.append(keep)
        spent = {"sieve": 0.0 if keep is None else 0.5, "prefill": next(seconds)}
        return Pass(spent, 10, len(order), None, 8.0 if keep is None else 2.0)

    whole, small = bench.alternate(run, choices, 3)
    assert order == [None, 0.1] * 4
    assert (whole["prefill_s"], small["prefill_s"], small["sieve_s"]) == (5.0, 2.5, 0.5)  # medians, sieve included
    assert (whole["speedup"], small["speedup"], small["limit"]) == (1.0, 2.0, 4.0)
    assert (whole["peak_rss_bytes"], small["peak_rss_bytes"]) == (7, 8)


def test_random_weights_stand_for_the_shape_and_stay_finite() -> None:
    model = bench.build(TINY, CPU)
    parameters = sum(each.numel() for each in model.decoder.parameters())
    assert parameters == replace(TINY, tied=True).parameters
    assert sum(each.numel() for each in model.sieve.parameters()) == TINY.sieve_parameters(4)
    assert {each.dtype for each in model.decoder.parameters()} == {torch.bfloat16}
    stream = bench.random_stream(TINY, 300, CPU)
    kept = select("cs2", stream, Budget.of(0.1), Tools(sieve=model.sieve))
    with torch.inference_mode():
        hidden = model.decoder(inputs_embeds=kept.embeds[None], position_ids=kept.positions[:, None])
        logits = model.logits(hidden.last_hidden_state[:, -1])
    assert logits.shape == (1, TINY.vocabulary)
    assert logits.isfinite().all()
    assert logits.std() > 0.01


def test_the_random_stream_has_the_tokens_asked_for_at_plausible_places() -> None:
    stream = bench.random_stream(TINY, 2048, CPU)
    kinds = stream.modality
    assert int((kinds != Modality.TEXT).sum()) == 2048
    assert int((kinds == Modality.AUDIO).sum()) == 300  # six whole chunks of 256 and 50, and a cut one of pictures
    assert len(kinds) == 2048 + bench.TEXT_BEFORE + bench.TEXT_AFTER
    assert torch.equal(stream.positions[0], stream.positions[3])
    assert int(stream.positions.max()) + 1 == stream.next_position
    media = stream.positions[0][kinds != Modality.TEXT]
    assert 12 * 25 <= int(media.max() - media.min()) <= 14 * 25  # 13.4 s in steps of 40 ms


def test_the_arithmetic_is_what_torch_counts() -> None:
    model, text = bench.build(TINY, CPU), bench.TEXT_BEFORE + bench.TEXT_AFTER
    stream = bench.random_stream(TINY, 200, CPU)
    # One kernel of plain products, all of which torch counts, masked or not.
    with FlopCounterMode(display=False) as sieve, sdpa_kernel(SDPBackend.MATH):
        select("cs2", stream, Budget.of(1.0), Tools(sieve=model.sieve))
    assert sieve.get_total_flops() == pytest.approx(bench.sieve_flops(TINY, 200, text, 4), rel=0.02)
    with FlopCounterMode(display=False) as prefill, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        out = model.decoder(inputs_embeds=stream.embeds[None], position_ids=stream.positions[:, None])
        model.logits(out.last_hidden_state[:, -1])
    length = 200 + text
    masked = TINY.layers * 2 * length * (length - 1) * TINY.heads * TINY.head  # the half that is not needed
    assert prefill.get_total_flops() == pytest.approx(bench.prefill_flops(TINY, length) + masked, rel=0.02)


def test_the_limit_at_a_tenth_is_near_the_published_depths_ratio() -> None:
    shape = SHAPES["qwen2.5-omni-3b"].decoder
    text = bench.TEXT_BEFORE + bench.TEXT_AFTER
    spent = bench.sieve_flops(shape, 2048, text, 4) + bench.prefill_flops(shape, keep_count(2048, 0.1) + text)
    assert 4.2 < bench.prefill_flops(shape, 2048 + text) / spent < 36 / (4 + 3.6)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog.families()  # whose cards are made of the real shapes
    monkeypatch.setitem(SHAPES, "qwen2.5-omni-3b", Omni(TINY, {"depth": 1}, {}, 32768))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    app(["bench", *arguments], standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_the_command_prints_one_object_with_a_row_for_each_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--shape", "qwen2.5-omni-3b", "--av-tokens", "100", "--keep", "none,1.0,0.25", "--repeat", "1"]
    made: dict[str, Any] = json.loads(run(capsys, *flags, "--layers", "2", "--device", "cpu", "--json"))
    assert made["schema"] == 1
    assert [row["keep"] for row in made["rows"]] == KEEPS
    text = bench.TEXT_BEFORE + bench.TEXT_AFTER
    for row, kept in zip(made["rows"], (100, 100, 25), strict=True):
        assert row["kv_cache_bytes"] == replace(TINY, layers=2).kv_bytes(kept + text, 2)
        assert 0 <= row["sieve_s"] < row["prefill_s"]
        assert row["peak_rss_bytes"] > 50_000_000
        assert row["speedup"] == made["rows"][0]["prefill_s"] / row["prefill_s"]
    assert made["rows"][1]["limit"] < 1
    assert (made["setup"]["layers"], made["setup"]["of_layers"]) == (2, 5)
    assert "not the whole model" in made["setup"]["note"]


def test_selectors_and_ratios_are_crossed_and_no_selection_stands_once() -> None:
    made = bench.read_configurations("seats,cs2", "none,0.1,0.05")
    assert made == [("none", None), ("seats", 0.1), ("cs2", 0.1), ("seats", 0.05), ("cs2", 0.05)]
    assert bench.read_configurations(None, "none,0.1") == [("none", None), (None, 0.1)]
    for wrong in ("best", "none", "cs2,cs2", ""):
        with pytest.raises(UsageError):
            bench.read_configurations(wrong, "0.1")


@pytest.mark.slow
def test_each_row_names_its_selector_and_the_mean_over_the_layers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = replace(TINY, layers=36)
    monkeypatch.setitem(SHAPES, "qwen2.5-omni-3b", Omni(deep, {"depth": 1}, {}, 32768))
    flags = ["--shape", "qwen2.5-omni-3b", "--av-tokens", "800", "--selector", "seats,cs2", "--keep", "none,0.1"]
    made = json.loads(run(capsys, *flags, "--repeat", "1", "--device", "cpu", "--json"))
    whole, seats, cs2 = made["rows"]
    assert [(row["selector"], row["keep"]) for row in made["rows"]] == [("none", None), ("seats", 0.1), ("cs2", 0.1)]
    assert (whole["mean_keep"], cs2["mean_keep"]) == (1, 0.1)
    assert seats["mean_keep"] == pytest.approx(0.1, rel=0.05)
    assert seats["limit"] > cs2["limit"] > 1


def test_query_aware_costs_two_layers_over_all_tokens() -> None:
    shape = SHAPES["qwen2.5-omni-3b"].decoder
    whole = bench.prefill_flops(shape, 2048)
    spent = bench.asking_flops(shape, 2048) + bench.prefill_flops(shape, 205)
    assert whole / spent == pytest.approx(1 / (2 / 36 + 0.1), rel=0.06)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_without_json_there_is_a_table_with_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--shape",
        "qwen2.5-omni-3b",
        "--av-tokens",
        "50",
        "--keep",
        "none,0.1",
        "--repeat",
        "1",
        "--device",
        "cpu",
    ]
    page = run(capsys, *flags)
    assert "limit" in page
    assert "1.00x" in page
    assert "note:" not in page


@pytest.mark.slow
def test_whole_clips_are_timed_stage_by_stage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    inputs = ("testsrc=size=160x120:rate=10:duration=3", "sine=440:duration=3")
    source = [word for each in inputs for word in ("-f", "lavfi", "-i", each)]
    subprocess.run([ffmpeg.find().path, "-nostdin", "-y", "-v", "error", *source, str(clip)], check=True)
    model = tiny_omni.write(tmp_path / "tiny", sieve=True)
    (tmp_path / "short.yaml").write_text("max_new_tokens: 2\n")
    flags = ["--model", str(model), "--profile", str(tmp_path / "short.yaml"), "--keep", "none,0.2", "--repeat", "1"]
    made = json.loads(run(capsys, str(clip), str(clip), *flags, "--device", "cpu", "--json"))
    whole, small = made["rows"]
    assert made["setup"]["selectors"] == {"none": "none", "0.2": "cs2"}
    assert made["setup"]["media"] == ["clip.mp4", "clip.mp4"]
    for row in made["rows"]:
        stages = row["stages_s"]
        assert all(stages[name] > 0 for name in ("media", "vision", "audio", "prefill", "decode"))
        assert stages["total"] == pytest.approx(sum(seconds for name, seconds in stages.items() if name != "total"))
        assert row["prefill_s"] == stages["sieve"] + stages["prefill"]
    assert small["kv_cache_bytes"] < whole["kv_cache_bytes"]
    assert small["limit"] > 0


def test_a_shape_that_does_not_fit_is_one_clear_error() -> None:
    with pytest.raises(CapacityError, match="--layers"):
        bench.build(replace(TINY, layers=10**9), CPU)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--shape", "huge"],
        ["--shape", "qwen2.5-omni-3b", "--layers", "99"],
        ["--shape", "qwen2.5-omni-3b", "--model", "ep-smol"],
        ["--shape", "qwen2.5-omni-3b", "--quantize", "nf4"],
        ["--shape", "qwen2.5-omni-3b", "--max-frames", "4"],
        ["clip.mp4", "--layers", "2"],
        ["clip.mp4", "--shape", "qwen2.5-omni-3b"],
    ],
)
def test_flags_that_do_not_go_together_are_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        app(["bench", *arguments], standalone_mode=False)


@pytest.mark.slow
def test_asking_again_is_compared_with_asking_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a shape with two layers a tower; that a hit skips what it should is tested in test_look.py."""
    clip = shared_film("again.mp4", X264, ("aac",), 2)
    monkeypatch.chdir(tmp_path)
    made = json.loads(
        run(capsys, str(clip), "--again", "--shape", "qwen2.5-omni-3b", "--layers", "1", "--repeat", "2", "--json")
    )
    first, again = made["rows"]
    assert (first["asked"], again["asked"]) == ("first", "again")
    assert first["stages_s"]["vision"] > 0 < first["stages_s"]["audio"]
    assert again["stages_s"]["vision"] == again["stages_s"]["audio"] == again["stages_s"]["media"] == 0
    assert again["before_prefill_s"] == again["stages_s"]["cache"] > 0
    assert set(made["speedup"]) == {"before_prefill"}
    assert made["setup"]["stored_bytes"] > 2 * 128 * 2048  # a second of picture in bfloat16 at least
    assert "random weights" in made["setup"]["note"]
    assert list(tmp_path.iterdir()) == []
