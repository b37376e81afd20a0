"""``spamo-cache evaluate``: a run's scores on a split, with signatures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spamo_cache.cli import display, options

if TYPE_CHECKING:
    from spamo_cache.evaluate import Scorecard


def evaluate(
    folder: options.Run,
    *,
    split: Annotated[str, typer.Option("--split", help="Split to decode.")] = "test",
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Give every clip another's features: the floor.")
    ] = False,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Decode a split and score it; every clip counts, the failed ones with an empty sentence.

    Example:

        spamo-cache evaluate runs/phoenix14t/default --split test
    """
    card = run(folder, split, shuffle=shuffle, device=device)
    if json:
        display.as_json(display.as_dict(card))
    else:
        show(card)
        for name, signature in card.signatures.items():
            typer.echo(f"  {name:<6} {signature}")
    # They are scored, as empty sentences: what was asked is done.
    display.failures(list(card.failed.items()))


def run(folder: Path, split: str, *, shuffle: bool = False, device: str = "auto") -> Scorecard:
    """Decode and score a split of a run."""
    from spamo_cache.evaluate import evaluate as score

    with display.progress(f"translating {split}", "clips") as advance:
        return score(folder, split, shuffle=shuffle or None, device=device, progress=advance)


def show(card: Scorecard) -> None:
    """The scorecard as a table."""
    note = " (features shuffled between clips)" if card.shuffled else ""
    if card.protocol != "default":
        note += f", protocol {card.protocol}"
    display.table(
        ("metric", "score", "95 % interval", "n"),
        [
            (name, value, _interval(card.intervals, name), card.n)
            for name, value in card.metrics.items()
        ],
        title=f"{card.run} on {card.split}{note}",
    )


def _interval(intervals: Mapping[str, tuple[float, float]], name: str) -> str:
    low, high = intervals.get(name, (None, None))
    return "" if low is None else f"{low:.2f} - {high:.2f}"
