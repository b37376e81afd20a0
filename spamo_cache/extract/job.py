"""What travels between the run and its workers: small, frozen, and the same for all executors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spamo_cache.config import StreamSpec
from spamo_cache.config.spec import Reader
from spamo_cache.encoders.preprocess import Resize
from spamo_cache.encoders.registry import Compute
from spamo_cache.store.remote import Location
from spamo_cache.video import Probe


@dataclass(frozen=True, slots=True)
class Item:
    """One clip as a worker needs it."""

    id: str
    source: str
    start: float | None
    end: float | None
    crop: tuple[float, float, float, float] | None
    probe: Probe


@dataclass(frozen=True, slots=True)
class StreamJob:
    """One stream and the store it goes to."""

    stream: StreamSpec
    store: Path
    weights_sha256: str
    """What the weights must be on every worker."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything the partitions of one run have in common."""

    root: Path
    """Corpus root."""
    base: Path
    """Folder of the spec's file."""
    streams: Mapping[str, StreamJob]
    resize: Resize
    compute: Compute
    device: str
    dtype: str
    """Of the store."""
    threads: int
    """Threads that encode; 0 is one per core of the worker's machine."""
    decoders: int
    """Threads that decode ahead."""
    ahead_bytes: int = 1 << 29
    """Bound on decoded frames waiting to be encoded."""
    reader: Reader = "auto"


@dataclass(frozen=True, slots=True)
class Copy:
    """Clips of one partition of a store that hold what would be computed again."""

    store: Location
    partition: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """One partition to compute."""

    name: str
    """One of its own within a run."""
    partition: int
    items: tuple[Item, ...]
    copies: Mapping[str, tuple[Copy, ...]]
    """Streams to be worked on -> what of the partition can be copied; often nothing."""
    retry: bool = False
    """Whether a finished partition with failures is to be replaced."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a task."""

    task: str
    """Its name."""
    busy: tuple[str, ...] = ()
    """Streams that another process is computing; the others are finished now."""
    frames: int = 0
    """Decoded."""
    copied: frozenset[str] = frozenset()
    """Clips with features that took no computing."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall shares: decode, prepare, encode, publish."""


@dataclass(frozen=True, slots=True)
class Advance:
    """How far a task is; a later one replaces it, also after a worker has died."""

    task: str
    """Its name."""
    clips: int
    frames: int
    failed: Mapping[str, str]
    """Clip -> why it has no features, of all clips failed in the partition so far."""


Report = Callable[[Advance], None]
