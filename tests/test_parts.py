"""The pretrained parts of ep-smol. The fast tests need no weights; the slow ones load the real ones, from the cache if
they are there, and check facts about them."""

import math
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from epcli.observe import efficientnet_lite, whisper, yamnet
from epcli.records import SAMPLE_RATE

needs_espeak = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")


def tone(hertz: float, seconds: float) -> torch.Tensor:
    return torch.sin(torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE * 2 * math.pi * hertz) * 0.3


def say(text: str, folder: Path) -> torch.Tensor:
    """(S,) 16 kHz: espeak-ng says `text`."""
    import av

    subprocess.run(["espeak-ng", "-s", "140", "-w", str(folder / "speech.wav"), text], check=True)
    resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
    with av.open(str(folder / "speech.wav")) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return torch.from_numpy(np.concatenate([frame.to_ndarray()[0] for frame in frames + resampler.resample(None)]))


# --- the file formats


def test_protobuf_fields_are_read_by_number():
    message = b"\x08\xac\x02" + b"\x12\x02hi" + b"\x1d\x01\x02\x03\x04" + b"\x08\x05"
    assert yamnet._fields(memoryview(message)) == {1: [300, 5], 2: [b"hi"], 3: [b"\x01\x02\x03\x04"]}


def test_a_ctranslate2_file_is_read_by_its_layout(tmp_path):
    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    values = np.array([[1.5, -2.0, 3.0]], np.float16)
    weight = string("a/weight") + struct.pack("<BIIBI", 2, 1, 3, 4, values.nbytes) + values.tobytes()
    scalar = string("a/heads") + struct.pack("<BBI", 0, 1, 1) + b"\x06"
    header = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, 2)
    (tmp_path / "model.bin").write_bytes(header + scalar + weight + struct.pack("<I", 0))
    tensors = whisper._ctranslate2_tensors(tmp_path / "model.bin")
    assert tensors.keys() == {"a/weight"}
    assert tensors["a/weight"].tolist() == values.tolist()


# --- YAMNet


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samples", "hop", "patches"),
    [
        (1, 48, 1),
        (15600, 48, 1),
        (15601, 48, 2),  # one sample more begins another hop
        (15600 + 48 * 160, 48, 2),
        (160_000, 12, 77),
    ],
)
def test_patches_cover_all_samples(samples, hop, patches):
    assert yamnet.patch_count(samples, hop) == patches
    model = yamnet.Yamnet(("one", "two"), hop)
    model.init_front_end("cpu")
    with torch.inference_mode():
        features, logits = model(torch.zeros(2, samples))
    assert features.shape == (2, patches, yamnet.WIDTH + yamnet.EARLY_WIDTH)
    assert logits.shape == (2, patches, 2)


def test_a_patch_does_not_depend_on_how_many_are_computed_at_once(monkeypatch):
    torch.manual_seed(0)
    model = yamnet.Yamnet(("one",), 12)
    model.init_front_end("cpu")
    samples = torch.randn(1, 50_000)
    with torch.inference_mode():
        together, _ = model(samples)
        monkeypatch.setattr(yamnet, "_PATCHES_AT_ONCE", 3)
        apart, _ = model(samples)
    torch.testing.assert_close(together, apart)


# --- EfficientNet-Lite0


def test_a_stride_of_two_pads_behind_only():
    convolution = efficientnet_lite._SameConv(1, 1, 3, 2)
    torch.nn.init.ones_(convolution.weight)
    torch.nn.init.zeros_(convolution.bias)
    sums = convolution(torch.arange(16.0).view(1, 1, 4, 4))
    assert sums.tolist() == [[[[45, 39], [66, 50]]]]  # 0+1+2+4+5+6+8+9+10 at the front, nothing padded there


def test_a_picture_whose_size_is_no_multiple_of_32_is_refused():
    with torch.device("meta"):
        model = efficientnet_lite.EfficientNetLite0()
    with pytest.raises(ValueError, match="multiples of 32"):
        model.class_logits(torch.zeros(1, 3, 224, 225))


def test_there_are_a_thousand_different_names():
    names = efficientnet_lite.load_class_names()
    assert len(set(names)) == len(names) == 1000
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")


# --- Whisper


