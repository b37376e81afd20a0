"""What a store is called, where a clip's rows lie, what identifies both, and the Zarr metadata.

Pure functions: nothing here touches a disk.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from spamo_cache.config import NAME_PATTERN
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.store.remote import Location, RemotePath

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from spamo_cache.config import CacheSpec

FORMAT = 2
"""Version of everything a reader has to understand; higher ones are refused."""
VALIDITY_FORMAT = 3
"""Of stores that say which rows are valid: a version that knows no validity must not read them."""
FINGERPRINT_CHARACTERS = 12
CHECKSUM_BYTES = 4
ABSENT_CHUNK = 2**64 - 1
"""Offset and length of a chunk that its shard does not hold (Zarr v3, sharding codec)."""


# --- identity -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClipKey:
    """What identifies a clip's pixels without reading them: the corpus part of a fingerprint."""

    id: str
    source: str
    """Posix path relative to the corpus root."""
    size: int
    """Bytes of the source file; of a folder, the sum over its files."""
    start: float | None = None
    """Seconds."""
    end: float | None = None
    crop: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1 in 0..1."""
    pose: str = ""
    """SHA-256 of the clip's pose file, behind ``source:`` where it begins with the source; empty
    where the clip has none, or the stream uses no poses."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place planned for one clip: ``rows`` rows from ``row`` on, inside one partition."""

    id: str
    split: str
    partition: int
    row: int
    """First row in ``features``, a multiple of the chunk's rows."""
    rows: int
    """Exact number of rows expected; 0 where the clip is known to be unreadable."""
    first: int = 0
    """Number of the clip's first frame within its source."""
    frames: int = 0
    """Of the clip; 0 where nobody has counted them."""


@dataclass(frozen=True, slots=True)
class StreamIdentity:
    """What identifies the computation of a stream: the stream part of a fingerprint."""

    spec: Mapping[str, Any]
    """See :func:`stream_spec`."""
    weights_sha256: str
    semantics: int
    """Version of the meaning of the spec's words; raised when the same spec gives other values."""


def canonical(document: object) -> bytes:
    """JSON of one form only: sorted keys, no spaces, ASCII.

    Raises:
        ValueError: NaN, infinity or anything else that JSON cannot hold.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def crc32c(data: Buffer, before: int = 0) -> int:
    """The CRC-32C of ``data``, going on from that of what stood before it."""
    return crc32c_function()(data, before)


@cache
def crc32c_function() -> Callable[..., int]:
    """The fastest there is, for many calls in a row."""
    # Takes as long to import as numpy, and listing stores needs none; an import statement that is
    # passed again takes as long as the checksum of a short clip.
    from awscrt.checksums import crc32c  # noqa: PLC0415

    found: Callable[..., int] = crc32c
    return found


def corpus_hash(keys: Iterable[ClipKey]) -> str:
    """The corpus part of a fingerprint; independent of the clips' order.

    Raises:
        StoreError: two clips with one id, or a number that is not finite.
    """
    digest = hashlib.sha256()
    previous: str | None = None
    for key in sorted(keys, key=lambda key: key.id):
        if key.id == previous:
            raise StoreError("two clips have the same id", where=key.id)
        previous = key.id
        digest.update(_key_line(key))
    return digest.hexdigest()


def _key_line(key: ClipKey) -> bytes:
    # 1 and 1.0 are one time but two JSON texts.
    times = [None if time is None else float(time) for time in (key.start, key.end)]
    crop = None if key.crop is None else [float(edge) for edge in key.crop]
    try:
        return canonical([key.id, key.source, int(key.size), *times, crop]) + b"\n"
    except ValueError:
        raise StoreError("a clip's range or crop is not a finite number", where=key.id) from None


def poses_hash(keys: Iterable[ClipKey]) -> str:
    """What a stream that uses poses adds to the corpus part; empty where no clip has a pose."""
    poses = sorted((key.id, key.pose) for key in keys)
    return sha256(canonical(poses)) if any(pose for _, pose in poses) else ""


def fingerprint(identity: StreamIdentity, corpus_sha256: str, poses_sha256: str = "") -> str:
    """The identity of a store: SHA-256 of its stream part and its corpus part.

    Args:
        corpus_sha256: see :func:`corpus_hash`.
        poses_sha256: see :func:`poses_hash`.
    """
    poses = {"poses": poses_sha256} if poses_sha256 else {}
    return sha256(canonical({"stream": asdict(identity), "corpus": corpus_sha256, **poses}))


def stream_spec(spec: CacheSpec, stream: str) -> dict[str, Any]:
    """The canonical description of one stream: all that changes its bytes, except the weights.

    Raises:
        UsageError: the spec has no such stream.
    """
    if stream not in spec.streams:
        known = ", ".join(spec.streams)
        raise UsageError(f"no stream {stream!r} in spec {spec.name!r}", remedy=f"one of: {known}")
    config = spec.streams[stream]
    entries = config.model_dump(mode="json", exclude={"weights", "key_map"})
    # Fingerprints of before there were such keys stay what they were.
    if not entries.get("phase", True):
        del entries["phase"]
    if entries.get("region", "") is None:
        del entries["region"], entries["box"]
    made = {"resize": spec.frames.resize, "compute": spec.compute}
    per_frame = config.per == "frame"
    chunk, shard = spec.store.chunk_rows, spec.store.shard_rows
    return {
        **entries,
        **({} if config.encoder == "pose" else made),
        "dtype": spec.store.dtype,
        "chunk_rows": chunk.frame if per_frame else chunk.window,
        "shard_rows": shard.frame if per_frame else shard.window,
        # Partitions are cut by frames for every stream, so these sizes place its rows too.
        "partition_frames": [chunk.frame, shard.frame],
    }


# --- names --------------------------------------------------------------------------------------


def checked_name(name: str, kind: str) -> str:
    """A corpus or stream name that is safe as a folder's name.

    Raises:
        StoreError: empty, longer than 64 characters, a path, or other than letters, digits, ._-
    """
    if not re.fullmatch(NAME_PATTERN, name) or ".." in name:
        remedy = "letters, digits, '.', '_' and '-', starting with a letter or digit"
        raise StoreError(f"{name!r} cannot name a {kind}", remedy=remedy)
    return name


@overload
def store_path(root: Path, corpus: str, stream: str, fingerprint: str) -> Path: ...
@overload
def store_path(root: RemotePath, corpus: str, stream: str, fingerprint: str) -> RemotePath: ...
def store_path(root: Location, corpus: str, stream: str, fingerprint: str) -> Location:
    """``<root>/<corpus>/<stream>-<fingerprint12>.zarr``.

    Raises:
        StoreError: a name that would leave the root, or no fingerprint.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
        raise StoreError(f"{fingerprint!r} is no fingerprint")
    checked_name(corpus, "corpus")
    checked_name(stream, "stream")
    return root / corpus / f"{stream}-{fingerprint[:FINGERPRINT_CHARACTERS]}.zarr"


