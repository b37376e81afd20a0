"""Who works on what: exclusive leases by files, kept alive by a heartbeat.

A lease saves double work. What keeps data right when two workers believe to hold the same one is
that publishing is exclusive, and that a lease comes with a **desk**: a folder for all that is
unfinished. A file gets its name by being moved from the desk, a file loses it by being moved to
the desk. Whoever takes a lease over removes the desk first, so that its former owner, should it
wake up after an hour, can change nothing any more: every move it still has in mind fails. That
needs neither locks nor clocks, only renames within one disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from spamo_cache import io
from spamo_cache.errors import DamagedError, StoreError
from spamo_cache.process import Process
from spamo_cache.store.attributes import now, user
from spamo_cache.store.layout import canonical, work_path

STALE_SECONDS = 60.0
"""Silence after which a lease's owner is taken for dead."""
_BEATS = 6
"""Signs of life within that time."""
_MAX_LEASE_BYTES = 4096
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = (0.05, 1.0)
_DESK = re.compile(r"[0-9a-z]+(\.[0-9a-f]+)+\.tmp")

Result = TypeVar("Result")


class LeaseLostError(StoreError):
    """Somebody else took the lease over: its owner had shown no sign of life for too long."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease, in words."""

    user: str
    host: str
    since: str

    def __str__(self) -> str:
        return f"{self.user} on {self.host} since {self.since}"


