"""Identity and layout: what must never depend on order, place or machine."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spamo_cache.config import CacheSpec
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.store.layout import (
    ChunkLayout,
    ClipKey,
    StreamIdentity,
    aligned,
    corpus_hash,
    fingerprint,
    fit,
    pack,
    store_path,
    stream_spec,
    work_path,
)

SPEC = CacheSpec.model_validate(
    {
        "name": "any",
        "streams": {
            "spatial": {"encoder": "open_clip", "model": "ViT-B-32", "weights": "openai"},
            "motion": {"encoder": "videomae", "weights": "org/name"},
        },
    }
)


def test_fingerprint_is_independent_of_order_and_number_type(material):
    shuffled = list(material.keys)
    random.Random(1).shuffle(shuffled)
    assert corpus_hash(shuffled) == corpus_hash(material.keys)
    whole = [ClipKey("a", "a.mp4", 1, 1.0, 2.0, (0.0, 0.0, 1.0, 1.0))]
    typed = [ClipKey("a", "a.mp4", 1, 1, 2, (0, 0, 1, 1))]
    assert corpus_hash(whole) == corpus_hash(typed)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "b"},
        {"source": "b.mp4"},
        {"size": 2},
        {"start": 0.5},
        {"end": 0.5},
        {"crop": (0.0, 0.0, 1.0, 0.5)},
    ],
)
def test_every_part_of_a_clip_counts(change):
    key = ClipKey("a", "a.mp4", 1)
    assert corpus_hash([key]) != corpus_hash([replace(key, **change)])


def test_neighbouring_texts_cannot_be_shifted():
    assert corpus_hash([ClipKey("a", "bc", 1)]) != corpus_hash([ClipKey("ab", "c", 1)])


def test_corpus_refuses_doubles_and_nan():
    with pytest.raises(StoreError, match="same id"):
        corpus_hash([ClipKey("a", "a.mp4", 1), ClipKey("a", "b.mp4", 1)])
    with pytest.raises(StoreError, match="not a finite"):
        corpus_hash([ClipKey("a", "a.mp4", 1, float("nan"), 2.0)])


def test_fingerprint_is_pinned():
    """A changed value would orphan every store there is: raise FORMAT and tell, never just edit."""
    identity = StreamIdentity({"stride": 8, "window": 16}, "ab" * 32, 1)
    corpus = corpus_hash([ClipKey("ä", "a/b.mp4", 7, 0.5, None, None)])
    assert fingerprint(identity, corpus)[:16] == "c4949f237a86b691"


def test_stream_spec_has_what_changes_bytes_and_no_weights():
    spatial, motion = stream_spec(SPEC, "spatial"), stream_spec(SPEC, "motion")
    assert "weights" not in spatial
    assert (spatial["chunk_rows"], motion["chunk_rows"]) == (32, 8)
    assert (spatial["shard_rows"], motion["shard_rows"]) == (16_384, 4_096)
    assert spatial["resize"] == motion["resize"] == "torchvision-uint8"
    other = SPEC.model_copy(update={"name": "renamed"})
    assert stream_spec(other, "spatial") == spatial
    with pytest.raises(UsageError, match="no stream 'hands'"):
        stream_spec(SPEC, "hands")


def test_a_phase_of_zero_is_no_part_of_an_identity():
    """Stores made before windows had a phase keep their fingerprint, those with one differ."""
    motion = SPEC.streams["motion"]
    changed = SPEC.model_copy(
        update={"streams": {"motion": motion.model_copy(update={"phase": 4})}}
    )
    assert "phase" not in stream_spec(SPEC, "motion")
    assert stream_spec(changed, "motion") == {**stream_spec(SPEC, "motion"), "phase": 4}


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", "a\\b", ".hidden", "a\0b", "a..b", "é"])
def test_names_cannot_leave_the_root(name):
    for corpus, stream in ((name, "spatial"), ("phoenix14t", name)):
        with pytest.raises(StoreError, match="cannot name"):
            store_path(Path("root"), corpus, stream, "0" * 64)


def test_store_path():
    path = store_path(Path("root"), "phoenix14t", "spatial", "0123456789ab" + "c" * 52)
    assert path == Path("root/phoenix14t/spatial-0123456789ab.zarr")
    assert work_path(path) == Path("root/phoenix14t/.work/spatial-0123456789ab")
    with pytest.raises(StoreError, match="no fingerprint"):
        store_path(Path("root"), "phoenix14t", "spatial", "../x")


@pytest.mark.parametrize("seed", range(20))
def test_pack_keeps_every_rule(seed):
    generator = np.random.default_rng(seed)
    chunk, shard = [4, 2], [64, 16]
    rows = generator.integers(0, [40, 12], (60, 2)).tolist()
    splits = sorted(generator.choice(["dev", "test", "train"], 60).tolist())
    partitions, first = pack(rows, splits, chunk_rows=chunk, shard_rows=shard, max_clips=5)
    assert (np.diff(partitions) >= 0).all()
    assert set(np.diff(partitions).tolist()) <= {0, 1}
    for partition in np.unique(partitions):
        members = np.flatnonzero(partitions == partition)
        assert len(members) <= 5
        assert len({splits[clip] for clip in members}) == 1
        for stream in range(2):
            end = partition * shard[stream]
            for clip in members:
                assert first[clip, stream] == end
                assert first[clip, stream] % chunk[stream] == 0
                end += aligned(rows[clip][stream], chunk[stream])
            assert end <= (partition + 1) * shard[stream]


def test_pack_refuses_a_clip_longer_than_a_shard():
    with pytest.raises(StoreError, match="longer than a shard"):
        pack([[65]], ["train"], chunk_rows=[4], shard_rows=[64])


def test_fit_refuses_what_the_dtype_cannot_hold():
    layout = ChunkLayout(width=3, dtype="float16", chunk_rows=4, shard_rows=8)
    kept = fit(np.ones((2, 3)), 2, layout)
    assert kept.dtype == np.float16
    for bad in (np.full((2, 3), 1e6), np.full((2, 3), np.nan)):
        with pytest.raises(StoreError, match="2 of 2 rows are not finite"):
            fit(bad, 2, layout)
    with pytest.raises(StoreError, match="features are"):
        fit(np.ones((3, 3)), 2, layout)