@pytest.mark.parametrize(
    ("near", "boundaries"),
    [
        (["aabbbc"], [0, 6]),  # one token takes all
        (["aa....", "..bbbb"], [0, 2, 6]),
        (["a.....", ".b....", "..cccc"], [0, 1, 2, 6]),
        (["......", "......"], [0, 1, 6]),  # nothing to go by: the next as early as possible
        (["....aa", "bb...."], [0, 1, 6]),  # against the order: each still gets a frame
    ],
)
def test_frames_go_to_tokens_in_order_and_each_gets_one(near, boundaries):
    cost = np.array([[0.0 if mark != "." else 1.0 for mark in row] for row in near])
    assert whisper.align(cost) == boundaries


@pytest.mark.parametrize(
    ("text", "heard_s", "length"),
    [
        ("i see a dog", [0, 0.3, 0.5, 0.7], 0),
        ("i see i see", [0, 0.3, 0, 0.3], 2),  # the same stretch of sound again
        ("i see i see", [0, 0.3, 0.6, 0.9], 0),  # said twice
        ("ten ten", [0.2, 0.2], 1),
        ("no no", [0.2, 0.5], 0),
    ],
)
def test_a_phrase_is_a_loop_only_if_it_was_not_heard_again(text, heard_s, length):
    assert whisper.repeated(text.split(), heard_s) == length


def test_long_sound_is_cut_where_it_is_quiet():
    samples = np.full(70 * SAMPLE_RATE, 0.1, np.float32)
    samples[25 * SAMPLE_RATE : 26 * SAMPLE_RATE] = 0
    windows = whisper.speech_windows(samples)
    assert windows[0][0] == 0
    assert 25 <= windows[0][1] / SAMPLE_RATE <= 26
    assert [end for _, end in windows[:-1]] == [start for start, _ in windows[1:]]
    assert windows[-1][1] == len(samples)
    assert all(0 < end - start <= 30 * SAMPLE_RATE for start, end in windows)


# --- the real weights


@pytest.fixture(scope="session")
def real_yamnet() -> yamnet.Yamnet:
    return yamnet.load_yamnet()


@pytest.fixture(scope="session")
def real_whisper() -> whisper.Whisper:
    return whisper.load_whisper()


@pytest.fixture(scope="session")
def real_lite0() -> efficientnet_lite.EfficientNetLite0:
    return efficientnet_lite.load_efficientnet_lite0()


@pytest.mark.slow
def test_smollm_gives_the_logits_of_the_published_model_to_the_bit():
    from transformers import LlamaForCausalLM

    from epcli.models.smol.smollm import load_smollm
    from epcli.observe.weights import SMOLLM_GGUF

    ours = load_smollm(torch.float32)
    gguf = SMOLLM_GGUF.file
    published = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    for parameter in published.parameters():
        parameter.data = parameter.data.half().float()  # as we keep them
    with torch.inference_mode():
        for prompt in ("The capital of France is", "12 violins and  3 dogs:\n", "<|im_start|>user\nHello<|im_end|>\n"):
            ids = ours.tokenizer(prompt, return_tensors="pt").input_ids
            logits = ours.lm_head(ours.text_model(input_ids=ids).last_hidden_state)
            assert (logits - published(ids).logits).abs().max() == 0
            if prompt.startswith("The capital"):
                assert ours.tokenizer.decode(logits[0, -1].argmax()) == " Paris"


@pytest.mark.slow
def test_smollm_splits_digits_and_text_survives_the_tokenizer():
    from epcli.models.smol.smollm import load_smollm

    tokenizer = load_smollm(torch.bfloat16).tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer("2024")["input_ids"]) == ["2", "0", "2", "4"]
    assert tokenizer("  12").input_ids == tokenizer("  ").input_ids + tokenizer("12").input_ids
    text = "<|im_start|>user\nIt's a café, 3.5 s<|im_end|>\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samples", "name"),
    [
        (torch.zeros(SAMPLE_RATE * 2), "Silence"),
        (tone(440, 2), "Dial tone"),
        (torch.randn(SAMPLE_RATE * 2, generator=torch.Generator().manual_seed(0)) * 0.1, "White noise"),
    ],
    ids=["silence", "tone", "noise"],
)
def test_yamnet_names_simple_sounds(real_yamnet, samples, name):
    probability = real_yamnet(samples[None])[1].sigmoid().mean((0, 1))
    best = [real_yamnet.class_names[i] for i in probability.topk(3).indices]
    assert name in best


@pytest.mark.slow
@needs_espeak
def test_yamnet_hears_speech(real_yamnet, tmp_path):
    probability = real_yamnet(say("The quick brown fox jumps over the lazy dog", tmp_path)[None])[1].sigmoid()
    assert real_yamnet.class_names[probability.mean((0, 1)).argmax()] == "Speech"


