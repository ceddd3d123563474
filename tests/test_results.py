"""Many settings in one sweep, and the page that is made of them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import media_samples
import pytest
import tiny_omni
import torch

from epcli.config import Profile
from epcli.errors import UsageError
from epcli.lab import batched, results, sweep
from epcli.lab.ablate import ABLATIONS, ablated
from epcli.lab.sweep import SweepSetting
from epcli.questions.evidence import evidence_tokens
from epcli.questions.record import Pattern, Question
from epcli.questions.sets import read_set
from epcli.records import KeptStream, Modality
from epcli.session import generate
from epcli.session.session import Session
from epcli.sieve.drops import Drop
from epcli.sieve.select import Budget
from epcli.sieve.selectors import Tools, select


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Profile:
    folder = tiny_omni.write(tmp_path_factory.mktemp("model") / "tiny", sieve=True)
    return Profile(model=str(folder), device="cpu", dtype="fp32", fps=1.0, max_frames=2, max_new_tokens=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four questions about two films; the sound of the second half of each holds what is asked for."""
    root = tmp_path_factory.mktemp("set")
    rows = []
    for name in ("a.mp4", "b.mp4"):
        media_samples.film(root / name, duration=3)
        about = {"media": name, "needs": "sound", "evidence": [["audio", 1.5, 3.0]]}
        rows.append({**about, "question": "What is heard?", "accept": "", "type": "hear", "answer": "A tone."})
        rows.append({**about, "question": "What is heard last?", "accept": "zzz", "type": "last", "answer": "zzz"})
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_rows_of_like_length_go_together_and_the_longest_alone():
    assert batched.batches([100, 1000, 90, 20, 990, 61]) == [[1, 4], [0, 2, 5], [3]]
    assert batched.batches([5000, 5000]) == [[0], [1]]
    assert batched.batches([]) == []


