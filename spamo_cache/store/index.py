"""The clip index: one Zarr column per property, in complete generations behind one pointer.

A generation's folder is named by the SHA-256 of its ``zarr.json``, which holds the SHA-256 of every
column: the pointer vouches for all of it. No time and no name of a machine is in it, so equal
features give equal bytes, whatever the order in which partitions were finished.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import compress, repeat
from pathlib import Path
from typing import Annotated, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from spamo_cache import io
from spamo_cache.config import StrictModel
from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.attributes import MAX_PARTITIONS, Attributes, Sha256, load_group, validated
from spamo_cache.store.layout import (
    CHECKSUM_BYTES,
    FORMAT,
    VALIDITY_FORMAT,
    ChunkLayout,
    ClipKey,
    Slot,
    canonical,
    column_metadata,
    crc32c,
    group_metadata,
    sha256,
)
from spamo_cache.store.receipts import Receipt
from spamo_cache.store.remote import Location, read_file

MAX_TEXT_BYTES = 1024
MAX_INDEX_BYTES = 1 << 31
_NAME_CHARACTERS = 16
_SMALL_BYTES = 1 << 20
"""Of a local index that is read sooner than threads are started."""

ABSENT, OK, FAILED = 0, 1, 2
State = Literal["absent", "ok", "failed"]
STATES: tuple[State, ...] = ("absent", "ok", "failed")

Columns = dict[str, NDArray[Any]]
PLACE = ("partition", "row", "rows", "split", "first", "frames")
"""The columns that say where a clip goes."""

DType = Literal["uint8", "uint32", "int16", "int32", "int64", "float64"]

# Every column's type and number of dimensions; texts are UTF-8 bytes, padded with zeros.
_SCHEMA: dict[str, tuple[DType, int]] = {
    "id": ("uint8", 2),
    "partition": ("int32", 1),
    "row": ("int64", 1),
    "rows": ("int32", 1),
    "split": ("int16", 1),
    "first": ("int32", 1),
    "frames": ("int32", 1),
    "state": ("uint8", 1),
    "checksum": ("uint32", 1),
    "source": ("uint8", 2),
    "size": ("int64", 1),
    "start": ("float64", 1),
    "end": ("float64", 1),
    "crop": ("float64", 2),
    "pose": ("uint8", 2),
    "failed": ("int64", 1),
    "reason": ("uint8", 2),
    "valid": ("uint8", 1),
}
_PER_FAILURE = {"failed", "reason"}
_PER_ROW = {"valid"}
"""Of ``features``; only in stores that say which rows are valid. Padding is not."""
_SOURCE = {"source", "size", "start", "end", "crop", "pose"}


Chosen = slice | NDArray[np.int64]
"""Positions of clips, in order of ids."""
EVERY = slice(None)


# --- string columns -------------------------------------------------------------------------------


def encode_strings(texts: Sequence[str], kind: str) -> NDArray[np.uint8]:
    """Texts as a (N, width) column of UTF-8 bytes.

    Raises:
        StoreError: a text with NUL or half a character in it, or of more than 1024 bytes.
    """
    encoded = [_utf8(text, kind) for text in texts]
    width = max([1, *map(len, encoded)])
    column = np.array(encoded, dtype=f"S{width}")
    return column.view(np.uint8).reshape(len(encoded), width)


def _utf8(text: str, kind: str) -> bytes:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise StoreError(f"the {kind} {text!r} is not valid Unicode") from None
    if b"\0" in data or len(data) > MAX_TEXT_BYTES:
        raise StoreError(f"the {kind} {text[:40]!r} holds NUL or over {MAX_TEXT_BYTES} bytes")
    return data


class StringColumn(Sequence[str]):
    """A text column, decoded as it is asked for: a million ids cost no million objects."""

    def __init__(self, column: NDArray[np.uint8]) -> None:
        # The view's items drop the padding, and numpy compares them as bytes: code point order.
        self.raw: NDArray[np.bytes_] = column.view(f"S{column.shape[1]}").reshape(len(column))

    def __len__(self) -> int:
        return len(self.raw)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [_decoded(item) for item in self.raw[index]]
        return _decoded(self.raw[index])

    def __iter__(self) -> Iterator[str]:
        return map(_decoded, self.raw)

    def positions(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Where each text stands in this sorted column; -1 where it does not."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        sought = np.array(encoded, dtype=self.raw.dtype)
        nearest = np.minimum(np.searchsorted(self.raw, sought), len(self.raw) - 1)
        # As bytes: numpy has cut what is too long, and takes a NUL at the end for padding.
        pairs = zip(nearest.tolist(), self.raw[nearest].tolist(), encoded, strict=True)
        return np.array([at if there == data else -1 for at, there, data in pairs], np.int64)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise DamagedError(f"a text of the clip index is not UTF-8: {data[:40]!r}") from None


# --- columns: from the plan, and from what receipts say of it -------------------------------------


def plan(
    keys: Sequence[ClipKey], slots: Sequence[Slot], layout: ChunkLayout
) -> tuple[Columns, tuple[str, ...]]:
    """The index of a store in which nothing is done yet: columns sorted by id, and the splits.

    Raises:
        StoreError: keys and slots of different clips, or slots that cannot hold together.
    """
    by_id = {key.id: key for key in keys}
    slots = sorted(slots, key=lambda slot: slot.id)
    if len(by_id) != len(keys) or [slot.id for slot in slots] != sorted(by_id):
        raise StoreError("the plan's clips and the corpus's clips are not the same")
    if not slots:
        raise StoreError("there are no clips to plan a store for")
    splits = tuple(sorted({slot.split for slot in slots}))
    _check_slots(slots, layout)
    ordered = [by_id[slot.id] for slot in slots]
    columns: Columns = {
        "id": encode_strings([slot.id for slot in slots], "clip id"),
        "partition": np.array([slot.partition for slot in slots], "<i4"),
        "row": np.array([slot.row for slot in slots], "<i8"),
        "rows": np.array([slot.rows for slot in slots], "<i4"),
        "split": np.array([splits.index(slot.split) for slot in slots], "<i2"),
        "first": np.array([slot.first for slot in slots], "<i4"),
        "frames": np.array([slot.frames for slot in slots], "<i4"),
        **identities(ordered),
    }
    return with_receipts(columns, ()), splits


def identities(keys: Sequence[ClipKey]) -> Columns:
    """What identifies the clips' sources, in the keys' order: source, size, start, end, crop.

    And the pose, where any clip has one.
    """
    nan = float("nan")
    poses = [key.pose for key in keys]
    return {
        "source": encode_strings([key.source for key in keys], "source"),
        "size": np.array([key.size for key in keys], "<i8"),
        "start": np.array([nan if key.start is None else key.start for key in keys], "<f8"),
        "end": np.array([nan if key.end is None else key.end for key in keys], "<f8"),
        "crop": np.array([key.crop or (nan,) * 4 for key in keys], "<f8"),
        **({"pose": encode_strings(poses, "pose")} if any(poses) else {}),
    }


def _check_slots(slots: Sequence[Slot], layout: ChunkLayout) -> None:
    end, partition, split = 0, -1, ""
    for slot in sorted(slots, key=lambda slot: (slot.partition, slot.row)):
        if slot.partition != partition:
            partition, split = slot.partition, slot.split
            end = partition * layout.shard_rows
        if slot.split != split:
            raise StoreError(f"partition {partition} holds clips of two splits", where=slot.id)
        if not slot.id or slot.rows < 0 or partition < 0:
            raise StoreError(f"not a slot: {slot}")
        if slot.rows == 0:
            continue
        shard_end = (partition + 1) * layout.shard_rows
        misplaced = slot.row < end or slot.row + slot.rows > shard_end
        if misplaced or slot.row % layout.chunk_rows:
            raise StoreError(f"rows overlap, cross a shard or start within a chunk: {slot}")
        end = slot.row + slot.rows


def room(attributes: Attributes, columns: Columns) -> int:
    """Partitions that a store with this plan has room for: those it was begun with, and later."""
    return max(attributes.partitions, int(columns["partition"].max()) + 1)


def goes_on(known: Columns, wanted: Columns) -> bool:
    """Whether a plan only gives later partitions to clips without features of just these frames."""
    moved, other = (
        np.any([known[name] != wanted[name] for name in names], axis=0)
        for names in (PLACE, ("first", "frames"))
    )
    other &= (known["frames"] > 0) & (wanted["frames"] > 0)
    after = int(known["partition"].max())
    return bool(
        ((known["state"] != OK) | other)[moved].all()
        and (wanted["partition"][moved] > after).all()
        and np.array_equal(known["split"], wanted["split"])
    )


def with_receipts(
    columns: Columns, receipts: Iterable[Receipt], attributes: Attributes | None = None
) -> Columns:
    """The plan with the states that receipts give its clips.

    A receipt may name clips that were given a place in a later partition since: those are not its
    own any more.

    Args:
        attributes: of the store, where the columns are to say which rows are valid if it does.

    Raises:
        DamagedError: a receipt for clips, rows or a partition that were not planned.
    """
    ids = StringColumn(columns["id"])
    state = np.zeros(len(ids), np.uint8)
    checksum = np.zeros(len(ids), "<u4")
    valid = None
    if attributes is not None and attributes.validity:
        valid = np.zeros(room(attributes, columns) * attributes.shard_rows, np.uint8)
    sizes = np.bincount(columns["partition"])
    reasons: dict[int, str] = {}
    for receipt in receipts:
        positions = ids.positions([*receipt.clips, *receipt.failures])
        partition = columns["partition"][positions]
        here, done = partition == receipt.partition, len(receipt.clips)
        entries = list(compress(receipt.clips.values(), here[:done]))
        ok, failed = positions[:done][here[:done]], positions[done:][here[done:]]
        if not (
            receipt.partition < len(sizes)
            and (positions >= 0).all()
            and (partition >= receipt.partition).all()
            and sizes[receipt.partition] == np.count_nonzero(here)
            and len(positions) == len(set(positions.tolist()))
            and columns["rows"][ok].tolist() == [clip.rows for clip in entries]
        ):
            raise DamagedError(f"receipt {receipt.partition} disagrees with the plan")
        state[ok], state[failed] = OK, FAILED
        checksum[ok] = [clip.crc32c for clip in entries]
        if valid is not None:
            for row, clip in zip(columns["row"][ok].tolist(), entries, strict=True):
                valid[row : row + clip.rows] = clip.valid
        why = compress(receipt.failures.values(), here[done:])
        reasons.update(zip(failed.tolist(), why, strict=True))
    positions = np.array(sorted(reasons), "<i8")
    texts = encode_strings([reasons[position] for position in positions.tolist()], "reason")
    known = {**columns, "state": state, "checksum": checksum, "failed": positions, "reason": texts}
    known.pop("valid", None)
    return known if valid is None else {**known, "valid": valid}


# --- a generation on disk -------------------------------------------------------------------------


class ColumnRecord(StrictModel):
    """Type, shape and checksum of one column's only chunk."""

    dtype: DType
    shape: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=2)]
    sha256: Sha256

    @property
    def size(self) -> int:
        """Size of the chunk's file; 0 where there is none."""
        values = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        return values + CHECKSUM_BYTES if values else 0

    def metadata(self, name: str) -> bytes:
        """``zarr.json`` of the column called ``name``."""
        per = "row" if name in _PER_ROW else "clip"
        return canonical(column_metadata(self.shape, self.dtype, per))


