"""Stores from Python: opened by name, path or address, listed, and shown as a table."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import spamo_cache as sc
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.store.index import STATES
from spamo_cache.store.inspect import clip_lines, info
from spamo_cache.store.inventory import list_stores, traits
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.writer import StoreWriter

from .conftest import Material


@pytest.fixture
def root(sealed: StoreWriter, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a store, as SPAMO_CACHE names it."""
    folder = sealed.path.parents[1]
    monkeypatch.setenv("SPAMO_CACHE", str(folder))
    return folder


def test_a_store_is_opened_by_every_name_that_the_commands_take(
    sealed: StoreWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stem = sealed.path.stem
    names = ["weather/spatial", f"weather/{stem}", f"weather/{stem}.zarr", f"weather/{stem[:-4]}"]
    names += ["weather", "./weather", str(root), f"{sealed.path}/", f"./weather/{stem}.zarr"]
    monkeypatch.chdir(root)
    for name in (*names, sealed.path, str(sealed.path)):
        assert FeatureStore.open(name).fingerprint == sealed.fingerprint, name
        assert sc.open_store(name).path.name == sealed.path.name, name
    monkeypatch.delenv("SPAMO_CACHE")
    assert FeatureStore.open("weather/spatial", roots=[str(root)]).path == sealed.path


@pytest.mark.usefixtures("root")
def test_a_name_that_no_root_has_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no store 'weather/motion'"):
        FeatureStore.open("weather/motion")
    with pytest.raises(StoreError, match="no feature store here"):
        FeatureStore.open(str(tmp_path / "weather" / "spatial-0123456789ab.zarr"))


@pytest.mark.usefixtures("root")
def test_stores_are_listed_as_the_roots_of_the_environment_have_them(sealed: StoreWriter) -> None:
    (entry,) = list_stores()
    assert (entry.path, entry.fingerprint) == (sealed.path, sealed.fingerprint)
    assert list_stores([]) == []
    for name in ("weather", "weather/spatial", str(sealed.path), str(sealed.path.parents[1])):
        assert sc.list_stores([name]) == [entry], name
    with pytest.raises(UsageError, match="no such folder"):
        sc.list_stores([f"{sealed.path.parents[1]}/elsewhere"])


def test_what_a_running_extraction_has_finished_is_listed(
    material: Material, tmp_path: Path
) -> None:
    """Its index is written at the end; receipts tell how far it is."""
    writer = material.open(tmp_path)
    writer.commit_index()
    first, second, *_ = material.partitions
    material.publish(writer, first)
    with writer.lease(second):
        (entry,) = list_stores([str(tmp_path)])
        known = info(writer.path)
    inside = [slot.id for slot in material.slots if slot.partition == first]
    failed = [clip for clip in inside if clip in material.failures]
    assert entry.states["ok"] + entry.states["failed"] == len(inside)
    assert entry.states["failed"] == len(failed)
    assert list(entry.at_work) == [str(second)]
    assert known["states"] == entry.states
    assert known["failures"].keys() == set(failed)
    assert {split: sum(n[s] for s in STATES) for split, n in known["splits"].items()} == {
        split: len(store.select(split=split))
        for store in [FeatureStore.open(writer.path)]
        for split in store.splits
    }
    lines = {line.id: line for line in clip_lines(FeatureStore.open(writer.path))}
    assert {clip for clip, line in lines.items() if line.state != "absent"} == set(inside)
    assert [lines[clip].reason for clip in failed] == ["decoder gave up"] * len(failed)


@pytest.mark.slow
def test_what_tells_stores_apart_is_told(make: Callable[..., Material], tmp_path: Path) -> None:
    same, other = make(), make()
    other.identity = replace(other.identity, spec={**other.identity.spec, "phase": 2, "stride": 4})
    first, second = same.write(tmp_path), other.write(tmp_path)
    entries = list_stores([str(first.path), str(second.path)])
    assert traits(entries) == ["stride 8", "stride 4, phase 2"]
    # A copy elsewhere is the same store; other weights of the same name are not.
    assert traits([entries[0], entries[0]]) == ["stride 8"] * 2
    changed = replace(entries[0], weights_sha256="cd" * 32)
    assert traits([entries[0], changed])[1] == "stride 8, weights sha256 cdcdcdcd"


def test_a_table_has_one_row_for_each_clip(sealed: StoreWriter) -> None:
    store = FeatureStore.open(sealed.path)
    table = store.table()
    frame = pa.table(table)
    assert table["id"] == list(store.ids)
    assert frame.num_rows == len(store)
    assert frame.column_names == [
        *("id", "split", "state", "reason", "rows", "frames"),
        *("source", "size", "start", "end"),
    ]
    keys = store.clip_keys()
    for clip, split, state, reason, rows, frames, source, size, start, end in zip(
        *(column.to_pylist() for column in frame.columns), strict=True
    ):
        slot, key = store.slot(clip), keys[table["id"].index(clip)]
        assert (split, rows, frames) == (slot.split, slot.rows, slot.frames)
        assert (state, reason) == (store.state(clip), store.reason(clip))
        assert (source, size) == (key.source, key.size)
        assert (None if math.isnan(start) else start) == key.start
        assert (None if math.isnan(end) else end) == key.end
    assert {"ok", "failed"} <= set(table["state"])


def test_columns_of_a_table_are_the_callers_own(sealed: StoreWriter) -> None:
    store = FeatureStore.open(sealed.path)
    rows = store.table()["rows"]
    assert isinstance(rows, np.ndarray)
    rows[:] = 0
    clip = store.select(state="ok")[0]
    assert store.rows(clip) > 0
    assert store.read([clip])[0].shape == (store.rows(clip), store.width)


LIST = """
import sys
from spamo_cache.cli.main import app
try:
    app(["store", "ls"])
except SystemExit as end:
    assert not end.code
heavy = {"zarr", "h5py", "pyarrow", "torch", "obstore", "urllib3", "awscrt", "yaml"}
heavy |= {"spamo_cache.config.pipeline", "spamo_cache.config.spec", "spamo_cache.datasets"}
heavy |= {"numpy.ma", "statistics"}
print(sorted(heavy & set(sys.modules)))
from spamo_cache.store.inventory import list_stores
from spamo_cache.store.reader import FeatureStore
(entry,) = list_stores()
store = FeatureStore.open(entry.path)
assert store.read(store.select(state="ok")[:1])
print(sorted((heavy - {"awscrt"}) & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("root")
def test_listing_and_reading_import_nothing_that_takes_long() -> None:
    """`store ls` of ten stores takes half a second of CPU; zarr alone would take another half."""
    ran = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-2:] == ["[]", "[]"]
