"""``spamo-cache store``: what lies in the roots, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import spamo_cache as sc
from spamo_cache import human
from spamo_cache.cli import completion, display, options, watching
from spamo_cache.cli.comparing import compare
from spamo_cache.cli.sharing import export, import_, pull, push
from spamo_cache.errors import UsageError, printable

if TYPE_CHECKING:
    from spamo_cache.store.inspect import ClipInfo, Trace
    from spamo_cache.store.inventory import Spare, StoreEntry
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.store.remote import Location
    from spamo_cache.store.verify import Report

app = typer.Typer(no_args_is_help=True, help="Look at feature stores, check, share, convert them.")


def ls(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ROOT|STORE...",
            help="Roots, corpora or stores [default: SPAMO_CACHE's roots]",
            autocompletion=completion.stores,
        ),
    ] = None,
    *,
    json: options.Json = False,
) -> None:
    """List the stores of every root, in the order in which they are searched.

    `clips` are those with features, of all there are; what a running extraction has finished
    counts. `size` is the sum of the sizes of a store's files. The notes say what tells stores of
    one stream apart, what failed, and who is at work.

    SPAMO_CACHE names the roots: SPAMO_CACHE=/scratch/me:/nfs/lab/features:s3://lab/features.
    One is a folder; s3://BUCKET/PREFIX, with server and keys by AWS_ENDPOINT_URL, AWS_REGION,
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true where anybody may read;
    hf://datasets/ORG/NAME at the Hugging Face Hub, or hf://datasets/ORG/NAME@REVISION/PREFIX, with
    the login of `hf auth login` or HF_TOKEN; or the https:// address of a folder, for reading only.

    Example:

        spamo-cache store ls phoenix14t
    """
    from spamo_cache import config

    entries = sc.list_stores(names)
    if json:
        display.as_json([asdict(entry) for entry in entries])
    elif not entries:
        display.say(f"no stores in {', '.join(names or config.roots())}")
    else:
        _list(entries)
    if any(entry.damaged for entry in entries):
        raise typer.Exit(1)


def _list(entries: Sequence[StoreEntry]) -> None:
    from spamo_cache.store.inventory import traits

    notes = traits(entries)
    roots = list(dict.fromkeys(entry.root for entry in entries))
    for root in roots:
        within = [k for k, entry in enumerate(entries) if entry.root == root]
        display.title(f"{root}:")
        rows = [_row(entries[k], notes[k]) for k in within]
        display.columns(_HEADS, rows, right=("clips", "size", "age"))
        display.line(_total([entries[k] for k in within]))
        display.line()
    if len(roots) > 1:
        display.line(f"in {len(roots)} roots: {_total(entries)}")


_HEADS = ("store", "clips", "size", "age", "by", "notes")


def _row(entry: StoreEntry, note: str) -> Sequence[str]:
    from spamo_cache.store.roots import name_of

    if entry.damaged:
        return (name_of(entry.path), "", _size(entry.bytes), "", "", f"unreadable: {entry.damaged}")
    done, total = entry.states["ok"], sum(entry.states.values())
    notes = [
        note,
        f"{entry.states['failed']:,} failed" if entry.states["failed"] else "",
        f"being written by {_writers(entry.at_work)}" if entry.at_work else "",
    ]
    return (
        name_of(entry.path),
        f"{done:,} of {total:,}",
        _size(entry.bytes),
        human.age(entry.created),
        entry.created_by,
        "; ".join(filter(None, notes)),
    )


def _writers(at_work: Mapping[str, str]) -> str:
    return ", ".join(sorted({holder.partition(" since ")[0] for holder in at_work.values()}))


def _size(count: int | None) -> str:
    return "?" if count is None else human.size(count)


def _total(entries: Sequence[StoreEntry]) -> str:
    known = [entry.bytes for entry in entries if entry.bytes is not None]
    size = human.size(sum(known)) + (
        " and what web servers hold" if len(known) < len(entries) else ""
    )
    return f"{human.count(len(entries), 'store')}, {size}"


def info(
    name: options.StoreName,
    *,
    clips: Annotated[
        bool,
        typer.Option("--clips", help="List the clips: id, split, rows, state, reason."),
    ] = False,
    clip: Annotated[
        str | None, typer.Option("--clip", metavar="ID", help="Show this clip instead.")
    ] = None,
    row: Annotated[
        int | None,
        typer.Option(
            "--row", metavar="N", help="With --clip, trace one of its rows, counted from 0."
        ),
    ] = None,
    root: options.Root = None,
    poses: options.Poses = None,
    json: options.Json = False,
) -> None:
    """Show all that is known of one store: how it was computed, by whom, what failed.

    Or its clips, a line each, set apart by tabs where they go to a file (with --json, a JSON object
    a line). Or one clip. Or one row: which frames of which source it stands for; with --root, which
    image files, or when in the video they are shown, and the box that a region was cut to.

    Example:

        spamo-cache store info phoenix14t/motion --clip ID --row 3 --root /data/PHOENIX-2014-T
    """
    from spamo_cache.store import inspect
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.workflow import resolve

    if row is not None and clip is None:
        raise UsageError("--row is a row of a clip", remedy="name the clip by --clip ID")
    if root is not None and row is None:
        raise UsageError("--root is for a row's frames", remedy="name it by --clip ID and --row N")
    if clips and clip is not None:
        raise UsageError("--clips lists all clips, --clip shows one", remedy="give one of them")
    store = resolve.located(name)
    if clips:
        _list_clips(FeatureStore.open(store), json=json)
    elif clip is None:
        known = inspect.info(store)
        if json:
            display.as_json(known)
        else:
            _show_store(known)
    elif row is None:
        found = inspect.clip_info(FeatureStore.open(store), clip)
        if json:
            display.as_json(asdict(found))
        else:
            display.pairs(_clip_pairs(found))
    else:
        _show_row(store, clip, row, root, poses, json=json)


def _list_clips(store: FeatureStore, *, json: bool) -> None:
    from spamo_cache.store.inspect import ClipLine, clip_lines

    listed = clip_lines(store)
    if json:
        display.as_lines(clip._asdict() for clip in listed)
        return
    longest = max(map(len, ("split", *store.splits)))
    widths = (store.ids.raw.itemsize, longest, len("1,000,000"), len("absent"))
    display.listing(ClipLine._fields, listed, widths=widths)


def _show_store(known: Mapping[str, Any]) -> None:
    from spamo_cache.store.inventory import in_words

    states = known["states"]
    rows = sum(split["rows"] for split in known["splits"].values())
    display.title(f"{known['corpus']}/{known['stream']}-{known['fingerprint'][:12]}")
    made = f"{known['created']} by {known['created_by']}"
    about = {
        "path": known["path"],
        "pulled from": known["origin"] != known["path"] and known["origin"],
        "size": f"{_size(known['bytes'])}, the sum of its files",
        "clips": ", ".join(f"{count:,} {state}" for state, count in states.items()),
        "features": f"{rows:,} rows of {known['width']:,} {known['dtype']}",
        "partitions": f"{known['partitions_done']:,} finished",
        "created": f"{made}, {human.age(known['created'])} ago",
        "made with": ", ".join(f"{name} {of}" for name, of in sorted(known["versions"].items())),
        "fingerprint": known["fingerprint"],
        "weights": f"{known['weights']} (sha256 {known['weights_sha256'][:12]})",
        "clip list": f"sha256 {known['corpus_sha256'][:12]}",
        "poses": known.get("poses") and f"{known['poses']} (sha256 {known['poses_sha256'][:12]})",
        "manifest": known["manifest_sha256"] and f"sha256 {known['manifest_sha256'][:12]}",
        "terms of use": known["terms"],
    }
    display.pairs({name: value for name, value in about.items() if value})
    display.title("computed as")
    display.pairs({name: in_words(value) for name, value in known["spec"].items()})
    heads = [
        "split",
        "ok",
        "failed",
        "absent",
        "rows",
        *(["valid"] if known.get("validity") else []),
    ]
    counts = [
        (split, *(_number(numbers[head]) for head in heads[1:]))
        for split, numbers in known["splits"].items()
    ]
    display.columns(heads, counts, right=heads[1:])
    _section("computed by", known["made_by"])
    work = known["at_work"].items()
    _section("being written", [f"{_lease(name)}: {holder}" for name, holder in work])
    failed = [f"{clip}: {why}" for clip, why in known["failures"].items()]
    more = len(failed) - _SHOWN
    _section("failed", failed[:_SHOWN] + [f"... and {more:,} more, see --clips"] * (more > 0))


_SHOWN = 20


def _number(value: float | None) -> str:
    """A count, or a share in percent."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.1%}"


