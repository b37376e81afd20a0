"""Tables as people save them, to columns as they stand: whichever encoding, separator and quotes.

What a table means is checked by :mod:`spamo_cache.datasets.columns`; here no cell may get lost or
end up in another row.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from spamo_cache import bounded
from spamo_cache.datasets import columns
from spamo_cache.errors import CorpusError

# UTF-32's marks begin like UTF-16's, so they are asked for first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_LINE_END = re.compile(r"\r\n|\r|\n")
_ONE_PER_LINE = "write one clip per line, each an object of its own, without a list round them"
_LARGEST = 1 << 32
"""Bytes of a table: millions of clips, and key points beside them."""
_LONGEST_CELL = 1 << 26
"""Characters; the csv module's own limit of 131,072 is less than a clip's key points."""


def decoded(path: Path) -> str:
    """Text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        CorpusError: in another encoding; the first byte that does not fit is named.
        OSError: the file cannot be read.
    """
    data = bounded.read(path, _LARGEST)
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    data, encoding = data[len(mark) :], _MARKS.get(mark, "utf-8")
    if not mark and b"\0" in data[:4]:
        raise CorpusError(
            "looks like UTF-16 without a byte order mark",
            where=path,
            remedy="save it as UTF-8 (in Excel: “CSV UTF-8”)",
        )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CorpusError(
            f"is not {encoding.upper()} text: byte 0x{data[error.start]:02X} in line {line:,}",
            where=path,
            remedy="save it as UTF-8 (in Excel: “CSV UTF-8”)",
        ) from None


def read_separated(path: Path) -> tuple[pa.Table, list[str]]:
    """Columns of text of a CSV or TSV file, and remarks about it.

    The separator is inferred from the header (or from Excel's line ``sep=;``). Where it is
    a tab, a quote is a character like others, though cells that a spreadsheet has wrapped in quotes
    are unwrapped; everywhere else quotes are those of RFC 4180.

    Raises:
        CorpusError: another encoding, a quote that is not closed, or a row that has more or fewer
            cells than the header; the row is named.
        OSError: the file cannot be read.
    """
    text = decoded(path).lstrip("\r\n")
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    separator = ""
    if text[:4].lower() == "sep=":
        separator = text[4:5]
        text = text[5:].lstrip("\r\n")
    separator = separator or _separator(text, usual)
    notes = []
    if separator != usual:
        notes.append(f"its cells are separated by {_SEPARATORS.get(separator, repr(separator))}s")
    table = _parsed(text, separator, path)
    if separator == "\t":
        table, unwrapped = _unwrapped(table)
        notes += _count("cells without the quotes that were put round them", unwrapped)
    elif separator == ";":
        table = _with_decimal_points(table)
    table, nameless, empty = _without_blanks(table)
    notes += _count("columns without a name left out", nameless)
    notes += _count("empty rows left out", empty)
    return table, notes


def read_json_lines(path: Path) -> tuple[pa.Table, list[str]]:
    """Columns of a file with a JSON object per line; numbers may be texts, and texts times.

    Raises:
        CorpusError: a line is no object, or a column mixes kinds of values.
        OSError: the file cannot be read.
    """
    text = decoded(path)
    schema = pa.schema(columns.KINDS)
    parse = pa.json.ParseOptions(explicit_schema=schema, newlines_in_values=False)
    try:
        table = pa.json.read_json(_memory(text), parse_options=parse)
    except pa.ArrowInvalid:
        # Numbers for texts, rows of over a megabyte: pyarrow's fast way takes neither.
        return _from_objects(list(_objects(text, path)), path), []
    # The schema adds columns that the file may have in another case.
    written = [name for name in table.column_names if name not in columns.KINDS]
    others = {name.strip().lower() for name in written}
    return table.drop_columns([name for name in columns.KINDS if name in others]), []


def _memory(text: str) -> pa.BufferReader:
    """Text in memory of Arrow's own.

    A thread of its reader may let go of it while the interpreter shuts down; an object of Python's
    would abort the process there.
    """
    stream = pa.BufferOutputStream()
    stream.write(text.encode())
    return pa.BufferReader(stream.getvalue())


def _separator(text: str, usual: str) -> str:
    """The one by which the header falls into the most names that a manifest knows."""
    header = _LINE_END.split(text, maxsplit=1)[0]

    def known(separator: str) -> int:
        names = next(csv.reader([header], delimiter=separator), [])
        return len({name.strip().lower() for name in names} & columns.KINDS.keys())

    return max([usual, *_SEPARATORS], key=known)


def _parsed(text: str, separator: str, path: Path) -> pa.Table:
    """Columns of text, empty cells null, under the header's names as they stand."""
    quotes = separator != "\t"
    header = next(_rows(text, separator, path), [])
    if quotes and '"' in text:
        _check_quotes(text, separator, path)
    # pyarrow cannot tell columns of one name apart.
    numbers = [str(number) for number in range(len(header))]
    read = pa.csv.ReadOptions(column_names=numbers, skip_rows_after_names=1)
    parse = pa.csv.ParseOptions(
        delimiter=separator, quote_char='"' if quotes else False, newlines_in_values=quotes
    )
    # Everything is read as text: an id of 007 stays one, and faults can name their row.
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(numbers, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    try:
        table = pa.csv.read_csv(
            _memory(text),
            read_options=read,
            parse_options=parse,
            convert_options=convert,
        )
    except pa.ArrowInvalid as error:
        for number, cells in enumerate(_rows(text, separator, path)):
            if len(cells) != len(header):
                shown = f" ({header[0][:60]!r})" if len(header) == 1 else ""
                raise CorpusError(
                    f"row {number} has {len(cells)} cells where the header has {len(header)}"
                    f"{shown}",
                    where=path,
                    remedy="correct this row; a cell that holds a separator needs quotes round it"
                    if quotes
                    else "correct this row; no cell may hold a tab or a line break",
                ) from None
        raise CorpusError(f"cannot be read: {' '.join(str(error).split())}", where=path) from None
    return table.rename_columns(header)


def _check_quotes(text: str, separator: str, path: Path) -> None:
    """Refuse a cell in quotes that has swallowed rows; pyarrow reads on to the next quote.

    Line breaks within a cell are fine, unless what stands between two of them is a row itself, or
    the first line holds the rest of a row and the last one the beginning of another.
    """
    rows = _rows(text, separator, path)
    separators = len(next(rows, [])) - 1
    for number, cells in enumerate(rows, 1):
        for index, cell in enumerate(cells):
            if not separators or ("\n" not in cell and "\r" not in cell):
                continue
            first, *inner, last = (line.count(separator) for line in _LINE_END.split(cell))
            joined = first >= separators - index and last >= index
            if joined or any(count >= separators for count in inner):
                raise _unclosed(f"row {number}: a quote opens a cell that holds whole rows", path)


def _rows(text: str, separator: str, path: Path) -> Iterator[list[str]]:
    """Rows that are not blank, the header first.

    Raises:
        CorpusError: quotes that do not match.
    """
    if separator == "\t":
        yield from (line.split("\t") for line in _LINE_END.split(text) if line)
        return
    limit = csv.field_size_limit(_LONGEST_CELL)
    number = 0
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            if row:
                yield row
                number += 1
    except csv.Error as error:
        unclosed = "unexpected end" in str(error)
        fault = "a quote is not closed" if unclosed else "text follows the quote that closes a cell"
        raise _unclosed(f"{f'row {number}' if number else 'the header'}: {fault}", path) from None
    finally:
        csv.field_size_limit(limit)


def _unclosed(what: str, path: Path) -> CorpusError:
    return CorpusError(
        what, where=path, remedy='close the quote, or write a quote within a cell as ""'
    )


def _unwrapped(table: pa.Table) -> tuple[pa.Table, int]:
    """Cells that stand in quotes, those inside doubled, as they were meant.

    Returns:
        The table, and the number of these cells; 0 where the header shows that all are written so.
    """
    count = 0
    for index, name in enumerate(table.column_names):
        cells = table.column(index)
        inside = pc.utf8_slice_codeunits(cells, 1, -1)
        whole = pc.match_substring_regex(cells, r'(?s)^".*"$')
        lone = pc.match_substring(pc.replace_substring(inside, '""', ""), '"')
        wrapped = pc.fill_null(pc.and_not(whole, lone), fill_value=False)
        count += pc.sum(wrapped).as_py() or 0
        bare = pc.replace_substring(inside, '""', '"')
        bare = pc.if_else(pc.equal(bare, ""), None, bare)
        table = table.set_column(index, name, pc.if_else(wrapped, bare, cells))
    header = [name[1:-1] if re.fullmatch('".*"', name) else name for name in table.column_names]
    return table.rename_columns(header), count if header == table.column_names else 0


def _with_decimal_points(table: pa.Table) -> pa.Table:
    """Times as ``1.5`` where a spreadsheet of many a country writes ``1,5``."""
    for index, name in enumerate(table.column_names):
        if columns.KINDS.get(name.strip().lower()) == pa.float64():
            points = pc.replace_substring_regex(
                table.column(index), r"^(\s*\d+),(\d+\s*)$", r"\1.\2"
            )
            table = table.set_column(index, name, points)
    return table


def _without_blanks(table: pa.Table) -> tuple[pa.Table, int, int]:
    """Without columns that have no name and rows that hold nothing, and how many held what.

    Spreadsheets save both; a nameless column that does hold something is mostly a row number.
    """
    named = [index for index, name in enumerate(table.column_names) if name.strip()]
    nameless = [index for index in range(table.num_columns) if index not in named]
    full = sum(table.column(index).null_count < table.num_rows for index in nameless)
    table = table.select(named)
    holds = pa.chunked_array([pa.array([False] * table.num_rows, pa.bool_())])
    for column in table.columns:
        holds = pc.or_(holds, pc.is_valid(column))
    kept = table.filter(holds)
    return kept, full, table.num_rows - kept.num_rows


def _count(what: str, number: int) -> list[str]:
    return [f"{what}: {number:,}"] if number else []


def _objects(text: str, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_LINE_END.split(text), 1):
        if not line.strip():
            continue
        try:
            row = bounded.parse_json(line)
        except json.JSONDecodeError as error:
            fault = f"line {number} is no JSON: {error.msg} at character {error.colno}"
            raise CorpusError(fault, where=path, remedy=_ONE_PER_LINE) from None
        except ValueError as error:
            raise CorpusError(f"line {number} {error}", where=path) from None
        if not isinstance(row, dict):
            raise CorpusError(f"line {number} is no JSON object", where=path, remedy=_ONE_PER_LINE)
        yield row


def _from_objects(rows: Sequence[dict[str, Any]], path: Path) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    data = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if (known := name.strip().lower()) in columns.KINDS:
            values = [_as_text(value, known, path) for value in values]
        try:
            data[name] = pa.array(values)
        except (pa.ArrowException, OverflowError) as error:
            fault = f"column {name!r} mixes kinds of values: {error}"
            raise CorpusError(fault, where=path) from None
    return pa.table(data)


def _as_text(value: Any, column: str, path: Path) -> str | None:
    """A value as CSV would hold it, which is then read in the column's own kind."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict | list | bool) and not (column == "crop" and isinstance(value, list)):
        fault = f"column {column!r} holds {json.dumps(value)[:60]}, neither a text nor a number"
        raise CorpusError(fault, where=path)
    return json.dumps(value)
