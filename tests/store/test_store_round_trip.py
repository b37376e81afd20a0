"""What is written comes back, in any order, through our reader and through plain Zarr."""

from __future__ import annotations

import builtins
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.inventory import find
from spamo_cache.store.reader import FeatureStore


def test_every_clip_comes_back(material, sealed):
    store = FeatureStore.open(sealed.path)
    ids = [clip for clip in reversed(store.ids) if clip not in material.failures]
    for clip, rows in zip(ids, store.read(ids), strict=True):
        np.testing.assert_array_equal(rows, material.features[clip])


def test_read_into_packs_and_leaves_the_rest_alone(material, sealed):
    store = FeatureStore.open(sealed.path)
    ids = store.select(state="ok")[::-3]
    total = sum(store.rows(clip) for clip in ids)
    buffer = np.full((total + 5, store.width), 7, np.float16)
    offsets = store.read_into(ids, buffer)
    assert offsets[-1] == total
    for clip, start, end in zip(ids, offsets, offsets[1:], strict=False):
        np.testing.assert_array_equal(buffer[start:end], material.features[clip])
    assert (buffer[total:] == 7).all()


def test_reading_passes_no_import_statement(sealed, monkeypatch):
    """One takes as long as the checksum of a short clip."""
    store = FeatureStore.open(sealed.path)
    ids = store.select(state="ok")
    store.read(ids)
    passed, imported = [], builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda *a: passed.append(a[0]) or imported(*a))
    store.read(ids)
    monkeypatch.undo()
    assert passed == []


def test_states_reasons_and_counts(material, sealed):
    store = FeatureStore.open(sealed.path)
    failed = next(iter(material.failures))
    assert store.state(failed) == "failed"
    assert store.reason(failed) == "decoder gave up"
    assert store.counts() == {"ok": len(store) - 2, "failed": 2, "absent": 0}
    assert "手語" in store
    assert "手" not in store
    assert "手語\0" not in store
    assert "x" * 5000 not in store
    assert store.clip_keys() == sorted(material.keys, key=lambda key: key.id)
    assert store.slots() == sorted(material.slots, key=lambda slot: slot.id)
    assert sorted(store.select(split="test") + store.select(split="train")) == list(store.ids)


def test_clips_without_features_are_refused(material, tmp_path):
    writer = material.open(tmp_path)
    material.publish(writer, 0)
    writer.commit_index()
    store = FeatureStore.open(writer.path)
    absent = next(slot.id for slot in material.slots if slot.partition == 1)
    with pytest.raises(StoreError, match="not extracted yet"):
        store.read([absent])
    with pytest.raises(StoreError, match="decoder gave up"):
        FeatureStore.open(material.write(tmp_path).path).read(list(material.failures))
    with pytest.raises(StoreError, match="no clip 'nobody'"):
        store.read(["nobody"])


@pytest.mark.parametrize(
    "buffer",
    [
        np.empty((1, 12), np.float16),
        np.empty((64, 11), np.float16),
        np.empty((64, 12), np.float32),
        np.empty((64, 24), np.float16)[:, ::2],
    ],
)
def test_a_buffer_that_does_not_fit_is_refused(sealed, buffer):
    store = FeatureStore.open(sealed.path)
    with pytest.raises(StoreError, match="do not fit"):
        store.read_into(store.select(state="ok")[:4], buffer)


def test_plain_zarr_reads_a_clip(material, sealed):
    """The script of the page on formats: it knows nothing of this package."""
    page = Path(__file__).parents[2] / "docs" / "formats.md"
    (script,) = re.findall(r"```python\n(import zarr.*?)```", page.read_text("utf-8"), re.DOTALL)
    found = {"path": str(sealed.path)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(script, found)  # noqa: S102
    # The one thing at the top that is not Zarr's; only who lists the group is told so.
    with pytest.warns(UserWarning, match="manifest.parquet"):
        assert sorted(found["group"]) == ["clips", "features", "receipts"]
    np.testing.assert_array_equal(found["features"], material.features["手語"])


@pytest.mark.slow
def test_dask_blocks_are_clips(material, sealed, tmp_path):
    store = FeatureStore.open(sealed.path)
    ids = store.select(state="ok")
    lazy = store.to_dask()
    assert lazy.dtype == np.float16
    assert lazy.chunks == (tuple(store.lengths(ids).tolist()), (store.width,))
    np.testing.assert_array_equal(lazy.blocks[3].compute(), material.features[ids[3]])
    chosen = store.to_dask([ids[5], ids[0]])
    expected = np.concatenate([material.features[ids[5]], material.features[ids[0]]])
    np.testing.assert_array_equal(chosen.compute(), expected)
    with pytest.raises(StoreError, match="decoder gave up"):
        store.to_dask(list(material.failures))


def test_dask_verifies_what_it_reads(sealed):
    store = FeatureStore.open(sealed.path)
    lazy = store.to_dask()
    for shard in (sealed.path / "features").glob("c.*"):
        shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(DamagedError, match="index disagrees with its checksum"):
        lazy.compute()


def test_the_index_is_what_zarr_would_have_written(sealed, tmp_path):
    group = zarr.open_group(sealed.path, mode="r")
    index = group["clips"][group["clips"].attrs["spamo_cache"]["generation"][:16]]
    for name, array in index.arrays():
        copy = zarr.create_array(
            tmp_path / name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=array.chunks,
            compressors=array.compressors,
            chunk_key_encoding={"name": "default", "separator": "."},
            config={"write_empty_chunks": True},
        )
        copy[:] = array[:]
        key = "c" + ".0" * array.ndim
        if array.size:
            written = Path(sealed.path) / "clips" / index.basename / name / key
            assert (tmp_path / name / key).read_bytes() == written.read_bytes()


def test_a_pickled_store_is_its_path(material, sealed):
    store = FeatureStore.open(sealed.path)
    data = pickle.dumps(store)
    assert len(data) < 500
    clip = store.select(state="ok")[0]
    np.testing.assert_array_equal(pickle.loads(data).read([clip])[0], material.features[clip])  # noqa: S301


def test_float32_stores(make, tmp_path):
    material = make(8)
    material.features = {k: v.astype(np.float32) * 1e5 for k, v in material.features.items()}
    writer = material.open(tmp_path, dtype="float32")
    for partition in material.partitions:
        material.publish(writer, partition)
    writer.commit_index()
    store = FeatureStore.open(writer.path)
    for clip in store.select(state="ok"):
        np.testing.assert_array_equal(store.read([clip])[0], material.features[clip])


@pytest.mark.slow
def test_find_goes_by_spec_weights_and_corpus(make, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    small, large = make(8), make(24)
    other = small.identity.__class__({"encoder": "random", "stride": 4}, "ab" * 32, 1)
    expected = [large.write(second).path, small.write(second).path]
    small.identity = other
    small.write(first)
    spec = dict(large.identity.spec)
    roots = [str(first), "s3://bucket/features", str(tmp_path / "none"), str(second)]
    assert find(roots, "weather", "spatial", spec=spec) == expected
    assert find(roots, "weather", "spatial", spec=spec, weights="other") == []
    keys = FeatureStore.open(expected[1]).attributes["corpus_sha256"]
    assert find(roots, "weather", "spatial", spec=spec, keys_sha256=keys) == expected[1:]
