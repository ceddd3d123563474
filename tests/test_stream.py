"""Laying tokens out: 2-second chunks, video then sound, positions in 40 ms steps."""

from __future__ import annotations

import pytest
import torch

from epcli.models.layout import AudioTokens, VideoTokens, interleave, join, text
from epcli.records import Modality

D = 4
MARKERS = torch.arange(16.0).view(4, D)
V, A, T = int(Modality.VIDEO), int(Modality.AUDIO), int(Modality.TEXT)


def video(times: list[float], rows: int = 1, cols: int = 1) -> VideoTokens:
    return VideoTokens(torch.rand(len(times), rows, cols, D), torch.tensor(times, dtype=torch.float64), 1.0)


def audio(tokens: int, steps: int = 25) -> AudioTokens:
    return AudioTokens(torch.rand(tokens, D), steps)


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
