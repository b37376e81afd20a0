"""Ragged sequences of rows, packed end to end or padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Ragged:
    rows: Tensor
    lengths: Tensor
    known: tuple[int, ...] | None = None
    """The lengths, where the host knows them: a shape then need not be asked of the device."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The lengths as numbers; waits for the device where only that knows them."""
        return tuple(self.lengths.tolist()) if self.known is None else self.known

    def to(self, device: torch.device) -> Self:
        rows = self.rows.to(device, non_blocking=True)
        return type(self)(rows, self.lengths.to(device, non_blocking=True), self.known)

    def holding(self, rows: Tensor) -> Self:
        """Sequences of the same lengths with other rows."""
        return type(self)(rows, self.lengths, self.known)

    def pin_memory(self) -> Self:
        """The same in page-locked memory, from which copies to a GPU keep nobody waiting."""
        return type(self)(self.rows.pin_memory(), self.lengths.pin_memory(), self.known)


@dataclass(frozen=True, slots=True)
class Packed(_Ragged):
    """Sequences laid end to end: ``rows`` (sum of lengths, width), ``lengths`` (clips,)."""


@dataclass(frozen=True, slots=True)
class Padded(_Ragged):
    """Sequences padded to the longest: ``rows`` (clips, longest, width), ``lengths`` (clips,)."""

    @property
    def mask(self) -> Tensor:
        """(clips, longest) bool, True on true rows."""
        return mask(self.lengths, self.rows.shape[1])

    def packed(self) -> Packed:
        sizes, longest = self.sizes, self.rows.shape[1]
        starts = torch.arange(len(sizes), device=self.lengths.device) * longest
        places = _run_on(starts, self.lengths, sum(sizes))
        return Packed(self.rows.flatten(0, 1).index_select(0, places), self.lengths, sizes)

    def aligned_right(self) -> tuple[Tensor, Tensor]:
        """The rows with their padding in front, and the mask that belongs to them."""
        longest = self.rows.shape[1]
        places = torch.arange(longest, device=self.rows.device) - (longest - self.lengths)[:, None]
        clips = torch.arange(len(self.lengths), device=self.rows.device)[:, None]
        inside = places >= 0
        return self.rows[clips, places.clamp(min=0)] * inside[..., None], inside

    def mean(self) -> Tensor:
        """(clips, width) mean over the true rows."""
        total = (self.rows * self.mask[..., None]).sum(1)
        return total / self.lengths.clamp(min=1)[:, None]


def mask(lengths: Tensor, longest: int) -> Tensor:
    """(clips, longest) bool, True where a position lies inside its sequence."""
    return torch.arange(longest, device=lengths.device)[None] < lengths[:, None]


def join(parts: Sequence[Packed], minimum: int = 0, longest: int = 0) -> Padded:
    """Join the sequences of each clip along time, without gaps, and pad with zeros.

    Args:
        parts: one packed sequence per clip and part, all of one width.
        minimum: clips with fewer rows are filled up with zero rows that count as rows.
        longest: pad to this many rows at least.
    """
    offsets = list(accumulate((part.lengths for part in parts), initial=parts[0].lengths * 0))
    lengths = offsets[-1].clamp(min=minimum)
    sizes = tuple(
        max(minimum, sum(own)) for own in zip(*(part.sizes for part in parts), strict=True)
    )
    clips, longest = len(sizes), max(longest, *sizes)
    # One flat slot per clip and position: a single scatter, however many clips and parts.
    first = torch.arange(clips, device=lengths.device) * longest
    slots = torch.cat(
        [
            _run_on(first + start, part.lengths, len(part.rows))
            for part, start in zip(parts, offsets, strict=False)
        ]
    )
    rows = torch.cat([part.rows for part in parts])
    flat = rows.new_zeros(clips * longest, rows.shape[1]).index_copy(0, slots, rows)
    return Padded(flat.view(clips, longest, -1), lengths, sizes)


def repeated(rows: Tensor, clips: int) -> Packed:
    """The same (rows, ...) for each of so many clips."""
    lengths = torch.full((clips,), len(rows), device=rows.device)
    return Packed(rows.repeat(clips, *[1] * (rows.ndim - 1)), lengths, (len(rows),) * clips)


def beside(parts: Sequence[Packed]) -> Packed:
    """Join the sequences of each clip along features, at the rows of the first part."""
    first, *others = parts
    rows = [first.rows, *(_resampled(part, first) for part in others)]
    return first.holding(torch.cat(rows, dim=1))


def _resampled(part: Packed, to: Packed) -> Tensor:
    """(rows of ``to``, width): each clip stretched linearly to its length there, edges held.

    Rows are points in the middle of equal shares of the clip; a clip without rows gives zeros.
    """
    clips = torch.arange(len(to.lengths), device=to.lengths.device)
    clip = torch.repeat_interleave(clips, to.lengths, output_size=len(to.rows))
    place = _run_on(to.lengths * 0, to.lengths, len(to.rows))
    rows = part.lengths[clip]
    point = ((place + 0.5) * rows / to.lengths[clip] - 0.5).clamp(min=0)
    before = point.floor().long()
    after = (before + 1).minimum((rows - 1).clamp(min=0))
    # One row more, for clips without any.
    held = torch.cat([part.rows, part.rows.new_zeros(1, part.rows.shape[1])])
    start = (part.lengths.cumsum(0) - part.lengths)[clip]
    early, late = (
        held[torch.where(rows > 0, start + index, len(part.rows))] for index in (before, after)
    )
    return torch.lerp(early, late, (point - before).to(held.dtype)[:, None])


def _run_on(starts: Tensor, lengths: Tensor, total: int) -> Tensor:
    """(total,) numbers: for each clip as many as its length says, counted up from its start."""
    first = lengths.cumsum(0) - lengths
    shift = torch.repeat_interleave(starts - first, lengths, output_size=total)
    return torch.arange(total, device=lengths.device) + shift


def gathered(rows: Tensor) -> Tensor:
    """(processes x clips, width) in the order of the processes; ``rows`` itself where it is alone.

    Every process holds the same number of clips. A loss of all rows, computed by each process and
    with its gradients averaged over them as DDP does, has the gradients of one big batch.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    return _Gather.apply(rows)  # type: ignore[no-any-return, no-untyped-call]


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
