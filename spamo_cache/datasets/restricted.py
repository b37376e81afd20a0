"""Pickled annotation files read as data: nothing that a file names is ever called.

Two corpora come with pickles. A pickle is a small program; here it may build containers, text,
numbers and NumPy arrays of them, and the first other name in it is an error. Even NumPy's own
reconstruction is replaced by plain Python, because ``dtype.__setstate__`` believes flags from the
file and an object array with false flags takes bytes for pointers.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spamo_cache.errors import CorpusError

_CODE = re.compile(r"[<>|=]?(?:[bB?]1?|[iufcSU]\d+|O8?)")
_UNREADABLE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


def load_pickle(path: Path) -> Any:
    """The plain data of a pickle; arrays come as NumPy arrays or nested lists of objects.

    Raises:
        CorpusError: missing, damaged, or naming anything but plain data.
    """
    return _loaded(path, _bytes_of(path))


def load_npy(path: Path) -> Any:
    """What an ``.npy`` file holds; a 0-d object array gives the object itself.

    Raises:
        CorpusError: missing, damaged, or naming anything but plain data.
    """
    data = _bytes_of(path)
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = _HEADERS[version]
        _, _, dtype = read_header(file)
        if not dtype.hasobject:
            return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, KeyError, EOFError) as error:
        raise CorpusError(f"is no NumPy file: {error}", where=path) from None
    return _loaded(path, data[file.tell() :])


_HEADERS: Mapping[tuple[int, int], Callable[[io.BytesIO], tuple[Any, bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot be read: {error.strerror}", where=path) from None


def _loaded(path: Path, data: bytes) -> Any:
    try:
        return _plain(_Restricted(io.BytesIO(data)).load())
    except _Refused as error:
        raise CorpusError(
            f"the pickle asks for {error}, which plain annotations never need; nothing was run",
            where=path,
            remedy="do not trust this file; fetch it again from the corpus's own site",
        ) from None
    except _UNREADABLE as error:
        raise CorpusError(f"is no readable pickle: {error}", where=path) from None


class _Refused(Exception):  # noqa: N818
    pass


class _Restricted(pickle.Unpickler):
    """Knows the few names that builtin data and NumPy arrays are pickled with."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")
        # Made anew for every file, so that no file can alter what the next one gets.
        self._known = _reconstructors()

    def find_class(self, module: str, name: str) -> Any:
        try:
            # Protocols 0 to 2 know builtins by their name of old.
            return self._known[module.replace("__builtin__", "builtins"), name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"an outside object {pid!r}")


class _Dtype:
    """What a pickled dtype says: a type code and a byte order, never flags or fields."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subarray, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or (subarray, names, fields) != (None, None, None):
            raise pickle.UnpicklingError("a structured array")
        self.order = order

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.code.lstrip("<>|=")).newbyteorder(self.order)  # type: ignore[arg-type]


class _Array:
    """An array as pickled: a shape, a dtype, and bytes or a list of objects."""

    def __init__(self) -> None:
        self.content: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError("an array without shape or dtype")
        count = math.prod(shape)
        if isinstance(raw, list):
            if len(raw) != count:
                raise pickle.UnpicklingError("an array whose shape and content disagree")
            self.content = raw[0] if shape == () else raw
            return
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        self.content = _array(dtype, content, count).reshape(
            tuple(shape), order="F" if fortran else "C"
        )


def _array(dtype: _Dtype, content: bytes, count: int) -> np.ndarray[Any, Any]:
    kind = dtype.numpy()
    if kind.hasobject or len(content) != kind.itemsize * count:
        raise pickle.UnpicklingError("an array whose shape and content disagree")
    return np.frombuffer(content, kind)


def _reconstructors() -> dict[tuple[str, str], Any]:
    def dtype(code: str, *_: object) -> _Dtype:
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise _Refused(f"a dtype {code!r}")
        return _Dtype(code)

    def reconstruct(*_: object) -> _Array:
        return _Array()

    def scalar(kind: _Dtype, content: bytes | str) -> Any:
        raw = content.encode("latin1") if isinstance(content, str) else content
        return _array(kind, raw, 1)[0]

    def encode(text: str, codec: str) -> bytes:
        # Protocol 2 writes bytes as latin-1 text.
        if codec not in ("latin1", "latin-1"):
            raise _Refused(f"the codec {codec!r}")
        return text.encode("latin-1")

    def ndarray(*_: object) -> None:
        raise _Refused("an array made in an unusual way")

    known: dict[tuple[str, str], Any] = {
        ("builtins", "set"): lambda items=(): set(items),
        ("builtins", "frozenset"): lambda items=(): frozenset(items),
        ("builtins", "bytes"): lambda: b"",
        ("builtins", "complex"): lambda real, imaginary: complex(float(real), float(imaginary)),
        ("_codecs", "encode"): encode,
        ("numpy", "ndarray"): ndarray,
        ("numpy", "dtype"): dtype,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        known |= {(core, "_reconstruct"): reconstruct, (core, "scalar"): scalar}
    return known


def _plain(value: Any) -> Any:
    """Stand-ins replaced by what they stand for, at any depth."""
    if isinstance(value, _Array):
        return _plain(value.content)
    if isinstance(value, _Dtype):
        return value.numpy()
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value
