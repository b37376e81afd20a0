"""What circulates as features comes in exactly, and what is hostile does no harm."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from spamo_cache.errors import SpamoError, StoreError, UsageError
from spamo_cache.store.exchange import import_features
from spamo_cache.store.foreign import UNREADABLE, opened

Arrays = dict[tuple[str, str], np.ndarray[Any, Any]]


def arrays(source: Path, stream: str = "") -> Arrays:
    """(split, clip) -> array, of everything that can be read."""
    with opened(source, stream, "official" if stream else "ids") as items:
        return {(item.split, item.id): item.load() for item in items}


def why(source: Path) -> str:
    """Why the only clip of a source cannot be read, or all of it."""
    try:
        with opened(source) as items:
            (item,) = items
            item.load()
    except UNREADABLE as error:
        return str(error)
    raise AssertionError("was read")


FEATURES = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
TENSOR = torch.from_numpy(FEATURES)


def sample(name: str, rows: torch.Tensor = TENSOR) -> dict[str, Any]:
    """As neccam/slt's files have them."""
    return {"name": name, "signer": "Signer08", "gloss": "TIEF", "text": "tief .", "sign": rows}


def in_gzip(content: Any, protocol: int = 4) -> bytes:
    return gzip.compress(pickle.dumps(content, protocol))


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def old(content: Any) -> bytes:
    """As torch wrote files before 1.6."""
    return saved(content, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_files_of_slt_with_their_splits(tmp_path: Path, protocol: int) -> None:
    for split in ("train", "dev"):
        content = [sample(f"{split}/{split}-{n}", TENSOR + n) for n in range(3)]
        (tmp_path / f"phoenix14t.pami0.{split}").write_bytes(in_gzip(content, protocol))
    found = arrays(tmp_path)
    assert len(found) == 6
    np.testing.assert_array_equal(found["dev", "dev-2"], FEATURES + 2)
    assert set(arrays(tmp_path / "phoenix14t.pami0.dev")) == {("dev", f"dev-{n}") for n in range(3)}
    options: dict[str, Any] = {"corpus": "c", "stream": "s", "chunk_rows": 4, "shard_rows": 64}
    made = import_features(tmp_path, tmp_path / "root", **options)
    assert (made.clips, made.failures) == (6, {})


HALF = FEATURES.astype(np.float16)
ONE_CLIP: dict[str, tuple[bytes, np.ndarray[Any, Any]]] = {
    "a.pt": (saved(TENSOR), FEATURES),
    "a.pth": (saved({"features": TENSOR, "fps": 25}), FEATURES),
    "a.old.pt": (old(TENSOR), FEATURES),
    "turned.pt": (saved(TENSOR.t()), FEATURES.T),
    "part.pt": (
        saved(torch.arange(40.0).reshape(8, 5)[2:4, 1:3]),
        np.array([[11, 12], [16, 17]], np.float32),
    ),
    "half.pkl": (pickle.dumps(TENSOR.half()), HALF),
    "bfloat.pkl": (pickle.dumps(TENSOR.bfloat16()), TENSOR.bfloat16().float().numpy()),
    "bfloat.pt": (saved(TENSOR.bfloat16()), TENSOR.bfloat16().float().numpy()),
    "turned.pkl": (pickle.dumps(TENSOR.t()), FEATURES.T),
    "numpy.pickle": (pickle.dumps(FEATURES), FEATURES),
    "five.pkl": (pickle.dumps({"x": FEATURES, "fps": 25}, 5), FEATURES),
    "packed.gz": (in_gzip(FEATURES.astype("<f8")), FEATURES.astype(np.float64)),
}


@pytest.mark.parametrize("name", ONE_CLIP)
def test_a_file_of_one_clip_is_called_like_it(tmp_path: Path, name: str) -> None:
    data, expected = ONE_CLIP[name]
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / name).write_bytes(data)
    (found,) = arrays(tmp_path).items()
    assert found[0] == ("dev", name.rpartition(".")[0])
    np.testing.assert_array_equal(found[1], expected)
    assert found[1].dtype == expected.dtype
    with zipfile.ZipFile(tmp_path / "part.zip", "w") as archive:
        archive.writestr(f"dev/{name}", data)
    (zipped,) = arrays(tmp_path / "part.zip").items()
    assert zipped[0] == found[0]
    np.testing.assert_array_equal(zipped[1], expected)


