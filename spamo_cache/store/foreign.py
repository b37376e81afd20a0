"""Feature files that others wrote, read as one array per clip; nothing in them is trusted.

A file holds one clip (``.npy``, ``.npz``, ``.pose``, a tensor) or many (HDF5, pickles, dictionaries
of tensors); a zip or tar file is a folder that is not unpacked. Nothing that a file names is
called, and no file makes more of itself than its size allows.
"""

from __future__ import annotations

import gzip
import lzma
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from tokenize import TokenError
from typing import IO, Any, Literal, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from spamo_cache import bounded, poses, restricted
from spamo_cache.errors import PoseError, StoreError, UsageError
from spamo_cache.store.attributes import load_json

Naming = Literal["ids", "official"]

VALID = ".valid"
"""Behind a file's stem: whether each row of the array beside it is valid."""
VALID_OF = "valid_of"
"""Attribute of such an array in HDF5: the clip's id."""
MARKER = "spamo-cache.json"
"""Beside exported files: which clip each of them is, so that they come back exactly."""
OFFICIAL = {"spatial": r"_s2wrapping", "motion": r"_overlap-\d+(-pretrained)?"}
"""What the release calls the files of a stream, behind the clip's id."""
_SPLIT = {"ids": 0, "official": -2}
"""Which folder on the way to a file is its split."""
_MAX_MARKER_BYTES = 1 << 30
_MAX_ARRAY_BYTES = 1 << 30
_MAX_SAMPLE_BYTES = 1 << 20
_RATIO = 64
"""Features hardly shrink; what unpacks to so many times its size holds something else."""
_MAX_PICKLE_BYTES = 1 << 34
_MAX_VALUES = 5_000_000

# What numpy, zipfile, tarfile, h5py and torch raise of files that are not what they seem.
UNREADABLE = (
    *(StoreError, OSError, EOFError, RuntimeError, ValueError, KeyError, MemoryError),
    *(TypeError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, TokenError, tarfile.TarError),
    *(pickle.UnpicklingError, struct.error, NotImplementedError),
)


@dataclass(frozen=True, slots=True)
class Item:
    """One clip's array in a file."""

    id: str
    split: str
    source: str
    """The file, relative to the folder; in HDF5 and pickles with the entry."""
    load: Callable[[], NDArray[Any]]
    """Raises one of :data:`UNREADABLE`."""
    load_valid: Callable[[], NDArray[Any]] | None = None
    """Which rows are valid, where a file says so; likewise."""

    def valid(self, rows: int) -> NDArray[np.bool_]:
        """(rows,) which rows are valid; all where nothing is said.

        Raises:
            StoreError: there are other numbers than a 0 or 1 for each row; or see ``load``.
        """
        if self.load_valid is None:
            return np.ones(rows, bool)
        said = self.load_valid()
        if said.shape != (rows,) or said.dtype.kind not in "bui" or not np.isin(said, (0, 1)).all():
            raise StoreError(f"its validity is {said.dtype} of {said.shape}, not 0 or 1 by row")
        return said.astype(bool)


@contextmanager
def opened(source: Path, stream: str = "", naming: Naming = "ids") -> Iterator[list[Item]]:
    """The arrays of a folder or of a file; readable until the block ends.

    Args:
        stream: which of the release's files are taken.
        naming: ``ids``: ``[SPLIT/...]ID`` and an ending; ``official``: ``.../SPLIT/ID`` and what
            the release calls the files of this stream.

    Raises:
        UsageError: no such file, of no kind known here, or the release has no such stream.
        StoreError: a file of many clips that cannot be read.
    """
    if naming == "official" and stream not in OFFICIAL:
        raise UsageError(
            f"the official release has no stream {stream!r}", remedy="spatial or motion"
        )
    if not source.exists():
        raise UsageError(
            "no such folder or file" if not source.suffix else "no such file", where=source
        )
    named = _Naming(f"(?P<id>.+){OFFICIAL[stream]}" if naming == "official" else "", naming)
    with ExitStack() as stack:
        if source.is_dir():
            yield list(_folder(source, named, stack))
        else:
            yield list(_alone(source, named, stack))


