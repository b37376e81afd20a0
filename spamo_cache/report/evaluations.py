"""Scorecards as a report sees them, with the lines behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from spamo_cache.evaluate.answers import read_table
from spamo_cache.evaluate.scorecard import Scorecard, read_card


@dataclass(frozen=True, kw_only=True)
class Line:
    """One clip's translation beside its reference, in the corpus's convention."""

    id: str
    hypothesis: str
    reference: str
    failed: str | None = None
    """Why there were no features; its hypothesis is empty then."""
    chrf: float = 0.0
    """Of this sentence alone, in points of 100."""
    seen: bool = False
    """The reference is a training sentence too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Scorecard):
    """A scorecard and its lines."""

    lines: tuple[Line, ...]

    @property
    def rouge(self) -> str:
        """The ROUGE-L to quote: a key of ``metrics``."""
        return str(self.headline["rouge"])


def read_evaluations(run: Path) -> tuple[Evaluation, ...]:
    """All scorecards of a run, by name.

    Raises:
        SpamoError: one of them is damaged.
    """
    return tuple(map(_evaluation, sorted((run / "evaluation").glob("*.json"))))


def _evaluation(path: Path) -> Evaluation:
    card = read_card(path)
    known = {field.name: getattr(card, field.name) for field in fields(card)}
    lines = read_table(path.parent.parent, path.stem)
    return Evaluation(**known, lines=tuple(map(_line, lines)))


def _line(line: Mapping[str, Any]) -> Line:
    return Line(**{field.name: line[field.name] for field in fields(Line)})
