"""``spamo-cache report``: runs, or a corpus's experiments -> one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from spamo_cache.cli import display, options
from spamo_cache.workflow import resolve
from spamo_cache.workflow.frames import stills

FRAMES = 8
"""Frames shown of a clip."""


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
    With --root, or for the embedded corpus where it is drawn, clips are shown with frames.

    Example:

        spamo-cache report runs/signed-weather/default -o report.html
    """
    display.line(run(runs, output, root, store))


def run(
    runs: Sequence[Path], output: Path, root: Path | None = None, store: str | None = None
) -> Path:
    """Write the page; its path. Frames are read below ``root``, stores looked for in ``store``."""
    from spamo_cache.report import write_report

    given = None if root is None else resolve.folder(root)
    roots = resolve.store_roots(store)
    return write_report(runs, output, frames=partial(_frames, given), roots=roots)


def _frames(root: Path | None, run: Path, ids: Sequence[str]) -> Mapping[str, Sequence[bytes]]:
    """Frames of a run's clips; none where nobody said where the corpus lies."""
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.runs.folder import RunFolder

    manifest = RunFolder(run).sentences()
    place = resolve.at_hand(manifest.corpus, root)
    if place is None:
        return {}
    wanted = [clip for clip in manifest.clips() if clip.id in set(ids)]
    kept = place / "manifest.parquet"
    # A corpus that brings its manifest may have another clip of the same name.
    known = Manifest.read(kept).clips() if kept.is_file() else wanted
    clips = [clip for clip in wanted if clip in known]
    found = stills(place, clips, FRAMES)
    return {clip: [jpeg for _, jpeg in shots] for clip, shots in found.items()}
