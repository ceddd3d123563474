"""A checkpoint folder looked at before anything is loaded: is it a Qwen2.5-Omni, whole, and of one piece?

Reads config.json, the index and the headers of the safetensors files, no weights and no torch, so that what cannot be
used is refused within a second. Each refusal is one line: what the folder is, and what to do.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epcli.errors import UsageError, WeightsError
from epcli.models.qwen_omni.costs import Omni
from epcli.models.qwen_omni.hub import INDEX, REPOS, UNUSED, WHOLE, thinker_shards
from epcli.models.qwen_omni.hub import folder as cached
from epcli.models.safetensors_header import Stored, read_header

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
SIEVE = ("thinker.model.bidir_encoder.", "thinker.model.compressor.")  # of the reference, beside the thinker
BUFFERS = ("inv_freq", "positional_embedding")  # stored by some writers, computed by the model
QUANTIZED = (".qweight", ".qzeros", ".absmax", ".quant_map", ".SCB", ".weight_scale", ".weight_scale_inv")
FLOATS = ("F32", "F16", "BF16")
GGUF_MAGIC = b"GGUF"
OTHER_MODELS = {  # model_type -> what it is
    "qwen2_5_vl": "a Qwen2.5-VL, which does not hear",
    "qwen2_vl": "a Qwen2-VL, which does not hear",
    "qwen3_vl": "a Qwen3-VL, which does not hear",
    "qwen2_audio": "a Qwen2-Audio, which does not see",
    "qwen3_vl_moe": "a Qwen3-VL, which does not hear",
    "qwen3_omni_moe": "a Qwen3-Omni",
    "qwen3_omni_moe_thinker": "a Qwen3-Omni",
    "qwen2": "a text model (Qwen2 or Qwen2.5)",
    "qwen3": "a text model (Qwen3)",
    "qwen2_5_omni_talker": "only the talker (speech output) of a Qwen2.5-Omni",
    "qwen2_5_omni_token2wav": "only the token2wav (speech output) of a Qwen2.5-Omni",
}
READS = "ep reads ep-smol, Qwen2.5-Omni-7B and -3B, and what is trained from them"
TOKENS = {  # config.json's key -> the token whose id it is
    "audio_token_index": "<|AUDIO|>",
    "image_token_index": "<|IMAGE|>",
    "video_token_index": "<|VIDEO|>",
    "audio_start_token_id": "<|audio_bos|>",
    "audio_end_token_id": "<|audio_eos|>",
    "vision_start_token_id": "<|vision_bos|>",
    "vision_end_token_id": "<|vision_eos|>",
}
SPOKEN = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")  # chat markup
_NEW_NAMES = (("model.language_model.", "model."), ("model.audio_tower.", "audio_tower."), ("model.visual.", "visual."))


@dataclass(frozen=True)
class Folder:
    """A checkpoint folder that passed every check."""

    path: Path
    config: dict[str, Any]  # the thinker's part of config.json
    shape: Omni
    shards: tuple[Path, ...]  # the files that hold any of the thinker


def look(path: Path, *, words: bool = True) -> Folder:
    """Check a checkpoint folder. Raises WeightsError with the one line that says what it is and what to do.

    `words`: its tokenizer and preprocessor too, which weights alone do not need.
    """
    config = thinker_config(path)
    shape = _shape(path, config)
    files = weight_files(path)
    tensors: dict[str, Stored] = {}
    holders = []
    for file in files:
        about, found = read_header(file)
        if "epcli" in about:  # a sieve file that lies beside its base
            continue
        ours = {_published(key): value for key, value in found.items() if not key.startswith((*UNUSED, *SIEVE))}
        tensors |= ours
        holders += [file] if ours else []
    _check_tensors(path, config, tensors, any_file=bool(files))
    if words:
        _check_words(path, config, shape)
    return Folder(path, config, shape, tuple(holders))


def named(path: Path) -> str:
    """What the model in a folder is called: of a Hugging Face cache its repository's name, not a commit hash."""
    whole = path.resolve()
    if cache := _cached_repo(whole):
        return next((name for name, repo in REPOS.items() if repo.lower() == cache.lower()), cache.split("/")[-1])
    if re.fullmatch(r"[0-9a-f]{40}", whole.name):
        own = _json(path / CONFIG).get("_name_or_path") if (path / CONFIG).is_file() else None
        if isinstance(own, str) and own.strip("/ "):
            return own.strip("/ ").split("/")[-1]
    return whole.name


