"""Stores of what labs already have: HDF5, folders of ``.npy``/``.npz``, the official layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import StoreError, UsageError
from spamo_cache.store import foreign
from spamo_cache.store.export import Naming
from spamo_cache.store.foreign import UNREADABLE, Item
from spamo_cache.store.layout import ClipKey, Slot, StreamIdentity, canonical, fit, pack, sha256
from spamo_cache.store.writer import StoreWriter

DType = Literal["float16", "float32"]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made.

    Attributes:
        path: the store.
        clips: clips in it, failed ones included.
        failures: clip id -> why it has no features.
        unknown: files of clips that are not the corpus's, which were left out.
    """

    path: Path
    clips: int
    failures: dict[str, str]
    unknown: list[str]


def import_npy(
    folder: Path,
    root: Path,
    *,
    corpus: str,
    stream: str,
    naming: Naming = "ids",
    **options: Any,
) -> Imported:
    """Make a store of a folder with one ``.npy`` or ``.npz`` of (rows, width) for each clip.

    A file's name is its clip's id; the first folder on the way to it is its split, in the official
    layout the last one.

    Args:
        naming: ``official`` takes the files that the official release calls this stream's, with
            whatever ending its versions give them (``_s2wrapping``, ``_overlap-8``,
            ``_overlap-8-pretrained``).
        options: see :func:`_import`.

    Raises:
        UsageError: no such folder, no files in it, or two different ones for one clip.
        StoreError: an unwritable root.
    """
    if not folder.is_dir():
        raise UsageError("no such folder", where=folder)
    items = foreign.arrays(folder, stream, naming)
    return _import(items, root, corpus=corpus, stream=stream, kind="npy", **options)


def import_hdf5(file: Path, root: Path, *, corpus: str, stream: str, **options: Any) -> Imported:
    """Make a store of an HDF5 file with one (rows, width) dataset for each clip.

    The dataset's attribute ``id`` names its clip, else its own name; its attribute ``split`` or
    the first group on the way to it is the split. See :func:`_import` for the options.

    Raises:
        UsageError: no such file, no datasets, or two different ones for one clip.
        StoreError: not an HDF5 file, or an unwritable root.
    """
    if not file.is_file():
        raise UsageError("no such file", where=file)
    try:
        with h5py.File(file, "r") as opened:
            items = foreign.datasets(opened, file.name)
            return _import(items, root, corpus=corpus, stream=stream, kind="hdf5", **options)
    except (OSError, RuntimeError, KeyError) as error:
        raise StoreError(f"is no sound HDF5 file: {error}", where=file) from None


def _import(
    items: Iterable[Item],
    root: Path,
    *,
    corpus: str,
    stream: str,
    kind: str,
    known: Mapping[str, str] | None = None,
    spec: Mapping[str, Any] | None = None,
    dtype: DType | None = None,
    chunk_rows: int = 32,
    shard_rows: int = 16_384,
    terms: str = "",
) -> Imported:
    """Write a store of foreign features; what cannot be a clip's is recorded as its failure.

    Args:
        known: the corpus's clips and their splits, if known: those without an array have failed,
            others are left out.
        spec: what the features are, see :func:`layout.stream_spec`, where it is known.
        dtype: None keeps every value as it is in the smallest type that can (float64 becomes
            float32).
        terms: terms of use of the corpus.
    """
    found = _once(
        [_survey(item) for item in sorted(items, key=lambda item: (item.id, item.source))]
    )
    unknown = [] if known is None else [e.item.source for e in found if e.item.id not in known]
    surveyed = found if known is None else _of_corpus(found, known)
    surveyed.sort(key=lambda entry: (entry.item.split, entry.item.id))
    usable = [entry for entry in surveyed if not entry.reason]
    if not usable:
        remedy = "check the folder, the stream and the naming"
        raise UsageError("no features to import", where=root, remedy=remedy)
    contents = canonical([[entry.item.id, entry.sha256] for entry in surveyed])
    dtype = dtype or ("float16" if all(entry.halves for entry in usable) else "float32")
    form = {"dtype": dtype, "chunk_rows": chunk_rows, "shard_rows": shard_rows}
    writer = StoreWriter.open(
        root,
        corpus=corpus,
        stream=stream,
        # Nobody can tell what made them: the features themselves are their identity.
        identity=StreamIdentity(spec or {"imported": kind, **form}, sha256(contents), 0),
        weights=f"imported from {kind}",
        keys=[ClipKey(entry.item.id, entry.item.source, entry.size) for entry in surveyed],
        slots=_slots(surveyed, chunk_rows, shard_rows),
        # Of several widths the usual one; the others fail.
        width=Counter(entry.width for entry in usable).most_common(1)[0][0],
        dtype=dtype,
        chunk_rows=chunk_rows,
        shard_rows=shard_rows,
        terms=terms,
    )
    _write(writer, {entry.item.id: entry for entry in surveyed}, kind)
    failures = {clip: why for done in writer.receipts for clip, why in done.failures.items()}
    return Imported(writer.path, len(surveyed), failures, unknown)