@pytest.mark.slow
def test_answers_of_a_batch_are_those_of_one_at_a_time(profile, folder):
    session = Session(profile)
    model = session.load()
    looked = session.look(folder / "a.mp4")
    streams = []
    for question in ("What?", "What is it that is heard in the second half?"):
        stream = model.stream(looked.features, question, None)
        tools = Tools(decoder=model.decoder, sieve=model.sieve)
        streams += [select(name, stream, Budget(ratio=0.5), tools) for name in ("cs2", "random", "uniform")]
        streams.append(select("cs2", stream, Budget(ratio=0.45), tools))
    streams.append(select("none", stream, Budget(ratio=1.0), tools))
    late = Drop(1, lambda found: torch.arange(len(found.left))[len(found.left) // 2 :])
    streams.insert(2, replace(streams[1], drops=(late,)))
    alone = [generate.run(model, s, max_new_tokens=12)[0].text for s in streams]
    assert batched.answers(model, streams, 12) == alone
    assert len(set(alone)) > 1, "a test that cannot fail"


def test_answers_that_end_leave_the_batch(profile, folder):
    session = Session(profile)
    model = session.load()
    stream = model.stream(session.look(folder / "a.mp4").features, "What?", None)
    tools = Tools(decoder=model.decoder, sieve=model.sieve)
    streams = [select("random", stream, Budget(ratio=0.5), Tools(seed=seed)) for seed in range(5)]
    streams.append(select("cs2", stream, Budget(ratio=0.5), tools))
    said = [generate.run(model, s, max_new_tokens=8)[0].token_ids for s in streams]
    usual = model.stop_ids
    model.stop_ids = frozenset({said[0][2], said[3][5]})  # so that rows end at different steps
    try:
        alone = [generate.run(model, s, max_new_tokens=8)[0] for s in streams]
        assert len({len(a.token_ids) for a in alone}) > 1
        assert batched.answers(model, streams, 8) == [a.text for a in alone]
    finally:
        model.stop_ids = usual


@pytest.mark.parametrize(
    ("text", "count"), [("none,cs2@0.05,random@0.5,blind", 4), ("main", 23), ("all", 23 + 4 * len(sweep.MORE))]
)
def test_settings_by_name(text, count):
    found = sweep.read_settings(text, has_sieve=True)
    assert len(found) == count
    assert [s.name for s in found] == [SweepSetting.read(s.name).name for s in found]
    assert not any(s.name.startswith("cs2") for s in sweep.read_settings("all", has_sieve=False))


@pytest.mark.parametrize("text", ["cs2", "none@0.5", "best@0.5", "cs2@2", "cs2@x", "none,none", ""])
def test_a_setting_that_is_none_is_refused(text):
    with pytest.raises(UsageError):
        sweep.read_settings(text, has_sieve=True)


SETTINGS = "none,cs2@1,cs2@0.2,cs2-per-modality@0.2,random@0.2,uniform@0.2,query-aware@0.2,blind"


@pytest.mark.slow
def test_a_sweep_asks_each_question_under_each_setting_and_goes_on(profile, folder, tmp_path):
    questions, out = read_set(folder), tmp_path / "out.jsonl"
    few = sweep.sweep(questions, profile, "none,cs2@0.2", out, limit=3)
    assert len(few) == 6
    rows = sweep.sweep(questions, profile, SETTINGS, out)
    assert len(rows) == 4 * 8 - 2  # no file before the first, so no blind question about it
    assert all("error" not in row for row in rows)
    before = out.read_text()
    assert sweep.sweep(questions, profile, SETTINGS, out) == rows  # nothing left to ask
    assert out.read_text() == before
    by_name = {(row["item"], row["setting"]): row for row in rows}
    full, some = by_name["1", "none"], by_name["1", "cs2@0.2"]
    assert full["tokens"] == {m: {"total": n, "kept": n} for m, n in (("video", 108), ("audio", 75))}
    assert full["evidence"] == {"total": 38, "kept": 38}  # of 40 ms each, the last 1.5 s
    assert sum(some["tokens"][m]["kept"] for m in ("video", "audio")) == 37
    fixed = by_name["1", "cs2-per-modality@0.2"]["tokens"]
    assert (fixed["video"]["kept"], fixed["audio"]["kept"]) == (22, 15)
    with pytest.raises(UsageError, match="another run"):
        sweep.sweep(read_set(folder), Profile(model=profile.model, max_new_tokens=5), SETTINGS, out)


@pytest.mark.slow
def test_answers_of_a_sweep_are_those_of_the_pipeline(profile, folder, tmp_path):
    names = ("none", "cs2@0.3", "query-aware@0.3", "uniform@0.3")
    rows = sweep.sweep(read_set(folder), profile, ",".join(names), tmp_path / "o.jsonl", limit=2)
    by_setting = {row["setting"]: row for row in rows if row["question"] == "What is heard last?"}
    for name in names:
        selector, _, keep = name.partition("@")
        chosen = Profile(**{**vars(profile), "selector": selector, "keep": float(keep) if keep else None})
        session = Session(chosen)
        report = session.ask(session.look(Path(by_setting[name]["media"])), "What is heard last?")
        assert report.answer == by_setting[name]["answer"], name
        assert {m: asdict(report.tokens.of(m)) for m in ("video", "audio")} == by_setting[name]["tokens"], name


def test_a_file_that_cannot_be_read_fails_alone(profile, folder, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    (root / "a.mp4").write_bytes((folder / "a.mp4").read_bytes())
    rows = [{"media": name, "question": "What?", "accept": ""} for name in ("gone.mp4", "a.mp4")]
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = sweep.sweep(read_set(root), profile, "none,cs2@0.2", tmp_path / "o.jsonl")
    assert sorted(("error" in row, row["setting"]) for row in rows) == [
        (False, "cs2@0.2"), (False, "none"), (True, "cs2@0.2"), (True, "none")
    ]  # fmt: skip
    assert results.SweepResult.of(rows).failed == 2
    assert sweep.sweep(read_set(root), profile, "none", tmp_path / "o.jsonl", minutes=0) == rows, "only read"


@pytest.mark.slow
def test_no_time_asks_nothing(profile, folder, tmp_path):
    assert sweep.sweep(read_set(folder), profile, "none", tmp_path / "o.jsonl", minutes=1e-9) == []


# --- Figures --------------------------------------------------------------------------------------


def row(key: int, right: bool, setting: str, cluster: str | None = None, **more) -> dict:
    selector, _, keep = setting.partition("@")
    counts = {"total": 100, "kept": 100 if not keep else int(100 * float(keep))}
    about = {"item": str(key), "setting": setting, "selector": selector, "keep": float(keep) if keep else None}
    about |= {"type": "hear", "cluster": cluster or str(key), "right": right, "model": "m", "needs": "sound"}
    return about | {"tokens": {"video": counts, "audio": counts}} | more


def test_settings_are_compared_on_the_same_questions():
    rows = [row(i, i % 2 == 0, "none") for i in range(200)] + [row(i, i % 4 == 0, "cs2@0.1") for i in range(100)]
    outcome = results.SweepResult.of(rows)
    found = results.compared(outcome.paired("cs2@0.1", "none"))
    assert (found["n"], found["ratio"], found["difference"]) == (100, 0.5, -0.25)
    low, high = found["ratio_ci"]
    assert 0.3 < low < 0.4 < 0.6 < high < 0.7  # +- 2 sqrt(.25 / 50)
    assert results.compared(outcome.paired("none", "none"))["ratio_ci"] == [1.0, 1.0]
    assert results.compared([]) is None


def test_blind_questions_make_no_column():
    rows = [
        row(1, True, "none"),
        row(1, True, "cs2@0.05"),
        row(1, False, "blind") | {"selector": "uniform", "keep": 0.2},
    ]
    outcome = results.SweepResult.of(rows)
    assert (outcome.selectors(), outcome.keeps()) == (["cs2"], [0.05])


def test_one_file_with_many_questions_is_one_draw():
    def width(clusters: int) -> float:
        files = [str(i % clusters) for i in range(200)]
        rows = [(row(i, i % clusters < clusters // 2, "a", f), row(i, True, "b", f)) for i, f in enumerate(files)]
        low, high = results.compared(rows)["difference_ci"]
        return high - low

    assert width(10) > 3 * width(200)


def test_evidence_is_what_lies_in_the_modality_and_the_moment(profile, folder):
    item = read_set(folder).questions[0]
    session = Session(profile)
    model = session.load()
    stream = model.stream(session.look(item.media).features, item.text, None)
    mask = evidence_tokens(stream, item.evidence)
    assert (stream.modality[mask] == Modality.AUDIO).all()
    assert 1.4 < stream.spans_s[mask, 0].min() < stream.spans_s[mask, 0].max() < 3
    nothing = KeptStream(stream, stream.embeds[:0], stream.positions[:, :0], torch.arange(0), None)
    assert sweep._counted(mask, nothing) == {"total": 38, "kept": 0}


def test_the_page_says_what_was_measured(folder):
    kept = {"evidence": {"total": 10, "kept": 8}}
    rows = [row(i, i <= 3, "none") for i in range(1, 5)] + [row(i, i <= 2, "cs2@0.2", **kept) for i in range(1, 5)]
    rows += [row(i, i <= 1, "random@0.2") for i in range(1, 5)] + [
        row(1, False, "blind") | {"selector": "cs2", "keep": 0.2}
    ]
    rows += [{"setting": "none", "error": "gone"}]
    stage = {"media": 1.0, "sieve": 0.5}
    times = {
        "rows": [
            {"keep": None, "stages_s": stage, "kv_cache_bytes": 5e6, "peak_rss_bytes": 9e8, "peak_device_bytes": None}
        ],
        "setup": {"chip": None, "device": "cpu", "threads": 2, "media": ["a.mp4"], "dtype": "float32", "repeat": 3,
                  "peak_rss_is": "most memory"},
    }  # fmt: skip
    text = results.page(read_set(folder), rows, times, "python -m x")
    assert "4 questions about 4 files, fewer where a cell says n, 1 failures" in text
    assert "`none`, all tokens: **75.0%" in text
    assert "| `cs2` | 50.0% (" in text
    assert "| `cs2` | 66.7% (" in text  # of full tokens
    assert "about another file, all tokens: 0.0% (0-79%), 1 questions" in text
    assert "| `cs2` minus `random` | +25.0 (" in text
    assert "| `cs2` 0.2 | 20.0% | 20.0% | 80.0% |" in text
    assert "| none | 1.00 | 0.50 | 1.50 | 5.0 | 900 |" in text
    assert "| hear | 4 | 75% (" in text
    assert "$ python -m x" in text


@pytest.mark.parametrize(
    ("answer", "count"), [("A dog.", 0), ("A cat and a CAT.", 1), ("a cat, a bird", 2), ("No cat.", 0), ("", 0)]
)
def test_false_names_are_counted_once_each(answer, count):
    rule = Pattern("dog", r"(?<!no )\b(?:cat|bird)s?\b")
    assert results.false_names(Question("Describe the clip.", rule=rule), answer) == count


def test_yes_and_no_are_told_apart_and_each_cell_has_an_interval(tmp_path):
    said = ["Yes, a dog.", "No.", "Yes.", "No, none."]
    about = {"media": "a.mp4", "question": "Is there a dog?", "accept": "", "type": "is"}
    lines = [about | {"question": f"Is there a dog {i}?", "answer": text} for i, text in enumerate(said)]
    lines.append(about | {"type": "describe", "question": "Describe.", "reject": "cat", "answer": "A dog."})
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_set(tmp_path)
    keys = [item.key for item in found.questions]
    answers = [{**row(0, i != 1, "none"), "item": key, "type": "is", "cluster": key} for i, key in enumerate(keys[:4])]
    answers.append({**row(0, False, "none"), "item": keys[4], "type": "describe", "answer": "A cat and a dog."})
    text = results.page(found, answers, None, "x")
    assert "| is: yes | 2 | 100% (34-100%) | - |" in text
    assert re.search(r"\| is: no \| 2 \| 50% \(\d+-\d+%\) \| - \|", text)
    assert "| `none` | 1 | 1.00 | 1 |" in text


def test_the_longest_films_are_timed(folder, tmp_path):
    media_samples.film(tmp_path / "long.mp4", duration=4)
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    rows = [{"media": name, "question": "?", "accept": ""} for name in ("a.mp4", "long.mp4", "b.mp4")]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [path.name for path in results.clips_to_time(read_set(tmp_path), 1)] == ["long.mp4"]


def test_a_card_is_filled_between_its_marks(tmp_path):
    page = "a\n<!-- written by python -m epcli.lab.results -->\nold\n<!-- end -->\nb\n"
    new = results.filled(page, "new", tmp_path)
    assert new == page.replace("old", "new")
    assert results.filled(new, "new", tmp_path) == new
    with pytest.raises(UsageError, match="lacks"):
        results.filled("a", "new", tmp_path)


@pytest.mark.slow
def test_an_ablated_sieve_shares_its_weights_and_lacks_one_thing(profile, folder):
    session = Session(profile)
    model = session.load()
    stream = model.stream(session.look(folder / "a.mp4").features, "What is heard?", None)
    tools = Tools(decoder=model.decoder, sieve=model.sieve)
    whole = select("cs2", stream, Budget(ratio=1.0), tools)
    is_text = stream.modality == Modality.TEXT
    first = int((~is_text).nonzero()[0])
    last = len(is_text) - 1

    def scores(what: str, embeds: torch.Tensor) -> torch.Tensor:
        sieve = ablated(model.sieve, what, stream.modality)
        changed = replace(stream, embeds=embeds)
        return select("cs2", changed, Budget(ratio=1.0), Tools(decoder=model.decoder, sieve=sieve)).scores

    def change(at: int) -> torch.Tensor:
        embeds = stream.embeds.clone()
        embeds[at] = -embeds[at].roll(1)
        return embeds

    depth = len(model.sieve.refiner.layers)
    for what in ABLATIONS:
        if what.startswith("depth") and int(what[-1]) >= depth:
            with pytest.raises(UsageError, match="only"):
                ablated(model.sieve, what, stream.modality)
        else:
            same = torch.allclose(scores(what, stream.embeds)[~is_text], whole.scores[~is_text], atol=1e-4)
            assert same == (what == "plain-states"), what
    half = Budget(ratio=0.5)
    refined = select("cs2", stream, half, tools)
    chosen = select("cs2", stream, half, replace(tools, sieve=ablated(model.sieve, "plain-states", stream.modality)))
    assert torch.equal(chosen.indices, refined.indices)
    assert torch.equal(chosen.embeds, stream.embeds[chosen.indices])
    assert not torch.allclose(refined.embeds, chosen.embeds)
    asked = change(last - 2)  # a word of the question
    for what, moved in (("causal", False), ("no-text", False), ("no-cross", True), ("three-axes", True)):
        other = (scores(what, asked) - scores(what, stream.embeds))[first].abs()
        assert bool(other > 1e-5) == moved, what
    picture = stream.modality == Modality.VIDEO
    seen = change(int(picture.nonzero()[0]))
    sound = (scores("no-text", seen) - scores("no-text", stream.embeds))[stream.modality == Modality.AUDIO]
    assert sound.abs().max() > 1e-5
    rows = sweep.sweep(read_set(folder), profile, "none,cs2@0.5,cs2/causal@0.5", folder / "ablated.jsonl")
    assert {row["setting"] for row in rows} == {"none", "cs2@0.5", "cs2/causal@0.5"}
    page = results.page(read_set(folder), rows, None, "command")
    assert "## What the sieve leans on" in page
    assert "`cs2/causal`" not in page.split("## What the sieve leans on")[0]
