"""`ep inspect`: the views of one inspection, and that they all tell the same."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from inspections import KINDS, inspection, media_tokens, observed_inspection
from inspections import run as made_run
from rich.console import Console

from epcli.errors import EpError, UsageError
from epcli.files import check_output, whole
from epcli.records import SAMPLE_RATE, MeanKept, Modality, Preview, ProfileChoice
from epcli.report import figures
from epcli.report.html import command, embed, page_data, to_html
from epcli.report.inspect_console import bar, print_inspection, ruler
from epcli.report.inspect_json import to_json
from epcli.session.preview import spectrogram, waveform


@pytest.fixture(scope="module")
def looked():
    return inspection()


def shown(found, width: int = 80, color: bool = False, **options) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=color, color_system="standard" if color else None)
    print_inspection(found, console, **options)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_kept_token_is_in_the_json_with_its_time_place_and_score(looked):
    body = json.loads(to_json(looked))
    assert body["schema"] == 1
    for listed, run in zip(body["runs"], looked.runs, strict=True):
        tokens = listed["kept_tokens"]
        assert [token["index"] for token in tokens] == run.kept.nonzero()[0].tolist()
        for token in tokens:
            index = token["index"]
            assert [token["start_s"], token["end_s"]] == looked.tokens.spans_s[index].tolist()
            assert token["score"] == run.scores[index]
            if token["modality"] == "video":
                assert list(token["cell"].values()) == looked.tokens.cells[index].tolist()
                left, top, right, bottom = token["box"]
                assert 0 <= left < right <= 640
                assert 0 <= top < bottom <= 360
            else:
                assert token["box"] is token["cell"] is None


def test_the_terminal_view_fits_80_columns_with_and_without_colour(looked):
    plain = shown(looked)
    assert max(map(len, plain.splitlines())) <= 80
    assert "\x1b" not in plain
    coloured = shown(looked, color=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def pieces(found) -> dict[str, list[int]]:
    """Tokens and kept ones of each name, counted by hand."""
    told: dict[str, list[int]] = {}
    for label, kept in zip(found.tokens.labels, found.runs[0].kept.tolist(), strict=True):
        if label:
            counts = told.setdefault(label, [0, 0])
            counts[0] += 1
            counts[1] += kept
    return told


def test_observations_are_in_the_json_with_name_and_box():
    found = observed_inspection()
    run = json.loads(to_json(found))["runs"][0]
    assert {(token["label"], token["modality"]) for token in run["kept_tokens"]} >= {
        ("person", "video"),
        ("text 'EXIT'", "video"),
        ("dog", "audio"),
    }
    for token in run["kept_tokens"]:
        assert token["label"] == (found.tokens.labels[token["index"]] or None)
        assert token["box"] == (found.tokens.boxes[token["index"]].tolist() if token["modality"] == "video" else None)
    listed = {(each["name"], each["modality"]): each for each in run["observed"]}
    assert listed[("street", "video")]["spans_s"] == [[0, 1], [6, 7]]
    assert listed[("'the train leaves'", "audio")]["tokens"] == 4
    counts = pieces(found)
    for name in ("person", "text 'EXIT'", "street", "cut"):
        assert [listed[(name, "video")][key] for key in ("tokens", "kept")] == counts[name]
    assert "observed" in json.loads(to_json(inspection()))["runs"][0]


@pytest.mark.parametrize("color", [False, True])
def test_the_terminal_lists_what_was_observed_and_kept(color):
    found = observed_inspection()
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown(found, color=color))
    assert max(map(len, text.splitlines())) <= 80
    rows = {" ".join(line.split()) for line in text.splitlines()}
    assert "looked at 8 frames, 6 observations in all" in rows
    for name, when in (("person", "0:02–0:07"), ("text 'EXIT'", "0:05–0:06"), ("street", "0:00–0:01, 0:06–0:07")):
        total, kept = pieces(found)[name]
        assert f"{name} picture {when} {kept} of {total}" in rows
    assert "0:02.5 (dog lower right) · person left" in rows
    assert "0:06.5 (cut) · person left · (street)" in rows
    assert "53% text 'EXIT', top, 0:05.5" in rows


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_can_be_observed(kind):
    found = KINDS[kind](observed_inspection())
    text, page = shown(found), page_data(found)
    body = json.loads(to_json(found))
    names = {each["name"] for each in body["runs"][0]["observed"]}
    assert {each["name"] for each in page["observed"]} == names
    assert ("person" in names, "dog" in names) == {"a film": (True, True), "silent": (True, True)}.get(
        kind, (False, kind == "sound only")
    )
    assert max(map(len, text.splitlines())) <= 80
    if kind == "a picture":
        assert "looked at 8 frames, 1 observation in all" in text  # its report is that of the film
        assert "street picture 0 of 1" in " ".join(text.split())
    assert to_html(found, media=False)


def test_names_from_the_clip_cannot_steer_the_terminal():
    found = observed_inspection()
    labels = tuple("text '\x1b[2J\nx'" if label == "text 'EXIT'" else label for label in found.tokens.labels)
    text = shown(replace(found, tokens=replace(found.tokens, labels=labels)))
    assert "\x1b" not in text
    assert "text '\ufffd[2J x'" in text


def test_the_page_has_names_and_boxes_of_every_frame():
    found = observed_inspection()
    page = page_data(found)
    assert page["names_pictures"]
    assert not page_data(inspection())["names_pictures"]
    assert [[each["name"] for each in frame["sights"]] for frame in page["frames"]] == [
        ["street"],
        ["dog"],
        ["dog", "person"],
        ["person"],
        ["person"],
        ["person", "text 'EXIT'"],
        ["cut", "person", "street"],
        [],
    ]
    assert [frame["start"] for frame in page["frames"]] == list(range(8))
    sign = page["frames"][5]["sights"][1]
    assert sign["box"] == [0.4, 0.05, 0.6, 0.15]
    assert len(sign["tokens"]) == 2
    assert page["frames"][0]["sights"][0]["box"] is None  # of the whole picture
    assert {each["name"]: each["when"] for each in page["observed"]}["person"] == "0:02–0:07"


@pytest.mark.parametrize(
    ("frames", "line"), [(8, "looked at 8 frames, 4 x 7 cells each"), (15, "15 frames in 8 pairs, 4 x 7 cells a pair")]
)
def test_pairs_of_frames_are_called_pairs(looked, frames, line):
    runs = tuple(
        replace(run, report=replace(run.report, media=replace(run.report.media, frames=frames))) for run in looked.runs
    )
    assert line in shown(replace(looked, runs=runs))


def test_all_views_show_the_same_numbers(looked):
    terminal, body, page = shown(looked), json.loads(to_json(looked)), page_data(looked)
    for run, listed, row in zip(looked.runs, body["runs"], page["runs"], strict=True):
        packed = np.frombuffer(base64.b64decode(row["kept"]), np.uint8)
        for modality in (Modality.VIDEO, Modality.AUDIO):
            name = modality.name.lower()
            of = looked.tokens.modality == modality
            count = run.report.tokens.of(name)
            assert count.total == of.sum()
            assert count.kept == packed[of].sum()
            assert count.kept == sum(token["modality"] == name for token in listed["kept_tokens"])
            assert f"{count.kept} of {count.total} tokens kept" in terminal
        assert json.loads(json.dumps(row["moments"])) == listed["report"]["evidence"]["moments"]
        for moment in row["moments"]:
            assert moment["label"] in terminal
        assert dict(row["timings"]) == listed["report"]["timings_s"]
        scores = np.frombuffer(base64.b64decode(row["scores"]), "<f4")
        assert [token["score"] for token in listed["kept_tokens"]] == scores[run.kept].tolist()


def test_the_share_over_time_is_of_the_tokens_time_in_each_column(looked):
    tokens, run = looked.tokens, looked.runs[1]
    sound = figures.share_over_time(tokens, run.kept, Modality.AUDIO, (0.0, 8.0), 8)
    seconds = tokens.spans_s[:, 0].astype(int)
    for second in range(8):
        here = (tokens.modality == Modality.AUDIO) & (seconds == second)
        assert sound[second] == pytest.approx(run.kept[here].mean())
    assert np.isnan(figures.share_over_time(tokens, run.kept, Modality.VIDEO, (0.0, 16.0), 4)[3])  # no token there


def test_a_bar_never_hides_a_little_and_a_ruler_says_where_times_are():
    assert [bar(share) for share in (0, 0.001, 0.5, 1)] == ["·", "▁", "▄", "█"]
    line = ruler(0, 10, 70)
    assert line.index("0:04") == 28
    assert len(ruler(3, 3725, 60)) <= 60


@pytest.mark.slow
def test_how_deep_each_token_came_is_told_where_tokens_leave_inside() -> None:
    found = inspection(selectors=("seats",))
    run = found.runs[0]
    layers = np.where(run.kept, 17, 0).astype(np.int16)
    layers[run.kept.nonzero()[0][:3]] = 25
    tokens = replace(run.report.tokens, mean_keep_ratio=0.04, mean_kept=MeanKept(8.0, 3.0))
    run = replace(run, layers=layers, report=replace(run.report, tokens=tokens))
    found = replace(found, runs=(run,))
    kept = [token["layers"] for token in json.loads(to_json(found))["runs"][0]["kept_tokens"]]
    assert kept == layers[run.kept].tolist()
    said = " ".join(shown(found).split())
    line = f"{run.kept.sum()} entered the language model, then stayed: 3 after layer 17, 0 after layer 25; 4.0% on"
    assert line in said
    row = page_data(found)["runs"][0]
    assert line in row["chosen_by"]
    depth = np.frombuffer(base64.b64decode(row["depth"]), np.uint8)
    assert depth[run.kept].min() == 17 * 255 // 25
    assert depth.max() == 255
    assert page_data(inspection())["runs"][0]["depth"] is None


def test_selectors_side_by_side_have_the_same_numbers_in_every_view():
    found = inspection(selectors=("query-aware", "random", "uniform"))
    found = replace(found, runs=found.runs[:3])  # of one question
    text, body, page = shown(found), json.loads(to_json(found)), page_data(found)
    assert max(map(len, text.splitlines())) <= 80
    table = [line.split() for line in text.splitlines()]
    for run, listed, row in zip(found.runs, body["runs"], page["runs"], strict=True):
        name, counts = run.report.selector, run.report.tokens
        both = f"{figures.overlap(run, found.runs[0]):.0%}"
        line = [name, f"{counts.keep_ratio:.1%}", str(counts.video.kept), str(counts.audio.kept), both]
        assert line in [words[:5] for words in table]
        assert row["name"] == row["selector"] == listed["report"]["selector"] == name
        assert len(listed["kept_tokens"]) == counts.video.kept + counts.audio.kept
        kept = np.frombuffer(base64.b64decode(row["kept"]), np.uint8)
        assert kept.nonzero()[0].tolist() == [token["index"] for token in listed["kept_tokens"]]
        assert f"\n ── {name}\n" in text


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_can_be_shown(looked, kind):
    found = KINDS[kind](looked)
    assert max(map(len, shown(found).splitlines())) <= 80
    body, page = json.loads(to_json(found)), page_data(found)
    assert len(body["runs"][0]["kept_tokens"]) == found.runs[0].kept.sum()
    assert (page["sound"] is None) == (found.preview.samples is None)
    assert len(page["frames"]) == (0 if found.preview.frames is None else len(found.preview.frames))


def test_nothing_of_the_file_or_the_model_steers_the_terminal(looked):
    nasty = "[red]\x1b]0;owned\x07\x9b2J"  # to rich a colour, to a terminal a new title
    track = replace(looked.info.audio_tracks[0], title="[/bold][link=x]")
    info = replace(looked.info, path=looked.info.path.with_name(nasty + ".mp4"), audio_tracks=(track,))
    for count in (1, 2):
        runs = tuple(
            replace(
                each,
                report=replace(
                    each.report,
                    answer="[/blue]" + nasty,
                    question=f"{number}{nasty}",
                    warnings=(nasty,),
                    media=replace(each.report.media, path=str(info.path)),
                ),
            )
            for number, each in enumerate(looked.runs[:count])
        )
        text = shown(replace(looked, info=info, runs=runs), width=200)
        assert not set(text) & {"\x1b", "\x07", "\x9b"}
        assert "[/blue][red]" in text
        assert "[/bold][link=x]" in text


# --- the page ---------------------------------------------------------------------------------------------------------


def test_nothing_of_the_file_or_the_model_is_markup(looked):
    page = to_html(looked)
    own = re.sub(r'<script type="application/json" id="data">.*?</script>', "", page, flags=re.DOTALL)
    assert page.count("</script>") == 2  # of the data and of the script itself
    assert "<img" not in own
    assert "<b>is</b>" not in page
    assert "onerror=alert(2)" in page  # it is there, as data
    assert embed({"a": "</script><!--&\u2028"}) == '{"a":"\\u003c/script\\u003e\\u003c!--\\u0026\\u2028"}'


def test_the_page_loads_nothing(looked):
    page = to_html(looked)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    own = page.replace(json.dumps(data), "")
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href|url|action)\s*[=(]\s*["']?\s*(https?:)?//""", own)
    assert "http://" not in page
    assert "https://" not in page


