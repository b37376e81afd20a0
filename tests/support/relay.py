"""Stands for a process that the launcher forks: passes on its files and signals, ends as it ends.

Usage: relay.py PYTHON [-m MODULE | -c CODE | FILE] [ARGUMENTS ...], by a bare interpreter. The
launcher's socket lies beside PYTHON, which is the script that runs this.
"""

# Importing pathlib would take as long as all the rest.
# ruff: noqa: PTH109, PTH118, PTH120, PTH208

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import TypedDict


class Order(TypedDict):
    """What the fork becomes."""

    words: list[str]
    """After the interpreter's name."""
    cwd: str
    env: dict[str, str]
    python: str
    """What it takes for its interpreter."""


def ordered(server: str, order: Order, files: Mapping[int, int]) -> socket.socket:
    """Hand it over, with open files by the number they get; its number and code come back."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(server)
    head = json.dumps([order, list(files)]).encode() + b"\n"
    socket.send_fds(line, [head], list(files.values()))
    return line


def taken(line: socket.socket) -> tuple[Order, dict[int, int]]:
    """What :func:`ordered` handed over."""
    message, descriptors, _, _ = socket.recv_fds(line, 1 << 20, 64)
    while not message.endswith(b"\n"):
        message += line.recv(1 << 20)
    order, numbers = json.loads(message)
    return order, dict(zip(numbers, descriptors, strict=True))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:  # it was that of the listing
        return False
    return True


def main(python: str, *words: str) -> None:
    if words[:1] == ("-B",):  # of no matter to what has its libraries
        words = words[1:]
    if not words or (words[0].startswith("-") and words[0] not in {"-m", "-c"}):
        os.execv(sys.executable, [sys.executable, *words])  # noqa: S606
    order: Order = {
        "words": list(words),
        "cwd": os.getcwd(),
        "env": dict(os.environ),
        "python": python,
    }
    server = os.path.join(os.path.dirname(python), "server")
    # Those of pipes to the parent, too, which multiprocessing names by their numbers.
    files = {number: number for number in map(int, os.listdir("/dev/fd")) if _is_open(number)}
    with ordered(server, order, files) as line:
        told = line.makefile()
        pid = int(told.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda received, _: os.kill(pid, received))
        code = int(told.readline())
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
