"""A decord that hangs is left behind: PyAV gives the frames, and nothing waits for it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from spamo_cache.video import by_av, by_decord, movie, timeline
from spamo_cache.video.watchdog import StalledError, watched

decord = pytest.importorskip("decord")

PATIENCE = 0.05


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What a hung thread waits for; set at last, so that the tests leave none behind."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_decord, "STALL_SECONDS", PATIENCE)
    monkeypatch.setattr(by_decord, "_given_up", threading.Lock())


def hanging(given: int, never: threading.Event) -> type:
    """A stand-in for decord's reader that hangs in the call after so many frames."""

    class Reader(decord.VideoReader):  # type: ignore[misc, name-defined]
        def next(self) -> object:
            nonlocal given
            given -= 1
            if given < 0:
                never.wait()
            return super().next()

    return Reader


@pytest.mark.parametrize("given", [0, 1, 33])
def test_a_reader_that_hangs_is_left_behind(
    make: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    never: threading.Event,
    impatient: None,
    *,
    given: int,
) -> None:
    path = make()
    wanted = timeline.span(timeline.scan(path), None, None, where=path)
    expected = np.stack([frame.copy() for frame in by_av.frames(path, wanted)])
    monkeypatch.setattr(decord, "VideoReader", hanging(given, never))
    assert by_decord.suits(wanted)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = np.stack([frame.copy() for frame in movie.frames(path, wanted)])
            np.testing.assert_array_equal(found, expected)
    assert not by_decord.suits(wanted)
    (record,) = caplog.records
    assert "PyAV reads it and all further videos" in record.getMessage()
    assert str(path.parent) not in record.getMessage()


def test_a_hung_reader_does_not_keep_the_interpreter(make: Callable[..., Path]) -> None:
    code = f"""
import threading, decord
from pathlib import Path
from spamo_cache.video import by_decord, movie, timeline

class Hung:
    def __init__(self, *_, **__):
        threading.Event().wait()

decord.VideoReader, by_decord.STALL_SECONDS = Hung, {PATIENCE}
path = Path({str(make())!r})
wanted = timeline.span(timeline.scan(path), None, None, where=path)
print(sum(1 for _ in movie.frames(path, wanted)))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.strip() == "60"


def test_items_arrive_in_order_and_errors_where_they_happen() -> None:
    def some() -> Iterator[int]:
        yield from range(20)
        raise KeyError("twenty")

    items = watched(some, first=10, then=10)
    assert [next(items) for _ in range(20)] == list(range(20))
    with pytest.raises(KeyError, match="twenty"):
        next(items)


def test_a_thread_ends_when_its_reader_is_left_early() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = watched(endless, first=10, then=10)
    assert next(items) == 1
    items.close()
    assert closed.wait(10)


def test_the_first_item_may_take_longer_than_the_others(never: threading.Event) -> None:
    def one() -> Iterator[int]:
        yield 1
        never.wait()

    items = watched(one, first=10, then=PATIENCE)
    assert next(items) == 1
    with pytest.raises(StalledError):
        next(items)
