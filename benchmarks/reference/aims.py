"""Figures beside what they have to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure and what it has to be: at least ``least``, at most ``most``, or whatever it is."""

    what: str
    found: float
    least: float | None = None
    most: float | None = None

    @property
    def reached(self) -> bool:
        low = self.least is None or self.found >= self.least
        return low and (self.most is None or self.found <= self.most)

    def __str__(self) -> str:
        if self.least is None and self.most is None:
            return f"{self.what:<58} {self.found:8.2f}"
        bound = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        verdict = "reached" if self.reached else "MISSED"
        return f"{self.what:<58} {self.found:8.2f}   {bound:<15} {verdict}"


def conclude(aims: Sequence[Aim]) -> int:
    """Print aims; the exit code: 1 where one was missed."""
    print("\n" + "\n".join(map(str, aims)))
    return 0 if all(aim.reached for aim in aims) else 1
