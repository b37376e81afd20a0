"""What a training shows of itself: losses, curves, seconds per step, and the most memory."""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from spamo_cache import extras, io
from spamo_cache.config import Pipeline
from spamo_cache.config.pipeline import dotted
from spamo_cache.runs.folder import MetricsLine, RunFolder, identity


class Meter:
    """Means over steps of what the microbatches came to, without waiting for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add what a microbatch contributes to the figures of a step."""
        for name, value in values.items():
            held = self._sums.get(name)
            self._sums[name] = value.detach() if held is None else held + value.detach()

    def step(self) -> None:
        self._steps += 1

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Figure -> mean over the steps since the last look, of all processes together."""
        totals = accelerator.reduce(torch.stack(list(self._sums.values())), "sum").tolist()
        means = {name: total / self._steps for name, total in zip(self._sums, totals, strict=True)}
        self._sums, self._steps = {}, 0
        return means


class StepTimer:
    """Counted from its making on; the steps are those of the latest stage."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.steps, self._seconds, self._since = 0, 0.0, time.perf_counter()
        self._waited = 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # Linux forgets the peak of what this process did before.
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def begin(self) -> None:
        """A stage begins."""
        self.steps, self._seconds, self._waited = 0, 0.0, 0.0
        self.skip()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch: what of it the device had nothing to do.

        A GPU that is done by the end of the wait is taken to have been idle all the time.
        """
        began, queued = time.perf_counter(), None
        if self._device.type == "cuda":
            queued = torch.cuda.current_stream(self._device).record_event()
        yield
        if queued is None or queued.query():
            self._waited += time.perf_counter() - began

    def step(self) -> None:
        """A step is over, and what was logged and saved since the one before."""
        now = time.perf_counter()
        self.steps, self._seconds = self.steps + 1, self._seconds + now - self._since
        self._since = now

    def skip(self) -> None:
        """The time since the last step counts for none."""
        self._since = time.perf_counter()

    @property
    def step_seconds(self) -> float | None:
        """Mean wall time; None without a step."""
        return self._seconds / self.steps if self.steps else None

    @property
    def waiting_share(self) -> float | None:
        """Of that time what the device waited for batches, at most; None without a step."""
        return self._waited / self._seconds if self.steps else None

    @property
    def peak_bytes(self) -> int:
        """Of the GPU what torch allocated, of a CPU what the process held."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        status = Path("/proc/self/status")
        if status.exists():
            # Not ru_maxrss: a child's begins with its parent's, and cannot be reset.
            return int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


_ASKED: Any = {"use": "drawing curves", "where": "log", "instead": "take it out of log"}


class Curves(Protocol):
    """Somewhere curves are drawn."""

    def add(self, line: MetricsLine) -> None: ...
    def close(self) -> None: ...


def check_curves(pipeline: Pipeline) -> None:
    """Look whether what the pipeline's ``log`` asks for is installed.

    Raises:
        MissingLibraryError: one of them is not.
    """
    for library in pipeline.log:
        extras.load(library, **_ASKED)


def curves(pipeline: Pipeline, folder: RunFolder) -> list[Curves]:
    """Those that the pipeline asks for; call it when ``metrics.jsonl`` is as training goes on.

    Raises:
        MissingLibraryError: one of them is not installed.
    """
    made: list[Curves] = []
    if "tensorboard" in pipeline.log:
        made.append(TensorBoard(folder))
    if "wandb" in pipeline.log:
        made.append(WeightsAndBiases(pipeline, folder))
    if "mlflow" in pipeline.log:
        made.append(MLflow(pipeline, folder))
    return made


class TensorBoard:
    """Event files in ``<run>/tensorboard``, written anew from the metrics when a run goes on: they
    never hold a step twice."""

    def __init__(self, folder: RunFolder) -> None:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        shutil.rmtree(folder.curves, ignore_errors=True)
        io.make_folders(folder.curves)
        self._writer: Any = writer(str(folder.curves))
        for line in folder.read_metrics():
            self.add(line)

    def add(self, line: MetricsLine) -> None:
        for name, value in _figures(line).items():
            self._writer.add_scalar(name, value, line.step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run named like the pipeline, in project ``spamo-cache``; a resumed one is continued."""

    def __init__(self, pipeline: Pipeline, folder: RunFolder) -> None:
        wandb = extras.load("wandb", **_ASKED)
        self._run: Any = wandb.init(
            project="spamo-cache",
            name=pipeline.name,
            group=pipeline.corpus,
            id=_id_elsewhere(folder),
            resume="allow",
            dir=str(folder.path),
            config=pipeline.model_dump(mode="json"),
        )
        for stage in ("align", "translate"):
            # Both stages count from one, which W&B's own steps do not allow.
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def add(self, line: MetricsLine) -> None:
        self._run.log({f"{line.stage}/step": line.step} | _figures(line))

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """An MLflow run named like the pipeline, in experiment ``spamo-cache`` unless
    ``MLFLOW_EXPERIMENT_NAME`` says otherwise; a resumed one is continued."""

    def __init__(self, pipeline: Pipeline, folder: RunFolder) -> None:
        self._mlflow = extras.load("mlflow", **_ASKED)
        self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "spamo-cache"))
        tags = {"spamo-cache.run": _id_elsewhere(folder), "corpus": pipeline.corpus}
        begun = self._mlflow.search_runs(
            filter_string=f"tags.`spamo-cache.run` = '{tags['spamo-cache.run']}'",
            output_format="list",
        )
        self._mlflow.start_run(
            run_id=begun[0].info.run_id if begun else None, run_name=pipeline.name, tags=tags
        )
        self._mlflow.log_params(dict(dotted(pipeline.model_dump(mode="json"))))

    def add(self, line: MetricsLine) -> None:
        self._mlflow.log_metrics(_figures(line), step=line.step)

    def close(self) -> None:
        self._mlflow.end_run()


def _id_elsewhere(folder: RunFolder) -> str:
    """By which a service knows a run; the same experiment in another folder is another run."""
    place = str(folder.path.resolve())
    return identity({"run": folder.read_about().identity, "at": place})[:16]


def _figures(line: MetricsLine) -> dict[str, float]:
    return {f"{line.stage}/{name}": value for name, value in line.values.items()}
