"""A million clips: opening the index stays a matter of milliseconds and megabytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spamo_cache.store.attributes import describe
from spamo_cache.store.index import Columns, with_receipts
from spamo_cache.store.layout import StreamIdentity, fingerprint, store_path
from spamo_cache.store.writer import StoreWriter

CLIPS, SHARD_ROWS, ROWS = 1_000_000, 16_384, 128

OPEN = """
import resource, sys, time
from pathlib import Path
from spamo_cache.store.reader import FeatureStore

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

FeatureStore.open(Path(sys.argv[2]))  # imports and the page cache
before = megabytes()
start = time.process_time()
store = FeatureStore.open(Path(sys.argv[1]))
opened = time.process_time() - start
assert len(store) == 1_000_000
assert store.rows("clip 0123456") == 128 and store.ids[-1] == "clip 0999999"
assert opened < 0.3, opened
assert megabytes() - before < 150, megabytes() - before
"""


def columns() -> Columns:
    number = np.arange(CLIPS)
    digits = [number // 10**place % 10 + ord("0") for place in range(6, -1, -1)]
    per_shard = SHARD_ROWS // ROWS
    ids = np.empty((CLIPS, 12), np.uint8)
    ids[:, :5] = np.frombuffer(b"clip ", np.uint8)
    ids[:, 5:] = np.stack(digits, axis=1)
    nan = np.full(CLIPS, np.nan)
    return {
        "id": ids,
        "partition": (number // per_shard).astype("<i4"),
        "row": (number * ROWS).astype("<i8"),
        "rows": np.full(CLIPS, ROWS, "<i4"),
        "split": np.zeros(CLIPS, "<i2"),
        "first": np.zeros(CLIPS, "<i4"),
        "frames": np.full(CLIPS, ROWS, "<i4"),
        "source": ids,
        "size": number.astype("<i8"),
        "start": nan,
        "end": nan,
        "crop": np.full((CLIPS, 4), np.nan),
    }


@pytest.mark.slow
def test_a_million_clips_open_at_once(tmp_path: Path, sealed: StoreWriter) -> None:
    identity, corpus = StreamIdentity({}, "", 0), "00" * 32
    digest = fingerprint(identity, corpus)
    path = store_path(tmp_path, "large", "spatial", digest)
    attributes = describe(
        path,
        corpus="large",
        stream="spatial",
        fingerprint=digest,
        spec={},
        weights="",
        weights_sha256="",
        semantics=0,
        corpus_sha256=corpus,
        clips=CLIPS,
        partitions=-(-CLIPS * ROWS // SHARD_ROWS),
        width=2048,
        dtype="float16",
        chunk_rows=32,
        shard_rows=SHARD_ROWS,
    )
    StoreWriter.create(path, attributes, with_receipts(columns(), ()), ("train",))
    subprocess.run([sys.executable, "-c", OPEN, path, sealed.path], check=True)
