"""Copy stores between roots: verified, resumable, never over something different."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spamo_cache.errors import DamagedError, StoreError, UsageError
from spamo_cache.store import files
from spamo_cache.store.index import ClipIndex
from spamo_cache.store.layout import store_path
from spamo_cache.store.plan import with_receipts
from spamo_cache.store.receipts import Receipts
from spamo_cache.store.records import Receipt, load_attributes, shard_path
from spamo_cache.store.writer import StoreWriter

_BLOCK_BYTES = 1 << 20

Outcome = Literal["copied", "there", "different", "busy"]


@dataclass(frozen=True, slots=True)
class Copied:
    """What a push or pull did.

    Attributes:
        path: the store in the other root.
        partitions: partitions by outcome: copied now, there already.
        bytes: bytes of features copied now.
    """

    path: Path
    partitions: dict[Outcome, int]
    bytes: int


def local_root(root: str | Path) -> Path:
    """A root as a folder.

    Raises:
        UsageError: a remote root.
    """
    if "://" in str(root):
        raise UsageError(
            "remote roots cannot be read or written yet",
            where=root,
            remedy="mount it, or give a local folder",
        )
    return Path(root).expanduser()


def push(
    store: Path,
    root: str | Path,
    *,
    splits: Collection[str] | None = None,
    ids: Collection[str] | None = None,
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Copied:
    """Copy a store, or the partitions that hold some of its clips, below another root.

    Args:
        store: the store's folder.
        root: the root that is to hold it, under the same corpus and name.
        splits: only these splits.
        ids: only the partitions of these clips.
        progress: called with partitions done and in all.

    Raises:
        UsageError: a remote root, unknown splits or clips, or the root that it is in already.
        StoreError: another plan or other features under the same name there, or an unwritable root;
            whatever does not clash is copied all the same.
        DamagedError: bytes that disagree with their receipt; they are not copied.
    """
    attributes = load_attributes(store)
    index = ClipIndex.open(store, attributes, everything=True)
    target = store_path(
        local_root(root), attributes.corpus, attributes.stream, attributes.fingerprint
    )
    if target.exists() and target.samefile(store):
        raise UsageError("the store is in that root already", where=target)
    wanted = _partitions(index, splits, ids)
    writer = StoreWriter.create(target, attributes, with_receipts(index.columns, ()), index.splits)
    writer.sweep()
    receipts = [entry for entry in Receipts(store, attributes) if entry.partition in wanted]
    outcomes: list[tuple[Outcome, int]] = []
    with ThreadPoolExecutor(workers) as pool:
        for outcome in pool.map(lambda entry: _copy(store, writer, entry), receipts):
            outcomes.append(outcome)
            if progress is not None:
                progress(len(outcomes), len(receipts))
    writer.seal()
    return _summary(target, outcomes)


def pull(store: Path, root: str | Path, **options: Any) -> Copied:
    """:func:`push`, seen from the other side: bring a store of some root into one's own."""
    return push(store, root, **options)


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
        inside = [code in codes for code in index.split.tolist()]
        wanted &= set(index.partition[inside].tolist())
    return wanted


def _copy(store: Path, writer: StoreWriter, receipt: Receipt) -> tuple[Outcome, int]:
    partition = receipt.partition
    with writer.claim(partition) as mine:
        if not mine:
            return "busy", 0
        have = writer.receipts.valid(partition)
        if have is not None:
            same = (have.clips, have.failures) == (receipt.clips, receipt.failures)
            return "there" if same and have.shard == receipt.shard else "different", 0
        size = 0
        with files.writing(writer.path), files.aside(writer.work) as folder:
            if receipt.shard is not None:
                size = receipt.shard.size
                aside = folder / "shard"
                _copy_file(shard_path(store, partition), aside, size, receipt.shard.sha256)
                if not writer.receipts.place(partition, aside):
                    return "busy", 0
            writer.receipts.publish(receipt)
            return "copied", size


def _copy_file(source: Path, target: Path, size: int, digest: str) -> None:
    found = hashlib.sha256()
    remaining = size
    with open(files.open_regular(source), "rb") as reading, target.open("xb") as writing:  # noqa: PTH123
        while block := reading.read(min(_BLOCK_BYTES, remaining)):
            found.update(block)
            writing.write(block)
            remaining -= len(block)
    if remaining or found.hexdigest() != digest:
        raise DamagedError(
            "the shard disagrees with its receipt",
            where=source,
            remedy="run `spamo-cache store verify --deep --repair` on the store it comes from",
        )
    files.sync(target)


def _summary(target: Path, outcomes: list[tuple[Outcome, int]]) -> Copied:
    counts: dict[Outcome, int] = {}
    for outcome, _ in outcomes:
        counts[outcome] = counts.get(outcome, 0) + 1
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
    return Copied(target, counts, sum(size for _, size in outcomes))
