"""JSON documents of runs and experiments, each written and read by one dataclass."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter, ValidationError

from spamo_cache import io
from spamo_cache.errors import SpamoError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


def write_document(path: Path, document: DataclassInstance) -> None:
    """Write a dataclass as a document with a checksum."""
    io.write_json(path, asdict(document))


def read_document(path: Path, kind: TypeAdapter[T], wrong: str, remedy: str) -> T:
    """What :func:`write_document` wrote.

    Args:
        wrong: what to say of something else in its place: "is no scorecard".
        remedy: what to do where it is something else.

    Raises:
        SpamoError: it is missing, or something else; the key is named.
        DamagedError: it is not what was written.
    """
    try:
        return kind.validate_python(io.read_json(path))
    except ValidationError as error:
        raise SpamoError(f"{wrong}: {first_fault(error)}", where=path, remedy=remedy) from None


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong with a document, behind its key."""
    fault = error.errors(include_url=False)[0]
    return ": ".join(filter(None, [".".join(map(str, fault["loc"])), fault["msg"]]))
