"""The first answer: what is imported for it, how threads wait meanwhile, and that its time is the true one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch

from epcli import cli, content
from epcli.cli.process import age_s
from epcli.config import Profile
from epcli.errors import MediaError
from epcli.media.read import read
from epcli.models import catalog
from epcli.records import Clip
from epcli.session.ahead import read_ahead
from epcli.session.reporting import counted_from
from epcli.session.session import Session
from tests.test_report import REPORT

DUET = Path(__file__).parents[1] / "docs" / "media" / "duet.mp4"
LOGITS = """
import hashlib, sys, torch
{first}
from epcli.models.smol.smollm import load_smollm
torch.set_num_threads(1)
model, head, tokenizer = load_smollm()
ids = torch.tensor([tokenizer("Which instrument plays first?").input_ids])
with torch.inference_mode():
    logits = head(model(input_ids=ids).last_hidden_state)
print(hashlib.sha256(logits.numpy().tobytes()).hexdigest(), "torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""
NARROW = "from epcli.compat import import_transformers; import_transformers()"


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300
    ).stdout


def test_a_process_is_as_old_as_it_looks_from_outside() -> None:
    began = time.monotonic()
    inside = float(run("import time; time.sleep(0.3); from epcli.cli.process import age_s; print(age_s())"))
    assert 0.3 <= inside <= time.monotonic() - began + 0.02  # the kernel counts in hundredths
    assert age_s() > inside


@pytest.mark.parametrize(
    ("seconds", "start", "total"),
    [
        (10.0, 6.745, 10.0),  # what no stage took was the start
        (3.0, 0.0, 3.255),  # a clock that disagrees takes nothing away
    ],
)
def test_the_first_report_counts_from_the_start_of_the_program(seconds: float, start: float, total: float) -> None:
    report = counted_from(REPORT, seconds)
    assert report.timings_s.start == pytest.approx(start)
    assert report.timings_s.total == pytest.approx(total)
    assert report.speed.first_token_s == pytest.approx(REPORT.speed.first_token_s + start)


@pytest.mark.parametrize(
    ("own", "policy"),
    [
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ({"GOMP_SPINCOUNT": "1000"}, None),
        ({"KMP_BLOCKTIME": "1"}, None),
    ],
)
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(
    own: dict[str, str], policy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "")  # so that it is put back as it was
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    cli._let_threads_sleep()
    assert os.environ.get("OMP_WAIT_POLICY") == policy


@pytest.mark.slow
def test_a_narrow_import_computes_the_same_without_the_compiler() -> None:
    whole, narrow = (run(LOGITS.format(first=first)).split() for first in ("", NARROW))
    assert narrow == [whole[0], "False", "False"]


@pytest.mark.slow
def test_what_the_narrow_import_leaves_out_is_there_when_it_is_asked_for() -> None:
    program = f"""
{NARROW}
import sys, torch, transformers
assert transformers.models.llama.LlamaConfig is transformers.LlamaConfig
from transformers.models import LlamaConfig
assert LlamaConfig is transformers.LlamaConfig
assert torch.distributed.is_available()
assert "torch._dynamo" not in sys.modules
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
"""
    assert run(program).strip() == "2.0"


@pytest.mark.slow
def test_a_narrow_import_that_fails_gives_way_to_the_whole_one() -> None:
    program = f"""
from epcli import compat
def unchanged(*_, **__):
    raise TypeError
compat._unchanged = unchanged
{LOGITS.format(first=NARROW)}
"""
    assert len(run(program).split()) == 3


def test_a_file_is_decoded_ahead_as_it_would_be_later(tmp_path: Path) -> None:
    profile = Profile(cache_dir=str(tmp_path))
    reading = read_ahead(profile, DUET, 1.0, 3.0)
    assert reading is not None
    clip, later = reading.result(60), read(DUET, catalog.find(profile.model).family.sampling(profile), 1.0, 3.0)
    assert np.array_equal(clip.frames, later.frames)
    assert np.array_equal(clip.samples, later.samples)


def test_what_is_wrong_with_a_file_that_is_decoded_ahead_is_told(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    reading = read_ahead(Profile(cache=False), bad, None, None)
    assert reading is not None
    with pytest.raises(MediaError, match=r"bad\.mp4"):
        reading.result(60)


def test_a_file_that_the_cache_may_know_is_not_decoded_ahead(tmp_path: Path) -> None:
    (tmp_path / f"{content.quick(DUET)}-{'0' * 40}.safetensors").touch()
    assert read_ahead(Profile(cache_dir=str(tmp_path)), DUET, None, None) is None


@pytest.mark.slow
def test_the_model_is_loaded_until_the_file_is_decoded() -> None:
    session = Session(cache=False)
    clip = read(DUET, session.sampling)
    reading: Future[Clip] = Future()
    order: list[str] = []

    def on_stage(name: str) -> None:
        order.append(name)
        if name == "media" and not reading.done():
            reading.set_result(clip)

    session.on_stage = on_stage
    ahead, plain = session.look(DUET, reading=reading), session.look(DUET)
    assert order == ["load", "media", "vision", "audio", "media", "vision", "audio"]
    assert ahead.seconds["load"] > 0
    assert ahead.features.video.frames == plain.features.video.frames
    assert torch.equal(ahead.features.audio.tokens, plain.features.audio.tokens)


@pytest.mark.slow
def test_ask_imports_no_compiler_and_tells_its_true_time(tmp_path: Path) -> None:
    arguments = ["ep", "ask", str(DUET), "What plays first?", "--json", "--cache-dir", str(tmp_path)]
    program = (
        "import atexit, sys; from epcli.cli import main; "
        "atexit.register(lambda: print('LOADED', *sys.modules, file=sys.stderr)); "
        f"sys.argv = {arguments!r}; main()"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    wall = time.monotonic() - began
    loaded = set(done.stderr.rpartition("LOADED ")[2].split())
    assert "transformers" in loaded
    assert not {"torch._dynamo", "torch._inductor", "torch.distributed.tensor", "sympy", "pandas"} & loaded
    timings = json.loads(done.stdout)["timings_s"]
    total = timings.pop("total")
    assert total == pytest.approx(sum(timings.values()))
    assert timings["start"] > 0
    assert 0.7 * wall < total < wall + 0.05