@dataclass(frozen=True, slots=True)
class _Naming:
    """What a file's name says of its clip."""

    pattern: str
    naming: Naming

    def clip(self, name: PurePosixPath, stem: str) -> tuple[str, str] | None:
        """Id and split; None of a file that is not of the stream."""
        match = re.fullmatch(self.pattern or "(?P<id>.+)", stem, re.DOTALL)
        split = name.parts[_SPLIT[self.naming]] if len(name.parts) > 1 else ""
        return None if match is None else (match["id"], split)


@dataclass(frozen=True, slots=True)
class _File:
    """A file on a disk or in an archive."""

    name: PurePosixPath
    """Relative to the folder or archive."""
    source: str
    open: Callable[[], IO[bytes]]
    size: int
    path: Path | None = None
    """Where it lies by itself."""

    def limited(self, limit: int = _MAX_ARRAY_BYTES) -> bounded.Limited:
        return bounded.Limited(self.open(), limit)

    def content(self) -> bytes:
        _bound(self.size)
        with self.open() as file:
            return bounded.Limited(file, _MAX_ARRAY_BYTES).read()


# --- folders and archives -------------------------------------------------------------------------


def _folder(folder: Path, named: _Naming, stack: ExitStack) -> Iterator[Item]:
    if (folder / MARKER).exists():
        marker = load_json(folder / MARKER, _MAX_MARKER_BYTES)
        for listed in _listed(marker, folder / MARKER):
            load = partial(_load_alone, _on_disk(folder / listed.name, folder))
            valid = None
            if listed.valid is not None:
                valid = partial(_load_alone, _on_disk(folder / listed.valid, folder))
            yield Item(listed.clip, listed.split, listed.name.as_posix(), load, valid)
        return
    paths = sorted(folder.rglob("*"))
    names = {path.relative_to(folder).as_posix() for path in paths}
    for path in paths:
        kind, file = _kind(path.name), _on_disk(path, folder)
        if kind is None and not (path.parent == folder and _is_packed(path)):
            continue
        if kind in _ARCHIVES:
            yield from _archive(file, kind, named, stack)
        elif not path.name.startswith("._") and not _is_validity(file.name, names):
            beside = _validity_of(file.name)
            marks = _on_disk(folder / beside, folder) if beside.as_posix() in names else None
            yield from _items(file, named, stack, valid=marks)


def _validity_of(name: PurePosixPath) -> PurePosixPath:
    """The file that says which rows of a ``.npy`` are valid."""
    return name.with_name(f"{name.stem}{VALID}.npy")


def _is_validity(name: PurePosixPath, names: Container[str]) -> bool:
    """Whether a file says which rows of another one are valid."""
    own = name.name.removesuffix(f"{VALID}.npy")
    return own != name.name and name.with_name(f"{own}.npy").as_posix() in names


def _on_disk(path: Path, folder: Path) -> _File:
    def opening() -> IO[bytes]:
        if not path.is_file():
            raise StoreError("is no regular file")
        return path.open("rb")

    name = PurePosixPath(path.relative_to(folder).as_posix())
    size = path.stat().st_size if path.is_file() else 0
    return _File(name, name.as_posix(), opening, size, path)


class _Listed(NamedTuple):
    """A file, its clip and split and, where there is one, the file of its validity."""

    name: PurePosixPath
    clip: str
    split: str
    valid: PurePosixPath | None


def _listed(marker: Any, where: object) -> Iterator[_Listed]:
    """What an export noted of its files."""
    try:
        listed = [
            (str(name), str(entry["id"]), str(entry["split"]), entry.get("valid"))
            for name, entry in marker["clips"].items()
        ]
    except (KeyError, TypeError, AttributeError):
        raise StoreError("is no list of exported clips", where=where) from None
    for name, clip, split, valid in listed:
        beside = None if valid is None else _inside(str(valid), where)
        yield _Listed(_inside(name, where), clip, split, beside)