class Generation(StrictModel):
    """One complete state of the index."""

    format: int
    splits: tuple[str, ...]
    columns: Mapping[str, ColumnRecord]


def write_generation(path: Path, desk: Path, columns: Columns, splits: tuple[str, ...]) -> None:
    """Make this the current generation of the store at ``path``; earlier ones are removed.

    Readers of an earlier one have read what they need or follow the pointer again.

    Args:
        desk: a folder on the same disk; if it vanishes, nothing is changed from then on.

    Raises:
        OSError: a disk that refuses, or no desk.
    """
    chunks = {name: _chunk(column) for name, column in columns.items()}
    records = {
        name: ColumnRecord(dtype=_SCHEMA[name][0], shape=column.shape, sha256=sha256(chunks[name]))
        for name, column in columns.items()
    }
    form = VALIDITY_FORMAT if "valid" in columns else FORMAT
    generation = Generation(format=form, splits=splits, columns=records)
    document = canonical(group_metadata(generation.model_dump(mode="json")))
    digest = sha256(document)
    contents = {Path("zarr.json"): document}
    for name, record in records.items():
        contents[Path(name, "zarr.json")] = record.metadata(name)
        if record.size:
            contents[Path(name, _key(record))] = chunks[name]

    def fill(folder: Path) -> None:
        for file, data in contents.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(data)

    clips = path / "clips"
    folder = clips / digest[:_NAME_CHARACTERS]
    if not (folder.exists() and _holds(folder, contents)):
        _set_aside(folder, desk)
        io.create_folder(folder, fill, desk)
    io.replace(clips / "zarr.json", pointer(digest), desk)
    for old in clips.iterdir():
        if old.name not in {"zarr.json", folder.name}:
            _set_aside(old, desk)


