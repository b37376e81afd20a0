"""``shapley.json`` of a corpus's experiments: what each part of the method contributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from spamo_cache.runs.documents import read_document

DOCUMENT = "shapley.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoalitionWorth:
    """What some of the players reach together.

    Attributes:
        value: in points of the metric; ``error`` is half an interval, or a standard deviation.
        run: experiment and variant that stand for it.
        note: what to know of that.
    """

    players: Sequence[str]
    value: float
    error: float | None
    run: str | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contributions:
    """Shapley values of the parts of the method.

    Attributes:
        metric: of the scorecards.
        seeds: those of which all runs are there.
        values: by player, in points of the metric.
        errors: by player; None where an interval is not known.
        spread: what errors are, in words.
        floor: worth of nobody.
        total: worth of all players together.
    """

    metric: str
    seeds: Sequence[int]
    players: Sequence[str]
    values: Mapping[str, float]
    errors: Mapping[str, float | None]
    spread: str
    floor: float
    total: float
    coalitions: Sequence[CoalitionWorth]


_CONTRIBUTIONS = TypeAdapter(Contributions)


def read_contributions(path: Path) -> Contributions:
    """The document in a ``shapley.json``.

    Raises:
        SpamoError: it is missing, or something else.
        DamagedError: it is not what was written.
    """
    remedy = "analyze the experiments again"
    return read_document(path, _CONTRIBUTIONS, "holds no Shapley values", remedy)
