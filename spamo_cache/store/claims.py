"""Who works on what: exclusive claims by files, kept alive by a heartbeat.

A claim only saves double work. What keeps data right when two workers believe to hold the same one
is that publishing is exclusive.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spamo_cache.errors import StoreError
from spamo_cache.store import files
from spamo_cache.store.layout import canonical
from spamo_cache.store.process import Process
from spamo_cache.store.records import now, user

STALE_SECONDS = 60.0
"""Silence after which a claim's owner is taken for dead."""
_MAX_CLAIM_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a claim, in words."""

    user: str
    host: str
    since: str

    def __str__(self) -> str:
        return f"{self.user} on {self.host} since {self.since}"


class Claims:
    """The claims on one store.

    Args:
        folder: where the claim files lie.
        stale: seconds of silence after which a claim may be taken over.
    """

    def __init__(self, folder: Path, stale: float = STALE_SECONDS) -> None:
        self.folder = folder
        self.stale = stale

    @contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Hold the claim ``name`` for the block; False where somebody else does."""
        path = self.folder / name
        token = self._take(path)
        if token is None:
            yield False
            return
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(path, token, stop), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            stop.set()
            beat.join()
            if _token(path) == token:
                path.unlink(missing_ok=True)

    @contextmanager
    def wait(self, name: str, poll: float = 0.05) -> Iterator[None]:
        """Hold the claim ``name``, waiting until it is free or stale."""
        while True:
            with self.hold(name) as mine:
                if mine:
                    yield
                    return
            time.sleep(poll)

    def live(self) -> dict[str, Holder]:
        """The claims that somebody holds now."""
        if not self.folder.is_dir():
            return {}
        found: dict[str, Holder] = {}
        for path in sorted(self.folder.iterdir()):
            content = _content(path)
            if content and not self._dead(path, content):
                found[path.name] = Holder(content["user"], content["host"], content["since"])
        return found

    def sweep(self) -> None:
        """Remove the claims of the dead."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                self._bury(path)

    def _take(self, path: Path) -> str | None:
        token = secrets.token_hex(8)
        content = {"token": token, "user": user(), "host": platform.node(), "since": now()}
        data = canonical({**content, "process": str(Process.me() or "")})
        with files.writing(path):
            files.make_parents(self.folder)
            if files.publish_bytes(path, data, self.folder.parent):
                return token
            self._bury(path)
            return token if files.publish_bytes(path, data, self.folder.parent) else None

    def _bury(self, path: Path) -> None:
        """Move a dead claim aside: of several that try, one rename succeeds."""
        content = _content(path)
        if content is None or not self._dead(path, content):
            return
        aside = files.temporary(self.folder.parent)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        if _token(aside) != content["token"]:
            # Somebody took it over in between: theirs is alive, give it back.
            files.publish(aside, path)
        aside.unlink(missing_ok=True)

    def _dead(self, path: Path, content: dict[str, str]) -> bool:
        process = Process.parse(content.get("process", ""))
        if process is not None and process.gone():
            return True
        try:
            return self._disk_time() - path.stat().st_mtime > self.stale
        except FileNotFoundError:
            return True

    def _disk_time(self) -> float:
        # Hosts' clocks differ; ages are told by the clock of the disk that keeps the files.
        clock = files.temporary(self.folder.parent)
        try:
            clock.touch()
            return clock.stat().st_mtime
        except OSError:
            return time.time()  # a read-only root
        finally:
            with contextlib.suppress(OSError):
                clock.unlink(missing_ok=True)

    def _beat(self, path: Path, token: str, stop: threading.Event) -> None:
        while not stop.wait(self.stale / 6):
            if _token(path) != token:
                return
            with contextlib.suppress(OSError):  # the next beat may succeed, silence is safe
                os.utime(path)


def _content(path: Path) -> dict[str, str] | None:
    """What a claim says, None where there is none; a broken one tells no owner but has an age."""
    unknown = {"token": "", "user": "somebody", "host": "some host", "since": "some time"}
    try:
        document = json.loads(files.read(path, _MAX_CLAIM_BYTES))
    except (ValueError, StoreError):
        return unknown if path.exists() else None
    if not isinstance(document, dict):
        return unknown
    return unknown | {key: value for key, value in document.items() if isinstance(value, str)}


def _token(path: Path) -> str | None:
    content = _content(path)
    return None if content is None else content["token"]
