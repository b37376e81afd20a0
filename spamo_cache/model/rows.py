"""Ragged sequences of rows, packed end to end or padded to the longest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    valid: Tensor | None = None
    """Bool, one per row: whether it is valid; None where all true rows are."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The lengths as numbers; waits for the device where only that knows them."""
        return tuple(self.lengths.tolist()) if self.known is None else self.known

    def to(self, device: torch.device) -> Self:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def holding(self, rows: Tensor) -> Self:
        """Sequences of the same lengths and validity with other rows."""
        return replace(self, rows=rows)

    def pin_memory(self) -> Self:
        """The same in page-locked memory, from which copies to a GPU keep nobody waiting."""
        return self._each(Tensor.pin_memory)

    def tensors(self) -> list[Tensor]:
        """All of them, in no particular order."""
        return [self.rows, self.lengths, *([] if self.valid is None else [self.valid])]

    def _each(self, changed: Callable[[Tensor], Tensor]) -> Self:
        valid = None if self.valid is None else changed(self.valid)
        return type(self)(changed(self.rows), changed(self.lengths), self.known, valid)


@dataclass(frozen=True, slots=True)
class Packed(_Ragged):
    """Sequences laid end to end: ``rows`` (sum of lengths, width), ``lengths`` (clips,).

    ``valid`` is (sum of lengths,).
    """

    def zeroed(self) -> Packed:
        """The same with zeros in place of rows that are not valid."""
        if self.valid is None:
            return self
        return self.holding(self.rows.masked_fill(~self.valid[:, None], 0))


@dataclass(frozen=True, slots=True)
class Padded(_Ragged):
    """Sequences padded to the longest: ``rows`` (clips, longest, width), ``lengths`` (clips,).

    ``valid`` is (clips, longest); of padding it may say anything.
    """

    @property
    def mask(self) -> Tensor:
        """(clips, longest) bool, True on true rows that are valid."""
        inside = mask(self.lengths, self.rows.shape[1])
        return inside if self.valid is None else inside & self.valid

    def packed(self) -> Packed:
        sizes, longest = self.sizes, self.rows.shape[1]
        starts = torch.arange(len(sizes), device=self.lengths.device) * longest
        places = _run_on(starts, self.lengths, sum(sizes))
        valid = None if self.valid is None else self.valid.flatten().index_select(0, places)
        rows = self.rows.flatten(0, 1).index_select(0, places)
        return Packed(rows, self.lengths, sizes, valid)

    def aligned_right(self) -> tuple[Tensor, Tensor]:
        """The rows with their padding in front, and the mask that belongs to them.

        The mask is True on true rows that are valid.
        """
        longest = self.rows.shape[1]
        places = torch.arange(longest, device=self.rows.device) - (longest - self.lengths)[:, None]
        clips = torch.arange(len(self.lengths), device=self.rows.device)[:, None]
        inside, places = places >= 0, places.clamp(min=0)
        rows = self.rows[clips, places] * inside[..., None]
        return rows, inside if self.valid is None else inside & self.valid[clips, places]

    def mean(self) -> Tensor:
        """(clips, width) mean over the true rows that are valid; zeros where none is."""
        counted = self.mask
        total = (self.rows * counted[..., None]).sum(1)
        count = self.lengths if self.valid is None else counted.sum(1)
        return total / count.clamp(min=1)[:, None]

    def mean_with_padding(self) -> Tensor:
        """(clips, width) mean over all rows, padding among them, but for those not valid."""
        if self.valid is None:
            return self.rows.mean(1)
        counted = self.valid | ~mask(self.lengths, self.rows.shape[1])
        total = (self.rows * counted[..., None]).sum(1)
        return total / counted.sum(1).clamp(min=1)[:, None]


def mask(lengths: Tensor, longest: int) -> Tensor:
    """(clips, longest) bool, True where a position lies inside its sequence."""
    return torch.arange(longest, device=lengths.device)[None] < lengths[:, None]