@pytest.mark.slow
def test_yamnet_has_all_classes_and_its_hop_in_seconds(real_yamnet):
    assert len(real_yamnet.class_names) == 521
    assert (real_yamnet.class_names[0], real_yamnet.class_names[520]) == ("Speech", "Field recording")
    assert real_yamnet.hop_s == pytest.approx(0.48)


@pytest.mark.slow
def test_lite0_computes_what_the_reference_package_does(real_lite0):
    # efficientnet-lite-pytorch 0.1.0 with the same weights, on this picture
    picture = (torch.arange(224 * 224 * 3) % 251).view(1, 3, 224, 224)
    grid = F.relu6(real_lite0.head(real_lite0.blocks(real_lite0._stem(picture)))).permute(0, 2, 3, 1)
    assert grid.shape == (1, 7, 7, 1280)
    assert grid.mean().item() == pytest.approx(0.12782, abs=1e-4)
    values, indices = grid[0, 3, 3].topk(5)
    assert indices.tolist() == [190, 693, 994, 1242, 1136]
    assert values.tolist() == pytest.approx([3.044, 2.7762, 2.69, 2.3712, 2.2716], abs=1e-3)


@pytest.mark.slow
def test_lite0_recognises_a_drawn_clock_at_any_size(real_lite0):
    import cv2

    picture = np.full((224, 448, 3), 235, np.uint8)
    cv2.circle(picture, (224, 112), 95, (40, 30, 30), 6)
    for hour in range(1, 13):
        angle = math.radians(hour * 30 - 90)
        place = (int(224 + 75 * math.cos(angle)) - 8, int(112 + 75 * math.sin(angle)) + 6)
        cv2.putText(picture, str(hour), place, cv2.FONT_HERSHEY_DUPLEX, 0.6, (0, 0, 0), 1)
    cv2.line(picture, (224, 112), (224, 60), (0, 0, 0), 4)
    cv2.line(picture, (224, 112), (262, 130), (0, 0, 0), 5)
    for left, right in ((0, 448), (112, 336)):
        logits = real_lite0.class_logits(torch.from_numpy(picture[:, left:right].copy()).permute(2, 0, 1)[None])
        assert "clock" in real_lite0.class_names[logits[0].argmax()]


@pytest.mark.slow
def test_the_whisper_encoder_is_the_one_of_transformers_on_30_seconds(real_whisper):
    samples = torch.randn(30 * SAMPLE_RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    mel = real_whisper._extract(samples.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    with torch.inference_mode():
        want = real_whisper.model.model.encoder(mel).last_hidden_state[0]
    torch.testing.assert_close(real_whisper.encode(samples), want, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, 320, 321, 16_000, 481_000])
def test_the_whisper_encoder_gives_a_frame_each_20_ms(real_whisper, count):
    assert real_whisper.encode(torch.zeros(count)).shape == (math.ceil(count / 320), 384)


@pytest.mark.slow
@needs_espeak
def test_whisper_writes_the_words_with_their_times(real_whisper, tmp_path):
    text = "My brother wants to play the piano on Monday."
    speech = say(text, tmp_path)
    words = real_whisper.transcribe_words(torch.cat([torch.zeros(2 * SAMPLE_RATE), speech]))
    assert " ".join(word.text for word in words) == text
    assert 1.7 < words[0].start_s < 2.4  # after the two seconds of silence
    assert all(word.start_s < word.end_s <= 2 + len(speech) / SAMPLE_RATE + 0.02 for word in words)
    assert [word.start_s for word in words] == sorted(word.start_s for word in words)


@pytest.mark.slow
@needs_espeak
def test_whisper_does_not_write_a_short_text_twice(real_whisper, tmp_path):
    words = real_whisper.transcribe_words(say("Good morning everybody", tmp_path))
    assert [word.text.lower().strip(".,!") for word in words] == ["good", "morning", "everybody"]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.05, 1, 7])
def test_whisper_writes_nothing_where_nobody_speaks(real_whisper, seconds):
    count = round(seconds * SAMPLE_RATE)
    noise = torch.randn(count, generator=torch.Generator().manual_seed(1)) * 0.1
    beats = tone(220, seconds) * (tone(2, seconds) > 0)
    for samples in (torch.zeros(count), noise, tone(440, seconds), beats):
        assert real_whisper.transcribe_words(samples) == []
