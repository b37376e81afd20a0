"""Which frames of which source a row of features stands for; told by the store alone."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

import numpy as np

from spamo_cache.errors import DamagedError, UsageError
from spamo_cache.store.layout import first_start
from spamo_cache.store.reader import FeatureStore

_NEAR = 5000
"""Neighbours in the order of ids among which a misspelt one is looked for."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Where one row comes from.

    Attributes:
        source: POSIX path relative to the corpus root.
        size: bytes of the source when it was extracted.
        start, end: the clip's range in seconds; None is the source's own beginning or end.
        frames: of the clip; 0 where the store does not know.
        first, last: the row's first and last frame, numbered from 0 within the source in order of
            presentation, both included; None where the store does not know (imports).
        repeated: how many of the row's window are the last frame once more, for want of others.
    """

    clip: str
    row: int
    rows: int
    source: str
    size: int
    start: float | None
    end: float | None
    frames: int
    first: int | None = None
    last: int | None = None
    repeated: int = 0


def trace(store: FeatureStore, clip: str, row: int) -> Trace:
    """The source and the frames of one row.

    Args:
        row: number of the row within the clip, from 0.

    Raises:
        UsageError: the store has no such clip, or the clip no such row.
        StoreError: a clip without features.
        DamagedError: a plan that cannot be.
    """
    if clip not in store:
        hint = f"nearest is {_nearest(store, clip)!r}"
        raise UsageError(f"no clip {clip!r} in this store", where=store.path, remedy=hint)
    rows = int(store.lengths([clip])[0])
    if not 0 <= row < rows:
        what = f"clip {clip!r} has no row {row}"
        raise UsageError(what, where=store.path, remedy=f"choose one of 0 to {rows - 1}")
    slot, key = store.slot(clip), store.clip_key(clip)
    found = Trace(clip, row, rows, key.source, key.size, key.start, key.end, slot.frames)
    spec = store.attributes["spec"]
    span, stride, phase = spec.get("window") or 1, spec.get("stride"), spec.get("phase", 0)
    if not (slot.frames and all(isinstance(part, int) for part in (span, stride, phase))):
        return found
    begin = first_start(slot.frames, span, phase) + row * stride
    end = min(begin + span, slot.frames)
    if not 0 <= begin < end:
        raise DamagedError(f"clip {clip!r} has no frames under row {row}", where=store.path)
    first, last = slot.first + begin, slot.first + end - 1
    return replace(found, first=first, last=last, repeated=begin + span - end)


def _nearest(store: FeatureStore, clip: str) -> str:
    ids = store.ids
    at = int(np.searchsorted(ids.raw, clip.encode("utf-8", "surrogatepass")))
    near = ids[max(0, at - _NEAR) : at + _NEAR]
    return difflib.get_close_matches(clip, near, n=1, cutoff=0.0)[0]
