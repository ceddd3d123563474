"""Flags all the way: what `ep ask`, `ep chat`, `ep batch` and `ep plan` look at is what the command line says."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_omni
from media_samples import X264, counting, need, pitch_hz, run, tone

from epcli.cli import app
from epcli.media import read as reading

pytestmark = pytest.mark.slow
QUESTION = "What is there?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_omni.write(tmp_path_factory.mktemp("omni") / "tiny")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds, and two sound tracks: 440 and 880 Hz."""
    need(X264[0], "aac")
    path = tmp_path_factory.mktemp("film") / "two.mkv"
    sources = (counting(3.0), tone(3.0), tone(3.0, pitch=880))
    inputs = [word for source in sources for word in ("-f", "lavfi", "-i", source)]
    run(*inputs, *("-map", "0", "-map", "1", "-map", "2"), "-c:v", *X264, "-pix_fmt", "yuv420p", "-c:a", "aac", path)
    return path


@pytest.mark.parametrize(
    "flags",
    [
        ["--start", "0.5", "--end", "0:02.5", "--max-pixels", "3136", "--system", "Be brief."],
        ["--no-video", "--audio-track", "1", "--start", "1.6"],
        ["--no-audio", "--max-frames", "2"],
    ],
    ids=["range, pixels, system", "sound of the second track", "two pictures"],
)
def test_every_command_looks_at_what_was_asked_for(
    flags: list[str],
    model: Path,
    film: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[float] = []
    whole = reading.read

    def listen(*arguments: Any) -> Any:
        clip = whole(*arguments)
        heard.append(0.0 if clip.samples is None else pitch_hz(clip.samples))
        return clip

    for room in ("session", "ahead"):
        monkeypatch.setattr(f"epcli.session.{room}.read", listen)
    settings = ["--model", str(model), "--device", "cpu", "--max-new-tokens", "2"]
    more = ["--threads", "1", "--no-cache"]

    def printed(*arguments: str) -> str:
        app([*arguments, *settings], standalone_mode=False)
        return capsys.readouterr().out

    asked = json.loads(printed("ask", str(film), QUESTION, "--json", *more, *flags))
    plain = json.loads(printed("ask", str(film), QUESTION, "--json", *more))
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n"))
    chatted = json.loads(printed("chat", str(film), "--json", *more, *flags))
    out = tmp_path / "rows.jsonl"
    printed("batch", str(film), "-Q", QUESTION, "--out", str(out), "--quiet", *more, *flags)
    batched = json.loads(out.read_text())["report"]
    for report in (chatted, batched):
        for key in ("media", "tokens", "settings", "answer", "profile"):
            assert report[key] == asked[key], key

    if "--system" in flags:
        assert asked["media"]["range_s"] == [0.5, 2.5]
        assert asked["tokens"]["video"]["total"] < plain["tokens"]["video"]["total"]
        assert asked["tokens"]["text"]["total"] != plain["tokens"]["text"]["total"]
        flags = [flag for flag in flags if flag not in ("--system", "Be brief.")]  # plan counts text by rule
    elif "--no-video" in flags:
        assert (asked["media"]["frames"], asked["tokens"]["video"]["total"]) == (0, 0)
        assert heard[0] == pytest.approx(880, abs=5)
        assert heard[1] == pytest.approx(440, abs=5)
        flags = [flag for flag in flags if flag not in ("--audio-track", "1")]  # all tracks cost the same
    else:
        assert (asked["media"]["frames"], asked["tokens"]["audio"]["total"]) == (2, 0)
    planned = json.loads(printed("plan", str(film), "--json", *flags))
    for modality in ("video", "audio"):
        wanted = asked["tokens"][modality]["total"]
        assert planned["tokens"][modality]["total"] == pytest.approx(wanted, abs=1)  # a track may end before its file