class Leases:
    """The leases on one store.

    Args:
        folder: where the lease files lie; desks lie beside it.
        stale: seconds of silence after which a lease may be taken over.
    """

    def __init__(self, folder: Path, stale: float = STALE_SECONDS) -> None:
        self.folder = folder
        self.stale = stale
        self._work = folder.parent
        self._desks: dict[str, Path] = {}
        self._patience: dict[int, float] = {}

    @classmethod
    def beside(cls, store: Path, stale: float = STALE_SECONDS) -> Leases:
        """The leases on the store at ``store``."""
        return cls(work_path(store) / "claims", stale)

    @contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Hold the lease ``name`` for the block; False where somebody else does."""
        path = self.folder / name
        with io.writing(path):
            desk = self._take(path)
        if desk is None:
            yield False
            return
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(path, desk, stop), daemon=True)
        beat.start()
        self._desks[name] = desk
        try:
            yield True
        finally:
            del self._desks[name]
            stop.set()
            beat.join()
            _release(path, desk)

    @contextmanager
    def wait(self, name: str) -> Iterator[None]:
        """Hold the lease ``name``, waiting until it is free or stale."""
        pause, longest = _POLL_SECONDS
        while True:
            with self.hold(name) as mine:
                if mine:
                    yield
                    return
            time.sleep(pause)
            pause = min(2 * pause, longest)

    @contextmanager
    def desk(self, name: str) -> Iterator[Path]:
        """The desk of the lease ``name``; a folder for once where that is not held from here.

        Raises:
            LeaseLostError: the lease was taken over; nothing was changed since then.
        """
        desk = self._desks.get(name)
        if desk is None:
            with io.temporary_folder(self._work) as folder:
                yield folder
            return
        try:
            yield desk
        except Exception:
            if os.path.lexists(desk):
                raise
            raise LeaseLostError("the lease was taken over", where=self.folder / name) from None

    def live(self, *, certain: bool = False) -> dict[str, Holder]:
        """The leases that somebody holds now.

        Args:
            certain: take the time for a second look at leases from the future, which would be
                alive for as long as the disk's clock was ahead when they were touched.
        """
        with io.reading(self.folder):
            live = dict(self._live())
            until = time.monotonic() + self.stale / 2 if certain else 0.0
            while any(self._ahead(path) for path in live) and time.monotonic() <= until:
                time.sleep(_POLL_SECONDS[1])
                live = dict(self._live())
        return {path.name: _holder(content) for path, content in live.items()}

    def holder(self, name: str) -> Holder | None:
        """Who holds the lease ``name`` now."""
        path = self.folder / name
        with io.reading(path):
            content = _content(path)
            held = content is not None and not self._dead(path, content)
        return _holder(content) if content is not None and held else None

    def sweep(self) -> None:
        """Remove the leases of the dead, and what they left unfinished.

        What others left, of whom nobody here can tell whether they live, goes after a day, unless
        they hold a lease.
        """
        left = io.unfinished(self._work)
        for path in self._files():
            with contextlib.suppress(OSError):
                self._bury(path)
        leases = [content for _, content in self._live()]
        busy = {content["token"] for content in leases} | {c["process"] for c in leases}
        io.sweep_unfinished(left, busy)

    def _files(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []

    def _live(self) -> Iterator[tuple[Path, dict[str, str]]]:
        for path in self._files():
            content = _content(path)
            if content is not None and not self._dead(path, content):
                yield path, content

    def settled(self, partition: int, check: Callable[[], Result]) -> Result:
        """What a check of a partition says once nobody is about to change what it looks at.

        Where one is replaced, parts of it are missing for a moment: what looks damaged is
        looked at again, for as long as somebody holds its lease, and some seconds at most.

        Raises:
            DamagedError: of the last look.
        """
        until = time.monotonic() + self._patience.pop(partition, _PATIENCE_SECONDS)
        busy = True
        while True:
            try:
                return check()
            except DamagedError:
                if not busy:
                    self._patience[partition] = 0  # whoever asks again has waited already
                    raise
            busy = self.holder(str(partition)) is not None and time.monotonic() < until
            time.sleep(_POLL_SECONDS[0] if busy else 0)

    # --- taking -----------------------------------------------------------------------------------

    def _take(self, path: Path) -> Path | None:
        """The desk that comes with the lease; None where somebody else holds it."""
        io.make_folders(self.folder)
        if not self._bury(path):
            return None
        desk = io.temporary(self._work)
        desk.mkdir()  # before the lease that names it: nobody could remove it otherwise
        try:
            io.share_with_group(desk, self._work)
            content = {"token": desk.name, "user": user(), "host": platform.node(), "since": now()}
            data = canonical({**content, "process": str(Process.me() or "")})
            mine = io.publish_bytes(path, data, desk)
        except BaseException:
            _release(path, desk)
            raise
        if not mine:
            io.discard(desk)
        return desk if mine else None

    def _bury(self, path: Path) -> bool:
        """Take away the lease of a dead owner; False where there is one of somebody alive."""
        content = _content(path)
        if content is None:
            return True
        if not self._dead(path, content):
            return False
        self._clear(content["token"])
        grave = io.temporary(self._work)
        try:
            path.rename(grave)
        except FileNotFoundError:
            return True  # of several that try, one rename succeeds
        taken = _token(grave)
        if taken != content["token"] and not io.publish(grave, path):
            # Somebody took it over in between, and somebody else has it now that we took it away.
            self._clear(taken or "")
        io.discard(grave)
        return True

    def _clear(self, token: str) -> None:
        """Remove a desk, so that nothing can be moved from it or to it any more."""
        if _DESK.fullmatch(token):
            desk = self._work / token
            for _ in range(_BEATS):  # its owner may be alive and busy filling it
                with contextlib.suppress(OSError):
                    io.remove(desk)
                    return
            # Somebody else's, who alone may empty it: out of the way will do.
            with contextlib.suppress(FileNotFoundError):
                desk.rename(io.temporary(self._work))

    # --- signs of life ----------------------------------------------------------------------------

    def _dead(self, path: Path, content: dict[str, str]) -> bool:
        """Whether its owner is gone for certain, or has been silent for too long.

        Silent is a lease that is old by the disk's clock, whatever the hosts' clocks say, or that
        did not change for as long under our own eyes. One from the future was not touched since the
        clock was put right, while a living owner does so several times in this time: half of it
        will do.
        """
        process = Process.parse(content["process"])
        if process is not None and process.alive() is False:
            return True
        try:
            touched = path.stat().st_mtime_ns
            age = io.age(path, self._work)
        except FileNotFoundError:
            return True
        seen = _SEEN.get(path)
        if seen is None or seen.touched != touched:
            seen = _SEEN[path] = _Seen(touched, time.monotonic())
        watched = time.monotonic() - seen.since
        return age > self.stale or watched > (self.stale if age >= 0 else self.stale / 2)

    def _ahead(self, path: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return io.age(path, self._work) < 0
        return False

    def _beat(self, path: Path, desk: Path, stop: threading.Event) -> None:
        while not stop.wait(self.stale / _BEATS):
            with contextlib.suppress(OSError):  # the next beat may succeed, silence is safe
                if desk.is_dir():  # else it is somebody else's lease by now
                    _touch(path)


def sweep_corpus(corpus: Path) -> None:
    """:meth:`Leases.sweep` for every store of a corpus, and for what was once to become one."""
    with contextlib.suppress(OSError, StoreError):
        for work in (corpus / ".work").iterdir():
            Leases(work / "claims").sweep()


class _Seen(NamedTuple):
    touched: int
    """Time of the last sign of life, in nanoseconds of the disk's clock."""
    since: float
    """When this process saw it first, in seconds of its own clock."""


_SEEN: dict[Path, _Seen] = {}
"""What this process has seen of leases, by whichever object it looked."""


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except PermissionError:
        # Some disks let nobody set times: the first byte of every lease is the same.
        with path.open("r+b") as file:
            file.write(b"{")


def _release(path: Path, desk: Path) -> None:
    if _token(path) in {desk.name, ""}:  # or it cannot be read
        with contextlib.suppress(OSError):  # taken over this very moment; or it becomes stale
            path.rename(desk / "claim")
    io.discard(desk)


def _holder(content: dict[str, str]) -> Holder:
    return Holder(content["user"], content["host"], content["since"])


def _content(path: Path) -> dict[str, str] | None:
    """What a lease says, None where there is none; a broken one tells no owner but has an age."""
    unknown = {"user": "somebody", "host": "some host", "since": "some time"}
    unknown |= {"token": "", "process": ""}
    try:
        document = json.loads(io.read_regular(path, _MAX_LEASE_BYTES))
    except DamagedError:
        return unknown if path.exists() else None
    except (ValueError, RecursionError, StoreError):
        return unknown
    if not isinstance(document, dict):
        return unknown
    return unknown | {key: value for key, value in document.items() if isinstance(value, str)}


def _token(path: Path) -> str | None:
    content = _content(path)
    return None if content is None else content["token"]
