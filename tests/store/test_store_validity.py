"""Rows that are not valid: kept, read by anybody, carried along, and checked like all the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from spamo_cache import io
from spamo_cache.cli.main import app
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.report.runs import StoreFacts
from spamo_cache.report.templating import render
from spamo_cache.store import exchange
from spamo_cache.store.compare import compare_clip
from spamo_cache.store.copy import copy
from spamo_cache.store.foreign import MARKER, Item
from spamo_cache.store.index import ClipIndex
from spamo_cache.store.inspect import diff, info
from spamo_cache.store.layout import VALIDITY_FORMAT, canonical
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.receipts import receipt_path
from spamo_cache.store.verify import verify
from spamo_cache.store.writer import StoreWriter
from spamo_cache.workflow.doctor import examine
from spamo_cache.workflow.stores import by_poses, remember
from tests.conftest import Server
from tests.store.conftest import Material
from tests.store.test_store_hub import ROOT
from tests.support.hub_server import HubServer


@pytest.fixture
def marked(make: Callable[..., Material]) -> Material:
    """Material of whose rows about a third are not valid; the first clip has none that is."""
    material: Material = make(12, failed=1)
    random = np.random.default_rng(1)
    material.valid = {clip: random.random(len(r)) > 0.3 for clip, r in material.features.items()}
    material.valid["clip 000"][:] = False
    material.valid["手語"][:] = True
    return material


@pytest.fixture
def kept(marked: Material, tmp_path: Path) -> StoreWriter:
    return marked.write(tmp_path / "root")


def assert_marked(material: Material, store: FeatureStore) -> None:
    clips = [clip for clip in material.valid if clip not in material.failures]
    assert store.has_validity
    for clip, valid in zip(clips, store.valid(clips), strict=True):
        np.testing.assert_array_equal(valid, material.valid[clip])
        assert valid.dtype == bool


def generation(path: Path) -> Path:
    return next(folder for folder in (path / "clips").iterdir() if folder.is_dir())


def test_validity_comes_back_beside_the_rows_and_to_plain_zarr(
    marked: Material, kept: StoreWriter
) -> None:
    store = FeatureStore.open(kept.path)
    assert_marked(marked, store)
    rows, valid = store.read_valid("clip 002")
    np.testing.assert_array_equal(rows, marked.features["clip 002"])
    np.testing.assert_array_equal(valid, marked.valid["clip 002"])
    features = zarr.open_array(kept.path / "features", mode="r")
    column = zarr.open_array(generation(kept.path) / "valid", mode="r")
    assert (column.shape, str(column.dtype)) == (features.shape[:1], "uint8")
    expected = np.zeros(column.shape, np.uint8)
    for slot in marked.slots:
        if slot.id not in marked.failures:
            expected[slot.row : slot.row + slot.rows] = marked.valid[slot.id]
    np.testing.assert_array_equal(column[:], expected)


def test_stores_without_it_are_as_they_were(make: Callable[..., Material], tmp_path: Path) -> None:
    path = make(12).write(tmp_path).path
    store = FeatureStore.open(path)
    assert not store.has_validity
    rows, valid = store.read_valid("手語")
    assert valid.all()
    assert valid.shape == rows.shape[:1]
    documents = [json.loads(file.read_bytes()) for file in path.rglob("*.json")]
    assert not any(word in str(documents) for word in ("valid", "validity", "'format': 3"))
    assert not (generation(path) / "valid").exists()


def test_a_version_that_knows_no_validity_refuses_the_store(kept: StoreWriter) -> None:
    documents = [kept.path / "zarr.json", *(kept.path / "receipts").glob("?.json")]
    for file in [*documents, generation(kept.path) / "zarr.json"]:
        document = json.loads(file.read_bytes())
        about = document.get("attributes", {}).get("spamo_cache", document)
        assert about["format"] == VALIDITY_FORMAT > 2, file
    # One that says otherwise contradicts itself.
    document = json.loads((kept.path / "zarr.json").read_bytes())
    about = document["attributes"]["spamo_cache"]
    del about["sha256"]
    document["attributes"]["spamo_cache"] = io.with_checksum({**about, "format": 2})
    (kept.path / "zarr.json").write_bytes(canonical(document))
    with pytest.raises(DamagedError, match="disagree"):
        FeatureStore.open(kept.path)


def test_validity_of_exactly_the_rows_is_asked_for(marked: Material, tmp_path: Path) -> None:
    writer = marked.open(tmp_path)
    marked.valid["clip 003"] = np.ones(99, bool)
    with pytest.raises(StoreError, match=r"validity is bool of \(99,\)"):
        marked.publish(writer, 0)
    del marked.valid["clip 003"]
    with pytest.raises(StoreError, match="validity is nothing"):
        marked.publish(writer, 0)
    plain = marked.open(tmp_path / "plain", validity=False)
    with pytest.raises(StoreError, match="none to be kept"):
        marked.publish(plain, 0)


def test_a_lost_index_is_made_again_and_copies_carry_it(
    marked: Material, kept: StoreWriter, tmp_path: Path
) -> None:
    whole = {file.name: file.read_bytes() for file in generation(kept.path).glob("valid/*")}
    shutil.rmtree(kept.path / "clips")
    (kept.path / "clips").mkdir()
    marked.open(tmp_path / "root")
    assert {f.name: f.read_bytes() for f in generation(kept.path).glob("valid/*")} == whole
    copied = copy(kept.path, tmp_path / "b").path
    assert_marked(marked, FeatureStore.open(copied))
    assert diff(kept.path, copied) == []
    assert verify(copied, deep=True).sound
    marked.valid["clip 002"] = ~marked.valid["clip 002"]
    other = marked.write(tmp_path / "c").path
    assert diff(kept.path, other) == ["1 clip with other valid rows: clip 002"]
    with pytest.raises(StoreError, match="other features under the same name"):
        copy(other, tmp_path / "b")


def test_s3_has_it_too_and_a_clip_is_one_request(
    marked: Material, kept: StoreWriter, s3: Server, tmp_path: Path
) -> None:
    path = copy(kept.path, s3.root).path
    store = FeatureStore.open(path)
    assert_marked(marked, store)
    s3.requests.clear()
    store.read_valid("clip 002")
    assert len(s3.requests) == 1
    assert verify(path, deep=True).sound
    assert diff(kept.path, copy(path, tmp_path / "back").path) == []


def test_so_has_the_hub(marked: Material, kept: StoreWriter, hub: HubServer) -> None:
    hub.create("lab/features")
    path = copy(kept.path, ROOT).path
    assert_marked(marked, FeatureStore.open(path))
    assert verify(path).sound


def test_flipped_bits_of_it_are_found(kept: StoreWriter) -> None:
    receipt = receipt_path(kept.path, 0)
    assert b'"invalid":[[0,' in receipt.read_bytes()
    for file in (receipt, generation(kept.path) / "valid" / "c.0"):
        whole = file.read_bytes()
        for at in range(0, len(whole), 37):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert not verify(kept.path).sound, (file, at)
        file.write_bytes(whole)
    assert verify(kept.path, deep=True).sound


def test_an_index_and_a_receipt_that_disagree_are_found(
    marked: Material, kept: StoreWriter, tmp_path: Path
) -> None:
    """Each sound by itself: only the other tells."""
    marked.valid["clip 002"] = ~marked.valid["clip 002"]
    other = marked.write(tmp_path / "other").path
    shutil.rmtree(kept.path / "clips")
    shutil.copytree(other / "clips", kept.path / "clips")
    assert [damage.why for damage in verify(kept.path).damaged][:1] == [
        "clip 002: receipt 1 and the index disagree on valid rows"
    ]


@pytest.mark.parametrize("runs", [[[3, 2]], [[0, 1], [1, 2]], [[0, 10**6]], [[2, 3], [0, 1]]])
def test_impossible_runs_are_refused(kept: StoreWriter, runs: list[list[int]]) -> None:
    file = receipt_path(kept.path, 0)
    document = json.loads(file.read_bytes())
    del document["sha256"]
    document["clips"]["clip 000"]["invalid"] = runs
    file.write_bytes(canonical(io.with_checksum(document)))
    with pytest.raises(DamagedError, match="not runs of the clip's rows"):
        FeatureStore.open(kept.path).receipt(0)


def test_an_index_of_other_values_is_impossible(kept: StoreWriter) -> None:
    about = kept.attributes
    index = ClipIndex(kept.path, about)
    index.columns["valid"] = index.columns["valid"] * 2
    with pytest.raises(DamagedError, match="impossible"):
        index._check(about)


# --- exchange -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "unlisted", "zip", "h5", "tar"])
def test_exports_have_it_beside_and_imports_take_it(
    marked: Material, kept: StoreWriter, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if kind in {"folder", "unlisted"}:
        exchange.export_npy(kept.path, out)
        assert np.load(out / "train" / "clip 002.valid.npy").tolist() == [
            int(valid) for valid in marked.valid["clip 002"]
        ]
        if kind == "unlisted":
            (out / MARKER).unlink()
    elif kind == "zip":
        exchange.export_zip(kept.path, out / "a.npz")
    elif kind == "h5":
        exchange.export_hdf5(kept.path, out / "a.h5")
    else:
        exchange.export_webdataset(kept.path, out / "a.tar")
    source = out / {"zip": "a.npz", "h5": "a.h5"}.get(kind, "")
    options: dict[str, Any] = {
        "corpus": "weather",
        "stream": "face",
        "chunk_rows": 4,
        "shard_rows": 64,
    }
    back = FeatureStore.open(exchange.import_features(source, tmp_path / "b", **options).path)
    if kind != "unlisted":  # whose awkward ids cannot be read back from names of files
        assert_marked(marked, back)
    rows, valid = back.read_valid("clip 002")
    np.testing.assert_array_equal(rows, marked.features["clip 002"])
    np.testing.assert_array_equal(valid, marked.valid["clip 002"])
    assert verify(back.path, deep=True).sound


def test_a_clip_named_as_anothers_validity_is_not_overwritten(
    make: Callable[..., Material], tmp_path: Path
) -> None:
    drawn = make(3, failed=0)
    names = dict(zip((key.id for key in drawn.keys), ("a", "a.valid", "b"), strict=True))
    features = {names[clip]: rows for clip, rows in drawn.features.items()}
    material = Material(
        [replace(key, id=names[key.id]) for key in drawn.keys],
        [replace(slot, id=names[slot.id]) for slot in drawn.slots],
        features,
        valid={clip: np.ones(len(rows), bool) for clip, rows in features.items()},
    )
    store = material.write(tmp_path / "root").path
    for export, target in ((exchange.export_npy, "folder"), (exchange.export_hdf5, "file.h5")):
        with pytest.raises(StoreError, match=r"clip 'a' would have the name of clip 'a\.valid'"):
            export(store, tmp_path / target)
        assert not (tmp_path / target).exists()


def test_validity_of_others_is_not_believed(tmp_path: Path) -> None:
    for clip, valid in {
        "good": [1, 0, 1],
        "short": [1, 0],
        "odd": [1, 2, 0],
        "none": None,
        "text": list("abc"),
    }.items():
        np.save(tmp_path / f"{clip}.npy", np.ones((3, 2), np.float32))
        if valid is not None:
            np.save(tmp_path / f"{clip}.valid.npy", np.array(valid))
    made = exchange.import_features(tmp_path, tmp_path / "r", corpus="any", stream="face")
    store = FeatureStore.open(made.path)
    assert sorted(made.failures) == ["odd", "short", "text"]
    assert all("its validity is" in reason for reason in made.failures.values())
    assert [valid.tolist() for valid in store.valid(["good", "none"])] == [
        [True, False, True],
        [True, True, True],
    ]


def test_equal_rows_of_which_others_are_valid_are_told(marked: Material, kept: StoreWriter) -> None:
    store = FeatureStore.open(kept.path)
    rows = marked.features["clip 002"]
    same = Item("clip 002", "", "a", lambda: rows, lambda: marked.valid["clip 002"])
    other = Item("clip 002", "", "a", lambda: rows, lambda: ~marked.valid["clip 002"])
    assert compare_clip(same, "clip 002", store).verdict == "equal"
    found = compare_clip(other, "clip 002", store)
    assert found.verdict == "different"
    assert found.reason == f"{len(rows)} of {len(rows)} rows are valid in one and not in the other"


# --- what is told of it -------------------------------------------------------------------------


def test_shares_of_valid_rows_are_told_by_split(
    marked: Material, kept: StoreWriter, make: Callable[..., Material], tmp_path: Path
) -> None:
    store = FeatureStore.open(kept.path)
    for split in ("test", "train"):
        clips = store.select(split=split, state="ok")
        valid = np.concatenate([marked.valid[clip] for clip in clips])
        assert store.valid_shares()[split] == pytest.approx(valid.mean())
    told = info(kept.path)["splits"]
    assert {split: of["valid"] for split, of in told.items()} == store.valid_shares()
    plain = make(12).write(tmp_path / "plain").path
    assert FeatureStore.open(plain).valid_shares() == {}
    assert "valid" not in info(plain)["splits"]["test"]


def test_commands_and_pages_show_them(
    kept: StoreWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`store info`, `doctor` and a report's provenance."""
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    share = FeatureStore.open(kept.path).valid_shares()["test"]
    shown = CliRunner().invoke(app, ["store", "info", str(kept.path)])
    assert f"{share:.1%}" in shown.stdout, shown.output
    table = tmp_path / "clips.csv"
    table.write_text("id,split,source,text,language\nclip 000,test,videos/0.mp4,regen,German\n")
    remember(Manifest.read(table, "weather"), [kept.path])
    found = examine("weather", root=tmp_path, manifest=table, sample=0)
    assert found.facts["valid_rows"]["spatial"]["test"] == pytest.approx(share, abs=1e-4)
    facts = StoreFacts(
        stream="spatial",
        fingerprint=kept.fingerprint,
        about=kept.attributes,
        counts=None,
        valid={"test": share},
    )
    given: dict[str, Any] = {"stages": None, "effort": [], "terms": {}, "corpora": {}}
    page = render("provenance.html", place="p", stores=(facts,), **given)
    assert f"test {100 * share:.1f} %" in page


def test_train_takes_the_stores_of_the_poses_that_a_spec_names() -> None:
    usual, other, moved = (
        SimpleNamespace(about=SimpleNamespace(poses=folder))
        for folder in ("poses", "poses-drop-30", "/data/rtmpose")
    )

    def taken(stores: list[Any], folder: str) -> list[Any]:
        return by_poses(stores, folder)

    assert taken([other, usual], "poses") == [usual]
    assert taken([usual, other], "poses-drop-30") == [other]
    assert taken([moved], "poses") == [moved]  # nobody has named any
    assert taken([usual, moved], "poses-drop-30") == []
