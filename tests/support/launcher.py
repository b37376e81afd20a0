"""Runs Python programs in forks of a process that has imported the libraries once.

A start costs hundredths of a second in place of seconds, and is a process like any other: it may be
killed, has its own session, and ends as the interpreter ends.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fcntl import F_DUPFD, fcntl
from multiprocessing import spawn
from pathlib import Path
from types import ModuleType
from typing import IO, NoReturn

from tests.support import environment, program, relay


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


class Launch:
    """``launch(module, *arguments, cwd=, **environment)`` begins a process."""

    def __init__(self, folder: Path) -> None:
        self._server = folder / "server"
        self.children: list[Child] = []
        self.python = folder / "python"
        """Takes what the interpreter takes; a process that is started with it is a fork, too, and
        dies with the one that stands for it."""
        words = shlex.join([sys.executable, "-S", "-E", str(Path(__file__).with_name("relay.py"))])
        self.python.write_text(f'#!/bin/sh\nexec {words} "$0" "$@"\n', encoding="utf-8")
        self.python.chmod(0o700)

    def __call__(
        self, module: str, *arguments: object, cwd: Path | None = None, **env: str
    ) -> Child:
        out, told_out = os.pipe()
        errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (the child's)
        order: relay.Order = {
            "words": ["-m", module, *map(str, arguments)],
            "cwd": str(cwd or Path.cwd()),
            "env": environment(**env),
            "python": sys.executable,
        }
        with Path(os.devnull).open() as nothing:
            files = {0: nothing.fileno(), 1: told_out, 2: errors.fileno()}
            with relay.ordered(str(self._server), order, files) as line:
                os.close(told_out)
                child = Child(line.makefile(), os.fdopen(out, encoding="utf-8"), errors)
        self.children.append(child)
        return child

    @contextmanager
    def as_python(self) -> Iterator[None]:
        """What is started with ``sys.executable``, or spawned, is a fork from here on."""
        before = sys.executable, spawn.get_executable()
        sys.executable = str(self.python)
        spawn.set_executable(sys.executable)
        try:
            yield
        finally:
            sys.executable = before[0]
            spawn.set_executable(before[1])


@contextmanager
def launcher() -> Iterator[Launch]:
    """What still runs at the end is killed."""
    with tempfile.TemporaryDirectory(prefix="launch-") as folder:
        launch = Launch(Path(folder))
        with (
            socket.socket(socket.AF_UNIX) as entrance,
            subprocess.Popen(
                program("launcher", entrance.fileno()),
                env=environment(),
                pass_fds=[entrance.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            ) as server,
        ):
            entrance.bind(f"{folder}/server")
            entrance.listen()
            try:
                yield launch
            finally:
                for child in launch.children:
                    child.kill()
                    child.wait(60)
                    child.close()
                server.kill()


def _serve(entrance: socket.socket) -> relay.Order:
    """Fork for every order; returns in the forks, with the order."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for attendants
    while True:
        if 0 in select.select([0, entrance.fileno()], [], [])[0]:
            os._exit(0)  # who would give orders is gone
        line, _ = entrance.accept()
        order, descriptors = relay.taken(line)
        if os.fork() == 0:
            break
        line.close()
        for descriptor in descriptors.values():
            os.close(descriptor)
    entrance.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if (pid := os.fork()) != 0:
        for descriptor in descriptors.values():
            os.close(descriptor)
        _attend(pid, line)
    line.close()
    os.setsid()
    # Out of the way of the numbers they get.
    high = 1 + max(*descriptors, *descriptors.values())
    moved = {number: fcntl(fd, F_DUPFD, high) for number, fd in descriptors.items()}
    for descriptor in descriptors.values():
        os.close(descriptor)
    for number, descriptor in moved.items():
        os.dup2(descriptor, number)
        os.close(descriptor)
    return order


def _attend(pid: int, line: socket.socket) -> None:
    """Tell its number and its exit code; kill it when nobody is left to hear that."""
    line.sendall(f"{pid}\n".encode())

    def listen() -> None:
        line.recv(1)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=listen, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):
        line.sendall(f"{code}\n".encode())
    os._exit(0)


def _become(words: list[str], cwd: str, env: Mapping[str, str], python: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.executable = python
    spawn.set_executable(python)
    code: object = None
    try:
        _run(*words)
    except SystemExit as ended:
        code = ended.code
    if code is None or isinstance(code, int):
        _exit(code or 0)
    sys.exit(str(code))


def _run(kind: str, *words: str) -> None:
    if kind == "-m":
        sys.argv = [*words]
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = [kind, *words[1:]]
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(words[0], "<string>", "exec"), vars(sys.modules["__main__"]))  # noqa: S102
    else:
        sys.argv, sys.path[0] = [kind, *words], str(Path(kind).parent)
        runpy.run_path(kind, run_name="__main__")


def _exit(code: int) -> NoReturn:
    """End as the interpreter does, but for clearing all modules, which takes it 0.4 s."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main(entrance: str) -> None:
    importlib.import_module("tests.support.preloaded")
    assert threading.active_count() == 1, "a fork would lose threads"
    gc.collect()
    gc.freeze()  # no fork goes through it, and copies its pages
    _become(**_serve(socket.socket(fileno=int(entrance))))


if __name__ == "__main__":
    main(*sys.argv[1:])
