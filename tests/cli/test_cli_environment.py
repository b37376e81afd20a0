"""Environments that are not as they should be: one error, or none, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NO_HOME = (
    "import os, pwd\n"
    "def unknown(*_): raise KeyError\n"
    "pwd.getpwuid = unknown\n"
    "for name in ('HOME', 'SPAMO_HOME', 'LOGNAME', 'USER'): os.environ.pop(name, None)\n"
)
MAIN = "import sys; from spamo_cache.cli.main import main; sys.argv[0] = 'spamo-cache'; main()"


def run(
    *words: str, before: str = "", out: Any = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, after some lines of Python."""
    return subprocess.run(
        [sys.executable, "-c", before + MAIN, *words],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def one_error(ran: subprocess.CompletedProcess[str], code: int, told: str) -> None:
    assert ran.returncode == code, ran.stderr
    assert ran.stderr.count("error: ") == 1, ran.stderr
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr


@pytest.mark.slow
def test_without_a_home_the_remedy_is_named() -> None:
    one_error(run("store", "ls", before=NO_HOME), 2, "set HOME")
    one_error(run("store", "ls", SPAMO_HOME="~nobody-by-this-name/x"), 2, "~nobody-by-this-name")
    one_error(run("store", "ls", SPAMO_CACHE="~nobody-by-this-name/x"), 2, "~nobody-by-this-name")


@pytest.mark.slow
def test_a_library_that_looks_for_a_home_does_without() -> None:
    before = NO_HOME + "import spamo_cache.metrics.rouge\nassert 'HOME' not in os.environ\n"
    assert run("--version", before=before).returncode == 0


@pytest.mark.slow
def test_a_home_that_is_a_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_bytes(b"")
    one_error(run("manifest", SPAMO_HOME=str(tmp_path / "home")), 1, str(tmp_path / "home"))


@pytest.mark.slow
def test_a_folder_that_is_gone_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    gone = str(tmp_path / "gone")
    before = f"import os; os.chdir({gone!r}); os.rmdir({gone!r})\n"
    one_error(run("doctor", before=before), 2, "this folder has been removed")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--help",), ("doctor", "--json")])
def test_a_full_disk_under_stdout_is_one_error(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        one_error(run(*words, out=full), 1, "No space left on device")


@pytest.mark.slow
def test_whoever_has_read_enough_is_told_nothing() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    ran = run("doctor", "--json", out=theirs)
    os.close(theirs)
    assert (ran.returncode, ran.stderr) == (1, "")


@pytest.mark.slow
def test_a_stdout_that_is_closed_is_done_without() -> None:
    assert run("--version", before="import sys; sys.stdout = None\n").stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_lacks_is_escaped(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "你.csv"
    path.write_bytes(b"")
    ran = run("manifest", "-d", "x", "--manifest", str(path), PYTHONIOENCODING=encoding)
    one_error(ran, 1, "\\u4f60.csv")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("OSError('no number')", "no number"),
        ("MemoryError()", "out of memory"),
        ("RecursionError('maximum')", "SPAMO_TRACEBACK=1"),
        ("OSError(24, 'Too many open files', 'x\\x1b.npy')", "x\\u001b.npy"),
    ],
)
def test_what_the_system_refuses_is_one_error(error: str, told: str) -> None:
    before = f"import spamo_cache.cli.main as m\ndef broken(*_): raise {error}\n"
    before += "from spamo_cache import config; config.roots = broken\n"
    one_error(run("store", "ls", before=before), 1, told)
    traced = run("store", "ls", before=before, SPAMO_TRACEBACK="1")
    assert "Traceback" in traced.stderr
    assert "\x1b" not in traced.stderr
