"""Whose weights a run holds: of its own training, and of the runs that it began with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import DamagedError, UsageError
from spamo_cache.runs.folder import RunFolder


@dataclass(frozen=True)
class Origin:
    """All that the weights of a run were made from, as far as it can still be read.

    Attributes:
        runs: the run, and behind it those that it began with, the nearest first.
        lost: where the run lay that the last of these began with, if it is no longer there.
    """

    runs: Sequence[RunFolder]
    lost: str | None

    @property
    def imported(self) -> str | None:
        """Name of the checkpoint that the weights came from, if they did."""
        return (self.runs[-1].read_about().imported or {}).get("name")

    @cached_property
    def trained(self) -> list[Pipeline]:
        """Those that were trained to translate, and kept their best weights."""
        found = (folder.pipeline() for folder in self.runs)
        return [pipeline for pipeline in found if pipeline.translate.steps]

    def clips(self, split: str) -> Iterator[Clip]:
        """Of a split as each of the runs knew it; some come more than once."""
        for manifest in self._manifests:
            if split in manifest.splits:
                yield from manifest.clips(split)

    @cached_property
    def _manifests(self) -> list[Manifest]:
        return [folder.sentences() for folder in self.runs]


def origin(folder: RunFolder) -> Origin:
    """Follow ``start`` back to the first run whose weights are in those of ``folder``."""
    runs = [folder]
    while (start := runs[-1].pipeline().init_from) is not None:
        before = _begun_with(runs[-1], Path(start))
        if before is None:
            return Origin(runs, start)
        runs.append(before)
    return Origin(runs, None)


def _begun_with(folder: RunFolder, start: Path) -> RunFolder | None:
    """The run whose weights another began with, if they are still those; moved together or not."""
    expected = folder.read_about().parts["init_from"]
    for before in map(RunFolder, (start, folder.path.parent / start.name)):
        try:
            before.weights()
        except (UsageError, DamagedError):
            continue  # no longer there, or no longer what they were
        if before.weights_sha256() == expected:
            return before
    return None
