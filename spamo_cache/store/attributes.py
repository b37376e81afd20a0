"""What a store says about itself: its attributes, and the manifest that it was made from.

Each of its JSON documents vouches for itself by a checksum of its content.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from spamo_cache import bounded, io
from spamo_cache.config import Name, StrictModel
from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.store.addresses import HUB_ADDRESS
from spamo_cache.store.layout import (
    FORMAT,
    VALIDITY_FORMAT,
    ChunkLayout,
    canonical,
    features_metadata,
    group_metadata,
    sha256,
)
from spamo_cache.store.remote import Location, RemotePath, read_file

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

MAX_ATTRIBUTES_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 1 << 30
MAX_CHUNK_BYTES = 1 << 28
MAX_SHARD_BYTES = 1 << 32
_MAX_DEPTH = 32
MAX_PARTITIONS = 10_000_000
_PACKAGES = ("spamo-cache", "zarr", "numpy")


class Attributes(StrictModel):
    """What a store says about itself, in the attributes of its group."""

    format: int
    corpus: Name
    stream: Name
    fingerprint: Sha256
    spec: Mapping[str, Any]
    weights: str
    """Name of the weights as the spec gave it."""
    weights_sha256: str
    semantics: int
    corpus_sha256: Sha256
    poses_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Of the poses that the features were computed by; empty, and left out, where none were."""
    poses: Annotated[str, Field(max_length=4096)] = ""
    """Name of their folder as the spec gave it; likewise."""
    clips: Annotated[int, Field(ge=1, le=50_000_000)]
    partitions: Annotated[int, Field(ge=1, le=MAX_PARTITIONS)]
    """When the store was begun; clips that get another place later get partitions after these."""
    width: Annotated[int, Field(ge=1, le=1 << 20)]
    dtype: Literal["float16", "float32"]
    chunk_rows: Annotated[int, Field(ge=1, le=1 << 20)]
    shard_rows: Annotated[int, Field(ge=1, le=1 << 28)]
    terms: str = ""
    """Terms of use of the corpus."""
    validity: bool = False
    """Whether the store says of each row if it is valid; see ``clips/<generation>/valid``."""
    manifest_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Of the snapshot; empty where the store was made without a manifest."""
    manifest_bytes: Annotated[int, Field(ge=0, le=MAX_MANIFEST_BYTES)] = 0
    created: Annotated[str, Field(max_length=64)] = ""
    created_by: Annotated[str, Field(max_length=256)] = ""
    versions: Mapping[str, str] = {}

    @property
    def layout(self) -> ChunkLayout:
        return ChunkLayout(self.width, self.dtype, self.chunk_rows, self.shard_rows)

    @model_validator(mode="after")
    def _check_format(self) -> Attributes:
        if self.format != (VALIDITY_FORMAT if self.validity else FORMAT):
            raise ValueError("the format and the entry on validity disagree")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Stores without validity and poses keep the attributes that they had before there were any.
        document = without(without(dump(self), "validity", False), "poses_sha256", "")
        return without(document, "poses", "")


def without(document: dict[str, Any], key: str, default: object) -> dict[str, Any]:
    """The document, without a key that has its default."""
    return {name: value for name, value in document.items() if (name, value) != (key, default)}


def load_attributes(path: Location) -> Attributes:
    """The checked attributes of the store at ``path``.

    Raises:
        StoreError: no store, or one with impossible sizes.
        DamagedError: broken attributes.
    """
    with io.reading(path):
        if not (path / "zarr.json").exists():
            remedy = "run `spamo-cache store ls`"
            raise StoreError("no feature store here", where=path, remedy=remedy)
        for folder in ("features", "receipts", "clips"):
            if (path / folder).is_symlink():
                raise StoreError("a store's folder must not be a link", where=path / folder)
    attributes = read_record(load_group(path / "zarr.json"), Attributes, path / "zarr.json")
    check_layout(attributes.layout, path)
    return attributes


def describe(where: Path, **values: Any) -> Attributes:
    """The attributes of a new store, made here and now.

    Raises:
        DamagedError: a value that no store can have.
    """
    made = {"created": now(), "created_by": user(), "versions": versions()}
    form = VALIDITY_FORMAT if values.get("validity") else FORMAT
    attributes = validated({"format": form, **made, **values}, Attributes, where)
    check_layout(attributes.layout, where)
    return attributes


def documents(attributes: Attributes, partitions: int) -> dict[str, dict[str, Any]]:
    """The ``zarr.json`` documents of a store with so many partitions, by path within the store."""
    return {
        "features/zarr.json": features_metadata(attributes.layout, partitions),
        "receipts/zarr.json": group_metadata({}),
        "zarr.json": group_metadata(document_of(attributes)),
    }


def load_room(path: Location, attributes: Attributes) -> int:
    """How many partitions the ``features`` array of a store has room for.

    Raises:
        DamagedError: the array is not laid out as the store says.
    """
    where = path / "features" / "zarr.json"
    document = load_json(where, MAX_ATTRIBUTES_BYTES)
    try:
        room = int(document["shape"][0]) // attributes.shard_rows
        same = document == features_metadata(attributes.layout, room)
    except (KeyError, IndexError, TypeError, ValueError):
        same = False
    if not same:
        raise DamagedError("the features are not laid out as the store says", where=where)
    return room


def check_room(path: Location, attributes: Attributes, room: int, partitions: int) -> None:
    """Refuse an array that has room for other partitions than the store ever had.

    Args:
        room: see :func:`load_room`; read it before the index, which is always ahead of it.
        partitions: that the index has.

    Raises:
        DamagedError: less room than when the store was begun, or more than there are partitions.
    """
    if not attributes.partitions <= room <= partitions:
        where = path / "features" / "zarr.json"
        raise DamagedError("the features are not laid out as the store says", where=where)


def check_layout(layout: ChunkLayout, where: object) -> None:
    """Refuse sizes that cannot be meant.

    Raises:
        StoreError: shards that are no multiple of their chunks, chunks beyond 256 MiB or shards
            beyond 4 GiB.
    """
    if layout.shard_rows % layout.chunk_rows:
        raise StoreError(
            f"a shard of {layout.shard_rows} rows is no multiple of {layout.chunk_rows}",
            where=where,
        )
    shard_bytes = layout.shard_bytes(layout.chunks)
    if layout.chunk_bytes > MAX_CHUNK_BYTES or shard_bytes > MAX_SHARD_BYTES:
        raise StoreError("chunks or shards of an impossible size", where=where)


# --- documents ------------------------------------------------------------------------------------


Record = TypeVar("Record", bound=StrictModel)


def document_of(record: StrictModel) -> dict[str, Any]:
    """The record as a JSON document with the checksum of all the rest in ``sha256``."""
    return io.with_checksum(record.model_dump(mode="json"))


def read_record(document: Any, model: type[Record], where: Location) -> Record:
    """Check a document's checksum and read it.

    Raises:
        DamagedError: it is not what was written, or never was such a record.
        StoreError: another format.
    """
    rest = io.without_checksum(document, where)
    form = rest.get("format")
    if isinstance(form, int) and not FORMAT <= form <= VALIDITY_FORMAT:
        newer = form > VALIDITY_FORMAT
        known = VALIDITY_FORMAT if newer else FORMAT
        raise StoreError(
            f"has store format {form}, {'newer' if newer else 'older'} than {known}",
            where=where,
            remedy="upgrade spamo-cache" if newer else "remove the store and extract again",
        )
    return validated(rest, model, where)


def validated(document: Mapping[str, Any], model: type[Record], where: object) -> Record:
    """Read a document as the record it should be.

    Raises:
        DamagedError: its first fault, with the key.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise DamagedError(f"{key}: {fault['msg']}", where=where) from None