def join(parts: Sequence[Packed], minimum: int = 0, longest: int = 0) -> Padded:
    """Join the sequences of each clip along time, without gaps, and pad with zeros.

    Args:
        parts: one packed sequence per clip and part, all of one width.
        minimum: clips with fewer rows are filled up with zero rows that count as rows, valid ones
            if the clip has any.
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
    valid = _valid_of(parts)
    if valid is not None:
        valid = valid.new_zeros(clips * longest).index_copy(0, slots, valid).view(clips, longest)
        added = mask(lengths, longest) & ~mask(offsets[-1], longest)
        valid = valid | (added & valid.any(1, keepdim=True))
    return Padded(flat.view(clips, longest, -1), lengths, sizes, valid)


def _valid_of(parts: Sequence[Packed]) -> Tensor | None:
    """Validity of the rows of all parts, one part after the other; None where no part has any."""
    if all(part.valid is None for part in parts):
        return None
    return torch.cat([_said_valid(part) for part in parts])


def _said_valid(part: Packed) -> Tensor:
    if part.valid is not None:
        return part.valid
    return torch.ones(len(part.rows), dtype=torch.bool, device=part.rows.device)


def repeated(rows: Tensor, clips: int) -> Packed:
    """The same (rows, ...) for each of so many clips."""
    lengths = torch.full((clips,), len(rows), device=rows.device)
    return Packed(rows.repeat(clips, *[1] * (rows.ndim - 1)), lengths, (len(rows),) * clips)


def beside(parts: Sequence[Packed]) -> Packed:
    """Join the sequences of each clip along features, at the rows of the first part."""
    together = in_step(parts)
    rows = torch.cat([part.zeroed().rows for part in together], dim=1)
    valid = None
    if any(part.valid is not None for part in parts):
        valid = torch.stack([_said_valid(part) for part in together]).any(0)
    return replace(parts[0], rows=rows, valid=valid)


def weighed(parts: Sequence[Packed], scores: Sequence[Tensor]) -> Packed:
    """Add up the sequences of each clip, at the rows of the first part, by weights.

    Args:
        parts: all of one width and, see :func:`in_step`, of the same rows.
        scores: of each part (rows,): the weights of a row are their softmax over the parts that
            are valid there. Where none is, the row is zero and not valid.
    """
    score = torch.stack(list(scores))
    if all(part.valid is None for part in parts):
        weights, valid = score.softmax(0), None
    else:
        there = torch.stack([_said_valid(part) for part in parts])
        lowest = torch.finfo(score.dtype).min
        weights, valid = score.masked_fill(~there, lowest).softmax(0) * there, there.any(0)
    rows = (torch.stack([part.rows for part in parts]) * weights[..., None]).sum(0)
    return replace(parts[0], rows=rows, valid=valid)


def in_step(parts: Sequence[Packed]) -> list[Packed]:
    """The sequences of each clip, all resampled to the rows of the first part."""
    first, *others = parts
    return [first, *(_resampled(part, first) for part in others)]


def _resampled(part: Packed, to: Packed) -> Packed:
    """Each clip stretched linearly to its length in ``to``, edges held.

    Rows are points in the middle of equal shares of the clip; a clip without rows gives zeros.
    Where one of the two rows that a point lies between is not valid, it is the other one; where
    both are not, nor is the point.
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
    share = point - before
    if part.valid is None:
        stretched = torch.lerp(early, late, share.to(held.dtype)[:, None])
        return replace(to, rows=stretched, valid=rows > 0 if 0 in part.sizes else None)
    known = torch.cat([part.valid, part.valid.new_zeros(1)])
    weight_early, weight_late = (
        weight * known[torch.where(rows > 0, start + index, len(part.rows))]
        for weight, index in ((1 - share, before), (share, after))
    )
    total = weight_early + weight_late
    summed = early * weight_early[:, None] + late * weight_late[:, None]
    valid = total > 0
    stretched = (summed / total.masked_fill(~valid, 1)[:, None]).to(held.dtype)
    return replace(to, rows=stretched, valid=valid)


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
