"""Ragged sequences of rows, packed end to end or padded to the longest, of all processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequences laid end to end: ``rows`` (sum of lengths, width), ``lengths`` (clips,)."""

    rows: Tensor
    lengths: Tensor

    def to(self, device: torch.device) -> Packed:
        return Packed(
            self.rows.to(device, non_blocking=True), self.lengths.to(device, non_blocking=True)
        )


@dataclass(frozen=True, slots=True)
class Padded:
    """Sequences padded to the longest: ``rows`` (clips, longest, width), ``lengths`` (clips,)."""

    rows: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """(clips, longest) bool, True on true rows."""
        return mask(self.lengths, self.rows.shape[1])

    def packed(self) -> Packed:
        return Packed(self.rows[self.mask], self.lengths)

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


def join(parts: Sequence[Packed], minimum: int = 0, *, together: bool = False) -> Padded:
    """Join the sequences of each clip along time, without gaps, and pad with zeros.

    Args:
        parts: one packed sequence per clip and part, all of one width.
        minimum: clips with fewer rows are filled up with zero rows that count as rows.
        together: pad to the longest clip of all processes; all of them have to call this.
    """
    offsets = list(accumulate((part.lengths for part in parts), initial=parts[0].lengths * 0))
    lengths = offsets[-1].clamp(min=minimum)
    clips, longest = len(lengths), longest_of_all(lengths) if together else int(lengths.max())
    places = torch.cat([_places(part, start) for part, start in zip(parts, offsets, strict=False)])
    rows = torch.cat([part.rows for part in parts])
    # One flat slot per clip and position: a single scatter, however many clips and parts.
    clip = torch.cat([_owners(part) for part in parts])
    flat = rows.new_zeros(clips * longest, rows.shape[1])
    flat = flat.index_copy(0, clip * longest + places, rows)
    return Padded(flat.view(clips, longest, -1), lengths)


def beside(parts: Sequence[Packed]) -> Packed:
    """Join the sequences of each clip along features, at the rows of the first part."""
    first, *others = parts
    rows = [first.rows, *(_resampled(part, first) for part in others)]
    return Packed(torch.cat(rows, dim=1), first.lengths)


def _resampled(part: Packed, to: Packed) -> Tensor:
    """(rows of ``to``, width): each clip stretched linearly to its length there, edges held.

    Rows are points in the middle of equal shares of the clip; a clip without rows gives zeros.
    """
    clip, zeros = _owners(to), to.lengths * 0
    place = _places(to, zeros)
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


def _owners(part: Packed) -> Tensor:
    """(rows,) index of the clip that each row belongs to."""
    clips = torch.arange(len(part.lengths), device=part.lengths.device)
    return torch.repeat_interleave(clips, part.lengths, output_size=len(part.rows))


def _places(part: Packed, start: Tensor) -> Tensor:
    """(rows,) position of each row in its clip's joined sequence; ``start`` (clips,)."""
    first = part.lengths.cumsum(0) - part.lengths
    shift = torch.repeat_interleave(start - first, part.lengths, output_size=len(part.rows))
    return torch.arange(len(part.rows), device=part.lengths.device) + shift


def gathered(rows: Tensor) -> Tensor:
    """(processes x clips, width) in the order of the processes; ``rows`` itself where it is alone.

    Every process holds the same number of clips. A loss of all rows, computed by each process and
    with its gradients averaged over them as DDP does, has the gradients of one big batch.
    """
    if not _together():
        return rows
    return _Gather.apply(rows)  # type: ignore[no-any-return, no-untyped-call]


def longest_of_all(lengths: Tensor) -> int:
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
