"""Which profile a machine gets when nobody names one: told by nvidia-smi, or a script that prints what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from epcli import hardware
from epcli.config import resolve

# `nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits` of real cards.
RTX_2080, T4, RTX_3060, A10G = (
    "GeForce RTX 2080, 7982",
    "Tesla T4, 15360",
    "NVIDIA GeForce RTX 3060, 12288",
    "NVIDIA A10G, 23028",
)
RTX_4090, A100, L40S = "NVIDIA GeForce RTX 4090, 24564", "NVIDIA A100-SXM4-40GB, 40960", "NVIDIA L40S, 46068"
H100 = "NVIDIA H100 80GB HBM3, 81559"
OLD = "NVIDIA GeForce GTX 1050, 2048"


class Machine:
    """A machine with a GPU, a torch that can use it, and an empty cache; `run` is a process on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.torch("'12.8'")
        self.environment = {
            "PATH": str(folder / "bin"),
            "XDG_CONFIG_HOME": str(folder / "xdg"),
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_CACHE": str(folder / "hf" / "hub"),
        }

    def gpus(self, *lines: str, code: int = 0) -> None:
        """An nvidia-smi that answers this query, and only this one."""
        program = self.folder / "bin" / "nvidia-smi"
        printed = "\\n".join(lines)
        program.write_text(
            "#!/bin/sh\n"
            'case "$*" in\n'
            '  "--query-gpu=name,memory.total --format=csv,noheader,nounits"*) ;;\n'
            '  *) echo "Invalid combination of input arguments"; exit 2;;\n'
            "esac\n"
            f'[ -n "$3" ] && echo "$3" > {self.folder}/asked\n'
            f'printf "{printed}\\n"\nexit {code}\n'
        )
        program.chmod(0o755)

    def torch(self, cuda: str) -> None:
        """What a torch wheel says of itself; it is found, and never imported."""
        package = self.folder / "libraries" / "torch"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text("raise SystemExit('torch was imported')\n")
        (package / "version.py").write_text(
            f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = None\n"
        )

    def pulled(self, repo: str) -> None:
        """A model in the Hugging Face cache, laid out as huggingface_hub leaves it."""
        home = self.folder / "hf" / "hub" / f"models--{repo.replace('/', '--')}"
        snapshot = home / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("a" * 40)
        for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json", "model.safetensors"):
            (snapshot / name).write_text("{}")

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("EP_", "HF_"))}
        path = [str(self.folder / "libraries"), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.run(
            [sys.executable, "-m", "epcli", *arguments],
            cwd=self.folder,
            env=inherited | self.environment | {"PYTHONPATH": os.pathsep.join(path), "COLUMNS": "80"} | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "libraries"))
    monkeypatch.setattr(hardware, "_torch_has_cuda", lambda: True)  # in this process torch is long imported
    hardware._card.cache_clear()
    return made


