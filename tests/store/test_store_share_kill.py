"""Copies that are killed: nothing half-written is ever read, and a rerun makes the same store."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from spamo_cache.store.copy import copy
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.remote import location
from spamo_cache.store.verify import verify

# Reads lines "store, root, operation or seconds"; a forked child copies and dies there.
NURSERY = r"""
import os, signal, sys
from spamo_cache import io
from spamo_cache.store.remote import RemotePath, location
from spamo_cache.store.copy import copy

CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}
io.sync = lambda path: None

def die_at(operation, remote):
    left = operation
    def step():
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    def hook(event, arguments):
        if event in CHANGES or (event == "open" and set(str(arguments[1])) & set("wxa")):
            step()
    ask = RemotePath._ask
    def counted(path, question):
        step()
        return ask(path, question)
    if remote:
        RemotePath._ask = counted
    else:
        sys.addaudithook(hook)

for line in sys.stdin:
    store, root, when = line.rstrip("\n").split("\t")
    child = os.fork()
    if child == 0:
        if "." in when:
            signal.setitimer(signal.ITIMER_REAL, float(when))
        else:
            die_at(int(when), "://" in root)
        copy(location(store), root, accept_terms=True)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""

Attempt = Callable[[object, object, object], bool]


@pytest.fixture(scope="module")
def attempt() -> Iterator[Attempt]:
    """Copy a store to a root, dying there and then; whether it was done before."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", NURSERY]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as nursery:

        def run(store: object, root: object, when: object) -> bool:
            nursery.stdin.write(f"{store}\t{root}\t{when}\n")
            nursery.stdin.flush()
            status = int(nursery.stdout.readline())
            assert status == 0 or os.WIFSIGNALED(status), status
            return status == 0

        yield run
        nursery.stdin.close()


def files_of(path) -> dict[str, bytes]:
    if isinstance(path, Path):
        found = [file for file in path.rglob("*") if file.is_file()]
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in found}
    return {name: (path / name).read(size) for name, size in path.files().items()}


def read_all(path, features) -> int:
    """Read what a store says it has, and compare; how many clips."""
    if not (path / "zarr.json").exists():
        return 0
    store = FeatureStore.open(path)
    there = store.select(state="ok")
    for clip, rows in zip(there, store.read(there), strict=True):
        np.testing.assert_array_equal(rows, features[clip])
    return len(there)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["push", "pull"])
def test_killed_at_every_operation_a_copy_goes_on_and_ends_the_same(
    way, make, s3, attempt, tmp_path
):
    material = make(14)
    source = material.write(tmp_path / "root").path
    root, want = location(s3.root), files_of(source)
    if way == "pull":
        source, root = copy(source, s3.root).path, tmp_path / "copy"
    target = root / "weather" / source.name
    counts = [0]
    for operation in itertools.count(1, 1 if way == "push" else 3):
        done = attempt(source, root, operation)
        counts.append(read_all(target, material.features))
        if done:
            break
    assert operation > 15
    assert counts == sorted(counts), "what was finished was lost"
    assert counts[-1] == len(material.keys) - 2
    assert files_of(target) == want


@pytest.mark.slow
@pytest.mark.parametrize("way", ["push", "pull"])
def test_killed_at_any_moment_a_copy_leaves_nothing_half_written(way, make, s3, attempt, tmp_path):
    material = make(14)
    source = material.write(tmp_path / "root").path
    roots = [location(f"{s3.root}/{number}") for number in range(5)]
    want = files_of(source)
    if way == "pull":
        source = copy(source, s3.root).path
        roots = [tmp_path / str(number) for number in range(5)]
    chance = random.Random(way)
    for root in roots:
        target = root / "weather" / source.name
        attempt(source, root, f"{chance.uniform(0.02, 0.3):.3f}")
        read_all(target, material.features)
        copy(source, root)
        assert files_of(target) == want
        assert read_all(target, material.features) == len(material.keys) - 2
        if isinstance(target, Path):
            assert verify(target, deep=True).sound