def test_without_media_the_page_holds_no_picture_and_no_sound(looked):
    data = page_data(looked, media=False)
    assert data["sound"] is data["wave"] is data["mel"] is None
    assert all(frame["src"] is None for frame in data["frames"])
    assert "base64," not in to_html(looked, media=False)


@pytest.mark.slow
def test_the_page_of_ten_minutes_is_under_15_mb_however_busy_the_film_is():
    tokens = media_tokens(600, 10, 18)
    draw = np.random.default_rng(3)
    scores = draw.normal(size=len(tokens.modality)).astype(np.float32)
    runs = [
        made_run(tokens, question, "Noise.", "query-aware", 0.1, scores) for question in ("What?", "Where?", "When?")
    ]
    noise = draw.integers(0, 256, (1, 280, 504, 3), np.uint8)  # nothing compresses worse
    samples = draw.uniform(-0.5, 0.5, 600 * SAMPLE_RATE).astype(np.float32)
    preview = Preview(
        np.broadcast_to(noise, (600, *noise.shape[1:])),
        np.arange(600) + 0.5,
        samples,
        waveform(samples),
        spectrogram(samples),
    )
    short = inspection()
    info = replace(short.info, duration_s=600.0)
    found = replace(short, info=info, range_s=(0.0, 600.0), tokens=tokens, preview=preview, runs=tuple(runs))
    page = to_html(found)
    assert 5_000_000 < len(page.encode()) < 15_000_000
    assert all(
        frame["src"] for frame in json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["frames"]
    )
    assert len(to_html(found, media=False).encode()) < 8_000_000


