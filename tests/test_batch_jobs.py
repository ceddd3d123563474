"""Which files and which questions make a batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from epcli.batch.jobs import Search, find, plan_jobs
from epcli.errors import MediaError, UsageError
from epcli.questions.record import Question
from epcli.questions.sets import read_questions

FILES = ["b.MP4", "a.mkv", "notes.txt", ".hidden.mp4", "sub/c.wav", "sub/deep/d.jpg", ".git/e.mp4", "raw/f.mp4"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "clips"


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        (Search(), ["a.mkv", "b.MP4", "raw/f.mp4", "sub/c.wav", "sub/deep/d.jpg"]),  # media by suffix, nothing hidden
        (Search(include=("*.txt",)), ["notes.txt"]),
        (Search(include=("sub/*",)), ["sub/c.wav", "sub/deep/d.jpg"]),
        (Search(exclude=("*.wav", "raw")), ["a.mkv", "b.MP4", "sub/deep/d.jpg"]),  # a folder, too
        (Search(exclude=("sub/deep/*",)), ["a.mkv", "b.MP4", "raw/f.mp4", "sub/c.wav"]),
        (Search(include=("*.mp4",), exclude=("raw/",)), []),
    ],
)
def test_a_folder_is_searched_by_name(folder: Path, search: Search, expected: list[str]) -> None:
    assert [path.relative_to(folder).as_posix() for path in find([folder], search)] == expected


def test_links_are_followed_but_never_in_circles(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/g.mp4").write_bytes(b"")
    (folder / "there").symlink_to(tmp_path / "elsewhere")
    (folder / "sub/round").symlink_to(folder)
    (folder / "h.mp4").symlink_to(tmp_path / "elsewhere/g.mp4")
    (folder / "itself").symlink_to("itself")
    plain = len(find([folder], Search(follow_links=False)))
    found = [path.relative_to(folder).as_posix() for path in find([folder], Search())]
    assert len(found) == plain + 2
    assert {"there/g.mp4", "h.mp4"} <= set(found)


def test_places_may_be_files_and_a_missing_one_is_named(folder: Path) -> None:
    assert find([folder / "notes.txt", folder / "notes.txt"], Search()) == [folder / "notes.txt"]
    with pytest.raises(MediaError, match="nowhere: there is no such file or folder"):
        find([folder / "nowhere"], Search())


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("q.txt", "What?\n\n# a note\n  Why? \n", [("What?", None, ""), ("Why?", None, "")]),
        (
            "q.jsonl",
            '{"media": "a.mp4", "question": "What?", "id": 7}\n\n{"question": "Why?"}\n',
            [("What?", "a.mp4", "7"), ("Why?", None, "")],
        ),
        (
            "q.csv",
            '\ufeffmedia,question,id\na.mp4,"What, then?",x\n,Why?,\n',
            [("What, then?", "a.mp4", "x"), ("Why?", None, "")],
        ),
        ("q.tsv", "question\tmedia\nWhat?\ta.mp4\n", [("What?", "a.mp4", "")]),
    ],
)
def test_questions_come_as_text_json_lines_or_tables(
    tmp_path: Path, name: str, text: str, expected: list[tuple[str, str | None, str]]
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_questions(tmp_path / name, search=False).questions
    assert [(each.text, each.media, each.key) for each in found] == [
        (text, media and tmp_path / media, key) for text, media, key in expected
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", b"# nothing\n", "there are no questions in it"),
        ("q.txt", b"\xff\xfeq\0", "is UTF-16 text; save it as UTF-8"),
        ("q.jsonl", b'{"question": "What?"}\n{"media": 1}\n', "line 2: .*question"),
        ("q.jsonl", b'{"question": "What?", "media": 1}\n', "line 1: media is not a path"),
        ("q.jsonl", b"What?\n", "line 1 is not JSON"),
        ("q.jsonl", b'"What?"\n', "line 1 is not an object"),
        ("q.csv", b"media,text\na,b\n", "one of them is question"),
        ("q.csv", b"media,question\na.mp4,\n", "line 2: .*question"),
        ("q.json", b"[]", "there are no questions in it"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_questions(tmp_path / name)
    with pytest.raises(UsageError, match="no such file or folder"):
        read_questions(tmp_path / "other.txt")


def test_every_file_gets_the_general_questions_and_its_own() -> None:
    files = [Path("/m/a.mp4"), Path("/m/b.mp4")]
    own = [Question("Why?", Path("/m/b.mp4")), Question("Who?", Path("/m/../n/c.mp4"))]
    planned = plan_jobs(files, [Question("What?"), *own, Question("What?")])
    assert {str(each.media): [question.text for question in each.questions] for each in planned} == {
        "/m/a.mp4": ["What?"],
        "/m/b.mp4": ["What?", "Why?"],
        "/n/c.mp4": ["Who?"],
    }


def test_only_files_that_are_asked_about_count_where_every_question_names_one() -> None:
    planned = plan_jobs([Path("/m/a.mp4")], [Question("Why?", Path("/m/b.mp4"))])
    assert [str(each.media) for each in planned] == ["/m/b.mp4"]


def test_a_shuffle_is_the_same_for_the_same_seed_and_comes_before_the_limit() -> None:
    files = [Path(f"/m/{number:02}.mp4") for number in range(40)]

    def order(seed: int, limit: int | None = None) -> list[Path]:
        return [each.media for each in plan_jobs(files, [Question("What?")], limit=limit, shuffle=seed)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == files
    assert order(1, limit=5) == order(1)[:5]


FORMATS = (
    "mp4 mov mkv webm avi ts mpg ogv flv wmv mxf ivf y4m h264 h265 m2v gif apng webp avif jxl png jpg bmp tif jp2 "
    "ppm pgm pbm pam tga wav w64 mp3 aac m4a flac ogg opus aiff caf amr au ac3 eac3 wv"
)


@pytest.mark.parametrize("suffix", FORMATS.split())
def test_a_folder_search_finds_every_format_of_the_files_page(suffix: str) -> None:
    assert Search().wants(f"a.{suffix}")
    assert Search().wants(f"a.{suffix.upper()}")
