"""``spamo-cache store import`` and ``export``: features of others, and for others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spamo_cache.cli import display, options
from spamo_cache.errors import UsageError
from spamo_cache.workflow import resolve

if TYPE_CHECKING:
    from spamo_cache.store.export import Naming
    from spamo_cache.store.remote import Location

_SHOWN = 20

Official = Annotated[
    bool, typer.Option("--official", help="Files are named as the official release's.")
]


def import_(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of .npy/.npz files, or an HDF5 file.")
    ],
    *,
    corpus: Annotated[str, typer.Option("--dataset", "-d", help="Corpus the clips are of.")],
    stream: Annotated[str, typer.Option("--stream", help="Stream the features are.")],
    official: Official = False,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", metavar="FILE", help="Table of the clips there should be."),
    ] = None,
    dtype: Annotated[
        Literal["float16", "float32"] | None,
        typer.Option("--dtype", help="[default: the smallest that keeps every value as it is]"),
    ] = None,
    store: options.Store = None,
    json: options.Json = False,
) -> None:
    """Make a store of features that exist already, one array for each clip.

    What is in no state to be used is listed with its reason, and so are the manifest's clips
    without a file; exit code 1 then. `train --features STREAM=STORE` reads it.

    Example:

        spamo-cache store import old/features --dataset phoenix14t --stream spatial --official
    """
    from spamo_cache.datasets import registry
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.store import convert

    about = registry.CORPORA.get(corpus)
    listed = None if manifest is None else Manifest.read(manifest, corpus=corpus)
    common: dict[str, Any] = {
        "corpus": corpus,
        "stream": stream,
        "dtype": dtype,
        "terms": "" if about is None else about.terms,
        "known": None if listed is None else {clip.id: clip.split for clip in listed.clips()},
    }
    root = resolve.store_root(store)
    if source.is_dir():
        made = convert.import_npy(source, root, naming=_naming(official), **common)
    else:
        made = convert.import_hdf5(source, root, **common)
    if json:
        display.as_json(asdict(made))
    else:
        counts = {"clips": made.clips, "failed": len(made.failures), "left out": len(made.unknown)}
        display.pairs(counts, title=str(made.path))
    display.failures(list(made.failures.items()))
    for file in made.unknown[:_SHOWN]:
        display.say(f"left out, not in the manifest: {file}")
    if made.failures:
        raise typer.Exit(1)


def export(
    name: options.StoreName,
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="New .h5 or .hdf5 file, or a folder for .npy.")
    ],
    *,
    official: Official = False,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="FILE",
            help="With --official, write the release's annotation files of these clips, too.",
        ),
    ] = None,
) -> None:
    """Write a store's features as HDF5 or .npy, one array for each clip.

    With --official the folder is what the official code wants as feat_root or mae_feat_root.

    Example:

        spamo-cache store export phoenix14t/spatial spatial.h5
    """
    from spamo_cache.store import export as exports

    path = resolve.located(name)
    if manifest is not None and not official:
        raise UsageError("--manifest is for --official", remedy="give both, or neither")
    if target.suffix in {".h5", ".hdf5"}:
        count = exports.export_hdf5(path, target)
    else:
        count = exports.export_npy(path, target, naming=_naming(official))
    display.line(f"{count} clips: {target}")
    if manifest is not None:
        display.line(f"{_annotate(path, target, manifest)} clips in annotations: {target}")


def _annotate(store: Location, folder: Path, manifest: Path) -> int:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.datasets.official import write_annotations
    from spamo_cache.store.export import file_name
    from spamo_cache.store.reader import FeatureStore

    features = FeatureStore.open(store)
    table = Manifest.read(manifest, corpus=features.corpus)
    done = features.select(state="ok")
    # Features that came as files have no count; one row of a spatial stream is one frame.
    per_frame = features.stream == "spatial"
    frames = {
        clip: features.slot(clip).frames or (features.rows(clip) if per_frame else 0)
        for clip in done
    }
    return write_annotations(table, folder, frames=frames, file_name=file_name)


def _naming(official: bool) -> Naming:
    return "official" if official else "ids"
