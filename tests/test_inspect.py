"""`ep inspect`: the views of one inspection, and that they all tell the same."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from inspections import inspection
from rich.console import Console

from epcli.errors import EpError, UsageError
from epcli.files import check_output, whole
from epcli.records import Modality
from epcli.report import figures
from epcli.report.html import command, embed, page_data, to_html
from epcli.report.inspect_console import bar, print_inspection, ruler
from epcli.report.inspect_json import to_json


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


def test_all_views_show_the_same_numbers(looked):
    terminal, body, page = shown(looked), json.loads(to_json(looked)), page_data(looked)
    for run, listed, row in zip(looked.runs, body["runs"], page["runs"], strict=True):
        packed = np.frombuffer(base64.b64decode(row["kept"]), np.uint8)
        for modality in (Modality.VIDEO, Modality.AUDIO):
            name = modality.name.lower()
            of = looked.tokens.modality == modality
            count = run.report.tokens[name]
            assert count["total"] == of.sum()
            assert count["kept"] == packed[of].sum()
            assert count["kept"] == sum(token["modality"] == name for token in listed["kept_tokens"])
            assert f"{count['kept']} of {count['total']} tokens kept" in terminal
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


def test_selectors_side_by_side_in_the_terminal():
    text = shown(inspection(selectors=("query-aware", "random", "uniform")))
    for name in ("query-aware", "random", "uniform"):
        assert name in text
    assert max(map(len, text.splitlines())) <= 80


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


def test_the_page_says_how_to_repeat_the_run(looked):
    line = command(looked, looked.runs[0])
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
