"""JSON files of a run as a report reads them: absent ones are empty, damaged ones are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spamo_cache import bounded
from spamo_cache.errors import SpamoError


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an absent file is an empty one."""
    value = parsed(path)
    if value is not None and not isinstance(value, dict):
        raise SpamoError("holds no JSON object", where=path)
    return value or {}


def parsed(path: Path) -> Any:
    """The content of a JSON file; None if there is no such file."""
    try:
        return bounded.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise SpamoError(f"cannot be read: {error}", where=path) from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON Lines; an absent file is empty, and a last line cut off by a kill is left out."""
    try:
        rows = bounded.read_text(path, bounded.MAX_JSON_BYTES).split("\n")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise SpamoError(f"cannot be read: {error}", where=path) from None
    last = rows.pop()
    found = []
    for position, row in enumerate([*rows, last]):
        if not row.strip():
            continue
        try:
            value = bounded.parse_json(row)
        except ValueError as error:
            if position == len(rows):
                break
            raise SpamoError(f"line {position + 1} is no JSON: {error}", where=path) from None
        if not isinstance(value, dict):
            raise SpamoError(f"line {position + 1} is no JSON object", where=path)
        found.append(value)
    return found
