"""Is a store what it says? What is damaged, and removing just that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import numpy as np

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store import files, snapshot
from spamo_cache.store.index import ClipIndex
from spamo_cache.store.layout import (
    Geometry,
    Slot,
    StreamIdentity,
    canonical,
    corpus_hash,
    fingerprint,
    sha256,
    work_path,
)
from spamo_cache.store.metadata import column_metadata
from spamo_cache.store.plan import ABSENT, FAILED, OK, State
from spamo_cache.store.receipts import Receipts
from spamo_cache.store.records import (
    MAX_ATTRIBUTES_BYTES,
    Attributes,
    ClipReceipt,
    Receipt,
    check_room,
    documents,
    load_attributes,
    load_room,
    shard_path,
)
from spamo_cache.store.shard import Shard, as_bytes, scratch
from spamo_cache.store.writer import StoreWriter

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Damage:
    """One clip whose features are not what was published."""

    clip: str
    partition: int
    why: str


@dataclass(slots=True)
class Report:
    """What :func:`verify` found.

    Attributes:
        deep: whether every byte was compared with its checksums.
        clips: number of clips by state.
        damaged: the clips that cannot be trusted.
        partitions: partition -> why it has to be computed again.
        problems: what is wrong with the store as a whole.
        notes: what is odd, but harms nothing.
    """

    path: Path
    deep: bool
    clips: dict[State, int] = field(default_factory=dict)
    damaged: list[Damage] = field(default_factory=list)
    partitions: dict[int, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether everything the store vouches for can be trusted."""
        return not (self.damaged or self.partitions or self.problems)


def verify(path: Path, *, deep: bool = False, progress: Progress | None = None) -> Report:
    """Check a store; nothing is changed.

    Args:
        deep: compare every byte with its checksums, not only names, sizes and receipts.
        progress: called with partitions done and in all.

    Raises:
        StoreError: there is no store at ``path``.
    """
    report = Report(path, deep)
    try:
        attributes = load_attributes(path)
    except DamagedError as error:
        report.problems.append(_said(error))
        return report
    report.problems += _metadata_problems(path, attributes)
    report.problems += _snapshot_problems(path, attributes, deep=deep)
    room = _room(report, attributes)
    try:
        index = ClipIndex.open(path, attributes, everything=deep)
        report.problems += _index_problems(index, attributes) if deep else []
        if room is not None:
            check_room(path, attributes, room, index.partitions)
    except DamagedError as error:
        report.problems.append(_said(error))
        return report
    if room is not None and room < index.partitions:
        report.notes.append("other Zarr readers see the last partitions after the next extract")
    report.clips = index.counts()
    receipts = Receipts(path, attributes)
    _check_partitions(report, receipts, index, progress)
    _note_strays(report, receipts)
    return report


def repair(report: Report) -> None:
    """Remove what the report names, so that the next extract computes it again.

    Raises:
        StoreError: an unwritable store, somebody at work on such a partition, or attributes that
            are damaged themselves: nothing says then what the store was.
    """
    writer = StoreWriter.at(report.path)
    with files.writing(report.path):
        for name, document in documents(writer.attributes, writer.attributes.partitions).items():
            if name != "zarr.json":
                files.replace(report.path / name, canonical(document), work_path(report.path))
    writer.forget(report.partitions)


def _said(error: StoreError) -> str:
    return error.what if error.where is None else f"{error.where}: {error.what}"


def _metadata_problems(path: Path, attributes: Attributes) -> Iterator[str]:
    identity = StreamIdentity(attributes.spec, attributes.weights_sha256, attributes.semantics)
    if fingerprint(identity, attributes.corpus_sha256) != attributes.fingerprint:
        yield "the fingerprint is not that of the attributes"
    for name, document in documents(attributes, attributes.partitions).items():
        if name == "features/zarr.json":
            continue  # its size depends on the index
        try:
            same = files.read(path / name, MAX_ATTRIBUTES_BYTES) == canonical(document)
        except StoreError as error:
            yield _said(error)
            continue
        if not same:
            yield f"{path / name}: is not what it was"


def _room(report: Report, attributes: Attributes) -> int | None:
    try:
        return load_room(report.path, attributes)
    except StoreError as error:
        report.problems.append(_said(error))
        return None


def _snapshot_problems(path: Path, attributes: Attributes, *, deep: bool) -> Iterator[str]:
    try:
        snapshot.check(path, attributes, deep=deep)
    except StoreError as error:
        # Nothing here can make it again, unlike all the rest.
        yield f"{_said(error)}; to do: {error.remedy}"


