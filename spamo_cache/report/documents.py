"""Documents of a run as a report reads them: absent ones are empty, damaged ones are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spamo_cache import io


def read_object(path: Path) -> dict[str, Any]:
    """A document that the run wrote; an absent file is an empty one.

    Raises:
        DamagedError: it is not what was written.
    """
    return io.read_json(path) if path.exists() else {}
