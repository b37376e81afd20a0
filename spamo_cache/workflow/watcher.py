"""How long work reports what it does: to a terminal, a log, a script, a notebook, or nobody."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from spamo_cache import human

_LOG = logging.getLogger("spamo_cache")


class Advance(Protocol):
    """Called with how far a task is.

    ``stage`` names the part of the task; a new one begins a count of its own, in ``unit`` if that
    is not the task's. ``note`` is more for people, in words, and ``figures`` the same for scripts.
    """

    def __call__(
        self,
        done: int,
        total: int,
        *,
        stage: str = "",
        unit: str = "",
        note: str = "",
        figures: Mapping[str, Any] | None = None,
    ) -> None: ...


class Watcher:
    """Follows long work. This one writes to the logger ``spamo_cache`` and shows no progress."""

    def notice(self, text: str, event: Mapping[str, Any] | None = None) -> None:
        """Report something that happens, in one line; ``event`` is the same for scripts."""
        del event
        _LOG.info(text)

    def detail(self, text: str, event: Mapping[str, Any] | None = None) -> None:
        """Report what only those want to know who ask for more (``-v``), as :meth:`notice` does."""
        del event
        _LOG.debug(text)

    def warning(self, text: str) -> None:
        """Report something that may spoil the result, in one line."""
        _LOG.warning(text)

    def task(self, task: str, of: str = "", unit: str = "") -> AbstractContextManager[Advance]:
        """Follow one piece of work while the block runs; the block reports how far it is.

        Args:
            task: what is done, by the name of its command where it has one.
            of: what it is done to.
            unit: what is counted.
        """
        del task, of, unit
        return nullcontext(_ignore)


def _ignore(*_: object, **__: object) -> None:
    pass


QUIET = Watcher()


@dataclass(slots=True)
class Work:
    """How far a task is, how fast it goes and how long it will take.

    Attributes:
        task: what is done, as ``of`` what; see :meth:`Watcher.task`.
        began: when, in seconds of any clock, as all times here.
        counted_from: when its present stage began, and what was done by then: a task that goes on
            from an earlier one is no faster for that.
        ended: when all of the stage was done.
    """

    task: str
    of: str
    unit: str
    began: float
    stage: str = ""
    done: int = 0
    total: int | None = None
    note: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    counted_from: tuple[float, int] = (0.0, 0)
    ended: float | None = None

    def update(
        self,
        now: float,
        done: int,
        total: int,
        *,
        stage: str = "",
        unit: str = "",
        note: str = "",
        figures: Mapping[str, Any] | None = None,
    ) -> bool:
        """Take over a report; whether a new stage begins with it."""
        begins = self.total is None or stage != self.stage
        if begins:
            self.stage, self.counted_from, self.ended = stage, (now, done), None
        if done >= total and self.ended is None:
            self.ended = now
        self.done, self.total, self.note = done, total, note
        self.unit, self.figures = unit or self.unit, figures or {}
        return begins

    @property
    def name(self) -> str:
        """``train default, align``."""
        name = f"{self.task} {self.of}".rstrip()
        return name if self.stage in {"", self.task} else f"{name}, {self.stage}"

    def rate(self, now: float) -> float | None:
        """Units a second, since the stage began; None where nothing can be told yet."""
        since, before = self.counted_from
        grown = self.done - before
        seconds = (self.ended or now) - since
        return grown / seconds if grown > 0 and seconds > 0 else None

    def seconds_left(self, now: float) -> float | None:
        """Until the stage is done, at its present rate."""
        rate = self.rate(now)
        return (self.total - self.done) / rate if rate and self.total is not None else None

    def words(self, now: float) -> str:
        """One line for people."""
        if self.total is None:
            return f"{self.name}: {human.duration(now - self.began)} so far"
        share = f" ({100 * self.done // self.total} %)" if self.total else ""
        words = [f"{self.done:,} of {self.total:,} {self.unit}{share}"]
        if rate := self.rate(now):
            words.append(human.rate(rate, self.unit))
        left = self.seconds_left(now)
        if self.ended is not None:
            words.append(f"took {human.duration(self.ended - self.counted_from[0])}")
        elif left is not None:
            words.append(f"{human.duration(left)} left")
        return f"{self.name}: {', '.join(words)}" + (f"; {self.note}" if self.note else "")

    def event(self, now: float) -> dict[str, Any]:
        """The same for scripts."""
        document: dict[str, Any] = {
            "event": "progress",
            "task": self.task,
            "of": self.of,
            "stage": self.stage,
            "seconds": round(now - self.began, 1),
        }
        if self.total is not None:
            document |= {"unit": self.unit, "done": self.done, "total": self.total}
        if rate := self.rate(now):
            left = self.seconds_left(now)
            document |= {"per_second": _rounded(rate), "seconds_left": _rounded(left or 0.0)}
        return document | dict(self.figures)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
