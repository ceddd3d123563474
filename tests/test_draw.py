"""The pictures of `ep inspect`: bright in the contact sheet and in the film is what was kept, when it was kept."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from inspections import KINDS, inspection, observed_inspection, sound_only
from PIL import Image

from epcli.records import Inspection, Modality
from epcli.report import draw, figures
from epcli.report.html import _frames


@pytest.fixture(scope="module")
def looked() -> Inspection:
    return inspection()


def sheet(found: Inspection) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(draw.contact_sheet(found))))


def keeping(found: Inspection, value: bool) -> Inspection:
    return replace(found, runs=tuple(replace(run, kept=np.full_like(run.kept, value)) for run in found.runs))


def yellow(picture: np.ndarray) -> int:
    """Pixels of the bright square on the left."""
    return int((np.abs(picture.astype(int) - (250, 220, 90)).max(-1) < 25).sum())


def test_a_dropped_cell_is_dim_and_grey_and_a_kept_one_untouched():
    picture = np.full((40, 70, 3), (200, 100, 30), np.uint8)
    kept = np.zeros((4, 7), bool)
    kept[1, 2] = kept[3, 6] = True
    got = draw.dimmed(picture, kept)
    bright = np.zeros((40, 70), bool)
    bright[10:20, 20:30] = bright[30:, 60:] = True
    assert (got[bright] == (200, 100, 30)).all()
    assert np.abs(got[~bright].astype(int) - round((0.299 * 200 + 0.587 * 100 + 0.114 * 30) * draw.DIM)).max() <= 1


@pytest.mark.slow
def test_the_sheet_is_bright_only_where_it_was_kept(looked):
    some, everything, nothing = (
        yellow(sheet(found)) for found in (looked, keeping(looked, True), keeping(looked, False))
    )
    assert nothing == 0
    assert 1000 < some < everything


def test_the_sheet_has_a_part_for_each_run(looked):
    one, two = sheet(replace(looked, runs=looked.runs[:1])), sheet(looked)
    assert one.shape[1] == two.shape[1] == draw.SHEET_WIDTH
    assert two.shape[0] > 1.7 * one.shape[0]


def test_a_sheet_of_a_long_film_shows_frames_at_even_steps(looked):
    preview = looked.preview
    many = replace(preview, frames=np.repeat(preview.frames, 40, 0), times_s=np.arange(320) / 40)
    chosen = draw._chosen_frames(replace(looked, preview=many))
    assert len(chosen) == draw.MOST_FRAMES
    assert (chosen[0], chosen[-1]) == (0, 319)
    assert set(np.diff(chosen)) <= {6, 7}


@pytest.mark.slow
def test_a_long_or_hostile_answer_does_not_break_the_sheet(looked):
    run = looked.runs[0]
    for answer in ("word " * 2000, "a\nb\x1b[31m \udce9 🎻", ""):
        said = replace(looked, runs=(replace(run, report=replace(run.report, answer=answer)),))
        assert sheet(said).shape[0] < 1000


@pytest.mark.slow
@pytest.mark.parametrize("size", [(2, 4096), (4096, 2), (1, 1)])
def test_a_picture_that_is_a_mere_line_is_drawn_thicker_and_not_in_gigabytes(looked, size):
    line = replace(looked, info=replace(looked.info, width=size[0], height=size[1]))
    height, width, _ = sheet(line).shape
    assert width == draw.SHEET_WIDTH
    assert height < 10_000
    for frame in _frames(line, 1_000_000):
        drawn = Image.open(io.BytesIO(base64.b64decode(frame["src"].partition(",")[2])))
        assert max(drawn.size) <= figures.LONGEST_SIDE * min(drawn.size)
        assert max(drawn.size) < 4096


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_a_sheet_of_every_kind_of_file(looked, kind):
    assert sheet(KINDS[kind](looked)).shape[1] == draw.SHEET_WIDTH


# --- the film ---------------------------------------------------------------------------------------------------------


def test_the_film_dims_what_was_dropped_when_it_was_dropped(looked):
    run, fps = looked.runs[0], 4.0
    drawn = list(draw.film(looked, run, [np.full((360, 640, 3), 200, np.uint8)] * 32, fps))
    assert [frame.shape for frame in drawn] == [(360 + draw.STRIP, 640, 3)] * 32
    y, x = (np.arange(4) + 0.5) * 90, (np.arange(7) + 0.5) * 640 / 7
    for number, frame in enumerate(drawn):
        bright = frame[y.astype(int)][:, x.astype(int)].min(-1) == 200
        assert (bright == figures.frame_grid(looked.tokens, run.kept, int(number / fps))).all(), number


def test_the_strip_tells_when_sound_and_picture_were_kept_and_where_the_film_is(looked):
    run = looked.runs[1]
    frames = [np.zeros((36, 640, 3), np.uint8)] * 8
    for number, frame in enumerate(draw.film(looked, run, frames, 1.0)):
        strip = frame[36:]
        at = number * 640 // 8
        assert (strip[:, at : at + 2] == draw.MARK).all()
        elsewhere = np.ones(640, bool)
        elsewhere[at : at + 2] = False
        for modality, bottom in ((Modality.VIDEO, 16), (Modality.AUDIO, 34)):
            kept = figures.share_over_time(looked.tokens, run.kept, modality, looked.range_s, 640) > 0
            coloured = (strip[bottom] == draw.COLOURS[modality]).all(-1)
            assert (coloured == kept)[elsewhere].all()


@pytest.mark.parametrize("size", [(640, 360), (1920, 1080), (1080, 1920), (33, 47), (7000, 90)])
def test_a_film_has_even_sides_and_the_shape_of_its_source(looked, size):
    width, height = draw.film_size(replace(looked, info=replace(looked.info, width=size[0], height=size[1])))
    assert width % 2 == height % 2 == 0
    assert width * height <= draw.FILM_PIXELS * 1.01
    assert abs(width / size[0] - height / size[1]) < 2 / min(width, height) * width / size[0]


def test_a_film_of_sound_alone_is_its_strip(looked):
    heard = sound_only(looked)
    size, fps = draw.film_size(heard), draw.film_fps(heard)
    drawn = list(draw.film(heard, heard.runs[0], draw.blank(heard, size, fps), fps))
    assert len(drawn) == 80
    assert drawn[0].shape == (size[1] + draw.STRIP, size[0], 3)


def test_progress_ends_at_the_whole(looked):
    told: list[float] = []
    assert list(draw.with_progress([1, 2, 3, 4, 5], 4, told.append)) == [1, 2, 3, 4, 5]  # one more than foreseen
    assert told == [0.25, 0.5, 0.75, 1.0, 1.0]


def edge(picture: np.ndarray, box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> float:
    """The share of the lower edge of a box that has the colour."""
    left, _, right, bottom = box
    row = picture[bottom - 1, left:right].astype(int)
    return float((np.abs(row - colour).max(-1) < 3).mean())


def test_what_was_observed_has_a_solid_box_if_it_was_kept_and_a_dashed_one_if_not():
    found = observed_inspection()
    sights = figures.sighted(found.tokens, 2)
    dog, person = sights
    picture = np.full((360, 640, 3), (200, 100, 30), np.uint8)
    got = draw.named(picture, sights, found.runs[0].kept, found.tokens.size)
    assert edge(got, person.box, draw.COLOURS[Modality.VIDEO]) == 1
    assert 0.3 < edge(got, dog.box, draw.QUIET) < 0.7
    assert tuple(got[350, 320]) == (200, 100, 30), "something of it was read: bright"
    nothing = draw.named(picture, sights, np.zeros_like(found.runs[0].kept), found.tokens.size)
    assert nothing[350, 320].max() < 60, "nothing of it was read: dark"
    assert (draw.named(picture, [], found.runs[0].kept, found.tokens.size) == picture).all()


def test_a_film_and_a_sheet_show_what_was_observed_when_it_was():
    found = observed_inspection()
    run, blue = found.runs[0], draw.COLOURS[Modality.VIDEO]
    frames = list(draw.film(found, run, [np.full((360, 640, 3), 120, np.uint8)] * 8, 1.0))
    (sign,) = (each for each in figures.sighted(found.tokens, 5) if each.name.startswith("text"))
    assert [edge(frame, sign.box, blue) == 1 for frame in frames] == [k == 5 for k in range(8)]
    some, nothing = sheet(found), sheet(keeping(found, False))
    marked = [int((np.abs(each.astype(int) - blue).max(-1) < 3).sum()) for each in (some, nothing)]
    assert marked[0] > 2 * marked[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sheet_is_drawn_of_everything_that_can_be_observed(kind):
    assert sheet(KINDS[kind](observed_inspection())).shape[1] == draw.SHEET_WIDTH
