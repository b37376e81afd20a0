"""What each stage of a reproduction took, kept so that a later call can still tell."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from spamo_cache.runs.stages import StageTiming


class StageTimings:
    """The stages of one reproduction, in a small JSON file."""

    def __init__(self, path: Path, watcher: Watcher = QUIET) -> None:
        from spamo_cache.runs.stages import read_stages

        self._path, self._watcher = path, watcher
        self.all = {stage.name: stage for stage in read_stages(path)}

    @contextmanager
    def stage(self, name: str) -> Iterator[StageTiming]:
        """Time a block, which says by ``reused`` and ``bytes`` what it did and left."""
        from spamo_cache.runs.stages import StageTiming

        stage = self.all.setdefault(name, StageTiming(name))
        stage.reused = False
        self._watcher.notice(f"{name} ...", {"event": "stage", "stage": name})
        started = time.monotonic()
        try:
            with self._watcher.task(name):
                yield stage
        finally:
            # Work that a kill ends is still work: the rest adds its time when it is done.
            if not (stage.reused and stage.seconds):
                stage.seconds += time.monotonic() - started
            self._write()

    def _write(self) -> None:
        from spamo_cache.runs.documents import write_document
        from spamo_cache.runs.stages import StagesDocument

        write_document(self._path, StagesDocument(list(self.all.values())))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
