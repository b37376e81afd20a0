"""``spamo-cache doctor``: what would go wrong, before it does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spamo_cache.cli import display, inputs, options
from spamo_cache.errors import UsageError

if TYPE_CHECKING:
    from spamo_cache.datasets.doctor import Diagnosis


def doctor(
    *,
    dataset: options.Dataset = None,
    root: options.Root = None,
    manifest: options.ManifestFile = None,
    sample: Annotated[
        int | None,
        typer.Option("--sample", metavar="N", min=0, help="Clips to decode [default: 64]"),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Decode every clip; takes as long as extracting them.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Check this machine; with a corpus, check the corpus as a careful colleague would.

    Exit code 1 only for what would make results wrong.

    Example:

        spamo-cache doctor --dataset phoenix14t --root /data/PHOENIX-2014-T
    """
    if dataset is None and root is None and manifest is None:
        from spamo_cache.datasets.doctor import environment

        found = environment.examine()
    else:
        found = _corpus(dataset, root, manifest, _number(sample, everything=everything))
    if json:
        display.as_json(found.as_dict())
    else:
        _print(found.as_dict())
    if found.failed:
        raise typer.Exit(1)


def _number(sample: int | None, *, everything: bool) -> int | None:
    from spamo_cache.datasets.doctor import SAMPLE

    if not everything:
        return SAMPLE if sample is None else sample
    if sample is not None:
        raise UsageError("--all and --sample exclude each other", remedy="leave one of them out")
    return None


def _corpus(
    dataset: str | None, root: Path | None, manifest: Path | None, sample: int | None
) -> Diagnosis:
    from spamo_cache.datasets import registry
    from spamo_cache.datasets.doctor import lint
    from spamo_cache.datasets.manifest import Manifest

    if manifest is not None:
        known, where = None, inputs.folder(root or manifest.parent)
        load = partial(Manifest.read, manifest, corpus=dataset)
        if not manifest.exists():
            load()  # a slip of the user's is an error, not a finding
    else:
        name = dataset or options.EMBEDDED
        known, where = registry.corpus(name), inputs.corpus_root(name, root)
        load = partial(known.manifest, where)
    with display.progress("decoding a sample", "clips") as advance:
        return lint(where, load, corpus=known, sample=sample, progress=advance)


def _print(document: Mapping[str, Any]) -> None:
    display.pairs(dict(_flat(document["facts"])))
    findings = [(f["level"], f["what"], f["where"], f["remedy"]) for f in document["findings"]]
    if findings:
        display.table(("", "what", "where", "to do"), findings)
    else:
        display.line("nothing to complain about")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value if value not in ({}, [], None) else "none"))
    return rows
