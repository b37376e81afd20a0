"""Stores of what labs already have: HDF5, folders of ``.npy``/``.npz``, the official layout."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import StoreError, UsageError
from spamo_cache.store.export import MARKER, Naming
from spamo_cache.store.layout import ClipKey, Slot, StreamIdentity, canonical, fit, pack, sha256
from spamo_cache.store.records import load_json
from spamo_cache.store.writer import StoreWriter

_OFFICIAL = {"spatial": r"_s2wrapping", "motion": r"_overlap-\d+(-pretrained)?"}
_MAX_MARKER_BYTES = 1 << 30
_MAX_ARRAY_BYTES = 1 << 32


@dataclass(frozen=True, slots=True)
class _Item:
    """One clip to import."""

    id: str
    split: str
    source: str
    load: Callable[[], NDArray[Any]]


# --- import -------------------------------------------------------------------------------------


def import_npy(
    folder: Path,
    root: Path,
    *,
    corpus: str,
    stream: str,
    naming: Naming = "ids",
    **options: Any,
) -> Path:
    """Make a store of a folder with one ``.npy`` or ``.npz`` of (rows, width) for each clip.

    A file's name is its clip's id, the first folder on the way to it is its split.

    Args:
        naming: ``official`` takes the files that the official release calls this stream's, with
            whatever ending its versions give them (``_s2wrapping``, ``_overlap-8``,
            ``_overlap-8-pretrained``).
        options: see :func:`_import`.

    Returns:
        The store.

    Raises:
        UsageError: no such folder, no files in it, or two for one clip.
        StoreError: an unwritable root.
    """
    if not folder.is_dir():
        raise UsageError("no such folder", where=folder)
    items = _marked(folder) if (folder / MARKER).exists() else _named(folder, stream, naming)
    return _import(items, root, corpus=corpus, stream=stream, kind="npy", **options)


def import_hdf5(file: Path, root: Path, *, corpus: str, stream: str, **options: Any) -> Path:
    """Make a store of an HDF5 file with one (rows, width) dataset for each clip.

    The dataset's attribute ``id`` names its clip, else its own name; its attribute ``split`` or
    the first group on the way to it is the split. See :func:`_import` for the options.

    Raises:
        UsageError: no such file, no datasets, or two for one clip.
        StoreError: not an HDF5 file, or an unwritable root.
    """
    if not file.is_file():
        raise UsageError("no such file", where=file)
    try:
        with h5py.File(file, "r") as opened:
            found = _hdf5_items(opened, file.name)
            return _import(found, root, corpus=corpus, stream=stream, kind="hdf5", **options)
    except OSError as error:
        raise StoreError(f"is no HDF5 file: {error}", where=file) from None


def _import(
    items: Iterable[_Item],
    root: Path,
    *,
    corpus: str,
    stream: str,
    kind: str,
    spec: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    chunk_rows: int = 32,
    shard_rows: int = 16_384,
    terms: str = "",
) -> Path:
    """Write a store of foreign features; what cannot be a clip's is recorded as its failure.

    Args:
        spec: what the features are, see :func:`layout.stream_spec`, where it is known.
        dtype: float16 or float32; None keeps what the files have (float64 becomes float32).
        terms: terms of use of the corpus.
    """
    surveyed = [_survey(item) for item in sorted(items, key=lambda item: (item.split, item.id))]
    ids = sorted(entry.item.id for entry in surveyed)
    doubles = [a for a, b in pairwise(ids) if a == b]
    usable = [entry for entry in surveyed if not entry.reason]
    if doubles or not usable:
        what = f"two arrays for one clip: {doubles[0]}" if doubles else "no features to import"
        raise UsageError(what, where=root, remedy="check the folder, the stream and the naming")
    width = usable[0].width
    halves = all(entry.dtype == "float16" for entry in usable)
    contents = canonical([[entry.item.id, entry.sha256] for entry in surveyed])
    writer = StoreWriter.open(
        root,
        corpus=corpus,
        stream=stream,
        # Nobody can tell what made them: the features themselves are their identity.
        identity=StreamIdentity(spec or {"imported": kind}, sha256(contents), 0),
        weights=f"imported from {kind}",
        keys=[ClipKey(entry.item.id, entry.item.source, entry.size) for entry in surveyed],
        slots=_slots(surveyed, chunk_rows, shard_rows),
        width=width,
        dtype=dtype or ("float16" if halves else "float32"),
        chunk_rows=chunk_rows,
        shard_rows=shard_rows,
        terms=terms,
    )
    _write(writer, {entry.item.id: entry for entry in surveyed}, kind)
    return writer.path


@dataclass(frozen=True, slots=True)
class _Survey:
    """What a first look at an item found."""

    item: _Item
    rows: int = 0
    width: int = 0
    dtype: str = ""
    size: int = 0
    sha256: str = ""
    reason: str = ""


def _survey(item: _Item) -> _Survey:
    try:
        array = item.load()
    except (StoreError, OSError, ValueError, zipfile.BadZipFile) as error:
        return _Survey(item, reason=f"cannot be read: {error}")
    if array.ndim != 2 or not array.size or array.dtype.kind != "f":
        return _Survey(item, reason=f"holds {array.dtype} of {array.shape}, not rows of features")
    digest = sha256(np.ascontiguousarray(array).tobytes())
    rows, width = array.shape
    return _Survey(item, rows, width, str(array.dtype), array.nbytes, digest)


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
                except StoreError as error:
                    failures[slot.id] = error.what
            writer.publish(partition, features, failures, {"imported": kind})
    writer.seal()


# --- what there is to import --------------------------------------------------------------------


def _named(folder: Path, stream: str, naming: Naming) -> Iterator[_Item]:
    if naming == "official" and stream not in _OFFICIAL:
        raise UsageError(
            f"the official release has no stream {stream!r}", remedy="spatial or motion"
        )
    ending = re.compile(f"(?P<id>.+){_OFFICIAL[stream] if naming == 'official' else ''}")
    for path in sorted(folder.rglob("*.np[yz]")):
        found = ending.fullmatch(path.stem)
        if found is not None:
            relative = path.relative_to(folder)
            split = relative.parts[0] if len(relative.parts) > 1 else ""
            yield _Item(found["id"], split, relative.as_posix(), partial(_load_numpy, path))


def _marked(folder: Path) -> Iterator[_Item]:
    """The clips of a folder of ours, by the list that lies in it."""
    marker = load_json(folder / MARKER, _MAX_MARKER_BYTES)
    try:
        listed = [(str(name), str(e["id"]), str(e["split"])) for name, e in marker["clips"].items()]
    except (KeyError, TypeError, AttributeError):
        raise StoreError("is no list of exported clips", where=folder / MARKER) from None
    for name, clip, split in listed:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\0" in name:
            raise StoreError(f"names a file outside the folder: {name!r}", where=folder / MARKER)
        yield _Item(clip, split, name, partial(_load_numpy, folder / pure))


def _load_numpy(path: Path) -> NDArray[Any]:
    # Mapped: a header that promises more than the file holds is found before memory is asked for.
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return np.array(loaded)
    with loaded:
        names = loaded.files
        name = "features" if "features" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise StoreError(f"holds {len(names)} arrays, and none is called features")
        if sum(entry.file_size for entry in loaded.zip.infolist()) > _MAX_ARRAY_BYTES:
            raise StoreError(f"holds more than {_MAX_ARRAY_BYTES} bytes")
        array: NDArray[Any] = loaded[name]
        return array


def _load_hdf5(dataset: h5py.Dataset) -> NDArray[Any]:
    # Data that a dataset keeps in other files is not ours to read.
    if dataset.is_virtual or dataset.external:
        raise StoreError("keeps its data in other files")
    if dataset.nbytes > _MAX_ARRAY_BYTES:
        raise StoreError(f"holds more than {_MAX_ARRAY_BYTES} bytes")
    return np.asarray(dataset)


def _hdf5_items(file: h5py.File, name: str) -> list[_Item]:
    found: list[_Item] = []

    def visit(path: str, node: object) -> None:
        if isinstance(node, h5py.Dataset):
            group, _, own = path.rpartition("/")
            clip = _attribute(node, "id", own)
            split = _attribute(node, "split", group.split("/")[0])
            found.append(_Item(clip, split, f"{name}:{path}", partial(_load_hdf5, node)))

    file.visititems(visit)
    return found


def _attribute(dataset: h5py.Dataset, name: str, default: str) -> str:
    value = dataset.attrs.get(name, default)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
