"""Files and JSON that anybody may have written: read within bounds, or refused.

A small file can cost hours, and a pipe or a device never ends. What is read here is a regular
file of a size that was asked for, and JSON that is nested no deeper than people nest it. A path
that a table names stays in its folder.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

MAX_JSON_BYTES = 1 << 28
_MAX_DEPTH = 64


def read(path: Path, limit: int) -> bytes:
    """All of a regular file, links followed.

    Raises:
        OSError: missing, unreadable, a pipe or a device, or larger than ``limit`` bytes.
    """
    with opened(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"is larger than {limit:,} bytes", str(path))
    return data


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A regular file, links followed, to read from.

    Raises:
        OSError: missing, unreadable, a pipe or a device.
    """
    with open(path, "rb", opener=_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        yield file


def _at_once(path: str, flags: int) -> int:
    """Open a file; a pipe would wait for somebody to write into it."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_text(path: Path, limit: int) -> str:
    """All of a regular file of UTF-8 text, with or without a byte order mark.

    Raises:
        OSError: as :func:`read`.
        ValueError: it is not UTF-8.
    """
    try:
        return read(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: as :func:`read`.
        ValueError: it is not UTF-8, no JSON, or nested too deep.
    """
    return parse_json(read_text(path, limit))


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text stands for.

    Raises:
        ValueError: no JSON, or nested too deep.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"is nested deeper than {_MAX_DEPTH}") from None
    if is_deeper(value, _MAX_DEPTH):
        raise ValueError(f"is nested deeper than {_MAX_DEPTH}")
    return value


class Limited:
    """At most ``limit`` bytes of a stream. Memory is taken for what is there, not what is promised.

    Raises:
        OSError: there is more.
    """

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file, self._limit, self._left = file, limit, limit

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, fewer at the end; all that are left where it is negative."""
        wanted = self._left + 1 if size < 0 else size
        if wanted <= _PORTION:
            return self._counted(self._file.read(wanted))
        parts: list[bytes] = []
        while wanted and (part := self._counted(self._file.read(min(wanted, _PORTION)))):
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def readline(self) -> bytes:
        """The next line, with its end."""
        return self._counted(self._file.readline(self._left + 1))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise OSError(errno.EFBIG, f"holds more than {self._limit:,} bytes")
        return data


_PORTION = 1 << 20


def is_deeper(document: Any, depth: int) -> bool:
    """Whether arrays and objects are nested beyond ``depth``; told without recursion."""
    level = [document] if isinstance(document, dict | list) else []
    for _ in range(depth):
        inside = [node.values() if isinstance(node, dict) else node for node in level]
        level = [child for nodes in inside for child in nodes if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def locate(root: Path, name: str) -> Path:
    """Path of ``name`` below ``root``, in the Unicode form that the disk has it in.

    Raises:
        ValueError: it would leave the root, by its name or by a symbolic link.
    """
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError("lies outside the corpus")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise ValueError("has a name that no file can have") from None
    if "\0" in name:
        raise ValueError("has a name that no file can have")
    path = root / parts
    if not name.isascii():
        path = _as_on_disk(root, parts)
    for depth in range(len(parts.parts)):
        require_inside(root, root.joinpath(*path.relative_to(root).parts[: depth + 1]))
    return path


def require_inside(root: Path, path: Path) -> None:
    """Refuse a symbolic link that leads out of the corpus.

    Raises:
        ValueError: it does.
    """
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(_real(root)):
        name = shown(path.relative_to(root).as_posix())
        raise ValueError(
            f"lies outside the corpus: {name} is a link that leads out of it; "
            "point --root at the real folder"
        )


def shown(name: str) -> str:
    """A file's name on one line, whatever it consists of."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _as_on_disk(root: Path, parts: PurePosixPath) -> Path:
    """The path with each name in a form that exists: macOS composes accents in its own way."""
    path = root
    for name in parts.parts:
        forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
        path /= next((form for form in forms if os.path.lexists(path / form)), name)
    return path


@lru_cache(maxsize=16)
def _real(root: Path) -> Path:
    return Path(os.path.realpath(root))
