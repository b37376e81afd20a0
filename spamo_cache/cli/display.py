"""What commands print: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields, is_dataclass
from itertools import chain, islice
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from spamo_cache import human
from spamo_cache.errors import printable

_WIDTH_OF_A_PIPE = 160
_BLOCK = 1000
"""Lines that are written at a time."""


def console(*, err: bool = False) -> Console:
    """A console for text that may hold anything: no markup, no emoji codes, no highlighting."""
    made = Console(stderr=err, markup=False, emoji=False, highlight=False)
    # Where nobody looks, rich would cut tables to 80 columns.
    if not made.is_terminal:
        made.width = _WIDTH_OF_A_PIPE
    return made


class _Guarded:
    """A standard stream that passes nothing by which a text could steer the terminal.

    It is the last net, for what others print: usage errors, warnings, logs, tracebacks. On a
    terminal colours and bars keep their sequences, which leave no trace once the line is over;
    titles, clipboards and directions are never passed. What the stream's encoding lacks is escaped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._coloured = Console(file=stream).is_terminal

    def write(self, text: str) -> int:
        parts = _COLOURS.split(text) if self._coloured else [text]
        # The odd ones are what the pattern has found.
        shown = [part if k % 2 else _lines(part) for k, part in enumerate(parts)]
        encoding = self._stream.encoding or "utf-8"
        self._stream.write("".join(shown).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_COLOURS = re.compile(r"(\x1b\[[0-9;?]*[A-Za-z]|\r)")


def _lines(text: str) -> str:
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


@contextmanager
def guarded() -> Iterator[None]:
    """Let nothing that is printed inside the block steer the terminal."""
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            # None where the process was started without it.
            if stream is not None:
                stack.callback(setattr, sys, name, stream)
                setattr(sys, name, _Guarded(stream))
        yield


def _print(text: str, *, err: bool = False) -> None:
    # At once: others read along, and a full disk or a closed pipe shows where it can be told.
    print(text, file=sys.stderr if err else sys.stdout, flush=True)


def line(*cells: object) -> None:
    """A line on stdout; cells are set apart by tabs."""
    _print("\t".join(printable(str(cell)) for cell in cells))


def say(text: str) -> None:
    """A line about what happens; on stderr, so that a result can be piped."""
    _print(printable(text), err=True)


def title(text: str) -> None:
    """A line on stdout that stands out from those below it."""
    console().print(Text(printable(text), style="bold"), soft_wrap=True)


def error(message: str) -> None:
    """What went wrong, on stderr.

    Args:
        message: a :class:`SpamoError` as text: lines, each fit to be shown.
    """
    shown = Text("error: ", style="bold red")
    console(err=True).print(shown.append(message, style="not bold default"), soft_wrap=True)


def as_json(document: object) -> None:
    """The document on stdout, indented, non-ASCII as it is."""
    _print(json.dumps(document, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    """A dataclass as its fields; anything else that JSON does not know as text."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def as_line(document: object) -> None:
    """The document on stdout as one line, for scripts that read while work goes on."""
    _print(json.dumps(document, ensure_ascii=False, default=_plain))


def as_lines(documents: Iterable[object]) -> None:
    """Any number of documents on stdout as they come, a line each."""
    lines = (json.dumps(document, ensure_ascii=False, default=_plain) for document in documents)
    while block := list(islice(lines, _BLOCK)):
        _print("\n".join(block))


def as_dict(record: Any) -> dict[str, Any]:
    """A dataclass as its fields, not copied deeper: arrays and paths stay what they are."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> None:
    """A table on stdout, plain where that is no terminal; numbers are set flush right."""
    _heading(title)
    listed = list(rows)
    numbers = [
        bool(listed) and all(isinstance(row[index], int | float) for row in listed)
        for index in range(len(columns))
    ]
    cells = [[_cell(value) for value in row] for row in listed]
    if not console().is_terminal:
        _aligned(columns, cells, numbers)
        return
    from rich.table import Table

    made = Table()
    for column, number in zip(columns, numbers, strict=True):
        made.add_column(printable(column), justify="right" if number else "left", overflow="fold")
    for row in cells:
        made.add_row(*row)
    console().print(made)


def columns(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()
) -> None:
    """Plain columns on stdout, never folded; fit for a terminal, a file and other programs.

    Args:
        rows: a cell for each head. The last one may be long: what a terminal has no room for goes
            to a line of its own.
        right: heads of the columns that are set flush right.
    """
    _aligned(heads, rows, [head in right for head in heads])


def _aligned(
    heads: Sequence[str], rows: Sequence[Sequence[str]], flush_right: Sequence[bool]
) -> None:
    shown = [[printable(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    room = console().width if console().is_terminal else None
    for row in shown:
        cells = [_padded(*cell) for cell in zip(row, widths, flush_right, strict=True)]
        text = "  ".join(cells).rstrip()
        if room is not None and cell_len(text) > room and row[-1]:
            text = "  ".join(cells[:-1]).rstrip() + f"\n    {row[-1]}"
        _print(text)


def _padded(text: str, width: int, right: bool) -> str:
    fill = " " * (width - cell_len(text))
    return fill + text if right else text + fill


def listing(
    heads: Sequence[str], rows: Iterable[Sequence[object]], *, widths: Sequence[int]
) -> None:
    """Any number of rows on stdout as they come: set apart by tabs, on a terminal by spaces.

    Args:
        widths: of all columns but the last, for terminals.
    """
    spaced = console().is_terminal
    every = chain([heads], rows)
    while block := list(islice(every, _BLOCK)):
        cells = [[printable(str(cell)) for cell in row] for row in block]
        if spaced:
            cells = [
                [*(_padded(c, w, False) for c, w in zip(row, widths, strict=False)), row[-1]]
                for row in cells
            ]
        _print("\n".join(("  " if spaced else "\t").join(row) for row in cells))


def pairs(document: Mapping[Any, object], *, title: str | None = None) -> None:
    """Names and values, one pair a line."""
    _heading(title)
    width = max(map(len, document), default=0)
    for name, value in document.items():
        line(f"  {name:<{width}}  {_cell(value)}")


def _heading(text: str | None) -> None:
    # By another name: in `table` and `pairs` a title is what is asked for.
    if text:
        title(text)


def failures(
    failed: Sequence[tuple[str, str]],
    *,
    sources: Mapping[str, str] | None = None,
    shown: int = 20,
    rest: str = "",
) -> None:
    """Failed clips with their reasons, on stderr; of many the first, and how often what happened.

    Args:
        failed: clips and reasons.
        sources: clip -> its file or folder, told where the clip is not called like it.
        shown: clips to list.
        rest: where the others are listed.
    """
    for clip, reason in failed[:shown]:
        source = (sources or {}).get(clip, clip)
        say(f"failed: {clip}{'' if source == clip else f' ({source})'}: {reason}")
    if len(failed) > shown:
        say(f"... and {len(failed) - shown} more" + (f": {rest}" if rest else ""))
        for reason, count in Counter(reason for _, reason in failed).most_common(5):
            say(f"{human.count(count, 'time')}: {reason}")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole else printable(str(value))
