"""Training from feature stores on disk is training from the same rows in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from spamo_cache.config import Pipeline
from spamo_cache.errors import StoreError
from spamo_cache.evaluate import evaluate
from spamo_cache.store.layout import ClipKey, Slot, StreamIdentity, pack
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.writer import StoreWriter

FAILED = ("train/3", "test/2")


def written(root: Path, stream: str, manifest, features) -> FeatureStore:
    """A store of one stream with every clip of the manifest."""
    clips = manifest.clips()
    rows = [features.rows(clip.id) if clip.id not in FAILED else 0 for clip in clips]
    splits = [clip.split for clip in clips]
    partitions, first = pack([[n] for n in rows], splits, chunk_rows=[8], shard_rows=[512])
    slots = [
        Slot(clip.id, clip.split, int(partitions[i]), int(first[i, 0]), rows[i])
        for i, clip in enumerate(clips)
    ]
    writer = StoreWriter.open(
        root,
        corpus="toy",
        stream=stream,
        identity=StreamIdentity({"stream": stream}, "ab" * 32, 1),
        weights="toy",
        keys=[ClipKey(clip.id, clip.source, 1) for clip in clips],
        slots=slots,
        width=features.width,
        dtype="float16",
        chunk_rows=8,
        shard_rows=512,
    )
    for partition in range(int(partitions.max()) + 1):
        ids = [slot.id for slot in slots if slot.partition == partition]
        good = {clip: features._arrays[clip] for clip in ids if clip not in FAILED}
        reasons = {clip: "cannot be decoded" for clip in ids if clip in FAILED}
        writer.publish(partition, good, reasons, {})
    writer.commit_index()
    return FeatureStore.open(writer.path)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["read anew", "held"])
def test_equals_training_from_memory(toy, tmp_path, memory):
    manifest, features = toy.corpus(failed=FAILED)
    stores = {
        name: written(tmp_path / "features", name, manifest, held)
        for name, held in features.items()
    }
    toy.run(tmp_path / "memory", manifest=manifest, stores=features, save_seconds=60)
    toy.run(tmp_path / "stores", manifest=manifest, stores=stores, memory=memory, save_seconds=60)
    for name in ("model.safetensors", "metrics.jsonl"):
        first, second = ((tmp_path / run / name).read_bytes() for run in ("memory", "stores"))
        assert first == second
    card = evaluate(tmp_path / "stores", "test", device="cpu")
    assert card.failed == {"test/2": "spatial: cannot be decoded"}
    assert card.stores == {name: store.fingerprint for name, store in stores.items()}


@pytest.mark.slow
def test_a_store_that_moved_away_is_named(toy, tmp_path):
    manifest, features = toy.corpus()
    features["spatial"] = written(tmp_path / "features", "spatial", manifest, features["spatial"])
    config = toy.pipeline(
        streams=["spatial"], translate={"steps": 0, "batch": 4, "lr": 1e-3}
    ).model_dump()
    toy.run(tmp_path / "run", Pipeline.model_validate(config), manifest=manifest, stores=features)
    (tmp_path / "features").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        evaluate(tmp_path / "run", "test", device="cpu")
