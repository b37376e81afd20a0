"""Rows and frames, by arithmetic alone; tests/extract/test_trace.py compares with the pixels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spamo_cache.errors import DamagedError, StoreError, UsageError
from spamo_cache.store.inspect import trace
from spamo_cache.store.layout import StreamIdentity
from spamo_cache.store.reader import FeatureStore


def slot_of(material, clip):
    return next(slot for slot in material.slots if slot.id == clip)


def test_rows_are_counted_from_the_clips_first_frame(material, sealed):
    store = FeatureStore.open(sealed.path)
    for clip in ("clip 000", "手語"):
        slot, key = slot_of(material, clip), store.clip_key(clip)
        assert key in material.keys
        found = trace(store, clip, slot.rows - 1)
        assert (found.source, found.start, found.end) == (key.source, key.start, key.end)
        # One frame to a row, every eighth.
        assert found.first == found.last == slot.first + 8 * (slot.rows - 1)
        assert found.repeated == 0


def test_a_window_ends_with_its_clip(material, tmp_path):
    material.identity = StreamIdentity({"window": 16, "stride": 8}, "ab" * 32, 1)
    store = FeatureStore.open(material.write(tmp_path).path)
    slot = slot_of(material, "手語")
    found = trace(store, "手語", slot.rows - 1)
    assert found.last == slot.first + slot.frames - 1
    assert found.repeated == 8


@pytest.mark.parametrize(
    ("clip", "row", "kind", "words"),
    [
        ("clip 99", 0, UsageError, "nearest is 'clip 0"),
        ("clip 000", -1, UsageError, "has no row -1"),
        ("clip 000", 99, UsageError, "choose one of 0 to"),
        ("clip 001", 0, StoreError, "decoder gave up"),
    ],
)
def test_what_cannot_be_traced(sealed, clip, row, kind, words):
    with pytest.raises(kind, match=words):
        trace(FeatureStore.open(sealed.path), clip, row)


@pytest.mark.slow
def test_a_row_without_frames_is_damage_and_one_without_a_stride_unknown(material, tmp_path):
    material.slots = [replace(slot, frames=1) for slot in material.slots]
    long = next(s.id for s in material.slots if s.rows > 1 and s.id not in material.failures)
    store = FeatureStore.open(material.write(tmp_path).path)
    with pytest.raises(DamagedError, match="no frames under row 1"):
        trace(store, long, 1)
    material.identity = StreamIdentity({"imported": "npy"}, "ab" * 32, 1)
    found = trace(FeatureStore.open(material.write(tmp_path).path), long, 1)
    assert found.first is found.last is None


@pytest.mark.parametrize("change", [{"first": 3}, {"frames": 99}])
def test_other_frames_are_another_plan(material, sealed, change):
    material.slots[0] = replace(material.slots[0], **change)
    with pytest.raises(StoreError, match="begun with other partitions"):
        material.open(sealed.path.parents[1])
