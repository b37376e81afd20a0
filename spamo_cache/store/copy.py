"""Copy stores between roots: verified, resumable, never over something different."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from spamo_cache import io
from spamo_cache.errors import DamagedError, StoreError, UsageError
from spamo_cache.store.attributes import (
    MANIFEST,
    MAX_ATTRIBUTES_BYTES,
    MAX_MANIFEST_BYTES,
    Attributes,
    document_of,
    documents,
    load_attributes,
    load_group,
    load_manifest,
    manifest_attributes,
)
from spamo_cache.store.index import ClipIndex, Columns, room, with_receipts, write_generation
from spamo_cache.store.layout import canonical, sha256, store_path
from spamo_cache.store.leases import LeaseLostError, Leases
from spamo_cache.store.receipts import Receipt, finished, load_receipt, receipt_path, shard_path
from spamo_cache.store.remote import Location, RemotePath, file_blocks, location
from spamo_cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from typing_extensions import Buffer

_THREADS = 16
_POINTER = "zarr.json"
_TRIES = 8
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
    receipts = list(finished(store, about, index.finished_partitions(), wanted))
    manifest = _snapshot(store, about)
    writer = _writer(target, about, index, b"" if isinstance(manifest, StoreError) else manifest)
    outcomes: list[tuple[Outcome | DamagedError, int]] = []
    with ThreadPoolExecutor(workers) as pool:
        for outcome in pool.map(lambda entry: _copy(store, about, writer, entry), receipts):
            outcomes.append(outcome)
            if progress is not None:
                progress(len(outcomes), len(receipts))
    writer.commit_index()
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
        return load_manifest(store, attributes)
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
    hashed, remaining = hashlib.sha256(), size
    for block in file_blocks(file, size):
        remaining -= memoryview(block).nbytes
        if remaining < 0:
            break
        hashed.update(block)
        yield block
    if remaining or hashed.hexdigest() != digest:
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


# --- remote roots ---------------------------------------------------------------------------------


class Upload:
    """The writing side of one remote store; any number of processes may be at it.

    Args:
        path: where the store is, or is going to be.
        attributes: what it says about itself.
        columns: its plan.
        splits: names of the splits in the plan.
        manifest: the snapshot to go with it.

    Raises:
        StoreError: another store stands in this place, or one with another plan.
    """

    def __init__(
        self,
        path: RemotePath,
        attributes: Attributes,
        columns: Columns,
        splits: tuple[str, ...],
        manifest: bytes,
    ) -> None:
        self.path = path
        self.attributes, self._columns, self._splits = attributes, columns, splits
        self._manifest = manifest
        self._there = (path / "receipts").files()
        self._shards = (path / "features").files()
        self._known: dict[int, Receipt] = {}
        if (path / _POINTER).exists():
            self._join()

    def _join(self) -> None:
        have = load_attributes(self.path)
        wanted = self.attributes
        if (have.fingerprint, have.layout) != (wanted.fingerprint, wanted.layout):
            raise StoreError("another store stands in this place", where=self.path)
        if have.manifest_sha256 != wanted.manifest_sha256 or (self.path / MANIFEST).exists():
            self._manifest = b""  # it keeps the one that it was made with
        self.attributes = have
        try:
            same = ClipIndex.open(self.path, have).has_plan(self._columns, self._splits)
        except DamagedError:
            # Lost: the plan is known again, and the receipts know the rest.
            return
        if not same:
            raise StoreError("holds other partitions of the same clips", where=self.path)

    def lease(self, partition: int) -> AbstractContextManager[bool]:  # noqa: ARG002
        """Nothing is leased: of two that put the same file, one is first."""
        return nullcontext(True)

    def have(self, partition: int) -> Receipt | None:
        """The receipt of a partition that was there when work began, with its shard.

        Raises:
            DamagedError: a receipt that cannot be read.
        """
        if f"{partition}.json" not in self._there:
            return None
        receipt = self._know(partition)
        shard = shard_path(self.path, partition).name
        if receipt.shard is not None and self._shards.get(shard) != receipt.shard.size:
            return None
        return receipt

    def publish(self, receipt: Receipt, shard: Iterator[Buffer] | None) -> bool:
        """Put a shard, make sure of it, then vouch for it.

        Returns:
            False where the partition holds, or is about to hold, other features.
        """
        # In memory: what was verified is what is sent.
        if shard is not None and not self._place(receipt.partition, b"".join(shard)):
            return False
        file = receipt_path(self.path, receipt.partition)
        if not file.create(canonical(document_of(receipt))):
            return self._know(receipt.partition).shard == receipt.shard
        self._known[receipt.partition] = receipt
        return True

    def _place(self, partition: int, shard: bytes) -> bool:
        file = shard_path(self.path, partition)
        if file.create(shard):
            if file.size() != len(shard):
                raise DamagedError("the server did not keep what it was given", where=file)
            return True
        # Left by a cut push, or by one at work now: the same bytes will do.
        return sha256(file.read(len(shard))) == sha256(shard)

    def commit_index(self) -> None:
        """Bring the clip index up to date with all receipts there, then let the store appear.

        Raises:
            StoreError: others keep changing the index at the same time.
        """
        for _ in range(_TRIES):
            if self._move_pointer():
                break
        else:
            raise StoreError(
                "others are writing the index", where=self.path, remedy="run it again later"
            )
        self._place_manifest()
        partitions = room(self.attributes, self._columns)
        for name, document in documents(self.attributes, partitions).items():
            (self.path / name).create(canonical(document))

    def _place_manifest(self) -> None:
        file = self.path / MANIFEST
        if self._manifest and not file.create(self._manifest):
            # Of two that put the same store, or from a push that was cut: the first one counts.
            kept = manifest_attributes(file.read(MAX_MANIFEST_BYTES))
            self.attributes = self.attributes.model_copy(update=dict(kept))

    def _move_pointer(self) -> bool:
        """Point to an index of all that is there; False where somebody else has moved it."""
        clips = self.path / "clips"
        pointer = clips / _POINTER
        tag = pointer.tag()
        old = None if tag is None else _generation(pointer)
        contents = self._index()
        moved = contents.pop(_POINTER)
        have = clips.files()
        missing = [name for name, data in contents.items() if have.get(name) != len(data)]
        self._each(lambda name: (clips / name).create(contents[name]), missing)
        if tag is None:
            return pointer.create(moved)
        if pointer.read(MAX_ATTRIBUTES_BYTES) == moved:
            return True
        if not pointer.swap(tag, moved):
            return False
        # Only what this very move has replaced: others may be about to point to any other one.
        self._each(lambda name: (clips / name).delete(), _files_of(old, have))
        return True

    def _index(self) -> dict[str, bytes]:
        """The files of the index, made here as they are made for a local store."""
        columns = with_receipts(self._columns, self._finished())
        with TemporaryDirectory() as made:
            store, work = Path(made, "store"), Path(made, "work")
            for folder in (store / "clips", work):
                folder.mkdir(parents=True)
            write_generation(store, work, columns, self._splits)
            clips = store / "clips"
            files = [path for path in clips.rglob("*") if path.is_file()]
            return {path.relative_to(clips).as_posix(): path.read_bytes() for path in files}

    def _finished(self) -> list[Receipt]:
        names = (name.removesuffix(".json") for name in (self.path / "receipts").files())
        partitions = sorted(int(name) for name in names if name.isdecimal())
        self._each(self._know, [number for number in partitions if number not in self._known])
        return [self._known[number] for number in partitions]

    def _know(self, partition: int) -> Receipt:
        self._known[partition] = load_receipt(self.path, self.attributes, partition)
        return self._known[partition]

    @staticmethod
    def _each(work: Callable[[Any], object], items: Iterable[Any]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(work, items):
                pass


def _generation(pointer: RemotePath) -> str | None:
    try:
        return str(load_group(pointer).get("generation"))[:16]
    except DamagedError:
        return None


def _files_of(generation: str | None, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.split("/")[0] == generation]
