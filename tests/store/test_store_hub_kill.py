"""Copies to and from the Hub that are killed, in processes of their own that nothing is patched in.

A copy dies as the server has seen its nth request, before it is answered.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from werkzeug.wrappers import Request, Response

from spamo_cache.store.copy import copy
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.remote import Location, location
from spamo_cache.store.roots import pinned
from tests.store.conftest import Material
from tests.store.test_store_hub import ROOT, files_of, put, stored
from tests.support.hub_server import TOKEN, HubServer

# Reads lines "store, root"; a forked child copies.
NURSERY = r"""
import os, sys
from spamo_cache import io
from spamo_cache.store import hub, upload
from spamo_cache.store.copy import copy
from spamo_cache.store.remote import location
from spamo_cache.store.roots import pinned

io.sync = lambda path: None
upload._COMMIT_PARTITIONS = 1

for line in sys.stdin:
    store, root = line.rstrip("\n").split("\t")
    child = os.fork()
    if child == 0:
        copy(pinned(location(store)), root)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""

Attempt = Callable[[str, str, int], bool]


@pytest.fixture
def attempt(hub: HubServer, _hub: tuple[HubServer, str], tmp_path: Path) -> Iterator[Attempt]:
    """Copy a store to a root, dying at a request; whether it was done before."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_ENDPOINT": _hub[1],
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        tell, told = nursery.stdin, nursery.stdout

        def run(store: str, root: str, when: int) -> bool:
            tell.write(f"{store}\t{root}\n")
            tell.flush()
            pid = int(told.readline())
            left = itertools.count(when, -1)

            def before(_: Request) -> Response | None:
                if next(left) == 1:
                    os.kill(pid, signal.SIGKILL)
                    raise ConnectionResetError
                return None

            hub.before = before
            status = int(told.readline())
            hub.before = lambda _: None
            assert status == 0 or os.WIFSIGNALED(status), status
            return status == 0

        yield run
        tell.close()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["push", "pull"])
def test_killed_at_any_request_a_copy_goes_on_and_ends_the_same(
    way: str, make: Callable[..., Material], hub: HubServer, attempt: Attempt, tmp_path: Path
) -> None:
    material = make(24)
    source = material.write(tmp_path / "root").path
    want, there = files_of(source), f"{ROOT}/weather/{source.name}"
    if way == "push":
        hub.create("lab/features")
        asked = str(source), ROOT
    else:
        put(hub, source)
        asked = there, str(tmp_path / "copy")
        there = str(tmp_path / "copy" / "weather" / source.name)
    counts = [0]
    for request in itertools.count(2):
        done = attempt(*asked, request)
        counts.append(_read_all(pinned(location(there)), material))
        if done:
            break
    # On a busy machine more requests are under way at each kill, and fewer kills reach the end.
    assert len(counts) > 10
    assert counts == sorted(counts), "what was finished was lost"
    assert counts[-1] == len(material.keys) - 2
    assert (stored(hub, source) if way == "push" else files_of(Path(there))) == want
    # The server may be told of a file again that a dead process's last request is yet to bring.
    assert len(hub.received) <= len(set(hub.received)) + 3, "much was sent twice"


def _read_all(path: Location, material: Material) -> int:
    """Read what a store says it has, and compare; how many clips."""
    if not (path / "zarr.json").exists():
        return 0
    store = FeatureStore.open(path)
    there = store.select(state="ok")
    for clip, rows in zip(there, store.read(there), strict=True):
        np.testing.assert_array_equal(rows, material.features[clip])
    return len(there)


@pytest.mark.slow
def test_a_server_that_hangs_up_now_and_then_is_outlived(
    make: Callable[..., Material], hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(14).write(tmp_path / "root").path
    hub.create("lab/features")
    seen: set[str] = set()

    def once(request: Request) -> Response | None:
        place = f"{request.method} {request.path}"
        if place not in seen and request.method in {"GET", "POST"}:
            seen.add(place)
            raise ConnectionResetError
        return None

    hub.before = once
    monkeypatch.setattr("time.sleep", lambda _: None)
    copy(source, ROOT)
    assert stored(hub, source) == files_of(source)
