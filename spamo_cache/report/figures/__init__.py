"""Figures as inline SVG. Colours come from the page's style sheet, so dark mode needs no redraw."""

from spamo_cache.report.figures.curves import (
    MAX_POINTS,
    Measured,
    Point,
    Series,
    against,
    curves,
    thinned,
)
from spamo_cache.report.figures.filmstrip import filmstrip
from spamo_cache.report.figures.rows import Row, balance, histogram, intervals, ranges, shares
from spamo_cache.report.figures.svg import Scale, ticks

__all__ = [
    "MAX_POINTS",
    "Measured",
    "Point",
    "Row",
    "Scale",
    "Series",
    "against",
    "balance",
    "curves",
    "filmstrip",
    "histogram",
    "intervals",
    "ranges",
    "shares",
    "thinned",
    "ticks",
]