def work_path(path: Path) -> Path:
    """Where leases and unfinished files of the store at ``path`` live: beside it, same disk.

    The store itself holds nothing but finished data, so it can be copied by any tool.
    """
    return path.parent / ".work" / path.stem


# --- layout -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """How (rows, width) features are cut into inner chunks and shards."""

    width: int
    dtype: str
    chunk_rows: int
    shard_rows: int

    @property
    def row_bytes(self) -> int:
        return self.width * np.dtype(self.dtype).itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of an inner chunk without its checksum."""
        return self.chunk_rows * self.row_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of an inner chunk as it lies in its shard."""
        return self.chunk_bytes + CHECKSUM_BYTES

    @property
    def chunks(self) -> int:
        """Inner chunks of a full shard."""
        return self.shard_rows // self.chunk_rows

    @property
    def index_bytes(self) -> int:
        """Bytes of a shard's own index: offset and length of each chunk, and a checksum."""
        return 16 * self.chunks + CHECKSUM_BYTES

    def shard_bytes(self, chunks: int) -> int:
        """Size of a shard that holds its first ``chunks`` inner chunks."""
        return chunks * self.stored_bytes + self.index_bytes

    def chunks_of(self, row: int, rows: int) -> tuple[int, int]:
        """First inner chunk (within the shard) and number of chunks of a clip."""
        return row % self.shard_rows // self.chunk_rows, -(-rows // self.chunk_rows)


def first_start(frames: int, span: int, phase: int) -> int:
    """First frame of a clip's first row: the phase, or earlier if no whole span were left."""
    return min(phase, max(frames - span, 0))


