"""Loaders of published question sets, on small files in their exact layouts; prompts and the reading of answers."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path

import cv2
import media_samples
import numpy as np
import pytest
import soundfile

from epcli.errors import UsageError
from epcli.questions.record import CHOICE_PROMPT, EXACT_PROMPT, Choice, Exact, choice, normalised, read_choice
from epcli.questions.sets import read_set

OPTIONS = ["a cat", "a dog", "a cow", "an owl"]


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("(B)", 1),
        ("(A) or rather (C)", 2),  # the last in brackets
        ("B", 1),
        ("b.", 1),
        ("B. a dog", 1),
        ("B a dog", 1),
        ("The answer is B", 1),
        ("Not A. The cow moos: C", 2),  # the last that stands alone
        ("A is right", 0),
        ("A", 0),
        ("A dog", 1),  # the article, and an option's text
        ("A dog barks.", 1),
        ("I hear a cow", 2),
        ("An owl!", 3),
        ("a cat and a dog", None),  # two options' texts
        ("E", None),  # there is no such option
        ("Maybe", None),  # no letter inside a word
        ("", None),
    ],
)
def test_which_option_an_answer_names(answer, index):
    assert read_choice(answer, OPTIONS) == index


@pytest.mark.parametrize(
    ("gold", "right"),
    [("B", "(B)"), ("b", None), ("a dog", "B"), ("B. a dog", "B"), ("(B)", "B"), ("a horse", None), ("F", None)],
)
def test_the_right_option_is_a_letter_or_its_text(gold, right):
    item = choice("1", Path("x"), "What?", OPTIONS, gold, type="t", cluster="x")
    assert bool(item.problem) == (right is None)
    if right:
        assert item.judge(right)
        assert not item.judge("C")


def test_the_prompt_has_a_line_an_option_and_no_letter_twice():
    bare = choice("1", Path("x"), "What?", ["a cat", "a dog"], "A", type="t", cluster="x")
    lettered = choice("1", Path("x"), "What?", ["A. a cat", "(B) a dog"], "A", type="t", cluster="x")
    assert bare.text == lettered.text == f"What?\nA. a cat\nB. a dog\n{CHOICE_PROMPT}"


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("Two.", "two", True),
        ("2", "two", True),
        ("the Piano", "piano", True),
        ("Two pianos", "two", False),
        ("", "no", False),
    ],
)
def test_short_answers_are_equal_after_normalisation(answer, gold, right):
    assert Exact(gold).judge(answer) is right


def test_normalised():
    assert normalised("  The cello,\n  and 10 VIOLINS! ") == "cello and ten violins"


# --- Layouts --------------------------------------------------------------------------------------


@pytest.fixture
def film() -> Path:
    return media_samples.shared_film("sets.mp4", length=1)


def put(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    return target


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_our_own_jsonl(tmp_path, film):
    put(film, tmp_path / "media" / "a.mp4")
    rows = [
        {"media": "media/a.mp4", "question": "Who barks?", "accept": "dog", "reject": "cat", "type": "hear"},
        {"media": "media/a.mp4", "question": "What?", "accept": "."},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    first, second = read_set(path).questions
    assert first.media.is_file()
    assert (first.type, second.type) == ("hear", "all")
    assert first.rule.judge("A DOG\nbarks")
    assert not first.rule.judge("a dog and a cat")
    assert first.cluster == second.cluster


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", "line 1 is not an object"),
        ('{"media": "a", "question": "b"}', "question 1 cannot be scored: it has neither accept nor answer"),
        ('{"question": "b", "answer": "c"}', "question 1 cannot be scored: it names no media"),
        ('{"media": "a", "question": "b", "accept": "("}', "line 1: accept is no regular expression"),
        ('{"media": "a", "question": " ", "accept": "x"}', "line 1: it has no question"),
        ('{"text": "a"}', "line 1: is not of a known set; a question needs question"),
        ("", "no questions in it"),
    ],
)
def test_a_file_that_is_no_set_is_refused_with_the_place(tmp_path, line, message):
    path = tmp_path / "q.jsonl"
    path.write_text(line)
    with pytest.raises(UsageError, match=message):
        read_set(path)


def test_a_folder_or_format_that_is_unknown(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        read_set(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"holds no questions of a known set; looked for .*questions\.jsonl"):
        read_set(tmp_path)
    with pytest.raises(UsageError, match="there are: avqa, avut, daily-omni, jsonl, llava-video, "):
        read_set(tmp_path, "avcaps")
    write_json(tmp_path / "qa.json", [{"Question": "?"}])
    with pytest.raises(UsageError, match=r"of AVUT; looked for AV_Human_data\.json"):
        read_set(tmp_path, "avut")


def test_worldsense(tmp_path, film):
    task = {
        "task_domain": "Recognition",
        "task_type": "Audio Recognition",
        "question": "Which instrument is played?",
        "candidates": ["A. Violin", "B. Piano", "C. Drum", "D. Flute"],
        "answer": "B",
    }
    video = {
        "video_id": "bGaNbxkW",
        "video_duration": "60s",
        "duration": "<1min",
        "domain": "Music",
        "sub_category": "Solo",
        "audio_class": ["Music"],
        "video_caption": "Someone plays.",
        "task0": task,
        "task1": task | {"task_type": "Event Sorting", "answer": "D"},
    }
    write_json(tmp_path / "worldsense_qa.json", {"bGaNbxkW": video})
    put(film, tmp_path / "videos" / "bGaNbxkW.mp4")
    found = read_set(tmp_path)
    assert found.title == "WorldSense"
    assert [i.type for i in found.questions] == ["Audio Recognition", "Event Sorting"]
    assert [i.key for i in found.questions] == ["bGaNbxkW/task0", "bGaNbxkW/task1"]
    assert found.questions[0].media.is_file()
    assert found.questions[0].rule == Choice(("Violin", "Piano", "Drum", "Flute"), 1)
    assert {i.cluster for i in found.questions} == {"bGaNbxkW"}
    assert read_set(tmp_path / "worldsense_qa.json").questions == found.questions


def test_worldsense_as_a_flat_table(tmp_path, film):
    rows = [
        {
            "index": 7,
            "video_path": "./videos/x.mp4",
            "subtitle_path": "./subtitles/x.srt",
            "question": "Which?",
            "candidates": "['A. one', 'B. two']",
            "answer": "A",
            "task_type": "Counting",
            "task_domain": "d",
            "duration": "<1min",
            "audio_class": "['Speech']",
        }
    ]
    put(film, tmp_path / "videos" / "x.mp4")
    table(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    (item,) = read_set(tmp_path).questions
    assert item.rule == Choice(("one", "two"), 0)
    assert item.media.is_file()


def test_daily_omni(tmp_path, film):
    row = {
        "Question": "What happens when the bell rings?",
        "Choice": ["A. The door opens", "B. It rains", "C. Nothing", "D. A dog barks"],
        "Answer": "D",
        "video_id": "-1Wqw5DHg8c",
        "Type": "AV Event Alignment",
        "content_parent_category": "Daily",
        "content_fine_category": "Home",
        "video_category": "Vlog",
        "video_duration": "30s",
    }
    write_json(tmp_path / "qa.json", [row, row | {"Type": "Inference"}])
    put(film, tmp_path / "Videos" / "-1Wqw5DHg8c" / "-1Wqw5DHg8c_video.mp4")
    first, second = read_set(tmp_path).questions
    assert first.media.is_file()
    assert first.rule.judge("D. A dog barks")
    assert (first.type, second.type) == ("AV Event Alignment", "Inference")
    assert (first.key, second.key) == ("0", "1")


OMNI_ROW = {
    "index": 3,
    "task type": "Object Identification and Description",
    "audio type": "sound event",
    "question": "What makes the sound?",
    "options": ["The bell", "The bird", "The car", "The clock"],
    "answer": "The bird",
    "audio content": "A bird sings.",
    "image content": "A bird.",
}


def picture_and_sound(folder: Path) -> tuple[Path, Path]:
    image, audio = folder / "mm_data" / "image" / "p.png", folder / "mm_data" / "audio" / "s.wav"
    image.parent.mkdir(parents=True)
    audio.parent.mkdir(parents=True)
    cv2.imwrite(str(image), np.full((56, 56, 3), 90, np.uint8))
    soundfile.write(audio, 0.3 * np.sin(np.arange(16000) / 5), 16000)
    return image, audio


def test_omnibench_as_files(tmp_path):
    image, audio = picture_and_sound(tmp_path)
    path = tmp_path / "dataset" / "batch-5_1142_20240817.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(OMNI_ROW | {"audio_path": "s.wav", "image_path": "p.png"}) + "\n")
    for place in (tmp_path, path):
        (item,) = read_set(place).questions
        assert (item.media, item.sound) == (image, audio)
        assert item.judge("B")
        assert (item.key, item.type) == ("3", "Object Identification and Description")


def test_omnibench_with_the_files_in_the_table(tmp_path, monkeypatch):
    image, audio = picture_and_sound(tmp_path)
    cells = {kind: {"bytes": p.read_bytes(), "path": p.name} for kind, p in (("image", image), ("audio", audio))}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "copy"
    table(folder / "data" / "train-00000-of-00001.parquet", [OMNI_ROW | cells, OMNI_ROW | cells | {"index": 4}])
    first, second = read_set(folder).questions
    assert first.media == second.media  # written once
    assert first.media.read_bytes() == image.read_bytes()
    assert first.sound.suffix == ".wav"


def test_music_avqa(tmp_path, film):
    row = {
        "video_id": "00000093",
        "question_id": 29,
        "type": '["Audio-Visual", "Existential"]',
        "question_content": "Is the <Object> to the <LR> of the <Object> playing?",
        "templ_values": '["ukulele", "left", "cello"]',
        "question_deleted": 0,
        "anser": "yes",
    }
    deleted = row | {"question_id": 30, "question_deleted": 1}
    short = row | {"question_id": 31, "templ_values": '["ukulele"]'}
    plain = row | {"question_id": 32, "question_content": "How many instruments?", "templ_values": "[]", "anser": "two"}
    write_json(tmp_path / "data" / "json" / "avqa-train.json", [])
    write_json(tmp_path / "data" / "json" / "avqa-test.json", [row, deleted, short, plain])
    put(film, tmp_path / "MUSIC-AVQA-videos-Real" / "00000093.mp4")
    first, second, third = read_set(tmp_path).questions
    assert first.text == f"Is the ukulele to the left of the cello playing?\n{EXACT_PROMPT}"
    assert first.media.is_file()
    assert first.type == "Audio-Visual Existential"
    assert (first.key, third.key) == ("29", "32")
    assert first.rule.judge("Yes.")
    assert third.rule.judge("2")
    assert second.problem == "the slot <LR> has no value"
    elsewhere = read_set(tmp_path / "data" / "json" / "avqa-test.json", media=tmp_path / "MUSIC-AVQA-videos-Real")
    assert elsewhere.questions[0].media.is_file()


def test_avut(tmp_path, film):
    row = {
        "video_id": 1,
        "url": "https://www.youtube.com/watch?v=8EyF8gxZUt4",
        "video_type": "vlog",
        "task_type": "Audio Information Extraction",
        "question": "What does the speaker buy?",
        "option_A": "Bread",
        "option_B": "Milk",
        "option_C": "",
        "option_D": "Tea",
        "answer": "B",
        "video_path": "data/8EyF8gxZUt4.mp4",
        "QA_id": 454,
    }
    write_json(tmp_path / "AV_Human_data.json", [row, row | {"QA_id": 455, "answer": "C"}])
    write_json(tmp_path / "AV_Gemini_data.json", [row])
    put(film, tmp_path / "8EyF8gxZUt4.mp4")  # as the repository holds it, not at video_path
    first, second = read_set(tmp_path).questions
    assert first.media.is_file()
    assert first.rule.judge("Milk")
    assert (first.key, first.problem) == ("454", "")
    assert (second.key, second.problem) == ("455", "the set's right option, C, is empty")
    put(film, tmp_path / "data" / "8EyF8gxZUt4.mp4")
    assert read_set(tmp_path).questions[0].media.parent.name == "data"


def test_video_mme(tmp_path, film):
    row = {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "url": "https://www.youtube.com/watch?v=fFjv93ACGo8",
        "videoID": "fFjv93ACGo8",
        "question_id": "001-1",
        "task_type": "Counting Problem",
        "question": "How many candles are there?",
        "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
        "answer": "C",
    }
    table(tmp_path / "videomme" / "test-00000-of-00001.parquet", [row])
    put(film, tmp_path / "data" / "fFjv93ACGo8.MP4")
    (item,) = read_set(tmp_path).questions
    assert item.media.name == "fFjv93ACGo8.MP4"
    assert item.media.is_file()
    assert item.judge("three")
    assert item.key == "001-1"


def test_media_that_are_nowhere_keep_their_published_place(tmp_path):
    write_json(
        tmp_path / "qa.json", [{"Question": "?", "Choice": ["A. x"], "Answer": "A", "video_id": "v", "Type": "t"}]
    )
    assert read_set(tmp_path).questions[0].media == tmp_path / "Videos" / "v" / "v_video.mp4"


def test_a_row_unlike_the_published_ones_is_told(tmp_path):
    good = {"Question": "?", "Choice": ["A. x"], "Answer": "A", "video_id": "v", "Type": "t"}
    write_json(tmp_path / "qa.json", [good, {"Question": "?"}])
    with pytest.raises(UsageError, match=r"qa\.json: entry 2: '\w+' is missing"):
        read_set(tmp_path)


def test_parquet_without_pyarrow_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    known = builtins.__import__

    def without(name, *more):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return known(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"reading Parquet needs pyarrow; run: pip install 'epcli\[eval\]'"):
        read_set(tmp_path / "x.parquet")


def test_a_broken_parquet_file_is_told(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but no table")
    with pytest.raises(UsageError, match=r"x\.parquet: cannot be read as Parquet"):
        read_set(tmp_path / "x.parquet")


def table(path: Path, rows: list[dict]) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)
