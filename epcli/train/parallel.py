"""Several processes under torchrun: each draws its own data, the gradients are averaged.

On a few CPU cores two processes of one thread do more than one of two threads, which wait for each other in every
product. Without torchrun everything here does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


def start() -> None:
    """Join the other processes, if torchrun started this one."""
    if dist.is_torchelastic_launched() and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(hours=1))  # one evaluates, the others wait


def stop() -> None:
    """Wait for the others and part; a process that just ended would take the others' connections down."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def place() -> tuple[int, int]:
    """This process's number, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """The mean of all processes' gradients, in each of them."""
    if not dist.is_initialized():
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)


def agree(seconds: float) -> float:
    """The first process's clock, in all of them: the schedule must be one."""
    if not dist.is_initialized():
        return seconds
    clock = torch.tensor(seconds, dtype=torch.float64)
    dist.broadcast(clock, 0)
    return float(clock)
