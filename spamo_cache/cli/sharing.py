"""``spamo-cache store push``, ``pull``, ``import`` and ``export``: features for others and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spamo_cache import human
from spamo_cache.cli import completion, display, options, watching

if TYPE_CHECKING:
    from spamo_cache.store.copy import Copied

Splits = Annotated[
    str | None,
    typer.Option("--split", help="Only these splits, separated by commas [default: all]"),
]
Ids = Annotated[
    Path | None,
    typer.Option(
        "--ids", metavar="FILE", help="Only the partitions of these clips, one id per line."
    ),
]

Official = Annotated[
    bool, typer.Option("--official", help="Files are named as the official release's.")
]
_SHOWN = 20


def push(
    name: options.StoreName,
    root: Annotated[str, typer.Argument(metavar="ROOT", help="Where to copy it.")],
    *,
    split: Splits = None,
    ids: Ids = None,
    accept_terms: Annotated[
        bool,
        typer.Option("--accept-terms", help="The corpus's terms of use allow sharing it there."),
    ] = False,
    create: Annotated[
        bool, typer.Option("--create", help="Make the Hub's dataset if there is none.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="With --create, make it a private one.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Copy a store to another root, verified; nothing different is ever overwritten.

    Rerun to resume an interrupted copy. Readers of the other root see finished partitions
    only. See `store ls --help` for what a root can be. In a dataset of the Hugging Face Hub, the
    README.md gets a block that describes the store.

    Example:

        spamo-cache store push phoenix14t/spatial s3://lab/features --split test --accept-terms
    """
    from spamo_cache.workflow import exchange, resolve

    wanted = None if ids is None else resolve.lines(ids)
    copied = exchange.push(
        name,
        root,
        split=split,
        ids=wanted,
        accept_terms=accept_terms,
        create=create,
        private=private,
        watcher=watching.watcher(),
    )
    _show(copied, wanted, json=json)


def pull(
    name: options.StoreName,
    *,
    root: Annotated[
        str | None, typer.Option("--from", metavar="ROOT", help="[default: SPAMO_CACHE's others]")
    ] = None,
    store: options.Store = None,
    split: Splits = None,
    ids: Ids = None,
    json: options.Json = False,
) -> None:
    """Copy a store of another root into your own, verified. Rerun to resume an interrupted copy.

    Example:

        spamo-cache store pull phoenix14t/spatial --from https://lab.example/features
    """
    from spamo_cache.workflow import exchange, resolve

    wanted = None if ids is None else resolve.lines(ids)
    copied = exchange.pull(
        name, root=root, store=store, split=split, ids=wanted, watcher=watching.watcher()
    )
    _show(copied, wanted, json=json)


def _show(copied: Copied, wanted: Sequence[str] | None, *, json: bool) -> None:
    if copied.terms:
        display.say(f"terms of use: {copied.terms}")
    if json:
        display.as_json(asdict(copied))
        return
    partitions = {f"partitions {outcome}": count for outcome, count in copied.partitions.items()}
    asked = {} if wanted is None else {"clips asked for": len(wanted)}
    shown = {**asked, "clips in whole partitions": copied.clips, **partitions}
    display.pairs({**shown, "copied": human.size(copied.bytes)}, title=str(copied.path))


def import_(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder or file of features, see below.")
    ],
    *,
    corpus: Annotated[
        str,
        typer.Option(
            "--dataset", "-d", help="Corpus the clips are of.", autocompletion=completion.corpora
        ),
    ],
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

    SOURCE is a folder of .npy, .npz, .pt, .pth, .pkl or .pose files, of zip or tar archives of them
    (which are not unpacked), or one file: an archive, HDF5, a dictionary of tensors, a pickle,
    gzipped or not, as phoenix14t.pami0.train. Nothing in it can run code.

    Unusable arrays are listed with their reasons, and so are the manifest's clips without a file;
    exit code 1 then. `train --features STREAM=STORE` reads it.

    Example:

        spamo-cache store import old/features --dataset phoenix14t --stream spatial --official
    """
    from spamo_cache.workflow.exchange import import_features

    made = import_features(
        source,
        corpus=corpus,
        stream=stream,
        official=official,
        manifest=manifest,
        dtype=dtype,
        store=store,
    )
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
        Path,
        typer.Argument(metavar="TARGET", help="New .h5, .zip or .tar file, or a folder for .npy."),
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
    """Write a store's features as HDF5, .npy or WebDataset, one array for each clip.

    A .zip holds what a folder would; numpy.load opens it as it is. NAME.tar stands for the files
    NAME-SPLIT-000000.tar and so on, in WebDataset's layout. With --official they are what
    the official code wants as feat_root or mae_feat_root.

    Example:

        spamo-cache store export phoenix14t/spatial spatial.h5
    """
    from spamo_cache.workflow.exchange import export_features

    clips, annotated = export_features(name, target, official=official, manifest=manifest)
    display.line(f"{human.count(clips, 'clip')}: {target}")
    if manifest is not None:
        display.line(f"{human.count(annotated, 'clip')} in annotations: {target}")