def _inside(name: str, where: object) -> PurePosixPath:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name:
        raise StoreError(f"names a file outside the folder: {name!r}", where=where)
    return pure


def _archive(file: _File, kind: str, named: _Naming, stack: ExitStack) -> Iterator[Item]:
    """The clips of a zip or tar file; archives in archives are not opened."""
    where = file.path or file.source
    try:
        members = (_taped if kind == "tar" else _zipped)(file, stack)
        found = {member.name: member for member in members}
        marker = found.get(PurePosixPath(MARKER))
        if marker is not None:
            listed = bounded.parse_json(marker.limited(_MAX_MARKER_BYTES).read())
            for name, clip, split, valid in _listed(listed, where):
                for missing in {name, valid or name} - found.keys():
                    raise StoreError(f"{missing.as_posix()!r} is missing", where=where)
                marks = None if valid is None else partial(_load_alone, found[valid])
                load = partial(_load_alone, found[name])
                yield Item(clip, split, found[name].source, load, marks)
            return
        names = {name.as_posix() for name in found}
        for name, member in found.items():
            if _kind(name.name) in (None, *_ARCHIVES) or name.parts[0] == "__MACOSX":
                continue
            if not _is_validity(name, names):
                described, beside = _description(found, name), found.get(_validity_of(name))
                yield from _items(member, named, stack, described=described, valid=beside)
    except StoreError:
        raise
    except UNREADABLE as error:
        raise StoreError(f"is no sound archive: {error}", where=where) from None


def _zipped(file: _File, stack: ExitStack) -> Iterator[_File]:
    archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(file.open())))
    for entry in archive.infolist():
        if not entry.is_dir():
            name = _inside(entry.filename, file.path)
            opening = partial(archive.open, entry)
            yield _File(name, f"{file.source}/{entry.filename}", opening, entry.file_size)


def _taped(file: _File, stack: ExitStack) -> Iterator[_File]:
    # Uncompressed alone: of others every clip would be sought from the beginning.
    raw = stack.enter_context(file.open())
    archive = stack.enter_context(tarfile.TarFile(fileobj=raw))
    for entry in archive:
        name = _inside(entry.name, file.path)
        if entry.isreg() and not entry.issparse():
            opening = partial(_extracted, archive, entry)
            yield _File(name, f"{file.source}/{entry.name}", opening, entry.size)


def _extracted(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    found = archive.extractfile(entry)
    if found is None:
        raise StoreError("is no regular file")
    return found


def _description(
    found: Mapping[PurePosixPath, _File], name: PurePosixPath
) -> tuple[str, str] | None:
    """Id and split that a sample of WebDataset's layout tells beside its array."""
    beside = found.get(name.with_name(f"{name.name.partition('.')[0]}.json"))
    if beside is None:
        return None
    sample = bounded.parse_json(beside.limited(_MAX_SAMPLE_BYTES).read())
    if not isinstance(sample, dict) or not isinstance(sample.get("id"), str):
        return None
    return sample["id"], str(sample.get("split", ""))


# --- files ----------------------------------------------------------------------------------------

_KINDS = {
    ".npy": "npy",
    ".npz": "npz",
    ".pose": "pose",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".pt": "torch",
    ".pth": "torch",
    ".zip": "zip",
    ".tar": "tar",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".gz": "pickle",
    ".gzip": "pickle",
}
_ARCHIVES = ("zip", "tar")
_MAGIC = (
    *((b"\x93NUMPY", "npy"), (b"PK\x03\x04", "zip"), (b"PK\x05\x06", "zip")),
    *((b"\x89HDF", "hdf5"), (b"\x1f\x8b", "pickle"), (b"\x80", "pickle")),
)
_KNOWN = "name a folder, .npy, .npz, .h5, .pt, .pth, .pkl, .gz, .pose, .zip or .tar"


def _kind(name: str) -> str | None:
    """What a file is by its ending."""
    return _KINDS.get(PurePosixPath(name).suffix.lower())


def _is_packed(path: Path) -> bool:
    """Whether a file without a known ending is gzipped, as ``phoenix14t.pami0.train``."""
    try:
        with path.open("rb") if path.is_file() else BytesIO() as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError:
        return False


def kind_of(source: Path) -> str:
    """What a file that a user names is: ``npy``, ``zip``, ``hdf5``, ...

    Raises:
        UsageError: nothing that is known here.
        StoreError: it cannot be read.
    """
    if source.is_dir():
        return "npy"
    try:
        with source.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=source) from None
    found = next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)
    by_name = _kind(source.name)
    if found == "zip":
        found = by_name if by_name in ("npz", "torch") else _kind_of_zip(source)
    elif head[257:262] == b"ustar":
        found = "tar"
    if (kind := found or by_name) is None:
        raise UsageError("is no file of features that is known here", where=source, remedy=_KNOWN)
    return kind


