"""The writing side of stores in remote roots.

On S3 a file appears by itself, and of two that put the same one, one is first. In a dataset of the
Hub files appear by commits, each on top of the one that was looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from spamo_cache import human
from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store import card
from spamo_cache.store.addresses import Place
from spamo_cache.store.attributes import (
    MANIFEST,
    MAX_ATTRIBUTES_BYTES,
    MAX_MANIFEST_BYTES,
    Attributes,
    document_of,
    documents,
    load_attributes,
    load_group,
    manifest_attributes,
)
from spamo_cache.store.index import ClipIndex, Columns, room, with_receipts, write_generation
from spamo_cache.store.layout import canonical, sha256
from spamo_cache.store.receipts import Receipt, load_receipt, receipt_path, shard_path
from spamo_cache.store.remote import RemotePath, hub
from spamo_cache.store.roots import name_of

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd
    from typing_extensions import Buffer

    from spamo_cache.store.hub import Operation

_THREADS = 16
_POINTER = "zarr.json"
_TRIES = 8
_COMMIT_PARTITIONS = 64
_COMMIT_BYTES = 4 << 30
_MAX_CARD_BYTES = 1 << 22


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
        self.attributes, self._columns, self._splits = attributes, columns, splits
        self._manifest = manifest
        self._known: dict[int, Receipt] = {}
        self._look(path)

    def _look(self, path: RemotePath) -> None:
        """See what is there."""
        self.path = path
        self._there = (path / "receipts").files()
        self._shards = (path / "features").files()
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
            return self._know(receipt.partition).has_features_of(receipt)
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

    def _columns_now(self) -> Columns:
        """The plan, with what the receipts that are there say of it."""
        return with_receipts(self._columns, self._finished(), self.attributes)

    def _index(self) -> dict[str, bytes]:
        """The files of the index, made here as they are made for a local store."""
        columns = self._columns_now()
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


# --- datasets of the Hub --------------------------------------------------------------------------


class _Waiting(NamedTuple):
    """A partition that is sent and not committed; no shard where the dataset has it already."""

    receipt: Receipt
    shard: CommitOperationAdd | None


class HubUpload(Upload):
    """The writing side of a store in a dataset of the Hub.

    Shards are sent as they are verified, and committed with their receipts, some dozens at once;
    the last commit brings the index, the store's own document and the dataset's card. Each has to
    follow the commit that was looked at: where somebody else was faster, it is made anew of what is
    there by then. What was sent for a commit that never came is not sent again.

    Args:
        path: where the store is, or is going to be, on a branch.
        create: make the dataset where there is none.
        private: make it a private one.
    """

    def __init__(
        self,
        path: RemotePath,
        attributes: Attributes,
        columns: Columns,
        splits: tuple[str, ...],
        manifest: bytes,
        *,
        create: bool,
        private: bool,
    ) -> None:
        self._hub, self._branch = hub(), Place.of(str(path))
        self._hub.check_branch(self._branch)
        if create:
            self._hub.create(str(path), private=private)
        self._lock, self._bytes = Lock(), 0
        self._waiting: dict[int, _Waiting] = {}
        self._different: set[int] = set()
        self._snapshot = manifest
        super().__init__(path.pinned(), attributes, columns, splits, manifest)
        card.check(self._card(), str(path))

    def publish(self, receipt: Receipt, shard: Iterator[Buffer] | None) -> bool:
        """Send a shard, to be committed with its receipt; see :meth:`Upload.publish`."""
        added = None
        if receipt.shard is not None and shard is not None:
            file = shard_path(self.path, receipt.partition)
            there = self._hub.entry(str(file))
            if there is None:
                # In memory: what was verified is what is sent.
                added = self._hub.upload(self._branch, _in_dataset(file), b"".join(shard))
            elif there.digest != receipt.shard.sha256 and not there.holds(b"".join(shard)):
                return False
        with self._lock:
            self._waiting[receipt.partition] = _Waiting(receipt, added)
            self._bytes += 0 if receipt.shard is None else receipt.shard.size
            if len(self._waiting) >= _COMMIT_PARTITIONS or self._bytes >= _COMMIT_BYTES:
                self._commit_waiting()
        return True

    def commit_index(self) -> None:
        """Commit what waits, then an index of all that is there, the store's document and the card.

        Raises:
            StoreError: others keep committing, or have pushed other features meanwhile.
        """
        with self._lock:
            self._commit_waiting()
        for _ in range(_TRIES):
            operations = self._last_operations()
            if not operations:
                break
            self._commit(operations, f"index of {name_of(self.path)}")
        else:
            raise self._overtaken()
        if self._different:
            raise different(len(self._different), self.path)

    def _commit_waiting(self) -> None:
        for _ in range(_TRIES):
            self._drop_present()
            if not self._waiting:
                self._bytes = 0
                return
            shards = [one.shard for one in self._waiting.values() if one.shard is not None]
            receipts = [
                self._addition(receipt_path(self.path, number), canonical(document_of(one.receipt)))
                for number, one in self._waiting.items()
            ]
            count = human.count(len(self._waiting), "partition")
            self._commit([*shards, *receipts], f"{count} of {name_of(self.path)}")
        raise self._overtaken()

    def _drop_present(self) -> None:
        """Forget the partitions that are there by now, with these features or with others."""
        for partition, one in list(self._waiting.items()):
            have = self.have(partition)
            if have is not None:
                del self._waiting[partition]
                if not have.has_features_of(one.receipt):
                    self._different.add(partition)

    def _last_operations(self) -> list[Operation]:
        """What makes a whole store of all that is there; nothing where it is one already."""
        there = self._hub.files(str(self.path))
        files = {f"clips/{name}": data for name, data in self._index().items()}
        if self._snapshot and MANIFEST not in there:
            files[MANIFEST] = self._snapshot
        partitions = room(self.attributes, self._columns)
        for name, document in documents(self.attributes, partitions).items():
            if name not in there:
                files[name] = canonical(document)
        new = {n: data for n, data in files.items() if n not in there or not there[n].holds(data)}
        operations: list[Operation] = [
            self._addition(self.path / name, data) for name, data in new.items()
        ]
        old = _generation(self.path / "clips" / _POINTER) if f"clips/{_POINTER}" in new else None
        gone = [name for name in there if name.startswith(f"clips/{old}/") and name not in files]
        operations += [self._hub.deletion(_in_dataset(self.path / name)) for name in gone]
        before = self._card()
        place = Place.of(str(self.path))._replace(revision=self._branch.revision)
        block = card.block(place, self.attributes, self._columns_now(), self._splits)
        after = card.updated(before, place, self.attributes, block, card.languages(self._snapshot))
        return operations + (
            [] if after == before else [self._addition(self._readme(), after.encode())]
        )

    def _card(self) -> str:
        readme = self._readme()
        return readme.read(_MAX_CARD_BYTES).decode("utf-8", "replace") if readme.exists() else ""

    def _readme(self) -> RemotePath:
        return RemotePath(str(Place.of(str(self.path))._replace(path="README.md")))

    def _addition(self, file: RemotePath, data: bytes) -> CommitOperationAdd:
        return self._hub.addition(_in_dataset(file), data)

    def _commit(self, operations: list[Operation], message: str) -> None:
        """Try to commit on top of what was looked at, then look at what is there."""
        parent = Place.of(str(self.path)).revision
        commit = self._hub.commit(self._branch, str(parent), operations, message)
        if commit is None:
            self._look(RemotePath(str(self._branch)).pinned())
            return
        self._look(RemotePath(str(self._branch._replace(revision=commit))))
        if lost := self._hub.lost(str(self.path), operations):
            raise DamagedError(
                "the Hub did not keep what it was given",
                where=lost,
                remedy="see whether the dataset's .gitignore leaves it out",
            )

    def _overtaken(self) -> StoreError:
        return StoreError(
            "others keep committing to this dataset", where=self.path, remedy="run it again later"
        )


def _in_dataset(file: RemotePath) -> str:
    return Place.of(str(file)).path


def different(count: int, where: object) -> StoreError:
    """What is said of partitions that are left as they are."""
    return StoreError(
        f"{human.count(count, 'partition holds', 'partitions hold')} other features under the "
        "same name",
        where=where,
        remedy="compare the two with `spamo-cache store diff`; nothing was overwritten",
    )
