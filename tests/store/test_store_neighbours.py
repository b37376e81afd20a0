"""Commands beside each other: stopped and woken, with wrong clocks, unseen, or in the middle."""

from __future__ import annotations

import errno
import multiprocessing
import os
import platform
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spamo_cache import io, process
from spamo_cache.errors import StoreError
from spamo_cache.process import Process
from spamo_cache.store import index, inventory
from spamo_cache.store.leases import Leases
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.receipts import Receipts, receipt_path, shard_path
from spamo_cache.store.verify import verify
from spamo_cache.store.writer import StoreWriter

FORK = multiprocessing.get_context("fork")
ELSEWHERE = Process("0" * 12, 1, 1)
DAY = 86_400.0


def age(path: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def failed(material: Any) -> int:
    """The partition of the clips that fail at first."""
    return next(slot.partition for slot in material.slots if slot.id == "clip 001")


def retry(material: Any, writer: StoreWriter) -> bool:
    """Compute a partition again, as ``--retry-failed`` does; nothing fails this time."""
    material.failures, partition = {}, failed(material)
    slots = [slot for slot in material.slots if slot.partition == partition]
    features = {slot.id: material.features[slot.id] for slot in slots}
    with writer.lease(partition) as mine:
        assert mine
        return writer.publish(partition, features, {}, {}, replace=True)


# --- who is alive ---------------------------------------------------------------------------------


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as running:
        yield running


def test_a_process_that_proc_does_not_show_is_not_taken_for_dead(child, monkeypatch):
    me, stat_of = Process.me(), process._stat(child.pid)
    assert me is not None
    assert stat_of is not None
    other = Process(me.place, child.pid, stat_of.start)
    assert other.alive() is True
    monkeypatch.setattr(process, "_stat", lambda _: None)  # another user's, under hidepid
    assert other.alive() is None
    child.communicate(b"\n")
    assert other.alive() is False


def test_a_number_that_is_used_again_is_another_process():
    me = Process.me()
    assert me is not None
    assert me.alive() is True
    assert Process(me.place, me.pid, me.start - 1).alive() is False
    assert ELSEWHERE.alive() is None


@pytest.mark.parametrize("what", ["host", "time namespace", "network card"])
def test_a_copy_of_a_machine_is_another_place(what, monkeypatch):
    here = process._place()
    if what == "host":
        monkeypatch.setattr(platform, "node", lambda: "copy")
    elif what == "time namespace":
        monkeypatch.setattr(process, "_time_namespace", lambda: "time:[1]")
    else:
        monkeypatch.setattr(process, "_network_cards", lambda: ["02:00:00:00:00:99"])
    assert process._place.__wrapped__() != here


# --- clocks ---------------------------------------------------------------------------------------


def test_a_wrong_clock_sweeps_away_nothing_of_the_living(sealed, monkeypatch):
    young = sealed.work / f"{ELSEWHERE}.ab.tmp"
    young.mkdir()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 2 * DAY)
    sealed.sweep()
    assert young.exists()


def test_what_a_living_writer_began_long_ago_stays(sealed, monkeypatch):
    monkeypatch.setattr(Process, "me", classmethod(lambda _: ELSEWHERE))
    old, orphan = (
        sealed.work / f"{owner}.ab.tmp" for owner in (ELSEWHERE, Process("1" * 12, 1, 1))
    )
    with sealed.lease(0):
        desk = next(sealed.work.glob("*.tmp"))
        old.mkdir()
        orphan.mkdir()
        for path in (desk, old, orphan):
            age(path, 2 * DAY)
        sealed.sweep()
        assert [path.exists() for path in (desk, old, orphan)] == [True, True, False]


def test_a_claim_from_the_future_is_stale_once_it_shows_no_heartbeat(tmp_path):
    leases = Leases(tmp_path / "claims", stale=2)
    leases.folder.mkdir()
    (leases.folder / "0").write_text('{"token":"ab","process":"","user":"x","host":"gpu07"}')
    age(leases.folder / "0", -DAY)
    with leases.hold("0") as mine:
        assert not mine
    assert list(leases.live()) == ["0"]
    assert leases.live(certain=True) == {}
    with leases.hold("0") as mine:
        assert mine


