"""How long work shows on a terminal: one live line, of the innermost task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from spamo_cache import human
from spamo_cache.cli import display
from spamo_cache.errors import printable
from spamo_cache.workflow.watcher import Advance, Watcher, Work

Clock = Callable[[], float]
_Part = Literal["name", "count", "pace", "note"]


class Terminal(Watcher):
    """A live display for whoever sits at the terminal, on stderr."""

    def __init__(self, clock: Clock, *, details: bool = False) -> None:
        self._clock, self._details = clock, details
        self._open: list[Progress] = []

    def notice(self, text: str, event: Mapping[str, Any] | None = None) -> None:
        del event
        display.say(text)

    def detail(self, text: str, event: Mapping[str, Any] | None = None) -> None:
        if self._details:
            self.notice(text, event)

    def warning(self, text: str) -> None:
        display.say(f"warning: {text}")

    @contextmanager
    def task(self, task: str, of: str = "", unit: str = "") -> Iterator[Advance]:
        work = Work(task, of, unit, began=self._clock())
        shown = Progress(
            *(self._words("name"), _Bar(bar_width=12), self._words("count")),
            *(self._words("pace"), self._words("note")),
            console=display.console(err=True),
            transient=True,
            expand=True,
        )
        bar = shown.add_task("", total=None, work=work)

        def advance(done: int, total: int, **more: Any) -> None:
            work.update(self._clock(), done, total, **more)
            shown.update(bar, completed=done, total=total)

        with self._innermost(shown):
            yield advance

    def _words(self, part: _Part) -> _Words:
        return _Words(part, self._clock)

    @contextmanager
    def _innermost(self, shown: Progress) -> Iterator[None]:
        """Show one task, and that around it not until this one is over."""
        if self._open:
            self._open[-1].stop()
        self._open.append(shown)
        try:
            with shown:
                yield
        finally:
            self._open.pop()
            if self._open:
                self._open[-1].start()


class _Bar(BarColumn):
    def get_table_column(self) -> Column:
        return Column(no_wrap=True)


class _Words(ProgressColumn):
    """A part of what is told, on one line however narrow the terminal is."""

    def __init__(self, part: _Part, clock: Clock) -> None:
        self._part, self._clock = part, clock
        # What does not fit is cut from the note, which stands last.
        ratio = 1 if part == "note" else None
        super().__init__(Column(no_wrap=True, overflow="ellipsis", ratio=ratio))

    def render(self, task: Task) -> Text:
        work: Work = task.fields["work"]
        return Text(printable(getattr(self, f"_{self._part}")(work)))

    def _name(self, work: Work) -> str:
        return work.name

    def _count(self, work: Work) -> str:
        if work.total is None and not work.done:
            return ""
        total = "" if work.total is None else f"/{work.total:,}"
        return f"{work.done:,}{total} {work.unit}"

    def _pace(self, work: Work) -> str:
        now = self._clock()
        rate, left = work.rate(now), work.seconds_left(now)
        if rate is None or left is None:
            return human.duration(now - work.began)
        return f"{human.rate(rate, '').replace(' ', '')}, {human.duration(left)} left"

    def _note(self, work: Work) -> str:
        return work.note
