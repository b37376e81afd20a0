"""A lab is several people: what they write to together, and what one of them may not touch."""

from __future__ import annotations

import errno
import os
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from spamo_cache import errors, io
from spamo_cache.analysis import alignment, analyze, attribution_docs
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.encoders import weights
from spamo_cache.encoders.encoder import code_folder
from spamo_cache.errors import UsageError
from spamo_cache.runs.folder import MetricsLine, RunFolder
from spamo_cache.runs.records import Unfinished
from spamo_cache.video import timeline_cache
from spamo_cache.video.timeline import Timeline
from spamo_cache.workflow import stores


def test_what_is_written_below_a_folder_of_a_group_is_the_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    lab.chmod(0o2775)
    monkeypatch.setenv("SPAMO_HOME", str(lab / "home"))
    clip = Clip(id="a", split="test", source="a.mp4", text="b", language="German", extra={})
    manifest = Manifest.from_clips("weather", [clip])
    times = Timeline(np.arange(2), Fraction(1, 25), 0, 1, np.empty((0, 2), np.int64), 1, True, True)
    monkeypatch.setattr(timeline_cache, "scan", lambda _: times)
    before = os.umask(0o022)
    try:
        stores.check_room(manifest)
        stores.remember(manifest, [])
        weights.pin("org/name", "0" * 64)
        code = code_folder()
        timeline_cache.timeline(lab / "a.mp4", lab.stat())
        run = RunFolder(lab / "runs" / "run")
        with run.alone():
            run.log(MetricsLine("align", 1, {"loss": 1.0}))
        Unfinished(run.path, "test", "identity").add({"a": "b"})
    finally:
        os.umask(before)
    # What others may write there is never run.
    assert code.stat().st_mode & 0o777 == 0o700
    written = [path for path in lab.rglob("*") if path != code]
    assert {"stores.json", "weights.json", "lock", "metrics.jsonl", "test.unfinished.jsonl"} <= {
        path.name for path in written
    }
    own = [path for path in written if not path.stat().st_mode & 0o020]
    # Entries of timelines are replaced, never changed: their folders are enough.
    assert [path for path in own if path.is_dir() or "timelines" not in path.parts] == []


def test_a_lock_of_somebody_who_shares_the_folder_and_not_its_files_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with RunFolder(tmp_path / "run").alone():
        monkeypatch.setattr(io, "appending", refuse)
        with (
            pytest.raises(UsageError, match="another process"),
            RunFolder(tmp_path / "run").alone(),
        ):
            pass


def test_a_run_that_may_only_be_read_is_not_analysed_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    for module in (alignment, attribution_docs):
        monkeypatch.setattr(module, "load_run", None)
    with pytest.raises(UsageError, match="no permission to write"):
        analyze(tmp_path)
    with pytest.raises(UsageError, match="no permission to write"):
        attribution_docs.attribute(tmp_path, ["a"])


def test_who_has_no_permission_is_told_whom_to_ask() -> None:
    denied = errors.actionable(PermissionError(errno.EACCES, "Permission denied", "/lab/run.json"))
    assert denied is not None
    assert (denied.where, denied.remedy) == (
        "/lab/run.json",
        "ask its owner for access, or choose another place",
    )


@pytest.mark.skipif(os.getuid() != 0, reason="gives a folder to somebody else")
def test_compiled_code_of_somebody_else_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path))
    os.chown(code_folder(), 12345, 12345)
    with pytest.raises(PermissionError):
        code_folder()
