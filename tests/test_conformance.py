"""The sieve, SEATS and Qwen2.5-Omni around them against the numbers of the reference code of both methods."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DynamicCache

from epcli.errors import WeightsError
from epcli.evals import conformance
from epcli.models.qwen_omni.model import Thinker
from epcli.records import KeptStream, TokenStream
from epcli.session.generate import decode_steps, prefill
from epcli.sieve.seats import windows

DATA = Path(__file__).parent / "data" / "conformance"
WHOLE = Path(__file__).parents[2] / "shared" / "conformance"
SEATS = Path(__file__).parent / "data" / "seats"
SEATS_WHOLE = Path(__file__).parents[2] / "shared" / "seats"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model():
    return Thinker.load(DATA, dtype=torch.float32, sections=(3, 2, 2, 1))


def run(capsys, folder: Path) -> tuple[int, list[str]]:
    code = conformance.main([str(folder)])
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_every_number_of_the_reference_is_met(capsys):
    code, lines = run(capsys, DATA)
    assert code == 0, "\n".join(line for line in lines if line.startswith("FAIL"))
    assert lines[-1] == f"{len(lines) - 1} passed, 0 failed"
    said = "\n".join(lines)
    for check in ("kept_indices", "generated_ids", "refined_hidden", "decode_position_ids", "loss", "grad"):
        assert check in said


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the whole set is not beside the project")
def test_the_whole_set_is_met(capsys):
    code, lines = run(capsys, WHOLE)
    assert code == 0, "\n".join(line for line in lines if line.startswith("FAIL"))


@pytest.mark.slow
def test_every_number_of_the_seats_reference_is_met(capsys):
    code, lines = run(capsys, SEATS)
    assert code == 0, "\n".join(line for line in lines if line.startswith("FAIL"))
    assert lines[-1] == f"{len(lines) - 1} passed, 0 failed"
    said = "\n".join(lines)
    for check in ("pick_order_video", "audio attention", "step2 budgets", "kept_late", "keepcache ids", "keep_counts"):
        assert check in said


@pytest.mark.slow
@pytest.mark.skipif(not SEATS_WHOLE.is_dir(), reason="the whole set is not beside the project")
def test_the_whole_set_of_seats_is_met(capsys):
    code, lines = run(capsys, SEATS_WHOLE)
    assert code == 0, "\n".join(line for line in lines if line.startswith("FAIL"))


@pytest.mark.slow
def test_a_wrong_drop_is_found_out(capsys, monkeypatch):
    monkeypatch.setattr(windows, "TEMPERATURE", 0.001)
    code, lines = run(capsys, SEATS)
    assert code == 1
    assert any("budgets" in line for line in lines if line.startswith("FAIL"))


@pytest.fixture
def small(tmp_path):
    """A folder with case C alone, to be broken."""
    manifest = json.loads((DATA / "manifest.json").read_text())
    manifest["cases"] = {"C": manifest["cases"]["C"]}
    manifest["files"] = {n: f for n, f in manifest["files"].items() if n.startswith(("case_C", "model"))}
    del manifest["train"]
    for name in ("config.json", *manifest["files"]):
        shutil.copy(DATA / name, tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_a_wrong_weight_is_found_out(small, capsys):
    weights = load_file(small / "model.safetensors")
    weights["thinker.model.compressor.ln.weight"][0] += 0.05
    save_file(weights, small / "model.safetensors", {"format": "pt"})
    code, lines = run(capsys, small)
    failed = [line.split()[1:3] for line in lines if line.startswith("FAIL")]
    assert code == 1
    assert failed == [["files", "sha256"], ["case_C.r0.20", "scores"]]
    assert lines[-1].endswith(", 2 failed")


def test_a_missing_file_is_a_failed_check_and_the_rest_still_runs(small, capsys):
    (small / "case_C.r0.20.safetensors").unlink()
    code, lines = run(capsys, small)
    assert code == 1
    assert sum(line.startswith("FAIL") for line in lines) == 2  # among the files, and the run
    assert any(line.startswith("ok") and "case_C.baseline" in line for line in lines)


def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path, capsys):
    assert conformance.main([str(tmp_path)]) == WeightsError.exit_code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_checkpoint_that_lacks_a_weight_is_refused_by_name(small):
    weights = load_file(small / "model.safetensors")
    del weights["thinker.lm_head.weight"]
    save_file(weights, small / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match="lm_head"):
        Thinker.load(small, dtype=torch.float32, sections=(3, 2, 2, 1))


def test_a_sieve_that_lacks_a_weight_is_refused_by_name(small):
    weights = load_file(small / "model.safetensors")
    del weights["thinker.model.compressor.score_head.2.bias"]
    save_file(weights, small / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"score_head\.2\.bias"):
        Thinker.load(small, dtype=torch.float32, sections=(3, 2, 2, 1))


def test_sections_that_nothing_says_are_asked_for():
    with pytest.raises(WeightsError, match="mrope_section"):
        Thinker.load(DATA, dtype=torch.float32)


def test_sections_are_taken_from_the_config_if_it_has_four(small, model):
    config = json.loads((small / "config.json").read_text())
    config["thinker_config"]["text_config"]["rope_scaling"]["mrope_section"] = [3, 2, 2, 1]
    (small / "config.json").write_text(json.dumps(config))
    assert Thinker.load(small, dtype=torch.float32).decoder.rotary_emb.sections == (3, 2, 2, 1)


def test_a_checkpoint_without_a_sieve_is_the_plain_model(small):
    weights = load_file(small / "model.safetensors")
    plain = {k: v for k, v in weights.items() if "bidir_encoder" not in k and "compressor" not in k}
    save_file(plain, small / "model.safetensors", {"format": "pt"})
    loaded = Thinker.load(small, dtype=torch.float32)
    assert loaded.sieve is None
    assert loaded.decoder.rotary_emb.sections == (3, 3, 2)


def test_a_generated_audio_token_is_an_ordinary_token(model):
    """The reference puts an audio feature in its place during decode."""
    ids = load_file(DATA / "case_T.inputs.safetensors")["input_ids"]
    sound = model.thinker.config.audio_token_id
    with torch.inference_mode():
        embeds = model.embed(ids)[0]
        positions = torch.arange(ids.shape[1]).expand(4, -1)
        stream = TokenStream(embeds, positions, *[torch.zeros(0)] * 3, (0, 0), ids.shape[1])
        kept = KeptStream(stream, embeds, positions, torch.arange(len(embeds)), None)
        cache = DynamicCache(config=model.decoder.config)
        steps = decode_steps(model, kept, cache, prefill(model, kept, cache)[0])
        next(steps)
        got = steps.send(sound)
        whole = model.decoder(input_ids=torch.cat([ids, torch.tensor([[sound]])], dim=1)).last_hidden_state
        assert torch.allclose(got, model.logits(whole)[0, -1], atol=2e-4)