def aligned(rows: int, chunk_rows: int) -> int:
    """Rows a clip takes up: the next multiple of ``chunk_rows``."""
    return -(-rows // chunk_rows) * chunk_rows


def pack(
    rows: Sequence[Sequence[int]],
    splits: Sequence[str],
    *,
    chunk_rows: Sequence[int],
    shard_rows: Sequence[int],
    max_clips: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Place clips, in the order given, so that a partition is one shard of every stream.

    Args:
        rows: per clip its rows in each stream.
        splits: per clip its split; a partition never holds two, so equal splits stand together.
        chunk_rows: rows of an inner chunk, per stream.
        shard_rows: rows of a shard, per stream.
        max_clips: bound on the clips of a partition, the work that is lost at a crash.

    Returns:
        partition (clips,) and first row in ``features`` (clips, streams).

    Raises:
        StoreError: a clip that is longer than a shard.
    """
    partitions = np.zeros(len(rows), np.int64)
    first = np.zeros((len(rows), len(chunk_rows)), np.int64)
    partition, count, fill = 0, 0, [0] * len(chunk_rows)
    for clip, lengths in enumerate(rows):
        needed = [aligned(n, chunk) for n, chunk in zip(lengths, chunk_rows, strict=True)]
        if any(n > shard for n, shard in zip(needed, shard_rows, strict=True)):
            raise StoreError(
                f"a clip of {max(lengths)} rows is longer than a shard",
                where=f"clip number {clip}",
                remedy="raise store.shard_rows in the cache spec, or cut the clip",
            )
        full = any(at + n > shard for at, n, shard in zip(fill, needed, shard_rows, strict=True))
        if count and (full or count == max_clips or splits[clip] != splits[clip - 1]):
            partition, count, fill = partition + 1, 0, [0] * len(chunk_rows)
        partitions[clip] = partition
        first[clip] = [partition * s + at for s, at in zip(shard_rows, fill, strict=True)]
        fill = [at + n for at, n in zip(fill, needed, strict=True)]
        count += 1
    return partitions, first


def fit(features: NDArray[Any], rows: int, layout: ChunkLayout) -> NDArray[Any]:
    """One clip's features as the store keeps them: (rows, width), contiguous, the store's dtype.

    Raises:
        StoreError: another shape, or a value that is not finite (after the cast, too).
    """
    if features.shape != (rows, layout.width):
        raise StoreError(f"features are {features.shape}, not {(rows, layout.width)}")
    with np.errstate(over="ignore"):
        kept = np.ascontiguousarray(features, dtype=layout.dtype)
    if not np.isfinite(kept).all():
        bad = int(np.count_nonzero(~np.isfinite(kept).all(axis=1)))
        raise StoreError(f"{bad} of {rows} rows are not finite in {layout.dtype}")
    return kept


# --- zarr.json ------------------------------------------------------------------------------------

_CHECKSUM = {"name": "crc32c"}


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """``zarr.json`` of a group; ours stand under one key, apart from anybody else's."""
    return {
        "attributes": {"spamo_cache": dict(attributes)} if attributes else {},
        "node_type": "group",
        "zarr_format": 3,
    }


def features_metadata(layout: ChunkLayout, partitions: int) -> dict[str, Any]:
    """``zarr.json`` of ``features``: shards of inner chunks, each with a checksum, uncompressed."""
    numbers: list[Mapping[str, Any]] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        _CHECKSUM,
    ]
    sharding = {
        "chunk_shape": [layout.chunk_rows, layout.width],
        "codecs": numbers,
        "index_codecs": numbers,
        "index_location": "end",
    }
    return _array_metadata(
        (partitions * layout.shard_rows, layout.width),
        layout.dtype,
        chunk=(layout.shard_rows, layout.width),
        codecs=[{"name": "sharding_indexed", "configuration": sharding}],
        names=("row", "feature"),
    )


def column_metadata(shape: Sequence[int], dtype: str, per: str = "clip") -> dict[str, Any]:
    """``zarr.json`` of a column of the clip index: one chunk with a checksum."""
    endian = {} if dtype == "uint8" else {"configuration": {"endian": "little"}}
    names = (per, "element")[: len(shape)]
    chunk = tuple(max(1, size) for size in shape)
    codecs: list[Mapping[str, Any]] = [{"name": "bytes", **endian}, _CHECKSUM]
    return _array_metadata(shape, dtype, chunk=chunk, codecs=codecs, names=names)


def _array_metadata(
    shape: Sequence[int],
    dtype: str,
    *,
    chunk: Sequence[int],
    codecs: Sequence[Mapping[str, Any]],
    names: Sequence[str],
) -> dict[str, Any]:
    return {
        "attributes": {},
        "chunk_grid": {"configuration": {"chunk_shape": list(chunk)}, "name": "regular"},
        "chunk_key_encoding": {"configuration": {"separator": "."}, "name": "default"},
        "codecs": list(codecs),
        "data_type": dtype,
        "dimension_names": list(names),
        "fill_value": 0.0 if dtype.startswith("float") else 0,
        "node_type": "array",
        "shape": list(shape),
        "storage_transformers": [],
        "zarr_format": 3,
    }
