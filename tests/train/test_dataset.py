"""The torch Dataset: packed batches, in this process and in workers of both kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spamo_cache.errors import StoreError
from spamo_cache.store.layout import ClipKey, Slot, StreamIdentity
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.writer import StoreWriter
from spamo_cache.train.dataset import Clips, FeatureDataset

CHUNK, SHARD, CLIPS = 4, 64, 30


def features(stream: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(len(stream))
    width = {"spatial": 12, "motion": 6}[stream]
    return {
        f"clip {n:02d}": random.normal(size=(int(random.integers(1, 12)), width)).astype("f2")
        for n in range(CLIPS)
    }


def written(root: Path, stream: str, failed: str) -> FeatureStore:
    clips = features(stream)
    slots = [
        Slot(clip, "train", n // 5, n // 5 * SHARD + n % 5 * 12, len(rows))
        for n, (clip, rows) in enumerate(clips.items())
    ]
    writer = StoreWriter.open(
        root,
        corpus="toy",
        stream=stream,
        identity=StreamIdentity({"stream": stream}, "ab" * 32, 1),
        weights="random",
        keys=[ClipKey(clip, clip, 1) for clip in clips],
        slots=slots,
        width=next(iter(clips.values())).shape[1],
        dtype="float16",
        chunk_rows=CHUNK,
        shard_rows=SHARD,
    )
    for part in range(CLIPS // 5):
        ids = [slot.id for slot in slots if slot.partition == part]
        there = {clip: clips[clip] for clip in ids if clip != failed}
        writer.publish(part, there, {failed: "unreadable"} if failed in ids else {}, {})
    writer.commit_index()
    return FeatureStore.open(writer.path)


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, FeatureStore]:
    return {
        "spatial": written(tmp_path, "spatial", "clip 03"),
        "motion": written(tmp_path, "motion", "clip 17"),
    }


def assert_right(batches: list[Clips], count: int) -> None:
    expected = {stream: features(stream) for stream in ("spatial", "motion")}
    seen: list[str] = []
    for batch in batches:
        seen += batch.ids
        for stream, packed in batch.streams.items():
            assert packed.rows.dtype is torch.float16
            parts = packed.rows.split(packed.lengths.tolist())
            for clip, rows in zip(batch.ids, parts, strict=True):
                np.testing.assert_array_equal(rows.numpy(), expected[stream][clip])
    assert len(seen) == len(set(seen)) == count


def test_one_clip_is_a_tensor_per_stream(stores):
    data = FeatureDataset(stores, ["clip 05", "clip 01"])
    assert len(data) == 2
    found = data[1]
    np.testing.assert_array_equal(found["motion"].numpy(), features("motion")["clip 01"])
    np.testing.assert_array_equal(found["spatial"].numpy(), features("spatial")["clip 01"])


def test_clips_that_failed_in_a_stream_are_left_out_or_refused(stores):
    assert len(FeatureDataset(stores)) == CLIPS - 2
    assert len(FeatureDataset({"motion": stores["motion"]})) == CLIPS - 1
    with pytest.raises(StoreError, match="unreadable"):
        FeatureDataset(stores, ["clip 05", "clip 17"])
    with pytest.raises(StoreError, match="no clip"):
        FeatureDataset(stores, [])


@pytest.mark.parametrize(
    ("workers", "context"),
    [(0, None), (2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_workers(stores, workers, context):
    data = FeatureDataset(stores)
    data[0]  # used before the workers are made
    loader = DataLoader(
        data,
        4,
        shuffle=True,
        num_workers=workers,
        collate_fn=data.collate,
        multiprocessing_context=context,
    )
    for _ in range(2):
        assert_right(list(loader), CLIPS - 2)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_stores_on_a_web_server_are_read_by_workers_of_every_kind(stores, serve, context):
    root = stores["spatial"].path.parents[1]
    server = serve(root).root
    remote = {
        name: FeatureStore.open(f"{server}/toy/{store.path.name}") for name, store in stores.items()
    }
    data = FeatureDataset(remote)
    assert_right([data.__getitems__(range(len(data)))], CLIPS - 2)
    loader = DataLoader(
        data, 8, num_workers=1, collate_fn=data.collate, multiprocessing_context=context
    )
    assert_right(list(loader), CLIPS - 2)


def test_an_error_in_a_worker_names_the_damage(stores):
    data = FeatureDataset({"spatial": stores["spatial"]})
    shard = stores["spatial"].path / "features" / "c.2.0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    with pytest.raises(StoreError, match="checksum"):
        list(DataLoader(data, 8, collate_fn=data.collate))
