"""What tests of several packages share, and the programs they start as other processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


def program(name: str, *args: object) -> list[str]:
    """The command that runs a module of this package; needs :func:`environment`."""
    return [sys.executable, "-m", f"{__name__}.{name}", *map(str, args)]


def environment(**changes: str) -> dict[str, str]:
    """This process's, in which a child imports the checkout from any folder."""
    return os.environ | {"PYTHONPATH": str(ROOT)} | changes
