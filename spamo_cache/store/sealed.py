"""JSON documents that vouch for themselves: ``sha256`` is the checksum of all the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spamo_cache import bounded
from spamo_cache.errors import DamagedError, SpamoError

KEY = "sha256"


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its checksum, as JSON will give it back: lists for tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return {**plain, KEY: _checksum(plain)}


def unseal(document: Any, where: object, remedy: str | None = None) -> dict[str, Any]:
    """What was sealed, without the checksum.

    Raises:
        DamagedError: no JSON object, or one that is not what was sealed.
    """
    if not isinstance(document, dict):
        raise DamagedError("holds no JSON object", where=where, remedy=remedy)
    rest = {key: value for key, value in document.items() if key != KEY}
    if document.get(KEY) != _checksum(rest):
        raise DamagedError("disagrees with its own checksum", where=where, remedy=remedy)
    return rest


def dumps(document: Mapping[str, Any], *, indent: int | None = None) -> str:
    """The sealed document as text for people."""
    return json.dumps(seal(document), indent=indent, ensure_ascii=False)


def loads(text: str | bytes, where: object, remedy: str | None = None) -> dict[str, Any]:
    """What :func:`dumps` was given.

    Raises:
        DamagedError: no JSON, or not what was sealed.
    """
    try:
        document = bounded.parse_json(text)
    except ValueError as error:
        raise DamagedError(f"is not the JSON it was: {error}", where=where, remedy=remedy) from None
    return unseal(document, where, remedy)


def read(path: Path, remedy: str | None = None) -> dict[str, Any]:
    """A sealed document from its file.

    Raises:
        DamagedError: it is not what was written.
        SpamoError: it is missing or unreadable.
    """
    try:
        data = bounded.read(path, bounded.MAX_JSON_BYTES)
    except OSError as error:
        told = error.strerror or str(error)
        raise SpamoError(f"cannot be read: {told}", where=path, remedy=remedy) from error
    return loads(data, path, remedy)


def _checksum(document: Mapping[str, Any]) -> str:
    # NaN is allowed for: a document that says so is no worse than one that cannot be written.
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
