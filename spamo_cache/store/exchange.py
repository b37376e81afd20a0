"""Features as files for others, and stores of features that others made."""

from __future__ import annotations

import glob
import os
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from spamo_cache import io
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.store import foreign
from spamo_cache.store.foreign import MARKER, UNREADABLE, VALID, VALID_OF, Item, Naming
from spamo_cache.store.layout import ClipKey, Slot, StreamIdentity, canonical, fit, pack, sha256
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.remote import Location
from spamo_cache.store.writer import StoreWriter

DType = Literal["float16", "float32"]
_MARK_BYTES = 4096
"""More than the mark of an unfinished export has."""


# --- export ---------------------------------------------------------------------------------------


def export_npy(
    store: Location,
    folder: Path,
    *,
    naming: Naming = "ids",
    dtype: str | None = None,
    annotate: Callable[[], None] | None = None,
) -> int:
    """Write each clip's features to ``<folder>/<split>/<name>.npy``.

    Of a store with validity, ``<name>.valid.npy`` beside it has a 1 for each row that is valid, and
    a 0 for each other. One that was interrupted is repeated in the same folder.

    Args:
        naming: ``ids``, or ``official``: the names that the official release reads.
        dtype: of the files; None is the store's, or float32 with official names.
        annotate: adds files of its own, last.

    Returns:
        Number of clips written; failed and absent ones have no file.

    Raises:
        UsageError: the folder holds files already, or the release has no such stream.
        StoreError: a store that cannot be read, a folder that cannot be written.
    """
    features = FeatureStore.open(store)
    files = _npy_files(features, naming, dtype)
    begun = folder / f"{MARKER}.unfinished"
    same = canonical({"fingerprint": features.fingerprint, "naming": naming, "dtype": dtype})
    with io.reading(folder):
        # Of a name that a kill cut off, the beginning is there.
        again = begun.is_file() and same.startswith(io.read_regular(begun, _MARK_BYTES))
        if folder.exists() and not again and any(folder.iterdir()):
            raise UsageError("the folder is not empty", where=folder, remedy="give a new one")
    with io.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        begun.write_bytes(same)
        for name, data in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        if annotate is not None:
            annotate()
        begun.unlink()
    return features.counts()["ok"]


def export_zip(
    store: Location, file: Path, *, naming: Naming = "ids", dtype: str | None = None
) -> int:
    """Write what :func:`export_npy` writes as one zip file, which ``numpy.load`` opens as it is.

    Returns:
        Number of clips written; failed and absent ones have no file.

    Raises:
        UsageError: the file exists, or the release has no such stream.
        StoreError: a store that cannot be read, a folder that cannot be written.
    """
    features = FeatureStore.open(store)
    files = _npy_files(features, naming, dtype)
    with _whole(file) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name, data in files:
            # Without a time: equal features give equal bytes.
            archive.writestr(zipfile.ZipInfo(name), data)
    return features.counts()["ok"]


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``file`` when the block is done, and goes if it fails."""
    with io.reading(file):
        if file.exists():
            raise UsageError("the file exists", where=file, remedy="give another name")
    unfinished = file.with_name(f"{file.name}.tmp")
    with io.writing(file):
        try:
            yield unfinished
            io.sync(unfinished)
            unfinished.replace(file)
        except BaseException:
            io.discard(unfinished)
            raise


def _npy_files(
    features: FeatureStore, naming: Naming, dtype: str | None
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the ``.npy`` files of all clips, then those of the marker.

    Raises:
        UsageError: the release has no such stream; at once, not with the first file.
        StoreError: two files would have one name; likewise.
    """
    _check_names(features)
    ending = _ending(features) if naming == "official" else ""
    kept = np.dtype(dtype or ("float32" if naming == "official" else features.dtype))
    return _named_files(features, f"{ending}.npy", kept)


def _named_files(
    features: FeatureStore, ending: str, dtype: np.dtype[Any]
) -> Iterator[tuple[str, bytes]]:
    listed: dict[str, dict[str, str]] = {}
    for split, clip, rows, valid in _clips(features):
        name = f"{io.file_name(split)}/{io.file_name(clip)}{ending}"
        listed[name] = {"id": clip, "split": split}
        yield name, _npy(rows.astype(dtype, copy=False))
        if valid is not None:
            beside = f"{name.removesuffix('.npy')}{VALID}.npy"
            listed[name]["valid"] = beside
            yield beside, _npy(valid)
    yield MARKER, canonical({"clips": listed, "store": _provenance(features)})


def _npy(array: NDArray[Any]) -> bytes:
    # In memory first: numpy does not say why a disk refuses.
    data = BytesIO()
    np.save(data, array, allow_pickle=False)
    return data.getvalue()


