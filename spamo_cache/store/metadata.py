"""The ``zarr.json`` documents of a store, as the Zarr v3 specification words them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spamo_cache.store.layout import Geometry

_CHECKSUM = {"name": "crc32c"}


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """``zarr.json`` of a group; ours stand under one key, apart from anybody else's."""
    return {
        "attributes": {"spamo_cache": dict(attributes)} if attributes else {},
        "node_type": "group",
        "zarr_format": 3,
    }


def features_metadata(geometry: Geometry, partitions: int) -> dict[str, Any]:
    """``zarr.json`` of ``features``: shards of inner chunks, each with a checksum, uncompressed."""
    numbers: list[Mapping[str, Any]] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        _CHECKSUM,
    ]
    sharding = {
        "chunk_shape": [geometry.chunk_rows, geometry.width],
        "codecs": numbers,
        "index_codecs": numbers,
        "index_location": "end",
    }
    return _array_metadata(
        (partitions * geometry.shard_rows, geometry.width),
        geometry.dtype,
        chunk=(geometry.shard_rows, geometry.width),
        codecs=[{"name": "sharding_indexed", "configuration": sharding}],
        names=("row", "feature"),
    )


def column_metadata(shape: Sequence[int], dtype: str) -> dict[str, Any]:
    """``zarr.json`` of a column of the clip index: one chunk with a checksum."""
    endian = {} if dtype == "uint8" else {"configuration": {"endian": "little"}}
    names = ("clip", "element")[: len(shape)]
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
