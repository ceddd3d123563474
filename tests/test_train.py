"""`ep train`: the layouts of data it reads, Qwen2.5-Omni trained on tiny weights and loaded again, and the command."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_omni
import torch
from safetensors.torch import load_file

from epcli.errors import MediaError, UsageError
from epcli.models.qwen_omni.learner import qwen_items, qwen_learner
from epcli.models.qwen_omni.model import QwenOmni
from epcli.questions.record import Evidence, Question
from epcli.records import AudioFeatures, Features, Modality, VideoFeatures
from epcli.sieve.select import Budget
from epcli.sieve.selectors import Tools, select
from epcli.train import data
from epcli.train.plot import draw
from epcli.train.recipe import TrainedParts
from epcli.train.run import rates
from epcli.train.sieve_trainer import SieveRecipe, SieveTrainer, read_item

MEDIA = Path(__file__).parents[1] / "docs" / "media"
CPU = torch.device("cpu")
ROWS = {
    "ours.jsonl": {
        "media": "clips/a.mp4",
        "question": "What barks?",
        "answer": "A dog.",
        "type": "sound",
        "evidence": [["audio", 1, 2.5], ["video", 0, 3]],
    },
    "avqa.json": {
        "id": 183,
        "video_name": "-HG3Omg_89c_000030",
        "video_id": 341,
        "question_text": "What happened in the video?",
        "multi_choice": ["motorboat", "Sailboat set sail"],
        "answer": 1,
        "question_relation": "View",
        "question_type": "Happening",
    },
    "llava.json": {
        "id": "RW587",
        "data_source": "0_30_s_academic_v0_1",
        "video": "academic_source/Charades/RW587.mp4",
        "conversations": [
            {"from": "human", "value": "<image>\nWho comes in?"},
            {"from": "gpt", "value": "A man."},
            {"from": "human", "value": "And then?\nA. He sits.\nB. He leaves."},
            {"from": "gpt", "value": "B. He leaves."},
        ],
    },
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return tiny_omni.write(tmp_path_factory.mktemp("omni") / "plain")


def written(folder: Path, name: str, *rows) -> Path:
    path = folder / name
    text = json.dumps(list(rows)) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "file", "asked"),
    [
        (
            "ours.jsonl",
            "clips/a.mp4",
            [
                (
                    "What barks?",
                    "A dog.",
                    "sound",
                    (Evidence(Modality.AUDIO, 1, 2.5), Evidence(Modality.VIDEO, 0, 3)),
                )
            ],
        ),
        (
            "avqa.json",
            "videos/-HG3Omg_89c_000030.mp4",  # found by name, wherever it lies
            [
                (
                    "What happened in the video?\nA. motorboat\nB. Sailboat set sail",
                    "B. Sailboat set sail",
                    "Happening",
                    None,
                )
            ],
        ),
        (
            "llava.json",
            "academic_source/Charades/RW587.mp4",
            [
                ("Who comes in?", "A man.", "0_30_s_academic_v0_1", None),
                ("And then?\nA. He sits.\nB. He leaves.", "B. He leaves.", "0_30_s_academic_v0_1", None),
            ],
        ),
    ],
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_each_layout_is_read(tmp_path, name, file, asked, elsewhere):
    home = tmp_path / "media" if elsewhere else tmp_path
    (home / file).parent.mkdir(parents=True)
    (home / file).touch()
    found = data.load(written(tmp_path, name, ROWS[name], ROWS[name]), home if elsewhere else None)
    (clip,) = found
    assert [(each.text, each.answer, each.type, each.evidence) for each in clip] == asked * 2
    assert {each.files for each in clip} == {(home / file, None)}


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("ours.jsonl", {"answer": ["a"]}, "line 1: answer is not a text"),
        ("ours.jsonl", {"answer": ""}, "question 1: it has no answer to learn"),
        ("ours.jsonl", {"question": " "}, "line 1: it has no question"),
        ("ours.jsonl", {"evidence": [["smell", 0, 1]]}, "line 1: evidence is not a list of"),
        ("avqa.json", {"answer": 2}, "entry 1: the answer 2 is not the place of one of 2 options"),
        ("avqa.json", {"multi_choice": None}, "entry 1: "),
        ("llava.json", {"conversations": [{"from": "gpt", "value": "x"}]}, "its conversation goes gpt, not human, gpt"),
        ("llava.json", {"video": "gone.mp4"}, "question 1: no file "),
    ],
)
def test_a_row_that_cannot_be_used_is_named_in_one_line(tmp_path, name, change, says):
    for place in ("clips/a.mp4", "-HG3Omg_89c_000030.mp4", "academic_source/Charades/RW587.mp4"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    with pytest.raises(UsageError) as caught:
        data.load(written(tmp_path, name, ROWS[name] | change))
    assert says in str(caught.value)
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


class Unreadable:
    def look(self, media: Path):
        raise MediaError(f"{media.name}: is no media file")


def test_a_file_that_cannot_be_decoded_is_left_out_with_one_line(tmp_path):
    said: list[str] = []
    rows = [[Question("q", tmp_path / f"{name}.mp4", answer="a")] for name in "ab"]
    clips = data.OwnClips(rows, Unreadable(), lambda features, asked: [], say=said.append)
    with pytest.raises(UsageError, match="none of the media files can be read"):
        clips.draw(random.Random(0))
    assert sorted(said) == [f"left out: {name}.mp4: is no media file" for name in "ab"]


class Readable:
    def look(self, media: Path):
        return SimpleNamespace(features=Features(float(media.stem), None, None))


def test_every_held_out_question_is_measured_once_and_in_the_same_order_again(tmp_path):
    rows = [[Question(f"{n}{q}", tmp_path / f"{n}.mp4", answer="a") for q in "xy"] for n in (2, 1)]
    clips = data.EachOnce(rows, Readable(), lambda features, asked: [each.text for each in asked])
    for _ in range(2):
        rng = random.Random(0)
        assert [clips.draw(rng), clips.draw(rng)] == [["1x", "1y"], ["2x", "2y"]]
    assert clips.draw(random.Random(0)) == ["1x", "1y"]  # a new measuring begins at the first, wherever the last ended


# --- Qwen2.5-Omni --------------------------------------------------------------------------------------


def some_features(width: int = 128) -> Features:
    torch.manual_seed(0)
    video = VideoFeatures(torch.randn(4, 2, 3, width), torch.arange(4.0).double() * 2, 2.0)
    return Features(8.0, video, AudioFeatures(torch.randn(200, width), 0.04))


class Fixed:
    """The same questions about the same features."""

    def __init__(self, model: QwenOmni) -> None:
        self.model = model

    def draw(self, rng: random.Random):
        evidence = [Evidence(Modality.AUDIO, 2, 3)]
        return qwen_items(self.model, some_features(), [("own", "What us?", "user", evidence)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "rank", "written_as"),
    [("lora", 4, "sieve.safetensors"), ("lora", 0, "sieve.safetensors"), ("full", 0, "model"), ("full", 4, "model")],
)
def test_what_was_trained_loads_and_says_the_same(plain, tmp_path, method, rank, written_as):
    shape = TrainedParts(depth=2, refiner_rank=rank, refiner_gain=0.5, lora_rank=2)
    learner = qwen_learner(str(plain), shape, method, CPU, torch.float32)
    lr = dict.fromkeys(rates(None, method, shape), 1e-2)
    recipe = SieveRecipe(steps=3, items=1, keep=(0.1, 0.5), plain=0.0, lr=lr, relevance_any=0.1)
    before = {name: p.detach().clone() for name, p in learner.named().items()}
    with torch.no_grad():
        for p in learner.named().values():  # as the file holds it
            p.copy_(p.bfloat16())
    path = SieveTrainer(learner, Fixed(learner.model), None, recipe, tmp_path, lambda line: None).run()
    assert path == tmp_path / written_as
    moved = {name.split("/")[0] for name, p in learner.named().items() if not torch.equal(p, before[name])}
    assert moved == {"decoder", "refiner", "scorer"}

    (item,) = Fixed(learner.model).draw(random.Random(0))
    loaded = QwenOmni.open(path, "trained", CPU, torch.float32)
    assert loaded.sieve is not None
    assert loaded.decoder.rotary_emb.sections == (9, 9, 9, 5)
    with torch.no_grad():
        want = read_item(learner.model, item, item.stream.embeds, 0.2)
        got = read_item(loaded, item, item.stream.embeds, 0.2)
    # trained parameters are written in bfloat16
    assert torch.corrcoef(torch.stack([got.scores, want.scores]))[0, 1] > 0.999
    assert len(set(got.kept.tolist()) ^ set(want.kept.tolist())) <= 4
    assert torch.cosine_similarity(got.logits, want.logits).min() > 0.98
    stream = loaded.stream(some_features(), "What us?", None)
    assert len(select("cs2", stream, Budget(ratio=0.05), Tools(sieve=loaded.sieve)).indices) < len(stream.modality)


def test_a_checkpoint_trained_in_full_has_the_keys_of_the_reference(plain, tmp_path):
    shape = TrainedParts(depth=2, refiner_rank=0, refiner_gain=1.0)
    learner = qwen_learner(str(plain), shape, "full", CPU, torch.float32)
    folder = learner.save(tmp_path, {})
    state = {key for file in folder.glob("*.safetensors") for key in load_file(file)}
    assert "thinker.model.bidir_encoder.layers.1.mlp.down_proj.weight" in state
    assert {f"thinker.model.compressor.{part}" for part in ("ln.weight", "score_head.2.bias")} <= state
    assert not any(key.startswith(("talker.", "token2wav.")) for key in state)
    text = json.loads((folder / "config.json").read_text())["thinker_config"]["text_config"]
    assert (text["av_refiner_layers"], text["rope_scaling"]["mrope_section"]) == (2, [9, 9, 9, 5])
    again = qwen_learner(str(folder), TrainedParts(refiner_rank=0), "lora", CPU, torch.float32)
    assert len(again.model.sieve.refiner.layers) == 2  # and trained on
    with pytest.raises(UsageError, match="--refiner-rank 0"):
        qwen_learner(str(folder), TrainedParts(), "lora", CPU, torch.float32)


@pytest.mark.slow
def test_four_bit_weights_are_trained_through(plain, tmp_path):
    shape = TrainedParts(depth=1, refiner_rank=2, lora_rank=2)
    learner = qwen_learner(str(plain), shape, "qlora", CPU, torch.float32)
    assert type(learner.model.decoder.layers[0].mlp.up_proj.base_layer).__name__ == "Linear4bit"
    assert type(learner.model.sieve.refiner.layers[0].mlp.up_proj.base_layer) is torch.nn.Linear
    before = {name: p.detach().clone() for name, p in learner.groups["decoder"].items()}
    recipe = SieveRecipe(steps=2, items=1, keep=(0.2, 0.2), plain=0.0)
    path = SieveTrainer(learner, Fixed(learner.model), None, recipe, tmp_path, lambda line: None).run()
    assert any(not torch.equal(p, before[name]) for name, p in learner.groups["decoder"].items())
    assert QwenOmni.open(path, "x", CPU, torch.float32, "nf4").sieve is not None


def test_without_a_sieve_the_plain_rotation_stays(plain, tmp_path):
    learner = qwen_learner(str(plain), TrainedParts(sieve=False, lora_rank=2), "lora", CPU, torch.float32)
    recipe = SieveRecipe(steps=1, items=1)
    path = SieveTrainer(learner, Fixed(learner.model), None, recipe, tmp_path, lambda line: None).run()
    loaded = QwenOmni.open(path, "x", CPU, torch.float32)
    assert loaded.sieve is None
    assert loaded.decoder.rotary_emb.sections == (8, 12, 12)


def test_the_result_of_a_training_is_no_model_to_start_from(plain, tmp_path):
    learner = qwen_learner(str(plain), TrainedParts(depth=1, refiner_rank=2), "lora", CPU, torch.float32)
    path = learner.save(tmp_path, {})
    with pytest.raises(UsageError, match="give its base model"):
        qwen_learner(str(path), TrainedParts(), "lora", CPU, torch.float32)


# --- the command ---------------------------------------------------------------------------------------


def ep(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "epcli", *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.slow
def test_a_sieve_is_trained_and_asked_by_command(plain, tmp_path):
    rows = [{"media": str(MEDIA / name), "question": "What us?", "answer": "user"} for name in ("farm.mp4", "duet.mp4")]
    file, out = written(tmp_path, "mine.jsonl", *rows), tmp_path / "run"
    command = ["train", file, "--model", plain, "--out", out, "--items", 1, "--held-out", file, "--refiner-rank", 2]
    done = ep(*command, "--steps", 2, "--fps", 0.5)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out / "sieve.safetensors")
    assert "held out, exact: all tokens" in done.stderr
    assert (out / "training.svg").read_text().startswith("<svg")
    again = ep(*command, "--steps", 3, "--fps", 0.5)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    more = ep(*command, "--steps", 3, "--fps", 0.5, "--resume")
    assert more.returncode == 0, more.stderr
    assert "resumed at step 2" in more.stderr
    asked = ep("ask", MEDIA / "farm.mp4", "What us?", "--model", out / "sieve.safetensors", "--keep", 0.05, "--json",
               "--max-new-tokens", 2, "--fps", 0.5)  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    report = json.loads(asked.stdout)
    assert report["selector"] == "cs2"
    assert report["tokens"]["keep_ratio"] == pytest.approx(0.05, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--keep-range", "0-1"], "--keep-range 0-1: is not a range of shares"),
        (["--method", "magic"], "--method magic: is not one of lora, qlora, full"),
        (["--method", "full"], "--method full: ep-smol is trained with lora"),
        (["--dtype", "fp16"], "--dtype fp16: small gradients vanish in it; train with --dtype bf16, or fp32"),
        (["--media", "nowhere"], "mine.jsonl: question 1: no file nowhere/farm.mp4"),
    ],
)
def test_a_wrong_flag_is_one_line(tmp_path, arguments, says):
    name = "farm.mp4" if "--media" in arguments else str(MEDIA / "farm.mp4")
    row = {"media": name, "question": "q", "answer": "a"}
    done = ep("train", written(tmp_path, "mine.jsonl", row), "--out", tmp_path / "run", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_curves_are_drawn_from_the_log(tmp_path):
    log = tmp_path / "log.jsonl"
    held = {"none": {"exact": 0.5}, "0.05": {"exact": 0.25}}
    rows = [{"step": 10, "loss": 2.0, "exact": 0.1, "kept_audio": 0.3}, {"step": 20, "loss": 1.0}]
    log.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"step": 20, "held_out": held}]) + '{"cut')
    draw(log, tmp_path / "training.svg")
    svg = (tmp_path / "training.svg").read_text()
    assert svg.count("<polyline") == 5  # loss, exact, kept of audio, two ways of measuring
    assert "keep 0.05" in svg
