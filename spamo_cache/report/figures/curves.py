"""Values over training steps, and scores against what an experiment turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil

from markupsafe import Markup

from spamo_cache.report.figures.svg import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Scale,
    beside,
    grid,
    heights,
    join,
    label,
    short,
    svg,
    tag,
    ticks,
)
from spamo_cache.report.formats import number

Point = tuple[float, float]
MAX_POINTS = 240
"""Points drawn of a curve; more cannot be distinguished."""
_MAX_PLACES = 8


@dataclass(frozen=True)
class Series:
    """One curve; ``colour`` is the number of a colour of the style sheet."""

    name: str
    points: Sequence[Point]
    colour: int = 1


@dataclass(frozen=True)
class Measured:
    """A score at a place of an axis, with its interval or the range of its seeds."""

    name: str
    at: float
    value: float
    bounds: tuple[float, float] | None = None


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
    steps = [x for x, _ in everything]
    x = Scale(0, max(steps), LEFT, WIDTH - RIGHT)
    y = heights([y for _, y in everything])
    spoken = "; ".join(_spoken(one, best) for one in shown)
    return svg(
        f"{title} over steps. {spoken}.",
        grid(y),
        join(*_step_labels(x, max(steps))),
        label("step", LEFT - 7, HEIGHT - 8, "end"),
        join(*(_curve(one, x, y) for one in shown)),
        # Values of many lines would cover one another; the table has them.
        join(*(_mark(one, x, y, best=best, worded=len(shown) <= 3) for one in shown)),
    )


def against(
    groups: Sequence[Sequence[Measured]],
    *,
    title: str,
    axis: str,
    log: bool,
    fit: Callable[[float], float] | None = None,
) -> Markup:
    """Scores with error bars along an axis, a colour for each group, and a fit's dashed line.

    Groups stand a little beside each other, so that no bar hides another.
    """
    everything = [one for group in groups for one in group]
    places = sorted({one.at for one in everything})
    log = log and places[0] > 0
    edge = 12
    x = Scale(places[0], places[-1], LEFT + edge, WIDTH - RIGHT - edge, log)
    y = heights([v for one in everything for v in (one.value, *(one.bounds or ()))])
    spoken = "; ".join(_spoken_at(one) for one in everything)
    drawn = (
        _group(sorted(group, key=lambda one: one.at), _moved(x, n), y, n + 1, joined=fit is None)
        for n, group in enumerate(groups)
    )
    return svg(
        f"{title} against {axis}{' (logarithmic)' if log else ''}. {spoken}.",
        grid(y),
        join(*_place_labels(x, places)),
        label(axis, (LEFT + WIDTH - RIGHT) / 2, HEIGHT + 12, "middle", "axis-name"),
        _fitted(fit, x, y) if fit is not None else Markup(""),
        *drawn,
        height=HEIGHT + 18,
    )


def _moved(x: Scale, place: int) -> Scale:
    aside = 7 * place
    return replace(x, start=x.start + aside, stop=x.stop + aside)


def _group(group: Sequence[Measured], x: Scale, y: Scale, colour: int, *, joined: bool) -> Markup:
    bars = (_error_bar(one, x, y, colour) for one in group)
    dots = (
        tag(
            "circle",
            tag("title", f"{one.name}: {number(one.value)}"),
            cx=x(one.at),
            cy=y(one.value),
            r=4.5,
            class_=f"dot c{colour}",
        )
        for one in group
    )
    line = _curve(Series("", [(one.at, one.value) for one in group], colour), x, y)
    few = group if len(group) <= _MAX_PLACES and colour == 1 else ()
    values = (
        label(
            number(one.value, 1),
            x(one.at),
            max(10.0, y(max(one.value, *(one.bounds or (one.value,)))) - 8),
            "middle",
            "value",
        )
        for one in few
    )
    return join(line if joined else None, *bars, *dots, *values)


def _error_bar(one: Measured, x: Scale, y: Scale, colour: int) -> Markup | None:
    if one.bounds is None:
        return None
    at, low, high = x(one.at), y(one.bounds[0]), y(one.bounds[1])
    path = f"M{at - 4},{low}h8M{at},{low}V{high}M{at - 4},{high}h8"
    return tag("path", d=path, class_=f"error line c{colour}")


def _fitted(fit: Callable[[float], float], x: Scale, y: Scale) -> Markup:
    ratio = x.high / x.low if x.log else 1.0
    at = [
        x.low * ratio ** (i / 40) if x.log else x.low + (x.high - x.low) * i / 40 for i in range(41)
    ]
    points = " ".join(f"{x(place)},{y(max(y.low, fit(place)))}" for place in at)
    return tag("polyline", points=points, class_="line fit")


def _place_labels(x: Scale, places: Sequence[float]) -> list[Markup]:
    """The places measured, as far as they do not crowd."""
    labels, last = [], -100.0
    for place in places:
        if x(place) - last >= 24:
            last = x(place)
            labels.append(label(_fraction(place), last, HEIGHT - 8, "middle"))
    return labels


def _fraction(value: float) -> str:
    inverse = 1 / value if 0 < value < 1 else 0.5
    whole = inverse > 1.5 and abs(inverse - round(inverse)) < 1e-6
    return f"1/{inverse:.0f}" if whole else short(value)


def _step_labels(x: Scale, last: float) -> list[Markup]:
    places = [value for value in ticks(0, last, 3) if value <= last]
    # The first place belongs to the word "step".
    return [label(short(v), x(v), HEIGHT - 8, "middle") for v in places if x(v) > LEFT + 4]


def _curve(series: Series, x: Scale, y: Scale) -> Markup:
    if len(series.points) == 1:
        return Markup("")
    path = " ".join(f"{x(step)},{y(value)}" for step, value in series.points)
    return tag("polyline", points=path, class_=f"line c{series.colour}")


def _mark(series: Series, x: Scale, y: Scale, *, best: bool, worded: bool) -> Markup:
    step, value = _marked_point(series, best)
    place, anchor = beside(x(step)) if best else (x(step) - 6, "end")
    words = number(value, 1 if abs(value) >= 10 else 2)
    dot = tag(
        "circle",
        tag("title", f"{series.name}: {number(value)} at step {step:,.0f}"),
        cx=x(step),
        cy=y(value),
        r=4,
        class_=f"dot c{series.colour}",
    )
    return join(dot, label(words, place, y(value) - 8, anchor, "value") if worded else None)


def _marked_point(series: Series, best: bool) -> Point:
    return max(series.points, key=lambda point: point[1]) if best else series.points[-1]


def _spoken(series: Series, best: bool) -> str:
    first = series.points[0]
    step, value = _marked_point(series, best)
    end = f"best {number(value)} at step {step:,.0f}" if best else f"to {number(value)}"
    return f"{series.name}: from {number(first[1])} {end}"


def _spoken_at(one: Measured) -> str:
    bounds = f", {number(one.bounds[0], 1)} to {number(one.bounds[1], 1)}" if one.bounds else ""
    return f"{one.name} at {_fraction(one.at)}: {number(one.value, 1)}{bounds}"
