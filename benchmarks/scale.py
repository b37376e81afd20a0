"""A store index of a million clips: what opening it costs, and how few files there are.

Usage: python benchmarks/scale.py [--clips 1000000] [--check]

    open     CPU time and memory of FeatureStore.open, page cache warm, in a fresh process
    batch    finding and reading the first 16 clips, drawn from one written partition
    worker   memory of its own that a forked DataLoader worker takes for the larger index
    files    of a store of PHOENIX14T's size (8,257 clips), all partitions there
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from reference.aims import Aim, conclude
from reference.material import WIDTH, lengths
from torch.utils.data import DataLoader

from spamo_cache.store.attributes import describe
from spamo_cache.store.index import Columns, with_receipts
from spamo_cache.store.layout import StreamIdentity, fingerprint, pack, store_path
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.writer import StoreWriter
from spamo_cache.train.dataset import FeatureDataset, PackedBatch

CHUNK, SHARD, PHOENIX = 32, 16_384, 8_257


def plan(clips: int) -> Columns:
    """A corpus's index, in which nothing is done yet."""
    rows = lengths(clips)
    partition, row = pack(
        [[n] for n in rows], ["train"] * clips, chunk_rows=[CHUNK], shard_rows=[SHARD]
    )
    number = np.arange(clips)
    digits = [number // 10**place % 10 + ord("0") for place in range(6, -1, -1)]
    ids = np.stack(digits, axis=1).astype(np.uint8)
    nan = np.full(clips, np.nan)
    columns: Columns = {
        "id": ids,
        "partition": partition.astype("<i4"),
        "row": row[:, 0].astype("<i8"),
        "rows": np.array(rows, "<i4"),
        "split": np.zeros(clips, "<i2"),
        "source": ids,
        "size": number.astype("<i8"),
        "start": nan,
        "end": nan,
        "crop": np.full((clips, 4), np.nan),
    }
    return with_receipts(columns, ())


def written(root: Path, clips: int) -> StoreWriter:
    """A store of so many clips of which one partition is there."""
    columns = plan(clips)
    identity = StreamIdentity({"clips": clips}, "", 0)
    digest = fingerprint(identity, "00" * 32)
    path = store_path(root, "large", "spatial", digest)
    attributes = describe(
        path,
        corpus="large",
        stream="spatial",
        fingerprint=digest,
        spec=identity.spec,
        weights="",
        weights_sha256="",
        semantics=0,
        corpus_sha256="00" * 32,
        clips=clips,
        partitions=int(columns["partition"][-1]) + 1,
        width=WIDTH,
        dtype="float16",
        chunk_rows=CHUNK,
        shard_rows=SHARD,
    )
    writer = StoreWriter.create(path, attributes, columns, ("train",))
    slots = writer.slots(0)
    writer.publish(0, {slot.id: np.ones((slot.rows, WIDTH), "f2") for slot in slots}, {}, {})
    writer.commit_index()
    return writer


# --- in a process of its own --------------------------------------------------------------------


def private() -> float:
    """MB of memory that this process shares with nobody."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    lines = [line.split() for line in text.splitlines() if line.startswith("Private_")]
    return sum(int(line[1]) for line in lines) / 1024


def resident() -> float:
    """MB of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


class Weighing(FeatureDataset):
    """Says what memory a worker holds alone once it has read a batch."""

    def __getitems__(self, numbers: Sequence[int]) -> PackedBatch:
        batch = super().__getitems__(numbers)
        print(json.dumps(private()), flush=True)
        return batch


def measure(path: Path, small: Path) -> None:
    """Print as JSON: seconds and MB to open, seconds of a batch; MB of a worker for each store."""
    FeatureStore.open(small)  # imports
    held, start = resident(), time.process_time()
    store = FeatureStore.open(path)
    opened, memory = time.process_time() - start, resident() - held
    start = time.process_time()
    store.read(store.select(state="ok")[3:99:6])
    print(json.dumps([opened, memory, time.process_time() - start]), flush=True)
    for each in (small, path):
        data = Weighing({"spatial": FeatureStore.open(each)})
        next(iter(DataLoader(data, 16, num_workers=1, collate_fn=data.collate, prefetch_factor=1)))


def figures(path: Path, small: Path) -> tuple[float, float, float, float]:
    """Seconds and MB to open, seconds of the first batch, MB of index per worker."""
    command = [sys.executable, __file__, "--measure", str(path), str(small)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (opened, memory, batch), *workers = map(json.loads, done.stdout.splitlines())
    few, many = workers[0], workers[-1]
    return opened, memory, batch, many - few


def files_per_thousand(writer: StoreWriter, clips: int) -> float:
    """Files of the store with all its partitions there: a shard and a receipt each."""
    there = sum(path.is_file() for path in writer.path.rglob("*"))
    return (there + 2 * (writer.attributes.partitions - 1)) / clips * 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="exit 1 where an aim is missed")
    parser.add_argument("--measure", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        large, small = (written(Path(folder), n) for n in (arguments.clips, PHOENIX))
        found = [figures(large.path, small.path) for _ in range(arguments.rounds)]
        opened, memory, batch, worker = map(statistics.median, zip(*found, strict=True))
        many = files_per_thousand(small, PHOENIX)
    missed = conclude(
        [
            Aim(f"open, {arguments.clips:,} clips: seconds of CPU", opened, most=0.3),
            Aim("open: MB of memory", memory, most=150),
            Aim("first batch of 16 clips: seconds of CPU", batch, most=0.3),
            Aim("a forked worker: MB more than with 8,257 clips", worker, most=5),
            Aim(f"files per 1,000 clips, of {PHOENIX:,}", many, most=40),
        ]
    )
    sys.exit(missed if arguments.check else 0)


if __name__ == "__main__":
    main()