def _lease(name: str) -> str:
    return f"partition {name}" if name.isdecimal() else name.partition("-")[0]


def _section(title: str, lines: Sequence[str]) -> None:
    if lines:
        display.title(title)
    for text in lines:
        display.line(f"  {text}")


def _clip_pairs(clip: ClipInfo) -> dict[str, object]:
    frames = "not recorded"
    if clip.frames:
        last = clip.first + clip.frames - 1
        frames = f"{clip.frames:,}: {clip.first:,} to {last:,} of the source, counted from 0"
    pairs: dict[str, object] = {
        "clip": clip.clip,
        "split": clip.split,
        "state": clip.state,
        "reason": clip.reason,
        "rows": clip.rows,
        "source": f"{clip.source} ({human.size(clip.size)})",
        "range": _range(clip),
        "crop": clip.crop and ", ".join(map(str, clip.crop)),
        "frames": frames,
        "partition": clip.partition,
    }
    return {name: value for name, value in pairs.items() if value is not None}


def _show_row(
    store: Location, clip: str, row: int, root: Path | None, poses: Path | None, *, json: bool
) -> None:
    from spamo_cache.store.inspect import trace
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.workflow.frames import box_of_row, frames_of_row

    opened = FeatureStore.open(store)
    traced = trace(opened, clip, row)
    frames = {} if root is None else frames_of_row(traced, root)
    box = None if root is None else box_of_row(opened, traced, root, poses)
    if json:
        boxed = {} if box is None else {"box": box}
        display.as_json({**asdict(traced), **frames, **boxed})
        return
    listed = {name: ", ".join(map(_frame, values)) for name, values in frames.items()}
    if box is not None:
        listed["box"] = (
            f"{box['side']}x{box['side']} pixels from {box['left']}, {box['top']} on, in a frame "
            f"of {box['width']}x{box['height']}"
        )
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
    if row.valid is not None:
        pairs["valid"] = "yes" if row.valid else "no: what it is about was not seen"
    if row.repeated:
        pairs["repeated"] = f"the last frame, {row.repeated} times more"
    return pairs


