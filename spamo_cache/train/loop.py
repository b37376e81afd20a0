"""Two stages of optimisation: VT-Align, then translation selected on dev BLEU."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from spamo_cache.config import Pipeline, StageConfig
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.evaluate.decoding import decode, recall_at_1
from spamo_cache.evaluate.metrics import bleu4
from spamo_cache.model.text import normalise
from spamo_cache.model.translator import Stage, Translator
from spamo_cache.train import optim
from spamo_cache.train.batches import MEMORY, Schedule, examples, stream_batches
from spamo_cache.train.checkpoint import RunFolder, write_tensors
from spamo_cache.train.features import Features

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with the stage, its finished steps, its steps in all, and the latest numbers."""

LOG_EVERY = 10
"""Steps between two lines of metrics; states to resume from are only saved there."""

SAVE_SECONDS = 30.0
"""Least time between two states: the most work a kill costs, besides a few steps."""

_DEV = ("dev", "val", "validation")


@dataclass(slots=True, kw_only=True)
class Place:
    """How far a run has come; kept with every state."""

    stage: Stage = "align"
    step: int = 0
    best_bleu: float | None = None
    best_step: int = 0
    recall: float | None = None
    stale: int = 0
    """Scorings of dev since the best one."""
    metrics_bytes: int = 0


