"""How commands tell of long work: a live display, lines in a log, or events for scripts."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Event, RLock, Thread
from typing import Any

from spamo_cache.cli import display
from spamo_cache.workflow.watcher import QUIET, Advance, Watcher, Work

_VERBOSITY: ContextVar[int] = ContextVar("verbosity", default=0)
"""1 and more: details too; -1 and less: errors and the result only."""


def set_verbosity(value: int) -> None:
    """How much is told from now on."""
    _VERBOSITY.set(value)


def change_verbosity(*, verbose: bool, quiet: bool) -> None:
    """Tell more or less than so far; both together change nothing."""
    _VERBOSITY.set(_VERBOSITY.get() + verbose - quiet)


def watcher(*, json: bool = False) -> Watcher:
    """What a command hands to its work.

    Args:
        json: events as JSON Lines on stdout, in place of words on stderr.
    """
    # Of the processes that a launcher started the first one does the talking.
    if _VERBOSITY.get() < 0 or os.environ.get("RANK", "0") != "0":
        return QUIET
    details = _VERBOSITY.get() > 0
    if json:
        return Events(details=details)
    if not display.console(err=True).is_terminal:
        return Log(details=details)
    from spamo_cache.cli.terminal import Terminal  # which takes long to import

    return Terminal(clock, details=details)


class _Paced(Watcher):
    """Tells how far work is when that is due: soon after it began, every so often, at its end.

    Of tasks within each other the innermost is told. Work that reports nothing for long is told
    by a thread, so that whoever reads along sees that the command is alive.
    """

    first: float
    """Seconds after which a task is told for the first time; a quicker one is never told."""
    every: float
    """Seconds between two reports with news."""
    idle: float
    """Seconds after which something is told in any case."""
    tick: float = 1.0
    """Seconds of the real clock after which the thread looks."""

    def __init__(self, *, details: bool = False) -> None:
        self._details = details
        self._lock = RLock()
        self._open: list[Work] = []
        self._told: dict[int, tuple[int, str]] = {}
        self._last = 0.0

    @abstractmethod
    def show(self, work: Work, now: float) -> None:
        """Print how far a task is."""

    @contextmanager
    def task(self, task: str, of: str = "", unit: str = "") -> Iterator[Advance]:
        work = Work(task, of, unit, began=clock())
        with self._followed(work):
            yield self._advance(work)
            with self._lock:
                latest = work.done, work.note
                if self._told.get(id(work), latest) != latest:
                    self._show(work, clock())

    def _advance(self, work: Work) -> Advance:
        def advance(done: int, total: int, **more: Any) -> None:
            with self._lock:
                now = clock()
                begins = work.update(now, done, total, **more)
                if work is self._open[-1]:
                    self._tell(work, now, self.every, at_once=begins)

        return advance

    def beat(self) -> None:
        """Tell what is at work if nothing was told for long."""
        with self._lock:
            if self._open:
                self._tell(self._open[-1], clock(), self.idle)

    def _tell(self, work: Work, now: float, pause: float, *, at_once: bool = False) -> None:
        since = now - self._last
        known = id(work) in self._told
        due = (at_once or since >= pause) if known else now - work.began >= self.first
        if due or since >= self.idle:
            self._show(work, now)

    def _show(self, work: Work, now: float) -> None:
        self._last, self._told[id(work)] = now, (work.done, work.note)
        self.show(work, now)

    @contextmanager
    def _followed(self, work: Work) -> Iterator[None]:
        """Keep a task among the open ones, and the thread at work while there are any."""
        with self._lock:
            outermost = not self._open
            self._open.append(work)
        ended = Event()
        if outermost:
            self._last = work.began
            thread = Thread(target=self._beats, args=(ended,), daemon=True)
            thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._open.remove(work)
                self._told.pop(id(work), None)
            if outermost:
                ended.set()
                thread.join()

    def _beats(self, ended: Event) -> None:
        # A full disk or a closed pipe is told where the command itself prints.
        with suppress(OSError):
            while not ended.wait(self.tick):
                self.beat()


class Log(_Paced):
    """Lines with the time of day, one a minute of each long task; for files and Slurm logs."""

    first, every, idle = 3.0, 55.0, 55.0  # with a slow look in between, still one a minute

    def show(self, work: Work, now: float) -> None:
        self.notice(work.words(now))

    def notice(self, text: str, event: Mapping[str, Any] | None = None) -> None:
        del event
        display.say(f"{time_of_day()} {text}")

    def detail(self, text: str, event: Mapping[str, Any] | None = None) -> None:
        if self._details:
            self.notice(text, event)

    def warning(self, text: str) -> None:
        self.notice(f"warning: {text}")


class Events(_Paced):
    """JSON Lines on stdout, about one a second; docs/slurm.md has the words."""

    first, every, idle = 0.0, 1.0, 55.0

    def show(self, work: Work, now: float) -> None:
        display.as_line(work.event(now))

    def notice(self, text: str, event: Mapping[str, Any] | None = None) -> None:
        display.as_line(event or {"event": "notice", "text": text})

    def detail(self, text: str, event: Mapping[str, Any] | None = None) -> None:
        # What has an event of its own is there for scripts whoever else wants to know.
        if event or self._details:
            display.as_line(event or {"event": "detail", "text": text})

    def warning(self, text: str) -> None:
        display.as_line({"event": "warning", "text": text})


def clock() -> float:
    """Seconds that only ever grow."""
    return time.monotonic()


def time_of_day() -> str:
    """As lines of a log begin."""
    return time.strftime("%H:%M:%S")