def export_hdf5(store: Location, file: Path) -> int:
    """Write one dataset for each clip, ``<split>/<id>``, with provenance as attributes.

    Of a store with validity, ``<split>/<id>.valid`` beside it has a 1 for each row that is valid.

    Returns:
        Number of clips written; failed and absent ones have no dataset.

    Raises:
        UsageError: the file exists.
        StoreError: a store that cannot be read, a folder that cannot be written.
    """
    features = FeatureStore.open(store)
    with _whole(file) as unfinished:
        return _fill(unfinished, features)


def _fill(file: Path, features: FeatureStore) -> int:
    """Write all clips to an HDF5 file; how many.

    Raises:
        OSError: the disk refuses.
    """
    _check_names(features)
    count = 0
    try:
        with h5py.File(file, "w") as opened:
            opened.attrs["spamo_cache"] = canonical(_provenance(features)).decode("ascii")
            for split, clip, rows, valid in _clips(features):
                name = f"{io.file_name(split)}/{io.file_name(clip)}"
                dataset = opened.create_dataset(name, data=rows, track_times=False)
                dataset.attrs["id"], dataset.attrs["split"] = clip, split
                if valid is not None:
                    beside = f"{name}{VALID}"
                    marks = opened.create_dataset(beside, data=valid, track_times=False)
                    marks.attrs[VALID_OF] = clip
                count += 1
    except (OSError, RuntimeError, ValueError) as error:
        # HDF5 tells the system's own error as text, among much else.
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(file)) from error
    return count


def export_webdataset(store: Location, file: Path) -> int:
    """Write tar files in WebDataset's layout: ``NAME-SPLIT-000000.tar`` for ``NAME.tar``.

    A sample is ``KEY.npy`` and ``KEY.json``, which tells the clip's id and split, and where the
    features come from; of a store with validity, ``KEY.valid.npy`` has a 1 for each valid row. A
    file has about 1 GiB at most, and no clip of another split.

    Returns:
        Number of clips written; failed and absent ones have no sample.

    Raises:
        UsageError: there are such files already.
        StoreError: a store that cannot be read, a folder that cannot be written.
    """
    features = FeatureStore.open(store)
    with io.reading(file.parent):
        for there in file.parent.glob(f"{glob.escape(file.stem)}-*.tar"):
            raise UsageError("the file exists", where=there, remedy="give another name")
    count = 0
    for split in features.splits:
        clips = features.select(split=split, state="ok")
        for number, part in enumerate(_parts(clips, features)):
            name = f"{file.stem}-{io.file_name(split)}-{number:06}.tar"
            with _whole(file.with_name(name)) as unfinished, tarfile.open(unfinished, "w") as tape:
                for clip in part:
                    _add_sample(tape, features, clip, split)
            count += len(part)
    return count


_SHARD_BYTES = 1 << 30


def _parts(clips: Sequence[str], features: FeatureStore) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for clip in clips:
        part.append(clip)
        size += features.rows(clip) * features.layout.row_bytes
        if size >= _SHARD_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _add_sample(tape: tarfile.TarFile, features: FeatureStore, clip: str, split: str) -> None:
    rows, valid = features.read_valid(clip)
    marks = [(f"{VALID[1:]}.npy", _npy(valid.astype(np.uint8)))] if features.has_validity else []
    about = {name: features.attributes[name] for name in ("corpus", "stream", "fingerprint")}
    sample = canonical({"id": clip, "split": split, **about})
    # What follows the first dot of a name is the kind of its content.
    key = io.file_name(clip).replace(".", "%2E")
    for ending, data in (("npy", _npy(rows)), *marks, ("json", sample)):
        # Without a time: equal features give equal bytes.
        entry = tarfile.TarInfo(f"{key}.{ending}")
        entry.size = len(data)
        tape.addfile(entry, BytesIO(data))


def _clips(
    features: FeatureStore,
) -> Iterator[tuple[str, str, NDArray[Any], NDArray[np.uint8] | None]]:
    """Split, id and rows of each clip and, where the store knows, which rows are valid."""
    for split in features.splits:
        for clip in features.select(split=split, state="ok"):
            rows, valid = features.read_valid(clip)
            yield split, clip, rows, valid.astype(np.uint8) if features.has_validity else None


def _check_names(features: FeatureStore) -> None:
    """Raise StoreError where what says which rows of a clip are valid would be named as another."""
    known = set(features.select(state="ok")) if features.has_validity else set()
    if odd := sorted(clip for clip in known if f"{clip}{VALID}" in known):
        raise StoreError(
            f"the valid rows of clip {odd[0]!r} would have the name of clip {odd[0] + VALID!r}",
            remedy="export as webdataset, or rename one of them in the manifest and extract",
        )


def _ending(features: FeatureStore) -> str:
    spec = features.attributes["spec"]
    if features.stream == "spatial":
        return "_s2wrapping"
    if features.stream == "motion":
        return f"_overlap-{spec.get('window', 16) - spec.get('stride', 8)}-pretrained"
    raise UsageError(f"the official release has no stream {features.stream!r}")