def known_name(text: str) -> str | None:
    """The name in `ep models list` of what people type for it: any case, the hub's id, the hub's address."""
    short = text.strip().lower().removeprefix("https://huggingface.co/").removeprefix("hf.co/").strip("/")
    return next((name for name, repo in REPOS.items() if short in (name, repo.lower())), None)


def refuse_name(text: str) -> UsageError | None:
    """What to say of a --model value that looks like a name on the hub, and is neither known nor on this disk."""
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", text) and not text.lower().endswith((".gguf", ".safetensors", ".bin")):
        what = (
            f"of the Hugging Face hub ep knows {' and '.join(REPOS.values())}; fetch others yourself, give the folder"
        )
        if re.search(r"gptq|awq|gguf|bnb|int[48]|fp8|4bit|8bit", text.lower()):
            what = "it looks quantized: use the original with --quantize nf4"
        return UsageError(f"no model named {text!r}, and no such folder here: {what}")
    return None


def refuse_file(path: Path) -> WeightsError:
    """What to say of a single file that is neither a sieve nor an adapter of ep."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == GGUF_MAGIC or path.suffix.lower() == ".gguf":
        return WeightsError(f"{path}: is a GGUF file, made for llama.cpp; {_ORIGINAL}")
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        return WeightsError(
            f"{path}: is a pickled PyTorch file, which can run code and is not read; "
            "give the folder of a checkpoint in safetensors"
        )
    if (path.parent / CONFIG).is_file():
        return WeightsError(f"{path}: is one file of a checkpoint; give its folder, {path.parent}")
    return WeightsError(f"{path}: is no model, sieve or adapter of ep; {READS}")


_ORIGINAL = "use the original in safetensors, with --quantize nf4 if memory is short"


def place(path: Path) -> Path:
    """The folder that holds config.json: the one given, or the snapshot of a Hugging Face cache folder.

    Raises WeightsError that says what the folder is instead.
    """
    try:
        return _place(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error


def _place(path: Path) -> Path:
    if (path / CONFIG).is_file():
        return path
    snapshots = path if path.name == "snapshots" else path / "snapshots"
    if snapshots.is_dir() and _cached_repo(snapshots.resolve()):
        return _snapshot(snapshots)
    files = {file.name for file in path.iterdir()}
    cached = sorted(name for home in (path, path / "hub") for name in _names(home) if name.startswith("models--"))
    if cached:
        hint = next((name for name in cached if "omni" in name.lower()), cached[0])
        raise WeightsError(
            f"{path}: is a cache of the Hugging Face hub, not one model; give a folder in it, such as {hint}"
        )
    if any(name.lower().endswith(".gguf") for name in files):
        raise WeightsError(f"{path}: holds GGUF files, made for llama.cpp; {_ORIGINAL}")
    if "adapter_config.json" in files:
        raise WeightsError(
            f"{path}: is an adapter of PEFT, not a model; merge it into its base and give that folder, "
            "or train with `ep train`"
        )
    inside = next((name for name in sorted(files) if (path / name / CONFIG).is_file()), None)
    if inside:
        raise WeightsError(f"{path}: has no config.json; did you mean {path / inside}?")
    if any(name.endswith((".safetensors", ".bin")) for name in files):
        raise WeightsError(f"{path}: has weights but no config.json; fetch the whole checkpoint")
    raise WeightsError(f"{path}: is no model folder: it has no config.json; {READS}")


def _names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()] if folder.is_dir() else []


def _cached_repo(path: Path) -> str | None:
    """ "Qwen/Qwen2.5-Omni-7B" of a path inside `models--Qwen--Qwen2.5-Omni-7B`; None for other paths."""
    parts = (path, *list(path.parents)[:2])
    cache = next((part.name for part in parts if part.name.startswith("models--")), None)
    return cache.removeprefix("models--").replace("--", "/") if cache else None


def _snapshot(snapshots: Path) -> Path:
    """The commit that `refs/main` names, else the newest with a config.json."""
    main = snapshots.parent / "refs" / "main"
    named = main.read_text(encoding="utf-8", errors="replace").strip() if main.is_file() else ""
    if named and ((found := snapshots / named) / CONFIG).is_file():
        return found
    there = [commit for commit in snapshots.iterdir() if (commit / CONFIG).is_file()]
    if not there:
        raise WeightsError(f"{snapshots.parent}: is only partly downloaded: no snapshot in it has a config.json")
    return max(there, key=lambda commit: commit.stat().st_mtime)


# config.json


def thinker_config(path: Path) -> dict[str, Any]:
    """The thinker's part of a folder's config.json. Raises WeightsError if it is another model's, or quantized."""
    whole = _json(path / CONFIG)
    kind = whole.get("model_type") or next(iter(whole.get("architectures") or ()), None)
    config = whole.get("thinker_config", whole)
    # The reference's checkpoints call themselves qwen2_5_omni_compress.
    is_omni = kind is None or str(kind).startswith(("qwen2_5_omni", "Qwen2_5Omni"))
    if not is_omni or kind in OTHER_MODELS:
        raise WeightsError(f"{path}: is {OTHER_MODELS.get(str(kind), f'another kind of model ({kind})')}; {READS}")
    if method := _quantization(whole):
        raise WeightsError(
            f"{path}: is already quantized ({method}); use the original with --quantize nf4, which quantizes by itself"
        )
    if not isinstance(config, dict) or not all(
        isinstance(config.get(part), dict) for part in ("text_config", "vision_config", "audio_config")
    ):
        raise WeightsError(
            f"{path / CONFIG}: not the config of a Qwen2.5-Omni model (it lacks text_config, vision_config or "
            "audio_config); fetch config.json again"
        )
    return config


