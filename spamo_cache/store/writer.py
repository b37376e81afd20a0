"""Write a store so that any process may die at any moment and any number of them may take part."""

from __future__ import annotations

import logging
import platform
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache import io
from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.attributes import (
    MANIFEST,
    Attributes,
    describe,
    documents,
    load_attributes,
    manifest_attributes,
    now,
    restore_manifest,
    user,
    versions,
)
from spamo_cache.store.index import (
    ClipIndex,
    Columns,
    goes_on,
    plan,
    room,
    with_receipts,
    write_generation,
)
from spamo_cache.store.layout import (
    ChunkLayout,
    ClipKey,
    Slot,
    StreamIdentity,
    aligned,
    canonical,
    corpus_hash,
    features_metadata,
    fingerprint,
    fit,
    poses_hash,
    sha256,
    store_path,
    work_path,
)
from spamo_cache.store.leases import STALE_SECONDS, LeaseLostError, Leases, sweep_corpus
from spamo_cache.store.receipts import (
    ClipReceipt,
    Receipt,
    Receipts,
    ShardReceipt,
    invalid_runs,
)
from spamo_cache.store.shard import clip_checksum, write_shard

_INDEX_LEASE = "index"
_TRIES = 8
"""Times that a lease may be lost on the way: each means a minute without a sign of life."""
_LOG = logging.getLogger(__name__)
_MAX_REASON_CHARACTERS = 250

Clips = dict[str, NDArray[Any]]


