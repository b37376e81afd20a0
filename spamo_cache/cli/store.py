"""``spamo-cache store``: what lies in the roots, and what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import spamo_cache as sc
from spamo_cache import human
from spamo_cache.cli import display, options
from spamo_cache.cli.sharing import export, import_, pull, push
from spamo_cache.errors import UsageError, printable

if TYPE_CHECKING:
    from spamo_cache.store.inspect import Trace
    from spamo_cache.store.inventory import StoreEntry
    from spamo_cache.store.remote import Location
    from spamo_cache.store.verify import Report

app = typer.Typer(no_args_is_help=True, help="Look at feature stores, check, share, convert them.")


def ls(
    roots: Annotated[
        list[str] | None, typer.Argument(metavar="ROOT...", help="[default: SPAMO_CACHE's]")
    ] = None,
    *,
    json: options.Json = False,
) -> None:
    """List the stores of every root, in the order in which they are searched.

    SPAMO_CACHE names the roots: SPAMO_CACHE=/scratch/me:/nfs/lab/features:s3://lab/features.
    One is a folder; s3://BUCKET/PREFIX, with server and keys by AWS_ENDPOINT_URL, AWS_REGION,
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true where anybody may read;
    or the https:// address of a folder, for reading only.

    Example:

        spamo-cache store ls /nfs/lab/features s3://lab/features
    """
    entries = sc.list_stores(roots)
    if json:
        display.as_json([asdict(entry) for entry in entries])
    else:
        columns = ("store", "done", "failed", "size", "age", "by", "root")
        display.table(columns, [_row(entry) for entry in entries])
    if any(entry.damaged for entry in entries):
        raise typer.Exit(1)


def _row(entry: StoreEntry) -> Sequence[object]:
    if entry.damaged:
        return (str(entry.path), "", "", "", "", f"damaged: {entry.damaged}", entry.root)
    done, total = entry.clips["ok"] + entry.clips["failed"], sum(entry.clips.values())
    size = "?" if entry.bytes is None else human.size(entry.bytes)
    age = human.age(entry.created)
    name = f"{entry.corpus}/{entry.path.stem}"
    return (
        name,
        f"{done:,} of {total:,}",
        entry.clips["failed"],
        size,
        age,
        entry.owner,
        entry.root,
    )


def info(
    name: options.StoreName,
    *,
    clip: Annotated[
        str | None, typer.Option("--clip", metavar="ID", help="Trace a row of this clip instead.")
    ] = None,
    row: Annotated[
        int | None, typer.Option("--row", metavar="N", help="The row, counted from 0.")
    ] = None,
    root: options.Root = None,
    json: options.Json = False,
) -> None:
    """Show all that is known of one store: how it was computed, by whom, what failed.

    Or of one row: which frames of which source it stands for; with --root, which image files, or
    when in the video they are shown.

    Example:

        spamo-cache store info phoenix14t/motion --clip ID --row 3 --root /data/PHOENIX-2014-T
    """
    from spamo_cache.store.inspect import info
    from spamo_cache.workflow import resolve

    store = resolve.located(name)
    if clip is not None and row is not None:
        _show_row(store, clip, row, root, json=json)
        return
    if any(given is not None for given in (clip, row, root)):
        raise UsageError("a row is named by --clip ID and --row N together")
    known = info(store)
    if json:
        display.as_json(known)
    else:
        display.pairs(known)


def _show_row(store: Location, clip: str, row: int, root: Path | None, *, json: bool) -> None:
    from spamo_cache.store.inspect import trace
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.workflow.frames import frames_of_row

    traced = trace(FeatureStore.open(store), clip, row)
    frames = {} if root is None else frames_of_row(traced, root)
    if json:
        display.as_json({**asdict(traced), **frames})
        return
    listed = {name: ", ".join(map(_frame, values)) for name, values in frames.items()}
    display.pairs(_row_pairs(traced) | listed)


def _frame(place: str | float) -> str:
    return f"{place:.3f}" if isinstance(place, float) else place


def _row_pairs(row: Trace) -> dict[str, object]:
    frames = "not recorded"
    if row.first is not None:
        frames = f"{row.first} to {row.last} of the source, counted from 0"
    pairs: dict[str, object] = {
        "clip": row.clip,
        "row": f"{row.row} of 0 to {row.rows - 1}",
        "source": row.source,
        "range": _range(row),
        "frames": frames,
    }
    if row.repeated:
        pairs["repeated"] = f"the last frame, {row.repeated} times more"
    return pairs


def _range(row: Trace) -> str:
    if row.start is None and row.end is None:
        return "all of it"
    start = "its beginning" if row.start is None else f"{row.start} s"
    return f"{start} to {'its end' if row.end is None else f'{row.end} s'}"


def verify(
    name: options.StoreName,
    *,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare every byte with its checksums.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged; extract computes it again.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Check a store against its checksums; exit code 1 if it is damaged.

    Example:

        spamo-cache store verify phoenix14t/spatial --deep
    """
    from spamo_cache.store import verify as checks

    with display.progress("verifying", "partitions") as advance:
        found = checks.verify(_local(name), deep=deep, progress=advance)
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
        display.line(f"problem: {problem}")
    for partition, why in found.partitions.items():
        display.line(f"partition {partition}: {why}")
    for damage in found.damaged:
        display.line(f"clip {damage.clip}: {damage.why}")
    for note in found.notes:
        display.line(f"note: {note}")
    if found.sound:
        display.line("sound" + ("" if found.deep else " as far as a quick look tells; try --deep"))
    elif repaired:
        display.line("the damage is removed; run extract again to compute it anew")


def diff(
    first: options.StoreName, second: options.StoreName, *, json: options.Json = False
) -> None:
    """Say in words why two stores differ; exit code 1 if they do.

    Example:

        spamo-cache store diff phoenix14t/motion-3f2a91 /nfs/lab/phoenix14t/motion-77b0c4.zarr
    """
    from spamo_cache.store.inspect import diff
    from spamo_cache.workflow import resolve

    found = diff(resolve.located(first), resolve.located(second))
    if json:
        display.as_json(found)
    else:
        for sentence in found or ["no difference"]:
            display.line(sentence)
    if found:
        raise typer.Exit(1)


def rm(
    name: options.StoreName,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a store.

    Example:

        spamo-cache store rm phoenix14t/motion-3f2a91 --yes
    """
    from spamo_cache import config
    from spamo_cache.store import inventory
    from spamo_cache.workflow import resolve

    try:
        path = resolve.located(name)
    except UsageError:
        inventory.sweep(config.roots())  # of a removal that was killed the rest may be left
        raise
    if not yes:
        # On a terminal, prompts are written by readline, past the net around stdout.
        question = f"remove {path} and compute it again when it is needed?"
        typer.confirm(printable(question), abort=True)
    inventory.remove(path)
    display.line(f"removed {path}")


def _local(name: str) -> Path:
    from spamo_cache.workflow import resolve

    found = resolve.located(name)
    if not isinstance(found, Path):
        raise UsageError(
            "lies in a remote root",
            where=found,
            remedy="pull it: every byte is verified then",
        )
    return found


for _command in (ls, info, verify, diff, push, pull, import_, export, rm):
    app.command(_command.__name__.rstrip("_"))(_command)