@dataclass(frozen=True, slots=True)
class _Survey:
    """What a first look at an item found."""

    item: Item
    rows: int = 0
    width: int = 0
    halves: bool = False
    """Whether float16 holds every value."""
    size: int = 0
    sha256: str = ""
    reason: str = ""


def _survey(item: Item) -> _Survey:
    try:
        array = item.load()
    except UNREADABLE as error:
        return _Survey(item, reason=f"cannot be read: {error}")
    if array.ndim != 2 or not array.size or array.dtype.kind != "f":
        return _Survey(item, reason=f"holds {array.dtype} of {array.shape}, not rows of features")
    if not np.isfinite(array).all():
        return _Survey(item, reason="holds values that are not finite")
    with np.errstate(over="ignore"):
        halves = bool((array.astype(np.float16) == array).all())
    digest = sha256(np.ascontiguousarray(array).tobytes())
    rows, width = array.shape
    return _Survey(item, rows, width, halves, array.nbytes, digest)


def _once(surveyed: list[_Survey]) -> list[_Survey]:
    """One entry for each clip; the release writes some files under two names.

    Raises:
        UsageError: two that are not the same.
    """
    kept: list[_Survey] = []
    for clip, group in groupby(surveyed, key=attrgetter("item.id")):
        first, *others = group
        for other in others:
            if (other.sha256, other.item.split) != (first.sha256, first.item.split):
                raise UsageError(
                    f"two arrays for one clip: {clip}",
                    where=f"{first.item.source} and {other.item.source}",
                    remedy="move the wrong ones away",
                )
        kept.append(first)
    return kept


def _of_corpus(found: list[_Survey], known: Mapping[str, str]) -> list[_Survey]:
    """An entry for each clip of the corpus, in the corpus's split."""
    by_id = {entry.item.id: entry for entry in found}
    entries: list[_Survey] = []
    for clip, split in known.items():
        entry = by_id.get(clip) or _Survey(Item(clip, split, "", _nothing), reason="has no file")
        entries.append(replace(entry, item=replace(entry.item, split=split)))
    return entries


def _nothing() -> NDArray[Any]:
    raise StoreError("has no file")


def _slots(surveyed: list[_Survey], chunk_rows: int, shard_rows: int) -> list[Slot]:
    items = [entry.item for entry in surveyed]
    rows = [entry.rows for entry in surveyed]
    partitions, first = pack(
        [[count] for count in rows],
        [item.split for item in items],
        chunk_rows=[chunk_rows],
        shard_rows=[shard_rows],
    )
    places = zip(items, partitions.tolist(), first[:, 0].tolist(), rows, strict=True)
    return [Slot(item.id, item.split, *place) for item, *place in places]


def _write(writer: StoreWriter, surveyed: Mapping[str, _Survey], kind: str) -> None:
    finished = writer.finished()
    for partition in range(writer.attributes.partitions):
        with writer.claim(partition) as mine:
            if partition in finished or not mine:
                continue
            features: dict[str, NDArray[Any]] = {}
            failures: dict[str, str] = {}
            for slot in writer.slots(partition):
                entry = surveyed[slot.id]
                try:
                    if entry.reason:
                        raise StoreError(entry.reason)
                    features[slot.id] = fit(entry.item.load(), slot.rows, writer.geometry)
                except UNREADABLE as error:
                    failures[slot.id] = str(error)
            writer.publish(partition, features, failures, {"imported": kind})
    writer.seal()
