"""Seconds of each stage and peak memory, measured while the stages run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch

from epcli.records import STAGES

SAMPLE_S = 0.02  # between two looks at the process's memory


class Meter:
    """Seconds of each stage, and the process's peak memory while it runs."""

    def __init__(self, device: torch.device, on_stage: Callable[[str], None] | None = None) -> None:
        """`on_stage` is called with a stage's name when the stage begins."""
        self.device, self.on_stage = device, on_stage
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.peak_rss = 0  # bytes
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Meter:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watch.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            self.peak_rss = max(self.peak_rss, process.memory_info().rss)
            if self._stop.wait(SAMPLE_S):
                return

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of this block, with the device's work done, to the stage `name`."""
        if self.on_stage:
            self.on_stage(name)
        self._sync()
        start = time.perf_counter()
        yield
        self._sync()
        self.seconds[name] += time.perf_counter() - start

    def _sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_device(self) -> int | None:
        """Peak bytes that tensors took on the GPU; None without a GPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
