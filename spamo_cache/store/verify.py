"""Is a store what it says? What is damaged, and removing just that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from pathlib import Path

import numpy as np

from spamo_cache import human, io
from spamo_cache.errors import DamagedError, StoreError, UsageError
from spamo_cache.store.attributes import (
    MANIFEST,
    MAX_ATTRIBUTES_BYTES,
    Attributes,
    check_manifest,
    check_room,
    documents,
    load_attributes,
    load_manifest,
    load_room,
)
from spamo_cache.store.index import ABSENT, FAILED, OK, ClipIndex, State, current_generation
from spamo_cache.store.layout import (
    ChunkLayout,
    Slot,
    StreamIdentity,
    canonical,
    corpus_hash,
    fingerprint,
    poses_hash,
    sha256,
    work_path,
)
from spamo_cache.store.leases import Leases
from spamo_cache.store.receipts import ClipReceipt, Receipt, Receipts, load_receipt, shard_path
from spamo_cache.store.remote import Location, RemotePath, read_file, verified_blocks
from spamo_cache.store.shard import Shard, as_bytes, scratch
from spamo_cache.store.writer import StoreWriter

_THREADS = 16
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

    path: Location
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


def verify(path: Location, *, deep: bool = False, progress: Progress | None = None) -> Report:
    """Check a store; nothing is changed.

    Args:
        deep: compare every byte with its checksums, not only names, sizes and receipts.
        progress: called with partitions done and in all.

    Raises:
        StoreError: there is no store at ``path``, or its server fails.
    """
    if isinstance(path, RemotePath):
        return _verify_remote(path, deep=deep, progress=progress)
    report = Report(path, deep)
    with io.reading(path):
        try:
            attributes = load_attributes(path)
            report.problems += _metadata_problems(path, attributes)
            report.problems += _snapshot_problems(path, attributes, deep=deep)
            room = _room(report, attributes)
            index, problems = _current_index(path, attributes, deep=deep)
            report.problems += problems
            if room is not None:
                check_room(path, attributes, room, index.partitions)
        except DamagedError as error:
            report.problems.append(_in_a_line(error))
            return report
        if room is not None and room < index.partitions:
            report.notes.append("other Zarr readers see the last partitions after the next extract")
        checks = _Partitions(path, attributes, index, deep=deep)
        _check_partitions(path, report, checks, progress)
        report.clips = checks.index.counts()
        _note_strays(path, report, checks.receipts)
    return report


def _verify_remote(path: RemotePath, *, deep: bool, progress: Progress | None) -> Report:
    """Check a store on a server, where nobody is at work: what its index lists, and no strays."""
    report = Report(path, deep)
    try:
        attributes = load_attributes(path)
        report.problems += _metadata_problems(path, attributes)
        report.problems += _remote_snapshot_problems(path, attributes, deep=deep)
        room = _room(report, attributes)
        index = ClipIndex.open(path, attributes, everything=deep)
        report.problems += list(_index_problems(index, attributes)) if deep else []
        if room is not None:
            check_room(path, attributes, room, index.partitions)
    except DamagedError as error:
        report.problems.append(_in_a_line(error))
        return report
    report.clips = index.counts()
    every = sorted(index.finished_partitions())
    check = partial(_remote_damage, path, attributes, index, deep=deep)
    with ThreadPoolExecutor(_THREADS) as pool:
        for done, (partition, why) in enumerate(
            zip(every, pool.map(check, every), strict=True), start=1
        ):
            if why is not None:
                report.partitions[partition] = why
                report.damaged += [
                    Damage(slot.id, partition, why)
                    for slot, state in _entries(index, partition)
                    if state == OK
                ]
            if progress is not None:
                progress(done, len(every))
    return report


def _remote_snapshot_problems(
    path: RemotePath, attributes: Attributes, *, deep: bool
) -> Iterator[str]:
    try:
        if deep:
            load_manifest(path, attributes)
        elif attributes.manifest_sha256:
            size = (path / MANIFEST).size()
            if size != attributes.manifest_bytes:
                yield f"{path / MANIFEST}: has {size} bytes, not {attributes.manifest_bytes}"
    except DamagedError as error:
        yield _in_a_line(error)


def _remote_damage(
    path: RemotePath, attributes: Attributes, index: ClipIndex, partition: int, *, deep: bool
) -> str | None:
    """Why a partition cannot be trusted; None where it can."""
    try:
        receipt = load_receipt(path, attributes, partition)
        slots = index.slots(partition)
        _compare(receipt, slots, index)
        if _is_behind(receipt, slots, index.states(partition), index.checksums(partition)):
            return f"receipt {partition} disagrees with the index"
        _compare_validity(receipt, slots, index)
        if receipt.shard is None:
            return None
        file = shard_path(path, partition)
        if (size := file.size()) != receipt.shard.size:
            return f"{file}: the shard has {size} bytes, not {receipt.shard.size}"
        if deep:
            for _ in verified_blocks(file, size, receipt.shard.sha256):
                pass
        elif file.sha256() not in {None, receipt.shard.sha256}:
            return f"{file}: the shard disagrees with its receipt"
        return None
    except DamagedError as error:
        return _in_a_line(error)


def _entries(index: ClipIndex, partition: int) -> Iterator[tuple[Slot, int]]:
    return zip(index.slots(partition), index.states(partition), strict=True)


def repair(report: Report) -> None:
    """Remove what the report names, so that the next extract computes it again.

    Raises:
        StoreError: an unwritable store, somebody at work on such a partition, or attributes that
            are damaged themselves: nothing says then what the store was.
    """
    path = report.path
    if not isinstance(path, Path):
        raise UsageError(
            "a store on a server cannot be repaired", where=path, remedy="push an intact copy again"
        )
    writer = StoreWriter.at(path)
    with io.writing(path):
        for name, document in documents(writer.attributes, writer.attributes.partitions).items():
            if name != "zarr.json":
                io.replace(path / name, canonical(document), work_path(path))
    writer.forget(report.partitions)


def _in_a_line(error: StoreError) -> str:
    return error.what if error.where is None else f"{error.where}: {error.what}"


def _metadata_problems(path: Location, attributes: Attributes) -> Iterator[str]:
    identity = StreamIdentity(attributes.spec, attributes.weights_sha256, attributes.semantics)
    corpus = attributes.corpus_sha256, attributes.poses_sha256
    if fingerprint(identity, *corpus) != attributes.fingerprint:
        yield "the fingerprint is not that of the attributes"
    for name, document in documents(attributes, attributes.partitions).items():
        if name == "features/zarr.json":
            continue  # its size depends on the index
        try:
            same = read_file(path / name, MAX_ATTRIBUTES_BYTES) == canonical(document)
        except StoreError as error:
            yield _in_a_line(error)
            continue
        if not same:
            yield f"{path / name}: is not what it was"


def _room(report: Report, attributes: Attributes) -> int | None:
    try:
        return load_room(report.path, attributes)
    except StoreError as error:
        report.problems.append(_in_a_line(error))
        return None


def _snapshot_problems(path: Path, attributes: Attributes, *, deep: bool) -> Iterator[str]:
    try:
        check_manifest(path, attributes, deep=deep)
    except StoreError as error:
        # Nothing here can make it again, unlike all the rest.
        yield f"{_in_a_line(error)}; to do: {error.remedy}"


def _current_index(
    path: Path, attributes: Attributes, *, deep: bool
) -> tuple[ClipIndex, list[str]]:
    """The index and what is wrong with it; of the next one, if it was replaced meanwhile."""
    while True:
        index = ClipIndex.open(path, attributes, everything=deep)
        problems = list(_index_problems(index, attributes)) if deep else []
        if not problems or current_generation(path) == index.digest:
            return index, problems


def _index_problems(index: ClipIndex, attributes: Attributes) -> Iterator[str]:
    for name, record in index.generation.columns.items():
        where = index.folder / name / "zarr.json"
        try:
            same = read_file(where, MAX_ATTRIBUTES_BYTES) == record.metadata(name)
        except StoreError:
            same = False
        if not same:
            yield f"{where}: is not what it was"
    keys, corpus = index.clip_keys(), (attributes.corpus_sha256, attributes.poses_sha256)
    if (corpus_hash(keys), poses_hash(keys)) != corpus:
        yield "the index lists other clips than the fingerprint was made of"


def _check_partitions(
    path: Path, report: Report, checks: _Partitions, progress: Progress | None
) -> None:
    leases = Leases.beside(path)
    every, behind = checks.partitions(), 0
    for done, partition in enumerate(every, start=1):
        try:
            behind += leases.settled(partition, partial(checks.check, partition))
        except StoreError as error:
            why = report.partitions[partition] = _in_a_line(error)
            if isinstance(error, _ClipsDamagedError):
                report.damaged += error.damaged
            else:
                report.damaged += [Damage(clip, partition, why) for clip in checks.ok(partition)]
        if progress is not None:
            progress(done, len(every))
    if behind:
        count = human.count(behind, "partition is", "partitions are")
        report.notes.append(f"{count} finished and not in the index yet")


class _ClipsDamagedError(DamagedError):
    """Some clips of a partition, or what lies between its clips, are not what was published."""

    damaged: Sequence[Damage] = ()


class _Partitions:
    """The partitions of a store that others may be writing to, held against its newest index."""

    def __init__(self, path: Path, attributes: Attributes, index: ClipIndex, *, deep: bool) -> None:
        self.receipts = Receipts(path, attributes)
        self.index = index
        self._path, self._attributes, self._deep = path, attributes, deep

    def partitions(self) -> list[int]:
        """Those that the index or a receipt speaks of."""
        return sorted(self.index.finished_partitions().union(self.receipts.partitions()))

    def ok(self, partition: int) -> list[str]:
        """The clips of which the index says that there are features."""
        return [slot.id for slot, state in _entries(self.index, partition) if state == OK]

    def check(self, partition: int) -> bool:
        """Whether the index is yet to be told of what is new in a partition.

        Raises:
            DamagedError: the partition is not what it was; the next check uses the newest index.
        """
        try:
            return self._check(partition)
        except DamagedError:
            if current_generation(self._path) != self.index.digest:
                self.index = ClipIndex.open(self._path, self._attributes, everything=self._deep)
            raise

    def _check(self, partition: int) -> bool:
        slots, states = self.index.slots(partition), self.index.states(partition)
        listed = any(state != ABSENT for state in states)
        if not listed and partition not in self.receipts.partitions():
            return False  # taken back meanwhile
        receipt = self.receipts.sound(partition)
        _compare(receipt, slots, self.index)
        # Where all clips have later places by now, there is nothing that an index should know.
        behind = bool(slots) and (
            not listed or _is_behind(receipt, slots, states, self.index.checksums(partition))
        )
        _compare_validity(receipt, slots, self.index)
        if self._deep:
            _read_all(self._path, receipt, slots, self.index.layout)
        return behind


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


def _is_behind(
    receipt: Receipt, slots: list[Slot], states: list[int], checksums: list[int]
) -> bool:
    """Whether clips that had failed have features now of which the index does not know yet.

    Raises:
        DamagedError: any other difference.
    """
    behind = False
    for slot, *entry in zip(slots, states, checksums, strict=True):
        clip = receipt.clips.get(slot.id)
        if entry == ([FAILED, 0] if clip is None else [OK, clip.crc32c]):
            continue
        if clip is None or entry != [FAILED, 0]:
            raise DamagedError(f"receipt {receipt.partition} disagrees with the index")
        behind = True
    return behind


def _compare_validity(receipt: Receipt, slots: list[Slot], index: ClipIndex) -> None:
    """Raise DamagedError where the index, of clips that it knows, calls other rows valid."""
    clips = [slot.id for slot in slots if slot.id in receipt.clips]
    for clip, position in zip(clips, index.ids.positions(clips).tolist(), strict=True):
        known = index.state[position] == OK
        if known and (index.valid(position) != receipt.clips[clip].valid).any():
            raise DamagedError(
                f"receipt {receipt.partition} and the index disagree on valid rows", where=clip
            )


def _read_all(store: Path, receipt: Receipt, slots: list[Slot], layout: ChunkLayout) -> None:
    """Compare a partition's every byte; clips that are damaged are told apart where possible."""
    if receipt.shard is None:
        return
    path = shard_path(store, receipt.partition)
    whole = io.regular_sha256(path) == receipt.shard.sha256
    shard = Shard(path, layout, receipt.shard.size)
    damaged: list[Damage] = []
    for slot in slots:
        if slot.id in receipt.clips:
            why = _clip_damage(shard, slot, receipt.clips[slot.id], layout)
            damaged += [Damage(slot.id, slot.partition, why)] if why else []
    if damaged:
        error = _ClipsDamagedError(f"{human.count(len(damaged), 'clip is', 'clips are')} damaged")
        error.damaged = damaged
        raise error
    if not whole:
        # The clips are right, yet what lies between them is not what was published.
        raise _ClipsDamagedError("bytes outside the clips have changed", where=path)


def _clip_damage(shard: Shard, slot: Slot, entry: ClipReceipt, layout: ChunkLayout) -> str | None:
    rows = np.empty((slot.rows, layout.width), layout.dtype)
    first, _ = layout.chunks_of(slot.row, slot.rows)
    try:
        checksum = shard.read_into(first, as_bytes(rows), scratch(layout))
    except DamagedError as error:
        return _in_a_line(error)
    if (checksum, sha256(rows.tobytes())) != (entry.crc32c, entry.sha256):
        return "the features are not those that were published"
    return None if np.isfinite(rows).all() else "a value is not finite"


def _note_strays(store: Path, report: Report, receipts: Receipts) -> None:
    known = {f"c.{partition}.0" for partition in receipts.partitions()} | {"zarr.json"}
    strays = [path.name for path in (store / "features").iterdir() if path.name not in known]
    if strays:
        shown = ", ".join(sorted(strays)[:3])
        count = human.count(len(strays), "file")
        report.notes.append(f"{count} nobody vouches for in features: {shown}")
