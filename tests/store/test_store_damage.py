"""Every flipped bit and every cut is found; nothing a stranger made can do harm."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.layout import canonical, sha256
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.receipts import receipt_path, shard_path
from spamo_cache.store.verify import repair, verify


def data_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def read_all(path: Path, features: dict[str, np.ndarray]) -> None:
    """Read what can be read; it must be right or refused, clip by clip."""
    try:
        store = FeatureStore.open(path)
    except StoreError:
        return
    for clip in store.select(state="ok"):
        try:
            rows = store.read([clip])[0]
        except StoreError:
            continue
        np.testing.assert_array_equal(rows, features[clip])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_single_bits(material, sealed, seed):
    random = np.random.default_rng(seed)
    every = data_files(sealed.path)
    for file in [*every, *random.choice(np.array(every, object), 30)]:
        bit = int(random.integers(file.stat().st_size * 8))
        flip(file, bit)
        assert not verify(sealed.path, deep=True).sound, (file, bit)
        read_all(sealed.path, material.features)
        flip(file, bit)
    assert verify(sealed.path, deep=True).sound


@pytest.mark.slow
def test_every_cut(material, sealed):
    random = np.random.default_rng(0)
    for file in data_files(sealed.path):
        whole = file.read_bytes()
        for size in {0, len(whole) - 1, int(random.integers(len(whole)))}:
            os.truncate(file, size)
            assert not verify(sealed.path).sound or verify(sealed.path, deep=True).problems, file
            read_all(sealed.path, material.features)
            file.write_bytes(whole)
        file.unlink()
        try:
            sound = verify(sealed.path, deep=True).sound
        except StoreError:
            sound = False  # no zarr.json, no store
        assert not sound, file
        file.write_bytes(whole)


def test_a_shard_without_receipt_does_not_exist(sealed):
    store = FeatureStore.open(sealed.path)
    receipt_path(sealed.path, 0).unlink()
    clip = next(s.id for s in store.slots() if s.partition == 0 and store.state(s.id) == "ok")
    with pytest.raises(DamagedError, match="missing"):
        store.read([clip])
    sealed.commit_index()
    assert FeatureStore.open(sealed.path).state(clip) == "absent"


@pytest.mark.slow
def test_verify_names_the_clips_and_repair_removes_only_their_partition(material, sealed):
    store = FeatureStore.open(sealed.path)
    slot = next(s for s in store.slots() if s.partition == 1 and store.state(s.id) == "ok")
    before = shard_path(sealed.path, 1).read_bytes()
    flip(shard_path(sealed.path, 1), 8 * (slot.row % 64 // 4) * (4 * 12 * 2 + 4))
    assert verify(sealed.path).sound
    report = verify(sealed.path, deep=True)
    assert [damage.clip for damage in report.damaged] == [slot.id]
    assert list(report.partitions) == [1]
    repair(report)
    assert sealed.finished() == set(material.partitions) - {1}
    assert verify(sealed.path, deep=True).sound
    assert FeatureStore.open(sealed.path).state(slot.id) == "absent"
    material.publish(material.open(sealed.path.parents[1]), 1)
    sealed.commit_index()
    assert shard_path(sealed.path, 1).read_bytes() == before


@pytest.mark.slow
def test_repair_of_metadata_and_index(material, sealed):
    features = sealed.path / "features" / "zarr.json"
    features.write_text("{}")
    column = next((sealed.path / "clips").glob("*/row/c.0"))
    flip(column, 5)
    report = verify(sealed.path)
    assert len(report.problems) == 2
    repair(report)
    material.open(sealed.path.parents[1])
    assert verify(sealed.path, deep=True).sound
    assert FeatureStore.open(sealed.path).counts()["ok"] == len(material.keys) - 2


@pytest.mark.slow
def test_unsealed_and_stray_files_are_only_noted(material, sealed):
    sealed.forget([0])
    material.publish(sealed, 0)
    (sealed.path / "features" / "c.77.0").write_bytes(b"left behind")
    report = verify(sealed.path, deep=True)
    assert report.sound
    assert len(report.notes) == 2


# --- hostile stores -----------------------------------------------------------------------------


def open_and_read(path: Path) -> None:
    store = FeatureStore.open(path)
    store.read(store.select(state="ok"))


def rewrite(path: Path, **changes: object) -> None:
    """Change a store's attributes as somebody would who knows how they are sealed."""
    document = json.loads((path / "zarr.json").read_bytes())
    about = {**document["attributes"]["spamo_cache"], **changes}
    about.pop("sha256")
    about["sha256"] = sha256(canonical(about))
    document["attributes"]["spamo_cache"] = about
    (path / "zarr.json").write_bytes(canonical(document))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 1}, "has store format 1, older than"),
        ({"format": 4}, "has store format 4, newer than"),
        ({"corpus": "../../etc"}, "corpus: String should match"),
        ({"stream": "a/b"}, "stream: String should match"),
        ({"width": 2**62}, "width: .* less than or equal"),
        ({"width": -1}, "width: .* greater than or equal"),
        ({"width": "12"}, "width: .* a valid integer"),
        ({"dtype": "object"}, "dtype: Input should be 'float16' or 'float32'"),
        ({"dtype": "float32"}, "not laid out as the store says"),
        ({"chunk_rows": 0}, "chunk_rows: .* greater than or equal"),
        ({"chunk_rows": 7}, "64 rows is no multiple of 7"),
        ({"shard_rows": 2**40}, "shard_rows: .* less than or equal"),
        ({"clips": 10**12}, "clips: .* less than or equal"),
        ({"clips": 23}, "does not have the columns of a clip index"),
        ({"partitions": 99}, "not laid out as the store says"),
        ({"fingerprint": "xyz"}, "fingerprint: String should match"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_hostile_attributes(sealed, changes, words):
    rewrite(sealed.path, **changes)
    with pytest.raises(StoreError, match=words):
        open_and_read(sealed.path)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "[" * 100_000, '{"attributes":7}', "\xff"])
@pytest.mark.parametrize("name", ["zarr.json", "clips/zarr.json", "features/zarr.json"])
def test_broken_json(sealed, name, text):
    (sealed.path / name).write_text(text, encoding="latin-1")
    with pytest.raises(DamagedError, match=r"not the JSON it was|no group of|not laid out"):
        FeatureStore.open(sealed.path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("features/c.0.0", "cannot be opened"),
        ("receipts/0.json", "cannot be opened"),
        ("clips", "must not be a link"),
        ("features", "must not be a link"),
    ],
)
def test_links_are_not_followed(sealed, tmp_path, name, words):
    outside = tmp_path / "outside"
    shutil.move(sealed.path / name, outside)
    (sealed.path / name).symlink_to(outside)
    with pytest.raises(StoreError, match=words):
        open_and_read(sealed.path)


def test_a_pipe_does_not_block(sealed):
    shard_path(sealed.path, 0).unlink()
    os.mkfifo(shard_path(sealed.path, 0))
    store = FeatureStore.open(sealed.path)
    with pytest.raises(StoreError, match="not a regular file"):
        store.read(store.select(state="ok"))


def test_a_huge_file_is_not_read(sealed):
    os.truncate(sealed.path / "zarr.json", 1 << 40)
    with pytest.raises(DamagedError, match="larger"):
        FeatureStore.open(sealed.path)