def _kind_of_zip(source: Path) -> str:
    try:
        with zipfile.ZipFile(source) as archive:
            is_torch = any(name.endswith("/data.pkl") for name in archive.namelist())
    except UNREADABLE:
        return "zip"
    return "torch" if is_torch else "zip"


def _alone(path: Path, named: _Naming, stack: ExitStack) -> Iterator[Item]:
    """The clips of a file that a user names."""
    file, kind = _on_disk(path, path.parent), kind_of(path)
    if kind in (*_ARCHIVES, "npz"):
        return _archive(file, kind, named, stack)
    return _items(file, named, stack, kind=kind)


def _items(
    file: _File,
    named: _Naming,
    stack: ExitStack,
    *,
    kind: str | None = None,
    described: tuple[str, str] | None = None,
    valid: _File | None = None,
) -> Iterator[Item]:
    """The clips of one file; what cannot be read is an item that says so when it is loaded.

    Args:
        valid: of a ``.npy``, the file that says which of its rows are valid.
    """
    kind = kind or _kind(file.name.name) or "pickle"
    stem = file.name.stem if _kind(file.name.name) else file.name.name
    clip = described or named.clip(file.name, stem)
    if kind in ("npy", "npz", "pose"):
        if clip is not None:
            marks = partial(_load_alone, valid) if valid is not None and kind == "npy" else None
            yield Item(*clip, file.source, partial(_load_alone, file, kind), marks)
        return
    if kind == "hdf5":
        yield from _hdf5(file, stack)
        return
    try:
        content = _content(file)
        entries = list(_entries(content))
    except UNREADABLE as error:
        if clip is not None:
            yield Item(*clip, file.source, partial(_refuse, _reason(error)))
        return
    if len(entries) == 1 and entries[0].name is None:
        # One clip by itself is loaded again when it is asked for: a folder holds thousands.
        if clip is not None:
            yield Item(*clip, file.source, partial(_load_alone, file, kind))
        return
    split = _split_of(stem) or (clip or ("", ""))[1]
    for entry in entries:
        name = PurePosixPath(entry.name or stem)
        found = named.clip(name, name.name)
        if found is not None:
            load = partial(_taken, entry)
            yield Item(found[0], found[1] or split, f"{file.source}:{entry.name}", load)


def _split_of(stem: str) -> str:
    """The split that a file's name tells: ``phoenix14t.pami0.train``, ``dev_features``."""
    match = re.search(r"(?:^|[._-])(train|dev|val|valid|test)(?:$|[._-])", stem)
    return "" if match is None else match[1]


def _load_alone(file: _File, kind: str | None = None) -> NDArray[Any]:
    """The array of a file that holds one clip."""
    kind = kind or _kind(file.name.name)
    if kind == "npy":
        return _npy(file)
    if kind == "npz":
        with file.open() as opened_file:
            return _npz(opened_file if opened_file.seekable() else BytesIO(file.content()))
    if kind == "pose":
        return _pose(file.content())
    if kind not in ("torch", "pickle"):
        raise StoreError("is no file of features that is known here")
    entries = list(_entries(_content(file)))
    if len(entries) != 1:
        raise StoreError(f"holds {len(entries)} arrays")
    return np.array(_taken(entries[0]))


