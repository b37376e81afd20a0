"""HTML and SVG built from Python values; whatever is not markup already is escaped."""

from __future__ import annotations

from html import escape

_VOID = frozenset({"br", "hr", "img", "link", "meta"})


class Markup(str):
    """Text that may stand in a page as it is."""

    __slots__ = ()


Child = str | int | float | None


def text(value: Child) -> Markup:
    """Any value as it may stand in a page; None is nothing."""
    if isinstance(value, Markup):
        return value
    return Markup("" if value is None else escape(str(value), quote=True))


def join(*children: Child) -> Markup:
    """Children one behind the other."""
    return Markup("".join(text(child) for child in children))


def tag(element: str, /, *children: Child, **attributes: Child | bool) -> Markup:
    """An element; ``class_`` is written ``class``, ``aria_label`` ``aria-label``.

    An attribute that is True stands alone, one that is None or False is left out.
    """
    written = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        written += f" {key.strip('_').replace('_', '-')}"
        written += "" if value is True else f'="{text(value)}"'
    if element in _VOID:
        return Markup(f"<{element}{written}>")
    return Markup(f"<{element}{written}>{join(*children)}</{element}>")


def number(value: float | None, digits: int = 2) -> str:
    """A number as a table shows it; an absent one is a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def seconds(value: float) -> str:
    """A duration people can read: ``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if value < 10:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(count: float) -> str:
    """Bytes people can read: ``512 B``, ``3.4 MB``, ``10.1 GB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
