"""``spamo-cache store push`` and ``pull``: stores on their way between roots."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spamo_cache import config
from spamo_cache.cli import display, options
from spamo_cache.workflow import resolve

if TYPE_CHECKING:
    from spamo_cache.store.remote import Location

Splits = Annotated[
    str | None, typer.Option("--split", help="Only these splits, with commas [default: all]")
]
Ids = Annotated[
    Path | None,
    typer.Option("--ids", metavar="FILE", help="Only the partitions of these clips, one a line."),
]


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
    json: options.Json = False,
) -> None:
    """Copy a store to another root, verified; nothing different is ever overwritten.

    Cut off, the same command goes on from there. Readers of the other root see finished partitions
    only. See `store ls --help` for what a root can be.

    Example:

        spamo-cache store push phoenix14t/spatial s3://lab/features --split test --accept-terms
    """
    _copy(resolve.located(name), root, split, ids, accept_terms=accept_terms, json=json)


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
    """Copy a store of another root into one's own, verified; cut off, it goes on from there.

    Example:

        spamo-cache store pull phoenix14t/spatial --from https://lab.example/features
    """
    own = resolve.store_root(store)
    roots = [root] if root is not None else [r for r in config.roots() if r != str(own)]
    _copy(resolve.located(name, roots), str(own), split, ids, json=json)


def _copy(
    store: Location,
    root: str,
    split: str | None,
    ids: Path | None,
    *,
    accept_terms: bool = False,
    json: bool,
) -> None:
    from spamo_cache.store import share

    wanted = None if ids is None else resolve.lines(ids)
    with display.progress(f"copying {store.stem}", "partitions") as advance:
        done = share.copy(
            store,
            root,
            splits=resolve.names(split),
            ids=wanted,
            accept_terms=accept_terms,
            progress=advance,
        )
    if done.terms:
        display.say(f"terms of use: {done.terms}")
    if json:
        display.as_json(asdict(done))
        return
    partitions = {f"partitions {outcome}": count for outcome, count in done.partitions.items()}
    asked = {} if wanted is None else {"clips asked for": len(wanted)}
    shown = {**asked, "clips in whole partitions": done.clips, **partitions}
    display.pairs({**shown, "copied": display.size(done.bytes)}, title=str(done.path))
