"""Laying tokens out: 2-second chunks, video then sound, positions in 40 ms steps."""

from __future__ import annotations

import pytest
import torch

from epcli.models.layout import SIGHT_GRID, WHOLE_PICTURE, AudioTokens, SightTokens, VideoTokens, interleave, join, text
from epcli.records import Modality

D = 4
MARKERS = torch.arange(16.0).view(4, D)
V, A, T = int(Modality.VIDEO), int(Modality.AUDIO), int(Modality.TEXT)


def video(times: list[float], rows: int = 1, cols: int = 1) -> VideoTokens:
    return VideoTokens(torch.rand(len(times), rows, cols, D), torch.tensor(times, dtype=torch.float64), 1.0)


def audio(tokens: int, steps: int = 25, labels: tuple[str, ...] | None = None) -> AudioTokens:
    return AudioTokens(torch.rand(tokens, D), steps, labels=labels)


def sights(
    seen: list[tuple[int, str, tuple[float, float, float, float]]], times: list[float], later: list[int] | None = None
) -> SightTokens:
    """(frame, name, box) of each observation."""
    frames, labels, boxes = zip(*seen, strict=True) if seen else ((), (), ())
    return SightTokens(
        torch.rand(len(seen), D),
        torch.tensor(frames, dtype=torch.int64),
        torch.tensor(times, dtype=torch.float64),
        1.0,
        torch.tensor(boxes).view(-1, 4),
        tuple(labels),
        None if later is None else torch.tensor(later),
    )


def test_chunks_of_two_seconds_alternate_video_then_sound():
    segment = interleave(video([0.5, 1.5, 2.5]), audio(3), MARKERS, 10)
    assert segment.modality.tolist() == [T, T, V, V, A, A, V, A, T, T]
    assert segment.positions[0].tolist() == [10, 10, 23, 48, 11, 36, 73, 61, 62, 62]


def test_the_fourth_axis_repeats_the_first_and_cells_count_rows_and_columns():
    segment = interleave(video([0.0], rows=2, cols=3), None, MARKERS, 0)
    assert torch.equal(segment.positions[0], segment.positions[3])
    assert segment.positions[1, 1:-1].tolist() == [1, 1, 1, 2, 2, 2]
    assert segment.positions[2, 1:-1].tolist() == [1, 2, 3, 1, 2, 3]
    assert segment.cells[1:-1].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]


def test_begin_markers_share_a_position_and_so_do_end_markers():
    segment = interleave(video([0.0]), audio(1), MARKERS, 7)
    assert segment.positions[:, 0].tolist() == segment.positions[:, 1].tolist() == [7] * 4
    assert segment.positions[:, -1].tolist() == segment.positions[:, -2].tolist()
    assert torch.equal(segment.embeds[[0, 1, -2, -1]], MARKERS)


@pytest.mark.parametrize(
    ("has_video", "has_audio", "kinds"),
    [
        (True, False, [T, V, T]),
        (False, True, [T, A, T]),
        (False, False, []),
    ],
)
def test_a_missing_stream_brings_neither_tokens_nor_markers(has_video, has_audio, kinds):
    segment = interleave(video([0.0]) if has_video else None, audio(1) if has_audio else None, MARKERS, 3)
    assert segment.modality.tolist() == kinds
    assert segment.next_position == (3 if not kinds else 6)


def test_text_goes_on_after_the_last_chunk_and_answers_after_the_largest_position():
    # sound ends at position 3 + 1 + 25 of the last chunk, but the picture reached further in that chunk
    table = torch.rand(9, D)
    head = text(table[[1, 2, 3]], 0)
    media = interleave(video([0.0, 1.8]), audio(1), MARKERS, 3)
    tail = text(table[[4, 5]], media.next_position)
    stream = join([head, media, tail], torch.float32, torch.device("cpu"))
    assert media.positions[0].tolist() == [3, 3, 4, 49, 4, 5, 5]
    assert tail.positions[0].tolist() == [6, 7]
    assert stream.next_position == 50
    assert stream.embeds.shape == (12, D)


def test_spans_are_the_seconds_a_token_covers():
    segment = interleave(video([0.5, 1.5]), audio(2, steps=3), MARKERS, 0)
    assert segment.spans_s[2:6].tolist() == [
        [0.5, 1.5],
        [1.5, 2.5],
        [0.0, pytest.approx(0.12)],
        [pytest.approx(0.12), pytest.approx(0.24)],
    ]
    assert segment.spans_s[0].isnan().all()


