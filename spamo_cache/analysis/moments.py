"""What rows of features stand for in their clip: frames, as far as the stores know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spamo_cache.store.inspect import trace
from spamo_cache.store.reader import FeatureStore
from spamo_cache.train.features import Features

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Moments:
    """What the rows of a clip stand for.

    Attributes:
        unit: ``frame``, or ``row`` of the longest stream where a store does not know the frames.
        length: moments of the clip.
        spans: stream -> (rows, 2) first and last moment of each row, both included.
    """

    unit: str
    length: int
    spans: Mapping[str, Ints]


def spread(rows: Floats, span: Ints, length: int) -> Floats:
    """(..., rows) -> (..., length): what a row has lies evenly over its moments."""
    curve = np.zeros((*rows.shape[:-1], length))
    for row, (first, last) in enumerate(span):
        curve[..., first : last + 1] += rows[..., row, None] / (last - first + 1)
    return curve


def moments(stores: Mapping[str, Features], clip: str, places: Mapping[str, Ints]) -> Moments:
    """What rows of a clip stand for.

    Args:
        places: stream -> numbers of the rows.
    """
    traced = {name: _frames(stores[name], clip, numbers) for name, numbers in places.items()}
    known = {name: found for name, found in traced.items() if found is not None}
    if len(known) == len(places):
        length = next(iter(known.values()))[1]
        return Moments("frame", length, {name: span for name, (span, _) in known.items()})
    length = max(map(len, places.values()))
    return Moments("row", length, {name: _shares(len(n), length) for name, n in places.items()})


def _frames(store: Features, clip: str, numbers: Ints) -> tuple[Ints, int] | None:
    """First and last frame of rows, counted from the clip's first; and the clip's frames."""
    if not isinstance(store, FeatureStore):
        return None
    traces = [trace(store, clip, int(number)) for number in numbers]
    ends = [(one.first, one.last) for one in traces if one.first is not None]
    if len(ends) < len(traces):
        return None
    span = np.array(ends, dtype=np.int64) - store.slot(clip).first
    return _filled(span, traces[0].frames), traces[0].frames


def _filled(span: Ints, length: int) -> Ints:
    """Rows taken of a part of the frames stand for those around them too, up to half way."""
    if len(span) < 2:
        return span
    free = (span[1:, 0] - span[:-1, 1] - 1).clip(min=0)
    ahead, behind = np.append(free, free[-1]) // 2, -(-np.append(free[0], free) // 2)
    filled = np.stack([span[:, 0] - behind, span[:, 1] + ahead], axis=1)
    return filled.clip(0, length - 1)


def _shares(rows: int, length: int) -> Ints:
    """(rows, 2) first and last moment of ``rows`` equal shares of ``length`` moments."""
    bounds = np.linspace(0, length, rows + 1)
    return np.stack([np.floor(bounds[:-1]), np.ceil(bounds[1:]) - 1], axis=1).astype(np.int64)
