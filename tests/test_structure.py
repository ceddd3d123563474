"""Answers of a form: JSON of a schema, and one of several choices."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import batch_samples
import pytest
import tiny_omni
import torch
from media_samples import X264, shared_film
from torch import Tensor

import epcli
from epcli.cli.options import FormFlags
from epcli.errors import EpError, UsageError
from epcli.session import choices as choosing
from epcli.session.form import Choices, read_form, split_choices

ROOT = Path(__file__).parents[1]
needs_llguidance = pytest.mark.skipif(not importlib.util.find_spec("llguidance"), reason="llguidance is not installed")
SCENE = {
    "type": "object",
    "properties": {
        "animal": {"enum": ["dog", "cat", "cow"]},
        "heard": {"type": "boolean"},
        "count": {"type": "integer", "minimum": 0, "maximum": 20},
        "places": {"type": "array", "items": {"$ref": "#/$defs/place"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["animal", "heard", "count", "places"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "string", "maxLength": 6}},
}


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> tuple[epcli.Session, epcli.EncodedClip]:
    folder = tiny_omni.write(tmp_path_factory.mktemp("omni") / "tiny")
    session = epcli.Session(model=folder, device="cpu", threads=1, max_new_tokens=200, cache=False)
    return session, session.look(shared_film("look.mp4", X264, ("aac",), 2))


# --- A schema ---------------------------------------------------------------------------------------------


@needs_llguidance
@pytest.mark.parametrize(("temperature", "seed"), [(0.0, 0), (1.0, 1), (2.0, 2), (2.0, 3)])
def test_an_answer_meets_its_schema_and_comes_in_pieces(looked, temperature: float, seed: int) -> None:
    import jsonschema

    session, clip = looked
    session = session.using(epcli.Profile(**{**vars(session.profile), "temperature": temperature, "seed": seed}))
    answer = session.stream(clip, "What is seen?", schema=SCENE)
    pieces = list(answer)
    assert len(pieces) > 5
    assert "".join(pieces) == answer.report.answer
    assert answer.report.finish_reason == "stop"
    assert "\n" not in answer.report.answer
    jsonschema.validate(json.loads(answer.report.answer), SCENE)


@needs_llguidance
@pytest.mark.parametrize(
    "schema", [{"type": "boolean"}, {"const": [1, "a, b", None]}, {"type": "integer", "maximum": 9}]
)
def test_an_answer_ends_where_nothing_can_follow(looked, schema: dict[str, Any]) -> None:
    import jsonschema

    session, clip = looked
    report = session.ask(clip, "What is seen?", schema=schema, evidence=True)
    jsonschema.validate(json.loads(report.answer), schema)
    assert report.finish_reason == "stop"
    assert sum(moment.share for moment in report.evidence.moments) > 0


@needs_llguidance
def test_json_that_is_not_complete_is_an_error(looked) -> None:
    session, clip = looked
    short = session.using(epcli.Profile(**{**vars(session.profile), "max_new_tokens": 9}))
    with pytest.raises(EpError, match=r"reached --max-new-tokens 9 before its JSON was complete"):
        short.ask(clip, "What is seen?", schema=SCENE)


@needs_llguidance
def test_json_that_repeats_itself_is_an_error_but_a_list_of_equal_items_is_not(looked) -> None:
    session, clip = looked
    items = {"type": "array", "items": {"const": 0}}
    assert json.loads(session.ask(clip, "?", schema=items | {"minItems": 9, "maxItems": 9}).answer) == [0] * 9
    with pytest.raises(EpError, match="repeated itself"):
        session.ask(clip, "?", schema=items | {"minItems": 50})


def chain(length: int) -> dict[str, Any]:
    links = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(length)}
    return {"$defs": links | {f"a{length}": {"type": "string"}}, "$ref": "#/$defs/a0"}


def nested(levels: int) -> str:
    return '{"items":' * levels + "{}" + "}" * levels


@needs_llguidance
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "is not a JSON Schema"),
        ("true", "is not a JSON Schema"),
        ('{"minimum": NaN}', "is not JSON"),
        ('{"minimum": 1' + "0" * 5000 + "}", "is not JSON"),
        ('{"not": {"type": "string"}}', 'cannot be used: Unimplemented keys: ["not"]'),
        ('{"type": "thing"}', "cannot be used: Invalid type: thing"),
        ('{"type": "string", "pattern": "(a"}', "cannot be used: pattern: unclosed group"),
        ('{"type": "string", "minLength": 3, "maxLength": 2}', "cannot be used: Unsatisfiable"),
        (r'{"const": "\ud800"}', "cannot be used"),
        ('{"$ref": "#"}', "no answer can meet this schema"),
        (
            '{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}',
            "no answer can meet",
        ),
        ('{"$ref": "https://example.com/schema.json"}', "only places inside the schema"),
        ('{"items": {"$ref": "file:///etc/passwd"}}', "only places inside the schema"),
        ('{"$ref": "other.json#/a"}', "only places inside the schema"),
        ('{"$ref": "#/$defs/none"}', "refers to '#/$defs/none', which is not there"),
        (nested(200), "cannot be used"),  # the library's own limit
        (nested(300), "has more than 256 levels"),
        (nested(20_000), "has more than 256 levels"),
        (json.dumps(chain(20_000)), "larger than"),
        (json.dumps(chain(3_000)), "has more than 256 levels"),  # would end the process
        (json.dumps({"enum": ["x" * 1000] * 300}), "larger than"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "scene.json"
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        read_form(file)
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(file))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


@needs_llguidance
def test_a_schema_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_form(tmp_path / "none.json")
    with pytest.raises(UsageError, match="is not a file"):
        read_form(tmp_path)


@needs_llguidance
def test_the_librarys_options_in_a_schema_change_nothing(looked) -> None:
    session, clip = looked
    loose = {"x-guidance": {"whitespace_pattern": "x+", "lenient": True}}
    whole = session.ask(clip, "?", schema={"const": {"a": [1, 2]}} | loose)
    assert whole.answer == '{"a": [1, 2]}'
    with pytest.raises(UsageError, match="Unimplemented"):
        read_form({"not": {"type": "string"}} | loose)


# --- Choices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["yes,no"], ["yes", "no"]),
        (["yes", "no"], ["yes", "no"]),
        (["yes, no,maybe"], ["yes", "no", "maybe"]),
        (['"red, green",blue'], ["red, green", "blue"]),
        (['"a ""b""",c'], ['a "b"', "c"]),
        (["yes,,no"], ["yes", "", "no"]),  # refused by read_form
        ([""], [""]),
    ],
)
def test_choices_are_separated_by_commas_that_stand_in_no_quotes(values: list[str], expected: list[str]) -> None:
    assert split_choices(values) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["yes"], "there must be 2 to 64 of them, not 1"),
        ([",".join(map(str, range(65)))], "there must be 2 to 64 of them, not 65"),
        (["yes,,no"], "one of them is empty"),
        ([""], "one of them is empty"),
        (["yes,no, yes"], "'yes' is there twice"),
        (['"yes,no'], "put a choice with commas in double quotes"),
        (["yes\nno,maybe"], "--choices"),
        (['"yes\nno",maybe'], "holds a line break"),
        (["a\x1b[2Jb,c"], "control character"),
        (["x" * 501 + ",y"], "501 characters long"),
    ],
)
def test_choices_that_are_none_are_refused_in_one_line(values: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        FormFlags(choices=values).read()
    assert message in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_schema_and_choices_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--schema and --choices"):
        FormFlags(schema=Path("a.json"), choices=["a,b"]).read()
    with pytest.raises(UsageError, match="not both"):
        read_form({"type": "string"}, ["a", "b"])


def test_the_report_has_the_probability_of_each_choice(looked) -> None:
    session, clip = looked
    texts = ["yes", "no", "no one", "a cat, on the left"]
    report = session.ask(clip, "What is seen?", choices=texts, evidence=True)
    assert [choice.text for choice in report.choices] == texts
    assert math.isclose(sum(choice.probability for choice in report.choices), 1.0)
    assert report.answer == max(report.choices, key=lambda choice: choice.probability).text
    assert report.finish_reason == "stop"
    assert report.to_dict()["choices"][1] == {"text": "no", "probability": report.choices[1].probability}
    assert sum(moment.share for moment in report.evidence.moments) > 0
    assert session.ask(clip, "What is seen?").choices is None
    warm = session.using(epcli.Profile(**{**vars(session.profile), "temperature": 1.5, "seed": 9}))
    again = warm.ask(clip, "What is seen?", choices=texts)
    assert again.choices == report.choices


def test_long_choices_do_not_become_equal(looked) -> None:
    """Their probabilities, some e^-250 here, are below the smallest number of float32."""
    session, clip = looked
    texts = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs and go"]
    report = session.ask(clip, "What is seen?", choices=texts)
    first, second = (choice.probability for choice in report.choices)
    assert first + second == pytest.approx(1.0)
    assert abs(first - second) > 0.01


@pytest.mark.parametrize("leaves_inside", [False, True])
@torch.inference_mode()
def test_a_choice_of_many_tokens_is_as_likely_as_one_step_after_the_other_says(looked, leaves_inside: bool) -> None:
    """Also where the decoder's layers hold different numbers of tokens."""
    from epcli.session import generate
    from epcli.session.kv import new_cache
    from epcli.sieve.drops import Drop
    from epcli.sieve.select import Budget
    from epcli.sieve.selectors import Tools, select

    session, clip = looked
    model = session.load()
    stream = model.stream(clip.features, "What?", None)
    kept = select("none", stream, Budget(ratio=1.0), Tools(decoder=model.decoder))
    if leaves_inside:
        kept = replace(kept, drops=(Drop(2, lambda found: found.left[::2]),))
    ids = choosing.namings(model, Choices(("a cat, on the left", "b")))[0].ids
    cache = new_cache(model.decoder)
    hidden, _ = generate.prefill(model, kept, cache)
    sizes = [layer.get_seq_length() for layer in cache.layers]
    got = choosing._rest(model, kept, cache, stream.next_position, ids)
    assert [layer.get_seq_length() for layer in cache.layers] == sizes
    assert (len(set(sizes)) > 1) == leaves_inside

    steps, total = generate.decode_steps(model, kept, cache, hidden), 0.0
    next(steps)
    for token, after in pairwise(ids):
        total += float(steps.send(token).double().log_softmax(-1)[after])
    assert got == pytest.approx(math.exp(total), rel=1e-4)


class Script:
    """A model whose answers are known: after what was said, how likely each next letter or word is."""

    WORDS = ("", "You", " hear", " a", " dog", " cat", " no", "No", " one", "no", ".", "piano", " piano", "Piano")

    def __init__(self, table: dict[str, dict[str, float]]) -> None:
        self.table, self.said = table, [""]

    def logits(self) -> Tensor:
        chances = torch.full((len(self.WORDS),), 1e-9)
        for word, chance in self.table.get("".join(self.said), {}).items():
            chances[self.WORDS.index(word)] = chance
        return (chances / chances.sum()).log()


def walked(monkeypatch: pytest.MonkeyPatch, table: dict[str, dict[str, float]], texts: tuple[str, ...]) -> list[float]:
    """The scores of choices, of a model that is a table."""
    from types import SimpleNamespace

    script, words = Script(table), Script.WORDS

    def steps(*_: Any) -> Any:
        while True:
            token = yield script.logits()
            script.said.append(words[token])

    def split(_: Any, text: str) -> list[int]:
        found = []
        while text:
            word = max((word for word in words if word and text.startswith(word)), key=len, default=None)
            if word is None:
                return [0]
            found.append(words.index(word))
            text = text.removeprefix(word)
        return found

    def rest(_: Any, __: Any, ___: Any, ____: int, ids: tuple[int, ...]) -> float:
        said, chance = list(script.said), 1.0
        for before, after in pairwise(ids):
            script.said.append(words[before])
            chance *= float(script.logits()[after].exp())
        script.said = said
        return chance

    monkeypatch.setattr(choosing, "decode_steps", steps)
    monkeypatch.setattr(choosing, "plain_ids", split)
    monkeypatch.setattr(choosing, "_rest", rest)
    tokenizer = SimpleNamespace(decode=lambda ids, **_: "".join(words[i] for i in ids))
    model: Any = SimpleNamespace(tokenizer=tokenizer, stop_ids={0})
    kept: Any = SimpleNamespace(embeds=torch.zeros(1, 1), stream=SimpleNamespace(next_position=1))
    choices = Choices(texts)
    scores, _ = choosing._walk(model, kept, choices, choosing.namings(model, choices), None, None, 20)  # type: ignore[arg-type]
    return scores


@pytest.mark.parametrize(
    ("table", "texts", "expected"),
    [
        # in a sentence, where the model names it; what it would say in one word counts too
        (
            {
                "": {"You": 0.9, "piano": 0.1},
                "You": {" hear": 1},
                "You hear": {" a": 1},
                "You hear a": {" dog": 0.6, " cat": 0.4},
            },
            ("dog", "cat", "piano"),
            [0.54, 0.36, 0.1],
        ),
        ({"": {"Piano": 0.5, "piano": 0.3, "No": 0.2}}, ("piano", "no"), [0.8, 0.2]),  # with a capital or without
        ({"": {"no": 1}, "no": {" one": 0.7, "": 0.3}}, ("no", "no one"), [0.3, 0.7]),  # the longer off the shorter
        ({"": {"No": 1}, "No": {" one": 0.2, "": 0.8}}, ("no one", "no"), [0.2, 0.8]),
    ],
)
def test_a_choice_counts_wherever_it_would_be_named_first(
    monkeypatch: pytest.MonkeyPatch, table: Any, texts: tuple[str, ...], expected: list[float]
) -> None:
    assert walked(monkeypatch, table, texts) == pytest.approx(expected, abs=1e-3)


# --- The program ----------------------------------------------------------------------------------------------


def ep(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "epcli", *arguments]
    return subprocess.run(command, cwd=ROOT / "docs" / "media", capture_output=True, text=True, timeout=300)


@needs_llguidance
@pytest.mark.slow
def test_ep_ask_prints_whole_json_or_nothing(tmp_path: Path) -> None:
    import jsonschema

    file = tmp_path / "scene.json"
    file.write_text(json.dumps(SCENE))
    run = ep("ask", "farm.mp4", "Which animal is on the left?", "--schema", str(file), "--quiet")
    assert run.returncode == 0, run.stderr
    jsonschema.validate(json.loads(run.stdout), SCENE)
    run = ep("ask", "farm.mp4", "Which?", "--schema", str(file), "--max-new-tokens", "5", "--quiet")
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    file.write_text('{"$ref": "#"}')
    run = ep("ask", "farm.mp4", "Which?", "--schema", str(file))
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clip", "question", "choices", "answer"),
    [
        ("duet.mp4", "Which instrument plays first?", "guitar,piano,violin,trumpet", "piano"),
        ("photos.mp4", "How many people are there?", "two,four,nine", "four"),
        ("farm.mp4", "Do you hear a piano?", "yes,no", "no"),
    ],
)
def test_the_built_in_model_chooses_what_it_would_say(clip: str, question: str, choices: str, answer: str) -> None:
    run = ep("ask", clip, question, "--choices", choices)
    assert run.stdout == f"{answer}\n", run.stderr
    assert re.search(rf"probability of each choice\n +\d+\.\d%  {answer}\n", run.stderr)


