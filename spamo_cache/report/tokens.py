"""Visual tokens: the LLM tokens nearest to a clip's rows, against glosses and translation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spamo_cache.report import figures
from spamo_cache.report.figures import Row
from spamo_cache.report.markup import Child, Markup, number, sentence, tag
from spamo_cache.report.parts import card, cell, section, table, words
from spamo_cache.report.runs import Run

_AGAINST = (("gloss", "the glosses"), ("text", "the translation"))
_SHARES = (
    ("coverage", "coverage: words that some row names"),
    ("precision", "precision: rows that name a word"),
)
_SHOWN = 48
"""Rows of an example that are shown."""


def tokens(run: Run) -> Markup | None:
    """Coverage and precision with their chance levels, over the whole split, then examples."""
    found = run.analysis.get("tokens")
    if not found:
        return None
    before = (run.analysis.get("before") or {}).get("tokens") or {}
    known = [(key, name) for key, name in _AGAINST if found.get(key)]
    rows = [_measured(found, before, key, name, share) for key, name in known for share in _SHARES]
    head = ["measure", "before", "after", "by chance", "sd of chance", "p"]
    lead = (
        "Every sign row is named by the LLM token nearest to it. Chance is what the same tokens "
        f"reach when clips are exchanged ({found.get('permutations', '–')} times). "
        f"{sentence(found.get('how'))}"
    )
    return section(
        run.anchor,
        "Visual tokens",
        lead,
        tag("div", *(_drawn(found, before, key, name) for key, name in known), class_="grid"),
        table("Visual tokens against glosses and translation", head, rows),
        _examples(found.get("examples") or ()),
    )


def _measured(
    found: Mapping[str, Any],
    before: Mapping[str, Any],
    key: str,
    name: str,
    share: tuple[str, str],
) -> list[Child]:
    one = found[key].get(share[0]) or {}
    earlier = ((before.get(key) or {}).get(share[0]) or {}).get("value")
    values = (earlier, one.get("value"), one.get("chance"), one.get("spread"), one.get("p"))
    return [f"{share[1]}, {name}", *(cell(value, digits=3) for value in values)]


def _drawn(
    found: Mapping[str, Any], before: Mapping[str, Any], key: str, name: str
) -> Markup | None:
    rows = []
    for share, _ in _SHARES:
        one = found[key].get(share) or {}
        earlier = ((before.get(key) or {}).get(share) or {}).get("value")
        if one.get("value") is not None:
            rows.append(Row(share, one["value"], before=earlier, chance=one.get("chance")))
    title = f"Visual tokens against {name}"
    return card(title, figures.ranges(rows, title, digits=2, top=1.0)) if rows else None


def _examples(examples: Sequence[Mapping[str, Any]]) -> Markup | None:
    if not examples:
        return None
    summary = f"{len(examples)} clips, row by row"
    listed = tag("ul", *(_example(one) for one in examples), class_="tokens")
    return tag("details", tag("summary", summary), listed, open=True)


def _example(one: Mapping[str, Any]) -> Markup:
    rows = list(one.get("rows") or ())
    chips = [_chip(row) for row in rows[:_SHOWN]]
    more = tag("li", f"and {len(rows) - _SHOWN} more") if len(rows) > _SHOWN else None
    gloss = " ".join(map(str, one.get("gloss") or ()))
    return tag(
        "li",
        tag("p", words(gloss), class_="gloss") if gloss else None,
        tag("p", words(str(one.get("text", ""))), class_="reference"),
        tag("ol", *chips, more, class_="chips"),
        tag("p", words(str(one.get("clip", ""))), class_="clip"),
    )


def _chip(row: Mapping[str, Any]) -> Markup:
    belongs = "a gloss" if row.get("gloss") else "a word" if row.get("text") else ""
    told = f"cosine {number(row.get('cosine'))}{f', {belongs} of the clip' if belongs else ''}"
    kind = "hit" if belongs else None
    # Not by colour alone: what belongs is bold and has a mark too.
    mark = tag("span", "✓", aria_label=belongs, role="img") if belongs else None
    return tag("li", mark, words(str(row.get("token", ""))), title=told, class_=kind)
