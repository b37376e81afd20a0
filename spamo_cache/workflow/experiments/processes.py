"""Commands run beside each other as child processes, each on its own GPU or share of the cores."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from spamo_cache import devices
from spamo_cache.errors import SpamoError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def worker_envs(jobs: int | None, threads: int | None, device: str) -> list[dict[str, str]]:
    """What each of ``jobs`` processes beside each other finds in its environment.

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
    found = (named or list(map(str, range(count))))[:count]
    _, _, number = device.partition(":")
    return [found[int(number)]] if number else found


Call = Callable[..., Awaitable[None]]
"""Runs one command, given word by word; a SpamoError with what it said if it fails."""


class ProcessPool:
    """Runs commands in child processes, one in each place at a time; see :func:`started`."""

    def __init__(self, places: Sequence[Mapping[str, str]], tether: int) -> None:
        self._free: asyncio.Queue[Mapping[str, str]] = asyncio.Queue()
        for place in places:
            self._free.put_nowait(place)
        self._tether = tether

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Call]:
        """Hold the next free place for the block; first come, first served."""
        place = await self._free.get()
        try:
            yield partial(self._call, os.environ | place)
        finally:
            self._free.put_nowait(place)

    async def _call(self, environment: Mapping[str, str], *words: str) -> None:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "spamo_cache.workflow.experiments.child_main", *words),
            stdin=self._tether,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        try:
            _, said = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode:
            raise SpamoError(_fault(said.decode(errors="replace"), child.returncode))


@contextmanager
def started(places: Sequence[Mapping[str, str]]) -> Iterator[ProcessPool]:
    """ProcessPool that outlive neither the block nor this process, however it ends."""
    their_end, our_end = os.pipe()
    try:
        yield ProcessPool(places, their_end)
    finally:
        os.close(our_end)
        os.close(their_end)


def _fault(said: str, code: int) -> str:
    """The reason in what a failed command printed."""
    _, found, error = said.rpartition("error: ")
    if found:
        what, *rest = error.strip().splitlines()
        return " ".join([what, *(line.strip() for line in rest)])
    if code < 0:
        return f"was ended by signal {-code}"
    lines = said.strip().splitlines()
    return lines[-1] if lines else f"ended with code {code}"
