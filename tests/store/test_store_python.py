"""Stores from Python: opened by name, path or address, listed, and shown as a table."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import spamo_cache as sc
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.store.inventory import list_stores
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.writer import StoreWriter


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
    monkeypatch.chdir(root)
    for name in (*names, sealed.path, str(sealed.path), f"./weather/{stem}.zarr"):
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
print(sorted(heavy & set(sys.modules)))
from spamo_cache.store.inventory import list_stores
from spamo_cache.store.reader import FeatureStore
(entry,) = list_stores()
store = FeatureStore.open(entry.path)
assert store.read(store.select(state="ok")[:1])
print(sorted((heavy - {"awscrt"}) & set(sys.modules)))
"""


@pytest.mark.usefixtures("root")
def test_listing_and_reading_import_nothing_that_takes_long() -> None:
    """`store ls` of ten stores takes half a second of CPU; zarr alone would take another half."""
    ran = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-2:] == ["[]", "[]"]
