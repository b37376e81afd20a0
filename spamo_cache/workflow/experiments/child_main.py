"""``python -m spamo_cache.workflow.experiments.child_main``: a command that ends with its parent.

Standard input is a pipe that the parent holds open and never writes to. Whatever ends the parent,
kill -9 included, closes it; the command then ends at once, as if it had been killed itself.
"""

from __future__ import annotations

import os
import sys
import threading

from spamo_cache.cli.main import main


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    main()
