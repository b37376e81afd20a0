"""How many cores a small model computes with on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with ``count`` threads inside the block; None leaves torch's own choice.

    The number of threads changes the last bits of sums, so a fixed one makes runs equal on
    machines of different sizes; and a small model on a busy machine is many times slower with
    several, which wait for each other at every operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
