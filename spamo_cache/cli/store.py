"""``spamo-cache store``: what lies in the roots, and what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spamo_cache import config
from spamo_cache.cli import display, inputs, options

if TYPE_CHECKING:
    from spamo_cache.store.catalogue import Entry
    from spamo_cache.store.export import Naming
    from spamo_cache.store.verify import Report

app = typer.Typer(no_args_is_help=True, help="Look at feature stores, check, share, convert them.")

Name = Annotated[
    str,
    typer.Argument(metavar="STORE", help="Path, or CORPUS/STREAM with or without -FINGERPRINT."),
]
Official = Annotated[
    bool, typer.Option("--official", help="Files are named as the official release's.")
]
Splits = Annotated[
    str | None, typer.Option("--split", help="Only these splits, with commas [default: all]")
]


@app.command()
def ls(
    roots: Annotated[
        list[str] | None, typer.Argument(metavar="ROOT...", help="[default: SPAMO_CACHE's]")
    ] = None,
    *,
    json: options.Json = False,
) -> None:
    """List the stores of every root, in the order in which they are searched.

    Example:

        spamo-cache store ls
    """
    from spamo_cache.store import catalogue

    entries = catalogue.stores(roots or config.roots())
    if json:
        display.as_json([asdict(entry) for entry in entries])
    else:
        columns = ("store", "ok", "failed", "absent", "size", "made", "by", "root")
        display.table(columns, [_row(entry) for entry in entries])
    if any(entry.damaged for entry in entries):
        raise typer.Exit(1)


def _row(entry: Entry) -> Sequence[object]:
    name = f"{entry.corpus}/{entry.path.stem}"
    counts = [entry.clips.get(state, 0) for state in ("ok", "failed", "absent")]
    by = f"damaged: {entry.damaged}" if entry.damaged else entry.owner
    return (name, *counts, display.size(entry.bytes), entry.created[:10], by, entry.root)


@app.command()
def info(name: Name, *, json: options.Json = False) -> None:
    """Tell all that is known of one store: how it was computed, by whom, what failed.

    Example:

        spamo-cache store info phoenix14t/spatial
    """
    from spamo_cache.store import catalogue

    known = catalogue.info(_located(name))
    if json:
        display.as_json(known)
    else:
        display.pairs(known)


@app.command()
def verify(
    name: Name,
    *,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare every byte with its checksums.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged; extract computes it again.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Check whether a store is what it says; exit code 1 if it is not.

    Example:

        spamo-cache store verify phoenix14t/spatial --deep
    """
    from spamo_cache.store import verify as checks

    with display.progress("verifying", "partitions") as advance:
        found = checks.verify(_located(name), deep=deep, progress=advance)
    if repair and not found.sound:
        checks.repair(found)
    if json:
        display.as_json({**asdict(found), "sound": found.sound, "repaired": repair})
    else:
        _tell(found, repaired=repair)
    if not (found.sound or repair):
        raise typer.Exit(1)


def _tell(found: Report, *, repaired: bool) -> None:
    display.pairs(found.clips, title=str(found.path))
    for problem in found.problems:
        typer.echo(f"problem: {problem}")
    for partition, why in found.partitions.items():
        typer.echo(f"partition {partition}: {why}")
    for damage in found.damaged:
        typer.echo(f"clip {damage.clip}: {damage.why}")
    for note in found.notes:
        typer.echo(f"note: {note}")
    if found.sound:
        typer.echo("sound" + ("" if found.deep else " as far as a quick look tells; try --deep"))
    elif repaired:
        typer.echo("the damage is removed; run extract again to compute it anew")


@app.command()
def diff(first: Name, second: Name, *, json: options.Json = False) -> None:
    """Say in words why two stores differ; exit code 1 if they do.

    Example:

        spamo-cache store diff phoenix14t/motion-3f2a91 /nfs/lab/phoenix14t/motion-77b0c4.zarr
    """
    from spamo_cache.store import catalogue

    found = catalogue.diff(_located(first), _located(second))
    if json:
        display.as_json(found)
    else:
        for sentence in found or ["no difference"]:
            typer.echo(sentence)
    if found:
        raise typer.Exit(1)