def _index_problems(index: ClipIndex, attributes: Attributes) -> Iterator[str]:
    for name, record in index.generation.columns.items():
        where = index.folder / name / "zarr.json"
        expected = canonical(column_metadata(record.shape, record.dtype))
        try:
            same = files.read(where, MAX_ATTRIBUTES_BYTES) == expected
        except StoreError:
            same = False
        if not same:
            yield f"{where}: is not what it was"
    if corpus_hash(index.clip_keys()) != attributes.corpus_sha256:
        yield "the index lists other clips than the fingerprint was made of"


def _check_partitions(
    report: Report, receipts: Receipts, index: ClipIndex, progress: Progress | None
) -> None:
    claimed = set(np.unique(index.partition[index.state != ABSENT]).tolist())
    every = sorted(claimed.union(receipts.partitions()))
    planned = set(index.partition.tolist())  # the clips of others have later places
    unsealed = [partition for partition in every if partition in planned - claimed]
    if unsealed:
        report.notes.append(f"{len(unsealed)} partitions are finished and not in the index yet")
    for done, partition in enumerate(every, start=1):
        slots, states = index.slots(partition), index.states(partition)
        try:
            receipt = receipts.load(partition)
            receipts.check_shard(receipt)
            _compare(receipt, slots, index)
            if partition in claimed:
                _compare_index(receipt, slots, states, index.checksums(partition))
            if report.deep:
                _read_all(report, receipt, slots, index.geometry)
        except StoreError as error:
            why = report.partitions[partition] = _said(error)
            ok = [slot.id for slot, state in zip(slots, states, strict=True) if state == OK]
            known = {damage.clip for damage in report.damaged}
            report.damaged += [Damage(clip, partition, why) for clip in ok if clip not in known]
        if progress is not None:
            progress(done, len(every))


def _compare(receipt: Receipt, slots: list[Slot], index: ClipIndex) -> None:
    planned = {slot.id: slot.rows for slot in slots}
    moved = _moved(receipt, index)
    rows = {clip: entry.rows for clip, entry in receipt.clips.items() if clip not in moved}
    failed = receipt.failures.keys() - moved
    known = planned.keys() == rows.keys() | failed and not rows.keys() & failed
    if not known or any(planned[clip] != count for clip, count in rows.items()):
        raise DamagedError(f"receipt {receipt.partition} disagrees with the plan")


def _moved(receipt: Receipt, index: ClipIndex) -> set[str]:
    """Clips of a receipt that were given a place in a later partition since."""
    named = [*receipt.clips, *receipt.failures]
    positions = index.ids.positions(named)
    later = (positions >= 0) & (index.partition[positions] > receipt.partition)
    return set(compress(named, later))


def _compare_index(
    receipt: Receipt, slots: list[Slot], states: list[int], checksums: list[int]
) -> None:
    found = zip(slots, states, checksums, strict=True)
    for slot, *entry in found:
        clip = receipt.clips.get(slot.id)
        if entry != ([FAILED, 0] if clip is None else [OK, clip.crc32c]):
            raise DamagedError(f"receipt {receipt.partition} disagrees with the index")


def _read_all(report: Report, receipt: Receipt, slots: list[Slot], geometry: Geometry) -> None:
    """Compare a partition's every byte; clips that are damaged are told apart where possible."""
    if receipt.shard is None:
        return
    path = shard_path(report.path, receipt.partition)
    whole = files.digest(path) == receipt.shard.sha256
    shard = Shard(path, geometry, receipt.shard.size)
    damaged: list[Damage] = []
    for slot in slots:
        if slot.id in receipt.clips:
            why = _clip_damage(shard, slot, receipt.clips[slot.id], geometry)
            damaged += [Damage(slot.id, slot.partition, why)] if why else []
    report.damaged += damaged
    if damaged:
        report.partitions[receipt.partition] = f"{len(damaged)} clips are damaged"
    elif not whole:
        # The clips are right, yet what lies between them is not what was published.
        report.partitions[receipt.partition] = f"{path}: bytes outside the clips have changed"


def _clip_damage(shard: Shard, slot: Slot, entry: ClipReceipt, geometry: Geometry) -> str | None:
    rows = np.empty((slot.rows, geometry.width), geometry.dtype)
    first, _ = geometry.chunks_of(slot.row, slot.rows)
    try:
        checksum = shard.read_into(first, as_bytes(rows), scratch(geometry))
    except DamagedError as error:
        return _said(error)
    if (checksum, sha256(rows.tobytes())) != (entry.crc32c, entry.sha256):
        return "the features are not those that were published"
    return None if np.isfinite(rows).all() else "a value is not finite"


def _note_strays(report: Report, receipts: Receipts) -> None:
    known = {f"c.{partition}.0" for partition in receipts.partitions()} | {"zarr.json"}
    strays = [path.name for path in (report.path / "features").iterdir() if path.name not in known]
    if strays:
        shown = ", ".join(sorted(strays)[:3])
        report.notes.append(f"{len(strays)} files nobody vouches for in features: {shown}")
