"""What child processes do: tasks that come as lines of JSON, answered in lines of JSON."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from spamo_cache import errors, extras
from spamo_cache.config import Pipeline, StrictModel
from spamo_cache.errors import SpamoError
from spamo_cache.workflow.watcher import Advance, Watcher, Work


class TrainTask(StrictModel):
    """Train one run, see :func:`spamo_cache.workflow.train.train_pipeline`."""

    kind: Literal["train"] = "train"
    pipeline: Pipeline
    base: Path
    output: Path
    manifest: Path | None
    features: Mapping[str, str] = {}
    """Stream -> store."""
    store: str | None = None
    root: Path | None
    device: str

    def run(self, watcher: Watcher) -> None:
        from spamo_cache.workflow.train import train_pipeline

        train_pipeline(
            self.pipeline,
            self.base,
            manifest=self.manifest,
            features=self.features,
            store=self.store,
            root=self.root,
            output=self.output,
            device=self.device,
            watcher=watcher,
        )


class EvaluateTask(StrictModel):
    """Score a run on a split, see :func:`spamo_cache.workflow.evaluate.evaluate`."""

    kind: Literal["evaluate"] = "evaluate"
    folder: Path
    split: str
    spec_set: Mapping[str, Any]
    store: str | None
    root: Path | None
    device: str

    def run(self, watcher: Watcher) -> None:
        from spamo_cache.workflow.evaluate import evaluate

        evaluate(
            self.folder,
            split=self.split,
            spec_set=self.spec_set,
            store=self.store,
            root=self.root,
            device=self.device,
            watcher=watcher,
        )


class AnalyzeTask(StrictModel):
    """Look into a run, see :func:`spamo_cache.workflow.analyze.analyze`."""

    kind: Literal["analyze"] = "analyze"
    folder: Path
    device: str

    def run(self, watcher: Watcher) -> None:
        from spamo_cache.workflow.analyze import analyze

        analyze(self.folder, device=self.device, watcher=watcher)


class AttributeTask(StrictModel):
    """Attribute translations to frames, see :func:`spamo_cache.workflow.analyze.attribute`."""

    kind: Literal["attribute"] = "attribute"
    folder: Path
    clips: tuple[str, ...]
    root: Path
    device: str

    def run(self, watcher: Watcher) -> None:
        from spamo_cache.workflow.analyze import attribute

        attribute(self.folder, self.clips, root=self.root, device=self.device, watcher=watcher)


Task = TrainTask | EvaluateTask | AnalyzeTask | AttributeTask
_TASK: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])


# --- in the child -------------------------------------------------------------------------------


def child_main() -> None:
    """Run the tasks that come by standard input, and end with the parent however that ends.

    The parent holds standard input open for as long as it wants answers. Whatever ends the parent,
    kill -9 included, closes it, and this process ends at once, as if it had been killed itself.
    Answers go to the standard output that the parent gave; what libraries print goes to standard
    error.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    inbox, idle = SimpleQueue[bytes | None](), threading.Event()
    threading.Thread(target=_receive, args=(inbox, idle), daemon=True).start()
    while (line := inbox.get()) is not None:
        try:
            _TASK.validate_json(line).run(_Sender(send))
        except Exception as error:  # noqa: BLE001 (the parent raises it)
            traceback.print_exc()
            last: dict[str, Any] = {"error": _described(error)}
        else:
            last = {"done": True}
        _let_go()
        idle.set()
        send(last)


def _let_go() -> None:
    """What a task held of a GPU is others' until the next one."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _receive(inbox: SimpleQueue[bytes | None], idle: threading.Event) -> None:
    for line in sys.stdin.buffer:
        idle.clear()
        inbox.put(line)
    if not idle.is_set():
        os._exit(1)
    inbox.put(None)


_PAUSE = 1.0
"""Seconds between two reports of progress."""


class _Sender(Watcher):
    """Hands warnings and progress to the parent."""

    def __init__(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        self._send = send
        self._sent = 0.0

    def notice(self, text: str, event: Mapping[str, Any] | None = None) -> None:
        pass

    def warning(self, text: str) -> None:
        self._send({"warning": text})

    @contextmanager
    def task(self, task: str, of: str = "", unit: str = "") -> Iterator[Advance]:
        work = Work(task, of, unit, began=time.monotonic())

        def advance(done: int, total: int, **more: Any) -> None:
            now = time.monotonic()
            if work.update(now, done, total, **more) or now - self._sent >= _PAUSE:
                self._sent = now
                self._send({"progress": {"words": work.words(now), "event": work.event(now)}})

        yield advance


def _described(error: Exception) -> dict[str, str | None]:
    """An error as data; of a bug what it is and where it was raised."""
    shown = extras.explained(error) or errors.actionable(error)
    if shown is None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        what = traceback.format_exception_only(error)[-1].strip()
        shown = SpamoError(what, where=f"{last.filename}:{last.lineno}")
    # A kind that only one room knows is, to everybody else, what it is derived from.
    kinds = [kind.__name__ for kind in type(shown).__mro__]
    return {
        "class": next(kind for kind in kinds if kind in _CLASSES),
        "what": shown.what,
        "where": shown.where,
        "remedy": shown.remedy,
    }


# --- in the parent ------------------------------------------------------------------------------

_CLASSES: Mapping[str, type[SpamoError]] = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SpamoError)
}


def rebuilt(described: Mapping[str, Any]) -> SpamoError:
    """The error that a child described, of the class it was there."""
    return _CLASSES[described["class"]](
        described["what"], where=described["where"], remedy=described["remedy"]
    )
