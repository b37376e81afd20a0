"""A small corpus and stores of it; random features stand in for an encoder's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spamo_cache.store.layout import ClipKey, Slot, StreamIdentity, pack
from spamo_cache.store.writer import StoreWriter

CHUNK, SHARD, WIDTH = 4, 64, 12
MANIFEST = b"PAR1, as far as a store is concerned"
IDENTITY = StreamIdentity({"encoder": "random", "stride": 8}, "ab" * 32, 1)


@dataclass
class Material:
    """Clips with their features, and how to write them into a store."""

    keys: list[ClipKey]
    slots: list[Slot]
    features: dict[str, np.ndarray]
    failures: dict[str, str] = field(default_factory=dict)
    identity: StreamIdentity = IDENTITY
    valid: dict[str, np.ndarray] = field(default_factory=dict)
    """Of material for a store with validity: (rows,) of each clip."""

    @property
    def partitions(self) -> list[int]:
        return sorted({slot.partition for slot in self.slots})

    def open(self, root: Path, **changes: Any) -> StoreWriter:
        arguments: dict[str, Any] = {
            "corpus": "weather",
            "stream": "spatial",
            "identity": self.identity,
            "weights": "random",
            "keys": self.keys,
            "slots": self.slots,
            "width": WIDTH,
            "dtype": "float16",
            "chunk_rows": CHUNK,
            "shard_rows": SHARD,
            "manifest": MANIFEST,
            "validity": bool(self.valid),
        }
        return StoreWriter.open(root, **{**arguments, **changes})

    def publish(self, writer: StoreWriter, partition: int, **provenance: Any) -> bool:
        ids = [slot.id for slot in self.slots if slot.partition == partition]
        return writer.publish(
            partition,
            {clip: self.features[clip] for clip in ids if clip not in self.failures},
            {clip: self.failures[clip] for clip in ids if clip in self.failures},
            provenance,
            dict.fromkeys(ids, "cd" * 32),
            valid={c: v for c, v in self.valid.items() if c in ids and c not in self.failures},
        )

    def write(self, root: Path, order: Iterable[int] | None = None) -> StoreWriter:
        writer = self.open(root)
        for partition in self.partitions if order is None else order:
            self.publish(writer, partition)
        writer.commit_index()
        return writer


@pytest.fixture
def make() -> Callable[..., Material]:
    """Material of ``clips`` clips; two of the ids are there to be awkward."""

    def build(clips: int = 24, seed: int = 0, failed: int = 2) -> Material:
        random = np.random.default_rng(seed)
        ids = [f"clip {n:03d}" for n in range(clips - 2)] + ["Ärger/über:_%41", "手語"]
        rows = random.integers(1, 15, clips).tolist()
        splits = ["test" if n % 3 == 0 else "train" for n in range(clips)]
        order = sorted(range(clips), key=lambda n: (splits[n], ids[n]))
        partition, row = pack(
            [[rows[n]] for n in order],
            [splits[n] for n in order],
            chunk_rows=[CHUNK],
            shard_rows=[SHARD],
        )
        slots = [
            Slot(ids[n], splits[n], int(partition[i]), int(row[i, 0]), rows[n], 5 * n, 8 * rows[n])
            for i, n in enumerate(order)
        ]
        keys = [ClipKey(clip, f"videos/{n}.mp4", 1000 + n) for n, clip in enumerate(ids)]
        keys[0] = ClipKey(ids[0], "videos/0.mp4", 1000, 0.5, 2.0, (0.0, 0.1, 0.9, 1.0))
        features = {
            clip: random.normal(size=(count, WIDTH)).astype(np.float16)
            for clip, count in zip(ids, rows, strict=True)
        }
        failures = dict.fromkeys(ids[1 : 1 + failed], "decoder gave up")
        return Material(keys, slots, features, failures)

    return build


@pytest.fixture
def material(make: Callable[..., Material]) -> Material:
    return make()


@pytest.fixture
def sealed(material: Material, tmp_path: Path) -> StoreWriter:
    """A complete store."""
    return material.write(tmp_path / "root")
