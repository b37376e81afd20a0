"""Exchange with HDF5 and .npy: exact both ways, and hostile files do no harm."""

from __future__ import annotations

import io
import json
import os
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from spamo_cache.errors import SpamoError, StoreError, UsageError
from spamo_cache.store.exchange import export_hdf5, export_npy, export_webdataset, import_features
from spamo_cache.store.foreign import MARKER, UNREADABLE, opened
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.verify import verify

SMALL = {"corpus": "weather", "chunk_rows": 4, "shard_rows": 64}


def same(first: Path, second: Path) -> bool:
    a, b = FeatureStore.open(first), FeatureStore.open(second)
    return a.checksums() == b.checksums() and all(
        set(a.select(split=split, state="ok")) == set(b.select(split=split)) for split in a.splits
    )


@pytest.mark.slow
def test_npy_round_trip_is_exact(sealed, tmp_path):
    assert export_npy(sealed.path, tmp_path / "npy") == len(FeatureStore.open(sealed.path)) - 2
    back = import_features(tmp_path / "npy", tmp_path / "b", stream="spatial", **SMALL)
    assert same(sealed.path, back.path)
    assert verify(back.path, deep=True).sound
    assert import_features(tmp_path / "npy", tmp_path / "b", stream="spatial", **SMALL) == back


def test_an_interrupted_export_is_repeated_in_its_folder(sealed, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    out = tmp_path / "npy"
    with pytest.raises(KeyboardInterrupt):
        export_npy(sealed.path, out, annotate=interrupt)
    (out / "spamo-cache.json").unlink()  # as if it had come earlier
    with pytest.raises(UsageError, match="not empty"):
        export_npy(sealed.path, out, dtype="float32")
    export_npy(sealed.path, out)
    assert not list(out.glob("*.unfinished"))
    with pytest.raises(UsageError, match="not empty"):
        export_npy(sealed.path, out)


@pytest.mark.slow
def test_hdf5_round_trip_is_exact(sealed, tmp_path):
    file = tmp_path / "features.h5"
    export_hdf5(sealed.path, file)
    assert same(sealed.path, import_features(file, tmp_path / "b", stream="spatial", **SMALL).path)
    with h5py.File(file) as opened:
        provenance = json.loads(opened.attrs["spamo_cache"])
        assert provenance["fingerprint"] == sealed.fingerprint
        assert "手語" in opened["train"]
    with pytest.raises(UsageError, match="exists"):
        export_hdf5(sealed.path, file)


@pytest.mark.slow
def test_official_layout(material, sealed, tmp_path):
    export_npy(sealed.path, tmp_path / "npy", naming="official")
    array = np.load(tmp_path / "npy" / "test" / "clip 000_s2wrapping.npy")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, material.features["clip 000"])
    (tmp_path / "npy" / MARKER).unlink()
    options = {**SMALL, "stream": "spatial", "naming": "official"}
    back = FeatureStore.open(import_features(tmp_path / "npy", tmp_path / "b", **options).path)
    assert back.dtype == np.float16, "every value of the float32 files is one of float16"
    np.testing.assert_array_equal(back.read(["clip 000"])[0], material.features["clip 000"])
    assert "clip 000" in back.select(split="test")