@needs_llguidance
@pytest.mark.slow
def test_ep_batch_gives_its_rows_the_form_and_mixes_no_two(tmp_path: Path) -> None:
    folder, out = tmp_path / "clips", tmp_path / "rows.jsonl"
    folder.mkdir()
    batch_samples.copy(folder / "a.mp4", 1)
    whole = batch_samples.arguments(folder, out, "-Q", "What is seen?")
    run = ep(*whole, "--choices", "yes,no")
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["answer"] for row in rows} <= {"yes", "no"}
    assert [choice["text"] for choice in rows[0]["report"]["choices"]] == ["yes", "no"]
    run = ep(*whole, "--choices", "yes,no,maybe")
    assert run.returncode == 2
    assert "was begun with choices ['yes', 'no'], and now it is ['yes', 'no', 'maybe']" in run.stderr

    file = tmp_path / "scene.json"
    file.write_text(json.dumps(SCENE))
    whole = batch_samples.arguments(folder, tmp_path / "json.jsonl", "-Q", "What?", "--schema", str(file))
    run = ep(*whole)  # two tokens are too few
    assert run.returncode == 3, run.stderr
    rows = [json.loads(line) for line in (tmp_path / "json.jsonl").read_text().splitlines()]
    assert {(row["status"], row["exit_code"], row["answer"]) for row in rows} == {("failed", 1, None)}
    assert all("before its JSON was complete" in row["error"] for row in rows)