class StoreWriter:
    """The writing side of one store; picklable, and opened again by its path.

    Use :meth:`open` to create a store or join its writers, :meth:`at` for one that exists.

    Attributes:
        path: the store's folder.
        attributes: what it says about itself.
        fingerprint: its identity.
        receipts: what of it is finished.
        leases: who works on which partition.
    """

    def __init__(self, path: Path, *, stale: float = STALE_SECONDS) -> None:
        self.path = path
        self.attributes = load_attributes(path)
        self.fingerprint = self.attributes.fingerprint
        self.layout: ChunkLayout = self.attributes.layout
        self.receipts = Receipts(path, self.attributes)
        self.work = work_path(path)
        self._stale = stale
        self.leases = Leases.beside(path, stale)
        with io.writing(self.work):
            io.make_folders(self.work)

    def __reduce__(self) -> tuple[Any, ...]:
        return (StoreWriter.at, (self.path, self._stale))

    @classmethod
    def at(cls, path: Path, stale: float = STALE_SECONDS) -> StoreWriter:
        """Write to the existing store at ``path``."""
        return cls(path, stale=stale)

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        corpus: str,
        stream: str,
        identity: StreamIdentity,
        weights: str,
        keys: Sequence[ClipKey],
        slots: Sequence[Slot],
        width: int,
        dtype: str,
        chunk_rows: int,
        shard_rows: int,
        validity: bool = False,
        poses: str = "",
        terms: str = "",
        manifest: bytes = b"",
    ) -> StoreWriter:
        """Create the store below ``root``, or join whoever did; any number of processes may try.

        A store that exists keeps its partitions: a plan may only go on from its own, and give later
        partitions to clips that have no features yet, or features of other frames.

        Args:
            keys: every clip of the corpus, in any order.
            slots: the place of each of them, in any order; see :func:`layout.pack`.
            validity: whether the store says of each row if it is valid.
            poses: name of the folder of the poses that the keys speak of.
            terms: terms of use of the corpus, shown wherever the store is shared.
            manifest: the corpus's manifest as Parquet, kept in a store that is created.

        Raises:
            StoreError: an unwritable root, an impossible plan, or a store of the same identity with
                another plan.
        """
        corpus_sha256 = corpus_hash(keys)
        poses_sha256 = poses_hash(keys)
        digest = fingerprint(identity, corpus_sha256, poses_sha256)
        path = store_path(root, corpus, stream, digest)
        attributes = describe(
            path,
            corpus=corpus,
            stream=stream,
            fingerprint=digest,
            spec=identity.spec,
            weights=weights,
            weights_sha256=identity.weights_sha256,
            semantics=identity.semantics,
            corpus_sha256=corpus_sha256,
            poses_sha256=poses_sha256,
            clips=len(keys),
            partitions=max((slot.partition for slot in slots), default=0) + 1,
            width=width,
            dtype=dtype,
            chunk_rows=chunk_rows,
            shard_rows=shard_rows,
            validity=validity,
            poses=poses,
            terms=terms,
            **manifest_attributes(manifest),
        )
        columns, splits = plan(keys, slots, attributes.layout)
        return cls.create(path, attributes, columns, splits, manifest)

    @classmethod
    def create(
        cls,
        path: Path,
        attributes: Attributes,
        columns: Columns,
        splits: tuple[str, ...],
        manifest: bytes = b"",
    ) -> StoreWriter:
        """Create the store at ``path`` with this plan, or join it if the plan goes on from its own.

        One that exists keeps the snapshot that it was made with; a lost one is put back if
        ``manifest`` is the same.

        Raises:
            StoreError: an unwritable root, or a store with another plan in this place.
        """
        work = work_path(path)

        def fill(folder: Path) -> None:
            (folder / "clips").mkdir()
            write_generation(folder, work, with_receipts(columns, (), attributes), splits)
            if manifest:
                (folder / MANIFEST).write_bytes(manifest)
            for name, document in documents(attributes, room(attributes, columns)).items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(canonical(document))

        if not (path / "zarr.json").exists():
            with io.writing(path):
                io.make_folders(work)
                io.create_folder(path, fill, work)
        writer = cls(path)
        writer.sweep()
        writer._join(attributes, columns, splits)
        restore_manifest(path, writer.attributes, manifest, work)
        return writer

    def _join(self, wanted: Attributes, columns: Columns, splits: tuple[str, ...]) -> None:
        have = self.attributes
        if (have.fingerprint, have.layout) != (wanted.fingerprint, wanted.layout):
            raise StoreError("another store stands in this place", where=self.path)
        try:
            if ClipIndex.open(self.path, have).has_plan(columns, splits):
                return
        except DamagedError:
            # The plan is known again, and the receipts know the rest.
            self._write_index(lambda: (columns, splits))
            return

        def grown() -> tuple[Columns, tuple[str, ...]]:
            known = ClipIndex.open(self.path, have, everything=True)
            now = with_receipts(known.columns, self.receipts)
            if known.splits != splits or not goes_on(now, columns):
                raise StoreError(
                    "the store was begun with other partitions for the same clips",
                    where=self.path,
                    remedy="run the command again if another one was begun at the same moment; "
                    "else let `spamo-cache extract` copy the clips that it lacks (SPAMO_CACHE "
                    "names the roots it looks into), or remove it (`spamo-cache store rm`)",
                )
            return columns, splits

        self._write_index(grown)

    # --- what is there --------------------------------------------------------------------------

    def slots(self, partition: int) -> list[Slot]:
        """The clips of one partition, in order of ids.

        Raises:
            StoreError: no such partition.
        """
        slots = self._index.slots(partition)
        if not slots:
            raise StoreError(f"there is no partition {partition}", where=self.path)
        return slots

    def rows(self, partition: int) -> dict[str, int]:
        """Planned rows of a partition's clips; none where all were given a later place."""
        return {slot.id: slot.rows for slot in self._index.slots(partition)}

    def finished(self) -> set[int]:
        """Partitions with a valid receipt and a shard of the size that it says."""
        return {receipt.partition for receipt in self.receipts}

    @cached_property
    def _index(self) -> ClipIndex:
        # Whoever gives a clip a later place meanwhile lets receipts speak of its former one.
        return ClipIndex.open(self.path, self.attributes)

    # --- doing work -----------------------------------------------------------------------------

    def lease(self, partition: int) -> AbstractContextManager[bool]:
        """``with writer.lease(p) as mine``: True where nobody else works on the partition.

        A thread keeps the lease alive. That of a dead process is taken over at once on its own
        host, and after ``stale`` silent seconds elsewhere; if its owner wakes up again, what it
        publishes under that lease comes to nothing.
        """
        return self.leases.hold(str(partition))

    def presence(self) -> AbstractContextManager[bool]:
        """Held while somebody works on the store, for those who tidy up: workers may be waited for.

        Any number of processes may be present.
        """
        return self.leases.hold(f"extraction-{secrets.token_hex(8)}")

    def publish(
        self,
        partition: int,
        features: Mapping[str, NDArray[Any]],
        failures: Mapping[str, str],
        provenance: Mapping[str, Any],
        sources: Mapping[str, str] = MappingProxyType({}),
        *,
        valid: Mapping[str, NDArray[np.bool_]] = MappingProxyType({}),
        replace: bool = False,
    ) -> bool:
        """Make one partition's features durable, then vouch for them; the first to do so wins.

        Args:
            features: clip id -> (rows, width), exactly the planned rows, finite in the store's
                dtype; see :func:`layout.fit`.
            failures: clip id -> why it has no features; with ``features``, the whole partition.
            provenance: whatever tells how these bytes came about (times, device, versions).
            sources: clip id -> SHA-256 of the source's contents.
            valid: clip id -> (rows,) which rows are valid, of every clip that has features; of a
                store without validity, nothing.
            replace: take the place of what the partition holds; only under its lease.

        Returns:
            False where the partition had been finished by somebody else, or its lease was lost.

        Raises:
            StoreError: not the clips, rows or values planned; a disk that refuses.
        """
        slots = self.slots(partition)
        kept = checked(slots, features, failures, self.layout)
        check_validity(kept, valid, self.attributes)
        if not replace and self.receipts.valid(partition) is not None:
            return False
        try:
            with (
                io.writing(self.path),
                self.leases.desk(str(partition)) as desk,
                io.temporary_folder(desk) as folder,
            ):
                record = None
                if kept:
                    rows = rows_of_shard(slots, kept, self.layout)
                    file, record = write_shard(folder, self.layout, rows)
                if replace:
                    # As late as can be: a crash from here on costs this partition, and no more.
                    (self.receipts.withdraw if kept else self.receipts.remove)(partition, desk)
                if kept and not self.receipts.place(partition, file):
                    return False
                done = receipt(
                    self.attributes,
                    partition,
                    kept,
                    record,
                    valid=valid,
                    failures=failures,
                    sources=sources,
                    provenance=provenance,
                )
                return self.receipts.publish(done, desk)
        except LeaseLostError:
            return False

    # --- finishing and mending ------------------------------------------------------------------

    def commit_index(self) -> None:
        """Bring the clip index up to date with the receipts; atomic, and idempotent.

        Raises:
            DamagedError: an index or a receipt that disagrees with the plan.
        """
        self._write_index(self._plan)

    def forget(self, partitions: Iterable[int]) -> None:
        """Remove partitions, index first, so that they are computed again.

        Raises:
            StoreError: somebody is at work on one of them.
        """
        wanted = sorted(set(partitions))
        self._check_idle(wanted)
        try:
            self._write_index(self._plan, without=wanted)
        except DamagedError:
            # Nothing can be read through a broken index; `open` makes it again from the plan.
            _LOG.warning("the clip index is damaged: the next extract makes it again")
        for partition in wanted:
            with self.lease(partition) as mine:
                if not mine:
                    self._check_idle([partition])
                    continue
                with io.writing(self.path), self.leases.desk(str(partition)) as desk:
                    self.receipts.remove(partition, desk)

    def _check_idle(self, partitions: Iterable[int]) -> None:
        live = self.leases.live()
        busy = [f"partition {p}: {live[str(p)]}" for p in partitions if str(p) in live]
        if busy:
            raise StoreError("is being worked on", where=self.path, remedy="; ".join(busy))

    def _plan(self) -> tuple[Columns, tuple[str, ...]]:
        known = ClipIndex.open(self.path, self.attributes, everything=True)
        return known.columns, known.splits

    def _write_index(
        self,
        planned: Callable[[], tuple[Columns, tuple[str, ...]]],
        without: Collection[int] = (),
    ) -> None:
        # One at a time, from the plan on: of two, the one that has seen an older plan or fewer
        # receipts must not be the last.
        for _ in range(_TRIES):
            with (
                suppress(LeaseLostError),
                io.writing(self.path),
                self.leases.wait(_INDEX_LEASE),
                self.leases.desk(_INDEX_LEASE) as desk,
            ):
                columns, splits = planned()
                known = (receipt for receipt in self.receipts if receipt.partition not in without)
                now = with_receipts(columns, known, self.attributes)
                write_generation(self.path, desk, now, splits)
                self._make_room(columns, desk)
                return
        raise StoreError(
            "others are writing the index", where=self.path, remedy="run it again later"
        )

    def _make_room(self, columns: Columns, desk: Path) -> None:
        # After the index: readers take an array that still has to grow, not one that is too large.
        array = self.path / "features" / "zarr.json"
        document = canonical(features_metadata(self.layout, room(self.attributes, columns)))
        if not array.is_file() or array.read_bytes() != document:
            io.replace(array, document, desk)

    def sweep(self) -> None:
        """Remove what dead processes left beside the stores of this corpus."""
        sweep_corpus(self.path.parent)


