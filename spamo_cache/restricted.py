"""Pickled files read as data: nothing that a file names is ever called.

Two corpora come with pickles, and so do features that labs share. A pickle is a small program; here
it may build containers, text, numbers and arrays of them, and the first other name in it is an
error. Even NumPy's own reconstruction is replaced by plain Python, because ``dtype.__setstate__``
believes flags from the file and an object array with false flags takes bytes for pointers. Tensors
of torch are read where features are expected, by the same means: they become arrays.

A small program can also ask for a lot: 170 bytes describe a list of 2**50 items. Size, steps,
nesting and the number of values are therefore bounded.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import tokenize
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from spamo_cache import bounded
from spamo_cache.errors import CorpusError, SpamoError, StoreError

_CODE = re.compile(r"[<>|=]?(?:[bB?]1?|[iufcSU]\d+|O8?)")
_MAX_BYTES = 1 << 27
_MAX_ARRAY_BYTES = 1 << 30
_MAX_STEPS = 10_000_000
_MAX_VALUES = 5_000_000
_MAX_DEPTH = 50
_MAX_BITS = 1024
"""Of a whole number. For comparison: CSL-Daily's labels take 3 million steps."""
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
    struct.error,
    tokenize.TokenError,
)


def load_pickle(path: Path) -> Any:
    """The plain data of a pickle; arrays come as NumPy arrays or nested lists of objects.

    Raises:
        CorpusError: missing, damaged, out of bounds, or naming anything but plain data.
    """
    return _loaded(path, _bytes_of(path))


def load_npy(path: Path) -> Any:
    """What an ``.npy`` file holds; a 0-d object array gives the object itself.

    Raises:
        CorpusError: missing, damaged, out of bounds, or naming anything but plain data.
    """
    data = _bytes_of(path)
    file = io.BytesIO(data)
    try:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        if dtype.hasobject:
            return _loaded(path, data[file.tell() :])
        if math.prod(shape) * dtype.itemsize > len(data):
            raise ValueError("it ends before its content")
        return np.load(io.BytesIO(data), allow_pickle=False)
    except _UNREADABLE as error:
        raise CorpusError(f"is no NumPy file: {error}", where=path) from None


