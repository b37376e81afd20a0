"""Rows of values on a common scale: intervals, shifts, shares; and how values are spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from spamo_cache import human
from spamo_cache.report.figures.svg import (
    BOTTOM,
    BROAD,
    HEIGHT,
    TOP,
    WIDTH,
    Scale,
    beside,
    clipped,
    figure_class,
    join,
    label,
    svg,
    tag,
    text_width,
    ticks,
    uprights,
)
from spamo_cache.report.formats import number, signed

Bounds = tuple[float, float] | None
_STEP = 40
_NAMES, _VALUES = 300, 74
"""Room at the sides of a broad figure: for names at most, and for values."""


@dataclass(frozen=True)
class Row:
    """A value with its interval, its seeds, and the values it is to be seen beside."""

    name: str
    value: float
    bounds: Bounds = None
    seeds: tuple[float, ...] = ()
    before: float | None = None
    chance: float | None = None


def intervals(rows: Sequence[tuple[str, float, Bounds]], title: str) -> Markup:
    """Values with their intervals, a short name before each, on a common scale from 0."""
    highest = max(max(value, *(bounds or (0.0,))) for _, value, bounds in rows)
    places = ticks(0, highest)
    height = 34 * len(rows) + 34
    x = Scale(0, places[-1], 74, WIDTH - 46)
    parts = [uprights(x, height - 26, places)]
    for index, (name, value, bounds) in enumerate(rows):
        middle = 24 + 34 * index
        parts.append(label(name, 64, middle + 4, "end", "name"))
        parts.append(tag("line", x1=x(0), x2=x(value), y1=middle, y2=middle, class_="stem"))
        parts += _whisker(x, bounds, middle)
        parts.append(tag("circle", cx=x(value), cy=middle, r=5, class_="dot c1"))
        edge = x(max(value, *(bounds or (0.0,))))
        parts.append(label(number(value, 1), edge + 9, middle + 4, "start", "value"))
    spoken = "; ".join(_spoken(Row(*row), 1) for row in rows)
    return svg(f"{title}. {spoken}.", *parts, height=height)


def ranges(
    rows: Sequence[Row],
    title: str,
    *,
    beside: tuple[str, float] | None = None,
    digits: int = 1,
    top: float | None = None,
    broad: bool = False,
) -> Markup:
    """Values under their names, on a common scale.

    A filled dot is the value, a hollow one what it was before, an upright stroke chance.

    Args:
        beside: name and value of what all are compared with: a dashed line.
        top: end of the scale where values have one, such as 1 for shares.
        broad: draw them for a wide screen as well, names and values at the sides.
    """
    values = [v for row in rows for v in _all(row)]
    places = ticks(min(0.0, *values), max(*values, top or 0.0, 1e-9))
    spoken = "; ".join(_spoken(row, digits) for row in rows)
    against = f" Dashed line: {beside[0]}." if beside else ""
    drawn = []
    names = [row.name for row in rows]
    for table in (_Slim(names, places), *((_Broad(names, places),) if broad else ())):
        x, bottom = table.x, table.bottom
        parts = [uprights(x, bottom, places)]
        if beside is not None:
            at = x(beside[1])
            parts.append(tag("line", x1=at, x2=at, y1=2, y2=bottom, class_="median"))
        for index, row in enumerate(rows):
            parts += table.row(index, number(row.value, digits))
            parts += _row(row, x, table.middle(index), digits)
        drawn.append(table.svg(f"{title}. {spoken}.{against}", parts))
    return join(*drawn)


class _Slim:
    """Rows for a phone: name and value, below them what is drawn."""

    width, step = WIDTH, _STEP

    def __init__(self, names: Sequence[str], places: Sequence[float]) -> None:
        self.names = names
        self.bottom = self.step * len(names) + 8
        self.x = Scale(places[0], places[-1], 14, WIDTH - 14)

    def middle(self, index: int) -> float:
        """The height at which a row is drawn."""
        return self.step * index + 29

    def row(self, index: int, value: str) -> list[Markup]:
        """Name, value and the line that a row is drawn on."""
        y = self.step * index + 14
        name = clipped(self.names[index], WIDTH - 28 - text_width(value))
        return [
            label(name, 8, y, "start", "name"),
            label(value, WIDTH - 8, y, "end", "value"),
            self._stem(index, 8, WIDTH - 8),
        ]

    def _stem(self, index: int, start: float, stop: float) -> Markup:
        y = self.middle(index)
        return tag("line", x1=start, x2=stop, y1=y, y2=y, class_="stem")

    def svg(self, spoken: str, parts: Sequence[Markup]) -> Markup:
        kind, height = figure_class(self.width), self.bottom + 22
        return svg(spoken, *parts, width=self.width, height=height, class_=kind)


class _Broad(_Slim):
    """Rows for a wide screen: name, what is drawn and value side by side."""

    width, step = BROAD, 30

    def __init__(self, names: Sequence[str], places: Sequence[float]) -> None:
        super().__init__(names, places)
        self.left = min(_NAMES, max(map(text_width, names)))
        self.x = Scale(places[0], places[-1], self.left + 18, BROAD - _VALUES)

    def middle(self, index: int) -> float:
        return self.step * index + 19

    def row(self, index: int, value: str) -> list[Markup]:
        y = self.middle(index) + 4
        return [
            label(clipped(self.names[index], _NAMES), self.left, y, "end", "name"),
            label(value, BROAD - 8, y, "end", "value"),
            self._stem(index, self.left + 12, BROAD - _VALUES + 6),
        ]


def _row(row: Row, x: Scale, middle: float, digits: int) -> list[Markup]:
    parts = _whisker(x, row.bounds, middle)
    if row.chance is not None:
        at = x(row.chance)
        parts.append(tag("line", x1=at, x2=at, y1=middle - 8, y2=middle + 8, class_="chance"))
    if row.before is not None:
        start, stop = x(row.before), x(row.value)
        parts.append(tag("line", x1=start, x2=stop, y1=middle, y2=middle, class_="line c1"))
        parts.append(tag("circle", cx=start, cy=middle, r=4.5, class_="hollow"))
    parts += [tag("circle", cx=x(seed), cy=middle, r=2.2, class_="seed") for seed in row.seeds]
    title = tag("title", _spoken(row, digits))
    return [*parts, tag("circle", title, cx=x(row.value), cy=middle, r=5, class_="dot c1")]


def _whisker(x: Scale, bounds: Bounds, y: float) -> list[Markup]:
    if bounds is None:
        return []
    return [tag("line", x1=x(bounds[0]), x2=x(bounds[1]), y1=y, y2=y, class_="whisker")]


def balance(rows: Sequence[tuple[str, float, float | None]], title: str) -> Markup:
    """Contributions with their signs and errors, as bars to both sides of 0."""
    reach = [v for _, value, error in rows for v in (value - (error or 0), value + (error or 0))]
    places = ticks(min(0.0, *reach), max(0.0, *reach, 1e-9))
    spoken = "; ".join(
        f"{name} {signed(value)}" + (f" plus or minus {number(error, 1)}" if error else "")
        for name, value, error in rows
    )
    drawn = []
    names = [name for name, _, _ in rows]
    for table in (_Slim(names, places), _Broad(names, places)):
        x = table.x
        parts = [uprights(x, table.bottom, places)]
        for index, (_, value, error) in enumerate(rows):
            start, wide = min(x(0), x(value)), round(abs(x(value) - x(0)), 1)
            kind = "bar c1" if value >= 0 else "bar c2"
            y = table.middle(index)
            parts += table.row(index, signed(value))
            parts.append(tag("rect", x=start, y=y - 6.5, width=wide, height=13, rx=2, class_=kind))
            if error:
                low, high = x(value - error), x(value + error)
                parts.append(tag("line", x1=low, x2=high, y1=y, y2=y, class_="error"))
        drawn.append(table.svg(f"{title}. {spoken}.", parts))
    return join(*drawn)


def histogram(values: Sequence[float], *, title: str, bins: int = 20) -> Markup:
    """How values of 0 to 100 are spread."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int(value * bins / 100)))] += 1
    most = max(counts) or 1
    x = Scale(0, 100, 16, WIDTH - 16)
    y = Scale(0, most, HEIGHT - BOTTOM, TOP + 14)
    width = (WIDTH - 32) / bins
    bars = [
        tag(
            "rect",
            tag(
                "title",
                f"{100 * i // bins} to {100 * (i + 1) // bins}: {human.count(count, 'clip')}",
            ),
            x=round(16 + i * width + 1, 1),
            y=y(count),
            width=round(width - 2, 1),
            height=round(y(0) - y(count), 1),
            rx=2,
            class_="bar c1",
        )
        for i, count in enumerate(counts)
        if count
    ]
    median = sorted(values)[len(values) // 2]
    at = x(median)
    place, anchor = beside(at)
    return svg(
        f"{title}: {human.count(len(values), 'clip')}, median {number(median, 1)}.",
        tag("line", x1=16, x2=WIDTH - 16, y1=y(0), y2=y(0), class_="axis"),
        *bars,
        tag("line", x1=at, x2=at, y1=TOP - 8, y2=y(0), class_="median"),
        label(f"median {number(median, 0)}", place, TOP, anchor),
        *(label(str(value), x(value), HEIGHT - 8, "middle") for value in (0, 25, 50, 75, 100)),
    )


def shares(values: Mapping[str, float], labels: Mapping[str, str], *, title: str) -> Markup:
    """Horizontal bars with their own words, such as seconds per stage."""
    most = max(values.values()) or 1
    height = 42 * len(values) + 6
    drawn: list[Markup] = []
    for index, (name, value) in enumerate(values.items()):
        top = 42 * index
        wide = max(2.0, round((WIDTH - 8) * value / most, 1))
        drawn.append(label(name, 2, top + 15, "start", "name"))
        drawn.append(label(labels[name], WIDTH - 4, top + 15, "end", "value"))
        drawn.append(tag("rect", x=2, y=top + 22, width=WIDTH - 6, height=9, rx=4.5, class_="rail"))
        drawn.append(tag("rect", x=2, y=top + 22, width=wide, height=9, rx=4.5, class_="bar c1"))
    spoken = "; ".join(f"{name} {labels[name]}" for name in values)
    return svg(f"{title}: {spoken}.", *drawn, height=height)


def _all(row: Row) -> list[float]:
    optional = (row.before, row.chance)
    known = [value for value in optional if value is not None]
    return [row.value, *(row.bounds or ()), *row.seeds, *known]


def _spoken(row: Row, digits: int) -> str:
    words = f"{row.name} {number(row.value, digits)}"
    if row.bounds is not None:
        low, high = (number(bound, digits) for bound in row.bounds)
        # With seeds the bounds are the spread of the seeds, not an interval of one.
        words += f", {'spread' if row.seeds else '95 percent'} {low} to {high}"
    if row.before is not None:
        words += f", before {number(row.before, digits)}"
    if row.chance is not None:
        words += f", by chance {number(row.chance, digits)}"
    return words
