"""``spamo-cache doctor``: what would go wrong, before it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from spamo_cache.cli import completion, display, options, watching


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
    pipeline: Annotated[
        str | None,
        typer.Option(
            "--pipeline",
            metavar="PIPELINE",
            help="Pipeline whose LLM has to know the language [default: the corpus's, or init's]",
            autocompletion=completion.pipelines,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Check this machine; with a corpus, check the corpus as a careful colleague would.

    Where the LLM of the pipeline is on this machine, its tokenizer is tried on the sentences.

    Exit code 1 only for what would make results wrong.

    Example:

        spamo-cache doctor --dataset phoenix14t --root /data/PHOENIX-2014-T
    """
    from spamo_cache.workflow.doctor import examine

    found = examine(
        dataset,
        root=root,
        manifest=manifest,
        sample=sample,
        everything=everything,
        pipeline=pipeline,
        watcher=watching.watcher(),
    )
    if json:
        display.as_json(found.as_dict())
    else:
        _print(found.as_dict())
    if found.failed:
        raise typer.Exit(1)


def _print(document: Mapping[str, Any]) -> None:
    display.pairs(dict(_flat(document["facts"])))
    rows = []
    for found in document["findings"]:
        what, *more = found["what"].splitlines()  # a table's faults are a line each
        rows.append((found["level"], what, found["where"], found["remedy"]))
        rows += [("", line, "", "") for line in more]
    if rows:
        display.table(("", "what", "where", "to do"), rows)
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
