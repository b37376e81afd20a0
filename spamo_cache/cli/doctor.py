"""``spamo-cache doctor``: what would go wrong, before it does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spamo_cache.cli import display, inputs, options

if TYPE_CHECKING:
    from spamo_cache.datasets.doctor import Diagnosis


def doctor(
    *,
    dataset: options.Dataset = None,
    root: options.Root = None,
    manifest: options.ManifestFile = None,
    probe: Annotated[
        int, typer.Option("--probe", metavar="N", min=0, help="Clips whose video is opened.")
    ] = 64,
    json: options.Json = False,
) -> None:
    """Check this machine; with a corpus, check the corpus as a careful colleague would.

    Exit code 1 only for what would make results wrong.

    Example:

        spamo-cache doctor --dataset phoenix14t --root /data/PHOENIX-2014-T
    """
    if dataset is None and root is None and manifest is None:
        from spamo_cache.datasets import environment

        found = environment.examine()
    else:
        found = _corpus(dataset, root, manifest, probe)
    if json:
        display.as_json(found.as_dict())
    else:
        _print(found.as_dict())
    if found.failed:
        raise typer.Exit(1)


def _corpus(dataset: str | None, root: Path | None, manifest: Path | None, probe: int) -> Diagnosis:
    from spamo_cache.datasets import doctor, registry
    from spamo_cache.datasets.manifest import Clip, Manifest
    from spamo_cache.errors import VideoError
    from spamo_cache.video import probe as look

    known: registry.Corpus | None
    table: Manifest | None
    if manifest is not None:
        table = Manifest.read(manifest, corpus=dataset)
        where = inputs.folder(root or manifest.parent)
        known = registry.CORPORA.get(table.corpus)
    else:
        table = None
        name = dataset or options.EMBEDDED
        known, where = registry.corpus(name), inputs.corpus_root(name, root)

    def frames(base: Path, clip: Clip) -> int:
        seen = look(base, clip)
        if seen.reason is not None:
            raise VideoError(seen.reason, where=clip.source)
        return seen.frames

    return doctor.lint(
        where,
        corpus=known,
        manifest=table,
        probe=frames if probe else None,
        sample=probe,
    )


def _print(document: Mapping[str, Any]) -> None:
    display.pairs(dict(_flat(document["facts"])))
    findings = [(f["level"], f["what"], f["where"], f["remedy"]) for f in document["findings"]]
    if findings:
        display.table(("", "what", "where", "to do"), findings)
    else:
        typer.echo("nothing to complain about")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value if value not in ({}, [], None) else "none"))
    return rows