class Stream(Protocol):
    """What is read of a file; see :class:`bounded.Limited`."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...


def load_features(file: Stream, where: object) -> Any:
    """The plain data of a pickle with arrays or torch tensors in it; tensors come as arrays.

    A file that ``torch.save`` wrote before torch 1.6 is a row of pickles, and is read as well.

    Args:
        file: at its beginning. Features are not copied; what is returned keeps all of it in memory.
        where: the file, for errors.

    Raises:
        StoreError: damaged, out of bounds, or naming anything but plain data, arrays and tensors.
    """
    return _explained(lambda: _Plain().of(_torch_or_pickle(file, _Budget())), where, StoreError)


_HEADERS: Mapping[tuple[int, int], Callable[[io.BytesIO], tuple[Any, bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _bytes_of(path: Path) -> bytes:
    try:
        return bounded.read(path, _MAX_BYTES)
    except OSError as error:
        raise CorpusError(f"cannot be read: {error.strerror}", where=path) from None


def _loaded(path: Path, data: bytes) -> Any:
    return _explained(
        lambda: _Plain().of(_Restricted(io.BytesIO(data), _Budget()).load()), path, CorpusError
    )


def _explained(load: Callable[[], Any], where: object, kind: type[SpamoError]) -> Any:
    try:
        return load()
    except _Refused as error:
        raise kind(
            f"the pickle asks for {error}, which plain data never need; nothing was run",
            where=where,
            remedy="do not trust this file; fetch it again from where it was published",
        ) from None
    except _UNREADABLE as error:
        raise kind(f"is no readable pickle: {error}", where=where) from None


class _Refused(Exception):  # noqa: N818
    pass


class _Budget:
    """The work that one file may cost."""

    def __init__(self) -> None:
        self.left = _MAX_STEPS
        self._bytes: dict[int, tuple[str, bytes]] = {}

    def bytes_of(self, text: str) -> bytes:
        """The bytes that stand as latin-1 text; made once, however often a file refers to them."""
        if id(text) not in self._bytes:
            # The text is kept, so that no other one gets its identity.
            self._bytes[id(text)] = text, text.encode("latin1")
        return self._bytes[id(text)][1]

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise _Refused(f"more than {_MAX_STEPS:,} steps")


class _Counted(dict[int, Any]):
    """A table of opcodes; each that is looked up costs a step."""

    def __init__(self, table: Mapping[int, Any], budget: _Budget) -> None:
        super().__init__(table)
        self._budget = budget

    def __getitem__(self, code: int) -> Any:
        self._budget.spend(1)
        return super().__getitem__(code)


_Unpickler: Any = pickle._Unpickler


# In Python, not in C: there a file can ask for a table of any size (PUT 2147483647) and end the
# process by the hash of a tuple in a tuple in a tuple, too deep for the stack.
class _Restricted(_Unpickler):  # type: ignore[misc]
    """Knows the few names and opcodes that builtin data and NumPy arrays are pickled with."""

    def __init__(
        self, file: Stream, budget: _Budget, storages: dict[str, _Storage] | None = None
    ) -> None:
        """Tensors are known where ``storages`` is given; those that stand outside go into it."""
        super().__init__(file, encoding="latin1")
        # Made anew for every file, so that no file can alter what the next one gets.
        self._known = _reconstructors(budget)
        self._storages = storages
        if storages is not None:
            self._known |= _tensor_names(budget)
        self.dispatch = _Counted(_Unpickler.dispatch | self._own, budget)

    def find_class(self, module: str, name: str) -> Any:
        try:
            # Protocols 0 to 2 know builtins by their name of old.
            return self._known[module.replace("__builtin__", "builtins"), name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", _Kind() as kind, str(key), str(), int(count), None):
                if self._storages is not None:
                    return self._storages.setdefault(key, _Storage(kind, count))
        raise _Refused(f"an outside object {pid!r:.100}")

    def _bytearray(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        if size > _MAX_ARRAY_BYTES:
            raise _Refused(f"a buffer of {size:,} bytes")
        # Never changed afterwards; and where less is left, less is made.
        self.append(self.read(size))

    def _checked_call(self) -> None:
        if not isinstance(self.stack[-1], tuple) or len(self.stack[-1]) > _MAX_ARGUMENTS:
            raise _Refused("an object made in an unusual way")
        self.load_reduce()

    def _checked_build(self) -> None:
        if not isinstance(self.stack[-2], _Array | _Dtype):
            raise _Refused("a change to an object that has no state")
        self.load_build()

    def _checked_item(self) -> None:
        _check_keys(self.stack[-2:-1])
        self.load_setitem()

    def _checked_items(self) -> None:
        _check_keys(self.stack[::2])
        self.load_setitems()

    def _checked_dict(self) -> None:
        _check_keys(self.stack[::2])
        self.load_dict()

    def _checked_members(self) -> None:
        _check_keys(self.stack)
        self.load_additems()

    def _checked_frozenset(self) -> None:
        _check_keys(self.stack)
        self.load_frozenset()

    def _unusual(self) -> None:
        raise _Refused("an object made in an unusual way")

    _own: ClassVar[dict[int, Any]] = {
        pickle.REDUCE[0]: _checked_call,
        pickle.BUILD[0]: _checked_build,
        pickle.SETITEM[0]: _checked_item,
        pickle.SETITEMS[0]: _checked_items,
        pickle.DICT[0]: _checked_dict,
        pickle.ADDITEMS[0]: _checked_members,
        pickle.FROZENSET[0]: _checked_frozenset,
        **dict.fromkeys(
            (
                *(pickle.NEWOBJ[0], pickle.NEWOBJ_EX[0], pickle.OBJ[0]),
                *(pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0]),
                *(pickle.NEXT_BUFFER[0], pickle.READONLY_BUFFER[0]),
            ),
            _unusual,
        ),
        # By pickle's own, its size is believed before its content is there.
        pickle.BYTEARRAY8[0]: _bytearray,
    }


_SCALARS = (str, bytes, int, float, complex, bool, type(None), np.generic)
_MAX_ARGUMENTS = 8


def _check_keys(keys: Iterable[object]) -> None:
    """Refuse what is slow to hash, or too deep for it."""
    for key in keys:
        flat = key if isinstance(key, tuple) else (key,)
        if len(flat) > _MAX_ARGUMENTS or not all(isinstance(one, _SCALARS) for one in flat):
            raise _Refused("a key that is no plain value")


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

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
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
        content = self._budget.bytes_of(raw) if isinstance(raw, str) else raw
        self.content = _array(dtype, content, count).reshape(
            tuple(shape), order="F" if fortran else "C"
        )


def _array(dtype: _Dtype, content: bytes, count: int) -> np.ndarray[Any, Any]:
    kind = dtype.numpy()
    if kind.hasobject or len(content) != kind.itemsize * count:
        raise pickle.UnpicklingError("an array whose shape and content disagree")
    return np.frombuffer(content, kind)


def _reconstructors(budget: _Budget) -> dict[tuple[str, str], Any]:
    def dtype(code: str, *_: object) -> _Dtype:
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise _Refused(f"a dtype {code!r:.100}")
        return _Dtype(code)

    def reconstruct(*_: object) -> _Array:
        return _Array(budget)

    def scalar(kind: _Dtype, content: bytes | str) -> Any:
        budget.spend(len(content))
        raw = content.encode("latin1") if isinstance(content, str) else content
        return _array(kind, raw, 1)[0]

    def encode(text: str, codec: str) -> bytes:
        # Protocol 2 writes bytes as latin-1 text.
        if codec not in ("latin1", "latin-1"):
            raise _Refused(f"the codec {codec!r:.100}")
        budget.spend(len(text) // 8)
        return text.encode("latin-1")

    def members(items: Sequence[object] = ()) -> set[object]:
        budget.spend(8 * len(items))
        _check_keys(items)
        return set(items)

    def ndarray(*_: object) -> None:
        raise _Refused("an array made in an unusual way")

    def frombuffer(raw: bytes, kind: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
        made = _Array(budget)
        made.__setstate__((1, shape, kind, order == "F", raw))
        return made

    known: dict[tuple[str, str], Any] = {
        ("builtins", "set"): members,
        ("builtins", "frozenset"): lambda items=(): frozenset(members(items)),
        ("builtins", "bytes"): lambda: b"",
        ("builtins", "complex"): lambda real, imaginary: complex(float(real), float(imaginary)),
        ("_codecs", "encode"): encode,
        ("numpy", "ndarray"): ndarray,
        ("numpy", "dtype"): dtype,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        known |= {(core, "_reconstruct"): reconstruct, (core, "scalar"): scalar}
    for core in ("numpy.core.numeric", "numpy._core.numeric"):
        known[core, "_frombuffer"] = frombuffer
    return known


# --- tensors --------------------------------------------------------------------------------------

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_PROTOCOL = 1001
_KINDS = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "BFloat16Storage": "bfloat16",
}
"""Names of torch's storages -> what they hold."""