def _quantization(config: Any) -> str | None:
    """The method that any part of a config names in its quantization_config."""
    if not isinstance(config, dict):
        return None
    if isinstance(settings := config.get("quantization_config"), dict):
        method = settings.get("quant_method")
        return str(method).upper().replace("BITSANDBYTES", "bitsandbytes") if method else "in a way of its own"
    return next((found for part in config.values() if (found := _quantization(part))), None)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises WeightsError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path.parent}: lacks {path.name}; fetch the whole checkpoint") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is damaged or cut off (no valid JSON); fetch it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: is damaged (no JSON object); fetch it again")
    return content


MOST, MOST_LAYERS = 10**9, 1000  # a damaged config must not keep us counting
_DEPTHS = ("num_hidden_layers", "depth", "encoder_layers")
_SIZES = {
    "text_config": ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"),
    "vision_config": ("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size"),
    "audio_config": (
        *("encoder_layers", "d_model", "encoder_attention_heads", "encoder_ffn_dim"),
        *("num_mel_bins", "output_dim"),
    ),
}
_OPTIONAL_SIZES = {
    "text_config": ("num_key_value_heads",),
    "vision_config": ("patch_size", "spatial_merge_size", "in_channels", "temporal_patch_size"),
    "audio_config": (),
}


def _shape(path: Path, config: Mapping[str, Any]) -> Omni:
    """The model's sizes. Raises WeightsError for one that is missing, or no count."""
    for part, names in _SIZES.items():
        for name in (*names, *(name for name in _OPTIONAL_SIZES[part] if name in config[part])):
            value = config[part].get(name)
            if type(value) is not int or not 1 <= value <= (MOST_LAYERS if name in _DEPTHS else MOST):
                said = f"is {value!r}, no count" if name in config[part] else "is missing"
                raise WeightsError(f"{path / CONFIG}: {part}.{name} {said}; fetch the file again")
    for name in ("audio_start_token_id", "audio_end_token_id", "vision_start_token_id", "vision_end_token_id"):
        if type(config.get(name)) is not int:
            raise WeightsError(f"{path / CONFIG}: lacks {name}; fetch the file again")
    text = config["text_config"]
    shape = Omni.of(config)
    rope = text.get("rope_scaling") or text.get("rope_parameters")
    sections = rope.get("mrope_section") if isinstance(rope, dict) else None
    if (
        not isinstance(sections, list)
        or not all(type(number) is int for number in sections)
        or sum(sections) != shape.decoder.head // 2
    ):
        raise WeightsError(
            f"{path / CONFIG}: text_config.rope_scaling.mrope_section must be numbers that add up to "
            f"{shape.decoder.head // 2}, and is {sections}; fetch the file again"
        )
    return shape


