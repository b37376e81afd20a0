"""Copies between roots, and what the catalogue says of stores."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spamo_cache.errors import DamagedError, StoreError, UsageError
from spamo_cache.store.catalogue import diff, info, locate, remove, stores
from spamo_cache.store.layout import StreamIdentity
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.records import receipt_path, shard_path
from spamo_cache.store.share import pull, push
from spamo_cache.store.verify import verify


def test_push_makes_the_same_store_and_then_has_nothing_to_do(material, sealed, tmp_path):
    first = push(sealed.path, tmp_path / "b")
    assert first.path.relative_to(tmp_path / "b") == sealed.path.relative_to(tmp_path / "root")
    assert first.partitions == {"copied": len(material.partitions)}
    assert diff(sealed.path, first.path) == []
    assert verify(first.path, deep=True).sound
    again = pull(sealed.path, str(tmp_path / "b"))
    assert (again.partitions, again.bytes) == ({"there": len(material.partitions)}, 0)


def test_a_cut_copy_goes_on(material, sealed, tmp_path):
    path = push(sealed.path, tmp_path / "b").path
    receipt_path(path, 0).unlink()
    os.truncate(shard_path(path, 1), 100)
    shutil.rmtree(path / "clips")
    (path / "clips").mkdir()
    assert push(sealed.path, tmp_path / "b").partitions["copied"] == 2
    assert verify(path, deep=True).sound
    assert FeatureStore.open(path).counts()["ok"] == len(material.keys) - 2


def test_part_of_a_store(sealed, tmp_path):
    store = FeatureStore.open(push(sealed.path, tmp_path / "b", splits=["test"]).path)
    assert store.select(state="absent") == store.select(split="train")
    store = FeatureStore.open(push(sealed.path, tmp_path / "c", ids=["手語"]).path)
    assert store.state("手語") == "ok"
    assert store.counts()["absent"] > 0
    for wrong in ({"splits": ["tset"]}, {"ids": ["nobody"]}):
        with pytest.raises(UsageError, match="not in the store"):
            push(sealed.path, tmp_path / "d", **wrong)


def test_different_features_are_never_overwritten(material, sealed, tmp_path):
    material.features["手語"] = material.features["手語"] * 2
    other = material.write(tmp_path / "b")
    before = {f: f.read_bytes() for f in other.path.rglob("*") if f.is_file()}
    with pytest.raises(StoreError, match="other features under the same name"):
        push(sealed.path, tmp_path / "b")
    assert {f: f.read_bytes() for f in other.path.rglob("*") if f.is_file()} == before
    assert diff(sealed.path, other.path) == ["1 clips have other features: 手語"]


def test_damaged_shards_are_not_copied(sealed, tmp_path):
    shard = shard_path(sealed.path, 0)
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedError, match="disagrees with its receipt"):
        push(sealed.path, tmp_path / "b")
    assert not shard_path(next((tmp_path / "b").glob("*/*.zarr")), 0).exists()


def test_remote_roots_and_the_own_root_are_refused(sealed):
    with pytest.raises(UsageError, match="remote roots"):
        push(sealed.path, "s3://bucket/features")
    with pytest.raises(UsageError, match="in that root already"):
        push(sealed.path, sealed.path.parents[1])


# --- catalogue ----------------------------------------------------------------------------------


def test_list_locate_info_remove(material, sealed, tmp_path):
    roots = [str(tmp_path / "none"), "s3://bucket", str(tmp_path / "root")]
    (entry,) = stores(roots)
    assert (entry.corpus, entry.stream, entry.path) == ("weather", "spatial", sealed.path)
    assert entry.clips["failed"] == 2
    for name in ("weather/spatial", f"weather/{sealed.path.stem}", str(sealed.path)):
        assert locate(name, roots) == sealed.path
    with pytest.raises(UsageError, match="no store"):
        locate("weather/motion", roots)
    known = info(sealed.path)
    assert known["states"]["ok"] == len(material.keys) - 2
    assert known["failures"] == material.failures
    assert known["partitions_done"] == len(material.partitions)
    remove(sealed.path)
    assert list((tmp_path / "root" / "weather").rglob("*.zarr")) == []
    with pytest.raises(UsageError):
        remove(sealed.path)


def test_damaged_stores_are_listed_as_such(sealed, tmp_path):
    (sealed.path / "zarr.json").write_text("{")
    (entry,) = stores([str(tmp_path / "root")])
    assert entry.damaged is not None
    assert (entry.corpus, entry.stream) == ("weather", "spatial")


def test_several_stores_of_a_name_are_told(make, tmp_path):
    for clips in (8, 9):
        make(clips).write(tmp_path / "root")
    with pytest.raises(UsageError, match="may be several"):
        locate("weather/spatial", [str(tmp_path / "root")])


def test_diff_says_why_in_words(make, tmp_path):
    first, second = make(20, failed=0), make(24)
    second.keys[3] = replace(second.keys[3], size=5)
    second.keys[4] = replace(second.keys[4], source="videos/other.mp4")
    second.identity = StreamIdentity({"encoder": "random", "stride": 4}, "ba" * 32, 2)
    second.features = {clip: rows + 1 for clip, rows in second.features.items()}
    a, b = first.write(tmp_path).path, second.write(tmp_path).path
    said = "\n".join(diff(a, b))
    for words in (
        "stride 8 against 4",
        "other weights: random against other contents under the same name",
        "mean different things",
        "4 clips only in the second: clip 018, clip 019, clip 020, ...",
        "3 clips come from another file: clip 004, Ärger",
        "3 clips have a source of another size: clip 003, Ärger",
        "2 clips failed only in the second: clip 001, clip 002",
        "clips have other features",
    ):
        assert words in said
    assert diff(a, a) == []


def test_checksums_are_those_of_the_features(sealed, tmp_path):
    store = FeatureStore.open(sealed.path)
    assert store.checksums().keys() == set(store.select(state="ok"))
    copy = FeatureStore.open(push(sealed.path, Path(tmp_path / "b")).path)
    for clip in copy.checksums():
        np.testing.assert_array_equal(copy.read([clip])[0], store.read([clip])[0])
