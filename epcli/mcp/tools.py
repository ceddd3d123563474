"""What the tools do. They know nothing of the protocol, and run on one thread, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epcli.config import Profile
from epcli.errors import UsageError
from epcli.mcp.allowed import Allowed
from epcli.text import as_question, parse_time

if TYPE_CHECKING:
    from epcli.find.search import Embed
    from epcli.observe.listen import Ears
    from epcli.session.session import Session

MOST_MOMENTS = 100
Tell = Callable[[float, float | None, str], None]  # how far, of how much (None: not known), and with what


class Tools:
    """The tools, with the models that they have loaded so far."""

    def __init__(self, allowed: Allowed, profile: Profile, index: Path) -> None:
        self._allowed, self._profile, self._index = allowed, profile, index
        self._session: Session | None = None
        self._embed: Embed | None = None
        self._ears: Ears | None = None

    def ask(self, file: str, question: str, start: str | None, end: str | None, tell: Tell) -> dict[str, Any]:
        """The answer to a question about a file, and the moments that carried it."""
        media, (start_s, end_s) = self._allowed.file(file), _range(start, end)
        session = self._opened(tell)
        report = session.ask(session.look(media, start_s, end_s), as_question(question), evidence=True).to_dict()
        return {name: report[name] for name in ("answer", "model", "media", "evidence", "warnings")}

    def inspect(
        self, file: str, question: str | None, start: str | None, end: str | None, tell: Tell
    ) -> dict[str, Any]:
        """What a file holds, what was recognised in it, and how much of it the model read."""
        media, (start_s, end_s) = self._allowed.file(file), _range(start, end)
        session = self._opened(tell)

        from epcli.report.inspect_json import to_dict
        from epcli.session.inspection import QUESTION, shown
        from epcli.session.plan import plan

        planned = plan(media, session.profile, start_s=start_s, end_s=end_s)
        opened = session.open(media, start_s, end_s)
        looked = session.encode(opened)
        answered = session.run(looked, as_question(question) if question else QUESTION)
        body = to_dict(shown(looked, [answered], planned, opened.clip))
        (run,) = body["runs"]
        report = run["report"]
        return {
            "media": body["media"],
            "observed": run["observed"],
            "tokens": report["tokens"],
            "answer": report["answer"],
            "warnings": report["warnings"],
        }

    def find(
        self, query: str, folder: str | None, hows: Sequence[str], limit: int, update: bool, tell: Tell
    ) -> dict[str, Any]:
        """The moments that match, best first."""
        from epcli.find.index import Index
        from epcli.find.passages import HOWS
        from epcli.find.query import parse
        from epcli.find.search import Scope, Search

        if unknown := set(hows) - set(HOWS):
            raise UsageError(f"how: {min(unknown)!r} is none of {', '.join(HOWS)}")
        if not 1 <= limit <= MOST_MOMENTS:
            raise UsageError(f"limit: from 1 to {MOST_MOMENTS}")
        parse(query)  # a bad query is refused before any work
        places = self._allowed.folder(folder)
        notes = []
        with Index(self._index) as index, index.damage():
            if update and not self._update(index, places, tell):
                notes.append("another process is indexing; what it has done by now was searched")
            scope = Scope(places, frozenset(hows or HOWS))
            hits = Search(index, self._embedding()).find(
                query, scope, limit, wanted=lambda path: path.is_file() and self._allowed.holds(path)
            )
        return {"moments": [hit.to_dict() for hit in hits], "notes": notes}

    def transcript(self, file: str, start: str | None, end: str | None, tell: Tell) -> dict[str, Any]:
        """What is said in a file, line by line."""
        from epcli.observe.listen import Ears
        from epcli.observe.look import observe
        from epcli.observe.phrases import lines

        media, (start_s, end_s) = self._allowed.file(file), _range(start, end)
        warnings: list[str] = []
        if self._ears is None:
            self._ears = Ears.load()
        heard = observe(
            media,
            picture=False,
            ears=self._ears,
            start_s=start_s,
            end_s=end_s,
            on_progress=lambda done_s, total_s: tell(done_s, total_s, "listening"),
            on_warning=warnings.append,
        )
        said = list(lines(each for each in heard if each.kind == "word"))
        return {
            "text": "\n".join(line.text for line in said),
            "lines": [
                {"start_s": round(line.start_s, 2), "end_s": round(line.end_s, 2), "text": line.text} for line in said
            ],
            "warnings": warnings,
        }

    def _opened(self, tell: Tell) -> Session:
        from epcli.compat import import_transformers

        stages = 0

        def stage(name: str) -> None:
            nonlocal stages
            stages += 1
            tell(stages, None, name)

        if self._session is None:
            tell(0, None, "starting")
            import_transformers()
            from epcli.session.session import Session

            self._session = Session(self._profile)
        self._session.on_stage = stage
        return self._session

    def _embedding(self) -> Embed:
        if self._embed is None:
            from epcli.observe.minilm import MiniLM

            self._embed = MiniLM().embed
        return self._embed

    def _update(self, index: Any, places: Sequence[Path], tell: Tell) -> bool:
        """Index what is new; False if another process does that."""
        from epcli.batch.jobs import Search
        from epcli.find.build import Build

        with index.writing() as mine:
            if mine:
                work = Build(index, places, Search(follow_links=False))
                work.prepare()

                def progress(path: Path, done_s: float, total_s: float) -> None:
                    done = work.tally.indexed + work.tally.failed
                    share = min(done_s / total_s, 0.999) if total_s > 0 else 0.0
                    tell(done + share, done + work.waiting + 1, f"indexing {path.name}")

                work.on_progress = progress
                if work.waiting:
                    tell(0, work.waiting, "indexing")
                    work.run()
            return bool(mine)


def _range(start: str | None, end: str | None) -> tuple[float | None, float | None]:
    start_s = None if start is None else parse_time(start)
    end_s = None if end is None else parse_time(end)
    if end_s is not None and end_s <= (start_s or 0.0):
        raise UsageError(f"end {end} is not after the start")
    return start_s, end_s