def _set_aside(path: Path, desk: Path) -> None:
    """Remove a file or folder, where there is one, as a whole: from its place, then for good."""
    if os.path.lexists(path):
        aside = io.temporary(desk)
        path.rename(aside)
        io.discard(aside)


def _holds(folder: Path, contents: Mapping[Path, bytes]) -> bool:
    there = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
    return there == contents.keys() and all(
        io.read_regular(folder / file, len(data) + 1) == data for file, data in contents.items()
    )


def pointer(digest: str) -> bytes:
    """``clips/zarr.json``: which generation is the current one."""
    return canonical(group_metadata({"generation": digest}))


def _chunk(column: NDArray[Any]) -> bytes:
    data = column.tobytes()
    return data + crc32c(data).to_bytes(CHECKSUM_BYTES, "little") if data else b""


def _key(record: ColumnRecord) -> str:
    return "c" + ".0" * len(record.shape)


# --- reading a generation -------------------------------------------------------------------------


class ClipIndex:
    """The current generation, checked.

    Args:
        everything: load all columns, not only those that reading features needs.

    Raises:
        DamagedError: a file that is missing or is not what the pointer vouches for.
    """

    def __init__(self, path: Location, attributes: Attributes, *, everything: bool = False) -> None:
        self.layout = attributes.layout
        self.digest = current_generation(path)
        self.folder = path / "clips" / self.digest[:_NAME_CHARACTERS]
        self.generation = _read_generation(self.folder, self.digest, attributes)
        # Now or never: a writer that moves on to the next generation removes this one's files.
        names = self.generation.columns
        wanted = [name for name in names if everything or name not in _SOURCE]
        small = sum(self.generation.columns[name].size for name in wanted) < _SMALL_BYTES
        if small and isinstance(path, Path):
            self.columns: Columns = {name: self._column(name) for name in wanted}
        else:
            with ThreadPoolExecutor(len(wanted)) as pool:
                self.columns = dict(zip(wanted, pool.map(self._column, wanted), strict=True))
        self.ids = StringColumn(self.columns["id"])
        self.partition, self.split = self.columns["partition"], self.columns["split"]
        self.row, self.rows = self.columns["row"], self.columns["rows"]
        self.first, self.frames = self.columns["first"], self.columns["frames"]
        self.state, self.checksum = self.columns["state"], self.columns["checksum"]
        self._check(attributes)
        self.partitions = room(attributes, self.columns)
        failed, reasons = self.columns["failed"].tolist(), StringColumn(self.columns["reason"])
        self.reasons: dict[int, str] = dict(zip(failed, reasons, strict=True))

    @classmethod
    def open(cls, path: Location, attributes: Attributes, *, everything: bool = False) -> ClipIndex:
        """The current generation, also while a writer moves on to the next one."""
        for _ in range(4):
            before = current_generation(path)
            try:
                return cls(path, attributes, everything=everything)
            except DamagedError:
                if current_generation(path) == before:
                    raise
        return cls(path, attributes, everything=everything)

    @property
    def splits(self) -> tuple[str, ...]:
        return self.generation.splits

    def clip_keys(self, chosen: Chosen = EVERY) -> list[ClipKey]:
        """The corpus part of the fingerprint, in order of ids; needs every column."""
        start, end = (_optional(self.columns[name][chosen]) for name in ("start", "end"))
        crop, size = (self.columns[name][chosen].tolist() for name in ("crop", "size"))
        crops = [None if math.isnan(box[0]) else tuple(box) for box in crop]
        names = (StringColumn(self.columns[name][chosen]) for name in ("id", "source"))
        poses: Iterable[str] = repeat("", len(size))
        if "pose" in self.columns:
            poses = StringColumn(self.columns["pose"][chosen])
        return [ClipKey(*key) for key in zip(*names, size, start, end, crops, poses, strict=True)]

    def slots(self, partition: int | None = None) -> list[Slot]:
        """The plan, of one partition or all, in order of ids."""
        return self.places(
            EVERY if partition is None else np.flatnonzero(self.partition == partition)
        )

    def places(self, chosen: Chosen) -> list[Slot]:
        """The plan of chosen clips."""
        numbers = (self.partition, self.row, self.rows, self.first, self.frames)
        places = zip(*(column[chosen].tolist() for column in numbers), strict=True)
        splits = [self.splits[code] for code in self.split[chosen].tolist()]
        named = zip(map(_decoded, self.ids.raw[chosen]), splits, places, strict=True)
        return [Slot(clip, split, *place) for clip, split, place in named]

    def valid(self, position: int) -> NDArray[np.bool_]:
        """(rows,) which rows of a clip with features are valid; all, where nothing is said."""
        row, rows = int(self.row[position]), int(self.rows[position])
        if "valid" not in self.columns:
            return np.ones(rows, bool)
        return self.columns["valid"][row : row + rows].astype(bool)

    def valid_rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """(clips,) how many rows of each are valid, in a store that says so."""
        # Not summed from the first row on: of large stores that would take eight times the column.
        counts = (int(np.count_nonzero(self.valid(at))) for at in positions.tolist())
        return np.fromiter(counts, np.int64, len(positions))

    def states(self, partition: int) -> list[int]:
        """The states of a partition's clips, in order of ids."""
        states: list[int] = self.state[self.partition == partition].tolist()
        return states

    def checksums(self, partition: int) -> list[int]:
        """What :func:`shard.clip_checksum` says of a partition's clips, in order of ids."""
        checksums: list[int] = self.checksum[self.partition == partition].tolist()
        return checksums

    def with_newer(self, receipts: Collection[Receipt]) -> tuple[NDArray[Any], Mapping[int, str]]:
        """States and reasons (by position) with those of receipts that the index does not list."""
        if receipts:
            with suppress(DamagedError):  # they are of a plan that was made since
                found = with_receipts(self.columns, receipts)
                state = np.where(found["state"] == ABSENT, self.state, found["state"])
                texts = StringColumn(found["reason"])
                reasons = dict(zip(found["failed"].tolist(), texts, strict=True))
                return state, {**self.reasons, **reasons}
        return self.state, self.reasons

    def counts(self) -> dict[State, int]:
        """Number of clips by state."""
        numbers = np.bincount(self.state, minlength=len(STATES)).tolist()
        return dict(zip(STATES, numbers, strict=True))

    def finished_partitions(self) -> set[int]:
        """Partitions of which some clip has features, or has failed."""
        # Not by numpy.unique, which imports masked arrays.
        return set(np.flatnonzero(np.bincount(self.partition[self.state != ABSENT])).tolist())

    def has_plan(self, columns: Columns, splits: tuple[str, ...]) -> bool:
        """Whether every clip has the same place as in another plan."""
        equal = (np.array_equal(self.columns[name], columns[name]) for name in ("id", *PLACE))
        return all(equal) and self.splits == splits

    def _column(self, name: str) -> NDArray[Any]:
        record = self.generation.columns[name]
        data = read_file(self.folder / name / _key(record), record.size) if record.size else b""
        if len(data) != record.size or sha256(data) != record.sha256:
            raise DamagedError("a column of the clip index is damaged", where=self.folder / name)
        count = len(data[: -CHECKSUM_BYTES or None]) // np.dtype(record.dtype).itemsize
        flat: NDArray[Any] = np.frombuffer(data, np.dtype(record.dtype).newbyteorder("<"), count)
        return flat.reshape(record.shape)

    def _check(self, attributes: Attributes) -> None:
        shard, chunk = attributes.shard_rows, attributes.chunk_rows
        row, rows, partition, raw = self.row, self.rows, self.partition, self.ids.raw
        planned = rows > 0
        last = row + rows - 1
        sound = bool(
            (raw[1:] > raw[:-1]).all()
            and (rows >= 0).all()
            and (self.first >= 0).all()
            and (self.frames >= 0).all()
            and (self.state < len(STATES)).all()
            and 0 <= self.split.min() <= self.split.max() < len(self.splits)
            and planned[self.state == OK].all()
            and (row[planned] >= 0).all()
            and (row[planned] % chunk == 0).all()
            and (row[planned] // shard == partition[planned]).all()
            and (last[planned] // shard == partition[planned]).all()
            and 0 <= partition.min() <= partition.max() < MAX_PARTITIONS
        )
        if sound and attributes.validity:
            valid = self.columns["valid"]
            sound = len(valid) == room(attributes, self.columns) * shard and valid.max() <= 1
        if not sound:
            raise DamagedError("the clip index is impossible", where=self.folder)


def _optional(column: NDArray[Any]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in column.tolist()]


def current_generation(path: Location) -> str:
    """The digest that the pointer of the store at ``path`` names.

    Raises:
        DamagedError: no such pointer.
    """
    digest = load_group(path / "clips" / "zarr.json").get("generation")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise DamagedError("names no generation of the clip index", where=path / "clips")
    return digest


def _read_generation(folder: Location, digest: str, about: Attributes) -> Generation:
    where = folder / "zarr.json"
    attributes = load_group(where)
    if sha256(canonical(group_metadata(attributes))) != digest:
        raise DamagedError("is not the generation its pointer names", where=where)
    generation = validated(attributes, Generation, where)
    columns = generation.columns
    has = {"valid": about.validity, "pose": bool(about.poses_sha256)}
    sound = columns.keys() == {name for name in _SCHEMA if has.get(name, True)} and all(
        (record.dtype, len(record.shape)) == _SCHEMA[name]
        and (record.shape[-1] > 0 or name == "failed")
        and (name in _PER_FAILURE | _PER_ROW or record.shape[0] == about.clips)
        for name, record in columns.items()
    )
    if sum(record.size for record in columns.values()) > MAX_INDEX_BYTES:
        raise DamagedError("claims a clip index of an impossible size", where=where)
    if not sound or columns["failed"].shape[0] != columns["reason"].shape[0]:
        raise DamagedError("does not have the columns of a clip index", where=where)
    return generation