class _Kind:
    """A class of storages that a pickle names."""

    def __init__(self, code: str) -> None:
        self.halves = code == "bfloat16"
        self.dtype = np.dtype("<u2" if self.halves else code)


class _Storage:
    """The numbers of tensors; those of a file of torch stand at its end."""

    def __init__(self, kind: _Kind, count: int) -> None:
        self.kind, self.count = kind, count
        self.content: NDArray[Any] | None = None

    def fill(self, raw: bytes | memoryview) -> None:
        if len(raw) != self.count * self.kind.dtype.itemsize:
            raise pickle.UnpicklingError("a storage of another size than its content")
        numbers = np.frombuffer(raw, self.kind.dtype)
        # Here and not by tensor: any number of them can share a storage.
        self.content = (numbers.astype("<u4") << 16).view("<f4") if self.kind.halves else numbers


class _Tensor:
    """A tensor as pickled: a place in a storage."""

    def __init__(self, storage: object, offset: object, size: object, stride: object) -> None:
        numbers = (offset, *_tuple(size), *_tuple(stride))
        if not isinstance(storage, _Storage) or len(_tuple(size)) != len(_tuple(stride)):
            raise _Refused("a tensor made in an unusual way")
        if not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
            raise pickle.UnpicklingError("a tensor of an impossible shape")
        self.storage, self.offset = storage, offset
        self.size, self.stride = _tuple(size), _tuple(stride)

    def numpy(self) -> NDArray[Any]:
        content = self.storage.content
        if content is None:
            raise pickle.UnpicklingError("a tensor without its numbers")
        last = sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        count = math.prod(self.size)
        # A tensor may repeat its numbers without end; features never do.
        if count and (count > len(content) or self.offset + last >= len(content)):
            raise pickle.UnpicklingError("a tensor larger than its storage")
        base = content[self.offset :] if count else content[:0]
        steps = tuple(step * content.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(base, self.size, steps, writeable=False)


def _tuple(value: object) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else ()


def _tensor_names(budget: _Budget) -> dict[tuple[str, str], Any]:
    storages: dict[int, tuple[bytes, object]] = {}

    def storage(raw: bytes | str) -> object:
        data = budget.bytes_of(raw) if isinstance(raw, str) else raw
        if not isinstance(data, bytes):
            raise _Refused("a tensor made in an unusual way")
        if id(data) not in storages:
            storages[id(data)] = data, _torch(io.BytesIO(data), budget)
        return storages[id(data)][1]

    def tensor(kept: object, offset: object, size: object, stride: object, *_: object) -> _Tensor:
        return _Tensor(kept, offset, size, stride)

    known: dict[tuple[str, str], Any] = {
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch.storage", "_load_from_bytes"): storage,
        # Of hooks, of which there are none; and of the dictionaries of older scripts.
        ("collections", "OrderedDict"): dict,
    }
    for module in ("torch", "torch.cuda"):
        known |= {(module, name): _Kind(code) for name, code in _KINDS.items()}
    return known


def _torch_or_pickle(file: Stream, budget: _Budget) -> object:
    first = _Restricted(file, budget, {}).load()
    is_torch = type(first) is int and first == _TORCH_MAGIC
    return _torch(file, budget, begun=True) if is_torch else first


def _torch(file: Stream, budget: _Budget, *, begun: bool = False) -> object:
    """What ``torch.save`` wrote before it wrote archives; tensors still pickle their numbers so."""
    magic: object = _TORCH_MAGIC if begun else _Restricted(file, budget).load()
    protocol: object = _Restricted(file, budget).load()
    system = _Restricted(file, budget).load()
    if (magic, protocol) != (_TORCH_MAGIC, _TORCH_PROTOCOL) or not isinstance(system, dict):
        raise pickle.UnpicklingError("no file of torch")
    if system.get("little_endian") is not True:
        raise pickle.UnpicklingError("numbers of a big-endian machine")
    storages: dict[str, _Storage] = {}
    made: object = _Restricted(file, budget, storages).load()
    for key in _Restricted(file, budget).load():
        kept = storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count != kept.count:
            raise pickle.UnpicklingError("a storage of another size than its content")
        kept.fill(file.read(count * kept.kind.dtype.itemsize))
    return made


class _Plain:
    """Stand-ins replaced by what they stand for; what is shared stays shared.

    Written out, a document of shared lists can be larger than any memory: values are counted as
    often as they stand in it.
    """

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, int, int]] = {}
        """Identity of a container -> what it became, its values, how deep they are nested."""

    def of(self, value: Any) -> Any:
        """The plain data of what an unpickler has made."""
        return self._walk(value, 0)[0]

    def _walk(self, value: Any, depth: int) -> tuple[Any, int, int]:
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise _Refused(f"a number of more than {_MAX_BITS} bits")
        if not isinstance(value, _Array | _Dtype | _Tensor | dict | list | tuple):
            return value, 1, 0
        if id(value) not in self._done:
            if depth > _MAX_DEPTH:
                raise _Refused(f"data nested deeper than {_MAX_DEPTH}, or in itself")
            self._done[id(value)] = self._open(value, depth + 1)
        done, count, deep = self._done[id(value)]
        if count > _MAX_VALUES:
            raise _Refused(f"more than {_MAX_VALUES:,} values")
        if depth + deep > _MAX_DEPTH:
            raise _Refused(f"data nested deeper than {_MAX_DEPTH}")
        return done, count, deep

    def _open(self, value: Any, depth: int) -> tuple[Any, int, int]:
        if isinstance(value, _Array):
            return self._walk(value.content, depth)
        if isinstance(value, _Dtype | _Tensor):
            return value.numpy(), 1, 0
        inside = value.values() if isinstance(value, dict) else value
        walked = [self._walk(item, depth) for item in inside]
        items = [item for item, _, _ in walked]
        made = dict(zip(value, items, strict=True)) if isinstance(value, dict) else items
        count = 1 + sum(count for _, count, _ in walked)
        return (
            tuple(items) if isinstance(value, tuple) else made,
            count,
            1 + max((deep for _, _, deep in walked), default=0),
        )
