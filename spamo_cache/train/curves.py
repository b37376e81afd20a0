"""A run's metrics as curves: TensorBoard event files and W&B, beside ``metrics.jsonl``."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping
from typing import Any, Protocol

from spamo_cache.config import Pipeline
from spamo_cache.errors import ConfigError
from spamo_cache.runs.folder import RunFolder, identity

Line = Mapping[str, Any]
"""A line of ``metrics.jsonl``: ``stage``, ``step`` and figures."""


class Curves(Protocol):
    """Somewhere curves are drawn."""

    def add(self, line: Line) -> None: ...
    def close(self) -> None: ...


def curves(pipeline: Pipeline, folder: RunFolder) -> list[Curves]:
    """Those that the pipeline asks for; call it when ``metrics.jsonl`` is as training goes on.

    Raises:
        ConfigError: one of them is not installed.
    """
    made: list[Curves] = []
    if "tensorboard" in pipeline.log:
        made.append(TensorBoard(folder))
    if "wandb" in pipeline.log:
        made.append(WeightsAndBiases(pipeline, folder))
    return made


class TensorBoard:
    """Event files in ``<run>/tensorboard``, written anew from the metrics when a run goes on: they
    never hold a step twice."""

    def __init__(self, folder: RunFolder) -> None:
        writer = _imported("torch.utils.tensorboard", "tensorboard").SummaryWriter
        shutil.rmtree(folder.curves, ignore_errors=True)
        self._writer: Any = writer(str(folder.curves))
        for line in folder.read_metrics():
            self.add(line)

    def add(self, line: Line) -> None:
        for name, value in _figures(line).items():
            self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run named like the pipeline, in project ``spamo-cache``; a resumed one is continued."""

    def __init__(self, pipeline: Pipeline, folder: RunFolder) -> None:
        wandb = _imported("wandb", "wandb")
        self._run: Any = wandb.init(
            project="spamo-cache",
            name=pipeline.name,
            group=pipeline.corpus,
            # The same experiment in another folder is another run.
            id=identity({"run": folder.read_about().identity, "at": str(folder.path.resolve())})[
                :16
            ],
            resume="allow",
            dir=str(folder.path),
            config=pipeline.model_dump(mode="json"),
        )
        for stage in ("align", "translate"):
            # Both stages count from one, which W&B's own steps do not allow.
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def add(self, line: Line) -> None:
        self._run.log({f"{line['stage']}/step": line["step"]} | _figures(line))

    def close(self) -> None:
        self._run.finish()


def _figures(line: Line) -> dict[str, float]:
    names = [name for name in line if name not in {"stage", "step"}]
    return {f"{line['stage']}/{name}": line[name] for name in names}


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{package} is not installed",
            where="log",
            remedy=f"pip install {package}, or take it out of log",
        ) from error
