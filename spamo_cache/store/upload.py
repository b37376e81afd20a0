"""A store in a remote root, as it is made of finished partitions of another one.

There are no claims and no renames there, but a file appears whole or not at all, and only where
there is none: that is enough. A store's own document comes last, after the index; before that there
is no store for a reader, only files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store import index, snapshot
from spamo_cache.store.index import ClipIndex
from spamo_cache.store.layout import canonical, sha256
from spamo_cache.store.plan import Columns, room, with_receipts
from spamo_cache.store.receipts import load_receipt
from spamo_cache.store.records import (
    MAX_ATTRIBUTES_BYTES,
    MAX_MANIFEST_BYTES,
    Attributes,
    Receipt,
    documents,
    load_attributes,
    load_group,
    receipt_path,
    seal,
    shard_path,
)
from spamo_cache.store.remote import RemotePath

if TYPE_CHECKING:
    from typing_extensions import Buffer

_THREADS = 16
_POINTER = "zarr.json"
_TRIES = 8


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
        if (have.fingerprint, have.geometry) != (wanted.fingerprint, wanted.geometry):
            raise StoreError("another store stands in this place", where=self.path)
        if have.manifest_sha256 != wanted.manifest_sha256 or (self.path / snapshot.NAME).exists():
            self._manifest = b""  # it keeps the one that it was made with
        self.attributes = have
        try:
            same = ClipIndex.open(self.path, have).has_plan(self._columns, self._splits)
        except DamagedError:
            # Lost: the plan is known again, and the receipts know the rest.
            return
        if not same:
            raise StoreError("holds other partitions of the same clips", where=self.path)

    def claim(self, partition: int) -> AbstractContextManager[bool]:  # noqa: ARG002
        """Nothing is claimed: of two that put the same file, one is first."""
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
        if not file.create(canonical(seal(receipt))):
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

    def seal(self) -> None:
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
        file = self.path / snapshot.NAME
        if self._manifest and not file.create(self._manifest):
            # Of two that put the same store, or from a push that was cut: the first one counts.
            told = snapshot.describe(file.read(MAX_MANIFEST_BYTES))
            self.attributes = self.attributes.model_copy(update=dict(told))

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
            index.write(store, work, columns, self._splits)
            clips = store / "clips"
            found = [path for path in clips.rglob("*") if path.is_file()]
            return {path.relative_to(clips).as_posix(): path.read_bytes() for path in found}

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