def _npy(file: _File) -> NDArray[Any]:
    if file.path is None:
        # A header that promises more than there is fails while it is read.
        array: NDArray[Any] = np.lib.format.read_array(BytesIO(file.content()), allow_pickle=False)
        return array
    if not file.path.is_file():
        raise StoreError("is no regular file")
    # Mapped: a header that promises more than the file holds is found before memory is asked for.
    mapped = np.lib.format.open_memmap(file.path, mode="r")
    _bound(mapped.nbytes)
    return np.array(mapped)


def _npz(file: IO[bytes]) -> NDArray[Any]:
    with zipfile.ZipFile(file) as archive:
        _bound(sum(entry.file_size for entry in archive.infolist()))
        names = archive.namelist()
        name = names[0] if len(names) == 1 else "features.npy"
        if name not in names:
            raise StoreError(f"holds {len(names)} arrays, and none is called features")
        with archive.open(name) as entry:
            array: NDArray[Any] = np.lib.format.read_array(entry, allow_pickle=False)
            return array


def _pose(data: bytes) -> NDArray[Any]:
    """Rows of a ``.pose`` file: of each frame, person and point the coordinates and confidence."""
    try:
        body = poses.parse(data)
    except PoseError as error:
        raise StoreError(error.what) from None
    rows = np.concatenate([body.points, body.confidence[..., None]], axis=-1)
    return rows.reshape(len(rows), -1).astype(np.float32, copy=False)


def _bound(size: int) -> None:
    if size > _MAX_ARRAY_BYTES:
        raise StoreError(f"holds more than {_MAX_ARRAY_BYTES} bytes")


def _refuse(reason: str) -> NDArray[Any]:
    raise StoreError(reason)


def _reason(error: Exception) -> str:
    what = error.what if isinstance(error, StoreError) else str(error) or type(error).__name__
    return " ".join(what.split())[:300]


# --- HDF5 -----------------------------------------------------------------------------------------


def _hdf5(file: _File, stack: ExitStack) -> Iterator[Item]:
    try:
        # In an archive the library reads it through Python.
        at = file.path or BytesIO(file.content())
        yield from _datasets(stack.enter_context(h5py.File(at, "r")), file.source)
    except UNREADABLE as error:
        where = file.path or file.source
        raise StoreError(f"is no sound HDF5 file: {error}", where=where) from None


