"""Files of tensors whose header has a checksum of all the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from spamo_cache import io
from spamo_cache.errors import DamagedError, SpamoError

REMEDY = (
    "a run's files are a record: restore this one from a copy, or train the run again in "
    "another folder"
)
_HEADER = "spamo-cache"
"""The one entry of a file's header: safetensors writes several in an order of chance."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file whose header has a checksum of all the rest."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    said = dict(header or {})
    checksum = _checksum(((name, held[name]) for name in sorted(held)), said)
    written = json.dumps({**said, io.CHECKSUM: checksum}, sort_keys=True)
    io.write_atomic(path, save(held, metadata={_HEADER: written}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a file of :func:`write_tensors`.

    Raises:
        SpamoError: missing or broken file.
        DamagedError: it is not what was written.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        return tensors, _checked(path, file, tensors.items())


def check_tensors(path: Path) -> None:
    """Raise what :func:`read_tensors` would; never more than one tensor is held."""
    with _opened(path) as file:
        _checked(path, file, ((name, file.get_tensor(name)) for name in sorted(file.keys())))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise SpamoError(f"cannot be read: {error}", where=path) from error


def _checked(path: Path, file: Any, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """The header without its checksum, which is compared."""
    try:
        header: dict[str, str] = json.loads((file.metadata() or {})[_HEADER])
        expected = header.pop(io.CHECKSUM)
    except (KeyError, ValueError, AttributeError):
        raise DamagedError("has lost its checksum", where=path, remedy=REMEDY) from None
    if expected != _checksum(tensors, header):
        raise DamagedError("disagrees with its own checksum", where=path, remedy=REMEDY)
    return header


def _checksum(tensors: Iterable[tuple[str, Tensor]], header: Mapping[str, str]) -> str:
    total = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, value in tensors:
        total.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        total.update(value.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
