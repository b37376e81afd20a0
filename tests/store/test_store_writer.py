"""Writing: the same bytes whatever happens, and refusals that say what is wrong."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spamo_cache import io
from spamo_cache.errors import StoreError
from spamo_cache.store.layout import Slot, work_path
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.receipts import receipt_path, shard_path
from spamo_cache.store.verify import verify
from spamo_cache.store.writer import StoreWriter


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a store except those that tell who and when."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.parent.name != "receipts" and file.parent != path
    }


@pytest.mark.slow
def test_bytes_do_not_depend_on_order_place_or_partial_seals(material, tmp_path):
    straight = material.write(tmp_path / "a")
    material.keys.reverse()
    material.slots.reverse()
    winding = material.open(tmp_path / "elsewhere" / "b")
    for partition in reversed(material.partitions):
        material.publish(winding, partition, host="another")
        winding.commit_index()
    winding.commit_index()
    assert winding.path.name == straight.path.name
    assert contents(winding.path) == contents(straight.path)


@pytest.mark.slow
def test_random_crashes_leave_nothing_that_is_read_and_the_rerun_is_identical(
    material, sealed, tmp_path
):
    """A crash leaves any prefix of a partition's steps; here every kind of leftover at once."""
    writer = material.open(tmp_path / "crashed")
    random = np.random.default_rng(3)
    for partition in material.partitions:
        kind = random.integers(6)
        if kind == 0:
            continue  # never begun
        material.publish(writer, partition)
        receipt, shard = (f(writer.path, partition) for f in (receipt_path, shard_path))
        if kind == 1:
            receipt.unlink()  # died between shard and receipt
        elif kind == 2:
            receipt.write_bytes(receipt.read_bytes()[: random.integers(300)])
        elif kind == 3:
            os.truncate(shard, random.integers(1, shard.stat().st_size))
        elif kind == 4:
            os.truncate(shard, 0)
    leftover = writer.work / f"{'0' * 12}.1.1.abc.tmp"
    leftover.mkdir()
    (leftover / "c.0.0").write_bytes(b"half")
    writer.commit_index()
    store = FeatureStore.open(writer.path)
    for clip in store.select(state="ok"):
        np.testing.assert_array_equal(store.read([clip])[0], material.features[clip])

    again = material.open(tmp_path / "crashed")
    for partition in set(material.partitions) - again.finished():
        material.publish(again, partition)
    again.commit_index()
    assert contents(again.path) == contents(sealed.path)
    assert verify(again.path, deep=True).sound


def test_published_partitions_are_never_written_again(material, sealed):
    before = shard_path(sealed.path, 0).stat().st_ino
    material.features = {clip: rows * 2 for clip, rows in material.features.items()}
    assert material.publish(sealed, 0) is False
    assert shard_path(sealed.path, 0).stat().st_ino == before


def test_seal_is_idempotent(sealed):
    before = contents(sealed.path)
    sealed.commit_index()
    assert contents(sealed.path) == before


def test_all_clips_of_a_partition_may_fail(material, tmp_path):
    material.failures = {slot.id: "bad\0\nvideo \ud800" for slot in material.slots}
    store = FeatureStore.open(material.write(tmp_path).path)
    assert store.counts() == {"ok": 0, "failed": len(store), "absent": 0}
    assert store.reason("手語") == "bad video ?"
    assert verify(store.path, deep=True).sound


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "published whole, each clip once"),
        ("strange", "published whole, each clip once"),
        ("both", "published whole, each clip once"),
        ("rows", r"features are \(63, 12\), not"),
        ("nan", "1 of 12 rows are not finite"),
        ("partition", "there is no partition 99"),
    ],
)
def test_publish_refuses_what_was_not_planned(material, tmp_path, fault, words):
    writer = material.open(tmp_path)
    ids = [slot.id for slot in material.slots if slot.partition == 0]
    features = {clip: material.features[clip].copy() for clip in ids}
    failures: dict[str, str] = {}
    if fault == "missing":
        del features[ids[0]]
    elif fault == "strange":
        features["nobody"] = features[ids[0]]
    elif fault == "both":
        failures[ids[0]] = "failed, too"
    elif fault == "rows":
        features[ids[0]] = np.zeros((63, 12))
    elif fault == "nan":
        features[ids[0]][0, 0] = np.nan
    with pytest.raises(StoreError, match=words):
        writer.publish(99 if fault == "partition" else 0, features, failures, {})
    assert writer.finished() == set()
    assert not list(work_path(writer.path).glob("*.tmp"))