def load_json(path: Location, limit: int) -> Any:
    """Parse a document in canonical form.

    Raises:
        DamagedError: missing, too large, broken, or bytes in any but the canonical form: a flip
            in white space or an escape must not pass either.
    """
    raw = read_file(path, limit)
    try:
        document = json.loads(raw)
        if bounded.is_deeper(document, _MAX_DEPTH):
            raise DamagedError("is nested too deeply", where=path)
        if b"\\ud" in raw:  # half a character, which nothing can print or keep
            json.dumps(document, ensure_ascii=False).encode()
        same = canonical(document) == raw
    except (ValueError, RecursionError):
        raise DamagedError("is not the JSON it was", where=path) from None
    if not same:
        raise DamagedError("is not in the form it was written", where=path)
    return document


def load_group(path: Location, limit: int = MAX_ATTRIBUTES_BYTES) -> dict[str, Any]:
    """Our attributes of a Zarr group of ours.

    Raises:
        DamagedError: anything but a group document that carries them.
    """
    document = load_json(path, limit)
    try:
        attributes: dict[str, Any] = document["attributes"]["spamo_cache"]
        same = document == group_metadata(attributes)
    except (KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise DamagedError("is no group of a feature store", where=path)
    return attributes


# --- the manifest ---------------------------------------------------------------------------------


MANIFEST = "manifest.parquet"
_MANIFEST_REMEDY = "extract or pull again with the same manifest: that puts it back"


def manifest_attributes(manifest: bytes) -> Mapping[str, str | int]:
    """What a store's attributes say of its snapshot; of no bytes, that it has none."""
    return {
        "manifest_sha256": sha256(manifest) if manifest else "",
        "manifest_bytes": len(manifest),
    }


def load_manifest(store: Location, attributes: Attributes) -> bytes:
    """The snapshot of the store, no bytes where it was made without one.

    Raises:
        DamagedError: it is missing or not what it was.
        StoreError: it is a link, or unreadable.
    """
    if not attributes.manifest_sha256:
        return b""
    data = read_file(store / MANIFEST, attributes.manifest_bytes)
    _compare_manifest(store, sha256(data), attributes)
    return data


def check_manifest(store: Path, attributes: Attributes, *, deep: bool) -> None:
    """Raise what :func:`load_manifest` would; unless ``deep``, by the size alone."""
    if not attributes.manifest_sha256:
        return
    try:
        status = (store / MANIFEST).lstat()
    except FileNotFoundError:
        raise DamagedError("is missing", where=store / MANIFEST, remedy=_MANIFEST_REMEDY) from None
    if not stat.S_ISREG(status.st_mode):
        raise StoreError("is not a regular file", where=store / MANIFEST, remedy=_MANIFEST_REMEDY)
    if status.st_size != attributes.manifest_bytes:
        what = f"has {status.st_size} bytes, not {attributes.manifest_bytes}"
        raise DamagedError(what, where=store / MANIFEST, remedy=_MANIFEST_REMEDY)
    if deep:
        _compare_manifest(store, io.regular_sha256(store / MANIFEST), attributes)


def restore_manifest(store: Path, attributes: Attributes, manifest: bytes, work: Path) -> None:
    """Put the snapshot back where it is lost or damaged and ``manifest`` is what it was."""
    if sha256(manifest) != attributes.manifest_sha256:
        return
    try:
        check_manifest(store, attributes, deep=True)
    except StoreError:
        with io.writing(store):
            io.replace(store / MANIFEST, manifest, work)


def _compare_manifest(store: Location, digest: str, attributes: Attributes) -> None:
    if digest != attributes.manifest_sha256:
        what = "is not the manifest that the store was made from"
        raise DamagedError(what, where=store / MANIFEST, remedy=_MANIFEST_REMEDY)


# --- where a store is from ------------------------------------------------------------------------


_ORIGIN = "origin.json"


def note_origin(store: Path, origin: Location) -> None:
    """Keep beside a pulled store's files which commit of the Hub they are from."""
    if isinstance(origin, RemotePath) and origin.on_hub:
        with io.writing(store):
            io.write_atomic(store / _ORIGIN, canonical(io.with_checksum({"address": str(origin)})))


def origin_of(store: Location) -> str | None:
    """The address, with the commit, of the store on the Hub that this one is or was pulled from."""
    if isinstance(store, RemotePath):
        return str(store) if store.on_hub else None
    if not (store / _ORIGIN).is_file():
        return None
    try:
        noted = io.without_checksum(load_json(store / _ORIGIN, MAX_ATTRIBUTES_BYTES), store)
    except StoreError:
        return None
    address = noted.get("address")
    known = isinstance(address, str) and HUB_ADDRESS.fullmatch(address)
    return address if known else None


# --- provenance -----------------------------------------------------------------------------------


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def user() -> str:
    """Who runs this; the number where the system knows no name (containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


@cache
def versions() -> Mapping[str, str]:
    """Versions of what writes the bytes."""
    # Not needed to read, and takes a while.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "checkout"
    return installed
