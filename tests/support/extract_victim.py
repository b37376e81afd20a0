"""Runs ``extract`` in forked children that die on command: imports are paid for once.

Reads a JSON object per line: options of ``extract`` and how the child dies; ``after`` seconds, or
at the ``operation`` with that number, ``before`` or after it is done. Answers with a line each.
"""

from __future__ import annotations

import builtins
import functools
import gc
import io
import itertools
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spamo_cache import config
from spamo_cache.config import CacheSpec
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.encoders import registry
from spamo_cache.errors import SpamoError
from spamo_cache.extract.extraction import extract
from spamo_cache.store.writer import StoreWriter

_OPERATIONS = ("link", "rename", "replace", "fsync", "unlink", "rmdir", "mkdir")


class Operations:
    """Counts what changes the disk, and kills this process at one of them."""

    def __init__(self, fatal: int | None, *, before: bool) -> None:
        self._numbers = itertools.count()
        self._fatal, self._before = fatal, before
        self.count = 0

    def __call__(self, work: Callable[[], Any]) -> Any:
        number = next(self._numbers)
        self.count = number + 1
        if number == self._fatal and self._before:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return work()
        finally:
            if number == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        for name in _OPERATIONS:
            setattr(os, name, self._counted(getattr(os, name)))
        plain_os, plain_io = os.open, io.open

        def os_open(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            def do() -> int:
                return plain_os(path, flags, *args, **kwargs)

            return self(do) if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) else do()

        def io_open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            def do() -> Any:
                return plain_io(file, mode, *args, **kwargs)

            return self(do) if set(mode) & set("wax+") else do()

        os.open = os_open
        io.open = builtins.open = io_open

    def _counted(self, work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: self(lambda: work(*args, **kwargs))


def child(order: dict[str, Any], given: tuple[Manifest, Path, CacheSpec]) -> None:
    manifest, root, spec = given
    operations = Operations(order.get("operation"), before=order.get("before", False))
    computed: list[tuple[str, int]] = []
    created: list[int] = []
    publish = StoreWriter.publish

    def noting(self: StoreWriter, partition: int, *args: Any, **kwargs: Any) -> bool:
        created.append(operations.count)
        computed.append((self.path.name, partition))
        return publish(self, partition, *args, **kwargs)

    StoreWriter.publish = noting
    answer: dict[str, Any] = {}
    if (limit := order.get("file_bytes")) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    operations.install()
    try:
        extract(
            manifest,
            root,
            spec,
            root,
            store_root=Path(order["store"]),
            streams=order.get("streams"),
            executor="serial",
            device="cpu",
            retry_failed=order.get("retry", False),
        )
    except SpamoError as error:
        answer["error"] = str(error)
    counts = {"operations": operations.count, "created": created[0] if created else None}
    say({**answer, **counts, "computed": computed})


def say(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def main(folder: Path) -> None:
    spec = config.load(folder / "spec.yaml", CacheSpec)
    given = Manifest.read(folder / "manifest.csv", corpus="toy"), folder, spec
    # The networks are loaded once, too.
    registry.build = functools.cache(registry.build)
    for stream in spec.streams.values():
        registry.build(stream, folder, "float32")
        registry.build(stream, folder, spec.compute, "cpu")
    gc.collect()
    gc.freeze()  # no child goes through it, and copies its pages
    for line in sys.stdin:
        order = json.loads(line)
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            try:
                child(order, given)
                os._exit(0)
            except BaseException as error:  # noqa: BLE001 - a child never comes back
                say({"error": f"{type(error).__name__}: {error}"})
                os._exit(1)
        if (delay := order.get("after")) is not None:
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        say({"status": status, "seconds": time.monotonic() - began})


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
