"""Settings: which source wins, what is refused and how the refusal reads."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from epcli import config
from epcli.config import Profile, resolve
from epcli.errors import UsageError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose user file lies in a fresh folder."""
    (tmp_path / "xdg" / "epcli").mkdir(parents=True)
    return {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}


def test_each_source_wins_over_those_behind_it(tmp_path: Path, home: dict[str, str]) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("seed: 1\ntemperature: 0.1\nmax_frames: 1\nthreads: 1\nmax_new_tokens: 1\n")
    user = config.user_file(home)
    user.write_text("seed: 2\ntemperature: 0.2\nmax_frames: 2\nthreads: 2\n")
    project = tmp_path / "ep.yaml"
    project.write_text("seed: 3\ntemperature: 0.3\nmax_frames: 3\n")
    home |= {"EP_SEED": "4", "EP_TEMPERATURE": "0.4"}

    got = resolve({"seed": "5", "threads": None}, str(mine), environment=home, folder=tmp_path)

    assert (got.profile.seed, got.sources["seed"]) == (5, "--seed")
    assert (got.profile.temperature, got.sources["temperature"]) == (0.4, "EP_TEMPERATURE")
    assert (got.profile.max_frames, got.sources["max_frames"]) == (3, f"{project}: max_frames")
    assert (got.profile.threads, got.sources["threads"]) == (2, f"{user}: threads")
    assert (got.profile.max_new_tokens, got.sources["max_new_tokens"]) == (1, f"{mine}: max_new_tokens")
    assert (got.profile.device, got.sources["device"]) == ("auto", "default")


@pytest.mark.parametrize(
    ("flag", "variable", "project", "user", "chosen"),
    [
        ("gpu-8gb", "gpu-12gb", "gpu-16gb", "gpu-24gb", "gpu-8gb"),
        (None, "gpu-12gb", "gpu-16gb", "gpu-24gb", "gpu-12gb"),
        (None, None, "gpu-16gb", "gpu-24gb", "gpu-16gb"),
        (None, None, None, "gpu-24gb", "gpu-24gb"),
        (None, None, None, None, "cpu"),  # the hardware decides (test_hardware.py); no nvidia-smi is on this path
    ],
)
def test_the_profile_is_chosen_by_the_same_order(
    flag: str | None,
    variable: str | None,
    project: str | None,
    user: str | None,
    chosen: str,
    tmp_path: Path,
    home: dict[str, str],
) -> None:
    if variable:
        home["EP_PROFILE"] = variable
    if project:
        (tmp_path / "ep.yaml").write_text(f"profile: {project}\n")
    if user:
        config.user_file(home).write_text(f"profile: {user}\n")
    got = resolve(profile=flag, environment=home, folder=tmp_path)
    assert got.profile_name == chosen
    said = yaml.safe_load(got.profile_path.read_text())
    assert {key: getattr(got.profile, key) for key in said} == said


def test_a_profile_named_in_a_file_is_found_beside_that_file(tmp_path: Path, home: dict[str, str]) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 7\n")
    (tmp_path / "ep.yaml").write_text("profile: ./mine.yaml\n")
    assert resolve(environment=home, folder=tmp_path).profile.seed == 7