def test_a_question_that_looks_like_a_flag_can_be_repeated(looked):
    run = looked.runs[0]
    asked = replace(run, report=replace(run.report, question="--keep what?"))
    assert command(looked, asked).endswith(" -- '<img src=x onerror=alert(1)><!--.mp4' '--keep what?'")


def test_the_page_names_the_profile_but_no_folder(looked):
    run = looked.runs[0]
    chosen = replace(run, report=replace(run.report, profile=ProfileChoice("/home/me/mine.yaml", "--profile")))
    data = page_data(replace(looked, runs=(chosen,)), media=False)
    assert data["runs"][0]["settings"][0] == ["profile", "mine.yaml"]
    assert "/home" not in json.dumps(data)


def test_the_page_says_how_to_repeat_the_run(looked):
    line = command(looked, looked.runs[0])
    assert "--profile default" in line  # else another machine's hardware would choose
    assert "--keep 0.1" in line
    assert "'<img src=x onerror=alert(1)><!--.mp4'" in line
    assert "films" not in line  # no folder of the machine
    dashed = replace(looked, info=replace(looked.info, path=looked.info.path.with_name("-x.mp4")))
    assert command(dashed, looked.runs[0]).startswith("ep inspect ./-x.mp4 ")


def test_a_name_that_is_not_utf8_is_no_trouble():
    to_html(inspection("dog\udce9.mp4"), media=False).encode("utf-8")


