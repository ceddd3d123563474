"""`ep plan`: its formulas against real allocations of small models, and its words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_omni
import torch
from safetensors.torch import save_file
from transformers import DynamicCache

from epcli.cli import app
from epcli.compat import caching
from epcli.config import Profile, find_profile, profile_names, resolve
from epcli.media import ffmpeg
from epcli.media.read import read
from epcli.models.costs import Decoder
from epcli.models.qwen_omni import costs
from epcli.models.qwen_omni.costs import Omni
from epcli.models.qwen_omni.folder import thinker_config
from epcli.models.qwen_omni.model import Thinker
from epcli.models.smol import family as smol_family
from epcli.records import AudioTrack, MediaInfo, Plan
from epcli.report.plan_console import describe
from epcli.session import plan as planning
from epcli.sieve.sieve import Sieve

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_omni.write(tmp_path_factory.mktemp("plan") / "tiny")


@pytest.fixture(scope="module")
def shape(folder) -> Omni:
    return Omni.of(thinker_config(folder))


def film(duration_s: float, *, audio: bool = True) -> MediaInfo:
    tracks = (AudioTrack(0, "aac", 2, 48000, None, None),) if audio else ()
    return MediaInfo(Path("film.mkv"), "matroska", duration_s, False, 1920, 1080, 24.0, "h264", tracks)


def cost(info: MediaInfo, memory_gb: float = 24, **settings) -> Plan:
    return planning.plan_of(info, info.duration_s, Profile(**settings), round(memory_gb * 1e9))


def test_parameters_are_those_of_the_model(folder, shape):
    model = Thinker.load(folder, dtype=torch.float32)
    counted = {
        part: sum(weight.numel() for weight in model.thinker.get_submodule(part).parameters())
        for part in ("model.visual", "model.audio_tower", "model.language_model", "lm_head")
    }
    assert shape.vision_parameters == counted["model.visual"]
    assert shape.audio_parameters == counted["model.audio_tower"]
    assert shape.decoder.parameters == counted["model.language_model"] + counted["lm_head"]
    assert shape.weights_bytes(4) == sum(weight.nbytes for weight in model.thinker.parameters())


def test_parameters_of_the_published_models_are_those_of_transformers():
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    with torch.device("meta"):  # transformers' defaults are the 7B's, but for the vision tower's width
        config = Qwen2_5OmniThinkerConfig(vision_config={"hidden_size": 1280}, tie_word_embeddings=False)
        whole = Qwen2_5OmniThinkerForConditionalGeneration(config)
    assert costs.SHAPES["qwen2.5-omni-7b"].parameters == sum(weight.numel() for weight in whole.parameters())
    assert costs.SHAPES["qwen2.5-omni-3b"].parameters == pytest.approx(4.7e9, rel=0.01)  # "5B params" on its page


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantized_bytes_are_those_that_bitsandbytes_allocates(folder, shape, quantize, dtype):
    layers = Thinker.load(folder, dtype=dtype, quantization=quantize).decoder.layers
    total = sum(weight.nbytes for weight in layers.parameters())
    for module in layers.modules():
        if type(module).__name__ == "Linear4bit":
            state = module.weight.quant_state
            total += state.absmax.nbytes + state.state2.absmax.nbytes + state.offset.nbytes
        elif type(module).__name__ == "Linear8bitLt":
            total += module.weight.SCB.nbytes
    assert shape.decoder.layers_bytes(dtype.itemsize, quantize) == total


def test_sieve_parameters_are_those_of_the_sieve(folder, shape):
    decoder = Thinker.load(folder, dtype=torch.float32).decoder
    for depth in (1, 3):
        sieve = Sieve.for_decoder(decoder, depth)
        assert shape.decoder.sieve_parameters(depth) == sum(weight.numel() for weight in sieve.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kv_bytes_are_those_of_the_cache(folder, shape, dtype):
    decoder = Thinker.load(folder, dtype=dtype).decoder
    cache = DynamicCache(config=decoder.config)
    with torch.inference_mode():
        decoder(inputs_embeds=torch.zeros(1, 37, 128, dtype=dtype), **caching(decoder, cache))
    allocated = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert shape.decoder.kv_bytes(37, dtype.itemsize) == allocated


def test_the_decoder_of_ep_smol_has_the_size_of_its_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    smol = smol_family.DECODER
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=smol.width,
                num_hidden_layers=smol.layers,
                num_attention_heads=smol.heads,
                num_key_value_heads=smol.kv_heads,
                intermediate_size=smol.mlp,
                vocab_size=smol.vocabulary,
                tie_word_embeddings=True,
            )
        )
    assert smol.parameters == sum(weight.numel() for weight in model.parameters()) == 134_515_008


def test_an_adapter_of_ep_smol_with_a_sieve_is_planned_with_it(clip, tmp_path):
    refiner = {"depth": 3, "rank": 4, "gain": 0.2, "scale": 1.0}
    path = tmp_path / "adapter.safetensors"
    for tensors, selector, depth in (({}, "none", 0), ({"scorer.ln.weight": torch.ones(2)}, "cs2", 3)):
        about = {"epcli": json.dumps({"heard": [], "refiner": refiner})}
        save_file({"audio.weight": torch.ones(2), **tensors}, path, about)
        made = planning.plan(clip, Profile(model=str(path), device="cpu", dtype="fp32"))
        assert made.selector == selector
        assert made.memory.sieve == (smol_family.DECODER.sieve_parameters(depth) * 4 if depth else 0)


def test_an_activation_estimate_covers_what_a_layer_holds():
    """Bytes alive inside one decoder layer, counted as they are made and freed, stay within the formula."""
    text = tiny_omni.TEXT | {"vocab_size": 300, "num_hidden_layers": 1, "intermediate_size": 512}
    from transformers import Qwen2_5OmniThinkerTextModel
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig

    model = Qwen2_5OmniThinkerTextModel(Qwen2_5OmniTextConfig(**text)).eval()
    shape = Decoder(128, 1, 2, 1, 64, 512, 300, biases=True, tied=False)
    tokens = 256
    with torch.inference_mode(), torch.profiler.profile(profile_memory=True) as profiler:
        model(inputs_embeds=torch.zeros(1, tokens, 128), use_cache=False)
    alive = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    estimate = shape.activation_bytes(tokens, 4)
    assert 0.5 * estimate < peak < 1.25 * estimate


def test_tokens_of_an_hour_and_what_stays():
    made = cost(film(3600), model="qwen2.5-omni-7b", max_frames=768, keep=0.1, selector="cs2")
    assert made.media.frames == 768
    assert made.tokens.video.total == 384 * (made.media.frame_size[0] // 28) * (made.media.frame_size[1] // 28)
    assert made.tokens.audio.total == 90_000
    kept = made.tokens.video.kept + made.tokens.audio.kept
    assert kept == -(-(made.tokens.video.total + 90_000) // 10)
    assert made.context.fits
    assert not cost(film(3600), model="qwen2.5-omni-7b", max_frames=768).context.fits


@pytest.mark.parametrize(("model", "scaled"), [("qwen2.5-omni-7b", 0), ("qwen2.5-omni-3b", 1)])
def test_scaled_drop_layers_are_told(model: str, scaled: int):
    notes = cost(film(60), model=model, keep=0.1, selector="seats").notes
    assert sum("scaled from the published ones" in note for note in notes) == scaled


def test_that_the_number_of_picture_tokens_is_an_estimate_is_told(monkeypatch):
    plain = cost(film(60), model="ep-smol")
    family = type(smol_family.FAMILY)
    real = family.costs
    monkeypatch.setattr(family, "costs", lambda *given: replace(real(*given), video_estimated=True))
    told = cost(film(60), model="ep-smol")
    note = f"what is seen; {told.tokens.video.total:,} is an estimate"
    assert sum(note in line for line in told.notes) == 1
    assert note in describe(told)
    assert told.tokens == plain.tokens
    assert not any(note in line for line in cost(film(60), model="ep-smol", video=False).notes)


def test_the_sieves_memory_is_bounded_by_its_window_not_by_the_film():
    hour, three = (
        cost(film(length), model="qwen2.5-omni-7b", selector="cs2", budget=4000) for length in (3600, 3 * 3600)
    )
    table = hour.memory.token_embeddings
    grown = three.memory.choosing - hour.memory.choosing
    assert grown == three.memory.token_embeddings - table  # the tokens themselves, and nothing else
    assert three.memory.prefill == hour.memory.prefill
    assert three.memory.kv_cache == hour.memory.kv_cache


@pytest.mark.parametrize("name", [name for name in profile_names() if name.startswith("gpu-")])
@pytest.mark.parametrize("seconds", [60, 3600])
def test_a_minute_and_an_hour_fit_every_profile(name, seconds):
    memory = float(name.removeprefix("gpu-").removesuffix("gb"))
    profile = resolve(profile=str(find_profile(name)), environment={}).profile
    made = planning.plan_of(film(seconds), seconds, profile, round(memory * 1e9))
    assert made.available.fits, made.stages
    assert made.context.fits


def test_what_does_not_fit_comes_with_what_would():
    info = film(600)
    profile = Profile(model="qwen2.5-omni-7b", device="cpu", dtype="bf16")
    made = planning.plan_of(info, 600.0, profile, 16_000_000_000)
    assert made.available.fits is False
    assert any(line.startswith("--quantize") for line in made.advice)


def run(capsys, *arguments: str) -> str:
    app(["plan", *arguments], standalone_mode=False)
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    inputs = ("testsrc=size=160x120:rate=10:duration=5", "sine=440:duration=5")
    source = [word for each in inputs for word in ("-f", "lavfi", "-i", each)]
    subprocess.run([ffmpeg.find().path, "-nostdin", "-y", "-v", "error", *source, str(path)], check=True)
    return path


def test_the_command_tells_the_same_tokens_as_the_answer(capsys, clip, folder):
    flags = ["--model", str(folder), "--keep", "0.2", "--dtype", "fp32", "--json", "--max-new-tokens", "3"]
    planned = json.loads(run(capsys, str(clip), *flags))
    app(["ask", str(clip), "What?", *flags], standalone_mode=False)
    asked = json.loads(capsys.readouterr().out)
    for modality in ("video", "audio"):
        assert planned["tokens"][modality]["total"] == asked["tokens"][modality]["total"]
    kept = [sum(report["tokens"][m]["kept"] for m in ("video", "audio")) for report in (planned, asked)]
    assert kept[0] == kept[1]
    assert planned["schema"] == 1
    assert planned["context"]["fits"] is True
    assert planned["peak_bytes"] == max(planned["stages"].values())


def test_the_command_says_clearly_what_does_not_fit(capsys, clip):
    page = run(capsys, str(clip), "--model", "qwen2.5-omni-7b", "--memory", "8", "--device", "cpu")
    assert "does not fit: 8.0 GB given with --memory" in page
    assert max(map(len, page.splitlines())) <= 100
    page = run(
        capsys, str(clip), "--model", "qwen2.5-omni-7b", "--memory", "12", "--quantize", "nf4", "--device", "cuda"
    )
    assert "\nfits: 12.0 GB given with --memory" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_for_a_gpu_that_is_not_here_it_does_not_guess(capsys, clip):
    page = run(capsys, str(clip), "--model", "qwen2.5-omni-3b", "--device", "cuda")
    assert "not known: no CUDA device here; give its memory with --memory" in page


LONG = """
import torch
from transformers import Qwen2_5OmniThinkerTextModel
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from epcli.records import TokenStream
from epcli.sieve.select import Budget
from epcli.sieve.selectors import Tools, select
from epcli.sieve.sieve import Sieve
from epcli.sieve.sync_rope import install
torch.manual_seed(0)
torch.set_num_threads(1)
config = Qwen2_5OmniTextConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
    intermediate_size=4096, vocab_size=64, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