# Weights


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder that its index says hold the thinker; else model.safetensors; else all.

    Raises WeightsError if there are none, or the index names one that is not there.
    """
    if (path / INDEX).is_file():
        index = _json(path / INDEX)
        places = index.get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
            raise WeightsError(f"{path / INDEX}: is damaged (no weight_map); fetch it again")
        shards = thinker_shards(index)
        if not shards:
            raise WeightsError(f"{path}: {_ONLY_SPEECH}")
        absent = [shard for shard in shards if not (path / shard).is_file()]
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise WeightsError(f"{path}: lacks {absent[0]}{more}, which its index names; fetch the checkpoint again")
        return [path / shard for shard in shards]
    if (path / WHOLE).is_file():
        return [path / WHOLE]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        names = [file.name for file in path.iterdir()]
        if any(name.lower().endswith(".gguf") for name in names):
            raise WeightsError(f"{path}: holds GGUF files, made for llama.cpp; {_ORIGINAL}")
        if any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names):
            raise WeightsError(
                f"{path}: holds its weights only as pickled PyTorch files, which can run code and are not read; "
                "get the checkpoint in safetensors"
            )
        raise WeightsError(f"{path}: holds no weights (no *.safetensors); fetch the whole checkpoint")
    return files


_ONLY_SPEECH = "holds only the speech output (talker) of a Qwen2.5-Omni; fetch the files with the thinker too"


def sieve_base(file: Path, base: str) -> Path:
    """The folder of the model that a sieve file sits on: the one it lies in, else the named model in the cache, else
    the folder it was trained on. Raises WeightsError if it is not here."""
    if (file.parent / CONFIG).is_file():
        return file.parent
    if base in REPOS:
        return cached(base)
    if not base or not (Path(base) / CONFIG).is_file():
        raise WeightsError(f"{file}: its base model {base} is not here; put this file into its folder")
    return Path(base)


def _published(key: str) -> str:
    """A tensor's name as published, without `thinker.`: transformers' new names become the old ones."""
    key = key.removeprefix("thinker.")
    return next((old + key.removeprefix(new) for new, old in _NEW_NAMES if key.startswith(new)), key)


def expected(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of the thinker by its published name without `thinker.`, with its shape."""
    return {**_decoder(config), **_vision(config["vision_config"]), **_audio(config["audio_config"])}


def _linear(name: str, rows: int, columns: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}


def _decoder(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    d = Omni.of(config).decoder
    made: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (d.vocabulary, d.width),
        "model.norm.weight": (d.width,),
        "lm_head.weight": (d.vocabulary, d.width),
    }
    names = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    for number in range(d.layers):
        layer = f"model.layers.{number}"
        for name, (rows, columns) in zip(names, d.linear_shapes, strict=True):
            made |= _linear(f"{layer}.{name}", rows, columns, bias=name.endswith(("q_proj", "k_proj", "v_proj")))
        made |= {f"{layer}.{name}.weight": (d.width,) for name in ("input_layernorm", "post_attention_layernorm")}
    return made


