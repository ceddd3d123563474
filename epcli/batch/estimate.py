"""What a batch would cost, with the numbers of `ep plan`, before anything is loaded or written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from epcli.batch.jobs import FileJobs
from epcli.batch.ledger import states
from epcli.config import Profile
from epcli.errors import EpError, MediaError

ESTIMATE_SCHEMA = 1


@dataclass
class Estimate:
    """The sum over files. Tokens count a file once for each question that would be asked about it."""

    files: int
    jobs: int
    done: int
    failed: int
    to_ask: int
    files_to_look_at: int = 0
    duration_s: float = 0.0
    tokens: dict[str, dict[str, int]] = field(
        default_factory=lambda: {name: {"total": 0, "kept": 0} for name in ("video", "audio")}
    )
    peak_bytes: int = 0  # of the file that needs most
    largest: str = ""  # that file
    fits: bool | None = None
    free_bytes: int | None = None
    model: str = ""
    selector: str = ""
    device: str = ""
    dtype: str = ""
    too_long: list[str] = field(default_factory=list)  # files whose kept tokens are more than the model's context
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # files that would fail, and why

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `ep batch --dry-run --json`."""
        return {"schema": ESTIMATE_SCHEMA, **asdict(self)}


def estimate(
    jobs: Sequence[FileJobs],
    profile: Profile,
    range_s: tuple[float | None, float | None],
    out: Path,
    retry_failed: bool = False,
) -> Estimate:
    """Look into every file that would be asked about. Raises UsageError or WeightsError for the model's sake."""
    known = states(out)
    made = Estimate(files=len(jobs), jobs=0, done=0, failed=0, to_ask=0)
    for each in jobs:
        path = os.fsencode(each.media)
        found = [known.get((path, question.text, question.key), "pending") for question in each.questions]
        made.jobs += len(found)
        made.done += found.count("done")
        made.failed += found.count("failed")
        if asked := len(found) - found.count("done") - (0 if retry_failed else found.count("failed")):
            made.to_ask += asked
            _add(made, each.media, asked, profile, range_s)
    return made


def _add(made: Estimate, media: Path, asked: int, profile: Profile, range_s: tuple[float | None, float | None]) -> None:
    from epcli.session.plan import plan

    try:
        one = plan(media, profile, start_s=range_s[0], end_s=range_s[1])
    except MediaError as error:
        made.unreadable.append((str(media), str(error)))
        return
    except EpError as error:
        if not str(error).startswith(f"{media.name}: "):  # about the model or a setting, so about every file
            raise
        made.unreadable.append((str(media), str(error)))
        return
    made.files_to_look_at += 1
    made.duration_s += one.media.duration_s
    for name, counts in made.tokens.items():
        for which in counts:
            counts[which] += asked * getattr(one.tokens.of(name), which)
    made.model, made.selector, made.device, made.dtype = one.model, one.selector, one.device, one.dtype
    if one.peak_bytes > made.peak_bytes:
        made.peak_bytes, made.largest = one.peak_bytes, str(media)
        made.fits, made.free_bytes = one.available.fits, one.available.bytes
    if not one.context.fits:
        made.too_long.append(str(media))
