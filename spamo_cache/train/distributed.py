"""The processes that train together: precision, agreement, and batch norm over all of them."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Its functions take the group that there is when it is imported, as DDP does later, for their
# default: before there is one, so that none is held for ever.
import torch.distributed.nn.functional
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from spamo_cache import devices
from spamo_cache.config import Pipeline
from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.model.rows import gathered

T = TypeVar("T")


def make_accelerator(pipeline: Pipeline, device: str) -> Accelerator:
    """Make the Accelerator of all processes that a launcher started, or of this one alone.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or, of one process alone, ``cuda:N``.

    Raises:
        UsageError: an unknown device, a GPU that is not there, or one GPU for several processes.
    """
    name = devices.resolve(device)
    on_gpu = name != "cpu"
    if ":" in name:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError(
                f"several processes cannot share {name}",
                remedy="use --device cuda: each takes a GPU of its own",
            )
        torch.cuda.set_device(name)
    half = on_gpu or pipeline.llm.dtype == "bfloat16"
    if pipeline.precision != "auto":
        half = pipeline.precision == "bfloat16"
    # Kept by accelerate from one training to the next, which may ask for another precision or,
    # where no group of processes hangs on it, another device.
    AcceleratorState._reset_state(reset_partial_state=not dist.is_initialized())
    # Without VT-Align its temperature is trained by nothing, which DDP has to know.
    unused = DistributedDataParallelKwargs(find_unused_parameters=pipeline.translate.alpha == 0)
    accelerator = Accelerator(
        cpu=not on_gpu,
        mixed_precision="bf16" if half else "no",
        kwargs_handlers=[unused],
    )
    if accelerator.num_processes > 1:
        atexit.register(_disband)
    return accelerator


def _disband() -> None:
    """End the group while Python is there: its threads would die with it, and abort the process."""
    # What DDP leaves in circles of references holds the group as well.
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def on_main_process(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Run ``work`` in the main process alone and return its result in every process.

    Raises:
        SpamoError: what ``work`` raised, in every process; marked ``heard`` outside the main one.
    """
    result, failure = _tried(work) if accelerator.is_main_process else (None, None)
    sent = failure if isinstance(failure, SpamoError | None) else SpamoError(repr(failure))
    outcome: list[Any] = broadcast_object_list([result, sent])
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        outcome[1].heard = True
        raise outcome[1]
    answer: T = outcome[0]
    return answer


def _tried(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Its result, or what it raises: the other processes are waiting for either."""
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001
        return None, error


def seed(device: torch.device, number: int) -> None:
    """``torch.manual_seed`` for one device: looking at all kinds of them takes a millisecond."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def gather_texts(accelerator: Accelerator, texts: list[str]) -> list[str]:
    """Merge lists of texts, of which each process filled in a share, into the full list."""
    if accelerator.num_processes == 1:
        return texts
    return ["".join(pieces) for pieces in zip(*gather_object([texts]), strict=True)]


def sync_batchnorm(module: nn.Module) -> None:
    """Make the batch norms of ``module`` normalise by the statistics of all processes."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm1d:
                shared = SyncBatchNorm(child.num_features, child.eps, child.momentum)
                shared.load_state_dict(child.state_dict())
                setattr(parent, name, shared.to(child.weight.device))


class SyncBatchNorm(nn.BatchNorm1d):
    """Batch norm over the rows of all processes, on any device: torch's own is for GPUs alone."""

    # Always there: nobody here asks torch to leave them out.
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, rows: Tensor) -> Tensor:
        """(rows, width) or (clips, width, rows)."""
        if not self.training:
            return super().forward(rows)
        axes = [axis for axis in range(rows.ndim) if axis != 1]
        with torch.autocast(rows.device.type, enabled=False):
            mean, variance, count = self._statistics(rows.float(), axes)
            self._remember(mean, variance, count)
            shape = [1, -1] + [1] * (rows.ndim - 2)
            scale = self.weight * torch.rsqrt(variance + self.eps)
            shift = self.bias - mean * scale
            return (rows * scale.view(shape) + shift.view(shape)).to(rows.dtype)

    def _statistics(self, rows: Tensor, axes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """(width,) mean and variance, and the number of rows, of all processes."""
        sums = rows.sum(axes)
        count = sums.new_full((1,), rows.numel() / self.num_features)
        counts, totals = gathered(torch.cat([count, sums])[None]).sum(0).split([1, len(sums)])
        mean = totals / counts
        shape = [1, -1] + [1] * (rows.ndim - 2)
        # From the mean that is known by now: a difference of big squares would lose digits.
        spread = (rows - mean.view(shape)).square().sum(axes)
        return mean, gathered(spread[None]).sum(0) / counts, counts

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        unbiased = variance * count / (count - 1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
