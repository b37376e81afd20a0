"""Features of clips as long as those of a corpus, as stores and in the formats labs use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spamo_cache.store.layout import ClipKey, Slot, StreamIdentity, pack
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.writer import StoreWriter

WIDTH = 2048
"""Of SpaMo's spatial stream: two scales of 1,024 values."""
Array = NDArray[np.float16]


def lengths(clips: int, seed: int = 0) -> list[int]:
    """Frames per clip, log-normal with PHOENIX14T's mean (115) and bounds."""
    drawn = np.random.default_rng(seed).lognormal(np.log(103), 0.47, clips)
    rows: list[int] = np.clip(drawn.round(), 16, 475).astype(int).tolist()
    return rows


@dataclass(frozen=True)
class Material:
    """Clips of which every value is drawn from its number: written in pieces, never held whole."""

    rows: list[int]
    width: int = WIDTH
    stream: str = "spatial"

    @property
    def ids(self) -> list[str]:
        return [f"clip {number:06d}" for number in range(len(self.rows))]

    def features(self, number: int) -> Array:
        """(rows, width) of a clip."""
        random = np.random.default_rng(number)
        drawn = random.standard_normal((self.rows[number], self.width), np.float32)
        return drawn.astype(np.float16)

    def __iter__(self) -> Iterator[tuple[str, Array]]:
        return ((clip, self.features(number)) for number, clip in enumerate(self.ids))

    def store(self, root: Path, chunk_rows: int = 32, shard_rows: int = 16_384) -> FeatureStore:
        """Written as ``extract`` writes it."""
        ids, splits = self.ids, ["train"] * len(self.rows)
        drawn = [[rows] for rows in self.rows]
        partition, row = pack(drawn, splits, chunk_rows=[chunk_rows], shard_rows=[shard_rows])
        places = zip(ids, splits, partition.tolist(), row[:, 0].tolist(), self.rows, strict=True)
        slots = [Slot(*place) for place in places]
        writer = StoreWriter.open(
            root,
            corpus="benchmark",
            stream=self.stream,
            identity=StreamIdentity({"chunk": chunk_rows, "shard": shard_rows}, "", 0),
            weights="random",
            keys=[ClipKey(clip, clip, 0) for clip in ids],
            slots=slots,
            width=self.width,
            dtype="float16",
            chunk_rows=chunk_rows,
            shard_rows=shard_rows,
        )
        numbers = {clip: number for number, clip in enumerate(ids)}
        for part in sorted(set(partition.tolist()) - writer.finished()):
            clips = [slot.id for slot in slots if slot.partition == part]
            writer.publish(part, {clip: self.features(numbers[clip]) for clip in clips}, {}, {})
        writer.commit_index()
        return FeatureStore.open(writer.path)


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
