"""What streams contribute: over a clip's time, and over all runs (Shapley values)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spamo_cache.report import figures
from spamo_cache.report.attributions import Attribution
from spamo_cache.report.markup import Child, Markup, number, sentence, tag
from spamo_cache.report.metrics import metric_name
from spamo_cache.report.parts import card, cell, plus_minus, section, table, words
from spamo_cache.report.runs import Run
from spamo_cache.report.translations import language_code


def attributions(run: Run) -> Markup | None:
    """Clips with what each of their moments gave to the translation."""
    if not run.attributions:
        return None
    method = run.attributions[0].method
    lead = (
        f"By {method}, in nats of the translation's likelihood. Above the line, "
        "and green: these frames made the words likelier; below it, and orange: less likely. "
        "The map under the streams has a line for each word said. A stream's share is of all "
        "nats, whatever their sign; what the sum misses of the whole is the method's error."
    )
    drawn = (_strip(one, language_code(run)) for one in run.attributions)
    return section(run.anchor, "Attribution over time", lead, *drawn)


def _strip(one: Attribution, language: str | None) -> Markup:
    title = f"Attribution for clip {one.clip}"
    drawn = figures.strip(one.shots, one.curves, one.words, title=title)
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in one.shares.items())
    missed = f"; the sum misses {100 * one.error:.1f} %" if one.error is not None else ""
    without = f" No frames: {one.without}." if one.without and not one.shots else ""
    return tag(
        "figure",
        tag("figcaption", words(one.hypothesis or "(an empty translation)"), lang=language),
        tag("p", "meant: ", words(one.reference), class_="reference", lang=language),
        tag("div", drawn, class_="scroll", tabindex="0", role="region", aria_label=title),
        tag("p", words(one.clip), f" · {shares}{missed}.{without}", class_="aside"),
        class_="attribution",
    )


def shapley(found: Mapping[str, Any], place: str) -> Markup | None:
    """Shapley values of the players, and the coalitions behind them."""
    values = found.get("values")
    if not values:
        return None
    errors = found.get("errors") or {}
    metric = metric_name(str(found.get("metric", "bleu4")))
    title = f"Shapley values in points of {metric}"
    rows = [(player, float(value), errors.get(player)) for player, value in values.items()]
    lead = (
        f"How the way from nothing ({number(found.get('floor'), 1)} {metric}) to everything "
        f"({number(found.get('total'), 1)}) is divided: each player's mean gain over all orders "
        f"in which they can join. {sentence(found.get('spread'))}"
    )
    listed = [_coalition(one) for one in found.get("coalitions") or ()]
    head = ["together", "what stands for it", metric]
    return section(
        place,
        "Contribution of streams and VT-Align",
        lead,
        tag("div", card(title, figures.balance(rows, title)), class_="grid narrow"),
        table("Coalitions", head, listed, numeric=2, class_="narrow") if listed else None,
    )


def _coalition(one: Mapping[str, Any]) -> list[Child]:
    members = " + ".join(map(str, one.get("players") or ())) or "nobody"
    value = one.get("value")
    score = cell(None) if value is None else plus_minus(float(value), one.get("error"))
    told = [str(part) for part in (one.get("run"), one.get("note")) if part]
    return [members, ", ".join(told), score]
