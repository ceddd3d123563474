"""Which moments are found, in which order, and why. Texts are compared by their words; test_minilm.py has the model."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from epcli.find import show
from epcli.find.index import Index, bits, small, vectors
from epcli.find.search import Hit, Reason, Scope, Search
from tests.find_samples import by_words, fill, observed, sign, sound, thing, words
from tests.test_find_query import NASTY


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "index.sqlite") as made:
        fill(made, Path("/films"))
        yield made


def names(hits: list[Hit]) -> list[str]:
    return [hit.path.name for hit in hits]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("a dog barking", ["yard.mp4"]),  # not the park: no dog barks there
        ("dogs", ["yard.mp4", "park.mp4"]),  # seen and heard before only seen
        ("somebody says 'station'", ["news.mp4"]),
        ("the EXIT sign", ["exit.mp4"]),
        ("people on bicycles", ["ride.mp4"]),
        ("vehicle", ["city.mp4", "ride.mp4", "shop.mp4"]),  # a bus is one, and so is a bicycle
        ("a woman", ["city.mp4", "concert.mp4", "exit.mp4", "ride.mp4", "yard.mp4"]),  # seen as a person
        ("the second law", ["lecture3.mp4"]),
        ("raising rates", ["money.mp4"]),  # by stem
        ("helicopter", []),
    ],
)
def test_the_right_clips_are_found(index: Index, query: str, expected: list[str]) -> None:
    found = names(Search(index, by_words).find(query))
    assert sorted(found) == sorted(expected)
    assert found[:1] == expected[:1]


def test_what_is_both_seen_and_heard_comes_first(index: Index) -> None:
    index.put(Path("/a/heard.mp4"), observed([sound("dog barking", 0, 5)]))
    assert names(Search(index, by_words).find("a dog barking")) == ["yard.mp4", "heard.mp4"]


def test_what_is_quoted_is_meant_literally(index: Index) -> None:
    search = Search(index, by_words)
    assert names(search.find('"central station"')) == names(search.find("station central")) == ["news.mp4"]
    assert search.find('"station central"') == []


def test_a_plural_means_what_its_singular_means(index: Index) -> None:
    def knows_puppy(texts: Sequence[str]) -> np.ndarray:
        return by_words(["dog" if text == "puppy" else text for text in texts])

    search = Search(index, knows_puppy)
    assert sorted(names(search.find("puppies"))) == sorted(names(search.find("puppy"))) == ["park.mp4", "yard.mp4"]


def test_the_last_word_of_a_name_is_what_it_is(index: Index) -> None:
    index.put(Path("/f/engine.mp4"), observed([thing("fire engine", 0, 5)]))
    search = Search(index, by_words)
    assert names(search.find("engines")) == names(search.find("fire engine")) == ["engine.mp4"]
    assert search.find("fire") == []
    assert "engine.mp4" in names(search.find("vehicles"))


def test_speech_itself_can_be_found(index: Index) -> None:
    index.put(Path("/f/talk.mp4"), observed([sound("speech", 0, 5)]))
    assert names(Search(index, by_words).find("somebody speaking")) == ["talk.mp4"]


def test_a_moment_is_where_its_terms_meet(index: Index) -> None:
    (hit,) = Search(index, by_words).find("a dog barking")
    assert (hit.start_s, hit.end_s) == (42, 47)
    assert [(each.how, each.text, each.place) for each in hit.why] == [
        ("heard", "dog barking", ""),
        ("seen", "dog", "left"),
    ]
    assert 0.9 < hit.score <= 1


def test_a_hint_orders_and_a_flag_excludes(index: Index) -> None:
    index.put(Path("/films/talk.mp4"), observed(words("my dog likes to eat")))
    search = Search(index, by_words)
    assert names(search.find("someone talks about a dog"))[0] == "talk.mp4"
    assert len(search.find("someone talks about a dog")) > 1
    assert names(search.find("dog", Scope(hows=frozenset({"said"})))) == ["talk.mp4"]
    assert "talk.mp4" not in names(search.find("dog", Scope(hows=frozenset({"seen", "heard"}))))


def test_a_scope_is_files_folders_and_times(index: Index) -> None:
    index.put(Path("/films/new/dog.mp4"), observed([thing("dog", 0, 5)], modified=10**9))
    index.put(Path("/films2/dog.mp4"), observed([thing("dog", 0, 5)]))
    search = Search(index, by_words)
    assert names(search.find("dog", Scope((Path("/films/new"),)))) == ["dog.mp4"]
    assert "/films2/dog.mp4" not in {str(hit.path) for hit in search.find("dog", Scope((Path("/films"),)))}
    assert names(search.find("dog", Scope((Path("/films/park.mp4"),)))) == ["park.mp4"]
    assert names(search.find("dog", Scope(since=1.0))) == ["dog.mp4"]
    assert search.find("entropy", Scope((Path("/films/new"),))) == []


def test_what_follows_is_one_moment(index: Index) -> None:
    index.put(Path("/f/two.mp4"), observed(words("entropy of ice and more") + words("entropy of steam and less", 3.3)))
    hit = Search(index, by_words).find("entropy", Scope((Path("/f"),)))[0]
    assert (hit.start_s, hit.end_s) == (0.0, pytest.approx(5.25))
    assert len(hit.why) == 2


def test_what_is_far_apart_is_two_moments(index: Index) -> None:
    index.put(Path("/f/two.mp4"), observed([sound("bell", 5, 6), sound("bell", 300, 302)]))
    hits = Search(index, by_words).find("bell")
    assert [(hit.start_s, hit.end_s) for hit in hits] == [(5, 6), (300, 302)]


def test_a_search_notices_what_another_process_does(index: Index) -> None:
    search = Search(index, by_words)
    assert search.find("platypus") == []
    with Index(index.path) as other:
        other.put(Path("/f/a.mp4"), observed(words("the platypus lays eggs in spring")))
    assert names(search.find("platypus")) == ["a.mp4"]
    with Index(index.path) as other:
        other.set_gone([other.files_at([Path("/f/a.mp4")])[0].id])
    assert search.find("platypus") == []


@pytest.mark.parametrize("query", NASTY)
def test_no_query_harms_the_index(index: Index, query: str) -> None:
    before = index.totals().files
    Search(index, by_words).find(query)
    assert index.totals().files == before


NASTY_NAME = "/films/100%d \\\\1 '; DROP TABLE files; -- \x1b[2J$(touch x)`id` \"<b>\u202e\n-.mp4"


def test_no_name_and_no_text_harms_anything(index: Index, tmp_path: Path) -> None:
    path = Path(NASTY_NAME + os.fsdecode(b"\xff"))
    index.put(path, observed([sign('\x1b[31m"evil" <script>', 1, 2), thing("dog", 1, 2)]))
    (hit,) = Search(index, by_words).find("evil")
    assert hit.path == path
    assert show.why(hit, ["evil"]).isprintable()
    assert "\x1b" not in json.dumps(hit.to_dict())
    line = show.play(hit)
    assert line.isprintable()
    assert "\n" not in line
    for shell in ("sh", "bash"):
        told = [shell, "-c", f"printf '%s' {line.split(' -- ', 1)[1]}"]
        said = subprocess.run(told, capture_output=True, check=True, cwd=tmp_path)
        assert said.stdout == os.fsencode(path)  # the shell reads it as one word, and runs nothing of it
    assert not list(tmp_path.glob("x"))


@pytest.mark.parametrize("name", ["plain.mp4", "with space.mp4", "it's.mp4", "-dash.mp4", "ümlaut.mp4", "$HOME.mp4"])
def test_a_player_gets_the_file(name: str) -> None:
    path = Path("/films") / name
    line = show.play(Hit(path, 42.0, 47.0, 1.0, ()))
    assert shlex.split(line)[-1] == str(path)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (Reason("seen", "person", 0, 1, 1, "", 3), "seen: 3 people"),
        (Reason("seen", "dog", 0, 1, 1, "left", 1), "seen: dog, left"),
        (Reason("heard", "violin", 0, 1, 1, "", 1), "heard: violin"),
        (Reason("read", "EXIT", 0, 1, 1, "", 1), 'read: "EXIT"'),
    ],
)
def test_a_reason_in_words(reason: Reason, expected: str) -> None:
    assert show.why(Hit(Path("/a"), 0, 1, 1, (reason,)), []) == expected


def test_a_long_text_is_shown_around_the_word() -> None:
    text = "and so on " * 20 + "the second law of thermodynamics " + "and so forth " * 20
    shown = show.excerpt(text, ["law"])
    assert "second law of" in shown
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert len(shown) <= show.WIDTH + 2
    assert len(show.excerpt("x" * 500, ["law"])) <= show.WIDTH + 2


def test_a_vector_in_a_byte_a_number_is_nearly_itself() -> None:
    rows = by_words(["a dog barks", "the second law"])
    again = vectors([small(row) for row in rows])
    assert np.abs(again - rows).max() < 0.002
    different = np.unpackbits(np.frombuffer(bits(rows), np.uint8) ^ np.frombuffer(bits(again), np.uint8))
    assert different.sum() <= 8  # numbers next to zero
