"""Several processes on one store: leases, races, deaths."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spamo_cache.errors import StoreError
from spamo_cache.process import Process
from spamo_cache.store.inventory import remove
from spamo_cache.store.leases import Leases
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.receipts import shard_path
from spamo_cache.store.verify import verify

# Spawned children could not import the fixtures' module, which pytest loads by its path.
FORK = multiprocessing.get_context("fork")


def run(*targets: Callable[[], None]) -> None:
    children = [FORK.Process(target=target) for target in targets]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * len(children)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_share_the_work_and_nothing_is_done_twice(make, tmp_path):
    material = make(60)
    whole = material.write(tmp_path / "alone")
    notes = tmp_path / "notes"
    notes.mkdir()

    def extract() -> None:
        writer = material.open(tmp_path / "together")
        for partition in material.partitions:
            with writer.lease(partition) as mine:
                if mine and partition not in writer.finished():
                    assert material.publish(writer, partition)
                    (notes / f"{partition}-{os.getpid()}").touch()
        writer.commit_index()

    run(extract, extract, extract)
    done = sorted(int(note.name.partition("-")[0]) for note in notes.iterdir())
    assert done == material.partitions
    path = tmp_path / "together" / whole.path.relative_to(tmp_path / "alone")
    for partition in material.partitions:
        shards = [shard_path(store, partition).read_bytes() for store in (path, whole.path)]
        assert shards[0] == shards[1]
    assert verify(path, deep=True).sound
    pointer = Path("clips/zarr.json")
    assert (path / pointer).read_bytes() == (whole.path / pointer).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_without_claims_the_first_wins(material, tmp_path):
    def publish() -> None:
        writer = material.open(tmp_path)
        for partition in material.partitions:
            material.publish(writer, partition)
        writer.commit_index()

    run(publish, publish)
    path = material.open(tmp_path).path
    report = verify(path, deep=True)
    assert report.sound
    assert report.notes == []
    assert report.clips["ok"] == len(material.keys) - 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_readers_survive_fork_after_use(material, sealed):
    store = FeatureStore.open(sealed.path)
    ids = store.select(state="ok")
    store.read(ids)

    def read() -> None:
        for clip, rows in zip(ids, store.read(ids), strict=True):
            np.testing.assert_array_equal(rows, material.features[clip])

    run(read, read)


def test_a_reader_keeps_reading_while_the_index_moves_on(make, tmp_path):
    material = make(40)
    writer = material.open(tmp_path)
    seen = -1
    for partition in material.partitions:
        store = FeatureStore.open(writer.path)
        material.publish(writer, partition)
        writer.commit_index()
        for clip in store.select(state="ok"):
            np.testing.assert_array_equal(store.read([clip])[0], material.features[clip])
        assert store.counts()["ok"] > seen
        seen = store.counts()["ok"]


# --- leases -------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from spamo_cache.store.leases import Leases
with Leases(Path(sys.argv[1])).hold("0") as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    return child


@pytest.mark.slow
def test_a_claim_is_exclusive_and_a_killed_owners_is_taken_over_at_once(tmp_path):
    leases = Leases(tmp_path / "claims")
    with holder(tmp_path / "claims") as child:
        with leases.hold("0") as mine:
            assert not mine
        with leases.hold("1") as mine:
            assert mine
            assert list(leases.live()) == ["0", "1"]
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert leases.live() == {}
    with leases.hold("0") as mine:
        assert mine
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_silent_claim_of_another_host_becomes_stale(tmp_path, monkeypatch):
    leases = Leases(tmp_path / "claims", stale=5)
    monkeypatch.setattr(Process, "me", classmethod(lambda _: Process("0" * 12, 1, 1)))
    with leases.hold("0"):
        with Leases(tmp_path / "claims", stale=5).hold("0") as mine:
            assert not mine
        past = time.time() - 10
        os.utime(tmp_path / "claims" / "0", (past, past))
        with Leases(tmp_path / "claims", stale=5).hold("0") as mine:
            assert mine


def test_a_heartbeat_keeps_a_claim(tmp_path):
    leases = Leases(tmp_path / "claims", stale=0.6)
    with leases.hold("0") as mine:
        assert mine
        for _ in range(5):
            time.sleep(0.3)
            with leases.hold("0") as stolen:
                assert not stolen


def test_whoever_lost_a_claim_does_not_remove_its_successors(tmp_path):
    leases = Leases(tmp_path / "claims")
    with leases.hold("0"):
        (tmp_path / "claims" / "0").write_text('{"token":"another"}')
    assert (tmp_path / "claims" / "0").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"process":7}', '{"token":3,"process":"x.y.z"}'])
def test_a_broken_claim_still_counts_until_it_is_stale(tmp_path, text):
    leases = Leases(tmp_path / "claims")
    leases.folder.mkdir()
    (leases.folder / "0").write_text(text)
    with leases.hold("0") as mine:
        assert not mine
    os.utime(leases.folder / "0", (0, 0))
    with leases.hold("0") as mine:
        assert mine


def test_stores_at_work_are_not_removed(sealed):
    with sealed.lease(0):
        with pytest.raises(StoreError, match="being written by"):
            remove(sealed.path)
        with pytest.raises(StoreError, match="being worked on"):
            sealed.forget([0])
    remove(sealed.path)
    assert not sealed.path.exists()


def test_sweep_takes_only_what_the_dead_left(sealed):
    def left(owner: Any) -> Path:
        path = sealed.work / f"{owner}.abcdef.tmp"
        path.mkdir()
        return path

    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    me = Process.me()
    assert me is not None
    dead = left(Process(me.place, child.pid, me.start))
    alive, elsewhere, forgotten = left(me), left("0" * 12 + ".1.1"), left("unknown")
    os.utime(forgotten, (0, 0))
    sealed.sweep()
    assert [path.exists() for path in (dead, alive, elsewhere, forgotten)] == [0, 1, 1, 0]
