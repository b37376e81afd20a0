"""How long work reports what it does: to a terminal, a notebook, or nobody."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

_LOG = logging.getLogger("spamo_cache")


class Advance(Protocol):
    """Called with the units done, the units there are, and what they are now."""

    def __call__(self, done: int, total: int, now: str | None = None) -> None: ...


class Watcher:
    """Follows long work. This one writes to the logger ``spamo_cache`` and draws no bars."""

    def notice(self, text: str) -> None:
        """Report something that happens, in one line."""
        _LOG.info(text)

    def warning(self, text: str) -> None:
        """Report something that may spoil the result, in one line."""
        _LOG.warning(text)

    def task(self, label: str, unit: str) -> AbstractContextManager[Advance]:
        """Follow one piece of work while the block runs; the block reports how far it is."""
        del label, unit
        return nullcontext(_ignore)


def _ignore(done: int, total: int, now: str | None = None) -> None:
    pass


QUIET = Watcher()