@pytest.mark.parametrize(
    ("slot", "message"),
    [
        (Slot("手語", "train", 0, 0, 4), "overlap|two splits"),
        (Slot("手語", "train", 9, 9 * 64 + 2, 4), "within a chunk"),
        (Slot("手語", "train", 9, 9 * 64 + 60, 8), "cross a shard"),
        (Slot("nobody", "train", 9, 9 * 64, 8), "not the same"),
    ],
)
def test_open_refuses_impossible_plans(material, tmp_path, slot, message):
    material.slots = [kept for kept in material.slots if kept.id != "手語"] + [slot]
    with pytest.raises(StoreError, match=message):
        material.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "int8"}, "dtype: Input should be"),
        ({"width": 0}, "width: .* greater than or equal to 1"),
        ({"chunk_rows": 0}, "chunk_rows: .* greater than or equal to 1"),
        ({"shard_rows": 63}, "63 rows is no multiple of 4"),
        ({"corpus": "../x"}, "cannot name a corpus"),
    ],
)
def test_open_refuses_impossible_sizes(material, tmp_path, change, words):
    with pytest.raises(StoreError, match=words):
        material.open(tmp_path, **change)


def test_another_plan_for_the_same_clips_is_told(material, sealed):
    last = material.slots[-1]
    moved = Slot(last.id, last.split, last.partition + 1, (last.partition + 1) * 64, last.rows)
    material.slots[-1] = moved
    with pytest.raises(StoreError, match="other partitions"):
        material.open(sealed.path.parents[1])


def test_writer_pickles_to_its_path(material, tmp_path):
    writer = pickle.loads(pickle.dumps(material.open(tmp_path)))  # noqa: S301
    assert material.publish(writer, 0)
    assert StoreWriter.at(writer.path).finished() == {0}


def test_disks_without_hard_links(material, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    writer = material.write(tmp_path)
    assert writer.finished() == set(material.partitions)
    assert material.publish(writer, 0) is False
    assert verify(writer.path, deep=True).sound


def test_unwritable_roots_are_one_clear_error(material, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot write"):
        material.open(tmp_path / "file")


READ_ONLY = """
import os, sys
from pathlib import Path
from spamo_cache.errors import StoreError
from spamo_cache.store.inspect import info
from spamo_cache.store.inventory import remove
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.verify import verify
from spamo_cache.store.writer import StoreWriter
import numpy, zarr.core.chunk_grids, encodings.idna, concurrent.futures.thread

os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.setuid(65534)  # root may write anywhere
path = Path(sys.argv[2])
store = FeatureStore.open(path)
assert len(store.read(store.select(state="ok"))) == len(store) - 2
assert verify(path, deep=True).sound
assert info(path)["at_work"] == {}
for write in (lambda: StoreWriter.at(path).commit_index(), lambda: remove(path)):
    try:
        write()
    except StoreError as error:
        assert "cannot write" in error.what, error
    else:
        raise AssertionError("written")
"""


@pytest.mark.slow
def test_read_only_roots_are_read_and_not_written(sealed):
    root = sealed.path.parents[1]
    folders = [root, *(folder for folder in root.rglob("*") if folder.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    for file in root.rglob("*"):
        if file.is_file():
            file.chmod(0o644)  # whatever the umask of the tests
    command = [sys.executable, "-c", READ_ONLY, root, sealed.path.relative_to(root)]
    try:
        subprocess.run(command, check=True)
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.usefixtures("real_sync")
def test_a_shard_is_durable_before_its_name_and_its_name_before_its_receipt(
    material, tmp_path, monkeypatch
):
    writer = material.open(tmp_path)
    steps: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, *rest: Any) -> Any:
            steps.append(f"{name} {Path(path).name}")
            return function(path, *rest)

        return call

    monkeypatch.setattr(io, "sync", noted("sync", io.sync))
    monkeypatch.setattr(os, "link", noted("link", os.link))
    material.publish(writer, 0)
    receipt = steps[3].removeprefix("link ")
    assert steps == [
        "sync c.0.0",
        "link c.0.0",
        "sync features",
        f"link {receipt}",
        "sync 0.json",
        "sync receipts",
    ]


def test_a_lost_index_is_made_again_from_plan_and_receipts(material, sealed):
    before = contents(sealed.path)
    shutil.rmtree(sealed.path / "clips")
    (sealed.path / "clips").mkdir()
    material.open(sealed.path.parents[1])
    assert contents(sealed.path) == before


def test_files_are_as_readable_as_the_umask_says(material, tmp_path):
    before = os.umask(0o002)
    try:
        writer = material.write(tmp_path)
    finally:
        os.umask(before)
    for file in writer.path.rglob("*"):
        assert file.stat().st_mode & 0o777 == (0o775 if file.is_dir() else 0o664), file
