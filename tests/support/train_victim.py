"""Trains the toy in forked children that are killed on command: imports are paid for once.

Reads a JSON object per line: ``out``, and the number of the event at which the child is killed, if
any. Answers with the child's exit status and the events it saw.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spamo_cache.metrics.scores import bleu4
from spamo_cache.model.translator import Translator
from spamo_cache.train import optim
from spamo_cache.train.loop import Trainer
from tests.support import toy


class Events:
    """Counts whatever changes the disk or the weights, and kills this process after one of it."""

    def __init__(self, fatal: int | None) -> None:
        self._numbers = itertools.count(1)
        self._fatal = fatal
        self.count = 0

    def counted(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def do(*args: Any, **kwargs: Any) -> Any:
            result = work(*args, **kwargs)
            self.count = next(self._numbers)
            if self.count == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return do

    def install(self) -> None:
        places = [
            (os, "fsync"), (Path, "write_bytes"), (Path, "replace"), (Path, "unlink"),
            (Translator, "forward"), (Translator, "generate"), (Trainer, "_log"),
            (optim, "set_rate"), (torch.optim.AdamW, "step"), (torch.optim.AdamW, "zero_grad"),
        ]  # fmt: skip
        for owner, name in places:
            setattr(owner, name, self.counted(getattr(owner, name)))


def child(order: dict[str, Any]) -> None:
    events = Events(order.get("fatal"))
    events.install()
    toy.run(Path(order["out"]), toy.pipeline(**toy.SHORT))
    say({"events": events.count})


def say(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def main() -> None:
    torch.set_num_threads(1)
    # What is imported only when a model is loaded or a text is scored.
    Translator(toy.pipeline(), {"spatial": 8, "motion": 6}, toy.GOLDEN / "llm").attach()
    bleu4(["a"], ["a"], tokenize="13a")
    gc.collect()
    gc.freeze()  # no child goes through it, and copies its pages
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                child(json.loads(line))
                os._exit(0)
            except BaseException as error:  # noqa: BLE001 - a child never comes back
                say({"error": f"{type(error).__name__}: {error}"})
                os._exit(1)
        say({"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})


if __name__ == "__main__":
    main()
