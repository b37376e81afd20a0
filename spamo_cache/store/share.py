"""Copy stores between roots: verified, resumable, never over something different."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from spamo_cache import io
from spamo_cache.errors import DamagedError, StoreError, UsageError
from spamo_cache.store import snapshot
from spamo_cache.store.claims import ClaimLostError, Claims
from spamo_cache.store.index import ClipIndex
from spamo_cache.store.layout import store_path
from spamo_cache.store.plan import with_receipts
from spamo_cache.store.receipts import load_receipt
from spamo_cache.store.records import Attributes, Receipt, load_attributes, shard_path
from spamo_cache.store.remote import Location, RemotePath, file_blocks, location
from spamo_cache.store.roots import finished
from spamo_cache.store.upload import Upload
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

    def claim(self, partition: int) -> AbstractContextManager[bool]: ...
    def have(self, partition: int) -> Receipt | None: ...
    def publish(self, receipt: Receipt, shard: Iterator[Buffer] | None) -> bool: ...
    def seal(self) -> None: ...


def copy(
    store: Location,
    root: str | Location,
    *,
    splits: Collection[str] | None = None,
    ids: Collection[str] | None = None,
    accept_terms: bool = False,
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
    wanted = _partitions(index, splits, ids)
    receipts = list(finished(store, about, index, wanted))
    manifest = _snapshot(store, about)
    writer = _writer(target, about, index, b"" if isinstance(manifest, StoreError) else manifest)
    outcomes: list[tuple[Outcome | DamagedError, int]] = []
    with ThreadPoolExecutor(workers) as pool:
        for outcome in pool.map(lambda entry: _copy(store, about, writer, entry), receipts):
            outcomes.append(outcome)
            if progress is not None:
                progress(len(outcomes), len(receipts))
    writer.seal()
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
        raise UsageError("an HTTP root is for reading", where=target, remedy="push to s3://...")
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
        return snapshot.load(store, attributes)
    except StoreError as error:
        return error


def _writer(target: Location, attributes: Attributes, index: ClipIndex, manifest: bytes) -> Target:
    columns = with_receipts(index.columns, ())
    if isinstance(target, RemotePath):
        return Upload(target, attributes, columns, index.splits, manifest)
    return _Folder(StoreWriter.create(target, attributes, columns, index.splits, manifest))


class _Folder:
    """A store below a local root."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self.claim, self.seal, self.have = writer.claim, writer.seal, writer.receipts.valid

    def publish(self, receipt: Receipt, shard: Iterator[Buffer] | None) -> bool:
        """Put a shard aside, give it its name once it is whole, then vouch for it."""
        writer = self._writer
        try:
            with io.writing(writer.path), writer.claims.desk(str(receipt.partition)) as desk:
                if shard is not None:
                    aside = io.temporary(desk)
                    with aside.open("xb") as writing:
                        writing.writelines(shard)
                    io.sync(aside)
                    if not writer.receipts.place(receipt.partition, aside):
                        return False
                writer.receipts.publish(receipt, desk)
                return True
        except ClaimLostError:
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
            found = Claims.beside(store).settled(receipt.partition, load)
        else:
            found = load()
    except DamagedError:
        return None
    return None if found == receipt else found


def _copied(store: Location, writer: Target, receipt: Receipt) -> tuple[Outcome, int]:
    partition = receipt.partition
    with writer.claim(partition) as mine:
        if not mine:
            return "busy", 0
        have = writer.have(partition)
        if have is not None:
            return "there" if _same(have, receipt) else "different", 0
        shard, size = None, 0
        if receipt.shard is not None:
            size = receipt.shard.size
            shard = _verified(shard_path(store, partition), size, receipt.shard.sha256)
        return ("copied", size) if writer.publish(receipt, shard) else ("busy", 0)


def _same(have: Receipt, wanted: Receipt) -> bool:
    there = (have.clips, have.failures, have.shard)
    return there == (wanted.clips, wanted.failures, wanted.shard)


def _verified(file: Location, size: int, digest: str) -> Iterator[Buffer]:
    """The blocks of a shard; the last one is followed by an error if they are not what they were.

    Raises:
        DamagedError: too few, too many or other bytes.
    """
    found, remaining = hashlib.sha256(), size
    for block in file_blocks(file):
        remaining -= memoryview(block).nbytes
        if remaining < 0:
            break
        found.update(block)
        yield block
    if remaining or found.hexdigest() != digest:
        raise DamagedError(
            "the shard disagrees with its receipt",
            where=file,
            remedy="run `spamo-cache store verify --deep --repair` on the store it comes from",
        )


def _check(target: Location, counts: Mapping[Outcome, int]) -> None:
    """Raise StoreError if something was left out."""
    if counts.get("different"):
        raise StoreError(
            f"{counts['different']} partitions hold other features under the same name",
            where=target,
            remedy="compare the two with `spamo-cache store diff`; nothing was overwritten",
        )
    if counts.get("busy"):
        raise StoreError(
            f"{counts['busy']} partitions are being written by somebody else",
            where=target,
            remedy="run the same command again later",
        )
