"""Files of a run that are written aside and renamed, with a checksum of their content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spamo_cache.store import files, sealed
from spamo_cache.store.claims import Claims

REMEDY = (
    "a run's files are a record: bring this one back from a copy, or train the run again in "
    "another folder"
)


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` so that a reader or a kill sees the old or the new content, whole.

    What dead processes left unfinished in the folder goes.
    """
    files.make_parents(path.parent)
    Claims(path.with_name("claims")).sweep()
    with files.aside(path.parent) as work:
        files.replace(path, content, work)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a document with a checksum of its content."""
    write_atomic(path, (sealed.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """What :func:`write_json` wrote.

    Raises:
        SpamoError: it is missing.
        DamagedError: it is not what was written.
    """
    return sealed.read(path, "bring it back from a copy, or remove it and make it again")