def test_webdataset_round_trip_is_exact(sealed, tmp_path, monkeypatch):
    """And the library of that name reads the files."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    monkeypatch.setattr("spamo_cache.store.exchange._SHARD_BYTES", 256)
    store = FeatureStore.open(sealed.path)
    (tmp_path / "out").mkdir()
    count = export_webdataset(sealed.path, tmp_path / "out" / "a.tar")
    assert count == len(store.select(state="ok"))
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) > len(store.splits)
    assert "a-test-000000.tar" in {file.name for file in files}
    back = import_features(tmp_path / "out", tmp_path / "b", stream="spatial", **SMALL)
    assert same(sealed.path, back.path)
    found = {}
    for file in files:
        with file.open("rb") as stream:
            for sample in group_by_keys(tar_file_expander([{"url": file.name, "stream": stream}])):
                told = json.loads(sample["json"])
                assert told["fingerprint"] == store.fingerprint
                found[told["id"]] = np.load(io.BytesIO(sample["npy"]))
    assert sorted(found) == store.select(state="ok")
    np.testing.assert_array_equal(found["clip 000"], store.read(["clip 000"])[0])
    with pytest.raises(UsageError, match="exists"):
        export_webdataset(sealed.path, tmp_path / "out" / "a.tar")


@pytest.mark.parametrize("ending", ["_overlap-8", "_overlap-8-pretrained"])
def test_all_official_names_of_motion(tmp_path, ending):
    folder = tmp_path / "feat" / "dev"
    folder.mkdir(parents=True)
    np.save(folder / f"a_b{ending}.npy", np.ones((5, 3), np.float32))
    np.save(folder / "a_b_s2wrapping.npy", np.ones((40, 6), np.float32))
    options = {**SMALL, "naming": "official"}
    motion = import_features(tmp_path / "feat", tmp_path / "r", stream="motion", **options)
    spatial = import_features(tmp_path / "feat", tmp_path / "r", stream="spatial", **options)
    for path, shape in ((motion, (5, 3)), (spatial, (40, 6))):
        assert FeatureStore.open(path.path).read(["a_b"])[0].shape == shape
    with pytest.raises(UsageError, match="no stream 'hands'"):
        import_features(tmp_path / "feat", tmp_path / "r", stream="hands", **options)


def test_identity_of_imports_is_their_content(tmp_path):
    folder = tmp_path / "feat"
    folder.mkdir()
    found = []
    for value in (1, 2, 1):
        np.save(folder / "a.npy", np.full((5, 3), value, np.float32))
        found.append(import_features(folder, tmp_path / "r", stream="spatial", **SMALL).path.name)
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
    os.mkfifo(folder / "pipe.npy")
    whole = (folder / "good.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.save(folder / "cut.npy", np.ones((5, 3)))
    os.truncate(folder / "cut.npy", 200)
    (folder / "cut.npz").rename(folder / "cut2.npz")
    made = import_features(folder, tmp_path / "r", stream="spatial", **SMALL)
    store = FeatureStore.open(made.path)
    assert store.select(state="ok") == ["good"]
    assert store.counts()["failed"] == len(made.failures) == 12
    assert made.failures == {c: store.reason(c) for c in store.select(state="failed")}
    assert "not finite" in made.failures["nan"]
    assert "Python objects" in made.failures["pickled"]
    assert "no regular file" in made.failures["pipe"]
    assert verify(store.path, deep=True).sound


@pytest.mark.parametrize("name", ["../outside.npy", "/etc/passwd", "a/../../outside.npy"])
def test_a_marker_cannot_name_files_outside(tmp_path, name):
    folder = tmp_path / "feat"
    folder.mkdir()
    np.save(tmp_path / "outside.npy", np.ones((5, 3)))
    marker = {"clips": {name: {"id": "a", "split": ""}}}
    (folder / MARKER).write_text(json.dumps(marker, separators=(",", ":")))
    with pytest.raises(StoreError, match="outside the folder"):
        import_features(folder, tmp_path / "r", stream="spatial", **SMALL)


def test_hdf5_data_in_other_files_is_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(b"x" * 60)
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["good"] = np.ones((5, 3), np.float32)
        external = [(str(tmp_path / "secret"), 0, 60)]
        opened.create_dataset("secret", (5, 3), "f4", external=external)
        opened["link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
    made = import_features(tmp_path / "a.h5", tmp_path, stream="s", **SMALL)
    store = FeatureStore.open(made.path)
    assert store.select(state="ok") == ["good"]
    assert "other files" in str(store.reason("secret"))
    assert len(store) == 2


def release(folder: Path, **changes: np.ndarray) -> Path:
    """What the official scripts write, with a second name of the motion files, as labs add it."""
    for split, clip in (("train", "01April_x-1"), ("dev", "überall 手語"), ("test", "b")):
        spatial = folder / "clip-vit-large-patch14_feat_Phoenix14T" / split
        motion = folder / "mae_feat_Phoenix14T" / split
        for place, name, shape in (
            (spatial, f"{clip}_s2wrapping", (40, 6)),
            (motion, f"{clip}_overlap-8", (5, 3)),
            (motion, f"{clip}_overlap-8-pretrained", (5, 3)),
        ):
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{name}.npy", changes.get(name, np.ones(shape, np.float32)))
    return folder


@pytest.mark.parametrize(("stream", "shape"), [("spatial", (40, 6)), ("motion", (5, 3))])
def test_the_whole_tree_of_the_release_is_taken(tmp_path, stream, shape):
    options = {**SMALL, "naming": "official", "stream": stream}
    made = import_features(release(tmp_path / "features"), tmp_path / "r", **options)
    store = FeatureStore.open(made.path)
    assert (made.clips, made.failures) == (3, {})
    assert store.splits == ("dev", "test", "train")
    assert store.select(split="dev") == ["überall 手語"]
    assert store.read(["b"])[0].shape == shape


def test_two_names_for_different_features_are_refused(tmp_path):
    other = {"b_overlap-8-pretrained": np.zeros((5, 3), np.float32)}
    folder = release(tmp_path / "features", **other)
    with pytest.raises(UsageError, match="two arrays for one clip: b") as refused:
        import_features(folder, tmp_path / "r", **SMALL, naming="official", stream="motion")
    assert "b_overlap-8.npy" in str(refused.value.where)
    assert not (tmp_path / "r").exists()


def test_a_manifest_tells_what_is_missing_or_too_much(tmp_path):
    folder = tmp_path / "feat"
    folder.mkdir()
    for clip in ("a", "b", "stray"):
        np.save(folder / f"{clip}.npy", np.ones((5, 3), np.float32))
    known = {"a": "train", "b": "dev", "c": "dev"}
    made = import_features(folder, tmp_path / "r", stream="s", known=known, **SMALL)
    assert (made.failures, made.unknown) == ({"c": "has no file"}, ["stray.npy"])
    store = FeatureStore.open(made.path)
    assert store.select(split="dev") == ["b", "c"]
    assert list(store.ids) == ["a", "b", "c"]


def test_the_usual_width_counts(tmp_path):
    folder = tmp_path / "feat"
    folder.mkdir()
    for clip, width in (("a", 4), ("b", 3), ("c", 3)):
        np.save(folder / f"{clip}.npy", np.ones((5, width), np.float32))
    made = import_features(folder, tmp_path / "r", stream="s", **SMALL)
    assert made.failures == {"a": "features are (5, 4), not (5, 3)"}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_are_kept_or_cast_as_asked(tmp_path, dtype):
    folder = tmp_path / "feat"
    folder.mkdir()
    array = np.random.default_rng(0).normal(size=(7, 5)).astype(dtype)
    np.save(folder / "a.npy", array)
    kept = FeatureStore.open(import_features(folder, tmp_path / "r", stream="s", **SMALL).path)
    assert kept.dtype == (np.float16 if dtype == np.float16 else np.float32)
    np.testing.assert_array_equal(kept.read(["a"])[0], array.astype(kept.dtype))
    options = {**SMALL, "stream": "s", "dtype": "float16"}
    half = FeatureStore.open(import_features(folder, tmp_path / "r", **options).path)
    np.testing.assert_array_equal(half.read(["a"])[0], array.astype(np.float16))


def test_archives_that_unpack_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("spamo_cache.store.foreign._MAX_ARRAY_BYTES", 1 << 16)
    folder = tmp_path / "feat"
    folder.mkdir()
    np.save(folder / "a.npy", np.ones((5, 3), np.float32))
    np.savez_compressed(folder / "bomb.npz", np.zeros((1 << 12, 8), np.float32))
    with h5py.File(tmp_path / "b.h5", "w") as opened:
        opened["a"] = np.ones((5, 3), np.float32)
        opened.create_dataset("bomb", (1 << 30, 8), "f4", compression="gzip", chunks=(1024, 8))
    npy = import_features(folder, tmp_path / "r", stream="s", **SMALL)
    hdf5 = import_features(tmp_path / "b.h5", tmp_path / "r", stream="s", **SMALL)
    for made in (npy, hdf5):
        assert list(made.failures) == ["bomb"]
        assert "holds more than" in made.failures["bomb"]


@pytest.mark.slow
def test_flipped_bits_in_numpy_files_are_failures_or_nothing(tmp_path):
    """Headers and archives are read with suspicion; npy has no checksum for its values."""
    folder = tmp_path / "feat"
    folder.mkdir()
    np.save(folder / "a.npy", np.ones((5, 3), np.float32))
    np.savez_compressed(folder / "b.npz", np.ones((50, 3), np.float32))
    chance = random.Random(0)
    whole = {name: (folder / name).read_bytes() for name in ("a.npy", "b.npz")}
    for name, data in whole.items():
        for _ in range(500):
            broken = bytearray(data)
            for _ in range(chance.choice((1, 3))):
                broken[chance.randrange(len(data) - 1)] ^= 1 << chance.randrange(8)
            (folder / name).write_bytes(broken)
            with suppress(UsageError, *UNREADABLE), opened(folder) as items:
                for item in items:
                    assert item.load().nbytes < 1 << 20
        (folder / name).write_bytes(data)


def test_a_cut_hdf5_file_is_one_clear_error(sealed, tmp_path):
    export_hdf5(sealed.path, tmp_path / "whole.h5")
    whole = (tmp_path / "whole.h5").read_bytes()
    chance = random.Random(0)
    for _ in range(20):
        (tmp_path / "b.h5").write_bytes(whole[: chance.randrange(len(whole))])
        with pytest.raises(SpamoError, match=r"is no sound HDF5 file|cannot be read"):
            import_features(tmp_path / "b.h5", tmp_path / "r", stream="s", **SMALL)


@pytest.mark.slow
def test_ids_that_no_file_can_have_come_back(make, tmp_path):
    material = make()
    ids = {"Ärger/über:_%41": "../" + "x" * 300, "手語": " . "}
    for name in ("keys", "slots"):
        entries = [replace(e, id=ids.get(e.id, e.id)) for e in getattr(material, name)]
        setattr(material, name, entries)
    material.features = {ids.get(c, c): rows for c, rows in material.features.items()}
    path = material.write(tmp_path / "root").path
    export_npy(path, tmp_path / "npy", naming="official")
    export_hdf5(path, tmp_path / "all.h5")
    assert same(
        path, import_features(tmp_path / "npy", tmp_path / "b", stream="spatial", **SMALL).path
    )
    assert same(
        path, import_features(tmp_path / "all.h5", tmp_path, stream="spatial", **SMALL).path
    )


def test_nothing_to_import_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.h5").write_text("no")
    for load, name, words in (
        (import_features, "none", "no such folder"),
        (import_features, "empty", "no features to import"),
        (import_features, "none.h5", "no such file"),
        (import_features, "text.h5", "is no sound HDF5 file"),
    ):
        with pytest.raises(SpamoError, match=words) as raised:
            load(tmp_path / name, tmp_path, stream="s", **SMALL)
        assert name in str(raised.value)
