"""A pool of child processes, each on its own GPU or share of the cores; see ``tasks``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, Self, cast

from spamo_cache import devices
from spamo_cache.errors import SpamoError
from spamo_cache.workflow.experiments.tasks import Task, rebuilt

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_CHILD = "from spamo_cache.workflow.experiments.tasks import child_main; child_main()"
_LONGEST_ANSWER = 1 << 22
_TAIL = 1 << 14
"""Bytes of a child's last words that are kept."""
_SECONDS_TO_END = 30


def worker_envs(jobs: int | None, threads: int | None, device: str) -> list[dict[str, str]]:
    """The environment of each of ``jobs`` processes that run beside each other.

    Args:
        jobs: None is one per GPU or, without one, as many as the cores allow.
        threads: what a process asks for on a CPU; None is all cores.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    gpus = [] if device == "cpu" else _gpus(device)
    if gpus:
        count = len(gpus) if jobs is None else jobs
        return [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} for number in range(count)]
    cores = devices.cpu_cores()
    count = jobs or max(1, cores // (threads or cores))
    each = str(max(1, cores // count))
    # Whoever limits threads by hand knows why, and equal bits want equal threads.
    threads_each = {name: os.environ.get(name, each) for name in _THREADS}
    return [{"CUDA_VISIBLE_DEVICES": "", **threads_each}] * count


def _gpus(device: str) -> list[str]:
    """As ``CUDA_VISIBLE_DEVICES`` names those that this process sees and ``device`` allows."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    visible = (named or list(map(str, range(count))))[:count]
    _, _, number = device.partition(":")
    return [visible[int(number)]] if number else visible


Warn = Callable[[str], None]
Tell = Callable[[Mapping[str, Any]], None]


class Call(Protocol):
    """Runs a task to its end; raises the error that it raised.

    Its warnings are handed to ``warn``; to ``tell`` how far it is, in ``words`` and as an
    ``event``.
    """

    def __call__(self, task: Task, warn: Warn, tell: Tell = ...) -> Awaitable[None]: ...


def _silent(_: Mapping[str, Any]) -> None:
    pass


class ProcessPool:
    """Runs tasks in child processes, one at a time in each of ``envs``.

    A process serves one block after another: importing torch takes longer than many an evaluation.
    No child outlives the pool's own block, nor this process, however it ends: see
    ``tasks.child_main``.
    """

    def __init__(self, envs: Sequence[Mapping[str, str]]) -> None:
        self._children = [_Child(os.environ | env) for env in envs]
        self._free: asyncio.Queue[_Child] = asyncio.Queue()
        for child in self._children:
            self._free.put_nowait(child)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await asyncio.gather(*(child.finish() for child in self._children))
        finally:
            await asyncio.gather(*(child.kill() for child in self._children))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Call]:
        """Hold the next free process for the block, first come, first served.

        A block that raises gives its process up: nobody knows what it holds.
        """
        child = await self._free.get()
        try:
            yield child.run
        except BaseException:
            await child.kill()
            raise
        finally:
            self._free.put_nowait(child)


class _Child:
    """A process that runs tasks, started for the first of them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._process: Process | None = None

    async def run(self, task: Task, warn: Warn, tell: Tell = _silent) -> None:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _CHILD),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=self._env,
                limit=_LONGEST_ANSWER,
            )
            self._tail = asyncio.create_task(_tail(self._process))
        process = self._process
        answer = await _answer(process, task, warn, tell)
        if answer is None:
            self._process = None
            raise _death(await process.wait(), await self._tail)
        if "error" in answer:
            raise rebuilt(answer["error"])

    async def finish(self) -> None:
        """Let the process end by itself."""
        if self._process is not None:
            cast("StreamWriter", self._process.stdin).close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _SECONDS_TO_END)

    async def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            await self._tail
            self._process = None


async def _answer(process: Process, task: Task, warn: Warn, tell: Tell) -> Mapping[str, Any] | None:
    """Send the task and hand on what is told; the last answer, None if the process died first."""
    stdin, stdout = cast("StreamWriter", process.stdin), cast("StreamReader", process.stdout)
    with suppress(ConnectionError):  # it may have died already
        stdin.write(task.model_dump_json().encode() + b"\n")
        await stdin.drain()
    async for line in stdout:
        answer: Mapping[str, Any] = json.loads(line)
        if "warning" in answer:
            warn(answer["warning"])
        elif "progress" in answer:
            tell(answer["progress"])
        else:
            return answer
    return None


async def _tail(process: Process) -> str:
    """The end of what a process wrote to its standard error."""
    stderr = cast("StreamReader", process.stderr)
    kept = b""
    while data := await stderr.read(_TAIL):
        kept = (kept + data)[-_TAIL:]
    return kept.decode(errors="replace")


def _death(code: int, last_words: str) -> SpamoError:
    """Why a child ended without an answer."""
    if code < 0:
        remedy = None
        if -code == signal.SIGKILL:
            remedy = "if memory ran out, run fewer at a time (--jobs)"
        return SpamoError(f"was ended by signal {-code}", remedy=remedy)
    lines = last_words.strip().splitlines()
    return SpamoError(lines[-1] if lines else f"ended with code {code}")
