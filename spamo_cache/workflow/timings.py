"""What each stage of a reproduction took, kept so that a later call can still tell."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from spamo_cache.errors import SpamoError
from spamo_cache.workflow.watcher import QUIET, Watcher


@dataclass
class StageTiming:
    """One stage over all calls."""

    name: str
    seconds: float = 0.0
    """Wall time of the work; calls that only found it done add nothing."""
    bytes: int = 0
    """What the stage left on disk."""
    reused: bool = False
    """This call found it done."""


class StageTimings:
    """The stages of one reproduction, in a small JSON file."""

    def __init__(self, path: Path, watcher: Watcher = QUIET) -> None:
        self._path, self._watcher = path, watcher
        self.all = {stage.name: stage for stage in _read(path)}

    @contextmanager
    def stage(self, name: str) -> Iterator[StageTiming]:
        """Time a block, which says by ``reused`` and ``bytes`` what it did and left."""
        stage = self.all.setdefault(name, StageTiming(name))
        stage.reused = False
        self._watcher.notice(f"{name} ...")
        started = time.monotonic()
        try:
            yield stage
        finally:
            # Work that a kill ends is still work: the rest adds its time when it is done.
            if not (stage.reused and stage.seconds):
                stage.seconds += time.monotonic() - started
            self._write()

    def _write(self) -> None:
        from spamo_cache import io

        text = io.to_json({"stages": [asdict(stage) for stage in self.all.values()]}, indent=2)
        io.write_atomic(self._path, text.encode())


def _read(path: Path) -> list[StageTiming]:
    from spamo_cache import io

    if not path.exists():
        return []
    try:
        return [StageTiming(**stage) for stage in io.read_json(path, "remove it")["stages"]]
    except (KeyError, TypeError) as error:
        raise SpamoError(f"holds no stages: {error!r}", where=path, remedy="remove it") from None


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
