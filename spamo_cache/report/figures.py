"""Figures as inline SVG. Colours come from the page's style sheet, so dark mode needs no redraw.

Every figure is about as wide as a phone and carries its message in words (``aria-label``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from spamo_cache.report.markup import Markup, join, number, tag

Point = tuple[float, float]

WIDTH, HEIGHT = 340, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 14, 14, 28
MAX_POINTS = 240
"""Points drawn of a curve; more cannot be told apart."""


@dataclass(frozen=True)
class Series:
    """One curve; ``colour`` is the number of a colour of the style sheet."""

    name: str
    points: Sequence[Point]
    colour: int = 1


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low..high`` to pixels ``start..stop``."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(self.start + share * (self.stop - self.start), 1)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) that enclose ``low..high``."""
    # Ticks have ten decimals: what is nearer together is one value.
    span = next(size for size in (high - low, abs(high), 1.0) if size > 1e-9)
    raw = span / count
    power = 10.0 ** floor(log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if raw <= power * factor * 1.0001)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def thinned(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """At most ``most`` points: means of equal runs, so that noise is calmed and not aliased."""
    if len(points) <= most:
        return list(points)
    size = ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def curves(series: Sequence[Series], *, title: str, best: bool = False) -> Markup:
    """Lines over training steps.

    Args:
        series: empty ones are left out.
        title: what the values are; the first words of the spoken description.
        best: mark the highest point of every line, as for dev BLEU.
    """
    shown = [Series(s.name, thinned(s.points), s.colour) for s in series if s.points]
    if not shown:
        return tag("p", "Nothing was logged.", class_="empty")
    everything = [point for one in shown for point in one.points]
    steps, values = [x for x, _ in everything], [y for _, y in everything]
    # From 0 on, so that heights can be compared by eye.
    y_ticks = ticks(min(0.0, *values), max(values))
    x = Scale(min(steps), max(steps), _LEFT, WIDTH - _RIGHT)
    y = Scale(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    told = "; ".join(_spoken(one, best) for one in shown)
    return _svg(
        f"{title} over steps. {told}.",
        join(*(_grid_line(y(value), _short(value)) for value in y_ticks)),
        join(*_step_labels(x, min(steps), max(steps))),
        _label("step", _LEFT - 7, HEIGHT - 8, "end"),
        join(*(_curve(one, x, y) for one in shown)),
        join(*(_mark(one, x, y, best=best) for one in shown)),
    )


def intervals(rows: Sequence[tuple[str, float, tuple[float, float] | None]], title: str) -> Markup:
    """Values with their intervals, one row each, on a common scale from 0."""
    highest = max(max(value, *(bounds or (0.0,))) for _, value, bounds in rows)
    x_ticks = ticks(0, highest)
    height = 34 * len(rows) + 34
    x = Scale(0, x_ticks[-1], 64, WIDTH - 46)
    parts: list[Markup] = []
    for value in x_ticks:
        at = x(value)
        parts.append(tag("line", x1=at, x2=at, y1=6, y2=height - 26, class_="grid"))
        parts.append(_label(_short(value), at, height - 10, "middle"))
    for index, (name, value, bounds) in enumerate(rows):
        middle = 24 + 34 * index
        parts.append(_label(name, 54, middle + 4, "end", "name"))
        parts.append(tag("line", x1=x(0), x2=x(value), y1=middle, y2=middle, class_="stem"))
        if bounds is not None:
            low, high = x(bounds[0]), x(bounds[1])
            parts.append(tag("line", x1=low, x2=high, y1=middle, y2=middle, class_="whisker"))
        parts.append(tag("circle", cx=x(value), cy=middle, r=5, class_="dot c1"))
        edge = x(max(value, *(bounds or (0.0,))))
        parts.append(_label(number(value, 1), edge + 9, middle + 4, "start", "value"))
    told = "; ".join(_spoken_interval(*row) for row in rows)
    return _svg(f"{title}. {told}.", *parts, height=height)


def histogram(values: Sequence[float], *, title: str, bins: int = 20) -> Markup:
    """How values of 0 to 100 are spread."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int(value * bins / 100)))] += 1
    most = max(counts) or 1
    x = Scale(0, 100, 16, WIDTH - 16)
    y = Scale(0, most, HEIGHT - _BOTTOM, _TOP + 14)
    width = (WIDTH - 32) / bins
    bars = [
        tag(
            "rect",
            tag("title", f"{100 * i // bins} to {100 * (i + 1) // bins}: {count} clips"),
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
    ordered = sorted(values)
    median = ordered[len(ordered) // 2]
    at = x(median)
    place, anchor = _beside(at)
    return _svg(
        f"{title}: {len(values)} clips, median {number(median, 1)}.",
        tag("line", x1=16, x2=WIDTH - 16, y1=y(0), y2=y(0), class_="axis"),
        *bars,
        tag("line", x1=at, x2=at, y1=_TOP - 8, y2=y(0), class_="median"),
        _label(f"median {number(median, 0)}", place, _TOP, anchor),
        *(_label(str(value), x(value), HEIGHT - 8, "middle") for value in (0, 25, 50, 75, 100)),
    )


def shares(parts: Mapping[str, float], told: Mapping[str, str], *, title: str) -> Markup:
    """Horizontal bars with their own words, such as seconds per stage."""
    most = max(parts.values()) or 1
    height = 42 * len(parts) + 6
    drawn: list[Markup] = []
    for index, (name, value) in enumerate(parts.items()):
        top = 42 * index
        wide = max(2.0, round((WIDTH - 8) * value / most, 1))
        drawn.append(_label(name, 2, top + 15, "start", "name"))
        drawn.append(_label(told[name], WIDTH - 4, top + 15, "end", "value"))
        drawn.append(tag("rect", x=2, y=top + 22, width=WIDTH - 6, height=9, rx=4.5, class_="rail"))
        drawn.append(tag("rect", x=2, y=top + 22, width=wide, height=9, rx=4.5, class_="bar c1"))
    spoken = "; ".join(f"{name} {told[name]}" for name in parts)
    return _svg(f"{title}: {spoken}.", *drawn, height=height)


def _svg(label: str, *children: Markup, height: float = HEIGHT) -> Markup:
    box = f"0 0 {WIDTH} {height:g}"
    return tag("svg", *children, viewBox=box, role="img", aria_label=label, class_="figure")


def _label(words: str, x: float, y: float, anchor: str = "start", kind: str = "tick") -> Markup:
    return tag("text", words, x=x, y=y, text_anchor=anchor, class_=kind)


def _beside(at: float) -> tuple[float, str]:
    """Where a label stands beside a vertical line without leaving the figure."""
    return (at + 6, "start") if at < WIDTH * 0.7 else (at - 6, "end")


def _grid_line(y: float, words: str) -> Markup:
    line = tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid")
    return join(line, _label(words, _LEFT - 7, y + 4, "end"))


def _step_labels(x: Scale, low: float, high: float) -> list[Markup]:
    places = [value for value in ticks(low, high, 3) if low <= value <= high]
    # The first place belongs to the word "step".
    return [
        _label(_short(value), x(value), HEIGHT - 8, "middle")
        for value in places
        if x(value) > _LEFT
    ]


def _curve(series: Series, x: Scale, y: Scale) -> Markup:
    if len(series.points) == 1:
        return Markup("")
    path = " ".join(f"{x(step)},{y(value)}" for step, value in series.points)
    return tag("polyline", points=path, class_=f"line c{series.colour}")


def _mark(series: Series, x: Scale, y: Scale, *, best: bool) -> Markup:
    step, value = _told_point(series, best)
    place, anchor = _beside(x(step)) if best else (x(step) - 6, "end")
    shown = _label(
        number(value, 1 if abs(value) >= 10 else 2), place, y(value) - 8, anchor, "value"
    )
    dot = tag(
        "circle",
        tag("title", f"{series.name}: {number(value)} at step {step:,.0f}"),
        cx=x(step),
        cy=y(value),
        r=4,
        class_=f"dot c{series.colour}",
    )
    return join(dot, shown)


def _told_point(series: Series, best: bool) -> Point:
    return max(series.points, key=lambda point: point[1]) if best else series.points[-1]


def _spoken(series: Series, best: bool) -> str:
    first = series.points[0]
    step, value = _told_point(series, best)
    end = f"best {number(value)} at step {step:,.0f}" if best else f"to {number(value)}"
    return f"{series.name}: from {number(first[1])} {end}"


def _spoken_interval(name: str, value: float, bounds: tuple[float, float] | None) -> str:
    if bounds is None:
        return f"{name} {number(value, 1)}"
    return f"{name} {number(value, 1)}, 95 percent {number(bounds[0], 1)} to {number(bounds[1], 1)}"


def _short(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:g}"