# --- one partition --------------------------------------------------------------------------------


def checked(
    slots: Sequence[Slot],
    features: Mapping[str, NDArray[Any]],
    failures: Mapping[str, str],
    layout: ChunkLayout,
) -> Clips:
    """The features as the store keeps them.

    Raises:
        StoreError: not exactly the planned clips, or rows or values that were not planned.
    """
    planned = sorted(slot.id for slot in slots)
    if sorted([*features, *failures]) != planned:
        given = {*features, *failures}
        odd = sorted(given.symmetric_difference(planned)) or sorted(features.keys() & failures)
        raise StoreError("a partition is published whole, each clip once", where=", ".join(odd[:3]))
    kept: Clips = {}
    for slot in slots:
        if slot.id in features:
            try:
                kept[slot.id] = fit(features[slot.id], slot.rows, layout)
            except StoreError as error:
                raise StoreError(error.what, where=slot.id) from None
    return kept


def check_validity(
    kept: Clips, valid: Mapping[str, NDArray[np.bool_]], attributes: Attributes
) -> None:
    """Raise StoreError unless there is validity of exactly the rows that there are."""
    wanted = {clip: len(rows) for clip, rows in kept.items()} if attributes.validity else {}
    for clip in sorted(wanted.keys() | valid.keys()):
        given = valid.get(clip)
        if clip not in wanted:
            raise StoreError("validity is given of a clip that has none to be kept", where=clip)
        if given is None or given.shape != (wanted[clip],) or given.dtype != np.bool_:
            what = "nothing" if given is None else f"{given.dtype} of {given.shape}"
            raise StoreError(f"validity is {what}, not bool of {(wanted[clip],)}", where=clip)


