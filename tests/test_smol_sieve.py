"""ep-smol with a trained sieve: the same model after saving and loading, and in the pipeline. Needs the parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from epcli.errors import WeightsError
from epcli.models.smol.adapter_file import ADAPTER
from epcli.models.smol.ear import AUDIO_WIDTH
from epcli.models.smol.learner import smol_items, smol_learner
from epcli.models.smol.model import EpSmol, media_layout, prompt_ids
from epcli.questions.record import Evidence
from epcli.records import AudioFeatures, Features, Modality, SeenFeatures, Sight
from epcli.session.device import cpu_dtype
from epcli.train.recipe import TrainedParts
from epcli.train.sieve_trainer import read_item

MEDIA = Path(__file__).parents[1] / "docs" / "media"
CPU = torch.device("cpu")
THINGS = ("person", "dog", "traffic light", "horse")
pytestmark = pytest.mark.slow


def some_features() -> Features:
    torch.manual_seed(0)
    things = tuple(Sight("object", name, 0.6, (0.2 * i, 0.2, 0.2 * i + 0.3, 0.8)) for i, name in enumerate(THINGS))
    frames = (things, (*things, Sight("text", "EXIT ONLY", 0.9, (0.1, 0.1, 0.4, 0.2))), (Sight("cut", "", 1.0),))
    video = SeenFeatures(frames, torch.arange(3.0).double() + 0.5, 1.0)
    return Features(3.0, video, AudioFeatures(torch.randn(25, AUDIO_WIDTH).relu().half(), 0.12))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A file whose sieve and LoRA were changed at random, as training would, and what the model then says."""
    torch.manual_seed(0)  # low-rank weights begin by chance, and what is compared below is close, not equal
    learner = smol_learner(ADAPTER, TrainedParts(refiner_rank=4))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for group in ("refiner", "scorer", "decoder"):
            for parameter in learner.groups[group].values():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(parameter.bfloat16())  # as the file will hold it
        for parameter in learner.groups["adapter"].values():
            parameter.copy_(parameter.bfloat16())
    model = learner.model
    start = len(prompt_ids(model.tokenizer, "", None)[0])
    media = media_layout(
        model.adapter, model.decoder.get_input_embeddings().weight, model.tokenizer, some_features(), start
    )
    asked = [("what", "What plays?", "A violin.", [Evidence(Modality.AUDIO, 1, 2)])]
    (item,) = smol_items(model, media, asked)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        reading = read_item(model, item, item.stream.embeds, 0.5)
    return learner.save(tmp_path_factory.mktemp("smol"), {"step": 0}), item, reading


def test_a_saved_sieve_says_after_loading_what_it_said_in_training(trained):
    path, item, want = trained
    model = EpSmol.open(path, "trained", CPU, cpu_dtype())
    assert model.sieve is not None
    with torch.no_grad():
        stream = model.stream(some_features(), "What plays?", None)
        assert torch.equal(stream.positions, item.stream.positions)
        got = read_item(model, item, stream.embeds, 0.5)
    # weights are merged before they are rounded here, and beside each other in training
    assert torch.corrcoef(torch.stack([got.scores, want.scores]))[0, 1] > 0.999
    assert len(set(got.kept.tolist()) ^ set(want.kept.tolist())) <= 2
    agree = torch.cosine_similarity(got.logits, want.logits)
    assert agree.min() > 0.99
    changed = read_item(EpSmol.open(ADAPTER, "ep-smol", CPU, cpu_dtype()), item, stream.embeds, 0.5, "none").logits
    assert torch.cosine_similarity(changed, want.logits).min() < agree.min()


def test_relevant_tokens_are_those_of_the_named_second(trained):
    _, item, _ = trained
    assert item.relevant.sum() == 9  # of 120 ms each: those whose middle lies in that second
    assert (item.stream.modality[item.relevant] == Modality.AUDIO).all()


def test_training_leaves_the_heads_as_they_were_fitted():
    named = smol_learner(ADAPTER, TrainedParts(refiner_rank=4)).groups["adapter"]
    assert {"sights.kinds", "sights.counts", "sounds.names", "sounds.place.weight", "seconds"} <= named.keys()
    assert not [name for name in named if name.startswith("sounds.head")]


def test_training_goes_on_from_a_file_with_a_sieve(trained):
    path, _, _ = trained
    first, again = (smol_learner(path, TrainedParts(refiner_rank=rank)) for rank in (4, 2))
    with safe_open(path, "pt") as file:
        key = "refiner.layers.0.mlp.down_proj.A"
        assert torch.equal(first.groups["refiner"][key.removeprefix("refiner.")].bfloat16(), file.get_tensor(key))
    assert again.groups["refiner"][key.removeprefix("refiner.")].shape[0] == 2  # another shape: begun anew


def test_the_pipeline_uses_the_sieve_of_itself(trained):
    path, _, _ = trained
    run = [sys.executable, "-m", "epcli", "ask", str(MEDIA / "duet.mp4"), "What plays?", "--model", str(path)]
    done = subprocess.run([*run, "--keep", "0.1", "--json", "--max-new-tokens", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["selector"] == "cs2"
    assert report["tokens"]["keep_ratio"] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("harm", ["a weight of another shape", "a missing weight", "no metadata"])
def test_a_tampered_sieve_is_one_line(trained, tmp_path, harm):
    path, _, _ = trained
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        about = json.loads(file.metadata()["epcli"])
    if harm == "a weight of another shape":
        tensors["refiner.layers.1.self_attn.k_proj.B"] = torch.zeros(3, 4)
    elif harm == "a missing weight":
        del tensors["scorer.score_head.0.bias"]
    else:
        del about["refiner"]
    broken = tmp_path / "broken.safetensors"
    save_file(tensors, broken, {"epcli": json.dumps(about)})
    with pytest.raises(WeightsError, match=r"broken\.safetensors") as caught:
        EpSmol.open(broken, "broken", CPU, cpu_dtype())
    assert "\n" not in str(caught.value)
