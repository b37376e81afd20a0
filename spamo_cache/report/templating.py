"""The page's templates (Jinja2): whatever is not markup already is escaped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from spamo_cache import human
from spamo_cache.report import formats

COLOURS = 6
"""Colours of the style sheet for series: ``c1`` and on."""

Filter = TypeVar("Filter", bound=Callable[..., Any])

_TEMPLATES = Environment(
    loader=PackageLoader(__package__),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, /, **variables: Any) -> Markup:
    """A template of ``report/templates`` with its variables filled in."""
    # The template has escaped whatever needs it.
    return Markup(_TEMPLATES.get_template(template).render(variables))  # noqa: S704


def template_filter(function: Filter) -> Filter:
    """Make a function known to all templates as a filter of its name."""
    _TEMPLATES.filters[function.__name__] = function
    return function


@template_filter
def colour(index: int) -> int:
    """The style sheet's colour of the series at ``index``."""
    return index % COLOURS + 1


def _or_dash(words: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: "–" if value is None else words(value)


_TEMPLATES.filters |= {
    "anchor": formats.anchor,
    "assignments": formats.assignments,
    "chance": formats.chance,
    "duration": _or_dash(human.duration),
    "jpeg_address": formats.jpeg_address,
    "metric_name": formats.metric_name,
    "millions": _or_dash(formats.millions),
    "number": formats.number,
    "signed": formats.signed,
    "size": _or_dash(human.size),
}
