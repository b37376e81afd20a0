"""How a score grows with what an experiment turns: two laws, and which lies nearer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Literal

LEAST = 3
"""Points below which a law of two numbers says nothing."""


@dataclass(frozen=True)
class Fit:
    """``y = a + b ln x``, or ``y = a x^b``; ``residual`` is the standard error of the points.

    It divides by the degrees of freedom (points less the two numbers fitted), so that three
    points do not look better than ten.
    """

    law: Literal["logarithm", "power"]
    a: float
    b: float
    residual: float
    points: int

    def __call__(self, x: float) -> float:
        return self.a + self.b * log(x) if self.law == "logarithm" else self.a * x**self.b

    @property
    def words(self) -> str:
        """The law in words of its field: what a doubling brings."""
        spread = f"residual standard error {self.residual:.2f}, {self.points} runs"
        if self.law == "logarithm":
            doubling = f"{self.b * log(2):+.1f}".replace("-", "−")
            return f"y = {self.a:.1f} + {self.b:.2f} ln x: {doubling} for each doubling; {spread}"
        return f"y = {self.a:.1f} x^{self.b:.3f}: times {2**self.b:.2f} for each doubling; {spread}"


def fitted(points: Sequence[tuple[float, float]]) -> Fit | None:
    """The law that leaves the smaller residual; None below :data:`LEAST` different places.

    A power law is fitted in logarithms, which takes scores above 0; both are judged by what they
    leave in points of the score.
    """
    if len({x for x, _ in points}) < LEAST or any(x <= 0 for x, _ in points):
        return None
    xs, ys = [log(x) for x, _ in points], [y for _, y in points]
    laws: list[tuple[Literal["logarithm", "power"], float, float]] = []
    laws.append(("logarithm", *_line(xs, ys)))
    if min(ys) > 0:
        start, slope = _line(xs, [log(y) for y in ys])
        laws.append(("power", exp(start), slope))
    return min((_judged(*law, points) for law in laws), key=lambda fit: fit.residual)


def _judged(
    law: Literal["logarithm", "power"], a: float, b: float, points: Sequence[tuple[float, float]]
) -> Fit:
    fit = Fit(law, a, b, 0.0, len(points))
    squares = sum((y - fit(x)) ** 2 for x, y in points)
    return Fit(law, a, b, sqrt(squares / (len(points) - 2)), len(points))


def _line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Start and slope of the line of least squares."""
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    slope = over / sum((x - x_mean) ** 2 for x in xs)
    return y_mean - slope * x_mean, slope
