"""A run folder belongs to one process at a time, for as long as that lives."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from spamo_cache import io
from spamo_cache.errors import UsageError
from spamo_cache.process import Process
from spamo_cache.runs import folder
from spamo_cache.runs.folder import RunFolder

HOLD = """\
import sys
from pathlib import Path
from spamo_cache.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).alone():
    print("held", flush=True)
    sys.stdin.read()
"""
SMALL = {
    "align": {"steps": 1, "batch": 2, "lr": 1e-3},
    "translate": {"steps": 1, "batch": 2, "lr": 1e-3, "eval_every": 1},
}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_python")
def test_a_folder_that_is_being_trained_into_is_refused_until_its_process_is_dead(toy, tmp_path):
    out = tmp_path / "run"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="another process"):
            toy.run(out, toy.pipeline(**SMALL))
        other.kill()
        other.wait()
    assert not toy.run(out, toy.pipeline(**SMALL)).reused
    assert toy.run(out, toy.pipeline(**SMALL)).reused


@pytest.mark.slow
def test_a_claim_that_a_kill_cut_short_is_no_hindrance(toy, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "lock").touch()
    (out / f"0123456789ab.1.1.{'0' * 16}.tmp").mkdir()
    (out / "config.yaml").write_text("name: to")
    assert not toy.run(out, toy.pipeline(**SMALL)).reused


@pytest.mark.parametrize("names", [["config.yaml"], ["lock", "notes.txt"], ["notes.txt"]])
def test_what_is_none_of_ours_is_left_alone(toy, tmp_path, names):
    out = tmp_path / "run"
    out.mkdir()
    for name in names:
        (out / name).write_text("mine")
    with pytest.raises(UsageError, match="holds no run"):
        toy.run(out, toy.pipeline(**SMALL))
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(names, "mine")


def test_the_lock_goes_with_the_block(tmp_path):
    for _ in range(2):
        with RunFolder(tmp_path / "run").alone():
            pass


@pytest.fixture
def no_locks(monkeypatch):
    """A disk that has no locks, as some of clusters."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder.fcntl, "flock", refuse)


@pytest.mark.slow
def test_a_folder_belongs_to_one_process_where_the_disk_has_no_locks(no_locks, toy, tmp_path):
    out = tmp_path / "run"
    with (
        RunFolder(out).alone(),
        pytest.raises(UsageError, match="another process"),
        RunFolder(out).alone(),
    ):
        pass
    assert not toy.run(out, toy.pipeline(**SMALL)).reused
    # What a process that was killed held is free again.
    claim = out / "claims" / "lock"
    dead = replace(Process.me(), start=1)
    claim.write_text(json.dumps({"token": "1", "process": str(dead)}))
    assert toy.run(out, toy.pipeline(**SMALL)).reused
    assert not claim.exists()


@pytest.mark.slow
def test_what_a_killed_writer_left_is_swept_and_a_living_one_s_is_not(toy, tmp_path):
    out = tmp_path / "run"
    toy.run(out, toy.pipeline(**SMALL))
    dead = subprocess.run(
        [sys.executable, "-c", LEAVE, str(out)], check=True, capture_output=True, text=True
    ).stdout.split()
    alive, own = io.temporary(out), out / "notes.tmp"
    alive.write_bytes(b"mine")
    own.write_bytes(b"a user's")
    os.utime(own, (0, 0))
    assert len(dead) == 2
    assert all((out / name).exists() for name in dead)
    assert toy.run(out, toy.pipeline(**SMALL)).reused
    assert {path.name for path in out.glob("*.tmp")} == {alive.name, own.name}


LEAVE = """\
import sys
from pathlib import Path
from spamo_cache import io
for _ in range(2):
    left = io.temporary(Path(sys.argv[1]))
    left.write_bytes(bytes(1000))
    print(left.name)
"""