@pytest.mark.parametrize(
    ("card", "profile"),
    [
        (OLD, "cpu"),
        (RTX_2080, "gpu-8gb"),  # 7.8 GiB: the driver keeps some of the nominal 8
        (RTX_3060, "gpu-12gb"),
        (T4, "gpu-16gb"),  # 15 GiB: error correction takes a sixteenth
        (A10G, "gpu-24gb"),
        (RTX_4090, "gpu-24gb"),
        (A100, "gpu-24gb"),
        (L40S, "gpu-48gb"),
        (H100, "gpu-80gb"),
    ],
)
def test_the_largest_profile_that_the_card_holds_is_taken_if_its_model_is_here(
    card: str, profile: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.gpus(card)
    monkeypatch.setattr("epcli.models.qwen_omni.hub.status", lambda name: "ready")
    got = resolve(environment=machine.environment, folder=machine.folder)
    assert got.profile_name == profile
    assert card.rpartition(",")[0] in got.why
    assert got.automatic
    said = yaml.safe_load(got.profile_path.read_text())
    assert {key: getattr(got.profile, key) for key in said} == said


def test_a_profile_without_its_weights_gives_way_and_the_reason_says_what_to_pull(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.gpus(RTX_4090)
    here: set[str] = set()
    monkeypatch.setattr("epcli.models.qwen_omni.hub.status", lambda name: "ready" if name in here else "not downloaded")
    got = resolve(environment=machine.environment, folder=machine.folder)
    assert got.profile_name == "cpu"
    lacking = "NVIDIA GeForce RTX 4090 with 24 GiB, but gpu-24gb lacks its model: `ep models pull qwen2.5-omni-7b`"
    assert got.why == lacking
    here.add("qwen2.5-omni-3b")  # the next smaller profile with a model
    got = resolve(environment=machine.environment, folder=machine.folder)
    assert (got.profile_name, got.why) == ("gpu-12gb", lacking)


@pytest.mark.parametrize(
    ("flags", "profile"),
    [
        ({"model": "qwen2.5-omni-7b"}, "gpu-16gb"),  # the model is the user's choice, here or not
        ({"model": "qwen2.5-omni-3b"}, "gpu-12gb"),
        ({"model": "ep-smol"}, "default"),  # no GPU profile is for it: nothing is quantized behind the user's back
        ({"model": "./my-folder"}, "default"),
        ({"device": "cpu"}, "cpu"),
        ({"model": "qwen2.5-omni-7b", "device": "cpu"}, "cpu"),
        ({"device": "cuda"}, "cpu"),  # as without it: no weights are here
    ],
)
def test_a_model_or_device_that_the_user_names_decides_first(
    flags: dict[str, str], profile: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.gpus(T4)
    monkeypatch.setattr("epcli.models.qwen_omni.hub.status", lambda name: "not downloaded")
    got = resolve(flags, environment=machine.environment, folder=machine.folder)
    assert got.profile_name == profile
    assert {key: getattr(got.profile, key) for key in flags} == flags


@pytest.mark.parametrize(
    ("lines", "code", "why"),
    [
        (["No devices were found"], 6, "nvidia-smi names no GPU (No devices were found)"),
        (
            ["NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."],
            9,
            "nvidia-smi names no GPU (NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.)",
        ),
        (["NVIDIA A100-SXM4-40GB, [N/A]"], 0, "nvidia-smi names no GPU"),  # shared out in slices
    ],
)
def test_a_driver_that_names_no_card_gives_the_cpu_profile_and_its_own_words(
    lines: list[str], code: int, why: str, machine: Machine
) -> None:
    machine.gpus(*lines, code=code)
    got = resolve(environment=machine.environment, folder=machine.folder)
    assert (got.profile_name, got.why) == ("cpu", why)


def test_of_several_cards_the_largest_counts_or_the_one_that_cuda_shows(machine: Machine) -> None:
    machine.gpus(OLD, RTX_4090)
    flags = {"model": "qwen2.5-omni-7b"}
    assert resolve(flags, environment=machine.environment, folder=machine.folder).profile_name == "gpu-24gb"
    assert not (machine.folder / "asked").exists()
    hidden = machine.environment | {"CUDA_VISIBLE_DEVICES": ""}
    got = resolve(flags, environment=hidden, folder=machine.folder)
    assert (got.profile_name, got.why) == ("cpu", "CUDA_VISIBLE_DEVICES hides every GPU")
    one = machine.environment | {"CUDA_VISIBLE_DEVICES": "1,0"}
    resolve(flags, environment=one, folder=machine.folder)
    assert (machine.folder / "asked").read_text() == "--id=1\n"


def test_what_is_named_anywhere_wins_over_the_hardware(machine: Machine) -> None:
    machine.gpus(H100)
    environment = machine.environment | {"EP_PROFILE": "gpu-8gb"}
    got = resolve(environment=environment, folder=machine.folder)
    assert (got.profile_name, got.why, got.automatic) == ("gpu-8gb", "EP_PROFILE", False)
    (machine.folder / "ep.yaml").write_text("profile: default\n")
    got = resolve(environment=machine.environment, folder=machine.folder)
    assert (got.profile_name, got.why) == ("default", f"{machine.folder / 'ep.yaml'}: profile")
    got = resolve(profile="gpu-12gb", environment=environment, folder=machine.folder)
    assert (got.profile_name, got.why) == ("gpu-12gb", "--profile")


@pytest.mark.slow
def test_the_program_marks_the_profile_that_holds_and_imports_no_torch_for_it(machine: Machine) -> None:
    # The torch on this machine's path ends every process that imports it.
    machine.gpus(RTX_3060)
    machine.pulled("Qwen/Qwen2.5-Omni-3B")
    run = machine.run("profiles", "list")
    assert run.returncode == 0, run.stderr
    assert [line.split()[1] for line in run.stdout.splitlines() if line.startswith("*")] == ["gpu-12gb"]
    assert "gpu-12gb holds here: NVIDIA GeForce RTX 3060 with 12 GiB" in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 80
    shown = machine.run("profiles", "show")
    assert "# chosen because: NVIDIA GeForce RTX 3060 with 12 GiB\n" in shown.stdout
    machine.torch("None")
    run = machine.run("profiles", "list")
    assert "* cpu" in run.stdout
    assert "this torch is built without CUDA" in " ".join(run.stdout.split())


def test_a_machine_without_nvidia_smi_is_a_cpu_machine(machine: Machine) -> None:
    got = resolve(environment=machine.environment, folder=machine.folder)
    assert (got.profile_name, got.why) == ("cpu", "no NVIDIA GPU was found (there is no nvidia-smi)")
    assert got.profile.model == "ep-smol"
    assert asdict(got.chosen()) == {"name": "cpu", "why": got.why}
