"""What the partitions that a process works on have in common: threads, the device, their turns.

A partition's decoding begins as soon as the one before has no clip left to begin with. While that
one's last batches are computed and its shard is written and verified, the device has work already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import BoundedSemaphore, Event, Lock
from typing import Any

from spamo_cache.compat import cpu_threads
from spamo_cache.extract.decoding import DecodeConfig, Decoders
from spamo_cache.extract.device import Device, open_device

AT_ONCE = 2
"""Partitions that a process works on: one is decoded while another one is finished."""


class Engine:
    """Threads that decode, threads that encode, and the device they share.

    Attributes:
        device: computes the batches.
        decoders: decode for all partitions, in the order of their turns.
        threads: encode, one batch each.
        slots: bound the batches in flight, over all streams and partitions.
    """

    def __init__(self, device: Device, decoding: DecodeConfig, threads: int) -> None:
        self.device = device
        self.decoders = Decoders(decoding)
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="encode")
        self.slots = BoundedSemaphore(2 * threads + 2)
        self._turn = Lock()
        self._stopped = Event()

    @contextmanager
    def turn(self) -> Iterator[Callable[[], None]]:
        """Wait until no other partition has clips left to begin with.

        Yields:
            What ends the turn; the end of the block does, too.

        Raises:
            CancelledError: :meth:`stop` was called.
        """
        with ExitStack() as turn:
            turn.enter_context(self._turn)
            self.check()
            yield turn.close

    def check(self) -> None:
        """Raise CancelledError where :meth:`stop` was called."""
        if self._stopped.is_set():
            raise CancelledError

    def stop(self) -> None:
        """Let every partition at work end with its next clip; what is decoded is dropped."""
        self._stopped.set()

    def close(self) -> None:
        self.decoders.close()
        self.threads.shutdown(wait=True, cancel_futures=True)


_opened: dict[Any, tuple[Engine, int]] = {}
"""Engines by their settings, and how many use them."""
_opening = Lock()
_limit = ExitStack()


@contextmanager
def shared(device: str, decoding: DecodeConfig, threads: int) -> Iterator[Engine]:
    """The process's engine for these settings; it is closed by whoever is the last to leave."""
    key = device, decoding, threads
    with _opening, _limited():
        if key not in _opened:
            _opened[key] = Engine(open_device(device), decoding, threads), 0
        engine, users = _opened[key]
        _opened[key] = engine, users + 1
    try:
        yield engine
    finally:
        with _opening, _limited():
            _, users = _opened.pop(key)
            if users > 1:
                _opened[key] = engine, users - 1
            else:
                engine.close()


@contextmanager
def _limited() -> Iterator[None]:
    """While any engine is open, compute a batch with one thread.

    That is as fast in sum, and equal for any number of threads.
    """
    if not _opened:
        _limit.enter_context(cpu_threads(1))
    try:
        yield
    finally:
        if not _opened:
            _limit.close()
