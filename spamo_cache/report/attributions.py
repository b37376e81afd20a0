"""Attributions over time as a report sees them: ``<run>/analysis/attribution/*.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from spamo_cache.errors import DamagedError, SpamoError
from spamo_cache.report.documents import read_object

MOST = 8
"""Clips drawn; a page has to be carried."""
MOST_SHOTS = 16

Curve = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """How far each moment of a clip made its translation likelier, in nats; signed."""

    clip: str
    reference: str
    hypothesis: str
    method: str
    length: int
    shares: Mapping[str, float]
    """Stream -> its part of all absolute attribution."""
    curves: Mapping[str, Curve]
    """Stream -> nats of each moment."""
    words: tuple[tuple[str, Curve], ...]
    shots: tuple[tuple[int, bytes], ...]
    """Moments and their pictures (JPEG)."""
    without: str
    """Why there are no pictures."""
    error: float | None
    """How far the sum misses what was to be divided, as a share of it."""


def read_attributions(run: Path) -> tuple[Attribution, ...]:
    """The first :data:`MOST` attributions of a run.

    Raises:
        SpamoError: one of them is damaged.
    """
    folder = run / "analysis" / "attribution"
    found = sorted(folder.glob("*.json"))[:MOST] if folder.is_dir() else []
    return tuple(_attribution(path) for path in found)


def _attribution(path: Path) -> Attribution:
    document = read_object(path)
    try:
        length = int(document["length"])
        streams = document["streams"]
        return Attribution(
            clip=str(document["clip"]),
            reference=str(document["reference"]),
            hypothesis=str(document["hypothesis"]),
            method=str(document.get("method", "attribution")),
            length=length,
            shares={name: float(one["share"]) for name, one in streams.items()},
            curves={name: _curve(one["curve"], length) for name, one in streams.items()},
            words=tuple(
                (str(one["word"]), _curve(one["curve"], length))
                for one in document.get("words", ())
            ),
            shots=tuple(_shots(path.parent, document.get("shots", ()))),
            without=str(document.get("without") or ""),
            error=document.get("nats", {}).get("error"),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpamoError(
            f"is no attribution: {error!r}", where=path, remedy="analyze the clip again"
        ) from None


def _curve(values: Sequence[Any], length: int) -> Curve:
    curve = tuple(float(value) for value in values)
    if len(curve) != length or not length or not all(map(isfinite, curve)):
        raise ValueError(f"a curve of {len(curve)} values over {length} moments")
    return curve


def _shots(folder: Path, listed: Sequence[Mapping[str, Any]]) -> list[tuple[int, bytes]]:
    step = max(1, -(-len(listed) // MOST_SHOTS))
    # A name is taken as a name: a file elsewhere is none of the page's business.
    found = []
    for one in listed[::step]:
        place = folder / Path(str(one["file"])).name
        if place.is_file():
            jpeg = place.read_bytes()
            if hashlib.sha256(jpeg).hexdigest() != one["sha256"]:
                raise DamagedError(
                    "is not the picture that was kept", where=place, remedy="analyze the clip again"
                )
            found.append((int(one["at"]), jpeg))
    return found
