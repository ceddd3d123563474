"""Views of a report: what people and programs read is what the record says."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from inspections import PLAN
from rich.console import Console

from epcli.config import DEFAULTS, Profile
from epcli.records import (
    AnswerEvidence,
    CacheUse,
    ChoiceProbability,
    EvidenceShares,
    MeanKept,
    MediaUse,
    MemoryUse,
    Moment,
    ProfileChoice,
    Report,
    Requested,
    Speed,
    StageSeconds,
    TokenCount,
    TokenUse,
)
from epcli.report.console import choice_lines, print_report
from epcli.report.json import to_json
from epcli.text import size

REPORT = Report(
    question="What do you hear?",
    answer="A dog barks – twice.",
    model="ep-smol",
    selector="cs2",
    device="cpu",
    dtype="bfloat16",
    media=MediaUse("/films/dog\udce9.mp4", 3725.0, True, True, 16, (60.0, 3725.0)),  # a name that is not UTF-8
    tokens=TokenUse(
        TokenCount(12784, 70), TokenCount(80, 17), TokenCount(31, 31), 87 / 12864, Requested(keep=0.1, budget=None)
    ),
    timings_s=StageSeconds(
        start=0.0,
        load=1.204,
        cache=0.0,
        media=0.31,
        vision=0.52,
        audio=0.0,
        sieve=0.05,
        prefill=0.42,
        decode=0.75,
        evidence=0.0,
        total=3.255,
    ),
    speed=Speed(first_token_s=2.61, decode_tokens_per_s=12.04),
    generated_tokens=9,
    finish_reason="stop",
    memory=MemoryUse(peak_rss_bytes=1_234_567_890, peak_device_bytes=None, kv_cache_bytes=1000),
    cache=CacheUse("miss"),
    settings=Profile(keep=0.1),
)
MOMENT = Moment("video", 31.0, 32.0, 31.5, "left", (0, 90, 548, 270), 0.8, "0:31 picture, left")
EVIDENCE = AnswerEvidence("by attention", EvidenceShares(video=0.8, audio=0.2), (MOMENT,))

# The JSON of `ep ask --json`, schema 1. Programs read these keys: a change here is a change for them.
JSON = {
    "schema": 1,
    "question": "What do you hear?",
    "answer": "A dog barks – twice.",
    "model": "ep-smol",
    "selector": "cs2",
    "device": "cpu",
    "dtype": "bfloat16",
    "media": {
        "path": "/films/dog\udce9.mp4",
        "duration_s": 3725.0,
        "has_video": True,
        "has_audio": True,
        "frames": 16,
        "range_s": [60.0, 3725.0],
    },
    "tokens": {
        "video": {"total": 12784, "kept": 70},
        "audio": {"total": 80, "kept": 17},
        "text": {"total": 31, "kept": 31},
        "keep_ratio": 87 / 12864,
        "requested": {"keep": 0.1, "budget": None},
        "mean_keep_ratio": None,
        "mean_kept": None,
    },
    "timings_s": {
        "start": 0.0,
        "load": 1.204,
        "cache": 0.0,
        "media": 0.31,
        "vision": 0.52,
        "audio": 0.0,
        "sieve": 0.05,
        "prefill": 0.42,
        "decode": 0.75,
        "evidence": 0.0,
        "total": 3.255,
    },
    "speed": {"first_token_s": 2.61, "decode_tokens_per_s": 12.04},
    "generated_tokens": 9,
    "finish_reason": "stop",
    "memory": {"peak_rss_bytes": 1_234_567_890, "peak_device_bytes": None, "kv_cache_bytes": 1000},
    "cache": {"features": "miss"},
    "settings": {**DEFAULTS, "keep": 0.1},  # every field of Profile
    "profile": None,
    "warnings": [],
    "evidence": None,
    "choices": None,
}


def shown(report: Report, width: int = 80, color: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=color, color_system="standard" if color else None)
    print_report(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_console_shows_every_figure_of_the_record() -> None:
    text = shown(REPORT)
    for row in (
        ["video", "12,784", "70", "0.5%"],
        ["audio", "80", "17", "21.2%"],
        ["text", "31", "31", "100.0%"],
        ["load", "1.20"],
        ["prefill", "0.42"],
        ["total", "3.25"],
        ["first", "token", "after", "2.61", "s"],
        ["then", "12.0", "tokens/s,", "9", "in", "all"],
        ["peak", "memory", "1.2", "GB"],
    ):
        assert " ".join(row) in " ".join(" ".join(row) for row in rows(text)), row
    assert "1:00–1:02:05 · 16 frames · ep-smol · cpu bfloat16 · selector cs2" in text


def test_a_stage_that_did_not_run_is_left_out() -> None:
    stages = [row[-2] for row in rows(shown(REPORT)) if len(row) > 1]
    assert "media" in stages
    assert stages.count("audio") == 0  # 0.0 s: there was no sound to hear


def test_the_console_fits_80_columns_and_needs_no_colour() -> None:
    text = shown(REPORT)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    coloured = shown(REPORT, color=True)
    assert "\x1b[" in coloured


def test_a_modality_without_tokens_has_no_share() -> None:
    silent = replace(REPORT, tokens=replace(REPORT.tokens, audio=TokenCount(0, 0)))
    assert ["audio", "0", "0", "–"] in [row[:4] for row in rows(shown(silent))]


def test_tokens_that_leave_inside_the_decoder_are_told_beside_what_entered() -> None:
    inside = replace(REPORT, tokens=replace(REPORT.tokens, mean_keep_ratio=0.004, mean_kept=MeanKept(40.0, 8.5)))
    text = shown(inside)
    assert "over layers" in text
    assert ["video", "12,784", "70", "0.5%", "0.3%"] in [row[:5] for row in rows(text)]
    assert ["text", "31", "31", "100.0%", "100.0%"] in [row[:5] for row in rows(text)]
    assert max(map(len, text.splitlines())) <= 80
    assert "over layers" not in shown(REPORT)


def test_memory_of_a_gpu_has_a_line_of_its_own() -> None:
    on_gpu = replace(REPORT, device="cuda:0", memory=replace(REPORT.memory, peak_device_bytes=23_456_789_012))
    assert "peak on cuda:0" in shown(on_gpu)
    assert "23.5 GB" in shown(on_gpu)


def test_warnings_come_first_one_line_each_however_long() -> None:
    long = "clip.mp4: there is no sound in this file, so the answer rests on the picture alone; " * 2
    text = shown(replace(REPORT, warnings=(long, "[red]two\nlines[/red]")))
    lines = text.splitlines()
    assert lines[0].rstrip() == f"ep: warning: {long}".rstrip()
    assert lines[1] == "ep: warning: [red]two lines[/red]"  # not taken for markup


def test_a_still_picture_has_no_range() -> None:
    picture = replace(REPORT, media=replace(REPORT.media, path="a.png", frames=1, range_s=(0.0, 0.0)))
    assert " a.png · 1 frame · ep-smol" in shown(picture)


@pytest.mark.parametrize(
    ("changes", "json_changes"),
    [
        ({}, {}),
        (
            {"profile": ProfileChoice("cpu", "no GPU"), "warnings": ("one", "two")},
            {"profile": {"name": "cpu", "why": "no GPU"}, "warnings": ["one", "two"]},
        ),
        (
            {"choices": (ChoiceProbability("yes", 0.75), ChoiceProbability("no", 0.25))},
            {"choices": [{"text": "yes", "probability": 0.75}, {"text": "no", "probability": 0.25}]},
        ),
        (
            {"evidence": EVIDENCE},
            {
                "evidence": {
                    "rule": "by attention",
                    "shares": {"video": 0.8, "audio": 0.2},
                    "moments": [
                        {
                            "modality": "video",
                            "start_s": 31.0,
                            "end_s": 32.0,
                            "peak_s": 31.5,
                            "where": "left",
                            "box": [0, 90, 548, 270],
                            "share": 0.8,
                            "label": "0:31 picture, left",
                            "name": None,
                        }
                    ],
                }
            },
        ),
    ],
    ids=["plain", "profile and warnings", "choices", "evidence"],
)
def test_the_json_has_these_keys_in_this_order(changes, json_changes) -> None:
    made = replace(REPORT, **changes).to_dict()
    assert made == JSON | json_changes
    assert json.dumps(made) == json.dumps(JSON | json_changes)  # a dict's equality ignores the order


def test_the_terminal_shows_each_choice_the_likeliest_first() -> None:
    choices = (ChoiceProbability("a \x1b[2J", 0.25), ChoiceProbability("no one", 0.75))
    lines = [line.plain for line in choice_lines(replace(REPORT, choices=choices))]
    assert lines == ["\n probability of each choice", "   75.0%  no one", "   25.0%  a \ufffd[2J"]
    assert choice_lines(REPORT) == []


def test_json_is_the_record_with_its_schema_first() -> None:
    text = to_json(REPORT)
    body = json.loads(text)
    assert next(iter(body)) == "schema"
    assert body == json.loads(json.dumps(REPORT.to_dict()))
    assert "–" in text  # people read it, too
    with pytest.raises(ValueError, match="JSON"):
        to_json(replace(REPORT, speed=replace(REPORT.speed, first_token_s=float("nan"))))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (188_000_000, "188 MB"),
        (999_600_000, "1.0 GB"),
        (2.3e12, "2300.0 GB"),
    ],
)
def test_sizes_are_decimal(count: float, text: str) -> None:
    assert size(count) == text


def test_the_json_of_a_plan_has_these_keys_in_this_order() -> None:
    expected = {
        "schema": 1,
        "model": "ep-smol",
        "selector": "query-aware",
        "device": "cpu",
        "dtype": "bf16",
        "quantize": "none",
        "media": {
            "path": "film.mp4",
            "duration_s": 8.0,
            "frames": 8,
            "frame_size": [448, 256],
            "has_video": True,
            "has_audio": True,
        },
        "tokens": {
            "video": {"total": 224, "kept": 22},
            "audio": {"total": 64, "kept": 6},
            "text": {"total": 64, "kept": 64},
        },
        "context": {"used": 220, "limit": 8192, "fits": True},
        "memory": {
            "language_model": 100_000_000,
            "towers": 100_000_000,
            "sieve": 100_000_000,
            "frames_and_samples": 100_000_000,
            "looking": 100_000_000,
            "listening": 100_000_000,
            "token_embeddings": 100_000_000,
            "choosing": 100_000_000,
            "prefill": 100_000_000,
            "kv_cache": 100_000_000,
        },
        "stages": {
            "vision": 1_200_000_000,
            "audio": 900_000_000,
            "sieve": 1_500_000_000,
            "prefill": 800_000_000,
            "decode": 1,
        },
        "available": {"bytes": 4_000_000_000, "what": "free in this machine", "fits": True},
        "peak_bytes": 1_500_000_000,
        "advice": [],
        "notes": ["one"],
    }
    assert json.dumps(PLAN.to_dict()) == json.dumps(expected)
    assert PLAN.largest_stage == "sieve"