@app.command()
def push(
    name: Name,
    root: Annotated[str, typer.Argument(metavar="ROOT", help="Where to copy it.")],
    *,
    split: Splits = None,
    json: options.Json = False,
) -> None:
    """Copy a store to another root, verified; nothing different is ever overwritten.

    Example:

        spamo-cache store push phoenix14t/spatial /nfs/lab/features --split test
    """
    _copy(_located(name), root, split, json=json)


@app.command()
def pull(
    name: Name,
    *,
    root: Annotated[
        str | None, typer.Option("--from", metavar="ROOT", help="[default: SPAMO_CACHE's others]")
    ] = None,
    store: options.Store = None,
    split: Splits = None,
    json: options.Json = False,
) -> None:
    """Copy a store of another root into one's own.

    Example:

        spamo-cache store pull phoenix14t/spatial --from /nfs/lab/features
    """
    own = inputs.store_root(store)
    roots = [root] if root is not None else [r for r in config.roots() if r != str(own)]
    _copy(_located(name, roots), str(own), split, json=json)


def _copy(path: Path, root: str, split: str | None, *, json: bool) -> None:
    from spamo_cache.store import share

    with display.progress(f"copying {path.stem}", "partitions") as advance:
        done = share.push(path, root, splits=inputs.names(split), progress=advance)
    if json:
        display.as_json(asdict(done))
    else:
        display.pairs(done.partitions, title=f"partitions: {done.path}")


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of .npy/.npz files, or an HDF5 file.")
    ],
    *,
    corpus: Annotated[str, typer.Option("--dataset", "-d", help="Corpus the clips are of.")],
    stream: Annotated[str, typer.Option("--stream", help="Stream the features are.")],
    official: Official = False,
    store: options.Store = None,
) -> None:
    """Make a store of features that exist already, one array for each clip.

    Example:

        spamo-cache store import old/features --dataset phoenix14t --stream spatial --official
    """
    from spamo_cache.datasets import registry
    from spamo_cache.store import convert

    known = registry.CORPORA.get(corpus)
    terms = "" if known is None else known.terms
    root = inputs.store_root(store)
    if source.is_dir():
        made = convert.import_npy(
            source, root, corpus=corpus, stream=stream, naming=_naming(official), terms=terms
        )
    else:
        made = convert.import_hdf5(source, root, corpus=corpus, stream=stream, terms=terms)
    typer.echo(made)


@app.command()
def export(
    name: Name,
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="New .h5 or .hdf5 file, or a folder for .npy.")
    ],
    *,
    official: Official = False,
) -> None:
    """Write a store's features as HDF5 or .npy, one array for each clip.

    Example:

        spamo-cache store export phoenix14t/spatial spatial.h5
    """
    from spamo_cache.store import export as exports

    path = _located(name)
    if target.suffix in {".h5", ".hdf5"}:
        count = exports.export_hdf5(path, target)
    else:
        count = exports.export_npy(path, target, naming=_naming(official))
    typer.echo(f"{count} clips: {target}")


def _naming(official: bool) -> Naming:
    return "official" if official else "ids"


@app.command()
def rm(
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a store.

    Example:

        spamo-cache store rm phoenix14t/motion-3f2a91 --yes
    """
    from spamo_cache.store import catalogue

    path = _located(name)
    if not yes:
        typer.confirm(f"remove {path} and compute it again when it is needed?", abort=True)
    catalogue.remove(path)
    typer.echo(f"removed {path}")


def _located(name: str, roots: list[str] | None = None) -> Path:
    from spamo_cache.store import catalogue

    return catalogue.locate(name, config.roots() if roots is None else roots)
