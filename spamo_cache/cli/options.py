"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spamo_cache import devices
from spamo_cache.cli import completion, watching
from spamo_cache.workflow import EMBEDDED

Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "-d",
        metavar="D",
        help=f"Corpus by name; with --manifest, the name you give it [default: {EMBEDDED}]",
        autocompletion=completion.corpora,
    ),
]
Poses = Annotated[
    Path | None,
    typer.Option(
        "--poses",
        metavar="DIR",
        help="Folder of the clips' .pose files by id [default: poses below --root]",
    ),
]
Root = Annotated[
    Path | None, typer.Option("--root", metavar="DIR", help="Folder that holds the raw corpus.")
]
ManifestFile = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="Table of the clips (CSV, TSV, JSON Lines, Parquet), in place of a known corpus.",
    ),
]
ContentWords = Annotated[
    Path | None,
    typer.Option(
        "--content-words",
        metavar="FILE",
        help="Words that have to be right, one per line [default: the corpus's list, or numbers]",
    ),
]
Size = Annotated[
    int | None,
    typer.Option("--size", metavar="N", min=1, help="Clips of a bundled corpus to draw."),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="ROOT",
        help="Root to write feature stores to [default: first of SPAMO_CACHE]",
    ),
]
Search = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="ROOT", help="Root to look for feature stores in before SPAMO_CACHE's."
    ),
]
StoreName = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="Path, address, CORPUS, or CORPUS/STREAM with -FINGERPRINT or not.",
        autocompletion=completion.stores,
    ),
]
LLM = Annotated[
    Path | None,
    typer.Option(
        "--llm", metavar="DIR", help="Folder of the run's LLM [default: where it was trained]"
    ),
]
Spec = Annotated[
    str | None,
    typer.Option(
        "--spec",
        metavar="SPEC",
        help="The run's cache spec [default: where it was trained]",
        autocompletion=completion.specs,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
JsonLines = Annotated[
    bool,
    typer.Option(
        "--json", help="JSON Lines on stdout: progress, warnings, failures, and last the summary."
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", callback=devices.check, help="auto, cpu, cuda or cuda:N."),
]
Pipeline = Annotated[
    str,
    typer.Argument(
        metavar="PIPELINE",
        help="Pipeline file, or a folder of pipelines/ by name.",
        autocompletion=completion.pipelines,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help="A sample of at most N clips per split."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as in translate.lr=1e-4."),
]
SpecOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the spec, as in streams.motion.stride=4.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler", metavar="ADDRESS", help="Address of a Dask scheduler: tls://host:8786."
    ),
]
Slurm = Annotated[
    Path | None, typer.Option("--slurm", metavar="FILE", help="YAML of a Slurm cluster.")
]
Run = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="Folder of a run.", autocompletion=completion.runs),
]
Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Folders of runs.", autocompletion=completion.runs),
]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", min=1, help="Extracting processes.")
]
Executor = Annotated[
    Literal["dask", "serial"],
    typer.Option("--executor", help="serial works in this process, for debugging."),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Tell more: stores, device, each failed clip."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print errors and the result, nothing else.")
]


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options -v and -q, which all of them have."""
    added = {"verbose": Verbose, "quiet": Quiet}

    @functools.wraps(command)
    def run(*args: Any, verbose: bool = False, quiet: bool = False, **options: Any) -> None:
        watching.change_verbosity(verbose=verbose, quiet=quiet)
        command(*args, **options)

    # typer reads options from signature and annotations, which are words until somebody asks.
    signature = inspect.signature(command, eval_str=True)
    parameters = dict(signature.parameters) | {
        name: inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind
        )
        for name, kind in added.items()
    }
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(parameters.values())
    )
    run.__annotations__ = {name: one.annotation for name, one in parameters.items()}
    return run
