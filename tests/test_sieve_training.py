"""Training the sieve: the reference's numbers, what a step does, files that load again, and surviving a kill."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from inspections import observed_stream
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from epcli.errors import UsageError
from epcli.evals import conformance
from epcli.models.qwen_omni.model import Thinker
from epcli.questions.evidence import evidence_tokens
from epcli.questions.record import Evidence
from epcli.records import Modality, TokenStream
from epcli.sieve.sieve import Sieve
from epcli.sieve.sync_rope import install
from epcli.train.examples import Example
from epcli.train.learners import REFINED, TrainedParts, add_low_rank, add_sieve
from epcli.train.sieve_trainer import Learner, SieveRecipe, SieveTrainer, read_item, relevance_losses

CONFORMANCE = Path(__file__).parent / "data" / "conformance"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def a_stream(embeds, positions, modality, next_position: int) -> TokenStream:
    length = len(embeds)
    spans = torch.full((length, 2), float("nan"))
    cells = torch.full((length, 3), -1, dtype=torch.int16)
    return TokenStream(embeds, positions, modality, spans, cells, (0, 0), next_position)


def test_a_step_has_the_loss_and_gradients_of_the_reference():
    """train_A of the conformance set, a batch with padding there, one unpadded item after another here."""
    manifest = json.loads((CONFORMANCE / "manifest.json").read_text())
    train = manifest["train"]
    sections = [int(n) for n in manifest["environment"]["MROPE_SECTION"].split(",")]
    model = Thinker.load(CONFORMANCE, dtype=torch.float32, sections=sections)
    inputs, want = (load_file(CONFORMANCE / n) for n in (f"case_{train['case']}.inputs.safetensors", train["file"]))
    embeds = conformance.embed(model, inputs)
    places = conformance.place(model, inputs, manifest["cases"][train["case"]]["use_audio_in_video"])
    loss, answers = torch.zeros(()), 0
    for row, (mask, labels) in enumerate(zip(inputs["attention_mask"].bool(), want["labels"], strict=True)):
        answer = mask & (labels != conformance.IGNORED)
        prompt = mask & ~answer
        positions = places[:, row, prompt]
        following = int(positions.max()) + 1
        assert places[0, row, answer].tolist() == [following + i for i in range(int(answer.sum()))]
        modality = torch.where(model.is_av(inputs["input_ids"][row]), Modality.VIDEO, Modality.TEXT)[prompt]
        item = Example(a_stream(embeds[row, prompt], positions, modality, following), labels[answer])
        reading = read_item(model, item, item.stream.embeds, train["compression_ratio"])
        loss = loss + F.cross_entropy(reading.logits, item.answer, reduction="sum")
        answers += len(item.answer)
    (loss / answers).backward()
    assert abs((loss / answers).item() - want["loss"].item()) < 1e-4
    gradients = [key for key in want if key.startswith("grad.")]
    assert any("bidir_encoder" in key for key in gradients)
    for key in gradients:
        got = conformance.parameter(model, key.removeprefix("grad.")).grad
        assert got is not None
        scale = want[key].abs().max().item()
        assert torch.allclose(got, want[key], rtol=0, atol=max(1e-4 * scale, 1e-6)), key


# --- a model small enough to learn something within a second ----------------------------------------------------------

WORDS, WIDTH, ANSWERS = 24, 32, 4


class Toy:
    """A decoder of two layers behind what the trainer needs of an AVModel."""

    name, device, dtype, context_tokens = "toy", torch.device("cpu"), torch.float32, 512

    def __init__(self) -> None:
        config = Qwen2_5OmniTextConfig(
            vocab_size=WORDS,
            hidden_size=WIDTH,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        )
        torch.manual_seed(0)
        self.decoder = Qwen2_5OmniThinkerTextModel._from_config(config, attn_implementation="sdpa").eval()
        with torch.no_grad():  # the library's start of 0.02 makes all logits nearly equal
            for weight in self.decoder.parameters():
                if weight.ndim > 1:
                    weight.normal_(0, weight.shape[1] ** -0.5)
        install(self.decoder, (3, 2, 2, 1))
        self.decoder.requires_grad_(False)
        self.sieve: Sieve | None = None

    def logits(self, hidden):
        return F.linear(hidden, self.decoder.embed_tokens.weight).float()


class Needle:
    """Clips of 20 media tokens: one of them shows the answer, the others noise. Two questions a clip."""

    def __init__(self, model: Toy, projection: nn.Parameter, labelled: bool = True) -> None:
        self.model, self.projection, self.labelled = model, projection, labelled

    def draw(self, rng: random.Random) -> list[Example]:
        place, answer = rng.randrange(20), rng.randrange(ANSWERS)
        generator = torch.Generator().manual_seed(rng.getrandbits(31))
        features = 0.3 * torch.randn(20, WIDTH, generator=generator)
        table = self.model.decoder.embed_tokens.weight
        features[place] = 2 * table[answer]
        media = features @ self.projection
        relevant = torch.zeros(23, dtype=torch.bool)
        relevant[1 + place] = True
        positions = torch.arange(23).expand(4, -1)
        kinds = torch.tensor([0, *[1] * 10, *[2] * 10, 0, 0], dtype=torch.uint8)
        items = []
        for question in (ANSWERS, ANSWERS + 1):
            embeds = torch.cat([table[[10]], media, table[[11, question]]])
            stream = a_stream(embeds, positions, kinds, 23)
            said = torch.tensor([answer, 12])
            items.append(Example(stream, said, relevant if self.labelled else None, f"question {question}"))
        return items


def toy(folder: Path, recipe: SieveRecipe, *, sieve: bool = True, say=lambda line: None) -> SieveTrainer:
    """A trainer of low-rank changes to a toy, and of the projection before it."""
    model = Toy()
    projection = nn.Parameter(torch.eye(WIDTH))
    base = {key: value.clone() for key, value in model.decoder.state_dict().items()}
    shape = TrainedParts(depth=1, refiner_rank=4, refiner_gain=0.5)
    groups = {}
    if sieve:
        model.sieve, groups = add_sieve(model.decoder, shape, base.__getitem__, list(base))
    groups["decoder"] = add_low_rank(model.decoder, 8, REFINED)
    groups["adapter"] = {"projection": projection}

    def save(target: Path, about) -> Path:
        save_file(
            {k: p.detach().clone() for part in groups.values() for k, p in part.items()}, target / "toy.safetensors"
        )
        return target / "toy.safetensors"

    learner = Learner(model, groups, save)
    return SieveTrainer(learner, Needle(model, projection), Needle(model, projection), recipe, folder, say)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_relevance_losses_measure_the_score_mass_on_the_evidence():
    scores = torch.tensor([9.0, 1.0, 1.0, 3.0]).log()
    is_av = torch.tensor([False, True, True, True])
    some, every = relevance_losses(scores, is_av, torch.tensor([False, True, False, True]))
    assert some.item() == pytest.approx(-torch.tensor(4 / 5).log().item(), abs=1e-5)
    assert every.item() == pytest.approx(-(torch.tensor([1 / 5, 3 / 5]).log().mean()).item(), abs=1e-5)


def test_evidence_is_found_by_sense_time_and_place():
    modality = torch.tensor([0, 1, 1, 1, 1, 2, 2], dtype=torch.uint8)
    spans = torch.tensor([[torch.nan] * 2, [0, 1], [0, 1], [1, 2], [1, 2], [0, 0.5], [0.5, 1]])
    cells = torch.tensor([[-1] * 3, [0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1], [-1] * 3, [-1] * 3], dtype=torch.int16)
    stream = TokenStream(torch.zeros(7, 2), torch.zeros(4, 7), modality, spans, cells, (1, 2), 9)

    def found(*evidence: Evidence) -> list[int]:
        return evidence_tokens(stream, evidence).nonzero().squeeze(1).tolist()

    assert found(Evidence(Modality.VIDEO, 0, 1)) == [1, 2]  # ends that only touch do not count
    assert found(Evidence(Modality.VIDEO, 0.5, 2, (0, 0.6, 1, 1))) == [2, 4]
    assert found(Evidence(Modality.VIDEO, 0.6, 1.4)) == [3, 4]  # no token's middle: those that its own middle lies in
    assert found(Evidence(Modality.AUDIO, 0.4, 0.6), Evidence(Modality.VIDEO, 1, 2, (0, 0, 1, 0.5))) == [3, 6]
    assert found() == []


def test_evidence_is_found_by_the_boxes_of_observations():
    stream = observed_stream()
    names = np.array(stream.labels)

    def found(start: float, end: float, box: tuple[float, float, float, float]) -> list[str]:
        return names[evidence_tokens(stream, [Evidence(Modality.VIDEO, start, end, box)]).numpy()].tolist()

    assert found(2, 3.5, (0.5, 0.6, 1, 1)) == ["dog", "dog"]  # top, left, bottom, right
    assert found(3, 5, (0, 0, 1, 0.4)) == ["person", "person"]
    assert found(6, 7, (0.08, 0.48, 0.12, 0.52)) == ["text 'EXIT'", "text 'EXIT'"]
    assert found(6, 7, (0.06, 0.42, 0.08, 0.44)) == ["text 'EXIT'", "text 'EXIT'"]  # holds no middle
    assert found(1, 2, (0.2, 0.2, 0.9, 0.9)) == ["street"]


def test_items_of_a_clip_send_the_sum_of_their_gradients_through_what_they_share(tmp_path):
    trainer = toy(tmp_path, SieveRecipe(steps=1, keep=(0.3, 0.3), plain=0.0))
    items = trainer.source.draw(random.Random(0))
    projection = trainer.learner.groups["adapter"]["projection"]
    assert trainer._accumulate(items, warming=False) == 2
    got, projection.grad = projection.grad, None
    again = trainer.source.draw(random.Random(0))
    sum(trainer.loss(item, item.stream.embeds, False) for item in again).backward()
    assert got.abs().max() > 0
    assert torch.allclose(got, projection.grad, atol=1e-6)


def test_every_group_learns_from_the_answers_alone_and_the_score_head_through_its_factor(tmp_path):
    trainer = toy(tmp_path, SieveRecipe(steps=1, items=4, keep=(0.3, 0.3), plain=0.0, evaluate_items=2))
    before = {name: p.detach().clone() for name, p in trainer.named.items()}
    trainer.run()
    moved = {name.split("/")[0] for name, p in trainer.named.items() if not torch.equal(p, before[name])}
    assert moved == {"adapter", "decoder", "refiner", "scorer"}


def test_only_the_sieve_learns_while_only_relevance_is_learned(tmp_path):
    trainer = toy(tmp_path, SieveRecipe(steps=2, items=4, relevance_only=1.0, relevance_any=1.0, evaluate_items=2))
    before = {name: p.detach().clone() for name, p in trainer.named.items()}
    trainer.run()
    moved = {name.split("/")[0] for name, p in trainer.named.items() if not torch.equal(p, before[name])}
    assert moved == {"refiner", "scorer"}
    assert "answer" not in log_of(tmp_path)[0]


@pytest.mark.slow
def test_a_needle_is_found_at_a_twentieth_after_training(tmp_path):
    rates = {"adapter": 1e-2, "decoder": 1e-2, "refiner": 1e-2, "scorer": 1e-2}
    recipe = SieveRecipe(
        steps=60,
        items=8,
        keep=(0.05, 1.0),
        lr=rates,
        lr_warmup_steps=5,
        relevance_only=0.25,
        relevance_any=1.0,
        evaluate_keep=(0.05,),
    )
    trainer = toy(tmp_path, recipe)
    first = trainer.evaluate()["0.05"]
    trainer.run()
    row, last = log_of(tmp_path)[-2], log_of(tmp_path)[-1]["held_out"]["0.05"]
    assert row["evidence_in_tenth"] > 0.95
    assert last["exact"] > 0.4 > first["exact"]  # a guess is right a quarter of the time
    assert last["loss"] < first["loss"] / 2
    assert sum(last["kept_share"].values()) == pytest.approx(0.1, abs=1e-3)  # one of twenty, in either sense
    assert min(last["found"].values()) > 0.8 > max(first["found"].values())


def test_without_a_sieve_items_are_thinned_by_selectors_that_need_no_training(tmp_path):
    trainer = toy(tmp_path, SieveRecipe(steps=2, items=2, evaluate_keep=(0.5, 1.0), evaluate_items=2), sieve=False)
    trainer.run()
    assert set(log_of(tmp_path)[-1]["held_out"]) == {"none", "0.5"}


def test_distillation_pulls_towards_what_the_model_says_from_all_tokens(tmp_path):
    trainer = toy(tmp_path, SieveRecipe(steps=1, items=2, keep=(0.1, 0.1), plain=0.0, distil=0.5, evaluate_items=2))
    trainer.run()
    row = log_of(tmp_path)[0]
    assert row["distil"] > 0
    assert row["loss"] == pytest.approx(row["answer"] + 0.5 * row["distil"], abs=1e-3)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_exactly_where_its_checkpoint_stood(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    recipe = SieveRecipe(steps=12, items=2, checkpoint_s=0.0, plain=0.3, evaluate_items=2)
    toy(whole, recipe).run()
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_sieve_training as t; from pathlib import Path\n"
        "recipe = t.SieveRecipe(steps=12, items=2, checkpoint_s=0.0, plain=0.3, evaluate_items=2)\n"
        "trainer = t.toy(Path(sys.argv[1]), recipe, say=lambda line: print(line, flush=True))\n"
        "advance = trainer._advance\n"
        "trainer._advance = lambda: (print('step', trainer.step, flush=True), advance())\n"
        "t.torch.set_num_threads(1); trainer.run()\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(killed)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    for line in run.stdout:
        if line.strip() == "step 7":
            run.send_signal(signal.SIGKILL)
            break
    assert run.wait() == -signal.SIGKILL
    run.stdout.close()
    again = toy(killed, recipe)
    assert again.resume()
    assert 0 < again.step < 12
    again.run()
    want, got = (load_file(folder / "toy.safetensors") for folder in (whole, killed))
    assert all(torch.equal(got[key], want[key]) for key in want)
    steps = [row["step"] for row in log_of(killed)]
    assert steps == [10, 12, 12]  # of ten steps, the rest, the measuring at the end: each once


def test_of_several_processes_that_go_on_only_the_first_mends_the_log(tmp_path):
    recipe = SieveRecipe(steps=1, items=1, evaluate_items=2)
    toy(tmp_path, recipe).run()
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 9}\n')  # after the last checkpoint
    for rank, left in ((1, True), (0, False)):
        trainer = toy(tmp_path, recipe)
        trainer.rank = rank
        assert trainer.resume()
        assert ({"step": 9} in log_of(tmp_path)) == left


def test_a_checkpoint_of_other_settings_is_refused_in_one_line(tmp_path):
    toy(tmp_path, SieveRecipe(steps=1, items=1, evaluate_items=2)).run()
    with pytest.raises(UsageError, match="other parameters are trained now"):
        toy(tmp_path, SieveRecipe(steps=2), sieve=False).resume()
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(UsageError, match=r"checkpoint\.pt"):
        toy(tmp_path, SieveRecipe(steps=2)).resume()
