"""Telling whether the process that left a file is still alive, without waiting for it."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_MARK = re.compile(r"([0-9a-f]{12})\.(\d{1,9})\.(\d{1,20})(?:\.|$)")


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told apart from any other one that ever was or will be on any host."""

    place: str
    """Hash of the host's boot and the namespace its process numbers belong to."""
    pid: int
    start: int
    """Ticks between boot and its beginning; numbers of processes are used again."""

    def __str__(self) -> str:
        return f"{self.place}.{self.pid}.{self.start}"

    @classmethod
    def me(cls) -> Process | None:
        """This process; None on systems that do not tell (no ``/proc``)."""
        place, start = _place(), _start(os.getpid())
        return None if place is None or start is None else cls(place, os.getpid(), start)

    @classmethod
    def parse(cls, text: str) -> Process | None:
        """The process named at the beginning of ``text``."""
        found = _MARK.match(text)
        return None if found is None else cls(found[1], int(found[2]), int(found[3]))

    def gone(self) -> bool:
        """Whether it surely runs no more; False for processes of other hosts."""
        return self.place == _place() and _start(self.pid) != self.start


@cache
def _place() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:12]


def _start(pid: int) -> int | None:
    """When a process began; None where it is gone, or dead and not yet collected."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command's name may hold spaces and brackets: fields are counted from its end.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