def _range(row: Trace | ClipInfo) -> str:
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

    Of a store on a server the sizes of its files are compared, at the Hub the checksums that it
    lists; with --deep every byte is fetched.

    Example:

        spamo-cache store verify phoenix14t/spatial --deep
    """
    from spamo_cache.store import verify as checks
    from spamo_cache.workflow import resolve

    path = _local(name) if repair else resolve.located(name)
    with watching.watcher().task("verify", path.stem, "partitions") as advance:
        found = checks.verify(path, deep=deep, progress=advance)
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
    elif isinstance(found.path, Path):
        display.line("to do: run again with --repair, which removes what is damaged, then extract")


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


def prune(
    root: Annotated[
        str | None,
        typer.Argument(metavar="ROOT", help="[default: first of SPAMO_CACHE]"),
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: options.Json = False,
) -> None:
    """Remove the superseded and unfinished stores of a root, after showing which and how large.

    Superseded is a store of whose every clip a newer one, computed alike, has features. Unfinished
    is one with a split that was begun and not ended. Stores that somebody is at work on are left,
    and so are those that a run below runs/ was trained from. With --json nothing is asked: only
    --yes removes, and what stays has its reason as `kept`.

    Example:

        spamo-cache store prune /scratch/me
    """
    from spamo_cache.workflow.stores import remove_spare, spare_stores

    found = spare_stores(root)
    if json:
        display.as_json([asdict(spare) for spare in (remove_spare(found) if yes else found)])
        return
    _tell_kept(found)
    going = [spare for spare in found if not spare.kept]
    if not going:
        display.line("nothing to remove")
        return
    _list_spare(going)
    if not yes:
        typer.confirm(f"remove {_total([spare.entry for spare in going])}?", abort=True)
    done = remove_spare(going)
    _tell_kept(done)
    display.line(f"removed {_total([spare.entry for spare in done if not spare.kept])}")


def _list_spare(found: Sequence[Spare]) -> None:
    from spamo_cache.store.roots import name_of

    rows = [(name_of(spare.entry.path), _size(spare.entry.bytes), spare.why) for spare in found]
    display.columns(("store", "size", "why"), rows, right=("size",))


def _tell_kept(found: Sequence[Spare]) -> None:
    from spamo_cache.store.roots import name_of

    for spare in found:
        if spare.kept:
            display.say(f"left: {name_of(spare.entry.path)} ({spare.why}): {spare.kept}")


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


for _command in (ls, info, verify, diff, compare, push, pull, import_, export, rm, prune):
    app.command(_command.__name__.rstrip("_"))(options.with_verbosity(_command))
