"""Ragged sequences of rows, packed end to end or padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
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

    def mean(self) -> Tensor:
        """(clips, width) mean over the true rows."""
        total = (self.rows * self.mask[..., None]).sum(1)
        return total / self.lengths.clamp(min=1)[:, None]


def mask(lengths: Tensor, longest: int) -> Tensor:
    """(clips, longest) bool, True where a position lies inside its sequence."""
    return torch.arange(longest, device=lengths.device)[None] < lengths[:, None]


def join(parts: Sequence[Packed], minimum: int = 0) -> Padded:
    """Join the sequences of each clip along time, without gaps, and pad with zeros.

    Args:
        parts: one packed sequence per clip and part, all of one width.
        minimum: clips with fewer rows are filled up with zero rows that count as rows.
    """
    offsets = list(accumulate((part.lengths for part in parts), initial=parts[0].lengths * 0))
    lengths = offsets[-1].clamp(min=minimum)
    clips, longest = len(lengths), int(lengths.max())
    places = torch.cat([_places(part, start) for part, start in zip(parts, offsets, strict=False)])
    rows = torch.cat([part.rows for part in parts])
    # One flat slot per clip and position: a single scatter, however many clips and parts.
    clip = torch.cat([_owners(part) for part in parts])
    flat = rows.new_zeros(clips * longest, rows.shape[1])
    flat = flat.index_copy(0, clip * longest + places, rows)
    return Padded(flat.view(clips, longest, -1), lengths)


def _owners(part: Packed) -> Tensor:
    """(rows,) index of the clip that each row belongs to."""
    clips = torch.arange(len(part.lengths), device=part.lengths.device)
    return torch.repeat_interleave(clips, part.lengths, output_size=len(part.rows))


def _places(part: Packed, start: Tensor) -> Tensor:
    """(rows,) position of each row in its clip's joined sequence; ``start`` (clips,)."""
    first = part.lengths.cumsum(0) - part.lengths
    shift = torch.repeat_interleave(start - first, part.lengths, output_size=len(part.rows))
    return torch.arange(len(part.rows), device=part.lengths.device) + shift
