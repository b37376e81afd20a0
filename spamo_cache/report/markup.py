"""HTML and SVG built from Python values; whatever is not markup already is escaped."""

from __future__ import annotations

import re
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


def slug(words: str) -> str:
    """Words as part of an address: small letters, digits and hyphens."""
    return "-".join(re.findall(r"[a-z0-9]+", words.lower()))


def number(value: float | None, digits: int = 2) -> str:
    """A number as a table shows it; an absent one is a dash, a negative one has a real minus."""
    if value is None:
        return "–"
    shown = f"{abs(value):,.{digits}f}"
    return f"−{shown}" if value < 0 and any(digit in shown for digit in "123456789") else shown


def signed(value: float | None, digits: int = 1) -> str:
    """A difference with its sign."""
    return number(value, digits) if value is None or value < 0 else f"+{number(value, digits)}"


def millions(count: float) -> str:
    """A number of parameters: ``0.5 M``, ``23.5 M``; small ones in full."""
    return f"{count / 1e6:,.1f} M" if count >= 100_000 else f"{count:,.0f}"


def sentence(words: object) -> str:
    """Words with a capital before and a full stop behind; nothing of nothing."""
    told = str(words or "").strip().rstrip(".")
    return f"{told[:1].upper()}{told[1:]}." if told else ""


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
