"""Iterate in a thread that can be left behind: for native code that may never return."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import Empty, Queue
from typing import TypeVar

T = TypeVar("T")

_AHEAD = 4
"""Items that may wait: enough to hide the change of threads, little memory."""


class StalledError(Exception):
    """Nothing came for too long."""


def watched(make: Callable[[], Iterable[T]], *, first: float, then: float) -> Generator[T]:
    """The items of ``make()``, which runs in a daemon thread, one after the other.

    Args:
        make: called in that thread, so that all it opens is used and closed there.
        first: seconds to wait for the first item.
        then: seconds to wait for each further one.

    Raises:
        StalledError: an item did not come in time; its thread is left to itself and hinders
            nothing, not even the end of the interpreter.
        Exception: whatever ``make`` or its iterator raises.
    """
    waiting: Queue[tuple[bool, T | BaseException | None]] = Queue(_AHEAD)
    left = threading.Event()

    def work() -> None:
        try:
            for item in make():
                waiting.put((True, item))
                if left.is_set():
                    return
            waiting.put((False, None))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            waiting.put((False, error))

    threading.Thread(target=work, name="watched", daemon=True).start()
    try:
        yield from _received(waiting, first, then)
    finally:
        left.set()
        # Whatever the thread is about to put finds room, and it ends.
        while not waiting.empty():
            waiting.get_nowait()


def _received(
    waiting: Queue[tuple[bool, T | BaseException | None]], first: float, then: float
) -> Iterator[T]:
    seconds = first
    while True:
        try:
            more, item = waiting.get(timeout=seconds)
        except Empty:
            raise StalledError from None
        if isinstance(item, BaseException):
            raise item
        if not more or item is None:
            return
        yield item
        seconds = then
