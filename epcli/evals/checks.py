"""Counting checks against reference numbers, a printed line for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ATOL, RTOL = 2e-4, 1e-4  # the reference's own attention kernels differ among themselves by 3e-5


class Checks:
    """Counts checks and prints a line for each."""

    def __init__(self) -> None:
        self.passed = self.failed = 0
        self.group = ""

    @contextmanager
    def over(self, group: str) -> Iterator[None]:
        """The group that the checks inside belong to. Whatever goes wrong inside is a failed check, not the end."""
        self.group = group
        try:
            yield
        except Exception as error:  # any: the rest of the folder must still be checked
            self._line("ran", False, f"{type(error).__name__}: {error}".splitlines()[0])

    def close(self, check: str, got: Tensor, want: Tensor, *, rtol: float = RTOL, atol: float = ATOL) -> None:
        """Equal shapes, and values within atol + rtol * |want|."""
        if got.shape != want.shape:
            self._line(check, False, f"shape {list(got.shape)}, not {list(want.shape)}")
            return
        gap = (got - want).abs()
        worst = gap.max().item() if gap.numel() else 0.0
        self._line(check, bool((gap <= atol + rtol * want.abs()).all()), f"largest difference {worst:.2g}")

    def equal(self, check: str, got: Tensor, want: Tensor) -> None:
        """Equal shapes and equal integers."""
        if got.shape != want.shape:
            self._line(check, False, f"shape {list(got.shape)}, not {list(want.shape)}")
            return
        wrong = int((got != want).sum())
        self._line(check, wrong == 0, "equal" if wrong == 0 else f"{wrong} of {want.numel()} differ")

    def _line(self, check: str, passed: bool, note: str) -> None:
        self.passed, self.failed = self.passed + passed, self.failed + (not passed)
        print(f"{'ok  ' if passed else 'FAIL'}  {self.group:<28} {check:<24} {note}", flush=True)


def check_files(checks: Checks, folder: Path, manifest: dict[str, Any]) -> None:
    """Every file of the manifest is there and unchanged."""
    files = manifest["files"]
    same = [
        hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"] for name, entry in files.items()
    ]
    checks.equal("sha256", torch.tensor(same), torch.ones(len(files), dtype=torch.bool))
