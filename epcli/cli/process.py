"""The process that the program runs in."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def age_s() -> float:
    """Seconds since this process was created: before Python was there, let alone the libraries."""
    if sys.platform == "linux":
        # psutil counts from the machine's boot in whole seconds, which may be a second wrong.
        after_name = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2]
        created = int(after_name.split()[19]) / os.sysconf("SC_CLK_TCK")  # field 22, in ticks since boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - created
    import psutil

    return time.time() - psutil.Process().create_time()