class Meter:
    """Means of what was measured since the last look, without waiting for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()
        self._count += 1

    def take(self) -> dict[str, float]:
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means


class Trainer:
    """One training: model, data, place, and the run folder it is written to.

    Args:
        llm: folder of the LLM.
        device: ``auto``, ``cpu`` or ``cuda``.
        memory: bytes of features of one split to keep in memory.
        save_seconds: least time between two states to resume from.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        folder: RunFolder,
        llm: Path,
        manifest: Manifest,
        stores: Mapping[str, Features],
        *,
        device: str = "auto",
        memory: int = MEMORY,
        save_seconds: float = SAVE_SECONDS,
        progress: Progress | None = None,
    ) -> None:
        self.pipeline, self.folder, self.progress = pipeline, folder, progress
        precision = "bf16" if pipeline.llm.dtype == "bfloat16" else "no"
        self.accelerator = Accelerator(cpu=device == "cpu", mixed_precision=precision)
        torch.manual_seed(pipeline.seed)
        widths = {name: stores[name].width for name in pipeline.streams}
        self.translator = Translator(pipeline, widths, llm).to(self.accelerator.device)
        tokens = self.translator.tokens
        self.data = examples(pipeline, manifest, stores, "train", tokens, memory=memory)
        dev = dev_split(manifest)
        self.dev = examples(pipeline, manifest, stores, dev, tokens, memory=memory)
        self.place = Place()
        self.moments: dict[str, Tensor] = {}
        self.save_seconds, self.saved = save_seconds, time.monotonic()
        self.meter = Meter()

    def start(self, *, resume: bool) -> None:
        """From the saved state, or from the beginning."""
        if resume:
            tensors, place = self.folder.load_state()
            self.place = Place(**place)
            self.translator.restore(_below("model.", tensors))
            self.moments = _below("optimiser.", tensors)
        elif self.pipeline.align.center:
            self._center()
        self.folder.metrics.touch()
        # Lines past the saved state belong to steps that are about to be repeated.
        with self.folder.metrics.open("r+b") as file:
            file.truncate(self.place.metrics_bytes)

    def run(self) -> Place:
        """All that is left of both stages; the best weights lie in the run folder then."""
        if self.place.stage == "align":
            self._stage("align", self.pipeline.align)
            self._end_align()
        if self.pipeline.translate.steps:
            torch.manual_seed(self.pipeline.seed)
            self.translator.attach()
            self._stage("translate", self.pipeline.translate)
        else:
            write_tensors(self.folder.model, self.translator.trained())
        return self.place

    def _stage(self, stage: Stage, config: StageConfig) -> None:
        """Steps from the place reached to the end of the stage, or until patience is over."""
        self.translator.train()
        optimiser: Any = optim.make(self.translator, config)
        optim.restore(optimiser, self.translator, self.moments)
        module, optimiser = self.accelerator.prepare(self.translator, optimiser)
        trained = [value for value in self.translator.parameters() if value.requires_grad]
        options = self._options(stage)
        schedule = Schedule(self.data.bank.lengths, config.batch, f"{self.pipeline.seed} {stage}")
        steps = range(self.place.step, config.steps)
        batches = stream_batches(self.data, map(schedule.__getitem__, steps))
        for step, batch in zip(steps, batches, strict=True):
            # Chance depends on the step alone: a resumed run needs no generator's state.
            torch.manual_seed(_seed(self.pipeline.seed, stage, step))
            optim.set_rate(optimiser, optim.learning_rate(config, step))
            losses = module(batch.to(self.accelerator.device), stage=stage, **options)
            self.accelerator.backward(losses["loss"])
            norm = self.accelerator.clip_grad_norm_(trained, config.clip)
            optimiser.step()
            optimiser.zero_grad()
            self.meter.add(losses | {"gradient_norm": norm})
            self.place.step = step + 1
            if self._after(stage, config, optimiser):
                return

    def _options(self, stage: Stage) -> dict[str, float]:
        config = self.pipeline.translate
        if stage == "align":
            return {}
        return {"alpha": config.alpha, "smoothing": config.label_smoothing}

    def _after(self, stage: Stage, config: StageConfig, optimiser: Any) -> bool:
        """Log, select and save what is due after a step; True once patience is over."""
        step, last = self.place.step, self.place.step == config.steps
        if step % LOG_EVERY == 0 or last:
            rate = optim.learning_rate(config, step - 1)
            self._log(stage, config, self.meter.take() | {"lr": rate})
        every = self.pipeline.translate.eval_every
        if stage == "translate" and (step % every == 0 or last):
            self._select(config)
        if step % LOG_EVERY == 0 and time.monotonic() - self.saved >= self.save_seconds:
            self._save(optim.state(optimiser, self.translator))
        return self.place.stale >= self.pipeline.translate.patience

    def _select(self, config: StageConfig) -> None:
        """Score dev; keep the weights if they are the best so far, the earlier of equals."""
        place, text = self.place, self.pipeline.text
        hypotheses = [normalise(h, text) for h in self._decode_dev()]
        bleu = bleu4(hypotheses, self.dev.texts, tokenize=text.tokenize)
        if place.best_bleu is None or bleu > place.best_bleu:
            place.best_bleu, place.best_step, place.stale = bleu, place.step, 0
            write_tensors(self.folder.model, self.translator.trained())
        else:
            place.stale += 1
        self._log("translate", config, {"dev_bleu": bleu, "best_bleu": place.best_bleu})

    def _decode_dev(self) -> list[str]:
        return decode(self.translator, self.dev, self.pipeline.decode)

    def _end_align(self) -> None:
        config = self.pipeline.align
        if config.steps:
            self.place.recall = recall_at_1(self.translator, self.dev)
            self._log("align", config, {"dev_recall": self.place.recall})
        self.place.stage, self.place.step, self.moments = "translate", 0, {}
        self._save({})

    def _log(self, stage: Stage, config: StageConfig, fields: Mapping[str, float]) -> None:
        if not all(math.isfinite(value) for value in fields.values()):
            raise SpamoError(
                f"{stage} diverged by step {self.place.step}: {dict(fields)}",
                where=self.folder.path,
                remedy=f"lower {stage}.lr (now {config.lr}) or lengthen {stage}.warmup",
            )
        line = {"stage": stage, "step": self.place.step, **fields}
        with self.folder.metrics.open("ab") as file:
            file.write((json.dumps(line) + "\n").encode())
            self.place.metrics_bytes = file.tell()
        if self.progress is not None:
            self.progress(stage, self.place.step, config.steps, fields)

    def _save(self, moments: Mapping[str, Tensor]) -> None:
        tensors = {f"model.{name}": value for name, value in self.translator.trained().items()}
        tensors |= {f"optimiser.{name}": value for name, value in moments.items()}
        self.folder.save_state(tensors, asdict(self.place))
        self.saved = time.monotonic()

    @torch.no_grad()
    def _center(self) -> None:
        """Set VT-Align's centre to the mean of the training sentences."""
        align = self.translator.align
        total = torch.zeros_like(align.center)
        for numbers in self.data.sorted_batches(256):
            labels = self.data.labels(numbers).to(self.accelerator.device)
            total = total + align.pool(self.translator.sentences(labels)).sum(0)
        align.center.copy_(total / len(self.data))


def dev_split(manifest: Manifest) -> str:
    """The split that checkpoints are selected on.

    Raises:
        UsageError: the manifest has none; selecting on test is no choice.
    """
    for name in _DEV:
        if name in manifest.splits:
            return name
    raise UsageError(
        f"corpus {manifest.corpus} has no split to select on",
        where=f"splits: {', '.join(manifest.splits)}",
        remedy="give some clips the split 'dev' in the manifest",
    )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _seed(seed: int, stage: str, step: int) -> int:
    return random.Random(f"{seed} {stage} {step}").getrandbits(63)  # noqa: S311
