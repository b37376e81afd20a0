"""What the processes of a distributed training share, so that they compute one big batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(rows: Tensor) -> Tensor:
    """(processes x clips, width) in the order of the processes; ``rows`` itself where it is alone.

    Every process holds the same number of clips. A loss of all rows, computed by each process and
    with its gradients averaged over them as DDP does, has the gradients of one big batch.
    """
    if not _together():
        return rows
    return _Gather.apply(rows)  # type: ignore[no-any-return, no-untyped-call]


def longest(lengths: Tensor) -> int:
    """The greatest of ``lengths`` (clips,), of all processes: what one big batch is padded to."""
    most = lengths.max()
    if _together():
        dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        context.clips = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        # Each process's loss hangs on these rows: the sum, which DDP's mean sets right again.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        first = dist.get_rank() * context.clips
        return total[first : first + context.clips]