def test_a_claim_is_taken_over_though_its_desk_is_not_ours_to_empty(tmp_path, monkeypatch):
    leases = Leases(tmp_path / "claims")
    with leases.hold("0"), leases.desk("0") as desk:
        (desk / "unfinished").touch()
        age(leases.folder / "0", 100)

        def refuse(_: Path) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(io, "remove", refuse)
        with Leases(tmp_path / "claims").hold("0") as taken:
            assert taken
            assert not desk.exists()
            # Its owner, whose next command sweeps here, can empty it.
            monkeypatch.undo()
            left = [path for path in io.unfinished(tmp_path) if (path / "unfinished").exists()]
            assert len(left) == 1


def test_a_heartbeat_counts_though_the_disk_lets_nobody_set_times(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    leases = Leases(tmp_path / "claims", stale=0.3)
    with leases.hold("0") as mine:
        assert mine
        age(leases.folder / "0", 1)
        monkeypatch.setattr(os, "utime", refuse)
        time.sleep(0.2)
        assert list(leases.live()) == ["0"]


# --- stopped for too long, then awake -------------------------------------------------------------


def once(before: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, with something happening just before it is called for the first time."""
    waiting = [before]

    def call(*arguments: Any) -> Any:
        while waiting:
            waiting.pop()()
        return function(*arguments)

    return call


def test_who_slept_before_moving_the_pointer_does_not_take_a_newer_index_back(
    material, tmp_path, monkeypatch
):
    writer = material.open(tmp_path)
    material.publish(writer, 0)

    def overtake() -> None:
        age(writer.work / "claims" / "index", 100)  # no sign of life: it is stopped
        other = StoreWriter.at(writer.path)
        for partition in material.partitions[1:]:
            material.publish(other, partition)
        other.commit_index()

    monkeypatch.setattr(index.io, "replace", once(overtake, io.replace))
    writer.commit_index()
    assert FeatureStore.open(writer.path).counts()["absent"] == 0
    assert verify(writer.path, deep=True).notes == []


def test_who_slept_before_tidying_up_does_not_remove_a_newer_index(material, tmp_path, monkeypatch):
    writer = material.open(tmp_path)
    material.publish(writer, 0)

    def overtake() -> None:
        age(writer.work / "claims" / "index", 100)
        other = StoreWriter.at(writer.path)
        material.publish(other, 1)
        other.commit_index()

    set_aside = index._set_aside
    tidying = once(overtake, set_aside)

    def at_the_old_one(path: Path, desk: Path) -> None:
        (tidying if path.exists() else set_aside)(path, desk)

    monkeypatch.setattr(index, "_set_aside", at_the_old_one)
    writer.commit_index()
    assert verify(writer.path, deep=True).sound
    assert FeatureStore.open(writer.path).counts()["absent"] > 0


@pytest.mark.parametrize("step", ["withdraw", "place", "publish"])
def test_who_slept_while_publishing_changes_nothing_of_its_successors(
    step, material, sealed, monkeypatch
):
    partition = failed(material)
    paths = [path_of(sealed.path, partition) for path_of in (receipt_path, shard_path)]
    done: list[bytes] = []

    def overtake() -> None:
        age(sealed.work / "claims" / str(partition), 100)
        other = StoreWriter.at(sealed.path)
        assert retry(material, other)
        other.commit_index()
        done.extend(path.read_bytes() for path in paths)

    monkeypatch.setattr(Receipts, step, once(overtake, getattr(Receipts, step)))
    assert retry(material, sealed) is False
    assert [path.read_bytes() for path in paths] == done
    assert verify(sealed.path, deep=True).sound
    assert list(sealed.work.glob("*.tmp")) == []


# --- in the middle of a change --------------------------------------------------------------------


def test_readers_and_verify_wait_for_a_partition_that_is_being_replaced(
    material, sealed, monkeypatch
):
    store = FeatureStore.open(sealed.path)
    here = [slot.id for slot in store.slots() if slot.partition == failed(material)]
    clips = [clip for clip in here if store.state(clip) == "ok"]
    found: list[Any] = []

    def read() -> None:
        try:
            found.append(store.read(clips))
            found.append(verify(sealed.path, deep=True).sound)
        except StoreError as error:
            found.append(error)

    reader = threading.Thread(target=read)

    def look() -> None:
        reader.start()
        time.sleep(0.3)

    monkeypatch.setattr(Receipts, "place", once(look, Receipts.place))
    retry(material, sealed)
    reader.join(60)
    for clip, rows in zip(clips, found[0], strict=True):
        np.testing.assert_array_equal(rows, material.features[clip])
    assert found[1] is True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_sound_store_is_sound_beside_writers(material, sealed):
    failures, partition = material.failures, failed(material)

    def write() -> None:
        for _ in range(8):
            retry(material, sealed)
            sealed.commit_index()
            sealed.forget([partition])
            material.failures = failures
            material.publish(sealed, partition)
            sealed.commit_index()

    writing = FORK.Process(target=write)
    writing.start()
    while writing.is_alive():
        report = verify(sealed.path, deep=True)
        assert report.sound, report
    assert writing.exitcode == 0


def test_clips_that_were_tried_again_and_are_not_in_the_index_yet_are_no_damage(material, sealed):
    retry(material, sealed)
    report = verify(sealed.path, deep=True)
    assert report.sound
    assert report.notes == ["1 partition is finished and not in the index yet"]


# --- disks that refuse ----------------------------------------------------------------------------


@pytest.mark.usefixtures("real_sync")
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.EBADF, errno.EIO])
def test_disks_that_do_not_sync_folders(code, material, tmp_path, monkeypatch, caplog):
    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(io, "_NOT_YET_WARNED", threading.Lock())
    monkeypatch.setattr(os, "fsync", refuse)
    if code == errno.EIO:
        with pytest.raises(StoreError, match="cannot write"):
            material.write(tmp_path)
        return
    assert verify(material.write(tmp_path).path, deep=True).sound
    said = [record for record in caplog.records if "power cut" in record.getMessage()]
    assert len(said) == 1


def test_disks_that_keep_no_permissions(material, tmp_path, monkeypatch):
    def refuse(path: Path, _: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    (tmp_path / "root").mkdir()
    (tmp_path / "root").chmod(0o2775)  # shared by a group
    monkeypatch.setattr(Path, "chmod", refuse)
    assert verify(material.write(tmp_path / "root").path, deep=True).sound


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota raised"),
        (errno.EROFS, "get write access"),
        (errno.EACCES, "ask its owner for access, or choose another place: --store"),
        (errno.EIO, "check the disk"),
        (errno.ENAMETOOLONG, "shorter path"),
    ],
)
def test_what_can_be_done_about_it_is_said(code, remedy, tmp_path):
    with pytest.raises(StoreError) as error, io.writing(tmp_path):
        raise OSError(code, os.strerror(code), "/nfs/lab/file")
    assert remedy in (error.value.remedy or "")
    assert error.value.where == "/nfs/lab/file"


# --- what the killed leave ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_rest_of_a_killed_removal_is_swept(make, tmp_path, monkeypatch):
    def killed(_: Path) -> None:
        os._exit(9)

    path = make().write(tmp_path / "root").path
    monkeypatch.setattr(inventory.io, "remove", killed)
    removing = FORK.Process(target=inventory.remove, args=(path,))
    removing.start()
    removing.join(60)
    monkeypatch.undo()
    left = list((tmp_path / "root").rglob("receipts"))
    assert removing.exitcode == 9
    assert not path.exists()
    assert left
    make(8, seed=1).write(tmp_path / "root")  # another store of the same corpus
    assert not left[0].exists()


def test_what_cannot_be_removed_is_told(sealed, monkeypatch):
    def refuse(path: object, **_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(StoreError, match="Input/output error"):
        inventory.remove(sealed.path)