def _provenance(features: FeatureStore) -> dict[str, Any]:
    named = ("corpus", "stream", "fingerprint", "spec", "weights", "weights_sha256", "terms")
    return {name: features.attributes[name] for name in named}


# --- import ---------------------------------------------------------------------------------------


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


def import_features(
    source: Path,
    root: Path,
    *,
    corpus: str,
    stream: str,
    naming: Naming = "ids",
    **options: Any,
) -> Imported:
    """Make a store of a folder or file that holds an array of (rows, width) for each clip.

    A file's name is its clip's id; the first folder on the way to it is its split, in the official
    layout the last one. See :mod:`foreign` for the formats, and :func:`_import` for the options.

    Args:
        naming: ``official`` takes the files that the official release calls this stream's, with
            whatever ending its versions give them (``_s2wrapping``, ``_overlap-8``,
            ``_overlap-8-pretrained``).

    Raises:
        UsageError: no such source, no features in it, or two different ones for one clip.
        StoreError: a file of many clips that cannot be read, or an unwritable root.
    """
    with foreign.opened(source, stream, naming) as items:
        return _import(items, source, root, corpus=corpus, stream=stream, **options)


def _import(
    items: Iterable[Item],
    source: Path,
    root: Path,
    *,
    corpus: str,
    stream: str,
    known: Mapping[str, str] | None = None,
    spec: Mapping[str, Any] | None = None,
    dtype: DType | None = None,
    chunk_rows: int = 32,
    shard_rows: int = 16_384,
    terms: str = "",
) -> Imported:
    """Write a store of features from elsewhere; what cannot be a clip's is its failure.

    Args:
        known: the corpus's clips and their splits, if known: those without an array have failed,
            others are left out.
        spec: what the features are, see :func:`layout.stream_spec`, where it is known.
        dtype: None keeps every value as it is in the smallest type that can (float64 becomes
            float32).
        terms: terms of use of the corpus.
    """
    clips = _once(
        [_survey(item) for item in sorted(items, key=lambda item: (item.id, item.source))]
    )
    unknown = [] if known is None else [e.item.source for e in clips if e.item.id not in known]
    surveyed = clips if known is None else _of_corpus(clips, known)
    surveyed.sort(key=lambda entry: (entry.item.split, entry.item.id))
    usable = [entry for entry in surveyed if not entry.reason]
    if not usable:
        found = next((f": {e.item.source}: {e.reason}" for e in surveyed if e.reason), "")
        remedy = "check the folder, the stream and the naming"
        raise UsageError(f"no features to import{found}", where=source, remedy=remedy)
    contents = canonical([[entry.item.id, *entry.digests] for entry in surveyed])
    kind = foreign.kind_of(source)
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
        validity=any(entry.item.load_valid is not None for entry in usable),
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
    digests: tuple[str, ...] = ("",)
    """SHA-256 of the array and, where there is one, of its validity."""
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
    digests: tuple[str, ...] = (sha256(np.ascontiguousarray(array).tobytes()),)
    rows, width = array.shape
    if item.load_valid is not None:
        try:
            digests += (sha256(item.valid(rows).tobytes()),)
        except UNREADABLE as error:
            return _Survey(item, reason=f"cannot be read: {error}")
    return _Survey(item, rows, width, halves, array.nbytes, digests)


def _once(surveyed: list[_Survey]) -> list[_Survey]:
    """One entry for each clip; the release writes some files under two names.

    Raises:
        UsageError: two that are not the same.
    """
    kept: list[_Survey] = []
    for clip, group in groupby(surveyed, key=attrgetter("item.id")):
        first, *others = group
        for other in others:
            if (other.digests, other.item.split) != (first.digests, first.item.split):
                raise UsageError(
                    f"two arrays for one clip: {clip}",
                    where=f"{first.item.source} and {other.item.source}",
                    remedy="move the wrong ones away",
                )
        kept.append(first)
    return kept


def _of_corpus(surveyed: list[_Survey], known: Mapping[str, str]) -> list[_Survey]:
    """An entry for each clip of the corpus, in the corpus's split."""
    by_id = {entry.item.id: entry for entry in surveyed}
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
        with writer.lease(partition) as mine:
            if partition in finished or not mine:
                continue
            features: dict[str, NDArray[Any]] = {}
            valid: dict[str, NDArray[np.bool_]] = {}
            failures: dict[str, str] = {}
            for slot in writer.slots(partition):
                entry = surveyed[slot.id]
                try:
                    if entry.reason:
                        raise StoreError(entry.reason)
                    features[slot.id] = fit(entry.item.load(), slot.rows, writer.layout)
                    if writer.attributes.validity:
                        valid[slot.id] = entry.item.valid(slot.rows)
                except UNREADABLE as error:
                    failures[slot.id] = str(error)
            writer.publish(partition, features, failures, {"imported": kind}, valid=valid)
    writer.commit_index()
