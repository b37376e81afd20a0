"""Runs ``python -m`` in forks of a process that has imported the libraries once.

A start costs hundredths of a second in place of seconds, and is a process like any other: it may be
killed, has its own session, and ends as the interpreter ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.support import environment, program


class Child:
    """As much of a ``subprocess.Popen[str]`` as tests use."""

    def __init__(self, status: IO[str], stdout: IO[str], stderr: IO[str]) -> None:
        self._status = status
        self.pid = int(status.readline())
        self.stdout, self._stderr = stdout, stderr
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; minus the signal that killed it."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("child", timeout or 0.0)
            self.returncode = int(self._status.readline())
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is left of its output, and all of its errors."""
        stopwatch = threading.Timer(timeout, self.kill) if timeout else None
        if stopwatch:
            stopwatch.start()
        out = self.stdout.read()
        self.wait(timeout)
        if stopwatch:
            stopwatch.cancel()
        self._stderr.seek(0)
        return out, self._stderr.read()

    def kill(self) -> None:
        if self.returncode is None and not select.select([self._status], [], [], 0)[0]:
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        for stream in (self._status, self.stdout, self._stderr):
            stream.close()


Launch = Callable[..., Child]


@contextmanager
def launcher() -> Iterator[Launch]:
    """``launch(module, *arguments, cwd=, **environment)``; what still runs at the end is killed."""
    children: list[Child] = []
    ours, theirs = socket.socketpair()
    with (
        ours,
        subprocess.Popen(
            program("launcher", theirs.fileno()),
            env=environment(),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        ) as server,
    ):
        theirs.close()

        def launch(module: str, *arguments: object, cwd: Path | None = None, **env: str) -> Child:
            order = {"module": module, "arguments": list(map(str, arguments)),
                     "cwd": str(cwd or Path.cwd()), "env": environment(**env)}  # fmt: skip
            status, told_status = os.pipe()
            stdout, told_stdout = os.pipe()
            stderr = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (the child's)
            given = [told_status, told_stdout, stderr.fileno()]
            socket.send_fds(ours, [json.dumps(order).encode() + b"\n"], given)
            os.close(told_status)
            os.close(told_stdout)
            child = Child(os.fdopen(status), os.fdopen(stdout, encoding="utf-8"), stderr)
            children.append(child)
            return child

        try:
            yield launch
        finally:
            for child in children:
                child.kill()
                child.wait(60)
                child.close()
            server.kill()


def _serve(connection: socket.socket) -> dict[str, Any]:
    """Fork for every order; returns in the forks, with the order."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for attendants
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        while message and not message.endswith(b"\n"):
            message += connection.recv(1 << 20)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status, stdout, stderr = descriptors
    if (pid := os.fork()) != 0:
        os.close(stdout)
        os.write(status, f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(status, f"{code}\n".encode())
        os._exit(0)
    os.setsid()
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for descriptor in descriptors:
        os.close(descriptor)
    order: dict[str, Any] = json.loads(message)
    return order


def _become(module: str, arguments: list[str], cwd: str, env: Mapping[str, str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main(connection: str) -> None:
    importlib.import_module("tests.support.preloaded")
    assert threading.active_count() == 1, "a fork would lose threads"
    gc.collect()
    gc.freeze()  # no fork goes through it, and copies its pages
    _become(**_serve(socket.socket(fileno=int(connection))))


if __name__ == "__main__":
    main(*sys.argv[1:])
