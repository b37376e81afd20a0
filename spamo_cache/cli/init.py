"""``spamo-cache init``: a pipeline for a corpus of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spamo_cache.cli import completion, display, options


def init(
    corpus: Annotated[str, typer.Argument(metavar="NAME", help="Name of your corpus.")],
    *,
    manifest: options.ManifestFile = None,
    root: options.Root = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="PIPELINE",
            help="Pipeline to stand on, by name or path [default: one that knows the language]",
            autocompletion=completion.pipelines,
        ),
    ] = None,
    spec: Annotated[
        str | None,
        typer.Option(
            "--spec",
            metavar="SPEC",
            help="Cache spec, by name or path [default: base's]",
            autocompletion=completion.specs,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write [default: NAME.yaml]"),
    ] = None,
) -> None:
    """Write a pipeline for a corpus of your own, to be edited: language, text, length of training.

    Nothing is overwritten.

    Example:

        spamo-cache init mine --manifest clips.csv
    """
    from spamo_cache.workflow.init import init as write

    made = write(corpus, manifest=manifest, root=root, base=base, spec=spec, output=output)
    for note in made.notes:
        display.say(f"note: {note}")
    display.pairs(
        {
            "pipeline": made.path,
            "base": made.base,
            "language": made.language,
            "clips": ", ".join(f"{split} {count:,}" for split, count in made.clips.items()),
        }
    )
    display.line("next:")
    for command in made.commands:
        display.line(f"  {command}")
