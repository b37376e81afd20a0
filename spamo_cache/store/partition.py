"""One partition: its clips as the rows of a shard, and the receipt that vouches for them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import StoreError
from spamo_cache.store.layout import FORMAT, Geometry, Slot, aligned, fit, sha256
from spamo_cache.store.records import (
    ClipReceipt,
    Receipt,
    ShardReceipt,
    now,
    user,
    versions,
)
from spamo_cache.store.shard import clip_checksum

_MAX_REASON_CHARACTERS = 250

Clips = dict[str, NDArray[Any]]


def checked(
    slots: Sequence[Slot],
    features: Mapping[str, NDArray[Any]],
    failures: Mapping[str, str],
    geometry: Geometry,
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
                kept[slot.id] = fit(features[slot.id], slot.rows, geometry)
            except StoreError as error:
                raise StoreError(error.what, where=slot.id) from None
    return kept


def rows_of_shard(slots: Sequence[Slot], kept: Clips, geometry: Geometry) -> NDArray[Any]:
    """The shard's rows up to the last clip's; zeros between clips and where one has failed."""
    placed = [slot for slot in slots if slot.id in kept]
    base = placed[0].partition * geometry.shard_rows
    end = max(slot.row + aligned(slot.rows, geometry.chunk_rows) for slot in placed)
    rows = np.zeros((end - base, geometry.width), geometry.dtype)
    for slot in placed:
        rows[slot.row - base : slot.row - base + slot.rows] = kept[slot.id]
    return rows


def receipt(
    fingerprint: str,
    partition: int,
    kept: Clips,
    shard: ShardReceipt | None,
    *,
    geometry: Geometry,
    failures: Mapping[str, str],
    sources: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> Receipt:
    """What there is of the partition now, and who made it where and when."""
    made = {"published": now(), "user": user(), "host": platform.node(), "versions": versions()}
    return Receipt(
        format=FORMAT,
        fingerprint=fingerprint,
        partition=partition,
        clips={
            clip: ClipReceipt(
                rows=len(rows),
                sha256=sha256(rows.tobytes()),
                crc32c=clip_checksum(rows, geometry),
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
