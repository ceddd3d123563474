"""Checkpoint folders that cannot be used: one line each, before torch is loaded or a file decoded."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_omni
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from epcli.errors import EpError, UsageError, WeightsError
from epcli.models import catalog
from epcli.models.qwen_omni import folder as folders
from epcli.models.qwen_omni.hub import INDEX

SHARD = "model-00002-of-00003.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return tiny_omni.write(tmp_path_factory.mktemp("folders") / "tiny")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    return tiny_omni.write(tmp_path_factory.mktemp("folders") / "tiny", sharded=True)


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file of a folder in place."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def thinker(**parts: dict[str, Any]) -> Callable[[Path], None]:
    """A damage: other values in parts of config.json's thinker_config."""

    def change(content: dict[str, Any]) -> None:
        for part, values in parts.items():
            content["thinker_config"][part] |= values

    return lambda folder: edit(folder, "config.json", change)


def top(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config.json", lambda content: content.update(values))


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """A damage: other tensors in model.safetensors."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return damage


def drop(*parts: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if any(part in key for part in parts)]:
            del tensors[key]

    return change


def without(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, size)


def write(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def replaced(name: str, old: str = "model.safetensors") -> Callable[[Path], Any]:
    return lambda folder: (folder / old).rename(folder / name)


def another_vocabulary(folder: Path) -> None:
    """The tokenizer of Qwen2.5-VL has no sound."""

    def change(content: dict[str, Any]) -> None:
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<|AUDIO|>"]

    edit(folder, "tokenizer.json", change)


def swapped_tokens(folder: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        tokens = {token["content"]: token for token in content["added_tokens"]}
        sound, picture = tokens["<|AUDIO|>"], tokens["<|IMAGE|>"]
        sound["id"], picture["id"] = picture["id"], sound["id"]

    edit(folder, "tokenizer.json", change)


def one_file(folder: Path, name: str) -> None:
    """Leave nothing but one file of that name."""
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / name).write_bytes(b"GGUF" + bytes(60))


def hub_cache(folder: Path) -> None:
    """Make the folder the root of a Hugging Face cache."""
    moved = folder.parent / "moved"
    folder.rename(moved)
    place = folder / "models--Qwen--Qwen2.5-Omni-7B" / "snapshots"
    place.mkdir(parents=True)
    moved.rename(place / COMMIT)


WHOLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config.json": (without("config.json"), "has weights but no config.json"),
    "config.json cut off": (cut("config.json", 300), "config.json: is damaged or cut off"),
    "config.json empty": (cut("config.json", 0), "config.json: is damaged or cut off"),
    "config.json a list": (write("config.json", b"[1]"), "config.json: is damaged"),
    "config.json lacks a part": (lambda f: edit(f, "config.json", lambda c: c.pop("thinker_config")), "text_config"),
    "config.json lacks a size": (thinker(text_config={"hidden_size": None}), "text_config.hidden_size is None"),
    "config.json with nonsense": (thinker(text_config={"num_hidden_layers": 10**6}), "num_hidden_layers is 1000000"),
    "config.json without sections": (thinker(text_config={"rope_scaling": {}}), "mrope_section"),
    "GPTQ": (top(quantization_config={"quant_method": "gptq", "bits": 4}), "already quantized (GPTQ)"),
    "AWQ": (top(quantization_config={"quant_method": "awq"}), "already quantized (AWQ)"),
    "bitsandbytes": (top(quantization_config={"quant_method": "bitsandbytes"}), "already quantized (bitsandbytes)"),
    "AWQ, said by the thinker": (
        thinker(text_config={"quantization_config": {"quant_method": "awq"}}),
        "use the original with --quantize nf4",
    ),
    "GPTQ, seen in the weights": (
        weights(lambda t: t.update({"thinker.model.layers.0.mlp.up_proj.qweight": torch.zeros(4, dtype=torch.int32)})),
        "already quantized (model.layers.0.mlp.up_proj.qweight",
    ),
    "int8 weights": (
        weights(lambda t: t.update({"thinker.lm_head.weight": torch.zeros(4, dtype=torch.int8)})),
        "already quantized (lm_head.weight, I8)",
    ),
    "Qwen2.5-VL": (top(model_type="qwen2_5_vl"), "is a Qwen2.5-VL, which does not hear"),
    "Qwen2-Audio": (top(model_type="qwen2_audio"), "is a Qwen2-Audio, which does not see"),
    "Qwen3-Omni": (top(model_type="qwen3_omni_moe"), "is a Qwen3-Omni; ep reads"),
    "a text model": (top(model_type="qwen2"), "is a text model (Qwen2 or Qwen2.5)"),
    "another architecture": (top(model_type="mllama"), "is another kind of model (mllama)"),
    "an unknown architecture": (
        top(model_type=None, architectures=["LlamaForCausalLM"]),
        "is another kind of model (LlamaForCausalLM)",
    ),
    "the talker alone": (top(model_type="qwen2_5_omni_talker"), "is only the talker"),
    "weights of the talker alone": (weights(drop("thinker.")), "holds only the speech output (talker)"),
    "no weights": (without("model.safetensors"), "holds no weights"),
    "pickled weights": (replaced("pytorch_model.bin"), "only as pickled PyTorch files"),
    "weights in GGUF": (replaced("model-q4.gguf"), "holds GGUF files"),
    "a folder of GGUF": (lambda f: one_file(f, "omni.gguf"), "holds GGUF files, made for llama.cpp"),
    "an empty folder": (lambda f: (one_file(f, "a.gguf"), (f / "a.gguf").unlink()), "is no model folder"),
    "an adapter of PEFT": (lambda f: one_file(f, "adapter_config.json"), "is an adapter of PEFT"),
    "the folder above": (
        lambda f: (shutil.move(f, f.parent / "x"), f.mkdir(), shutil.move(f.parent / "x", f / "x")),
        "did you mean",
    ),
    "a cache root": (hub_cache, "is a cache of the Hugging Face hub"),
    "an empty file": (cut("model.safetensors", 0), "model.safetensors: is empty"),
    "cut in the header": (cut("model.safetensors", 1000), "model.safetensors: is cut off"),
    "cut in the weights": (cut("model.safetensors", 100_000), "model.safetensors: is cut off: 100,000 of"),
    "longer than it says": (
        lambda f: os.truncate(f / "model.safetensors", (f / "model.safetensors").stat().st_size + 9),
        "is damaged: 9 bytes longer",
    ),
    "a pointer of Git LFS": (
        write("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"),
        "pointer of Git LFS",
    ),
    "another kind of file": (write("model.safetensors", struct.pack("<Q", 4) + b"{a: "), "is damaged"),
    "fewer layers in config.json": (
        thinker(text_config={"num_hidden_layers": 3}),
        "gives the language model 3 layers, and the weights hold 4",
    ),
    "more layers in config.json": (
        thinker(vision_config={"depth": 5}),
        "gives the vision tower 5 layers, and the weights hold 2",
    ),
    "a tensor is missing": (weights(drop("audio_tower.proj.bias")), "the weights lack audio_tower.proj.bias"),
    "another shape": (
        thinker(text_config={"vocab_size": 300}),
        "model.embed_tokens.weight is 274 x 128, and config.json makes it 300 x 128",
    ),
    "a layer that no Omni has": (
        weights(lambda t: t.update({"thinker.model.layers.0.self_attn.q_norm.weight": torch.ones(64)})),
        "holds model.layers.0.self_attn.q_norm.weight, which no Qwen2.5-Omni has",
    ),
    "sizes that are no numbers": (
        thinker(vision_config={"patch_size": "14"}),
        "vision_config.patch_size is '14', no count",
    ),
    "a split that is no numbers": (
        thinker(text_config={"rope_scaling": {"mrope_section": ["a", 12, 12]}}),
        "mrope_section must be numbers that add up to 32",
    ),
    "quantized without a name": (
        lambda f: edit(f, "config.json", lambda c: c.update(quantization_config={"bits": 4})),
        "is already quantized (in a way of its own)",
    ),
    "no preprocessor": (without("preprocessor_config.json"), "lacks preprocessor_config.json"),
    "another preprocessor": (
        lambda f: edit(f, "preprocessor_config.json", lambda c: c.update(feature_size=80)),
        "makes 80 mel bins",
    ),
    "no tokenizer": (without("tokenizer.json"), "lacks tokenizer.json"),
    "no tokenizer settings": (without("tokenizer_config.json"), "lacks tokenizer_config.json"),
    "tokenizer cut off": (cut("tokenizer.json", 900), "tokenizer.json: is damaged or cut off"),
    "tokenizer of another model": (another_vocabulary, "its tokenizer has no <|AUDIO|>"),
    "tokens with other numbers": (swapped_tokens, "they have different vocabularies"),
}
SHARDED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a shard is missing": (without(SHARD), f"lacks {SHARD}, which its index names"),
    "a shard is missing, and the index": (without(SHARD, INDEX), f"lacks {SHARD}"),
    "a shard is cut off": (cut(SHARD, 200_000), f"{SHARD}: is cut off"),
    "a shard is empty": (cut(SHARD, 0), f"{SHARD}: is empty"),
    "the index is cut off": (cut(INDEX, 100), f"{INDEX}: is damaged or cut off"),
    "the index is of something else": (write(INDEX, b"{}"), "no weight_map"),
    "the index names only the talker": (
        lambda f: edit(f, INDEX, lambda c: c.update(weight_map={"talker.a": SHARD})),
        "holds only the speech output",
    ),
}


def refusal(path: Path) -> str:
    with pytest.raises(EpError) as caught:
        catalog.check_present(str(path))
    assert isinstance(caught.value, WeightsError)
    return str(caught.value)


@pytest.mark.parametrize("case", WHOLE)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(whole, tmp_path, case):
    damage, message = WHOLE[case]
    path = tiny_omni.copy(whole, tmp_path / "broken")
    damage(path)
    said = refusal(path)
    assert message in said
    assert "\n" not in said
    assert str(path) in said


@pytest.mark.parametrize("case", SHARDED)
def test_shards_that_do_not_make_a_whole_are_named(sharded, tmp_path, case):
    damage, message = SHARDED[case]
    path = tiny_omni.copy(sharded, tmp_path / "broken")
    damage(path)
    assert message in refusal(path)


@pytest.mark.parametrize("damage", [without("model-00003-of-00003.safetensors"), without(INDEX)])
def test_what_the_thinker_does_not_need_may_be_missing(sharded, tmp_path, damage):
    path = tiny_omni.copy(sharded, tmp_path / "fewer")
    damage(path)
    catalog.check_present(str(path))


def test_a_checkpoint_with_a_sieve_and_one_of_the_thinker_alone_pass(tmp_path):
    for options in ({"sieve": True}, {"whole": False}):
        path = tiny_omni.write(tmp_path / str(options), **options)
        assert folders.look(path).shape.decoder.layers == 4


def test_the_references_own_model_type_and_files_beside_the_weights_pass(whole, tmp_path):
    path = tiny_omni.copy(whole, tmp_path / "reference")
    top(model_type="qwen2_5_omni_compress")(path)
    save_file({"steps": torch.zeros(3, dtype=torch.int64)}, path / "inputs.safetensors")
    catalog.check_present(str(path))


@pytest.mark.parametrize("size", ["tiny", "published"])
def test_the_tensors_looked_for_are_those_of_the_model(whole, size):
    config = folders.thinker_config(whole) if size == "tiny" else Qwen2_5OmniThinkerConfig().to_dict()
    with torch.device("meta"):
        model = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig.from_dict(dict(config)))
    made = {folders._published(name): tuple(value.shape) for name, value in model.state_dict().items()}
    assert folders.expected(config) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no model named ''"),
        ("nothing-here", "no model named 'nothing-here'; `ep models list` lists them"),
        ("./nothing/here", "no model named"),
        ("Qwen/Qwen3-Omni-30B-A3B-Instruct", "of the Hugging Face hub ep knows Qwen/Qwen2.5-Omni-7B and"),
        ("Qwen/Qwen2.5-Omni-7B-AWQ", "it looks quantized: use the original with --quantize nf4"),
    ],
)
def test_a_name_that_is_not_known_is_a_usage_error(text, message):
    with pytest.raises(UsageError) as caught:
        catalog.find(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("omni.gguf", b"GGUF", "is a GGUF file"),
        ("model.bin", b"PK", "is a pickled PyTorch file"),
        ("notes.txt", b"hello", "is no model, sieve or adapter of ep"),
    ],
)
def test_a_file_that_is_no_model_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    assert message in refusal(path)


def test_a_shard_given_as_the_model_names_its_folder(sharded):
    assert f"give its folder, {sharded}" in refusal(sharded / SHARD)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("Qwen/Qwen2.5-Omni-7B", "qwen2.5-omni-7b"),
        ("qwen/qwen2.5-omni-3b", "qwen2.5-omni-3b"),
        ("Qwen2.5-Omni-3B", "qwen2.5-omni-3b"),
        ("https://huggingface.co/Qwen/Qwen2.5-Omni-7B", "qwen2.5-omni-7b"),
    ],
)
def test_the_hubs_names_are_known_in_any_case(typed, name):
    source = catalog.find(typed)
    assert (source.name, source.path) == (name, None)


@pytest.mark.parametrize(
    ("repo", "name"),
    [("Qwen--Qwen2.5-Omni-7B", "qwen2.5-omni-7b"), ("someone--Omni-tuned", "Omni-tuned")],
)
@pytest.mark.parametrize("given", ["", "snapshots", f"snapshots/{COMMIT}"])
def test_a_folder_of_a_hugging_face_cache_goes_by_its_name(whole, tmp_path, repo, name, given):
    cache = tmp_path / f"models--{repo}"
    tiny_omni.copy(whole, cache / "snapshots" / COMMIT)
    tiny_omni.copy(whole, cache / "snapshots" / ("f" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    source = catalog.find(str(cache / given))
    assert source.name == name
    assert source.path is not None
    assert source.path.name == COMMIT
    assert catalog.status(str(cache / given)) == "ready"


def test_a_folder_named_by_a_commit_goes_by_its_own_name(whole, tmp_path):
    path = tiny_omni.copy(whole, tmp_path / COMMIT)
    assert catalog.find(str(path)).name == COMMIT
    top(_name_or_path="someone/Omni-tuned")(path)
    assert catalog.find(str(path)).name == "Omni-tuned"


def test_models_show_says_ready_only_of_a_folder_that_is(whole, tmp_path):
    assert catalog.status(str(whole)) == "ready"
    path = tiny_omni.copy(whole, tmp_path / "broken")
    cut("model.safetensors", 100_000)(path)
    said = catalog.status(str(path))
    assert said.startswith("cannot be used: ")
    assert "is cut off" in said


PROBE = """
import sys
from epcli.cli import main
sys.argv = ["ep", *{arguments!r}]
try:
    main()
except SystemExit as end:
    code = end.code
print(code, *sorted({{"torch", "transformers", "av", "huggingface_hub"}} & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "MEDIA", "What?", "--model", "FOLDER"],
        ["chat", "MEDIA", "--model", "FOLDER"],
        ["inspect", "MEDIA", "What?", "--model", "FOLDER"],
        ["bench", "MEDIA", "--model", "FOLDER"],
        ["batch", "MEDIA", "-Q", "What?", "--model", "FOLDER"],
        ["models", "show", "FOLDER"],
    ],
)
def test_nothing_heavy_is_imported_to_say_no(whole, tmp_path, arguments):
    path = tiny_omni.copy(whole, tmp_path / "broken")
    cut("model.safetensors", 100_000)(path)
    media = tmp_path / "clip.wav"
    media.write_bytes(b"RIFF" + bytes(1000))
    given = [{"MEDIA": str(media), "FOLDER": str(path)}.get(word, word) for word in arguments]
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(arguments=given)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        env={**os.environ, "EP_PROFILE": "cpu"},
    )
    shown = run.stdout.splitlines()[-1] if run.stdout else ""
    assert "is cut off" in run.stdout + run.stderr, run.stderr
    code, *loaded = shown.split()
    assert code == ("0" if arguments[0] == "models" else "5")
    assert not {"torch", "transformers", "huggingface_hub"} & set(loaded)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", lambda c: c["thinker_config"]["text_config"].update(hidden_act="nosuch")),
        ("config.json", lambda c: c["thinker_config"]["text_config"].update(rms_norm_eps=None)),
        ("preprocessor_config.json", lambda c: c.update(patch_size="x")),
        ("tokenizer.json", lambda c: c["model"].update(type="Nope")),
    ],
)
def test_settings_that_make_no_sense_to_the_libraries_are_one_line(whole, tmp_path, name, change):
    path = tiny_omni.copy(whole, tmp_path / "broken")
    edit(path, name, change)
    with pytest.raises(WeightsError, match=r"broken: config\.json, .* are damaged \(.+\); fetch them again") as caught:
        catalog.load(str(path), torch.device("cpu"), torch.float32)
    assert "\n" not in str(caught.value)


def test_a_name_longer_than_any_path_is_not_known():
    for name in ("x" * 5000, "~nobody-of-this-name/model"):
        with pytest.raises(UsageError, match="no model named"):
            catalog.find(name)


def test_a_cache_whose_reference_is_damaged_has_its_newest_snapshot(whole, tmp_path):
    cache = tmp_path / "models--Own--Omni"
    tiny_omni.copy(whole, cache / "snapshots" / ("0" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_bytes(b"\xff\n")
    catalog.check_present(str(cache))
