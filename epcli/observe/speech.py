"""What hears words: the built-in Whisper tiny.en, Whisper base, or any Whisper checkpoint of the user's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, WhisperConfig, WhisperForConditionalGeneration

from epcli.errors import EpError, UsageError, WeightsError
from epcli.observe.whisper import BASE_LEAD_S, WINDOW_S, Whisper, load_base, load_whisper
from epcli.text import did_you_mean

TINY, BASE = "tiny.en", "base"
WANTED = ("*.json", "*.txt", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors")


def load_speech(name: str = TINY, language: str | None = None, device: str | torch.device = "cpu") -> Whisper:
    """Load what hears words, in float32.

    name: "tiny.en" (English), "base" (99 languages, fetched when first used), a folder with a Whisper checkpoint as
    transformers writes it, or the name of one on the Hugging Face Hub ("openai/whisper-large-v3"), which is taken from
    its cache or fetched. language: a code such as "de"; None finds it out for each half minute.

    Raises UsageError for a language that it does not know, WeightsError for what cannot be had or is no Whisper.
    """
    if name == TINY:
        whisper = load_whisper(device)
    elif name == BASE:
        whisper = load_base(device=device)
    else:
        whisper = _load_checkpoint(name, device)
    known = whisper.vocabulary.languages or {"en": 0}
    if language is not None:
        if language not in known:
            only = "knows English only; try --speech base" if len(known) == 1 else f"knows no language {language!r}"
            raise UsageError(f"--language {language}: {name} {only}{did_you_mean(language, known)}")
        whisper.language = language
    return whisper


def _load_checkpoint(name: str, device: str | torch.device) -> Whisper:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub(name)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") != "whisper":
            raise ValueError(f"its config.json says model_type {config.get('model_type')!r}")
        model: Any = WhisperForConditionalGeneration.from_pretrained(
            folder,
            config=WhisperConfig(**config),
            attn_implementation="eager",  # the others do not hand out the attention weights
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        how: Any = model.generation_config
        return Whisper(
            model.to(device).eval().requires_grad_(False),
            tokenizer,
            [tuple(pair) for pair in getattr(how, "alignment_heads", None) or _last_heads(model.config)],
            list(how.suppress_tokens or []),
            list(how.begin_suppress_tokens or []),
            step_s=WINDOW_S,
            lead_s=BASE_LEAD_S,
        )
    except EpError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"--speech {name}: is no Whisper checkpoint that can be used ({why})") from error


def _last_heads(config: WhisperConfig) -> list[tuple[int, int]]:
    """All heads of the later half of the decoder: OpenAI's choice where none are named."""
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    return [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]


def _from_hub(name: str) -> Path:
    """The folder of a checkpoint in the Hugging Face cache, fetched if need be. Raises UsageError, WeightsError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    advice = f"give {TINY}, {BASE}, a folder, or a name on the Hugging Face Hub such as openai/whisper-small"
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UsageError(f"--speech {name}: there is no such folder{did_you_mean(name, (TINY, BASE))}; {advice}")
    try:
        try:
            found = Path(snapshot_download(name, allow_patterns=list(WANTED), local_files_only=True))
            if any(found.glob("model*.safetensors")):
                return found
        except OSError:
            pass  # not in the cache
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except HFValidationError:
        raise UsageError(f"--speech {name}: is no name of a model; {advice}") from None
    except Exception as error:  # of the network, the hub and the disk: huggingface_hub lets them all through
        raise WeightsError(
            f"--speech {name}: is not in the Hugging Face cache and cannot be fetched ({type(error).__name__})"
        ) from error
