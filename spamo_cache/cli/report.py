"""``spamo-cache report``: runs -> one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from spamo_cache.cli import options


def report(
    runs: options.Runs,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")
    ] = Path("report.html"),
) -> None:
    """Write one self-contained page: scores, curves, translations, provenance.

    Example:

        spamo-cache report runs/signed-weather/default -o report.html
    """
    typer.echo(run(runs, output))


def run(runs: Sequence[Path], output: Path) -> Path:
    """Write the page; its path."""
    from spamo_cache.report import write_report

    return write_report(runs, output)
