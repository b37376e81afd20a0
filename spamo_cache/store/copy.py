"""Copy stores between roots: verified, resumable, never over something different."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from spamo_cache import human, io
from spamo_cache.errors import DamagedError, StoreError, UsageError
from spamo_cache.store.attributes import (
    Attributes,
    load_attributes,
    load_manifest,
    note_origin,
)
from spamo_cache.store.index import ClipIndex, with_receipts
from spamo_cache.store.layout import store_path
from spamo_cache.store.leases import LeaseLostError, Leases
from spamo_cache.store.receipts import Receipt, finished, load_receipt, shard_path
from spamo_cache.store.remote import Location, RemotePath, location, verified_blocks
from spamo_cache.store.upload import HubUpload, Upload, different
from spamo_cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from typing_extensions import Buffer

Outcome = Literal["copied", "there", "different", "busy"]


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did.

    Attributes:
        path: the store in the other root.
        partitions: partitions by outcome: copied now, there already.
        clips: clips in these partitions, which are copied whole.
        bytes: bytes of features copied now.
        terms: terms of use of the corpus.
    """

    path: Location
    partitions: dict[Outcome, int]
    clips: int
    bytes: int
    terms: str


class Target(Protocol):
    """The store that is filled."""

    def lease(self, partition: int) -> AbstractContextManager[bool]: ...
    def have(self, partition: int) -> Receipt | None: ...
    def publish(self, receipt: Receipt, shard: Iterator[Buffer] | None) -> bool: ...
    def commit_index(self) -> None: ...