def _vision(c: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, mlp, patch = c["hidden_size"], c["intermediate_size"], c.get("patch_size", 14)
    merged = width * c.get("spatial_merge_size", 2) ** 2
    kernel = (width, c.get("in_channels", 3), c.get("temporal_patch_size", 2), patch, patch)
    made: dict[str, tuple[int, ...]] = {
        "visual.patch_embed.proj.weight": kernel,
        "visual.merger.ln_q.weight": (width,),
        **_linear("visual.merger.mlp.0", merged, merged),
        **_linear("visual.merger.mlp.2", c["out_hidden_size"], merged),
    }
    for number in range(c["depth"]):
        block = f"visual.blocks.{number}"
        made |= {f"{block}.norm1.weight": (width,), f"{block}.norm2.weight": (width,)}
        for name in ("q", "k", "v", "proj"):
            made |= _linear(f"{block}.attn.{name}", width, width)
        made |= _linear(f"{block}.mlp.gate_proj", mlp, width)
        made |= _linear(f"{block}.mlp.up_proj", mlp, width)
        made |= _linear(f"{block}.mlp.down_proj", width, mlp)
    return made


def _audio(c: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, mlp, out = c["d_model"], c["encoder_ffn_dim"], c["output_dim"]
    made: dict[str, tuple[int, ...]] = {
        "audio_tower.conv1.weight": (width, c["num_mel_bins"], 3),
        "audio_tower.conv1.bias": (width,),
        "audio_tower.conv2.weight": (width, width, 3),
        "audio_tower.conv2.bias": (width,),
        "audio_tower.audio_bos_eos_token.weight": (2, out),
        "audio_tower.ln_post.weight": (width,),
        "audio_tower.ln_post.bias": (width,),
        **_linear("audio_tower.proj", out, width),
    }
    for number in range(c["encoder_layers"]):
        layer = f"audio_tower.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            made |= _linear(f"{layer}.self_attn.{name}", width, width, bias=name != "k_proj")
        made |= _linear(f"{layer}.fc1", mlp, width)
        made |= _linear(f"{layer}.fc2", width, mlp)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            made |= {f"{layer}.{name}.weight": (width,), f"{layer}.{name}.bias": (width,)}
    return made


_STACKS = {
    "the language model": re.compile(r"model\.layers\.(\d+)\."),
    "the vision tower": re.compile(r"visual\.blocks\.(\d+)\."),
    "the audio tower": re.compile(r"audio_tower\.layers\.(\d+)\."),
}


def _check_tensors(path: Path, config: Mapping[str, Any], found: dict[str, Stored], *, any_file: bool) -> None:
    """Raises WeightsError unless the files hold exactly the tensors that config.json makes."""
    if not found:
        raise WeightsError(f"{path}: {_ONLY_SPEECH if any_file else 'holds no weights'}")
    wanted = expected(config)
    strange = [key for key, facts in found.items() if key.endswith(QUANTIZED) or facts.dtype not in FLOATS]
    if strange and not strange[0].endswith(BUFFERS):
        raise WeightsError(
            f"{path}: is already quantized ({strange[0]}, {found[strange[0]].dtype}); "
            "use the original with --quantize nf4, which quantizes by itself"
        )
    missing = [key for key in wanted if key not in found]
    if missing and (shard := _absent_shard(path)):
        raise WeightsError(f"{path}: lacks {shard}; fetch the checkpoint again")
    for part, pattern in _STACKS.items():
        said, there = _layers(pattern, wanted), _layers(pattern, found)
        if said != there:
            raise WeightsError(
                f"{path}: config.json gives {part} {said} layers, and the weights hold {there}; "
                "they are of different models, or files are missing: fetch the checkpoint again"
            )
    if missing:
        raise WeightsError(f"{path}: the weights lack {missing[0]}; fetch the checkpoint again")
    for key, shape in wanted.items():
        if found[key].shape != shape:
            raise WeightsError(
                f"{path}: {key} is {_times(found[key].shape)}, and config.json makes it {_times(shape)}; "
                "they are of different models: fetch the checkpoint again"
            )
    extra = next((key for key in found if key not in wanted and not key.endswith(BUFFERS)), None)
    if extra:
        raise WeightsError(
            f"{path}: holds {extra}, which no Qwen2.5-Omni has; merge adapters into the model, or give the original"
        )


def _absent_shard(path: Path) -> str | None:
    """The first name missing among `model-00001-of-00005.safetensors` and its like."""
    there = {file.name for file in path.glob("*.safetensors")}
    for name in sorted(there):
        if match := re.fullmatch(r"(.*-)(\d+)(-of-)(\d+)(\.safetensors)", name):
            begin, number, of, count, end = match.groups()
            every = (f"{begin}{n:0{len(number)}}{of}{count}{end}" for n in range(1, min(int(count), 10_000) + 1))
            return next((shard for shard in every if shard not in there), None)
    return None


def _layers(pattern: re.Pattern[str], names: Mapping[str, Any]) -> int:
    return len({match[1] for name in names if (match := pattern.match(name))})


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


# Tokenizer and preprocessors


def _check_words(path: Path, config: Mapping[str, Any], shape: Omni) -> None:
    """Raises WeightsError if tokenizer or preprocessor files are missing, damaged, or of another model."""
    heard = _json(path / PREPROCESSOR)
    for name in ("feature_size", "image_mean", "image_std", "patch_size", "merge_size", "temporal_patch_size"):
        if name not in heard:
            raise WeightsError(
                f"{path / PREPROCESSOR}: lacks {name}; it is another model's: fetch the one of this checkpoint"
            )
    if heard["feature_size"] != config["audio_config"]["num_mel_bins"]:
        raise WeightsError(
            f"{path / PREPROCESSOR}: makes {heard['feature_size']} mel bins, and config.json wants "
            f"{config['audio_config']['num_mel_bins']}; they are of different models: fetch the checkpoint again"
        )
    _json(path / "tokenizer_config.json")
    numbers = _vocabulary(path)
    lacking = next((token for token in (*SPOKEN, *TOKENS.values()) if token not in numbers), None)
    if lacking:
        raise WeightsError(
            f"{path}: its tokenizer has no {lacking}, so it is another model's; fetch the tokenizer's files again"
        )
    highest, size = max(numbers.values()), shape.decoder.vocabulary
    if highest >= size:
        raise WeightsError(
            f"{path}: its tokenizer counts to {highest}, and config.json's vocabulary has {size} tokens; "
            "they are of different models: fetch the checkpoint again"
        )
    for key, token in TOKENS.items():
        said = config.get(key, numbers[token])
        if said != numbers[token]:
            raise WeightsError(
                f"{path}: {token} is number {numbers[token]} of its tokenizer, and config.json says {key} {said}; "
                "they have different vocabularies: fetch the checkpoint again"
            )


def _vocabulary(path: Path) -> dict[str, int]:
    """Token numbers by their text, of tokenizer.json, else of vocab.json and what is added to it. WeightsError."""
    try:
        if (path / "tokenizer.json").is_file():
            whole = _json(path / "tokenizer.json")
            added = {token["content"]: int(token["id"]) for token in whole["added_tokens"]}
            return {**whole["model"]["vocab"], **added}
        if not (path / "vocab.json").is_file() or not (path / "merges.txt").is_file():
            raise WeightsError(f"{path}: lacks tokenizer.json; fetch the whole checkpoint")
        settings = _json(path / "tokenizer_config.json").get("added_tokens_decoder", {})
        added = {token["content"]: int(number) for number, token in settings.items()}
        more = _json(path / "added_tokens.json") if (path / "added_tokens.json").is_file() else {}
        return {**_json(path / "vocab.json"), **added, **more}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: its tokenizer's files are damaged; fetch them again") from error


def exists(text: str) -> bool:
    """Whether a --model value is something on this disk; never raises."""
    return bool(text) and os.path.exists(os.path.expanduser(text))