def _datasets(file: h5py.File, name: str) -> list[Item]:
    """The datasets of an open HDF5 file; links to other files are not followed."""
    items: list[Item] = []

    def visit(path: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and VALID_OF not in node.attrs:
            group, _, own = path.rpartition("/")
            clip = _attribute(node, "id", own)
            split = _attribute(node, "split", group.split("/")[0])
            beside = node.parent.get(f"{own}{VALID}")
            marks = None
            if isinstance(beside, h5py.Dataset) and VALID_OF in beside.attrs:
                marks = partial(_load_hdf5, beside)
            items.append(Item(clip, split, f"{name}:{path}", partial(_load_hdf5, node), marks))

    file.visititems(visit)
    return items


def _attribute(dataset: h5py.Dataset, name: str, default: str) -> str:
    value = dataset.attrs.get(name, default)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _load_hdf5(dataset: h5py.Dataset) -> NDArray[Any]:
    # Data that a dataset keeps in other files is not ours to read.
    if dataset.is_virtual or dataset.external:
        raise StoreError("keeps its data in other files")
    _bound(dataset.nbytes)
    return np.asarray(dataset)


# --- pickles and files of torch -------------------------------------------------------------------

_IDS = ("id", "name", "fileid", "video_id", "video_name", "clip", "vid")
_FIELDS = ("features", "feature", "feats", "feat", "sign", "embeddings", "x")
"""How samples call a clip and its array; one array alone may be called anything."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """An array in a pickle; of one without a name the file's own name counts."""

    name: str | None
    value: Any


def _content(file: _File) -> Any:
    """The plain data of a pickle, or of what ``torch.save`` wrote."""
    with file.open() as opened_file:
        head = opened_file.read(4)
    if head.startswith(b"PK"):
        return _torch(file)
    limit = min(_RATIO * file.size + _MAX_SAMPLE_BYTES, _MAX_PICKLE_BYTES)
    with file.open() as opened_file:
        packed = head.startswith(b"\x1f\x8b")
        plain: Any = gzip.GzipFile(fileobj=opened_file) if packed else opened_file
        stream = bounded.Limited(plain, limit)
        content = restricted.load_features(stream, file.source)
        stream.read()  # to the end, where gzip keeps its checksum
        return content


def _torch(file: _File) -> Any:
    """Tensors of an archive of torch, by its loader that builds tensors and plain containers."""
    import torch  # noqa: PLC0415 (slow, and most features are no tensors)

    at: Any = file.path or BytesIO(file.content())
    with zipfile.ZipFile(at) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise StoreError("is compressed, as torch writes none")
    if file.path is None:
        at.seek(0)
    try:
        # Mapped: nothing is read before it is asked for, and no memory for what is not there.
        return torch.load(at, map_location="cpu", weights_only=True, mmap=file.path is not None)
    except pickle.UnpicklingError as error:
        # torch's own advice is to load it unsafely.
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {asked[1]}" if asked else "is no pickle of tensors"
        raise StoreError(f"{what}; tensors and plain data are taken, nothing was run") from None
    except Exception as error:
        raise StoreError(f"is no sound file of torch ({type(error).__name__}: {error})") from error


def _entries(content: Any) -> Iterator[_Entry]:
    """The clips that plain data hold.

    Raises:
        StoreError: none that are found.
    """
    if _is_array(content) or _one(content) is not None:
        yield _Entry(None, content)
        return
    listed: Iterable[tuple[str, Any]] = ()
    if isinstance(content, Mapping):
        listed = ((str(name), value) for name, value in content.items())
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        listed = ((_name_of(sample), sample) for sample in content)
    found = [
        _Entry(name, value)
        for name, value in islice(listed, _MAX_VALUES)
        if name and (_is_array(value) or isinstance(value, Mapping))
    ]
    if not found:
        raise StoreError("holds no arrays of clips")
    yield from found


def _name_of(sample: Any) -> str:
    if not isinstance(sample, Mapping):
        return ""
    return next((str(sample[key]) for key in _IDS if isinstance(sample.get(key), str)), "")


def _one(sample: Any) -> Any:
    """The array of a sample, by its name; None where nothing is called so."""
    if not isinstance(sample, Mapping):
        return None
    return next((sample[key] for key in _FIELDS if _is_array(sample.get(key))), None)


def _taken(entry: _Entry) -> NDArray[Any]:
    """The array of an entry.

    Raises:
        StoreError: it has none, several, or one that is no plain array.
    """
    found = entry.value
    if isinstance(found, Mapping):
        found = _one(found)
        if found is None:
            rows = [v for v in entry.value.values() if _is_array(v) and v.ndim == 2]
            if len(rows) != 1:
                raise StoreError(f"holds {len(rows)} arrays, and none is called features")
            found = rows[0]
    return found if isinstance(found, np.ndarray) else _of_tensor(found)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or type(value).__module__.partition(".")[0] == "torch"


def _of_tensor(tensor: Any) -> NDArray[Any]:
    import torch  # noqa: PLC0415

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise StoreError(f"holds a {type(tensor).__name__}, not rows of features")
    tensor = tensor.detach()
    # A tensor may repeat its numbers without end; features never do.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise StoreError("holds a tensor larger than its storage")
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array
