"""``spamo-cache report``: runs, or a corpus's experiments -> one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import spamo_cache as sc
from spamo_cache.cli import display, options, watching


def report(
    runs: options.Runs,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")
    ] = Path("report.html"),
    root: options.Root = None,
    store: options.Search = None,
) -> None:
    """Write one self-contained page: scores, curves, translations, provenance.

    RUN may be the folder of a corpus's experiments, such as runs/signed-weather/experiments.
    With --root, or for the bundled corpus once it is drawn, clips are shown with frames.

    Example:

        spamo-cache report runs/signed-weather/default -o report.html
    """
    display.line(sc.report(runs, output, root=root, store=store, watcher=watching.watcher()))
