"""Everything that can be observed in a file: what is said, heard, seen and read. It needs no language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from epcli.observe.listen import Ears, Progress, listen
from epcli.records import Observation


def observe(
    path: Path,
    *,
    picture: bool = True,
    sound: bool = True,
    start_s: float | None = None,
    end_s: float | None = None,
    on_progress: Progress | None = None,
    on_warning: Callable[[str], None] | None = None,
    ears: Ears | None = None,
) -> Iterator[Observation]:
    """All observations of a file, in bounded memory: a few minutes are read at a time.

    They come in the order of their start within each piece; a sound or thing that goes on comes when it has ended.
    `on_progress` is told the seconds that are done, and of how many. `ears` saves loading the parts for each file.

    Raises MediaError for a file that cannot be read or has nothing of what is wanted, UsageError for an impossible
    range, WeightsError if the parts cannot be had.
    """
    if sound:
        yield from listen(
            path,
            ears or Ears.load(),
            start_s=start_s,
            end_s=end_s,
            on_progress=on_progress,
            on_warning=on_warning,
        )
