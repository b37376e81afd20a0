"""``spamo-cache store info --clip --row``: from a row of features back to the frames it is of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamo_cache.cli import display
from spamo_cache.errors import StoreError, VideoError
from spamo_cache.workflow import resolve

if TYPE_CHECKING:
    from spamo_cache.store.remote import Location
    from spamo_cache.store.trace import Trace


def show(store: Location, clip: str, row: int, root: Path | None, *, json: bool) -> None:
    """Print the source and the frames of one row; with the corpus at hand, files or times too."""
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.store.trace import trace

    found = trace(FeatureStore.open(store), clip, row)
    there = {} if root is None else _there(found, resolve.folder(root))
    if json:
        display.as_json({**asdict(found), **there})
        return
    display.pairs(_words(found) | {name: _listed(value) for name, value in there.items()})


def _words(found: Trace) -> dict[str, object]:
    frames = "not recorded"
    if found.first is not None:
        frames = f"{found.first} to {found.last} of the source, counted from 0"
    told = {"clip": found.clip, "row": f"{found.row} of 0 to {found.rows - 1}"}
    told |= {"source": found.source, "range": _range(found), "frames": frames}
    if found.repeated:
        told["repeated"] = f"the last frame, {found.repeated} times more"
    return dict(told)


def _range(found: Trace) -> str:
    if found.start is None and found.end is None:
        return "all of it"
    start = "its beginning" if found.start is None else f"{found.start} s"
    return f"{start} to {'its end' if found.end is None else f'{found.end} s'}"


def _listed(values: list[Any]) -> str:
    return ", ".join(f"{value:.3f}" if isinstance(value, float) else value for value in values)


def _there(found: Trace, root: Path) -> dict[str, list[Any]]:
    """The files of an image folder's frames; of a video's, when the first and the last are shown.

    Nothing where the store does not know the frames.

    Raises:
        VideoError: the source cannot be read.
        StoreError: it is not what was extracted.
    """
    from spamo_cache.datasets.source_files import locate
    from spamo_cache.store.layout import ClipKey
    from spamo_cache.video import images, probe, timeline_cache

    if found.first is None or found.last is None:
        return {}
    key = ClipKey(found.clip, found.source, found.size, found.start, found.end)
    probed, path = probe(root, key), locate(root, found.source)
    if probed.reason is not None:
        raise VideoError(probed.reason, where=path, remedy="check --root")
    if (probed.size, probed.frames) != (found.size, found.frames):
        raise StoreError("is not the source that was extracted", where=path, remedy="check --root")
    if probed.span is None:
        files = images.listing(path)[found.first : found.last + 1]
        return {"files": [file.relative_to(root).as_posix() for file in files]}
    times = timeline_cache.timeline(path, path.stat())
    return {"seconds": times.seconds[[found.first, found.last]].tolist()}
