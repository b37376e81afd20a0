"""A writer killed before its steps, and in the middle of the files it writes.

Some steps of all are enough for every run of the suite; ``count(1)`` takes each of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from spamo_cache.store.layout import work_path
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.verify import verify

FORK = multiprocessing.get_context("fork")
STEPS = {"os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
WRITING = os.O_WRONLY | os.O_RDWR

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a store except those that tell who and when."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.parent.name != "receipts" and file.parent != path
    }


def die_at(step: int) -> None:
    """From now on, kill this process at its ``step``-th change of the disk."""
    lock, number = threading.Lock(), count(1)
    write_bytes = Path.write_bytes

    def change() -> None:
        with lock:
            if next(number) == step:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        flags = arguments[2] if event == "open" else 0
        if event in STEPS or (isinstance(flags, int) and flags & WRITING):
            change()

    def torn(path: Path, data: bytes) -> int:
        write_bytes(path, data[: len(data) // 2])
        change()
        return write_bytes(path, data)

    Path.write_bytes = torn  # type: ignore[method-assign]
    sys.addaudithook(watch)


def killed(work: Callable[[], object], step: int) -> bool:
    """Do the work in a child that dies at a step; False where it was done before."""

    def child() -> None:
        die_at(step)
        work()

    process = FORK.Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode in {0, -signal.SIGKILL}
    return process.exitcode != 0


def read_all(root: Path, features: dict[str, np.ndarray]) -> int:
    """What a reader sees now: nothing, or clips that are right. How many."""
    found = 0
    for path in root.glob("*/*.zarr"):
        store = FeatureStore.open(path)
        for clip in store.select(state="ok"):
            np.testing.assert_array_equal(store.read([clip])[0], features[clip])
            found += 1
    return found


@pytest.mark.slow
def test_a_writer_may_die_anywhere(make, tmp_path):
    material = make(5, failed=1)
    expected = contents(material.write(tmp_path / "whole").path)

    def write() -> None:
        writer = material.open(root)
        writer.sweep()
        for partition in material.partitions:
            with writer.lease(partition):
                material.publish(writer, partition)
        writer.commit_index()

    seen: set[int] = set()
    for step in count(1, 3):
        root = tmp_path / str(step)
        died = killed(write, step)
        seen.add(read_all(root, material.features))
        write()
        path = next(root.glob("*/*.zarr"))
        assert contents(path) == expected, step
        assert verify(path, deep=True).sound, step
        assert list(work_path(path).glob("*.tmp")) == [], step
        if not died:
            break
    assert step > 150
    assert seen == {0, 4}


@pytest.mark.slow
def test_a_writer_that_mends_may_die_anywhere(make, tmp_path):
    """Taking partitions back and writing them again: never half of it is read."""
    material = make(5, failed=0)
    expected = contents(material.write(tmp_path / "whole").path)
    for step in count(1, 8):
        root = tmp_path / str(step)
        writer = material.write(root)

        def mend(writer=writer) -> None:
            writer.forget([0])
            material.publish(writer, 0)
            writer.commit_index()

        died = killed(mend, step)
        # The index goes first: what is gone is not listed any more.
        read_all(root, material.features)
        mend()
        assert contents(writer.path) == expected, step
        assert verify(writer.path, deep=True).sound, step
        if not died:
            break
    assert step > 150
