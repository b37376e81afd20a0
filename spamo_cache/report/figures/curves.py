"""Values over training steps, and scores against what an experiment turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil

from markupsafe import Markup

from spamo_cache.report.figures.svg import (
    BROAD,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Box,
    Scale,
    Spot,
    beside,
    figure_class,
    grid,
    heights,
    join,
    label,
    labels,
    short,
    svg,
    tag,
    ticks,
)
from spamo_cache.report.formats import number

Point = tuple[float, float]
MAX_POINTS = 240
"""Points drawn of a curve; more cannot be distinguished."""


@dataclass(frozen=True)
class Series:
    """One curve; ``colour`` is the number of a colour of the style sheet."""

    name: str
    points: Sequence[Point]
    colour: int = 1
    dashed: bool = False


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
    shown = [replace(one, points=thinned(one.points)) for one in series if one.points]
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
        *(_curve(one, x, y) for one in shown),
        *(_mark(one, x, y, best) for one in shown),
        *labels(_mark_label(one, x, y, best) for one in shown),
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

    Groups stand a little beside each other, so that no bar hides another. Drawn for a phone and
    for a wide screen.
    """
    return join(*(_against(groups, title, axis, log=log, fit=fit, size=size) for size in _SIZES))


_SIZES = ((WIDTH, HEIGHT), (BROAD, 320))


def _against(
    groups: Sequence[Sequence[Measured]],
    title: str,
    axis: str,
    *,
    log: bool,
    fit: Callable[[float], float] | None,
    size: tuple[int, int],
) -> Markup:
    width, height = size
    everything = [one for group in groups for one in group]
    places = sorted({one.at for one in everything})
    log = log and places[0] > 0
    edge = 12
    x = Scale(places[0], places[-1], LEFT + edge, width - RIGHT - edge, log)
    y = heights([v for one in everything for v in (one.value, *(one.bounds or ()))], height)
    spoken = "; ".join(_spoken_at(one) for one in everything)
    drawn = (
        _group(sorted(group, key=lambda one: one.at), _moved(x, n), y, n + 1, joined=fit is None)
        for n, group in enumerate(groups)
    )
    bars = [_bar_box(one, _moved(x, n), y) for n, group in enumerate(groups) for one in group]
    values = [_value(one, _moved(x, n), y) for n, group in enumerate(groups) for one in group]
    return svg(
        f"{title} against {axis}{' (logarithmic)' if log else ''}. {spoken}.",
        grid(y, width),
        *_place_labels(x, places, height - 8),
        label(axis, (LEFT + width - RIGHT) / 2, height + 12, "middle", "axis-name"),
        _fitted(fit, x, y) if fit is not None else Markup(""),
        *drawn,
        *labels(values, [*bars, (0, 0, LEFT - 4, height)]),
        width=width,
        height=height + 18,
        class_=figure_class(width),
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
    return join(line if joined else None, *bars, *dots)


def _bar_box(one: Measured, x: Scale, y: Scale) -> Box:
    low, high = one.bounds or (one.value, one.value)
    return x(one.at) - 5, y(max(high, one.value)) - 5, x(one.at) + 5, y(min(low, one.value)) + 5


def _value(one: Measured, x: Scale, y: Scale) -> tuple[str, list[Spot]]:
    """A value, and where it may be written: above its bar, else below."""
    left, above, right, below = _bar_box(one, x, y)
    at = x(one.at)
    places = [(at, above - 4, "middle"), (at, below + 12, "middle")]
    beside_it = [(right + 3, y(one.value) + 4, "start"), (left - 3, y(one.value) + 4, "end")]
    room = y.stop, y.start  # no label on the numbers of the axis
    return number(one.value, 1), [
        spot for spot in (*places, *beside_it) if room[0] - 6 <= spot[1] <= room[1]
    ]


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


def _place_labels(x: Scale, places: Sequence[float], y: float) -> list[Markup]:
    """The places measured, as far as there is room: the ends before those between."""
    ends_first = dict.fromkeys([places[-1], places[0], *places])
    # A little wider than they are drawn: two numbers side by side would be read as one.
    return labels(
        ((_fraction(place), [(x(place), y, "middle")]) for place in ends_first), kind="tick"
    )


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
    kind = f"line c{series.colour}{' dashed' if series.dashed else ''}"
    return tag("polyline", points=path, class_=kind)


def _mark(series: Series, x: Scale, y: Scale, best: bool) -> Markup:
    step, value = _marked_point(series, best)
    return tag(
        "circle",
        tag("title", f"{series.name}: {number(value)} at step {step:,.0f}"),
        cx=x(step),
        cy=y(value),
        r=4,
        class_=f"dot c{series.colour}",
    )


def _mark_label(series: Series, x: Scale, y: Scale, best: bool) -> tuple[str, list[Spot]]:
    """The marked value: above its point, else below."""
    step, value = _marked_point(series, best)
    place, anchor = beside(x(step)) if best else (x(step) - 6, "end")
    words = number(value, 1 if abs(value) >= 10 else 2)
    return words, [(place, y(value) - 8, anchor), (place, y(value) + 18, anchor)]


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
