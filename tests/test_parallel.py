"""Training in several processes: gradients are averaged, the clock is the first one's."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from epcli.train import parallel
parallel.start()
rank, ranks = parallel.place()
assert ranks == 2
a, b = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(3))
a.grad = torch.full((2, 2), float(rank))
if rank:
    b.grad = torch.ones(3)
parallel.average_gradients([a, b])
assert a.grad.tolist() == [[0.5, 0.5], [0.5, 0.5]] and b.grad.tolist() == [0.5, 0.5, 0.5]
assert parallel.agree(7.0 + rank) == 7.0
parallel.stop()
"""


@pytest.mark.slow
def test_processes_average_their_gradients_and_share_one_clock(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_one_process_alone_needs_no_others():
    from epcli.train import parallel

    assert parallel.place() == (0, 1)
    assert parallel.agree(3.0) == 3.0