def rows_of_shard(slots: Sequence[Slot], kept: Clips, layout: ChunkLayout) -> NDArray[Any]:
    """The shard's rows up to the last clip's; zeros between clips and where one has failed."""
    placed = [slot for slot in slots if slot.id in kept]
    base = placed[0].partition * layout.shard_rows
    end = max(slot.row + aligned(slot.rows, layout.chunk_rows) for slot in placed)
    rows = np.zeros((end - base, layout.width), layout.dtype)
    for slot in placed:
        rows[slot.row - base : slot.row - base + slot.rows] = kept[slot.id]
    return rows


def receipt(
    attributes: Attributes,
    partition: int,
    kept: Clips,
    shard: ShardReceipt | None,
    *,
    valid: Mapping[str, NDArray[np.bool_]],
    failures: Mapping[str, str],
    sources: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> Receipt:
    """What there is of the partition now, and who made it where and when."""
    made = {"published": now(), "user": user(), "host": platform.node(), "versions": versions()}
    return Receipt(
        format=attributes.format,
        fingerprint=attributes.fingerprint,
        partition=partition,
        clips={
            clip: ClipReceipt(
                rows=len(rows),
                sha256=sha256(rows.tobytes()),
                crc32c=clip_checksum(rows, attributes.layout),
                invalid=invalid_runs(valid[clip]) if clip in valid else (),
            )
            for clip, rows in kept.items()
        },
        failures={clip: _one_line(reason) for clip, reason in failures.items()},
        sources=dict(sources),
        shard=shard,
        provenance={**made, **provenance},
    )


def _one_line(reason: str) -> str:
    # Reasons come from decoders and may hold anything; NUL and lone surrogates cannot be stored.
    text = reason.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
    return " ".join(text.split())[:_MAX_REASON_CHARACTERS] or "no reason given"
