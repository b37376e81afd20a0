"""Finding things below a corpus root whose layout differs from lab to lab."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from spamo_cache import bounded
from spamo_cache.errors import CorpusError

SHOWN = 3
_MAX_BYTES = 1 << 30

ABSENT = "clips whose video is missing"
"""Begins the note of a reader that found labels without their video."""


def require_root(root: Path) -> Path:
    """The root itself, if it is a folder that can be listed.

    Raises:
        CorpusError: missing, a file, or unreadable.
    """
    try:
        with os.scandir(root):
            return root
    except OSError as error:
        told = (error.strerror or str(error)).lower()
        raise CorpusError(
            f"the corpus root cannot be read: {told}", where=root, remedy="check --root"
        ) from None


def first_folder(root: Path, candidates: Iterable[str]) -> str | None:
    """The first candidate (path relative to ``root``, globs allowed) that is a folder."""
    for candidate in candidates:
        for path in sorted(root.glob(candidate)):
            if path.is_dir():
                return path.relative_to(root).as_posix()
    return None


def require_folder(root: Path, candidates: Sequence[str]) -> str:
    """As :func:`first_folder`.

    Raises:
        CorpusError: there is none; the likeliest candidate is named.
    """
    found = first_folder(root, candidates)
    if found is None:
        raise CorpusError(
            "no folder of clips found",
            where=root,
            remedy=f"expected {candidates[0]} below the corpus root",
        )
    return found


def first_files(root: Path, candidates: Iterable[str]) -> list[Path]:
    """All files of the first candidate pattern that has any, sorted."""
    for candidate in candidates:
        found = sorted(path for path in root.glob(candidate) if path.is_file())
        if found:
            return found
    return []


def no_such_file(root: Path, name: str) -> CorpusError:
    """The error of a root that lacks the file that makes it this corpus."""
    return CorpusError(
        f"no {name}", where=root, remedy=f"the root is the folder of the corpus that holds {name}"
    )


def names_in(folder: Path) -> set[str]:
    """Names standing in a folder; empty where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def read_text(path: Path) -> str:
    """UTF-8 text of a label file, with or without a byte order mark.

    Raises:
        CorpusError: not to be opened, or in another encoding.
    """
    try:
        return bounded.read(path, _MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"is not UTF-8 text (byte {error.start})", where=path, remedy="fetch the file again"
        ) from None
    except OSError as error:
        raise CorpusError(f"cannot be read: {error.strerror}", where=path) from None


def rows_of(path: Path, delimiter: str, required: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a table with a header whose cells never hold the delimiter; no quoting.

    Raises:
        CorpusError: a column is missing or a row has another number of cells.
    """
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    header = [name.strip() for name in lines[0].split(delimiter)] if lines else []
    missing = [name for name in required if name not in header]
    if missing:
        raise CorpusError(
            f"the label file has no column {missing[0]!r}",
            where=path,
            remedy=f"expected {delimiter.join(required)!r}, found {delimiter.join(header)!r}",
        )
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.rstrip("\r").split(delimiter)
        if len(cells) != len(header):
            raise CorpusError(
                f"line {number} has {len(cells)} cells where the header has {len(header)}",
                where=path,
                remedy="fetch the file again",
            )
        rows.append(dict(zip(header, cells, strict=True)))
    return rows


def one_sided(one: str, names: Collection[str], other: str, others: Collection[str]) -> list[str]:
    """Notes on names that only one of two files has, called ``one`` and ``other``."""
    return [
        *tally(f"in {one} but not in {other}", set(names).difference(others)),
        *tally(f"in {other} but not in {one}", set(others).difference(names)),
    ]


def tally(what: str, names: Iterable[str]) -> list[str]:
    """One note counting ``names``, with the first few spelled out; none if there are none."""
    listed = sorted(names)
    if not listed:
        return []
    more = "" if len(listed) <= SHOWN else ", ..."
    return [f"{what}: {len(listed):,} ({', '.join(listed[:SHOWN])}{more})"]
