"""The index as files come, change, move and go. Files are looked at without models; test_cli_find.py has the parts."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from epcli.batch.work import Failure
from epcli.errors import EpError, MediaError, UsageError
from epcli.find import build
from epcli.find import index as index_file
from epcli.find.build import Build
from epcli.find.index import Begun, Index, Observed
from epcli.find.search import Search
from tests.find_samples import by_words, fill, observed, thing, words


class Reader:
    """Takes what a file holds as what is said in it; "broken" fails."""

    looked: list[str] = []  # noqa: RUF012
    begun: list[Begun | None] = []  # noqa: RUF012
    stops_after: int | None = None  # so many stretches

    def __init__(self, limit_s: float) -> None: ...

    def close(self) -> None: ...

    def observe(
        self, path: Path, begun: Begun | None, *, on_progress: object, on_stretch: Callable[[str, str], None]
    ) -> Observed | Failure:
        from epcli import content

        Reader.looked.append(path.name)
        Reader.begun.append(begun)
        text = path.read_text()
        if Reader.stops_after is not None:
            for number in range(Reader.stops_after):
                on_stretch(f"{text} {number}", f"mark {number}")
            raise KeyboardInterrupt
        if text == "broken":
            return Failure(f"{path.name}: is broken", 4)
        status = path.stat()
        said = [*words(text), thing("dog", 0, 5)]
        return observed(said, status.st_size, status.st_mtime_ns, content.sha256(path))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    monkeypatch.setattr(build, "Observer", Reader)
    Reader.looked, Reader.begun, Reader.stops_after = [], [], None
    with Index(tmp_path / "index.sqlite") as made:
        yield made


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("apples", "pears", "plums"):
        (folder / f"{name}.mp4").write_text(f"we talk about {name} and nothing else")
    return folder


def update(index: Index, *places: Path, **more: object) -> build.Tally:
    work = Build(index, places, **more)  # type: ignore[arg-type]
    work.prepare()
    work.run()
    return work.tally


def found(index: Index, query: str) -> list[str]:
    return [hit.path.name for hit in Search(index, by_words).find(query)]


def test_every_file_is_looked_at_once(index: Index, films: Path) -> None:
    assert update(index, films).indexed == 3
    assert found(index, "pears") == ["pears.mp4"]
    again = update(index, films)
    assert (again.indexed, again.unchanged) == (0, 3)
    assert Reader.looked == ["apples.mp4", "pears.mp4", "plums.mp4"]


def test_a_changed_file_is_looked_at_again(index: Index, films: Path) -> None:
    update(index, films)
    (films / "pears.mp4").write_text("we talk about quinces only, my friends")
    assert update(index, films).indexed == 1
    assert found(index, "pears") == []
    assert found(index, "quinces") == ["pears.mp4"]


def test_a_touched_file_is_not(index: Index, films: Path) -> None:
    update(index, films)
    os.utime(films / "pears.mp4", (1, 1))
    assert update(index, films).indexed == 0
    assert update(index, films).unchanged == 3


def test_a_moved_file_keeps_what_is_known_of_it(index: Index, films: Path) -> None:
    update(index, films)
    (films / "pears.mp4").rename(films / "fruit.mp4")
    tally = update(index, films)
    assert (tally.indexed, tally.moved, tally.gone) == (0, 1, 1)
    assert found(index, "pears") == ["fruit.mp4"]


def test_a_file_moved_between_folders_is_known_again(index: Index, films: Path, tmp_path: Path) -> None:
    update(index, films)
    other = tmp_path / "other"
    other.mkdir()
    (films / "pears.mp4").rename(other / "pears.mp4")
    assert update(index, films).gone == 1
    assert found(index, "pears") == []
    assert update(index, other).indexed == 0
    assert found(index, "pears") == ["pears.mp4"]


def test_a_copy_is_known_too(index: Index, films: Path) -> None:
    update(index, films)
    (films / "twin.mp4").write_bytes((films / "pears.mp4").read_bytes())
    assert update(index, films).indexed == 0
    assert found(index, "pears") == ["pears.mp4", "twin.mp4"]
    index.forget([films / "pears.mp4"])
    assert found(index, "pears") == ["twin.mp4"]


def test_a_deleted_file_is_not_found_and_comes_back(index: Index, films: Path) -> None:
    update(index, films)
    content, times = (films / "pears.mp4").read_bytes(), os.stat(films / "pears.mp4")
    (films / "pears.mp4").unlink()
    assert update(index, films).gone == 1
    assert found(index, "pears") == []
    (films / "pears.mp4").write_bytes(content)
    os.utime(films / "pears.mp4", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert update(index, films).indexed == 0
    assert found(index, "pears") == ["pears.mp4"]


def test_what_has_long_been_gone_is_forgotten(index: Index, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update(index, films)
    (films / "pears.mp4").unlink()
    update(index, films)
    monkeypatch.setattr(index_file, "KEPT_S", -1.0)
    update(index, films)
    assert index.totals().files == 2
    assert index.totals().lines == 2


def test_a_file_outside_the_places_is_left_alone(index: Index, films: Path, tmp_path: Path) -> None:
    update(index, films)
    other = tmp_path / "films2"
    other.mkdir()
    assert update(index, other).gone == 0
    assert found(index, "pears") == ["pears.mp4"]


def test_a_failed_file_is_tried_again_when_asked_for_or_changed(index: Index, films: Path) -> None:
    (films / "bad.mp4").write_text("broken")
    assert update(index, films).failed == 1
    assert index.failures() == [(films / "bad.mp4", "bad.mp4: is broken")]
    assert (index.totals().files, index.totals().failed) == (4, 1)
    assert update(index, films).failed == 0
    assert update(index, films, retry_failed=True).failed == 1
    (films / "bad.mp4").write_text("we talk about cherries instead of it")
    assert update(index, films).indexed == 1
    assert found(index, "cherries") == ["bad.mp4"]


def test_rebuilding_looks_at_everything(index: Index, films: Path) -> None:
    update(index, films)
    assert update(index, films, rebuild=True).indexed == 3
    assert index.totals().lines == 3


def test_nothing_is_left_of_what_is_forgotten(index: Index, films: Path) -> None:
    update(index, films)
    assert index.forget([films]) == 3
    for table in ("files", "lines", "vectors", "codes", "sightings", "holds"):
        assert index.base.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    assert index.base.execute("SELECT rowid FROM line_search WHERE line_search MATCH 'pears'").fetchall() == []


def test_a_file_whose_rows_break_off_keeps_what_it_had(
    index: Index, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(index, films)
    (films / "pears.mp4").write_text("we talk about quinces only, my friends")
    with monkeypatch.context() as patch:
        patch.setattr(Index, "_put_sightings", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            update(index, films)
    assert found(index, "pears") == ["pears.mp4"]
    assert update(index, films).indexed == 1


def test_a_new_file_is_watched_for(index: Index, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from epcli.batch import watch
    from epcli.cli.index import update as run

    monkeypatch.setattr(watch.Watch, "_is_complete", lambda self, media: media not in seen and not seen.add(media))
    monkeypatch.setattr(watch, "EVERY_S", 0.0)
    seen: set[Path] = set()
    work = Build(index, [films])

    def after(path: Path, failure: str | None) -> None:
        if path.name == "plums.mp4":
            (films / "cherries.mp4").write_text("we talk about cherries instead of it")
        if path.name == "cherries.mp4":
            raise KeyboardInterrupt

    monkeypatch.setattr("epcli.cli.index._Screen.file", lambda self, path, failure: after(path, failure))
    with pytest.raises(KeyboardInterrupt):
        run(work, watch=True)
    assert found(index, "cherries") == ["cherries.mp4"]


def interrupt(index: Index, film: Path, stretches: int) -> None:
    Reader.stops_after = stretches
    with pytest.raises(KeyboardInterrupt):
        update(index, film)
    Reader.stops_after = None


def left(index: Index) -> int:
    """How many stretches of unfinished files the index holds."""
    return int(index.base.execute("SELECT count(*) FROM begun_parts").fetchone()[0])


def test_an_interrupted_file_goes_on_where_it_was(index: Index, films: Path) -> None:
    film = films / "pears.mp4"
    interrupt(index, film, 2)
    text = film.read_text()
    assert found(index, "pears") == []
    assert update(index, films).indexed == 3
    assert Reader.begun == [None, None, Begun((f"{text} 0", f"{text} 1"), "mark 1"), None]
    assert left(index) == 0
    assert found(index, "pears") == ["pears.mp4"]


@pytest.mark.parametrize("anew", ["changed", "rebuilt", "other parts"])
def test_an_interrupted_file_begins_anew_if_it_must(
    index: Index, films: Path, anew: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = films / "pears.mp4"
    interrupt(index, film, 2)
    if anew == "changed":
        film.write_text("we talk about quinces only, my friends")
    if anew == "other parts":
        monkeypatch.setattr(index_file, "OBSERVED", -1)
    Reader.stops_after = 1
    with pytest.raises(KeyboardInterrupt):
        update(index, film, rebuild=anew == "rebuilt")
    assert Reader.begun == [None, None]
    assert left(index) == 1


def test_of_an_interrupted_file_nothing_is_left_when_it_is_forgotten_or_old(
    index: Index, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(index, films / "pears.mp4", 2)
    assert index.totals().begun == 1
    assert index.forget([films]) == 1
    assert left(index) == 0
    interrupt(index, films / "pears.mp4", 2)
    monkeypatch.setattr(index_file, "KEPT_S", -1.0)
    index.forget_gone()
    assert left(index) == 0


def test_one_process_writes_at_a_time(index: Index) -> None:
    with index.writing() as mine, Index(index.path) as other, other.writing() as theirs:
        assert (mine, theirs) == (True, False)
    with Index(index.path) as other, other.writing() as theirs:
        assert theirs


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\1" * 4000])
def test_a_damaged_index_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(content)
    with pytest.raises(EpError, match=r"index.sqlite: is no index, or a damaged one \("):
        Index(path)


def test_nobody_is_told_to_remove_an_index_that_is_sound(index: Index) -> None:
    with pytest.raises(EpError, match=r"index.sqlite: the index cannot be used: database is locked$"), index.damage():
        raise sqlite3.OperationalError("database is locked")


def test_another_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mail.sqlite"
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE mail (text)")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="something else"):
        Index(path)
    assert path.read_bytes() == before


def test_on_a_full_disk_what_is_known_stays(index: Index, films: Path) -> None:
    update(index, films)
    (films / "pears.mp4").write_text("we talk about quinces " * 2000)
    index.base.execute("PRAGMA max_page_count = 1")  # no more than there are
    with pytest.raises(EpError, match="disk is full; make room on the disk"), index.damage():
        update(index, films)
    assert found(index, "pears") == ["pears.mp4"]


def test_another_version_is_told(index: Index) -> None:
    index.base.execute("UPDATE about SET value = '0'")
    with pytest.raises(UsageError, match="another version"):
        Index(index.path)


def test_without_an_index_there_is_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ep index FOLDER"):
        Index(tmp_path / "none.sqlite", make=False)


def test_a_folder_that_is_not_there_is_told(index: Index, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="there is no such file or folder"):
        update(index, tmp_path / "nowhere")


def test_an_index_holds_many_files(index: Index) -> None:
    fill(index, Path("/films"))
    fill(index, Path("/films"))  # the same again
    totals = index.totals()
    assert (totals.files, totals.failed, totals.gone) == (12, 0, 0)
    assert totals.lines == index.base.execute("SELECT count(*) FROM vectors").fetchone()[0]
