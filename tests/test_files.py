"""Output files: whole or not at all, also where two processes write one file or one is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from epcli.files import whole

WRITE = """
import os, sys
from pathlib import Path
from epcli.files import whole

with whole(Path(sys.argv[1])) as partial:
    partial.write_text("theirs")
    if sys.argv[2:] == ["die"]:
        os._exit(9)
"""


def other_process(path: Path, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-c", WRITE, path, *arguments], check=False).returncode


def test_two_that_write_one_file_do_not_write_into_each_others(tmp_path):
    path = tmp_path / "kept.html"
    with whole(path) as partial:
        partial.write_text("ours")
        assert other_process(path) == 0
        assert path.read_text() == "theirs"
        assert partial.read_text() == "ours"
    assert path.read_text() == "ours"
    assert os.listdir(tmp_path) == ["kept.html"]


def test_what_a_killed_one_left_goes_with_the_next(tmp_path):
    path = tmp_path / "kept.html"
    assert other_process(path, "die") == 9
    assert len(os.listdir(tmp_path)) == 1
    assert not path.exists()
    with whole(path) as partial:
        partial.write_text("ours")
    assert os.listdir(tmp_path) == ["kept.html"]