@pytest.mark.parametrize(
    ("flags", "variables", "keep", "budget"),
    [
        ({}, {"EP_KEEP": "0.3"}, 0.3, None),
        ({"budget": "500"}, {"EP_KEEP": "0.3"}, None, 500),  # the flag's budget replaces the environment's share
        ({"keep": "auto"}, {"EP_BUDGET": "500"}, "auto", None),
        ({"keep": "none"}, {}, None, None),  # and takes back the 0.1 of the project file
    ],
)
def test_share_and_budget_replace_each_other(
    flags: dict[str, Any],
    variables: dict[str, str],
    keep: float | str | None,
    budget: int | None,
    tmp_path: Path,
    home: dict[str, str],
) -> None:
    (tmp_path / "ep.yaml").write_text("keep: 0.1\n")
    got = resolve(flags, environment=home | variables, folder=tmp_path).profile
    assert (got.keep, got.budget) == (keep, budget)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kep: 0.1", "kep: unknown key, did you mean keep?"),
        ("profile: 3", "profile: 3 is not the name of a profile"),
        ("profile: gpu-9gb", "unknown profile 'gpu-9gb', did you mean gpu-8gb?"),
        ("profile: no/such.yaml", "there is no such file"),
        ("1: 2", "1: unknown key"),
        ("keep: 0", "keep: 0 is not a number over 0 up to 1, or auto"),
        ("keep: 1.01", "keep: 1.01 is not a number over 0 up to 1, or auto"),
        ("keep: all", "keep: 'all' is not a number over 0 up to 1, or auto"),
        ("keep: '0.1'", "keep: '0.1' is not a number"),  # a quoted number is a text
        ("keep: true", "keep: true is not a number"),
        ("keep: .nan", "keep: nan is not a number"),
        ("budget: 0", "budget: 0 is not a whole number from 1 up"),
        ("budget: 10.0", "budget: 10.0 is not a whole number"),
        ("fps: -1", "fps: -1 is not a number over 0 up to 120"),
        ("fps: .inf", "fps: inf is not a number"),
        ("fps: [1]", "fps: [1] is not a number"),
        ("max_frames: many", "max_frames: 'many' is not a whole number from 1 up"),
        ("video: 1", "video: 1 is not true or false"),
        ("video: null", "video: null is not true or false"),
        ("audio_track: -1", "audio_track: -1 is not a whole number from 0 up"),
        ("device: gpu", "device: 'gpu' is not one of auto, cpu, cuda, mps"),
        ("dtype: float16", "dtype: 'float16' is not one of auto, bf16, fp16, fp32"),
        ("quantize: int4", "quantize: 'int4' is not one of none, nf4, int8"),
        ("model: 5", "model: 5 is not text"),
        ("model: ''", "model: '' is not text"),
        ("temperature: 2.5", "temperature: 2.5 is not a number from 0 up to 2"),
        ("seed: 4294967296", "seed: 4294967296 is not a whole number from 0 up to 4294967295"),
        ("- keep", "no settings: write one `key: value` a line"),
        ("keep: [", "not valid YAML: line 2: "),
        ("seed: 2001-99-99", "not valid YAML: "),
        ("keep: 0.1\nbudget: 5", "ep.yaml: budget both say how much to keep"),
        ("audio: false\nvideo: false", "ep.yaml: audio leave neither picture nor sound"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_name(
    text: str, message: str, tmp_path: Path, home: dict[str, str]
) -> None:
    file = tmp_path / "ep.yaml"
    file.write_text(text + "\n")
    with pytest.raises(UsageError) as caught:
        resolve(environment=home, folder=tmp_path)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("EP_KEEP", "2", "EP_KEEP: 2 is not a number over 0 up to 1, or auto"),
        ("EP_VIDEO", "maybe", "EP_VIDEO: 'maybe' is not true or false"),
        ("EP_MAX_NEW_TOKENS", "1.5", "EP_MAX_NEW_TOKENS: '1.5' is not a whole number from 1 up"),
        ("EP_KEP", "0.1", "EP_KEP: unknown setting in the environment, did you mean EP_KEEP?"),
        ("EP_PROFILE", "gpu-9gb", "EP_PROFILE: unknown profile 'gpu-9gb', did you mean gpu-8gb?"),
    ],
)
def test_a_mistake_in_the_environment_is_refused_by_name(
    variable: str, text: str, message: str, tmp_path: Path, home: dict[str, str]
) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(environment=home | {variable: text}, folder=tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("EP_VIDEO", "No", "video", False),
        ("EP_AUDIO", "1", "audio", True),
        ("EP_KEEP", "AUTO", "keep", "auto"),
        ("EP_FPS", "none", "fps", None),
        ("EP_QUANTIZE", "none", "quantize", "none"),  # a word of its own, not null
        ("EP_SYSTEM", "none", "system", "none"),
        ("EP_SYSTEM", "Answer in One Word.", "system", "Answer in One Word."),
        ("EP_THREADS", "", "threads", None),  # an empty variable is not set
        ("EP_SOMETHING_ELSE", "x", "seed", 0),  # another program's
    ],
)
def test_values_from_the_environment_are_read_as_people_write_them(
    variable: str, text: str, key: str, value: Any, tmp_path: Path, home: dict[str, str]
) -> None:
    assert getattr(resolve(environment=home | {variable: text}, folder=tmp_path).profile, key) == value


def test_a_profile_made_in_python_is_checked_too() -> None:
    assert Profile(keep=1).keep == 1.0
    with pytest.raises(UsageError, match="keep: 3 is not"):
        Profile(keep=3)
    with pytest.raises(UsageError, match="keep and budget"):
        Profile(keep=0.5, budget=10)


@pytest.mark.parametrize("name", config.profile_names())
def test_every_shipped_profile_is_valid_and_says_what_it_is_for(
    name: str, tmp_path: Path, home: dict[str, str]
) -> None:
    got = resolve(profile=name, environment=home, folder=tmp_path)
    assert got.profile_name == name
    assert 10 < len(config.profile_summary(got.profile_path)) <= 68  # with the longest name, one line of 80 columns
    if name.startswith("gpu-"):
        assert "computed, not measured" in got.profile_path.read_text().lower()


def test_the_default_profile_says_every_default(tmp_path: Path, home: dict[str, str]) -> None:
    assert yaml.safe_load(config.find_profile("default").read_text()) == asdict(Profile())


@pytest.mark.slow
def test_a_wheel_brings_the_profiles(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    run = subprocess.run(
        [sys.executable, "-c", "from epcli import config; print(config.__file__, *config.profile_names())"],
        cwd=tmp_path / "installed",
        capture_output=True,
        text=True,
        check=True,
    )
    file, *names = run.stdout.split()
    assert Path(file).is_relative_to(tmp_path)  # not the source tree's
    assert names == config.profile_names()