def test_frames_far_apart_stand_in_the_chunk_of_their_time():
    segment = interleave(video([1.0, 5.0], rows=1, cols=2), audio(6), MARKERS, 0)
    assert segment.modality.tolist() == [T, T, V, V, A, A, A, A, V, V, A, A, T, T]
    assert segment.next_position == segment.positions[0, -3] + 2


def test_a_family_may_give_positions_and_chunks_of_its_own():
    given = VideoTokens(
        torch.rand(1, 1, 2, D), torch.tensor([5.0], dtype=torch.float64), 1.0, torch.tensor([50]), torch.tensor([1, 2])
    )
    segment = interleave(given, audio(5), MARKERS, 0)
    assert segment.modality.tolist() == [T, T, A, A, V, A, A, V, A, T, T]
    assert segment.positions[0, [4, 7]].tolist() == [51, 51]
    assert segment.spans_s[4].tolist() == [5.0, 6.0]


LEFT, LOW_RIGHT = (0.0, 0.25, 0.25, 0.75), (0.9, 0.9, 1.0, 1.0)
SEEN = [(0, "person", LEFT), (0, "dog", LOW_RIGHT), (2, "cut", WHOLE_PICTURE), (2, "person", LEFT)]


def test_observations_stand_at_the_time_of_their_frame_and_in_the_middle_of_their_box():
    segment = interleave(sights(SEEN, [0.5, 1.5, 2.5]), audio(3), MARKERS, 10)
    rows, columns = SIGHT_GRID
    assert segment.modality.tolist() == [T, T, V, V, A, A, V, V, A, T, T]
    picture = segment.modality == V
    assert segment.positions[0, picture].tolist() == [23, 23, 73, 73]
    assert torch.equal(segment.positions[0], segment.positions[3])
    places = [[0, 4, 1], [0, rows - 1, columns - 1], [2, rows // 2, columns // 2], [2, 4, 1]]
    assert segment.cells[picture].tolist() == places
    assert (segment.positions[1:3, picture].T - 11).tolist() == [place[1:] for place in places]
    assert segment.spans_s[picture].tolist() == [[0.5, 1.5], [0.5, 1.5], [2.5, 3.5], [2.5, 3.5]]
    assert segment.grid == SIGHT_GRID


def test_names_and_boxes_follow_their_tokens_through_the_stream():
    seen = sights(SEEN, [0.5, 1.5, 2.5])
    media = interleave(seen, audio(3, labels=("", "music", "hello")), MARKERS, 2)
    stream = join([text(torch.rand(2, D), 0), media, text(torch.rand(1, D), 9)], torch.float32, torch.device("cpu"))
    picture, names = stream.modality == V, ["", "", "", "", "person", "dog", "", "music", "cut", "person", "hello"]
    assert list(stream.labels) == [*names, "", "", ""]
    assert torch.equal(stream.boxes[picture], seen.boxes)
    assert torch.equal(stream.embeds[picture], seen.embeds)
    assert stream.boxes[~picture].isnan().all()


def test_pieces_of_one_text_are_ordered_by_steps_after_their_frame_and_stay_in_its_chunk():
    seen = sights([(0, "text 'EX'", LEFT), (0, "text 'IT'", LEFT)], [1.96], later=[0, 5])
    segment = interleave(seen, audio(3), MARKERS, 0)
    assert segment.modality.tolist() == [T, T, V, V, A, A, A, T, T]
    assert segment.positions[0, 2:4].tolist() == [50, 55]
    assert segment.positions[1, 2] == segment.positions[1, 3]


def test_a_grid_without_names_has_neither_boxes_nor_labels():
    segment = interleave(video([0.0], 2, 2), audio(1), MARKERS, 0)
    assert segment.boxes is None
    assert segment.labels is None
    named = interleave(video([0.0], 2, 2), audio(1, labels=("music",)), MARKERS, 0)
    assert named.boxes is None
    assert named.labels == ("", "", "", "", "", "", "music", "", "")


@pytest.mark.parametrize(("sound", "kinds"), [(None, [T, T]), (audio(1), [T, T, A, T, T])])
def test_a_picture_in_which_nothing_was_observed_brings_only_its_markers(sound, kinds):
    segment = interleave(sights([], [0.0, 1.0]), sound, MARKERS, 5)
    assert segment.modality.tolist() == kinds
    assert segment.next_position > 5
