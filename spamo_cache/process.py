"""Telling whether the process that left a file is still alive, without waiting for it."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

_MARK = re.compile(r"([0-9a-f]{12})\.(\d{1,9})\.(\d{1,20})(?:\.|$)")


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told apart from any other one that ever was or will be on any host."""

    place: str
    """Hash of the host, its boot, and the namespaces that process numbers and times belong to."""
    pid: int
    start: int
    """Ticks between boot and its beginning; numbers of processes are used again."""

    def __str__(self) -> str:
        return f"{self.place}.{self.pid}.{self.start}"

    @classmethod
    def me(cls) -> Process | None:
        """This process; None on systems that do not tell (no ``/proc``)."""
        place, stat = _place(), _stat(os.getpid())
        return None if place is None or stat is None else cls(place, os.getpid(), stat.start)

    @classmethod
    def parse(cls, text: str) -> Process | None:
        """The process named at the beginning of ``text``."""
        mark = _MARK.match(text)
        return None if mark is None else cls(mark[1], int(mark[2]), int(mark[3]))

    def alive(self) -> bool | None:
        """Whether it runs; None where that cannot be known from here.

        That ``/proc`` does not show a process proves nothing, it may hide those of other users
        (hidepid); only the kernel knows that there is no such number.
        """
        if self.place != _place():
            return None
        with suppress(PermissionError):  # somebody else's
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return False
        stat = _stat(self.pid)
        return None if stat is None else stat.runs and stat.start == self.start


class _Stat(NamedTuple):
    runs: bool
    """False for a process that is dead and not yet collected."""
    start: int


def _stat(pid: int) -> _Stat | None:
    """What ``/proc`` tells of a process, None where it tells nothing."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command's name may hold spaces and brackets: fields are counted from its end.
    fields = text.rpartition(")")[2].split()
    return _Stat(fields[0] not in "ZX", int(fields[19]))


@cache
def _place() -> str | None:
    """What two processes have to share for the numbers of one to mean something to the other.

    Copies of a running machine share the number of the boot, and the first namespaces have the
    same numbers on every machine: host names and network cards tell them apart.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
        numbers = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None
    parts = [boot, numbers, _time_namespace(), platform.node(), *_network_cards()]
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:12]


def _time_namespace() -> Path | None:
    """In another one the same process seems to have begun at another time."""
    try:
        return Path("/proc/self/ns/time").readlink()
    except OSError:
        return None  # a kernel that has none


def _network_cards() -> list[str]:
    """Addresses of the cards; not of virtual interfaces, which come and go."""
    addresses: list[str] = []
    for device in sorted(Path("/sys/class/net").glob("*/device")):
        with suppress(OSError):
            addresses.append((device.parent / "address").read_text(encoding="utf-8").strip())
    return addresses
