"""Stands for a process that the launcher forks: has its files, and ends as it ends.

Usage: relay.py PYTHON [-m MODULE | -c CODE | FILE] [ARGUMENTS ...], by a bare interpreter. The
launcher's socket lies beside PYTHON, which is the script that runs this.
"""

# Importing pathlib would take as long as all the rest.
# ruff: noqa: PTH109, PTH118, PTH120

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


def main(python: str, *words: str) -> None:
    if not words or (words[0].startswith("-") and words[0] not in {"-m", "-c"}):
        os.execv(sys.executable, [sys.executable, *words])  # noqa: S606
    order: Order = {
        "words": list(words),
        "cwd": os.getcwd(),
        "env": dict(os.environ),
        "python": python,
    }
    server = os.path.join(os.path.dirname(python), "server")
    with ordered(server, order, {number: number for number in range(3)}) as line:
        code = int(line.makefile().readlines()[1])
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
