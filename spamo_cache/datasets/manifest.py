"""The manifest: one row per clip, the only thing later stages know about a corpus.

People write CSV, TSV or JSON Lines; it is kept as Parquet. A manifest in memory is always valid:
whatever builds one goes through ``spamo_cache.datasets.columns.checked``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from spamo_cache import io
from spamo_cache.config import NAME_PATTERN, TextConfig
from spamo_cache.datasets import columns, tables
from spamo_cache.errors import CorpusError, UsageError, remedy

_CORPUS_KEY = b"spamo_cache.corpus"
_NOTES_KEY = b"spamo_cache.notes"
_TEXT_KEY = b"spamo_cache.text"
_RESPLIT_KEY = b"spamo_cache.resplit"
_REPEATED = ("split", "source", "pose", "language", "gloss", "signer")
"""Columns whose values are often equal."""

DEV_SPLITS = ("dev", "val", "validation")
"""Names under which corpora keep the split that weights are selected on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One sentence-level video; ``extra`` holds ``text_<lang>`` and whatever else the table has."""

    id: str
    split: str
    source: str
    """POSIX path relative to the corpus root: a video file, a folder of frames, or a glob."""
    start: float | None = None
    """Seconds from the beginning of the video; None is its beginning."""
    end: float | None = None
    """Seconds from the beginning of the video; None is its end."""
    crop: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1 as shares of width and height."""
    pose: str | None = None
    """POSIX path of a ``.pose`` file relative to the corpus root; it begins with the source."""
    text: str
    language: str
    gloss: str | None = None
    signer: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Clips of one corpus as a table whose columns are checked.

    Build one with ``from_clips`` or ``read``. ``notes`` says what a reader could not use
    or found odd; ``text`` is the convention that is applied to the raw text at training and
    scoring, None where none is recorded; ``resplit`` says how the clips were split anew, as in
    ``fold 2 of 5 by signer, seed 0``, and is empty for a corpus's own splits. All three travel
    with the Parquet file.
    """

    corpus: str
    table: pa.Table
    notes: tuple[str, ...] = ()
    text: TextConfig | None = None
    resplit: str = ""

    def __post_init__(self) -> None:
        # It names folders and prefixes on servers, on which not all agree how to write "ö".
        if not re.fullmatch(NAME_PATTERN, self.corpus):
            raise UsageError(
                f"{self.corpus!r} cannot be the name of a corpus",
                remedy="use at most 64 letters from A to Z, digits, '.', '-' and '_', beginning "
                "with a letter or digit",
            )

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def splits(self) -> list[str]:
        """Names of the splits in the order in which they first appear."""
        return [str(name) for name in pc.unique(self.table["split"]).to_pylist()]

    def select(self, splits: Iterable[str]) -> Manifest:
        """Only the clips of these splits.

        Raises:
            UsageError: a split that the manifest does not have.
        """
        wanted = list(splits)
        if unknown := sorted(set(wanted) - set(self.splits)):
            raise UsageError(
                f"corpus {self.corpus} has no split {unknown[0]!r}",
                remedy=f"choose among {', '.join(self.splits)}",
            )
        return self.keep(pc.is_in(self.table["split"], value_set=pa.array(wanted, pa.string())))

    def keep(self, mask: Sequence[bool]) -> Manifest:
        """Only the clips that ``mask``, one value each, says True of."""
        return replace(self, table=self.table.filter(mask))

    def clips(self, split: str | None = None) -> list[Clip]:
        """All clips, or those of one split, in the order of the table.

        Raises:
            UsageError: a split that the manifest does not have.
        """
        table = self.table if split is None else self.select([split]).table
        others = [name for name in table.column_names if name not in columns.KINDS]
        known = [_values(name, table[name]) for name in columns.KINDS]
        rest: Iterable[Mapping[str, Any]] = repeat({})
        if others:
            cells = zip(*(table[name].to_pylist() for name in others), strict=True)
            rest = (
                {key: value for key, value in zip(others, row, strict=True) if value is not None}
                for row in cells
            )
        return list(map(_clip, *known, rest))

    def values(self, column: str) -> list[str | None]:
        """A column as text, a value per clip; None where it has none.

        Raises:
            UsageError: there is no such column.
        """
        if column not in self.table.column_names:
            raise UsageError(
                f"the manifest of {self.corpus} has no column {column!r}",
                remedy=f"choose among {', '.join(self.table.column_names)}",
            )
        write = columns.crop_text if column == "crop" else _as_text
        found = (write(value) for value in self.table[column].to_pylist())
        return [text if text and not text.isspace() else None for text in found]

    def limit(self, count: int) -> Manifest:
        """A sample of at most ``count`` clips of each split, the same on every machine.

        Clips are ranked by the hash of their id, so a sample is spread over the corpus and a
        larger one contains every smaller one.
        """
        if count < 1:
            raise UsageError(f"a sample of {count} clips", remedy="ask for one clip or more")
        groups: dict[str, list[tuple[bytes, int]]] = {}
        pairs = zip(self.table["split"].to_pylist(), self.table["id"].to_pylist(), strict=True)
        for row, (split, clip) in enumerate(pairs):
            rank = hashlib.sha256(clip.encode("utf-8", "surrogatepass")).digest()
            groups.setdefault(split, []).append((rank, row))
        rows = sorted(row for group in groups.values() for _, row in sorted(group)[:count])
        return replace(self, table=self.table.take(pa.array(rows, pa.int64())))

    @classmethod
    def from_clips(cls, corpus: str, clips: Iterable[Clip], notes: Iterable[str] = ()) -> Manifest:
        """Check clips and put them into a table.

        Raises:
            CorpusError: there are none, with the notes on why; or faulty ones, the first of their
                rows and columns named.
        """
        listed, notes = list(clips), tuple(notes)
        if not listed:
            what = "\n    ".join(["no clip was found", *notes])
            raise CorpusError(
                what,
                where=f"corpus {corpus}",
                remedy="put the files that it lacks into the corpus folder",
            )
        known = list(columns.KINDS)
        others = sorted({key for clip in listed for key in clip.extra})
        data: dict[str, list[Any]] = {name: [getattr(c, name) for c in listed] for name in known}
        data |= {key: [clip.extra.get(key) for clip in listed] for key in others}
        table = pa.table({name: _column(name, values) for name, values in data.items()})
        return cls(corpus, columns.checked(table, where=f"corpus {corpus}"), notes)

    @classmethod
    def read(cls, path: Path, corpus: str | None = None) -> Manifest:
        """Read a CSV, TSV, JSON Lines or Parquet file; its name says which.

        Args:
            path: file ending in .csv, .tsv, .jsonl, .ndjson or .parquet.
            corpus: name of the corpus; None is the one that a Parquet file keeps.

        Raises:
            UsageError: no such file, or nothing says which corpus this is.
            CorpusError: unreadable file, missing column, or faulty rows (the first are named).
        """
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise CorpusError(
                f"{path.suffix or 'a name without suffix'!r} is no kind of manifest",
                where=path,
                remedy=f"use one of {', '.join(_READERS)}",
            )
        try:
            raw, remarks = reader(path)
            raw.validate(full=True)  # texts that are no UTF-8
            metadata = raw.schema.metadata or {}
            notes = (*json.loads(metadata.get(_NOTES_KEY, b"[]")), *remarks)
            convention = metadata.get(_TEXT_KEY)
            text = None if convention is None else TextConfig.model_validate_json(convention)
            own = metadata.get(_CORPUS_KEY, b"").decode()
            resplit = metadata.get(_RESPLIT_KEY, b"").decode()
        except FileNotFoundError:
            raise UsageError("no such manifest", where=path, remedy="check the path") from None
        except PermissionError as error:
            reason = "you have no permission to read the manifest"
            raise UsageError(reason, where=path, remedy=remedy(error)) from None
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise CorpusError(f"the manifest cannot be read: {reason}", where=path) from None
        table = columns.checked(raw, where=path)
        name = corpus or own
        if not name:
            raise UsageError(
                "the table does not say which corpus it describes",
                where=path,
                remedy="name the corpus by --dataset NAME (dataset= or corpus= in Python)",
            )
        return cls(name, table, notes, text, resplit)

    def to_bytes(self) -> bytes:
        """As Parquet, name, notes and convention in its metadata; of equal manifests the same."""
        metadata = {_CORPUS_KEY: self.corpus, _NOTES_KEY: json.dumps(self.notes)}
        if self.text is not None:
            metadata[_TEXT_KEY] = self.text.model_dump_json()
        if self.resplit:
            metadata[_RESPLIT_KEY] = self.resplit
        # In one piece: how a table came to be must not show.
        table = self.table.replace_schema_metadata(metadata).combine_chunks()
        memory = BytesIO()
        pq.write_table(table, memory, compression="zstd")
        return memory.getvalue()

    def write(self, path: Path) -> Path:
        """Write Parquet, whole or not at all; see ``to_bytes``."""
        return _atomically(path, self.to_bytes())

    def write_csv(self, path: Path) -> Path:
        """Write CSV that ``read`` takes back.

        A crop box is ``x0,y0,x1,y1`` in one cell, further columns of lists are JSON.
        """
        table = self.table
        for position, field_ in enumerate(table.schema):
            if pa.types.is_nested(field_.type):
                write = columns.crop_text if field_.name == "crop" else _as_json
                cells = pa.array(map(write, table.column(position).to_pylist()), pa.string())
                table = table.set_column(position, field_.name, cells)
        memory = BytesIO()
        pa.csv.write_csv(table, memory)
        return _atomically(path, memory.getvalue())


def _clip(  # noqa: PLR0917 - in the order of the columns
    clip: str,
    split: str,
    source: str,
    start: float | None,
    end: float | None,
    crop: tuple[float, float, float, float] | None,
    pose: str | None,
    text: str,
    language: str,
    gloss: str | None,
    signer: str | None,
    extra: Mapping[str, Any],
) -> Clip:
    return Clip(
        id=clip,
        split=split,
        source=source,
        start=start,
        end=end,
        crop=crop,
        pose=pose,
        text=text,
        language=language,
        gloss=gloss,
        signer=signer,
        extra=extra,
    )


def _values(name: str, column: pa.ChunkedArray) -> list[Any]:
    """A column's values; what repeats is one object, so that a million clips stay small."""
    array = column.combine_chunks()
    if name == "crop":
        return _boxes(array)
    if name not in _REPEATED:
        return list(array.to_pylist())
    encoded = array.dictionary_encode()
    words = [*encoded.dictionary.to_pylist(), None]
    indices = pc.fill_null(encoded.indices, len(words) - 1).to_pylist()
    return [words[index] for index in indices]


def _boxes(array: pa.ListArray) -> list[Any]:
    edges = iter(array.flatten().to_pylist())
    known: dict[Any, Any] = {}
    boxes = (known.setdefault(box, box) for box in zip(edges, edges, edges, edges, strict=True))
    return [next(boxes) if present else None for present in array.is_valid().to_pylist()]


def _as_text(value: Any) -> str | None:
    return value.strip() if isinstance(value, str) else _as_json(value)


def _as_json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _column(name: str, values: list[Any]) -> pa.Array:
    kind = columns.KINDS.get(name)
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise CorpusError(f"column {name!r} mixes kinds of values: {error}") from None


def _read_parquet(path: Path) -> tuple[pa.Table, list[str]]:
    return pq.ParquetFile(path).read(), []


_READERS: dict[str, Callable[[Path], tuple[pa.Table, list[str]]]] = {
    ".csv": tables.read_separated,
    ".tsv": tables.read_separated,
    ".jsonl": tables.read_json_lines,
    ".ndjson": tables.read_json_lines,
    ".parquet": _read_parquet,
}


def _atomically(path: Path, data: bytes) -> Path:
    io.write_output(path, data, "the manifest", CorpusError)
    return path
