"""``spamo-cache manifest``: raw corpus -> table of clips."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

import spamo_cache as sc
from spamo_cache import io
from spamo_cache.cli import display, options, watching
from spamo_cache.errors import UsageError


def manifest(
    *,
    dataset: options.Dataset = None,
    root: options.Root = None,
    manifest: options.ManifestFile = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write; .parquet or .csv [default: D.parquet]",
        ),
    ] = None,
    limit: options.Limit = None,
    size: options.Size = None,
    json: options.Json = False,
) -> None:
    """Read a raw corpus and write its manifest: one row per clip.

    Example:

        spamo-cache manifest --dataset phoenix14t --root /data/PHOENIX-2014-T -o phoenix14t.parquet
    """
    if output is not None:
        _check(output)
    found = sc.load_corpus(
        dataset, root=root, manifest=manifest, size=size, limit=limit, watcher=watching.watcher()
    )
    path = output or Path(f"{found.corpus}.parquet")
    (found.write if path.suffix == ".parquet" else found.write_csv)(path)
    clips = dict(Counter(found.table["split"].to_pylist()))
    if json:
        text = None if found.text is None else {"kept": "raw", **found.text.model_dump()}
        document = {"corpus": found.corpus, "path": path, "clips": clips, "text": text}
        display.as_json({**document, "notes": found.notes})
        return
    for note in found.notes:
        display.say(f"note: {note}")
    display.table(("split", "clips"), clips.items(), title=f"{found.corpus}: {path}")


def _check(output: Path) -> None:
    if output.suffix not in {".parquet", ".csv"}:
        raise UsageError(f"cannot write {output.name!r}", remedy="end its name in .parquet or .csv")
    io.check_output(output)
