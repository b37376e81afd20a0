"""Scorecards as tables for people, and their clips as a table for other programs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache import human
from spamo_cache.cli import display

if TYPE_CHECKING:
    from spamo_cache.metrics import Difference, Spread
    from spamo_cache.runs.records import Group, Scorecard, SystemScores, TranslationScores

GROUPS_SHOWN = 20
NO_VALUE = "(no value)"
"""What the group of clips without a value is called."""


def show(run: Path, card: Scorecard) -> None:
    """The scores of a run with their intervals, and where they would mislead."""
    show_scores(_title(run, card), card, _floors(run, card))
    if card.prior is not None:
        display.line(
            "  language alone: every row is the mean row of training; "
            f"{human.count(card.prior.sentences, 'different sentence')}, most often "
            f"“{card.prior.commonest}” ({card.prior.clips}x)"
        )


def _floors(run: Path, card: Scorecard) -> dict[str, Mapping[str, float]]:
    """Scores to hold the run's own against: of the language alone, and of shuffled features."""
    from spamo_cache.runs.records import card_file, read_card

    found = {} if card.prior is None else {"language alone": card.prior.metrics}
    shuffled = card_file(run, f"{card.name}-shuffled")
    if shuffled.exists():
        found["shuffled"] = read_card(shuffled).metrics
    return found


def show_scores(
    title: str, card: TranslationScores, floors: Mapping[str, Mapping[str, float]] | None = None
) -> None:
    """The scores with their intervals, and where they would mislead."""
    beside = floors or {}
    quoted = {"bleu4", card.headline["rouge"]}
    display.table(
        ("metric", "score", "95 % interval", "n", *beside, ""),
        [
            (
                name,
                value,
                _interval(card.intervals.get(name)),
                card.n,
                *(scores.get(name, "") for scores in beside.values()),
                "headline" if name in quoted else "",
            )
            for name, value in card.metrics.items()
        ],
        title=title,
    )
    if (content := card.content) is not None:
        shares = [
            f"{name} {value:.1f} % ({_interval(content.intervals.get(name)) or 'no interval'})"
            for name, value in content.metrics.items()
        ]
        display.line(
            f"  content words ({content.source}): {', '.join(shares)}; {content.right:,} right, "
            f"{content.said:,} said, {content.expected:,} expected"
        )
    for warning in card.warnings:
        shown = display.title if warning.severity == "warning" else display.line
        shown(f"  {warning.severity}: {warning.words} [{warning.kind}]")


def show_groups(card: Scorecard, columns: Sequence[str]) -> None:
    """The headline's scores of each group; of many groups those of the most clips."""
    shown = [name for name in ("bleu4", "chrf", card.rouge, "bleurt") if name in card.metrics]
    for column in columns:
        groups = card.groups[column]
        display.table(
            (column, "n", *(cell for name in shown for cell in (name, "95 % interval"))),
            [
                (NO_VALUE if group.value is None else group.value, group.n, *_cells(group, shown))
                for group in groups[:GROUPS_SHOWN]
            ],
            title=f"By {column}" + (f": {len(groups):,} groups" if len(groups) > 1 else ""),
        )
        if left := groups[GROUPS_SHOWN:]:
            clips = sum(group.n for group in left)
            display.line(
                f"  and {human.count(len(left), 'more group')} of {human.count(clips, 'clip')} "
                "(--json has all)"
            )


def _cells(group: Group, metrics: Sequence[str]) -> list[object]:
    return [
        cell
        for name in metrics
        for cell in (group.metrics.get(name, ""), _interval(group.intervals.get(name)))
    ]


def show_details(card: Scorecard | SystemScores) -> None:
    """Signatures, other conventions and published figures."""
    for name, signature in card.signatures.items():
        display.line(f"  {name:<16} {signature}")
    display.table(
        ("convention", "BLEU-4", ""),
        [(one.name, one.bleu4, "headline" if one.headline else "") for one in card.conventions],
        title="BLEU-4 under the conventions that papers use",
    )
    if card.published:
        display.table(
            ("published", "scores", "what differs", "source"),
            [
                (
                    one.system,
                    ", ".join(f"{name} {value:.2f}" for name, value in one.metrics.items()),
                    one.protocol,
                    one.source if one.certain else f"{one.source} (not verified)",
                )
                for one in card.published
            ],
            title="Published figures",
        )


def spreads(cards: Sequence[Scorecard]) -> dict[str, Spread]:
    """Metric -> mean and deviation over runs, of the metrics that all of them have."""
    from spamo_cache.metrics import spread

    shared = [name for name in cards[0].metrics if all(name in card.metrics for card in cards)]
    return {name: spread(name, [card.metrics[name] for card in cards]) for name in shared}


def show_spreads(cards: Sequence[Scorecard]) -> None:
    display.table(
        ("metric", "mean", "deviation", "runs"),
        [(one.name, one.mean, one.deviation, one.runs) for one in spreads(cards).values()],
        title=f"{len(cards)} runs together",
    )


def show_differences(run: Path, other: Path, found: Mapping[str, Difference]) -> None:
    """How two runs differ, and whether by more than chance."""
    display.table(
        ("metric", "run", "other", "difference", "95 % interval", "p", "p (bootstrap)"),
        [
            (name, one.a, one.b, one.difference, _interval(one.interval), *_chances(one))
            for name, one in found.items()
        ],
        title=f"{run} against {other}",
    )
    display.line("  p: approximate randomisation; both tests are paired and two-sided")


def _chances(one: Difference) -> tuple[str, str]:
    return f"{one.p:.4f}", f"{one.p_bootstrap:.4f}"


def _title(run: Path, card: Scorecard) -> str:
    from spamo_cache.runs.folder import RunFolder

    note = " (features shuffled between clips)" if card.shuffled else ""
    if card.changed:
        changes = ", ".join(f"{key}={value}" for key, value in card.changed.items())
        note += f" (at test time {changes})"
    if card.resplit:
        note = f", {card.resplit}{note}"
    if card.protocol != "default":
        note += f", protocol {card.protocol}"
    corpus = RunFolder(run).pipeline().corpus
    return f"{run}: {card.split} split of {corpus}{note}"


def _interval(found: tuple[float, float] | None) -> str:
    return "" if found is None else f"{found[0]:.2f} - {found[1]:.2f}"


def export(file: Path, runs: Sequence[Path], cards: Sequence[Scorecard]) -> None:
    """A row per clip and run; tabs between the columns of a ``.tsv``, commas otherwise."""
    from spamo_cache.runs.records import read_lines

    rows = [
        {"run": str(run), **asdict(line)}
        for run, card in zip(runs, cards, strict=True)
        for line in read_lines(run, card.name)
    ]
    with file.open("w", encoding="utf-8", newline="") as opened:
        dialect = "excel-tab" if file.suffix == ".tsv" else "excel"
        writer = csv.DictWriter(opened, list(rows[0]), dialect=dialect)
        writer.writeheader()
        writer.writerows(rows)
