"""Exchange with HDF5 and .npy: exact both ways, and foreign files do no harm."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from spamo_cache.errors import SpamoError, StoreError, UsageError
from spamo_cache.store.convert import import_hdf5, import_npy
from spamo_cache.store.export import MARKER, export_hdf5, export_npy
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.verify import verify

SMALL = {"corpus": "weather", "chunk_rows": 4, "shard_rows": 64}


def same(first: Path, second: Path) -> bool:
    a, b = FeatureStore.open(first), FeatureStore.open(second)
    return a.checksums() == b.checksums() and all(
        set(a.select(split=split, state="ok")) == set(b.select(split=split)) for split in a.splits
    )


def test_npy_round_trip_is_exact(sealed, tmp_path):
    assert export_npy(sealed.path, tmp_path / "npy") == len(FeatureStore.open(sealed.path)) - 2
    back = import_npy(tmp_path / "npy", tmp_path / "b", stream="spatial", **SMALL)
    assert same(sealed.path, back)
    assert verify(back, deep=True).sound
    assert import_npy(tmp_path / "npy", tmp_path / "b", stream="spatial", **SMALL) == back


def test_hdf5_round_trip_is_exact(sealed, tmp_path):
    file = tmp_path / "features.h5"
    export_hdf5(sealed.path, file)
    assert same(sealed.path, import_hdf5(file, tmp_path / "b", stream="spatial", **SMALL))
    with h5py.File(file) as opened:
        provenance = json.loads(opened.attrs["spamo_cache"])
        assert provenance["fingerprint"] == sealed.fingerprint
        assert "手語" in opened["train"]
    with pytest.raises(UsageError, match="exists"):
        export_hdf5(sealed.path, file)


def test_official_layout(material, sealed, tmp_path):
    export_npy(sealed.path, tmp_path / "npy", naming="official")
    array = np.load(tmp_path / "npy" / "test" / "clip 000_s2wrapping.npy")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, material.features["clip 000"])
    (tmp_path / "npy" / MARKER).unlink()
    options = {**SMALL, "stream": "spatial", "naming": "official", "dtype": "float16"}
    back = FeatureStore.open(import_npy(tmp_path / "npy", tmp_path / "b", **options))
    np.testing.assert_array_equal(back.read(["clip 000"])[0], material.features["clip 000"])
    assert "clip 000" in back.select(split="test")


@pytest.mark.parametrize("ending", ["_overlap-8", "_overlap-8-pretrained"])
def test_all_official_names_of_motion(tmp_path, ending):
    folder = tmp_path / "feat" / "dev"
    folder.mkdir(parents=True)
    np.save(folder / f"a_b{ending}.npy", np.ones((5, 3), np.float32))
    np.save(folder / "a_b_s2wrapping.npy", np.ones((40, 6), np.float32))
    options = {**SMALL, "naming": "official"}
    motion = import_npy(tmp_path / "feat", tmp_path / "r", stream="motion", **options)
    spatial = import_npy(tmp_path / "feat", tmp_path / "r", stream="spatial", **options)
    for path, shape in ((motion, (5, 3)), (spatial, (40, 6))):
        assert FeatureStore.open(path).read(["a_b"])[0].shape == shape
    with pytest.raises(UsageError, match="no stream 'hands'"):
        import_npy(tmp_path / "feat", tmp_path / "r", stream="hands", **options)


def test_identity_of_imports_is_their_content(tmp_path):
    folder = tmp_path / "feat"
    folder.mkdir()
    found = []
    for value in (1, 2, 1):
        np.save(folder / "a.npy", np.full((5, 3), value, np.float32))
        found.append(import_npy(folder, tmp_path / "r", stream="spatial", **SMALL).name)
    assert found[0] == found[2] != found[1]


def test_bad_files_are_failed_clips_with_a_reason(tmp_path):
    folder = tmp_path / "feat"
    folder.mkdir()
    np.savez(folder / "good.npz", features=np.ones((5, 3), np.float16), other=np.ones(1))
    np.savez(folder / "two.npz", a=np.ones((5, 3)), b=np.ones((5, 3)))
    np.save(folder / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "integers.npy", np.ones((5, 3), int))
    np.save(folder / "flat.npy", np.ones(5))
    np.save(folder / "nan.npy", np.full((5, 3), np.nan))
    np.save(folder / "wide.npy", np.ones((5, 4)))
    np.save(folder / "empty.npy", np.ones((0, 3)))
    (folder / "text.npy").write_text("not numpy")
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (10**15, 3)}"
    header = header.replace(b"10**15", b"%d" % 10**15)
    (folder / "huge.npy").write_bytes(header.ljust(127) + b"\n")
    store = FeatureStore.open(import_npy(folder, tmp_path / "r", stream="spatial", **SMALL))
    assert store.select(state="ok") == ["good"]
    assert store.counts()["failed"] == 9
    assert all(store.reason(clip) for clip in store.select(state="failed"))
    assert verify(store.path, deep=True).sound


@pytest.mark.parametrize("name", ["../outside.npy", "/etc/passwd", "a/../../outside.npy"])
def test_a_marker_cannot_name_files_outside(tmp_path, name):
    folder = tmp_path / "feat"
    folder.mkdir()
    np.save(tmp_path / "outside.npy", np.ones((5, 3)))
    marker = {"clips": {name: {"id": "a", "split": ""}}}
    (folder / MARKER).write_text(json.dumps(marker, separators=(",", ":")))
    with pytest.raises(StoreError, match="outside the folder"):
        import_npy(folder, tmp_path / "r", stream="spatial", **SMALL)


def test_hdf5_data_in_other_files_is_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(b"x" * 60)
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["good"] = np.ones((5, 3), np.float32)
        external = [(str(tmp_path / "secret"), 0, 60)]
        opened.create_dataset("secret", (5, 3), "f4", external=external)
        opened["link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
    store = FeatureStore.open(import_hdf5(tmp_path / "a.h5", tmp_path, stream="s", **SMALL))
    assert store.select(state="ok") == ["good"]
    assert "other files" in str(store.reason("secret"))
    assert len(store) == 2


def test_nothing_to_import_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.h5").write_text("no")
    for call in (
        lambda: import_npy(tmp_path / "none", tmp_path, stream="s", **SMALL),
        lambda: import_npy(tmp_path / "empty", tmp_path, stream="s", **SMALL),
        lambda: import_hdf5(tmp_path / "none.h5", tmp_path, stream="s", **SMALL),
        lambda: import_hdf5(tmp_path / "text.h5", tmp_path, stream="s", **SMALL),
    ):
        with pytest.raises(SpamoError):
            call()