def test_a_file_of_many_clips(tmp_path: Path) -> None:
    content = {"train/a": TENSOR, "train/b": {"feat": TENSOR + 1, "text": "b"}}
    expected = {("train", "a"): FEATURES, ("train", "b"): FEATURES + 1}
    for name, data in (("f.pt", saved(content)), ("f.pkl", pickle.dumps(content))):
        (tmp_path / name).write_bytes(data)
        found = arrays(tmp_path / name)
        assert set(found) == set(expected)
        for clip, rows in expected.items():
            np.testing.assert_array_equal(found[clip], rows)
    np.savez(tmp_path / "all.npz", a=FEATURES, b=FEATURES + 1)
    np.testing.assert_array_equal(arrays(tmp_path / "all.npz")["", "b"], FEATURES + 1)
    (tmp_path / "dev.pkl").write_bytes(pickle.dumps({"a": TENSOR, "b": TENSOR}))
    assert set(arrays(tmp_path / "dev.pkl")) == {("dev", "a"), ("dev", "b")}


def test_zipped_parts_of_the_release(tmp_path: Path) -> None:
    """Two parts of one folder, as drives make them; the other stream's files are passed over."""
    for number in range(2):
        with zipfile.ZipFile(tmp_path / f"part{number}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in (f"c{number}_s2wrapping", f"c{number}_overlap-8"):
                data = io.BytesIO()
                np.save(data, FEATURES + number)
                archive.writestr(f"features/test/{name}.npy", data.getvalue())
    found = arrays(tmp_path, "spatial")
    assert set(found) == {("test", "c0"), ("test", "c1")}
    np.testing.assert_array_equal(found["test", "c1"], FEATURES + 1)
    assert set(arrays(tmp_path / "part1.zip", "motion")) == {("test", "c1")}


def test_samples_of_webdataset(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s-000000.tar", "w") as archive:
        for name, data in (
            ("0.npy", saved_npy(FEATURES)),
            ("0.json", json.dumps({"id": "über/a.b", "split": "dev"}).encode()),
            ("plain.npy", saved_npy(FEATURES)),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    assert set(arrays(tmp_path)) == {("dev", "über/a.b"), ("", "plain")}
    assert set(arrays(tmp_path / "s-000000.tar")) == {("dev", "über/a.b"), ("", "plain")}


def saved_npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


# --- poses ----------------------------------------------------------------------------------------


def pose(frames: int = 4, people: int = 1) -> bytes:
    pytest.importorskip("pose_format")
    from pose_format import Pose
    from pose_format.numpy import NumPyPoseBody
    from pose_format.pose_header import PoseHeader, PoseHeaderComponent, PoseHeaderDimensions

    hand = PoseHeaderComponent("HAND", ["wrist", "tip"], [(0, 1)], [(0, 0, 0)], "XYZC")
    header = PoseHeader(0.2, PoseHeaderDimensions(64, 48, 1), [hand])
    data = np.arange(frames * people * 6, dtype=np.float32).reshape(frames, people, 2, 3)
    confidence = np.ones((frames, people, 2), np.float32)
    confidence[0, 0, 1] = 0
    file = io.BytesIO()
    Pose(header, NumPyPoseBody(25, data, confidence)).write(file)
    return file.getvalue()


def test_poses_are_rows_of_points_with_their_confidence(tmp_path: Path) -> None:
    (tmp_path / "a.pose").write_bytes(pose())
    (rows,) = arrays(tmp_path).values()
    assert rows.shape == (4, 8)
    np.testing.assert_array_equal(rows[0], [0, 1, 2, 1, 0, 0, 0, 0])  # no point is seen there
    np.testing.assert_array_equal(rows[1], [6, 7, 8, 1, 9, 10, 11, 1])


@pytest.mark.parametrize("damage", ["cut", "version", "people", "noise"])
def test_a_broken_pose_is_one_reason(tmp_path: Path, damage: str) -> None:
    whole = pose()
    data = {
        "cut": whole[:-5],
        "version": struct.pack("<f", 0) + whole[4:],
        "people": whole.replace(struct.pack("<fIH", 25, 4, 1), struct.pack("<fIH", 25, 1 << 31, 9)),
        "noise": whole[:9] + bytes(range(256)),
    }[damage]
    assert data != whole
    (tmp_path / "a.pose").write_bytes(data)
    assert ".pose file" in why(tmp_path)


# --- hostile files --------------------------------------------------------------------------------


class Runs:
    """Pickles into a call of ``os.system``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", [pickle.dumps, in_gzip, saved, old])
def test_nothing_in_a_pickle_runs(tmp_path: Path, form: Callable[[Any], bytes]) -> None:
    target = tmp_path / "touched"
    (tmp_path / "a.pkl").write_bytes(form({"features": Runs(target)}))
    assert "nothing was run" in why(tmp_path / "a.pkl")
    options: dict[str, Any] = {"corpus": "c", "stream": "s"}
    with pytest.raises(UsageError, match=r"a\.pkl: .*nothing was run"):
        import_features(tmp_path / "a.pkl", tmp_path / "root", **options)
    assert not target.exists()


def reduced(kept: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A pickled tensor that says this of its place in its storage."""

    class Forged:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (kept, offset, size, stride, False, {})

    return pickle.dumps(Forged())


FLOATS = TENSOR._typed_storage()
ASKING: dict[str, tuple[bytes, str]] = {
    "beyond.pkl": (reduced(FLOATS, 9, (5, 3), (3, 1)), "larger than its storage"),
    "repeated.pkl": (reduced(FLOATS, 0, (1 << 40, 3), (0, 1)), "larger than its storage"),
    "negative.pkl": (reduced(FLOATS, -1, (5, 3), (3, 1)), "impossible shape"),
    "ragged.pkl": (reduced(FLOATS, 0, (5, 3), (3,)), "unusual way"),
    "text.pkl": (reduced("FLOATS", 0, (5, 3), (3, 1)), "unusual way"),
    "repeated.pt": (saved(torch.ones(1).expand(1 << 30, 3)), "larger than its storage"),
    "sparse.pt": (saved({"features": torch.eye(3).to_sparse()}), "not rows of features"),
    "cut.pt": (saved(TENSOR)[:-200], "no sound|not a zip|truncated|File is not"),
    "cut.pkl": (pickle.dumps(TENSOR)[:-70], "no readable pickle"),
    "cut.gz": (in_gzip(FEATURES)[:-9], "ended|no readable pickle"),
    "bomb.gz": (gzip.compress(pickle.dumps(bytes(1 << 28))), "holds more than"),
    "frame.gz": (gzip.compress(b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little")), "pickle|frame"),
    "numel.pkl": (old(TENSOR).replace(b"K\x0fN", b"J\xff\xff\xff\x7fN"), "another size"),
    "words.pkl": (pickle.dumps({"gloss": ["a"]}), "no arrays of clips"),
    "page.pt": (b"<html>", "pickle"),
}


@pytest.mark.parametrize("name", ASKING)
def test_what_a_small_file_may_ask_for_is_bounded(tmp_path: Path, name: str) -> None:
    data, words = ASKING[name]
    (tmp_path / name).write_bytes(data)
    assert re.search(words, why(tmp_path))


def test_a_compressed_archive_of_torch_is_refused(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(io.BytesIO(saved(TENSOR))) as whole,
        zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert "is compressed" in why(tmp_path)


def test_archives_keep_to_themselves(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("../a.npy", saved_npy(FEATURES))
    with pytest.raises(StoreError, match="outside the folder"):
        arrays(tmp_path / "out.zip")
    (tmp_path / "secret.npy").write_bytes(saved_npy(FEATURES))
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            entry = tarfile.TarInfo(f"{kind!r}.npy")
            entry.type, entry.linkname = kind, str(tmp_path / "secret.npy")
            archive.addfile(entry)
    assert arrays(tmp_path / "link.tar") == {}
    for name in ("cut.zip", "cut.tar"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 or ustar")
        with pytest.raises(SpamoError):
            arrays(tmp_path / name)


def test_a_bomb_in_an_archive_is_one_clip_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spamo_cache.store.foreign._MAX_ARRAY_BYTES", 1 << 16)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for kind in ("npy", "pt", "pose"):
            archive.writestr(f"{kind}.{kind}", bytes(1 << 20))
    with opened(tmp_path / "a.zip") as items:
        for item in items:
            with pytest.raises(StoreError, match=r"holds more than|no readable pickle"):
                item.load()


@pytest.mark.parametrize("shape", [(1 << 70, 3), (True, 3)])
def test_a_header_of_an_impossible_shape_is_one_clip_that_failed(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    made = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(made, header)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.npy", made.getvalue() + bytes(256))
    (tmp_path / "b.npy").write_bytes(made.getvalue() + bytes(256))
    (tmp_path / "c.npy").write_bytes(saved_npy(FEATURES))
    done = import_features(tmp_path, tmp_path / "root", corpus="c", stream="s")
    assert set(done.failures) == {"a", "b"}


def test_hdf5_of_types_that_numpy_has_not(tmp_path: Path) -> None:
    dates = h5py.h5t.UNIX_D32LE
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        h5py.h5d.create(file.id, b"a", dates, h5py.h5s.create_simple((3, 4)))
    assert "No NumPy equivalent" in why(tmp_path / "rows.h5")
    with h5py.File(tmp_path / "id.h5", "w") as file:
        rows = file.create_dataset("a", data=FEATURES)
        h5py.h5a.create(rows.id, b"id", dates, h5py.h5s.create(h5py.h5s.SCALAR))
    assert "no sound HDF5 file" in why(tmp_path / "id.h5")


def test_hdf5_in_a_zip_and_in_a_folder(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["dev/a"] = FEATURES
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.h5", "deep/a.h5")
    assert set(arrays(tmp_path / "a.zip")) == set(arrays(tmp_path / "a.h5")) == {("dev", "a")}


def test_what_is_no_features_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("words")
    with pytest.raises(UsageError, match="no file of features"):
        arrays(tmp_path / "notes")
    with pytest.raises(UsageError, match="no such file"):
        arrays(tmp_path / "none.pt")
