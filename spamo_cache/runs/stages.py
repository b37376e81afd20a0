"""``stages.json``: what each stage of a reproduction took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from spamo_cache.runs.documents import read_document

STAGES = "stages.json"


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


@dataclass(frozen=True)
class StagesDocument:
    """All stages, in the order in which they began."""

    stages: Sequence[StageTiming]


_STAGES = TypeAdapter(StagesDocument)


def read_stages(path: Path) -> Sequence[StageTiming]:
    """The stages in a file; none where it is absent.

    Raises:
        SpamoError: it is something else.
        DamagedError: it is not what was written.
    """
    if not path.exists():
        return ()
    return read_document(path, _STAGES, "holds no stages", "remove it").stages
