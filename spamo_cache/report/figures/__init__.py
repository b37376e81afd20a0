"""Figures as inline SVG. Colours come from the page's style sheet, so dark mode needs no redraw."""

from spamo_cache.report.figures.axes import Scale, ticks
from spamo_cache.report.figures.curves import (
    MAX_POINTS,
    Measured,
    Point,
    Series,
    against,
    curves,
    thinned,
)
from spamo_cache.report.figures.rows import Row, balance, histogram, intervals, ranges, shares
from spamo_cache.report.figures.strips import strip

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
    "histogram",
    "intervals",
    "ranges",
    "shares",
    "strip",
    "thinned",
    "ticks",
]
