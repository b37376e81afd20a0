"""The sweep that chose the rows of chunks and shards: what a store costs to read, keep and trust.

Usage: python benchmarks/chunks.py [--clips 300] [--rounds 9] [--chunks 8 16 32 64 128]

Per size of a chunk, for clips of PHOENIX14T's lengths and 2,048 values a row: the speed of verified
reads of random clips against one fp16 `.npy` per clip (CPU time, page cache warm, all in turn),
that of zarr-python on the same store, the bytes with alignment and checksums against the bare
values and against the official fp32 files, and how many rows one damaged byte takes with it.

Per size of a shard, of all 8,257 clips: files, and what a worker that dies has to do again. Reading
does not depend on it, within the measurement's noise.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from reference.material import WIDTH, Material, lengths, size
from reference.turns import measure

from spamo_cache.store.layout import pack
from spamo_cache.store.reader import FeatureStore

BATCH = 16


def orders(clips: int, seed: int) -> Callable[[], list[list[int]]]:
    """Batches of all clips, in a new order each time."""
    chance = random.Random(seed)

    def shuffled() -> list[list[int]]:
        order = chance.sample(range(clips), clips)
        return [order[at : at + BATCH] for at in range(0, clips, BATCH)]

    return shuffled


class Sweep:
    """The same clips in stores of several geometries, and in files."""

    def __init__(self, folder: Path, material: Material) -> None:
        self.folder, self.material, self.ids = folder, material, material.ids
        self.buffer = np.zeros((sum(sorted(material.rows)[-BATCH:]), WIDTH), np.float16)
        self.files = folder / "npy"
        self.files.mkdir()
        for clip, rows in material:
            np.save(self.files / f"{clip}.npy", rows)

    def npy(self) -> Callable[[], None]:
        batches = orders(len(self.ids), 0)

        def once() -> None:
            for batch in batches():
                start = 0
                for number in batch:
                    rows = np.load(self.files / f"{self.ids[number]}.npy")
                    self.buffer[start : start + len(rows)] = rows
                    start += len(rows)

        return once

    def ours(self, store: FeatureStore, seed: int) -> Callable[[], None]:
        batches = orders(len(self.ids), seed)

        def once() -> None:
            for batch in batches():
                store.read_into([self.ids[number] for number in batch], self.buffer)

        return once

    def zarr(self, store: FeatureStore, seed: int) -> Callable[[], None]:
        features: Any = zarr.open_group(str(store.path), mode="r")["features"]
        places = [(slot.row, slot.row + slot.rows) for slot in store.slots()]
        chance = random.Random(seed)

        def once() -> None:
            for first, last in chance.sample(places, 16):
                features[first:last]

        return once


def chunks(sweep: Sweep, sizes: Sequence[int], rounds: int) -> None:
    stores = {rows: sweep.material.store(sweep.folder / f"chunks-{rows}", rows) for rows in sizes}
    works = {"npy": sweep.npy()}
    for rows, store in stores.items():
        works |= {f"ours {rows}": sweep.ours(store, rows), f"zarr {rows}": sweep.zarr(store, rows)}
    times = measure(works, rounds)
    clips, raw = len(sweep.ids), sum(sweep.material.rows) * WIDTH * 2
    cpu = {name: statistics.median(found.cpu) for name, found in times.items()}
    print("chunk rows   us/clip   x npy  zarr: x npy  bytes  of fp32  rows lost")
    for rows, store in stores.items():
        ours, plain = cpu[f"ours {rows}"] / clips, cpu[f"zarr {rows}"] / 16
        held, npy = size(Path(str(store.path))) / raw, cpu["npy"] / clips
        figures = (ours * 1e6, npy / ours, npy / plain, held, held / 2)
        print("{:>10} {:9.0f} {:7.2f} {:12.2f} {:6.3f} {:8.3f} {:>10}".format(rows, *figures, rows))


def shards(sizes: Sequence[int], chunk_rows: int = 32, clips: int = 8_257) -> None:
    drawn = [[rows] for rows in lengths(clips)]
    print("\nshard rows  MiB  files per 1,000 clips  frames lost with a worker, at most")
    for rows in sizes:
        splits = ["train"] * clips
        partition, _ = pack(drawn, splits, chunk_rows=[chunk_rows], shard_rows=[rows])
        files = 2 * (int(partition[-1]) + 1) / clips * 1000
        print(f"{rows:>10} {rows * WIDTH * 2 >> 20:>4} {files:22.1f} {rows:>35,}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--chunks", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--shards", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(Path(folder), Material(lengths(arguments.clips)))
        chunks(sweep, arguments.chunks, arguments.rounds)
    shards(arguments.shards)


if __name__ == "__main__":
    main()