def copy(
    store: Location,
    root: str | Location,
    *,
    splits: Collection[str] | None = None,
    ids: Collection[str] | None = None,
    accept_terms: bool = False,
    create: bool = False,
    private: bool = False,
    workers: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Copied:
    """Copy a store, or the partitions that hold some of its clips, below another root.

    Done again, it goes on where it was cut.

    Args:
        store: the store, local or remote.
        root: the root that is to hold it, under the same corpus and name.
        splits: only these splits.
        ids: only the partitions of these clips.
        accept_terms: whether the corpus's terms of use allow it, where the root is remote.
        create: make the dataset of the Hub that the root lies in, where there is none.
        private: make it a private one.
        progress: called with partitions done and in all.

    Raises:
        UsageError: terms that were not accepted, unknown splits or clips, the root that it is in
            already, or one that cannot be written by its kind.
        StoreError: another plan or other features under the same name there, an unwritable root, a
            server that fails; whatever does not clash is copied all the same.
        DamagedError: bytes that disagree with their receipt; they are not copied, all others are.
    """
    about = load_attributes(store)
    index = ClipIndex.open(store, about, everything=True)
    target = store_path(location(root), about.corpus, about.stream, about.fingerprint)
    _allow(store, target, about, accept_terms)
    if (create or private) and not (isinstance(target, RemotePath) and target.on_hub):
        raise UsageError(
            "only a dataset of the Hub can be created", where=root, remedy="name hf://datasets/..."
        )
    wanted = _partitions(index, splits, ids)
    receipts = list(finished(store, about, index.finished_partitions(), wanted))
    manifest = _snapshot(store, about)
    snapshot = b"" if isinstance(manifest, StoreError) else manifest
    writer = _writer(target, about, index, snapshot, create=create, private=private)
    outcomes: list[tuple[Outcome | DamagedError, int]] = []
    with ThreadPoolExecutor(workers) as pool:
        for outcome in pool.map(lambda entry: _copy(store, about, writer, entry), receipts):
            outcomes.append(outcome)
            if progress is not None:
                progress(len(outcomes), len(receipts))
    writer.commit_index()
    if isinstance(target, Path):
        note_origin(target, store)
    counts = Counter(kind for kind, _ in outcomes if not isinstance(kind, DamagedError))
    for kind, _ in outcomes:
        if isinstance(kind, DamagedError):
            raise kind
    if isinstance(manifest, StoreError):
        raise manifest
    _check(target, counts)
    clips = sum(len(entry.clips) + len(entry.failures) for entry in receipts)
    return Copied(target, dict(counts), clips, sum(n for _, n in outcomes), about.terms)


def _allow(store: Location, target: Location, attributes: Attributes, accept: bool) -> None:
    """Raise UsageError if this copy must not be made."""
    if _same_place(store, target):
        raise UsageError("the store is in that root already", where=target)
    if isinstance(target, Path):
        return
    if not target.writable:
        raise UsageError(
            "an HTTP root is for reading", where=target, remedy="push to s3:// or hf://"
        )
    if attributes.terms and not accept:
        raise UsageError(
            f"the corpus {attributes.corpus} has terms of use: {attributes.terms}",
            where=target,
            remedy="give --accept-terms if they allow you to share its features there",
        )


def _same_place(a: Location, b: Location) -> bool:
    if isinstance(a, Path) and isinstance(b, Path):
        return b.exists() and b.samefile(a)
    return a == b


def _partitions(
    index: ClipIndex, splits: Collection[str] | None, ids: Collection[str] | None
) -> set[int]:
    unknown = sorted(set(splits or ()) - set(index.splits))
    sought = list(ids or ())
    positions = index.ids.positions(sought)
    unknown += [clip for clip, at in zip(sought, positions.tolist(), strict=True) if at < 0]
    if unknown:
        raise UsageError(f"not in the store: {', '.join(unknown[:5])}")
    wanted = set(index.partition.tolist())
    if ids is not None:
        wanted &= set(index.partition[positions].tolist())
    if splits is not None:
        codes = [index.splits.index(split) for split in splits]
        wanted &= set(index.partition[np.isin(index.split, codes)].tolist())
    return wanted


def _snapshot(store: Location, attributes: Attributes) -> bytes | StoreError:
    """The manifest, or why there is none to be copied: that is no reason to copy nothing."""
    try:
        return load_manifest(store, attributes)
    except StoreError as error:
        return error


def _writer(
    target: Location,
    attributes: Attributes,
    index: ClipIndex,
    manifest: bytes,
    *,
    create: bool,
    private: bool,
) -> Target:
    plan = attributes, with_receipts(index.columns, ()), index.splits, manifest
    if isinstance(target, Path):
        return _Folder(StoreWriter.create(target, *plan))
    if target.on_hub:
        return HubUpload(target, *plan, create=create, private=private)
    return Upload(target, *plan)


class _Folder:
    """A store below a local root."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self.lease, self.commit_index = writer.lease, writer.commit_index
        self.have = writer.receipts.valid

    def publish(self, receipt: Receipt, shard: Iterator[Buffer] | None) -> bool:
        """Put a shard aside, give it its name once it is whole, then vouch for it."""
        writer = self._writer
        try:
            with io.writing(writer.path), writer.leases.desk(str(receipt.partition)) as desk:
                if shard is not None:
                    aside = io.temporary(desk)
                    with aside.open("xb") as writing:
                        writing.writelines(shard)
                    io.sync(aside)
                    if not writer.receipts.place(receipt.partition, aside):
                        return False
                writer.receipts.publish(receipt, desk)
                return True
        except LeaseLostError:
            return False


def _copy(
    store: Location, about: Attributes, writer: Target, receipt: Receipt
) -> tuple[Outcome | DamagedError, int]:
    try:
        return _copied(store, writer, receipt)
    except DamagedError as error:
        # Perhaps it was replaced since the receipts were read: failed clips were tried again.
        newer = _newer(store, about, receipt)
        return (error, 0) if newer is None else _copy(store, about, writer, newer)


def _newer(store: Location, about: Attributes, receipt: Receipt) -> Receipt | None:
    """The receipt that has taken the place of ``receipt``."""
    load = partial(load_receipt, store, about, receipt.partition)
    try:
        if isinstance(store, Path):
            newer = Leases.beside(store).settled(receipt.partition, load)
        else:
            newer = load()
    except DamagedError:
        return None
    return None if newer == receipt else newer


def _copied(store: Location, writer: Target, receipt: Receipt) -> tuple[Outcome, int]:
    partition = receipt.partition
    with writer.lease(partition) as mine:
        if not mine:
            return "busy", 0
        have = writer.have(partition)
        if have is not None:
            return "there" if _same(have, receipt) else "different", 0
        shard, size = None, 0
        if receipt.shard is not None:
            size = receipt.shard.size
            shard = verified_blocks(shard_path(store, partition), size, receipt.shard.sha256)
        return ("copied", size) if writer.publish(receipt, shard) else ("busy", 0)


def _same(have: Receipt, wanted: Receipt) -> bool:
    return have.has_features_of(wanted) and have.failures == wanted.failures


def _check(target: Location, counts: Mapping[Outcome, int]) -> None:
    """Raise StoreError if something was left out."""
    if count := counts.get("different"):
        raise different(count, target)
    if counts.get("busy"):
        raise StoreError(
            f"{human.count(counts['busy'], 'partition is', 'partitions are')} being written by "
            "somebody else",
            where=target,
            remedy="run the same command again later",
        )