# --- output files -----------------------------------------------------------------------------------------------------


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"film")
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path, "--html")
    with pytest.raises(UsageError, match="there is no folder"):
        check_output(tmp_path / "none" / "a.html", "--html")
    with pytest.raises(UsageError, match=r"ending \.mp4"):
        check_output(tmp_path / "a.webm", "--video", suffix=".mp4")
    with pytest.raises(UsageError, match="is the file to be looked at"):
        check_output(clip, "--video", suffix=".mp4", source=clip)
    with pytest.raises(UsageError, match="is no ordinary file"):
        check_output(Path(os.devnull), "--html")
    with pytest.raises(UsageError, match="name too long"):
        check_output(tmp_path / ("x" * 300), "--html")


def test_a_link_stays_a_link_and_its_file_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "a.html"
    link.symlink_to(tmp_path / "there" / "b.html")
    with whole(link) as partial:
        partial.write_text("page")
    assert link.is_symlink()
    assert (tmp_path / "there" / "b.html").read_text() == "page"


@pytest.mark.parametrize("trouble", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, trouble):
    path = tmp_path / "a.html"
    path.write_text("before")

    def write() -> None:
        with whole(path) as partial:
            partial.write_text("half")
            raise trouble

    with pytest.raises((EpError, KeyboardInterrupt)) as raised:
        write()
    assert [each.name for each in tmp_path.iterdir()] == ["a.html"]
    assert path.read_text() == "before"
    if isinstance(trouble, OSError):
        assert str(raised.value) == f"{path}: cannot be written: No space left on device"
