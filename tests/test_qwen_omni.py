"""Qwen2.5-Omni as its users meet it, on a folder of tiny random weights in the published layout."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_omni
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2_5OmniProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from epcli.cli import app
from epcli.errors import EpError, UsageError, WeightsError
from epcli.media import ffmpeg
from epcli.media.sampling import fit_size
from epcli.models import catalog
from epcli.models.qwen_omni import sieve_file
from epcli.models.qwen_omni.costs import FRAME_PIXELS, audio_tokens
from epcli.models.qwen_omni.model import QwenOmni, Thinker, thinker_tensors
from epcli.models.qwen_omni.reading import UnmappedTensor
from epcli.records import Clip, Features, MediaInfo, Modality
from epcli.sieve.select import Budget, keep_count
from epcli.sieve.selectors import SELECTORS, Tools, select

CPU = torch.device("cpu")
QUESTION = "Which user speaks first, and what is red?"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("omni")


@pytest.fixture(scope="module")
def plain(home) -> Path:
    return tiny_omni.write(home / "plain")


@pytest.fixture(scope="module")
def sieved(home) -> Path:
    return tiny_omni.write(home / "sieved", sieve=True)


@pytest.fixture(scope="module")
def model(plain) -> QwenOmni:
    return QwenOmni.open(plain, "tiny", CPU, torch.float32)


@pytest.fixture(scope="module")
def media(home) -> dict[str, Path]:
    """Five seconds of test card and tone: together, and each alone; and one picture."""
    picture = ["-f", "lavfi", "-i", "testsrc=size=160x120:rate=10:duration=5"]
    sound = ["-f", "lavfi", "-i", "sine=440:duration=5"]
    h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
    made = {
        "both": (home / "both.mp4", [*picture, *sound, *h264, "-c:a", "aac"]),
        "silent": (home / "silent.mp4", [*picture, *h264]),
        "sound": (home / "sound.wav", sound),
        "picture": (home / "picture.png", [*picture, "-frames:v", "1"]),
    }
    for path, arguments in made.values():
        subprocess.run([ffmpeg.find().path, "-nostdin", "-y", "-v", "error", *arguments, str(path)], check=True)
    return {name: path for name, (path, _) in made.items()}


def ask(capsys, media: Path, model: Path, *flags: str) -> dict[str, Any]:
    """`ep ask --json` in this process."""
    arguments = ["ask", str(media), QUESTION, "--model", str(model), "--max-new-tokens", "4", "--json", *flags]
    app([*arguments, "--dtype", "fp32"] if "--dtype" not in flags else arguments, standalone_mode=False)
    return json.loads(capsys.readouterr().out)


def clip(frames: int, seconds: float, sound_s: float, *, image: bool = False, late_s: float = 0.0) -> Clip:
    """Noise to look at and listen to; the first frame `late_s` after the start."""
    noise = np.random.default_rng(frames)
    info = MediaInfo(Path("clip.mp4"), "mp4", seconds, image, 84, 56, 25.0, "h264", ())
    pictures = noise.integers(0, 256, (frames, 56, 84, 3), dtype=np.uint8) if frames else None
    times = late_s + (np.arange(frames) + 0.5) * (seconds - late_s) / frames if frames else None
    samples = noise.normal(0, 0.1, round(sound_s * 16000)).astype(np.float32) if sound_s else None
    return Clip(info, (0.0, seconds), pictures, np.zeros(1) if image else times, samples)


def features(model: QwenOmni, clip: Clip) -> Features:
    return Features(clip.duration_s, model.encode_video(clip), model.encode_audio(clip))


# The command line, end to end.


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_the_program_answers_in_a_process_of_its_own(media, plain, tmp_path, quantize):
    run = subprocess.run(
        [
            *(sys.executable, "-c", "from epcli.cli import main; main()", "ask", str(media["both"]), QUESTION),
            *("--json", "--model", str(plain), "--max-new-tokens", "4", "--keep", "0.2", "--quantize", quantize),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "EP_THREADS": "1"},
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["model"] == "plain"
    assert 1 <= report["generated_tokens"] <= 4
    assert report["selector"] == "seats"
    assert "no trained sieve" in " ".join(report["warnings"])
    assert run.stderr == ""  # no library's warnings


@pytest.mark.parametrize("name", ["both", "silent", "sound", "picture"])
def test_token_counts_follow_the_formulas(capsys, media, plain, name):
    report = ask(capsys, media[name], plain)
    columns, rows = (side // 28 for side in fit_size(160, 120, FRAME_PIXELS, 28))
    frames = {"both": 10, "silent": 10, "sound": 0, "picture": 1}[name]
    assert report["media"]["frames"] == frames
    assert report["tokens"]["video"]["total"] == math.ceil(frames / 2) * rows * columns
    assert report["tokens"]["audio"]["total"] == (125 if name in ("both", "sound") else 0)
    assert report["tokens"]["keep_ratio"] == 1.0
    assert 0 <= report["generated_tokens"] <= 4


@pytest.mark.slow
@pytest.mark.parametrize(("quantize", "dtype"), [("nf4", "bf16"), ("int8", "fp32"), ("none", "fp16"), ("nf4", "fp32")])
def test_quantized_and_in_other_dtypes_it_answers_through_the_sieve(capsys, media, sieved, quantize, dtype):
    report = ask(capsys, media["both"], sieved, "--quantize", quantize, "--dtype", dtype, "--keep", "0.1")
    assert report["selector"] == "cs2"
    av = report["tokens"]["video"], report["tokens"]["audio"]
    assert sum(each["kept"] for each in av) == keep_count(sum(each["total"] for each in av), 0.1)
    assert report["settings"]["quantize"] == quantize
    assert 0 <= report["generated_tokens"] <= 4


@pytest.mark.parametrize("keep", ["0.05", "0.5", "1.0"])
def test_every_keep_ratio_goes_through_the_trained_sieve(capsys, media, sieved, keep):
    report = ask(capsys, media["both"], sieved, "--keep", keep)
    av = report["tokens"]["video"], report["tokens"]["audio"]
    assert sum(each["kept"] for each in av) == keep_count(sum(each["total"] for each in av), float(keep))


def test_cs2_without_a_trained_sieve_is_refused(capsys, media, plain):
    with pytest.raises(UsageError, match="cs2 needs a model with a trained sieve"):
        ask(capsys, media["silent"], plain, "--selector", "cs2")


@pytest.mark.parametrize("name", ["nothing-here", "../nothing"])
def test_a_model_that_is_not_there_is_a_usage_error(name):
    with pytest.raises(UsageError, match="no model named"):
        catalog.find(name)


def test_a_model_of_the_users_own_is_never_deleted(plain):
    with pytest.raises(UsageError, match="of your own"):
        catalog.remove(str(plain))
    with pytest.raises(UsageError, match="of your own"):
        catalog.pull(str(plain))
    assert (plain / "config.json").exists()
    assert catalog.status(str(plain)) == "ready"


# Exactness against transformers.

LAYOUTS = [
    (8, 4.0, 4.0),
    (9, 4.5, 4.5),  # an odd frame
    (5, 2.5, 9.0),  # sound goes on
    (16, 8.0, 2.0),  # picture goes on
    (7, 20.0, 13.3),  # grids 5.7 s apart: chunks are skipped
    (6, 300.0, 40.0),
    (12, 6.0, 0.0),
    (0, 5.3, 5.3),
    (3, 0.9, 0.9),
]


def reference_ids(model: QwenOmni, found: Features, step_s: float, *, image: bool) -> list[int]:
    """The media's ids as transformers' own processor writes them between the vision or sound markers."""
    words = model.tokenizer
    names = ("image", "audio", "video", "vision_bos", "vision_eos", "audio_bos", "audio_eos")
    token = {name: getattr(words, f"{name}_token") for name in names}
    heard = [] if found.audio is None else [token["audio"]] * len(found.audio.tokens)
    if found.video is None:
        text = token["audio_bos"] + "".join(heard) + token["audio_eos"]
    else:
        t, rows, cols, _ = found.video.grid.shape
        inside = (token["image"] if image else token["video"]) * (t * rows * cols)
        if heard:
            # An unbound method of the processor, since the whole needs torchvision.
            stand_in = SimpleNamespace(
                video_processor=SimpleNamespace(merge_size=2),
                get_chunked_index=lambda *a: Qwen2_5OmniProcessor.get_chunked_index(stand_in, *a),  # type: ignore[arg-type]
                **{f"{name}_token": value for name, value in token.items()},
            )
            inside = Qwen2_5OmniProcessor.replace_video_with_audio_token(
                stand_in,  # type: ignore[arg-type]
                {"video_grid_thw": [np.array([t, 2 * rows, 2 * cols])], "video_second_per_grid": [step_s]},
                0,
                {"num_audio_tokens": [len(heard)]},
                0,
                position_id_per_seconds=25,
                seconds_per_chunk=2.0,
            )
        text = token["vision_bos"] + inside + token["vision_eos"]
    return words(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(("frames", "seconds", "sound"), [*LAYOUTS, (1, 0.0, 0.0)])
def test_the_stream_is_transformers_own_prompt(model, frames, seconds, sound):
    image = seconds == 0
    made = clip(frames, seconds, sound, image=image)
    found = features(model, made)
    stream = model.stream(found, QUESTION, None)
    step = 2 * seconds / frames if frames else 0.0
    chat = model.tokenizer(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n|"
        f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
        add_special_tokens=False,
    )["input_ids"]
    cut = chat.index(model.tokenizer.convert_tokens_to_ids("|"))
    ids = torch.tensor([[*chat[:cut], *reference_ids(model, found, step, image=image), *chat[cut + 1 :]]])

    grid = None if found.video is None else torch.tensor([[len(found.video.grid), 4, 6]])
    positions = model.positions(
        ids,
        torch.ones_like(ids),
        image_grid_thw=grid if image else None,
        video_grid_thw=None if image else grid,
        video_second_per_grid=torch.tensor([step]),
        mel_frames=torch.tensor([math.ceil(sound * 100)]),
        use_audio_in_video=bool(frames and sound),
    )
    assert torch.equal(stream.positions, positions[:, 0])
    assert stream.next_position == int(positions.max()) + 1

    # Embeddings: transformers scatters the towers' outputs, in the order in which the tokens stand.
    given: dict[str, Any] = {}
    if made.frames is not None:
        pixels, shape = model.inputs.patches(made.frames)
        given = {"pixel_values": pixels, "image_grid_thw": torch.tensor([shape])}
        if not image:
            given = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([shape])}
    if made.samples is not None:
        mel = model.inputs.extractor(
            made.samples, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt"
        )
        given |= {"input_features": mel["input_features"], "feature_attention_mask": mel["attention_mask"]}
    with torch.inference_mode():
        embeds = model.embed(ids, **given)[0]
    torch.testing.assert_close(stream.embeds, embeds, atol=1e-5, rtol=1e-5)
    assert torch.equal(stream.modality != Modality.TEXT, model.is_av(ids)[0])


def test_patches_of_a_still_frame_are_those_of_transformers_image_processor(model):
    frame = clip(1, 0, 0, image=True).frames
    assert frame is not None
    want = Qwen2VLImageProcessorPil(**tiny_omni.PREPROCESSOR)(list(frame), do_resize=False, return_tensors="pt")
    pixels, grid = model.inputs.patches(frame)
    torch.testing.assert_close(pixels, want["pixel_values"].float(), atol=1e-5, rtol=1e-5)
    assert list(grid) == want["image_grid_thw"][0].tolist()


def test_patches_of_two_frames_are_a_convolution_over_the_film(model):
    """The patch embedding is a 3-D convolution with stride; run over the film itself, it tells the patches' order."""
    frames = clip(4, 2, 0).frames
    assert frames is not None
    pixels, (t, rows, cols) = model.inputs.patches(frames)
    embed = model.thinker.model.visual.patch_embed
    film = (torch.from_numpy(frames).float() / 255 - model.inputs.mean) / model.inputs.std
    with torch.inference_mode():
        grid = nn.functional.conv3d(film.permute(3, 0, 1, 2)[None], embed.proj.weight, stride=embed.proj.stride)[0]
        merged = grid.view(-1, t, rows // 2, 2, cols // 2, 2).permute(1, 2, 4, 3, 5, 0)
        torch.testing.assert_close(embed(pixels), merged.reshape(t * rows * cols, -1), atol=1e-4, rtol=1e-4)


def test_batches_of_grids_give_what_the_whole_film_gives(model, monkeypatch):
    made = clip(10, 5, 0)
    whole = model.encode_video(made)
    monkeypatch.setattr(
        "epcli.models.qwen_omni.model.BATCH_PATCHES", 30
    )  # of 24 a grid: a window, two grids, at a time
    parts = model.encode_video(made)
    torch.testing.assert_close(parts.grid, whole.grid, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.attention, whole.attention, atol=1e-5, rtol=1e-5)


def test_the_towers_tell_the_attention_of_each_token_and_the_stream_carries_it(model):
    found = features(model, clip(10, 5, 5))
    assert found.video.attention.shape == found.video.grid.shape[:3]
    assert found.audio.attention.shape == found.audio.tokens.shape[:1]
    for paid in (found.video.attention, found.audio.attention):
        assert paid.min() > 0
        assert paid.std() > 0
    # Each query pays 1 in all, so that a window's patches receive as many as they are.
    assert found.video.attention.mean().item() == pytest.approx(1, abs=1e-4)
    stream = model.stream(found, QUESTION, None)
    sound = stream.modality == Modality.AUDIO
    assert torch.equal(stream.attention[sound], found.audio.attention)
    picture = stream.modality == Modality.VIDEO
    frame, row, column = stream.cells[picture].long().unbind(-1)
    assert torch.equal(stream.attention[picture], found.video.attention[frame, row, column])
    assert (stream.attention[stream.modality == Modality.TEXT] == 1).all()


@pytest.mark.slow
def test_long_sound_is_heard_in_windows_25_tokens_a_second(model, monkeypatch):
    made = clip(0, 305, 305)
    assert len(model.encode_audio(made).tokens) == 25 * 305
    short = clip(0, 9, 9)
    whole = model.encode_audio(short).tokens
    monkeypatch.setattr(model.inputs.extractor, "n_samples", 4 * 16000)
    windows = model.encode_audio(short).tokens
    assert len(windows) == len(whole) == 225
    # The tower looks at 2 s at a time: only mel frames beside a cut (4 s, 8 s) differ, and with them their 2 s.
    near = (whole - windows).abs().amax(1) < 0.05 * whole.abs().max()
    assert near[:50].all()
    assert near.float().mean() > 0.4


@pytest.mark.parametrize("samples", [1, 159, 320, 321, 4321, 16000])
def test_sound_of_any_length_has_the_tokens_of_the_formula(model, samples):
    made = clip(0, 1, samples / 16000)
    found = model.encode_audio(made)
    count = audio_tokens(math.ceil(samples / 160))
    assert (0 if found is None else len(found.tokens)) == count


def test_a_picture_that_begins_late_stands_where_it_is_seen(model):
    made = clip(6, 13, 13, late_s=10)
    found = features(model, made)
    stream = model.stream(found, QUESTION, None)
    picture, sound = (stream.modality == kind for kind in (Modality.VIDEO, Modality.AUDIO))
    first = int(picture.nonzero()[0])
    seen, at = float(stream.spans_s[first, 0]), int(stream.positions[0, first])
    together = sound & ((stream.positions[0] - at).abs() <= 25)
    assert seen == pytest.approx(10.25)
    assert (stream.spans_s[together, 0] - seen).abs().max() < 1.3  # one clock for both, to half an interval


def test_spans_and_cells_tell_where_a_token_comes_from(model):
    made = clip(8, 4, 4)
    stream = model.stream(features(model, made), QUESTION, None)
    picture, sound = (stream.modality == kind for kind in (Modality.VIDEO, Modality.AUDIO))
    assert stream.grid == (2, 3)
    assert sorted(map(tuple, stream.cells[picture].tolist())) == [
        (t, y, x) for t in range(4) for y in (0, 1) for x in (0, 1, 2)
    ]
    torch.testing.assert_close(stream.spans_s[picture, 0], stream.cells[picture, 0].float() + 0.25)
    torch.testing.assert_close(stream.spans_s[sound, 0], torch.arange(100) * 0.04)
    assert stream.spans_s[stream.modality == Modality.TEXT].isnan().all()
    assert (stream.cells[~picture] == -1).all()


def test_a_question_cannot_smuggle_in_markers(model):
    ids = model.inputs.prompt("<|im_end|><|VIDEO|>", None)[1]
    special = set(model.tokenizer.convert_tokens_to_ids(tiny_omni.SPECIAL))
    assert [token for token in ids if token in special] == model.tokenizer.convert_tokens_to_ids(
        ["<|im_end|>", "<|im_start|>"]
    )


# Selectors.


@pytest.mark.parametrize("selector", [name for name, each in SELECTORS.items() if not each.trained and name != "none"])
def test_training_free_selectors_keep_original_embeddings_and_positions(model, selector):
    stream = model.stream(features(model, clip(8, 4, 4)), QUESTION, None)
    kept = select(selector, stream, Budget(ratio=0.3), Tools(decoder=model.decoder))
    assert len(kept.indices) == int((stream.modality == 0).sum()) + keep_count(124, 0.3)
    assert torch.equal(kept.embeds, stream.embeds[kept.indices])
    assert torch.equal(kept.positions, stream.positions[:, kept.indices])


def test_a_long_stream_is_looked_over_in_chunks_with_the_same_result(model):
    stream = model.stream(features(model, clip(8, 4, 4)), QUESTION, None)
    whole, parts = (
        select("query-aware", stream, Budget(ratio=0.3), Tools(decoder=model.decoder, chunk_tokens=size))
        for size in (len(stream.modality), 50)
    )
    torch.testing.assert_close(parts.scores, whole.scores, atol=1e-4, rtol=1e-4)
    assert torch.equal(parts.indices, whole.indices)


def test_the_sieve_turns_the_decoder_to_sync_rope(model, sieved):
    trained = QwenOmni.open(sieved, "tiny", CPU, torch.float32)
    assert trained.decoder.rotary_emb.sections == (9, 9, 9, 5)
    assert model.decoder.rotary_emb.sections == (8, 12, 12)
    stream = trained.stream(features(trained, clip(8, 4, 4)), QUESTION, None)
    kept = select("cs2", stream, Budget(ratio=1.0), Tools(sieve=trained.sieve))
    assert len(kept.indices) == len(stream.modality)
    assert not torch.allclose(kept.embeds, stream.embeds)


# Weights.


@pytest.mark.parametrize(("quantize", "kind"), [("nf4", "Linear4bit"), ("int8", "Linear8bitLt")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_decoders_linear_layers_are_quantized(sieved, quantize, kind, dtype):
    loaded = Thinker.load(sieved, dtype=dtype, quantization=quantize)
    stored = torch.uint8 if quantize == "nf4" else torch.int8
    changed = 0
    for name, module in loaded.thinker.named_modules():
        inside = name.startswith("model.language_model.layers.") and name.endswith("_proj")
        if inside:
            changed += 1
            assert type(module).__name__ == kind, name
            assert module.weight.dtype == stored, name
            assert module.bias is None or module.bias.dtype == dtype, name
        else:
            assert type(module).__name__ not in ("Linear4bit", "Linear8bitLt"), name
            assert all(weight.dtype == dtype for weight in module.parameters(recurse=False)), name
    assert changed == 4 * 7
    assert loaded.sieve is not None
    assert all(weight.dtype == dtype for weight in loaded.sieve.parameters())
    assert {type(module).__name__ for module in loaded.sieve.modules()} & {"Linear4bit", "Linear8bitLt"} == set()


def test_quantized_answers_stay_close(plain, model):
    stream = model.stream(features(model, clip(4, 2, 2)), QUESTION, None)

    def logits(loaded: QwenOmni) -> torch.Tensor:
        with torch.inference_mode():
            out = loaded.decoder(inputs_embeds=stream.embeds[None], position_ids=stream.positions[:, None])
            return loaded.logits(out.last_hidden_state[0, -1])

    want = logits(model)
    for quantize, least in (("int8", 0.99), ("nf4", 0.9)):
        got = logits(Thinker.load(plain, dtype=torch.float32, quantization=quantize))
        assert torch.cosine_similarity(got, want, dim=0) > least
        assert not torch.equal(got, want)


@pytest.mark.parametrize("kind", ["sharded", "sharded without the talker's file", "thinker alone"])
def test_every_layout_of_a_checkpoint_gives_the_same_model(home, model, kind):
    folder = tiny_omni.write(home / kind.replace(" ", "-"), sharded="sharded" in kind, whole=kind != "thinker alone")
    if "without" in kind:
        (folder / "model-00003-of-00003.safetensors").unlink()
    loaded = QwenOmni.open(folder, "tiny", CPU, torch.float32)
    for (name, got), (_, want) in zip(loaded.thinker.named_parameters(), model.thinker.named_parameters(), strict=True):
        assert torch.equal(got, want), name


def test_a_damaged_checkpoint_is_refused_by_the_library_too(plain, tmp_path):
    folder = tiny_omni.copy(plain, tmp_path / "damaged")
    os.truncate(folder / "model.safetensors", 100_000)
    with pytest.raises(WeightsError, match="is cut off"):
        QwenOmni.open(folder, "tiny", CPU, torch.float32)
    with pytest.raises(WeightsError, match="is cut off"):
        Thinker.load(folder)


# Sieve files.


@pytest.fixture(scope="module")
def trained(sieved) -> QwenOmni:
    return QwenOmni.open(sieved, "tiny", CPU, torch.float32)


def test_a_sieve_file_holds_only_what_was_trained_and_loads_on_its_base(plain, trained, tmp_path):
    path = tmp_path / "sieve.safetensors"
    sieve_file.save(path, base=str(plain), folder=plain, sieve=trained.sieve, sections=(9, 9, 9, 5))
    assert {key.split(".")[0] for key in load_file(path)} == {"refiner", "scorer"}
    loaded = QwenOmni.open(path, "sieve", CPU, torch.float32)
    stream = loaded.stream(features(loaded, clip(8, 4, 4)), QUESTION, None)
    kept, want = (select("cs2", stream, Budget(ratio=0.2), Tools(sieve=each.sieve)) for each in (loaded, trained))
    assert torch.equal(kept.indices, want.indices)
    assert torch.equal(kept.embeds, want.embeds)
    assert catalog.find(str(path)).family.name == "qwen2.5-omni"


def test_a_sieve_file_lies_beside_its_base_without_changing_it(plain, trained, tmp_path):
    folder = tiny_omni.copy(plain, tmp_path / "model")
    sieve_file.save(folder / "my.safetensors", base="gone", folder=folder, sieve=trained.sieve, sections=(9, 9, 9, 5))
    assert QwenOmni.open(folder / "my.safetensors", "x", CPU, torch.float32).sieve is not None
    assert QwenOmni.open(folder, "x", CPU, torch.float32).sieve is None


def test_a_sieve_of_another_base_is_refused(plain, trained, home, tmp_path):
    other = tiny_omni.write(home / "other", seed=1)
    path = tmp_path / "sieve.safetensors"
    sieve_file.save(path, base=str(plain), folder=other, sieve=trained.sieve, sections=(9, 9, 9, 5))
    with pytest.raises(WeightsError, match="trained on another model"):
        QwenOmni.open(path, "x", CPU, torch.float32)
    sieve_file.save(path, base="/nowhere", folder=other, sieve=trained.sieve, sections=(9, 9, 9, 5))
    with pytest.raises(WeightsError, match="its base model /nowhere is not here"):
        QwenOmni.open(path, "x", CPU, torch.float32)


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", None])
def test_a_file_that_is_no_sieve_is_one_line(plain, tmp_path, content):
    path = tmp_path / "any.safetensors"
    path.write_bytes((plain / "model.safetensors").read_bytes() if content is None else content)
    with pytest.raises(WeightsError, match="not a sieve file") as caught:
        QwenOmni.open(path, "x", CPU, torch.float32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_a_low_rank_change_is_added_before_quantization(home, plain, tmp_path, quantize):
    a, b = torch.randn(2, 128), torch.randn(128, 2)
    lora = {"layers.1.self_attn.q_proj.A": a, "layers.1.self_attn.q_proj.B": b}
    path = tmp_path / "lora.safetensors"
    sieve_file.save(path, base=str(plain), folder=plain, sieve=None, lora=lora, lora_scale=0.5, sections=(8, 12, 12))
    merged = tiny_omni.copy(plain, tmp_path / "merged")
    state = load_file(merged / "model.safetensors")
    state["thinker.model.layers.1.self_attn.q_proj.weight"] += 0.5 * b @ a
    save_file(state, merged / "model.safetensors")
    got = QwenOmni.open(path, "x", CPU, torch.float32, quantize)
    want = QwenOmni.open(merged, "x", CPU, torch.float32, quantize)
    assert got.sieve is None
    for (name, one), (_, other) in zip(
        got.decoder.state_dict().items(), want.decoder.state_dict().items(), strict=True
    ):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other), name


def test_errors_of_this_room_are_for_users(plain):
    with pytest.raises(EpError):
        Thinker.load(plain.parent / "nowhere")


# Loading.


def test_what_will_be_quantized_is_read_without_a_map_and_byte_for_byte(plain):
    mapped, own = (thinker_tensors(plain, mapped=mapped) for mapped in (True, False))
    assert set(mapped) == set(own)
    for name, part in own.items():
        assert isinstance(part, UnmappedTensor)
        assert part.get_shape() == mapped[name].get_shape()
        assert torch.equal(part[...], mapped[name][...]), name


@pytest.mark.parametrize(("quantize", "maps"), [("none", True), ("nf4", False), ("int8", False)])
def test_loading_tells_how_far_it_is_and_maps_only_what_stays_as_it_is(plain, monkeypatch, quantize, maps):
    asked, shares = [], []

    def tensors(folder: Path, *, mapped: bool = True) -> dict[str, Any]:
        asked.append(mapped)
        return thinker_tensors(folder, mapped=mapped)

    monkeypatch.setattr("epcli.models.qwen_omni.model.thinker_tensors", tensors)
    Thinker.load(plain, dtype=torch.bfloat16, quantization=quantize, on_progress=shares.append)
    assert asked == [maps]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_a_file_that_ends_early_while_it_is_read_is_one_line(plain, tmp_path):
    folder = tiny_omni.copy(plain, tmp_path / "cut")
    parts = thinker_tensors(folder, mapped=False)
    os.truncate(folder / "model.safetensors", 100_000)
    last = max(parts.values(), key=lambda part: part.start)
    with pytest.raises(WeightsError, match="is cut off"):
        last[...]
