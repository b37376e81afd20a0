"""Thousands of damages, most of them exhaustive: none passes silently."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.attributes import load_attributes
from spamo_cache.store.index import ClipIndex
from spamo_cache.store.layout import Slot
from spamo_cache.store.reader import FeatureStore, LocalShards, Wanted
from spamo_cache.store.receipts import load_receipt, receipt_path, shard_path
from spamo_cache.store.shard import as_bytes
from spamo_cache.store.verify import verify


@pytest.fixture
def store(make, tmp_path) -> FeatureStore:
    """Few clips, all of them there."""
    return FeatureStore.open(make(6, failed=0).write(tmp_path / "root").path)


def refused(question: Callable[[], object]) -> bool:
    try:
        question()
    except StoreError:
        return True
    return False


def flips(file: Path) -> Iterator[int]:
    """Flip each bit of a file in turn."""
    whole = file.read_bytes()
    with file.open("r+b", buffering=0) as opened:
        for bit in range(8 * len(whole)):
            opened.seek(bit // 8)
            opened.write(bytes([whole[bit // 8] ^ 1 << bit % 8]))
            yield bit
            opened.seek(bit // 8)
            opened.write(whole[bit // 8 : bit // 8 + 1])


def cuts(file: Path) -> Iterator[int]:
    """Leave the first bytes of a file: all lengths but the whole."""
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        yield length
    file.write_bytes(whole)


def readers(store: FeatureStore) -> dict[str, Callable[[], object]]:
    """What a read of features asks of each small file."""
    about = load_attributes(store.path)
    generation = next(path for path in (store.path / "clips").iterdir() if path.is_dir())
    columns = [path for path in generation.glob("*/c.0*") if path.parts[-2] in {"row", "checksum"}]
    index = generation.relative_to(store.path).as_posix()
    return {
        "zarr.json": lambda: load_attributes(store.path),
        "features/zarr.json": lambda: FeatureStore.open(store.path),
        "clips/zarr.json": lambda: ClipIndex(store.path, about),
        f"{index}/zarr.json": lambda: ClipIndex(store.path, about),
        "receipts/0.json": lambda: load_receipt(store.path, about, 0),
        **{
            column.relative_to(store.path).as_posix(): lambda: ClipIndex(store.path, about)
            for column in columns
        },
    }


@pytest.mark.slow
@pytest.mark.parametrize("change", [flips, cuts])
def test_every_bit_and_every_cut_of_what_leads_to_the_features(store, change):
    for name, question in readers(store).items():
        assert not refused(question)
        for case in change(store.path / name):
            assert refused(question), (name, case)
        assert not refused(question)


def reading(store: FeatureStore, partition: int) -> Callable[[], None]:
    """Read all clips of a partition, from the open on."""
    about = load_attributes(store.path)
    index = ClipIndex(store.path, about)
    wanted = [
        Wanted(
            slot.partition,
            slot.row % about.shard_rows // about.chunk_rows,
            checksum,
            as_bytes(np.empty((slot.rows, about.width), about.dtype)),
        )
        for slot, checksum in zip(index.slots(partition), index.checksums(partition), strict=True)
    ]
    return lambda: LocalShards(store.path, about).fetch(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("change", [flips, cuts])
def test_every_bit_and_every_cut_of_a_shard_padding_and_index_included(store, change):
    question = reading(store, 0)
    file = shard_path(store.path, 0)
    assert not refused(question)
    count = 0
    for case in change(file):
        assert refused(question), case
        count += 1
    assert count >= file.stat().st_size > 600
    assert not refused(question)


@pytest.mark.slow
def test_deep_verify_finds_damage_anywhere(store):
    random = np.random.default_rng(0)
    every = sorted(file for file in store.path.rglob("*") if file.is_file())
    for case in range(700):
        file = every[case % len(every)]
        whole = file.read_bytes()
        data = bytearray(whole)
        kind = random.integers(4)
        start = int(random.integers(len(data)))
        if kind < 2:
            data[start] ^= 1 << int(random.integers(8))
        elif kind == 2:
            del data[start:]
        else:
            length = int(random.integers(1, 64))
            data[start : start + length] = bytes(len(data[start : start + length]))
        file.write_bytes(data)
        assert data == whole or not verify(store.path, deep=True).sound, (file, kind, start)
        file.write_bytes(whole)
    assert verify(store.path, deep=True).sound


def same_size(store: FeatureStore, others: list[Slot]) -> tuple[int, int]:
    """Two partitions whose shards have one size."""
    sizes = {p: shard_path(store.path, p).stat().st_size for p in {s.partition for s in others}}
    pairs = ((a, b) for a in sizes for b in sizes if a < b and sizes[a] == sizes[b])
    return next(pairs)


def exchange(first: Path, second: Path) -> None:
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def assert_detected(store: FeatureStore, clip: str) -> None:
    assert not verify(store.path, deep=True).sound
    with pytest.raises(DamagedError, match=r"other features|receipt of something else"):
        FeatureStore.open(store.path).read([clip])


def test_exchanged_shards_are_not_taken_for_each_other(make, tmp_path):
    """Sound chunks, the right size, another place: only the index tells."""
    material = make(60, failed=0)
    path = material.write(tmp_path).path
    store = FeatureStore.open(path)
    a, b = same_size(store, material.slots)
    clip = next(slot.id for slot in material.slots if slot.partition == a)
    exchange(shard_path(path, a), shard_path(path, b))
    with pytest.raises(DamagedError, match=r"other features|disagree"):
        FeatureStore.open(path).read([clip])
    assert_detected(store, clip)
    exchange(receipt_path(path, a), receipt_path(path, b))
    assert_detected(store, clip)


@pytest.mark.parametrize("names", [["features/c.0.0"], ["features/c.0.0", "receipts/0.json"]])
def test_a_strangers_shard_with_and_without_its_receipt(make, tmp_path, names):
    """Of the same identity, as an encoder that is not deterministic would make it."""
    ours, theirs = make(12, failed=0), make(12, failed=0)
    theirs.features = {clip: rows + 1 for clip, rows in theirs.features.items()}
    path, other = ours.write(tmp_path / "a").path, theirs.write(tmp_path / "b").path
    assert path.name == other.name
    for name in names:
        shutil.copy(other / name, path / name)
    clip = next(slot.id for slot in ours.slots if slot.partition == 0)
    assert_detected(FeatureStore.open(path), clip)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zarr.json", "does not have the columns of a clip index"),
        ("clips/zarr.json", "the file is missing"),
        ("features/zarr.json", "not laid out as the store says"),
    ],
)
def test_a_strangers_document(make, tmp_path, name, words):
    path = make(12, failed=0).write(tmp_path / "a").path
    other = make(20, failed=0).write(tmp_path / "b").path
    assert json.loads((path / name).read_bytes()) != json.loads((other / name).read_bytes())
    shutil.copy(other / name, path / name)
    assert not verify(path, deep=True).sound
    with pytest.raises(DamagedError, match=words):
        FeatureStore.open(path)
