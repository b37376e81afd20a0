"""``spamo-cache store compare``: are my features theirs?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

import spamo_cache as sc
from spamo_cache.cli import completion, display, options, watching

if TYPE_CHECKING:
    from spamo_cache.store.compare import Cause, ClipComparison, Comparison

_SHOWN = 5


def compare(
    features: Annotated[
        str,
        typer.Argument(
            metavar="FEATURES", help="Whatever `store import` reads, or a store or its address."
        ),
    ],
    store: options.StoreName,
    *,
    root: options.Root = None,
    spec: Annotated[
        str | None,
        typer.Option(
            "--spec",
            metavar="SPEC",
            help="Cache spec of the store [default: that of the corpus's pipeline]",
            autocompletion=completion.specs,
        ),
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Say whether features of others are those of a store, and if not, why; exit code 1 then.

    Clips are found by their ids, whatever their files are called. They are equal (every value, in
    the coarser type), near (as many rows, relative error up to 0.01) or different. Of those that
    differ a sample is tried for the usual causes: another layer norm, stride, offset, tail, order,
    scale, centring or precision. With the videos at hand (--root) a few clips are computed again
    in other ways: another layer, token, resize, crop, frame rate, offset, arithmetic, BGR.

    Example:

        spamo-cache store compare downloads/mae_feat_Phoenix14T phoenix14t/motion
    """
    found = sc.compare(
        features, store, root=root, spec=spec, device=device, watcher=watching.watcher()
    )
    if json:
        display.as_json({**asdict(found), "counts": found.counts, "same": found.same})
    else:
        _show(found)
    if not found.same:
        raise typer.Exit(1)


def _show(found: Comparison) -> None:
    by = ", ".join(f"{rule} ({count:,})" for rule, count in found.aligned.items())
    about = {
        "features": found.features,
        "store": found.store,
        "found by": by,
        "only in FEATURES": f"{len(found.unknown):,} clips" if found.unknown else "",
        "only in STORE": f"{found.missing:,} clips" if found.missing else "",
    }
    display.pairs({name: value for name, value in about.items() if value})
    display.line()
    rows = [_row(name, [c for c in found.clips if c.verdict == name]) for name in found.counts]
    display.columns(_HEADS, rows, right=_HEADS[1:])
    different = sorted(
        (clip for clip in found.clips if clip.verdict == "different"),
        key=lambda clip: -(clip.error if clip.error is not None else float("inf")),
    )
    for clip in different[:_SHOWN]:
        display.line(f"  {clip.clip}: {clip.reason or _figures(clip)}")
    if len(different) > _SHOWN:
        display.line(f"  ... and {len(different) - _SHOWN:,} more")
    for note in found.notes:
        display.say(f"note: {note}")
    display.line()
    _show_causes(found)


_HEADS = ("", "clips", "rows", "STORE's", "cosine", "error, median", "largest")


def _row(verdict: str, clips: Sequence[ClipComparison]) -> tuple[str, ...]:
    known = [clip for clip in clips if clip.cosine is not None and clip.error is not None]
    rows = [sum(clip.rows[k] for clip in clips) for k in range(2)]
    if not known:
        return (verdict, f"{len(clips):,}", f"{rows[0]:,}", f"{rows[1]:,}", "", "", "")
    cosine = sum(clip.cosine or 0.0 for clip in known) / len(known)
    errors = sorted(clip.error or 0.0 for clip in known)
    figures = (f"{cosine:.6f}", f"{errors[len(errors) // 2]:.2g}", f"{errors[-1]:.2g}")
    return (verdict, f"{len(clips):,}", f"{rows[0]:,}", f"{rows[1]:,}", *figures)


def _figures(clip: ClipComparison) -> str:
    theirs, ours = clip.rows
    rows = f"{theirs:,} rows" if theirs == ours else f"{theirs:,} rows, not {ours:,}"
    if clip.error is None:
        return rows
    return f"{rows}, cosine {clip.cosine:.4f}, relative error {clip.error:.2g}"


def _show_causes(found: Comparison) -> None:
    if found.cause is not None:
        cause = found.cause
        display.line(f"cause: {cause.what}")
        display.line(f"  what it leaves: {_left(cause)}")
    elif found.same:
        display.line("the same" if not found.counts["near"] else "the same but for rounding")
    else:
        display.line("no cause found: nothing that was tried explains the differences")
    if found.same or not found.tried:
        return
    best = {cause.kind: cause for cause in reversed(found.tried)}
    others = [c for c in found.tried if best[c.kind] is c and c is not found.cause]
    display.title(f"the best of each other kind, of {len(found.tried):,} tried")
    rows = [(one.kind, f"{one.error:.2g}", f"{one.cosine:.4f}", one.what) for one in others]
    display.columns(("kind", "leaves", "cosine", "what"), rows, right=("leaves", "cosine"))


def _left(cause: Cause) -> str:
    return f"relative error {cause.error:.2g}, cosine {cause.cosine:.6f}, in {cause.rows:,} rows"
