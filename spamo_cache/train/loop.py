"""Two stages of optimisation: VT-Align, then translation selected on dev BLEU."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import tee
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from spamo_cache.compat import checkpoint_activations
from spamo_cache.config import Pipeline, StageConfig
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import SpamoError
from spamo_cache.metrics.scores import bleu4
from spamo_cache.model.text import scored
from spamo_cache.model.translator import Batch, Stage, Translator
from spamo_cache.runs.folder import RunFolder
from spamo_cache.runs.tensors import write_tensors
from spamo_cache.train import optim
from spamo_cache.train.batches import MEMORY, Schedule, examples, selection_split, stream_batches
from spamo_cache.train.crew import merged, seed, share_norms
from spamo_cache.train.curves import Curves, curves
from spamo_cache.train.decoding import decode, recall_at_1
from spamo_cache.train.effort import Effort
from spamo_cache.train.features import Features, encoders_of
from spamo_cache.train.parts import Meter, Part, Parts

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with the stage, its finished steps, its steps in all, and the latest numbers."""

LOG_EVERY = 10
"""Steps between two lines of metrics; states to resume from are only saved there."""

SAVE_SECONDS = 30.0
"""Least time between two states: the most work a kill costs, besides a few steps."""


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


class Trainer:
    """One training: model, data, place, and the run folder it is written to.

    Several processes compute the same steps, each a share of every batch; the first one writes.

    Args:
        crew: the processes.
        llm: folder of the LLM.
        weights: to begin with, those of another run; None is the beginning.
        memory: bytes of features of one split to keep in memory.
        save_seconds: least time between two states to resume from.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        crew: Accelerator,
        folder: RunFolder,
        *,
        llm: Path,
        manifest: Manifest,
        stores: Mapping[str, Features],
        weights: Mapping[str, Tensor] | None = None,
        memory: int = MEMORY,
        save_seconds: float = SAVE_SECONDS,
        progress: Progress | None = None,
    ) -> None:
        self.pipeline, self.crew, self.folder = pipeline, crew, folder
        self.progress = progress if crew.is_main_process else None
        self.effort, self.weights = Effort(crew.device), weights
        torch.manual_seed(pipeline.seed)
        widths = {name: stores[name].width for name in pipeline.streams}
        encoders = encoders_of(stores, pipeline.streams)
        self.translator = Translator(pipeline, widths, llm, encoders).to(crew.device)
        if crew.num_processes > 1:
            share_norms(self.translator)
        tokens = self.translator.tokens
        self.data = examples(pipeline, manifest, stores, "train", tokens, memory=memory)
        dev = selection_split(pipeline, manifest)
        self.dev = examples(pipeline, manifest, stores, dev, tokens, memory=memory)
        for stage, config in self._stages():
            if config.steps:
                self._cut(stage, config)  # what cannot be dealt out is known before any step
        self.place = Place()
        self.moments: dict[str, Tensor] = {}
        self.save_seconds, self.saved = save_seconds, time.monotonic()
        self.meter = Meter()
        self.curves: list[Curves] = []

    def start(self, *, resume: bool) -> None:
        """From the saved state, from another run's weights, or from the beginning."""
        if resume:
            tensors, place = self.folder.load_state()
            self.place = Place(**place)
            self.translator.restore(_below("model.", tensors))
            self.moments = _below("optimiser.", tensors)
        elif self.weights is not None:
            self.translator.begin_with(self.weights)
        elif self.pipeline.align.center:
            self._center()
        if self.crew.is_main_process:
            self.folder.cut_metrics(self.place.metrics_bytes)
            self.curves = curves(self.pipeline, self.folder)
        # Nobody may write a new state before all have read the old one.
        self.crew.wait_for_everyone()

    def run(self) -> Place:
        """All that is left of both stages; the best weights lie in the run folder then."""
        try:
            if self.place.stage == "align":
                self._stage("align", self.pipeline.align)
                self._end_align()
            if self.pipeline.translate.steps:
                self._attach()
                if self.folder.imported and self.place.best_bleu is None:
                    # They are kept unless training beats them.
                    self._select(self.pipeline.translate)
                self._stage("translate", self.pipeline.translate)
            else:
                self._keep()
        finally:
            for drawn in self.curves:
                drawn.close()
        return self.place

    def _stages(self) -> tuple[tuple[Stage, StageConfig], ...]:
        return ("align", self.pipeline.align), ("translate", self.pipeline.translate)

    def _attach(self) -> None:
        torch.manual_seed(self.pipeline.seed)
        llm = self.translator.attach()
        if self.pipeline.translate.checkpointing:
            checkpoint_activations(llm.model)

    def _stage(self, stage: Stage, config: StageConfig) -> None:
        """Steps from the place reached to the end of the stage, or until patience is over."""
        # Of the stage before, accelerate would keep the optimiser and its moments.
        self.crew.free_memory()
        self.translator.train()
        protocol = self.pipeline.protocol
        optimiser: Any = optim.make(
            self.translator, config, decay_everything=protocol.decay_everything
        )
        optim.restore(optimiser, self.translator, self.moments)
        module, optimiser = self.crew.prepare(self.translator, optimiser)
        trained = [value for value in self.translator.parameters() if value.requires_grad]
        planned, batches = self._planned(stage, config)
        self.effort.begin()
        for step, parts in planned:
            optim.set_rate(optimiser, self._rate(config, step))
            for number, part in enumerate(parts):
                # Chance depends on the place alone: a resumed run needs no generator's state.
                seed(self.crew.device, self._chance(stage, step, number))
                last = number == len(parts) - 1
                with nullcontext() if last else self.crew.no_sync(module):
                    self._descend(module, stage, part, next(batches))
            norm = self.crew.clip_grad_norm_(trained, config.max_grad_norm)
            optimiser.step()
            optimiser.zero_grad()
            self.meter.add({"gradient_norm": norm / self.crew.num_processes})
            self.meter.step()
            self.effort.step()
            self.place.step = step + 1
            if self._after(stage, config, optimiser):
                return

    def _cut(self, stage: Stage, config: StageConfig) -> tuple[Schedule, Parts]:
        """The clips of every step of a stage, and how they are cut."""
        protocol = self.pipeline.protocol
        schedule = Schedule(
            self.data.bank.lengths,
            config.batch,
            f"{self.pipeline.seed} {stage}",
            unsorted=protocol.unsorted_batches,
        )
        tokens = [len(ids) for ids in self.data.tokens]
        alike = protocol.mean_of_batches
        return schedule, Parts(stage, config, schedule, tokens, self.crew, alike=alike)

    def _planned(
        self, stage: Stage, config: StageConfig
    ) -> tuple[Iterator[tuple[int, list[Part]]], Iterator[Batch]]:
        """The steps to come with this process's parts of them, and the parts' clips."""
        schedule, cut = self._cut(stage, config)
        steps = range(self.place.step, config.steps)
        planned, wanted = tee((step, cut(schedule[step])) for step in steps)
        asked = ((part.numbers, step) for step, parts in wanted for part in parts)
        return planned, stream_batches(self.data, asked, self.crew.device)

    def _rate(self, config: StageConfig, step: int) -> float:
        from_zero = self.pipeline.protocol.lr_from_zero
        return optim.learning_rate(config, step, from_zero=from_zero)

    def _descend(self, module: Any, stage: Stage, part: Part, batch: Batch) -> None:
        """Add the gradients of a part to those of its step."""
        config = self.pipeline.translate
        options = {"alpha": config.alpha, "smoothing": config.label_smoothing}
        losses = module(batch, stage=stage, **options if stage == "translate" else {})
        shares = part.weigh(losses, config.alpha if stage == "translate" else 1.0)
        # DDP gives the mean of the processes' gradients; shares want their sum.
        self.crew.backward(shares["loss"] * self.crew.num_processes)
        self.meter.add(shares)

    def _chance(self, stage: Stage, step: int, part: int) -> int:
        """Seed of what is random in a part of a step; every process has its own."""
        place = part * self.crew.num_processes + self.crew.process_index
        text = f"{self.pipeline.seed} {stage} {step}" + (f" {place}" if place else "")
        return random.Random(text).getrandbits(63)  # noqa: S311

    def _after(self, stage: Stage, config: StageConfig, optimiser: Any) -> bool:
        """Log, select and save what is due after a step; True once patience is over."""
        step, last = self.place.step, self.place.step == config.steps
        if step % LOG_EVERY == 0 or last:
            rate = self._rate(config, step - 1)
            self._log(stage, config, self.meter.take(self.crew) | {"lr": rate})
        every = self.pipeline.translate.eval_every
        if stage == "translate" and (step % every == 0 or last):
            self._select(config)
            self.effort.skip()
        if step % LOG_EVERY == 0 and time.monotonic() - self.saved >= self.save_seconds:
            self._save(optim.state(optimiser, self.translator))
        return self.place.stale >= self.pipeline.translate.patience

    def _select(self, config: StageConfig) -> None:
        """Score dev; keep the weights if they are the best so far, the earlier of equals."""
        place, text = self.place, self.pipeline.text
        hypotheses = [scored(said, text) for said in self._decode_dev()]
        bleu = bleu4(hypotheses, self.dev.texts, tokenize=text.tokenize)
        if place.best_bleu is None or bleu > place.best_bleu:
            place.best_bleu, place.best_step, place.stale = bleu, place.step, 0
            self._keep()
        else:
            place.stale += 1
        self._log("translate", config, {"dev_bleu": bleu, "best_bleu": place.best_bleu})

    def _decode_dev(self) -> list[str]:
        own = replace(self.dev, turn=(self.crew.process_index, self.crew.num_processes))
        return merged(self.crew, decode(self.translator, own, self.pipeline.decode))

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
        if not self.crew.is_main_process:
            return
        line = {"stage": stage, "step": self.place.step, **fields}
        self.place.metrics_bytes = self.folder.log(line)
        for drawn in self.curves:
            drawn.add(line)
        if self.progress is not None:
            self.progress(stage, self.place.step, config.steps, fields)

    def _keep(self) -> None:
        """Make the present weights those of the run."""
        if self.crew.is_main_process:
            write_tensors(self.folder.model, self.translator.trained())

    def _save(self, moments: Mapping[str, Tensor]) -> None:
        """Write a state to resume from."""
        if not self.crew.is_main_process:
            return
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
            labels = self.data.labels(numbers).to(self.crew.device)
            total = total + align.pool(self.translator.sentences(labels)).sum(0)
        align.center.copy_(total / len(self.data))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
