"""The pieces that sections are put together from."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence

from spamo_cache.report.markup import Child, Markup, join, number, slug, tag

COLOURS = 6
"""Colours of the style sheet for series: ``c1`` and on."""


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    numeric: int = 1,
    class_: str | None = None,
) -> Markup:
    """A table that can be sorted; columns from ``numeric`` on hold numbers."""
    header = [
        tag(
            "th",
            tag("button", _unbroken(name), type="button"),
            scope="col",
            class_="n" if i >= numeric else None,
        )
        for i, name in enumerate(head)
    ]
    body = [
        tag(
            "tr",
            *(
                tag("th", cell, scope="row")
                if i == 0
                else tag("td", cell, class_="n" if i >= numeric else None)
                for i, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", *header)),
            tag("tbody", *body),
            class_=class_,
        ),
        class_="scroll",
        # What scrolls must be reachable by keys.
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def _unbroken(name: str) -> Markup:
    """A heading that breaks between words only, not after a hyphen."""
    first, *others = (tag("span", word) for word in name.split())
    return join(first, *(join(" ", word) for word in others))


def cell(value: float | None, shown: Child = None, *, digits: int = 2) -> Markup:
    """A cell that sorts by ``value`` whatever it shows; by default the number itself."""
    if value is None:
        return tag("span", "–", class_="none")
    return tag("data", number(value, digits) if shown is None else shown, value=repr(float(value)))


def plus_minus(value: float, half: float | None, *, digits: int = 2) -> Markup:
    """A number with half the width of its interval, or its spread, in small type."""
    spread = None if half is None else tag("small", f" ±{number(half, 1)}")
    return cell(value, join(number(value, digits), spread))


def section(place: str, title: str, lead: Child, *children: Child) -> Markup:
    """A titled part of the page; its first paragraph says what there is to see."""
    identity = anchor(place, title)
    heading = tag("h2", title, id=identity)
    return tag(
        "section", heading, tag("p", lead, class_="lead"), *children, aria_labelledby=identity
    )


def anchor(place: str, title: str) -> str:
    """Where a section begins; unique, for no name of a place has a dot."""
    return f"{place}.{slug(title)}"


def card(title: str, figure: Markup, *notes: Child) -> Markup:
    """A figure under its title."""
    return tag("figure", tag("figcaption", title), figure, *notes)


def banner(strong: str, words: Child, *, grave: bool = True) -> Markup:
    """Something to be read before any number."""
    kind = "banner" if grave else "banner mild"
    return tag("p", tag("strong", strong), " ", words, class_=kind, role="note")


def legend(names: Sequence[str]) -> Markup | None:
    """Which colour is which; nothing for a single one."""
    if len(names) < 2:
        return None
    items = (
        tag("li", tag("i", class_=f"swatch c{colour(i)}", aria_hidden="true"), name)
        for i, name in enumerate(names)
    )
    return tag("ul", *items, class_="legend")


def colour(index: int) -> int:
    """The style sheet's colour of the series at ``index``."""
    return index % COLOURS + 1


def picture(jpeg: bytes, told: str) -> Markup:
    """A picture that lies within the page."""
    data = f"data:image/jpeg;base64,{b64encode(jpeg).decode('ascii')}"
    return tag("img", src=data, alt=told, decoding="async")


def words(text: str) -> Markup:
    """Words of a corpus: their own direction, and they break where they must."""
    return tag("bdi", text)
