"""`ep transcript`: spoken words as text, subtitles and JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from epcli.cli.transcript import Form
from epcli.errors import UsageError, WeightsError
from epcli.media import ffmpeg
from epcli.observe.listen import credible, fitted
from epcli.observe.phrases import join_words, lines
from epcli.observe.whisper import Word
from epcli.records import SAMPLE_RATE, Observation
from epcli.report.subtitles import COLUMNS, GAP_S, LONGEST_S, SHORTEST_S, Cue, columns, cues, to_srt, to_vtt

MEDIA = Path(__file__).parents[1] / "docs" / "media"
TALK = (
    "The old harbour lies quiet in the morning. Two fishing boats come back with nets full of herring, and a dog runs "
    "along the wall to meet them. Nobody talks much before breakfast. When the sun is up, the market opens: there is "
    "bread, there is coffee, and there are more gulls than people. "
) * 3


def spoken(text: str, start_s: float = 0.0, letters_per_s: float = 15.0) -> list[Observation]:
    """Words one after another, with a short pause after each sentence."""
    words, at = [], start_s
    for word in text.split():
        length = (len(word) + 1) / letters_per_s
        words.append(Observation("word", word, at, at + length, 0.9, "whisper"))
        at += length + 0.4 * word.endswith((".", "?"))
    return words


def texts(made: list[Cue]) -> list[str]:
    return [" ".join(cue.rows) for cue in made]


@pytest.mark.parametrize("letters_per_s", [10.0, 15.0, 25.0])
def test_subtitles_keep_to_the_usual_rules(letters_per_s):
    words = spoken(TALK, 3.0, letters_per_s)
    made = list(cues(words))
    assert " ".join(texts(made)).split() == TALK.split()
    for cue in made:
        assert 1 <= len(cue.rows) <= 2
        assert max(columns(row) for row in cue.rows) <= COLUMNS
        assert cue.end_s - cue.start_s <= LONGEST_S + 0.01
    for cue, after in pairwise(made):
        assert after.start_s - cue.end_s >= GAP_S - 0.01
    starts = {word.start_s for word in words}
    assert all(cue.start_s in starts for cue in made)
    assert sum(text.endswith((".", ",", ":", "?")) for text in texts(made)) >= 0.6 * len(made)


def test_a_subtitle_stays_long_enough_to_be_read_if_there_is_time():
    (short,) = cues(spoken("Yes.", 2.0))
    assert short.end_s - short.start_s == pytest.approx(SHORTEST_S)
    (fast,) = cues(spoken("A sentence of forty letters, said quickly.", 0.0, 40.0))
    assert fast.end_s - fast.start_s == pytest.approx(42 / 17)
    first, second = cues([*spoken("One. ", 0.0), *spoken("Two.", 2.0)])
    assert (first.rows, second.rows) == (("One.",), ("Two.",))


def test_no_subtitle_goes_on_over_a_pause():
    made = list(cues([*spoken("and then he", 0.0), *spoken("came back", 9.0)]))
    assert texts(made) == ["and then he", "came back"]
    assert made[0].end_s < 3


def test_words_without_spaces_and_words_without_end_fit_their_lines():
    chinese = [
        Observation("word", sign, i * 0.2, i * 0.2 + 0.2, 0.9, "whisper") for i, sign in enumerate("今天我们谈" * 9)
    ]
    for cue in [*cues(chinese), *cues(spoken("w" * 200, 0.0))]:
        assert all(columns(row) <= COLUMNS for row in cue.rows)
        assert not any(" " in row for row in cue.rows)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["Good", "morning,", "all."], "Good morning, all."),
        (["今", "天", "OK", "吗。"], "今天 OK 吗。"),
        (["สวัส", "ดี"], "สวัสดี"),
        ([], ""),
    ],
)
def test_words_are_joined_as_their_script_has_them(words, text):
    assert join_words(words) == text


def test_lines_of_text_end_with_sentences_and_at_pauses():
    made = list(lines([*spoken(TALK, 0.0), *spoken("Later.", 90.0)]))
    assert " ".join(line.text for line in made).split() == [*TALK.split(), "Later."]
    assert all(line.text.endswith(".") for line in made)
    assert made[-1][0] == 90.0
    assert all(len(line.text) < 350 for line in made)


@pytest.mark.parametrize(("ending", "write"), [("srt", to_srt), ("vtt", to_vtt)])
def test_ffmpeg_reads_the_subtitles_back(tmp_path, ending, write):
    made = list(cues(spoken(TALK + "Is 1 < 2 & 3 > 2?", 3599.0)))
    file = tmp_path / f"talk.{ending}"
    file.write_text("".join(write(made)), encoding="utf-8")
    command = [ffmpeg.find().path, "-v", "error", "-i", str(file), "-f", "srt", "-"]
    back = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    assert not back.stderr
    blocks = back.stdout.strip().split("\n\n")
    assert len(blocks) == len(made)
    for block, cue in zip(blocks, made, strict=True):
        _, times, *rows = block.split("\n")
        begin, end = (
            sum(float(part) * unit for part, unit in zip(time.replace(",", ".").split(":"), (3600, 60, 1), strict=True))
            for time in times.split(" --> ")
        )
        assert (begin, end) == (pytest.approx(cue.start_s, abs=0.002), pytest.approx(cue.end_s, abs=0.002))
        assert len(rows) == len(cue.rows)
    assert re.search(r"1 [<‹] 2 & 3 [>›] 2\?", back.stdout.replace("\n", " "))


def test_untrusted_words_cannot_break_a_subtitle():
    words = spoken("a\x1b[2J <b> {x}\u202e --> b", 0.0)
    srt, vtt = "".join(to_srt(cues(words))), "".join(to_vtt(cues(words)))
    assert "\x1b" not in srt + vtt
    assert "\u202e" not in srt + vtt
    assert srt.count("-->") == 1
    assert "<b>" not in srt + vtt
    assert vtt.count("-->") == 1


@pytest.mark.parametrize(
    ("words", "voice", "kept"),
    [
        ([("We", 0.9), ("are", 0.9), ("here.", 0.9)], 0.9, 3),
        ([("We", 0.3), ("are", 0.3), ("here.", 0.3)], 0.9, 0),  # unlikely words
        ([("We", 0.9), ("are", 0.9), ("here.", 0.9)], 0.1, 0),  # nobody speaks
        ([("Oh!", 0.6)], 0.9, 1),
        ([("Oh!", 0.6)], 0.3, 0),  # a grunt
        ([("Thank", 0.7), ("you.", 0.7)], 0.9, 0),  # what Whisper writes where there is nothing
        ([("Thank", 0.9), ("you.", 0.9)], 0.9, 2),
        ([], 0.9, 0),
    ],
)
def test_words_that_were_hardly_said_are_left_out(words, voice, kept):
    said = [Word(text, i * 0.3, i * 0.3 + 0.3, p) for i, (text, p) in enumerate(words)]
    assert len(credible(said, np.full(10, voice))) == kept


def test_times_of_words_fit_the_loudness():
    sound = np.zeros(3 * SAMPLE_RATE, np.float32)
    sound[SAMPLE_RATE : SAMPLE_RATE * 3 // 2] = 0.1  # one word
    sound[SAMPLE_RATE * 3 // 2 : 2 * SAMPLE_RATE] = 0.2  # the next, without a pause
    first, second = fitted([Word("one", 0.6, 1.7, 0.9), Word("two", 1.5, 1.8, 0.9)], sound)
    assert (first.start_s, first.end_s) == (1.0, 1.5)
    assert (second.start_s, second.end_s) == (1.5, 2.0)
    assert fitted([], sound) == []


def test_a_first_word_does_not_begin_in_the_noise_before_it():
    noise = np.full(5 * 16_000, 0.1, np.float32)
    spoken = [("please", 0.5, 2.2), ("check", 2.2, 2.4), ("the", 2.4, 2.5), ("number", 2.5, 2.8)]
    first, second, *_ = fitted([Word(*word, 0.9) for word in spoken], noise)
    assert (first.start_s, second.start_s) == pytest.approx((1.5, 2.2), abs=0.02)
    slow = [("one", 0.5, 1.3), ("two", 1.5, 2.2), ("three", 2.3, 3.1)]
    assert fitted([Word(*word, 0.9) for word in slow], noise)[0].start_s == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (Form(), "txt"),
        (Form(srt=True), "srt"),
        (Form(out=Path("talk.vtt")), "vtt"),
        (Form(out=Path("talk.notes")), "txt"),
        (Form(json=True, out=Path("folder")), "json"),
    ],
)
def test_the_ending_of_out_says_the_form(form, expected):
    assert form.named() == expected


def test_places_are_refused_before_the_work(tmp_path):
    media = [MEDIA / "speech.mp4", MEDIA / "farm.mp4"]
    for form, message in (
        (Form(srt=True, vtt=True), "two forms"),
        (Form(srt=True, out=tmp_path / "x.vtt"), "two forms"),
        (Form(srt=True, out=tmp_path / "x.srt"), "name a folder"),
        (Form(srt=True), "one srt file each"),
    ):
        with pytest.raises(UsageError, match=message):
            form.places(media, form.named())
    form = Form(vtt=True, out=tmp_path / "new")
    assert form.places(media, "vtt") == [tmp_path / "new" / "speech.vtt", tmp_path / "new" / "farm.vtt"]
    with pytest.raises(UsageError, match=r"speech\.vtt"):
        form.places([media[0], tmp_path / "speech.mp4"], "vtt")


def ep(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "epcli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)


@pytest.mark.slow
def test_a_newcomer_gets_subtitles():
    done = ep("transcript", MEDIA / "speech.mp4", "--srt")
    assert done.returncode == 0
    assert re.match(r"1\n00:00:00,\d\d\d --> 00:00:0\d,\d\d\d\nPlease check the number", done.stdout)
    assert done.stderr == ""


@pytest.mark.slow
def test_a_file_without_sound_is_one_line_and_does_not_stop_the_others(tmp_path):
    done = ep("transcript", MEDIA / "silent.mp4")
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "ep: error: silent.mp4: has no sound\n")
    done = ep("transcript", MEDIA / "silent.mp4", MEDIA / "speech.mp4", "-q")
    assert done.returncode == 3
    assert done.stdout.startswith(f"{MEDIA / 'speech.mp4'}:\n0:00  Please check the number")
    done = ep("transcript", MEDIA / "silent.mp4", MEDIA / "speech.mp4", MEDIA / "farm.mp4", "--json", "--out", tmp_path)
    assert done.returncode == 3
    assert "farm.mp4: no speech was understood" in done.stderr
    said = json.loads((tmp_path / "speech.json").read_text(encoding="utf-8"))
    assert said["language"] == "en"
    assert [word["text"] for word in said["words"]][:4] == ["Please", "check", "the", "number"]
    assert all(0 <= word["start_s"] < word["end_s"] <= 6 for word in said["words"])
    assert json.loads((tmp_path / "farm.json").read_text(encoding="utf-8"))["words"] == []
    assert not (tmp_path / "silent.json").exists()


@pytest.mark.slow
def test_a_speech_model_that_is_none_is_one_line(tmp_path):
    from epcli.observe.speech import load_speech

    with pytest.raises(UsageError, match="knows English only; try --speech base"):
        load_speech(language="de")
    with pytest.raises(UsageError, match="there is no such folder, did you mean base"):
        load_speech("bass")
    with pytest.raises(WeightsError, match="no Whisper checkpoint"):
        load_speech(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(WeightsError, match="llama"):
        load_speech(str(tmp_path))


@pytest.mark.slow
def test_a_checkpoint_of_transformers_hears_the_same_words(tmp_path):
    """tiny.en, saved as transformers saves it, from a folder."""
    import shutil

    from epcli.media.read import read
    from epcli.observe import whisper
    from epcli.observe.listen import sampling_sound
    from epcli.observe.speech import load_speech

    ours = whisper.load_whisper()
    ours.model.generation_config.alignment_heads = [list(head) for head in ours.alignment_heads]
    ours.model.save_pretrained(tmp_path)
    shutil.copy(whisper.prepare() / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "WhisperTokenizer"}')
    theirs = load_speech(str(tmp_path))
    samples = read(MEDIA / "speech.mp4", sampling_sound(None)).samples
    words = [word.text for word in theirs.transcribe_words(samples)]
    assert " ".join(words).lower().startswith("please check the number")
