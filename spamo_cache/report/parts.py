"""The pieces that sections are put together from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spamo_cache.report.markup import Child, Markup, tag


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Child]], *, numeric: int = 1
) -> Markup:
    """A table that can be sorted; columns from ``numeric`` on hold numbers."""
    header = [
        tag(
            "th",
            tag("button", name, type="button"),
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
        ),
        class_="scroll",
    )


def section(run: str, title: str, lead: Child, *children: Child) -> Markup:
    """A titled part of the page; its first paragraph says what there is to see."""
    identity = anchor(run, title)
    heading = tag("h2", title, id=identity)
    return tag(
        "section", heading, tag("p", lead, class_="lead"), *children, aria_labelledby=identity
    )


def anchor(run: str, title: str) -> str:
    """Where a section of a run's part begins; unique on a page of several runs."""
    return f"{run}-{title}".lower().replace(" ", "-")


def card(title: str, figure: Markup) -> Markup:
    """A figure under its title."""
    return tag("figure", tag("figcaption", title), figure)
