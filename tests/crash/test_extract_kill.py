"""Kill extraction with SIGKILL, run it again: the bytes of an uninterrupted run.

``SPAMO_KILLS=n`` kills n times at random moments, and n times at chosen operations.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spamo_cache.store.verify import verify
from tests.support import environment, program
from tests.support.launcher import Launch

KILLS = int(os.environ.get("SPAMO_KILLS", "25"))
SEED = int(os.environ.get("SPAMO_SEED", "0"))
KILLED = -9

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900 + 10 * KILLS)]

Contents = Callable[[Path], dict[str, str]]
Receipts = Callable[[Path], dict[str, tuple[bytes, int]]]
Order = Callable[..., dict[str, Any]]


def nursery(launch: Launch, site: Path, home: Path) -> Iterator[Order]:
    """Orders extractions of the corpus at ``site``, see extract_victim.py."""
    with launch.as_python():
        command = program("extract_victim", site)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(
        command, env=environment(SPAMO_HOME=str(home)), text=True, **pipes
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def order(store: Path, **options: Any) -> dict[str, Any]:
            process.stdin.write(json.dumps({"store": str(store), **options}) + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = {}
            while "status" not in answer:
                answer |= json.loads(process.stdout.readline())
            return answer

        yield order
        process.stdin.close()


@pytest.fixture(scope="module")
def five(
    launch: Launch, draw: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Order]:
    """A corpus of five partitions."""
    yield from nursery(launch, draw("five", 20), tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def two_partitions(draw: Callable[..., Path]) -> Path:
    return draw("two", 5)


@pytest.fixture(scope="module")
def two(
    launch: Launch, two_partitions: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Order]:
    """A corpus of two partitions, of which only the motion stream is computed."""
    for order in nursery(launch, two_partitions, tmp_path_factory.mktemp("home")):
        yield partial(order, streams=["motion"])


def test_killed_at_random_moments(
    five: Order, tmp_path: Path, contents: Contents, receipts: Receipts
) -> None:
    chance = random.Random(SEED)
    whole = five(tmp_path / "whole")
    assert (whole["status"], len(whole["computed"])) == (0, 10)
    expected = contents(tmp_path / "whole")
    store, kills, runs = tmp_path / "killed", 0, 0
    while kills < KILLS or store.exists():
        before = receipts(store)
        # Once there have been kills enough, what is begun is finished.
        fatal = {"after": chance.uniform(0, 0.6 * whole["seconds"])} if kills < KILLS else {}
        ended, runs = five(store, **fatal), runs + 1
        told = f"seed {SEED}, run {runs}, {fatal}: {ended}"
        after = receipts(store)
        assert before.items() <= after.items(), f"a finished partition was touched; {told}"
        assert ended["status"] in {0, KILLED}, told
        kills += ended["status"] == KILLED
        if ended["status"] == 0:
            assert len(ended["computed"]) == 10 - len(before), told
            assert contents(store) == expected, told
            assert not leftovers(store), told
            shutil.rmtree(store)
    assert kills >= KILLS


def test_killed_at_each_operation(
    two: Order, tmp_path: Path, contents: Contents, receipts: Receipts
) -> None:
    """Before or after any file is made, synced, linked, renamed or removed."""
    whole = two(tmp_path / "whole")
    assert whole["status"] == 0
    expected = contents(tmp_path / "whole")
    for number, before in moments(whole["created"], whole["operations"]):
        store = tmp_path / "killed"
        told = f"seed {SEED}, {'before' if before else 'after'} operation {number}"
        ended = two(store, operation=number, before=before)
        assert ended["status"] == KILLED, told
        finished = receipts(store)
        again = two(store)
        assert again["status"] == 0, f"{told}: {again}"
        assert finished.items() <= receipts(store).items(), told
        assert len(again["computed"]) == 2 - len(finished), told
        assert contents(store) == expected, told
        assert not leftovers(store), told
        shutil.rmtree(store)


@pytest.mark.parametrize("counted", ["as before", "otherwise"])
def test_killed_while_failed_clips_are_tried_again(
    two: Order, two_partitions: Path, tmp_path: Path, *, receipts: Receipts, counted: str
) -> None:
    """Costs the partition that was at work, at most; the other one is not touched.

    A clip that has another number of frames by then is given a partition of its own.
    """
    picture, other = (two_partitions / "frames" / "001" / name for name in ("3.png", "4.png"))
    whole, next_one = picture.read_bytes(), other.read_bytes()
    picture.write_bytes(whole[:-30] + bytes(30))
    assert two(tmp_path / "failed")["status"] == 0
    picture.write_bytes(whole)
    at_work = 0
    if counted == "otherwise":
        picture.unlink()
        other.write_bytes(next_one + whole)  # as many bytes, one picture less
        at_work = 2
    (failed,) = (tmp_path / "failed").rglob("receipts/0.json")
    assert b"clip001" in failed.read_bytes()
    shutil.copytree(tmp_path / "failed", tmp_path / "whole")
    mended = two(tmp_path / "whole", retry=True)
    assert [partition for _, partition in mended["computed"]] == [at_work]
    for number in range(0, mended["operations"], max(1, 400 // KILLS)):
        store = tmp_path / "killed"
        shutil.copytree(tmp_path / "failed", store)
        untouched = {k: v for k, v in receipts(store).items() if not k.endswith(f"/{at_work}.json")}
        ended = two(store, retry=True, operation=number, before=bool(number % 2))
        assert ended["status"] == KILLED, number
        (path,) = store.rglob("motion-*.zarr")
        assert counted == "as before" or verify(path, deep=True).sound, f"operation {number}"
        again = two(store, retry=True)
        assert again["status"] == 0, f"operation {number}: {again}"
        assert untouched.items() <= receipts(store).items(), number
        found = verify(path, deep=True)
        assert found.sound, f"operation {number}: {found}"
        assert found.clips["ok"] == 5, f"operation {number}: {found}"
        assert not found.notes, f"operation {number}: {found}"
        shutil.rmtree(store)
    picture.write_bytes(whole)
    other.write_bytes(next_one)


def test_a_disk_that_refuses_is_one_clear_error(
    two: Order, tmp_path: Path, contents: Contents
) -> None:
    """Files may not grow beyond a bound: the kernel refuses, as a full disk would, anywhere."""
    assert two(tmp_path / "whole")["status"] == 0
    sizes = {path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    told = set()
    for size in sorted(sizes):
        store = tmp_path / f"{size}"
        refused = two(store, file_bytes=size - 1)
        assert refused["status"] == 0, f"{size}: {refused}"
        assert "Traceback" not in refused["error"]
        told.add(refused["error"].splitlines()[0])
        assert two(store)["status"] == 0
        assert contents(store) == contents(tmp_path / "whole"), size
    assert told == {"cannot write: File too large"}


def moments(created: int, operations: int) -> list[tuple[int, bool]]:
    """Numbers of operations, and whether to die before: half of them while publishing."""
    chance = random.Random(SEED)
    publishing = [(n, side) for n in range(created, operations) for side in (True, False)]
    creating = [(n, side) for n in range(created) for side in (True, False)]
    return [
        moment
        for among in (publishing, creating)
        for moment in chance.sample(among, min(len(among), -(-KILLS // 2)))
    ]


def leftovers(store: Path) -> list[Path]:
    """What dead runs left beside the stores and nobody swept."""
    return [path for path in store.rglob("*") if ".work" in path.parts and path.is_file()]
