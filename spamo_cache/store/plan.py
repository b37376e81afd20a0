"""The columns of the clip index: from the plan, and from what receipts say of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.layout import ClipKey, Geometry, Slot
from spamo_cache.store.records import Attributes, Receipt
from spamo_cache.store.texts import Texts, encode

ABSENT, OK, FAILED = 0, 1, 2
State = Literal["absent", "ok", "failed"]
STATES: tuple[State, ...] = ("absent", "ok", "failed")

Columns = dict[str, NDArray[Any]]


def plan(
    keys: Sequence[ClipKey], slots: Sequence[Slot], geometry: Geometry
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
    _check_slots(slots, geometry)
    ordered = [by_id[slot.id] for slot in slots]
    columns: Columns = {
        "id": encode([slot.id for slot in slots], "clip id"),
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
    """What identifies the clips' sources, in the keys' order: source, size, start, end, crop."""
    nan = float("nan")
    return {
        "source": encode([key.source for key in keys], "source"),
        "size": np.array([key.size for key in keys], "<i8"),
        "start": np.array([nan if key.start is None else key.start for key in keys], "<f8"),
        "end": np.array([nan if key.end is None else key.end for key in keys], "<f8"),
        "crop": np.array([key.crop or (nan,) * 4 for key in keys], "<f8"),
    }


def _check_slots(slots: Sequence[Slot], geometry: Geometry) -> None:
    end, partition, split = 0, -1, ""
    for slot in sorted(slots, key=lambda slot: (slot.partition, slot.row)):
        if slot.partition != partition:
            partition, split = slot.partition, slot.split
            end = partition * geometry.shard_rows
        if slot.split != split:
            raise StoreError(f"partition {partition} holds clips of two splits", where=slot.id)
        if not slot.id or slot.rows < 0 or partition < 0:
            raise StoreError(f"not a slot: {slot}")
        if slot.rows == 0:
            continue
        shard_end = (partition + 1) * geometry.shard_rows
        misplaced = slot.row < end or slot.row + slot.rows > shard_end
        if misplaced or slot.row % geometry.chunk_rows:
            raise StoreError(f"rows overlap, cross a shard or start within a chunk: {slot}")
        end = slot.row + slot.rows


def room(attributes: Attributes, columns: Columns) -> int:
    """Partitions that a store with this plan has room for: those it was begun with, and later."""
    return max(attributes.partitions, int(columns["partition"].max()) + 1)


PLACE = ("partition", "row", "rows", "split", "first", "frames")
"""The columns that say where a clip goes."""


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


def with_receipts(columns: Columns, receipts: Iterable[Receipt]) -> Columns:
    """The plan with the states that receipts give its clips.

    A receipt may name clips that were given a place in a later partition since: those are not its
    own any more.

    Raises:
        DamagedError: a receipt for clips, rows or a partition that were not planned.
    """
    ids = Texts(columns["id"])
    state = np.zeros(len(ids), np.uint8)
    checksum = np.zeros(len(ids), "<u4")
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
        why = compress(receipt.failures.values(), here[done:])
        reasons.update(zip(failed.tolist(), why, strict=True))
    positions = np.array(sorted(reasons), "<i8")
    texts = encode([reasons[position] for position in positions.tolist()], "reason")
    known = {**columns, "state": state, "checksum": checksum}
    return {**known, "failed": positions, "reason": texts}