decoder = Qwen2_5OmniThinkerTextModel(config).eval()
install(decoder, (4, 4, 4, 4))
sieve = Sieve.for_decoder(decoder, 1).eval()
def peak(tokens, window):
    time = torch.arange(tokens + 20)
    modality = torch.ones(tokens + 20, dtype=torch.uint8)
    modality[-20:] = 0
    stream = TokenStream(torch.randn(tokens + 20, 64), time.expand(4, -1), modality, torch.zeros(tokens + 20, 2),
        torch.zeros(tokens + 20, 3, dtype=torch.int16), (1, 1), tokens + 20)
    select("cs2", stream, Budget(tokens=100), Tools(sieve=sieve, window_tokens=window))
    # Not ru_maxrss: a child inherits the peak of the process that started it.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(peak(1024, 1024), peak(8192, 1024), peak(8192, 8192))
"""


@pytest.mark.slow
def test_the_sieves_peak_does_not_grow_with_the_film():
    """8 windows need the memory of one and the tokens themselves; the same 8192 tokens at once need far more."""
    # glibc would keep freed blocks of up to 32 MB for later, in pieces, and now and then 100 MB of them by chance
    plain = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    command = [sys.executable, "-c", LONG]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=900, check=True)
    one, eight, unwindowed = (int(word) * 1024 for word in done.stdout.split())
    activations = 8192 * 3 * 4096 * 4  # gate, up and product of 8192 tokens: 403 MB
    assert eight - one < 0.2 * activations  # 7 MB were seen
    assert unwindowed - one > 0.5 * activations  # 377 MB were seen


def test_plan_and_read_give_a_still_the_same_size(tmp_path):
    path = tmp_path / "screen.png"
    arguments = ["-f", "lavfi", "-i", "testsrc=size=640x360", "-frames:v", "1", str(path)]
    subprocess.run([ffmpeg.find().path, "-nostdin", "-y", "-v", "error", *arguments], check=True)
    for profile in (Profile(model="qwen2.5-omni-7b"), Profile(model="qwen2.5-omni-7b", max_pixels=100_352)):
        made = planning.plan(path, profile, memory_bytes=10**12)
        frames = read(path, costs.sampling(profile)).frames
        assert frames is not None
        assert made.media.frame_size == (frames.shape[2], frames.shape[1])
        assert made.tokens.video.total == (112 if profile.max_pixels else 299)
