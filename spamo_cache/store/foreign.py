"""What others' folders and files of features hold: one array for each clip, read with suspicion."""

from __future__ import annotations

import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tokenize import TokenError
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import StoreError, UsageError
from spamo_cache.store.export import MARKER, Naming
from spamo_cache.store.records import load_json

# What the release calls the files of a stream, and which folder on the way to one is the split.
_OFFICIAL = {"spatial": r"_s2wrapping", "motion": r"_overlap-\d+(-pretrained)?"}
_SPLIT = {"ids": 0, "official": -2}
_MAX_MARKER_BYTES = 1 << 30
_MAX_ARRAY_BYTES = 1 << 30


# What numpy, zipfile and h5py raise of files that are not what they seem.
UNREADABLE = (
    *(StoreError, OSError, EOFError, RuntimeError, ValueError, KeyError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, TokenError),
)


@dataclass(frozen=True, slots=True)
class Item:
    """One clip's array in a file."""

    id: str
    split: str
    source: str
    """The file, relative to the folder; in HDF5 the dataset."""
    load: Callable[[], NDArray[Any]]
    """Raises one of :data:`UNREADABLE`."""


def arrays(folder: Path, stream: str, naming: Naming) -> Iterator[Item]:
    """The arrays of a folder: by the list that lies in one of ours, else by the files' names.

    Args:
        naming: ``ids``: ``[SPLIT/...]ID.npy`` or ``.npz``; ``official``: ``.../SPLIT/ID`` and the
            ending that the release gives the files of this stream.

    Raises:
        UsageError: the release has no such stream.
        StoreError: a list that names files outside the folder, or is none.
    """
    if (folder / MARKER).exists():
        return _marked(folder)
    if naming == "official" and stream not in _OFFICIAL:
        raise UsageError(
            f"the official release has no stream {stream!r}", remedy="spatial or motion"
        )
    return _named(folder, f"(?P<id>.+){_OFFICIAL[stream] if naming == 'official' else ''}", naming)


def _named(folder: Path, pattern: str, naming: Naming) -> Iterator[Item]:
    for path in sorted(folder.rglob("*.np[yz]")):
        found = re.fullmatch(pattern, path.stem)
        if found is not None:
            name = path.relative_to(folder)
            split = name.parts[_SPLIT[naming]] if len(name.parts) > 1 else ""
            yield Item(found["id"], split, name.as_posix(), partial(_load_numpy, path))


def _marked(folder: Path) -> Iterator[Item]:
    """The clips of a folder of ours, by the list that lies in it."""
    marker = load_json(folder / MARKER, _MAX_MARKER_BYTES)
    try:
        listed = [(str(name), str(e["id"]), str(e["split"])) for name, e in marker["clips"].items()]
    except (KeyError, TypeError, AttributeError):
        raise StoreError("is no list of exported clips", where=folder / MARKER) from None
    for name, clip, split in listed:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\0" in name:
            raise StoreError(f"names a file outside the folder: {name!r}", where=folder / MARKER)
        yield Item(clip, split, name, partial(_load_numpy, folder / pure))


def _load_numpy(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise StoreError("is no regular file")
    if path.suffix == ".npz":
        with path.open("rb") as file:
            return _archived(file)
    # Mapped: a header that promises more than the file holds is found before memory is asked for.
    mapped = np.lib.format.open_memmap(path, mode="r")
    _bound(mapped.nbytes)
    return np.array(mapped)


def _archived(file: IO[bytes]) -> NDArray[Any]:
    with zipfile.ZipFile(file) as archive:
        # A header inside that promises more than the entry holds fails while it is read.
        _bound(sum(entry.file_size for entry in archive.infolist()))
        names = archive.namelist()
        name = names[0] if len(names) == 1 else "features.npy"
        if name not in names:
            raise StoreError(f"holds {len(names)} arrays, and none is called features")
        with archive.open(name) as entry:
            array: NDArray[Any] = np.lib.format.read_array(entry, allow_pickle=False)
            return array


def _load_hdf5(dataset: h5py.Dataset) -> NDArray[Any]:
    # Data that a dataset keeps in other files is not ours to read.
    if dataset.is_virtual or dataset.external:
        raise StoreError("keeps its data in other files")
    _bound(dataset.nbytes)
    return np.asarray(dataset)


def _bound(size: int) -> None:
    if size > _MAX_ARRAY_BYTES:
        raise StoreError(f"holds more than {_MAX_ARRAY_BYTES} bytes")


def datasets(file: h5py.File, name: str) -> list[Item]:
    """The datasets of an open HDF5 file; links to other files are not followed."""
    found: list[Item] = []

    def visit(path: str, node: object) -> None:
        if isinstance(node, h5py.Dataset):
            group, _, own = path.rpartition("/")
            clip = _attribute(node, "id", own)
            split = _attribute(node, "split", group.split("/")[0])
            found.append(Item(clip, split, f"{name}:{path}", partial(_load_hdf5, node)))

    file.visititems(visit)
    return found


def _attribute(dataset: h5py.Dataset, name: str, default: str) -> str:
    value = dataset.attrs.get(name, default)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
