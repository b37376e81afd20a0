"""What all figures share: SVG elements, their size, scales, ticks, labels.

Every figure is about as wide as a phone and carries its message in words (``aria-label``). Those of
experiments are drawn a second time for wide screens, and the style sheet shows the one that fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from unicodedata import east_asian_width

from markupsafe import Markup

WIDTH, HEIGHT = 340, 210
BROAD = 960
"""Width of a figure that fills the page of a wide screen."""
LEFT, RIGHT, TOP, BOTTOM = 40, 14, 14, 28


def tag(element: str, /, *children: str | None, **attributes: object) -> Markup:
    """An element; whatever is not markup already is escaped.

    ``class_`` is written ``class``, ``text_anchor`` ``text-anchor``; an attribute or a child that
    is None is left out.
    """
    written = join(
        *(
            Markup(' {}="{}"').format(key.strip("_").replace("_", "-"), value)
            for key, value in attributes.items()
            if value is not None
        )
    )
    return Markup("<{0}{1}>{2}</{0}>").format(element, written, join(*children))


def join(*children: str | None) -> Markup:
    """Children one behind the other; None is nothing."""
    return Markup("").join(child for child in children if child is not None)


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low..high`` to pixels ``start..stop``; by their logarithm if ``log``."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = log10(low), log10(high), log10(value)
        share = (value - low) / ((high - low) or 1)
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


def svg(
    spoken: str,
    *children: Markup,
    width: float = WIDTH,
    height: float = HEIGHT,
    class_: str = "figure",
) -> Markup:
    """A drawing, described in words to those who do not see it."""
    box = f"0 0 {width:g} {height:g}"
    return tag("svg", *children, viewBox=box, role="img", aria_label=spoken, class_=class_)


def label(words: str, x: float, y: float, anchor: str = "start", kind: str = "tick") -> Markup:
    """Words in a drawing."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, class_=kind)


def figure_class(width: float) -> str:
    """Which of the two sizes a drawing is, where there are both: the style sheet shows one."""
    return "figure broad" if width == BROAD else "figure slim"


def text_width(words: str, size: float = 12.5) -> float:
    """About how wide words are drawn in a font of ``size``, whatever font a reader has."""
    return size * sum(1.0 if east_asian_width(letter) in "WF" else 0.62 for letter in words)


def clipped(words: str, room: float, size: float = 12.5) -> str:
    """Words cut to a width, with an ellipsis where something is left out."""
    if text_width(words, size) <= room:
        return words
    while words and text_width(f"{words}…", size) > room:
        words = words[:-1]
    return f"{words.rstrip()}…"


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Spot = tuple[float, float, str]
"""Where a label may stand: x, y of its baseline, anchor."""


def labels(
    wanted: Iterable[tuple[str, Sequence[Spot]]], taken: Iterable[Box] = (), kind: str = "value"
) -> list[Markup]:
    """Labels, none over another: each at the first of its spots that is free, or nowhere.

    Args:
        wanted: words and where they may stand, the most important first.
        taken: what else they must not cover.
    """
    drawn, occupied = [], list(taken)
    for words, spots in wanted:
        for x, y, anchor in spots:
            box = _box(words, x, y, anchor)
            if not any(_overlap(box, other) for other in occupied):
                occupied.append(box)
                drawn.append(label(words, x, y, anchor, kind))
                break
    return drawn


def _box(words: str, x: float, y: float, anchor: str) -> Box:
    wide = text_width(words)
    left = {"start": x, "middle": x - wide / 2, "end": x - wide}[anchor]
    return left, y - 11, left + wide, y + 3


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def beside(at: float) -> tuple[float, str]:
    """Where a label stands beside a vertical line without leaving the figure."""
    return (at + 6, "start") if at < WIDTH * 0.7 else (at - 6, "end")


def heights(values: list[float], height: float = HEIGHT) -> Scale:
    """The scale of a curve's values: from 0 on, so that heights can be compared by eye."""
    places = ticks(min(0.0, *values), max(values))
    return Scale(places[0], places[-1], height - BOTTOM, TOP)


def grid(y: Scale, width: float = WIDTH) -> Markup:
    """Lines across at round values."""
    return join(*(_line(y(value), short(value), width) for value in ticks(y.low, y.high)))


def _line(y: float, words: str, width: float) -> Markup:
    line = tag("line", x1=LEFT, x2=width - RIGHT, y1=y, y2=y, class_="grid")
    return join(line, label(words, LEFT - 7, y + 4, "end"))


def uprights(x: Scale, bottom: float, places: list[float]) -> Markup:
    """Lines upwards at round values, with the values below."""
    return join(
        *(
            join(
                tag("line", x1=x(value), x2=x(value), y1=6, y2=bottom, class_="grid"),
                label(short(value), x(value), bottom + 16, "middle"),
            )
            for value in places
        )
    )


def short(value: float) -> str:
    """A value as it stands at an axis: ``0.5``, ``20``, ``1.5k``."""
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:g}".replace("-", "−")
