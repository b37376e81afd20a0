"""A clip's frames along time, with what each moment gave to its translation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup

from spamo_cache.report.figures.svg import join, label, svg, tag
from spamo_cache.report.formats import jpeg_address, number

WIDTH = 960
_LEFT = 112
_FRAME, _BAND, _WORD = 96, 44, 20
BINS = 48
"""Columns of the map of words; finer ones cannot be distinguished."""
MAX_WORDS = 24

Curve = Sequence[float]


def filmstrip(
    frames: Sequence[tuple[int, bytes]],
    curves: Mapping[str, Curve],
    words: Sequence[tuple[str, Curve]],
    *,
    title: str,
) -> Markup:
    """Frames, under them the signed curve of each stream, under those a map of words.

    Args:
        frames: (moment, JPEG).
        curves: stream -> a value for each moment of the clip.
        words: (word, a value for each moment), in the order of the sentence.
    """
    top, parts = 0.0, []
    if frames:
        parts.append(_frames(frames))
        top = _FRAME + 10.0
    reach = max((abs(v) for curve in curves.values() for v in binned(curve)), default=0) or 1
    for name, curve in curves.items():
        parts.append(_band(name, binned(curve), reach, top))
        top += _BAND + 8
    shown = words[:MAX_WORDS]
    if shown:
        parts.append(_words(shown, top + 4))
        top += 4 + _WORD * len(shown)
    parts.append(label(f"tallest bar: {number(reach)} nats", _LEFT, top + 16))
    parts.append(label("time →", WIDTH, top + 16, "end"))
    return svg(_spoken(title, curves), *parts, width=WIDTH, height=top + 22, class_="strip")


def binned(curve: Curve, bins: int = BINS) -> list[float]:
    """Sums of a curve over at most ``bins`` equal spans: what is divided stays the same."""
    count = min(bins, len(curve))
    edges = [round(i * len(curve) / count) for i in range(count + 1)]
    return [sum(curve[a:b]) for a, b in pairwise(edges)]


def _frames(frames: Sequence[tuple[int, bytes]]) -> Markup:
    wide = (WIDTH - _LEFT) / len(frames)
    drawn = []
    for index, (_, jpeg) in enumerate(sorted(frames)):
        x = round(_LEFT + index * wide, 1)
        place = {"x": x, "y": 0, "width": round(wide - 2, 1), "height": _FRAME}
        data = jpeg_address(jpeg)
        drawn.append(tag("image", href=data, preserveAspectRatio="xMidYMid meet", **place))
    return join(*drawn)


def _band(name: str, values: Sequence[float], reach: float, top: float) -> Markup:
    middle = top + _BAND / 2
    wide = (WIDTH - _LEFT) / len(values)
    bars = []
    for index, value in enumerate(values):
        tall = round(abs(value) / reach * _BAND / 2, 1)
        y = round(middle - tall if value > 0 else middle, 1)
        x = round(_LEFT + index * wide + 0.5, 1)
        kind = "bar c1" if value > 0 else "bar c2"
        bars.append(tag("rect", x=x, y=y, width=round(wide - 1, 1), height=tall, class_=kind))
    axis = tag("line", x1=_LEFT, x2=WIDTH, y1=middle, y2=middle, class_="grid")
    return join(axis, label(name, _LEFT - 10, middle + 4, "end", "name"), *bars)


def _words(words: Sequence[tuple[str, Curve]], top: float) -> Markup:
    maps = [(word, binned(curve)) for word, curve in words]
    reach = max(abs(value) for _, values in maps for value in values) or 1
    parts = []
    for row, (word, values) in enumerate(maps):
        y = top + row * _WORD
        short = word if len(word) <= 15 else f"{word[:14]}…"
        parts.append(label(short, _LEFT - 10, y + 14, "end", "word"))
        parts += _cells(values, reach, y)
    return join(*parts)


def _cells(values: Sequence[float], reach: float, y: float) -> list[Markup]:
    wide = (WIDTH - _LEFT) / len(values)
    cells = []
    for column, value in enumerate(values):
        share = round(abs(value) / reach, 2)
        if share >= 0.02:
            kind = "bar c1" if value > 0 else "bar c2"
            place = {"x": round(_LEFT + column * wide, 1), "y": y, "width": round(wide, 1)}
            cells.append(
                tag("rect", height=_WORD - 2, class_=kind, fill_opacity=f"{share:g}", **place)
            )
    return cells


def _spoken(title: str, curves: Mapping[str, Curve]) -> str:
    streams = "; ".join(f"{name}: {_strongest(curve)}" for name, curve in curves.items())
    return f"{title}. {streams}."


def _strongest(curve: Curve) -> str:
    values = binned(curve, 10)
    most = max(range(len(values)), key=lambda i: values[i])
    share = 100 * most // len(values), 100 * (most + 1) // len(values)
    return (
        f"{number(sum(curve), 1)} nats in all, most of them from {share[0]} to {share[1]} percent "
        "of the clip"
    )
