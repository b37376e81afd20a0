"""Two phases of optimisation: VT-Align, then translation selected on dev BLEU."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice, tee
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from spamo_cache.compat import checkpoint_activations
from spamo_cache.config import Pipeline, StageConfig
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import SpamoError
from spamo_cache.metrics.scores import bleu4
from spamo_cache.model.text import scored
from spamo_cache.model.translator import Batch, TrainPhase, Translator
from spamo_cache.runs.folder import MetricsLine, RunFolder
from spamo_cache.runs.tensors import write_tensors
from spamo_cache.train import optim
from spamo_cache.train.data import (
    MEMORY,
    Examples,
    Schedule,
    examples,
    rations,
    selection_split,
    stream_batches,
)
from spamo_cache.train.decoding import cross_entropy, decode, recall_at_1
from spamo_cache.train.distributed import gather_texts, seed, sync_batchnorm
from spamo_cache.train.features import Features, encoders_of
from spamo_cache.train.microbatch import Microbatch, MicrobatchSplitter
from spamo_cache.train.monitoring import Curves, Meter, StepTimer, curves

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with the phase, its finished steps, its steps in all, and what is new: the numbers of a
line of metrics, or ``dev_clips`` of ``dev_clips_total`` while dev is decoded."""

LOG_EVERY = 10
"""Steps between two lines of metrics; states to resume from are only saved there."""

SAVE_SECONDS = 30.0
"""Least time between two states: the most work a kill costs, besides a few steps."""


@dataclass(slots=True, kw_only=True)
class TrainState:
    """How far a run has come; kept with every state."""

    phase: TrainPhase = "align"
    step: int = 0
    best_bleu: float | None = None
    best_step: int = 0
    recall: float | None = None
    stale: int = 0
    """Scorings of dev since the best one."""
    metrics_bytes: int = 0


class Trainer:
    """One training: model, data, state, and the run folder it is written to.

    Several processes compute the same steps, each a share of every batch; the first one writes.

    Args:
        accelerator: the processes.
        llm: folder of the LLM.
        weights: to begin with, those of another run; None is the beginning.
        memory: bytes of features of one split to keep in memory.
        save_seconds: least time between two states to resume from.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        accelerator: Accelerator,
        folder: RunFolder,
        *,
        llm: Path,
        manifest: Manifest,
        stores: Mapping[str, Features],
        weights: Mapping[str, Tensor] | None = None,
        memory: int = MEMORY,
        save_seconds: float = SAVE_SECONDS,
        progress: Progress | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.notice = notice or (lambda _: None)
        self.pipeline, self.accelerator, self.folder = pipeline, accelerator, folder
        self.progress = progress if accelerator.is_main_process else None
        self.timer, self.weights = StepTimer(accelerator.device), weights
        torch.manual_seed(pipeline.seed)
        widths = {name: stores[name].width for name in pipeline.streams}
        encoders = encoders_of(stores, pipeline.streams)
        self.translator = Translator(pipeline, widths, llm, encoders).to(accelerator.device)
        if accelerator.num_processes > 1:
            sync_batchnorm(self.translator)
        tokens = self.translator.tokens
        self.data = examples(pipeline, manifest, stores, "train", tokens, memory=memory)
        dev = selection_split(pipeline, manifest)
        self.dev = examples(pipeline, manifest, stores, dev, tokens, memory=memory)
        for phase, config in self._phases():
            if config.steps:
                self._cut(phase, config)  # what cannot be dealt out is known before any step
        self.state = TrainState()
        self.optimizer_state: dict[str, Tensor] = {}
        self.save_seconds, self.saved = save_seconds, time.monotonic()
        self.meter = Meter()
        self.checkpointing = False
        self.curves: list[Curves] = []

    def start(self, *, resume: bool) -> None:
        """From the saved state, from another run's weights, or from the beginning."""
        if resume:
            tensors, state = self.folder.load_state()
            self.state = TrainState(**state)
            self.translator.restore(_below("model.", tensors))
            self.optimizer_state = _below("optimiser.", tensors)
        elif self.weights is not None:
            self.translator.begin_with(self.weights)
        elif self.pipeline.align.center:
            self._center()
        if self.accelerator.is_main_process:
            self.folder.cut_metrics(self.state.metrics_bytes)
            self.curves = curves(self.pipeline, self.folder)
        # Nobody may write a new state before all have read the old one.
        self.accelerator.wait_for_everyone()

    def run(self) -> TrainState:
        """All that is left of both phases; the best weights lie in the run folder then."""
        try:
            if self.state.phase == "align":
                self._run_phase("align", self.pipeline.align)
                self._end_align()
            if self.pipeline.translate.steps:
                self._attach()
                if self.folder.imported and self.state.best_bleu is None:
                    # They are kept unless training beats them.
                    self._select(self.pipeline.translate)
                self._run_phase("translate", self.pipeline.translate)
            else:
                self._keep()
        except torch.OutOfMemoryError as error:
            phase = self.state.phase
            accumulated = getattr(self.pipeline, phase).grad_accum_steps
            raise SpamoError(
                f"the memory of {self.accelerator.device} is full",
                where=f"step {self.state.step + 1} of {phase}, {self.folder.path}",
                remedy=f"raise {phase}.grad_accum_steps (now {accumulated}), lower decode.batch or "
                "quantise the LLM (llm.quantise), or take a GPU with more memory",
            ) from error
        finally:
            for drawn in self.curves:
                drawn.close()
        return self.state

    def _phases(self) -> tuple[tuple[TrainPhase, StageConfig], ...]:
        return ("align", self.pipeline.align), ("translate", self.pipeline.translate)

    def _attach(self) -> None:
        torch.manual_seed(self.pipeline.seed)
        self.translator.attach()
        if self.pipeline.translate.checkpointing is True:
            self.checkpoint()

    def checkpoint(self) -> None:
        """From here on compute the LLM's activations anew on the way back."""
        checkpoint_activations(self.translator.attach().model)
        self.checkpointing = True

    def _run_phase(self, phase: TrainPhase, config: StageConfig) -> None:
        """The steps that are left of a phase, or those until patience is over."""
        # Of the phase before, accelerate would keep the optimiser and its moments.
        self.accelerator.free_memory()
        self.translator.train()
        protocol = self.pipeline.protocol
        optimiser = optim.make(self.translator, config, decay_everything=protocol.decay_everything)
        optim.restore(optimiser, self.translator, self.optimizer_state)
        # The module alone: of the rest accelerate's own would look for libraries in every step.
        module: Any = self.accelerator.prepare(self.translator)
        trained = [value for value in self.translator.parameters() if value.requires_grad]
        planned, batches = self._planned(phase, config)
        self.timer.begin()
        self._report(phase, config, {})
        for step, microbatches in planned:
            optim.set_rate(optimiser, self._rate(config, step))
            with self.timer.waiting():
                given = list(islice(batches, len(microbatches)))
            for shares in self._gradients(module, phase, step, microbatches, given):
                self.meter.add(shares)
            norm = clip_grad_norm_(trained, config.max_grad_norm)
            optimiser.step()
            optimiser.zero_grad()
            self.meter.add({"gradient_norm": norm / self.accelerator.num_processes})
            self.meter.step()
            self.timer.step()
            self.state.step = step + 1
            if self._after(phase, config, optimiser):
                return

    def _cut(self, phase: TrainPhase, config: StageConfig) -> tuple[Schedule, MicrobatchSplitter]:
        """The clips of every step of a phase, and how they are cut."""
        protocol = self.pipeline.protocol
        schedule = Schedule(
            self.data.bank.lengths,
            config.batch,
            f"{self.pipeline.seed} {phase}",
            unsorted=protocol.unsorted_batches,
            corpora=rations(self.pipeline, self.data.ids),
        )
        tokens = [len(ids) for ids in self.data.tokens]
        alike = protocol.mean_of_batches
        return schedule, MicrobatchSplitter(
            phase, config, schedule, tokens, self.accelerator, alike=alike
        )

    def _planned(
        self, phase: TrainPhase, config: StageConfig
    ) -> tuple[Iterator[tuple[int, list[Microbatch]]], Iterator[Batch]]:
        """The steps to come, each with this process's microbatches, and the microbatches' clips."""
        schedule, cut = self._cut(phase, config)
        steps = range(self.state.step, config.steps)
        planned, wanted = tee((step, cut(schedule[step])) for step in steps)
        asked = (
            (microbatch.numbers, step, microbatch.among)
            for step, microbatches in wanted
            for microbatch in microbatches
        )
        return planned, stream_batches(self.data, asked, self.accelerator.device)

    def _rate(self, config: StageConfig, step: int) -> float:
        from_zero = self.pipeline.protocol.lr_from_zero
        return optim.learning_rate(config, step, from_zero=from_zero)

    def _gradients(
        self,
        module: Any,
        phase: TrainPhase,
        step: int,
        microbatches: Sequence[Microbatch],
        batches: Sequence[Batch],
    ) -> list[dict[str, Tensor]]:
        """Compute those of a step; what its microbatches contribute to the figures.

        Where memory is short, begin the step again and save memory from there on: the weights
        become the same.
        """
        asked = phase == "translate" and self.pipeline.translate.checkpointing == "auto"
        may_repeat = asked and not self.checkpointing and self.accelerator.num_processes == 1
        # The running means of batch norm move with every microbatch.
        before = [value.clone() for value in self.translator.adapter.buffers() if may_repeat]
        try:
            return self._accumulate(module, phase, step, microbatches, batches)
        except torch.OutOfMemoryError:
            if not may_repeat:
                raise
        # Not within `except`: its error holds all that the step had computed.
        self.notice(
            f"the memory of {self.accelerator.device} is full in step {step + 1}: from here on the "
            "LLM's activations are computed anew on the way back (translate.checkpointing)"
        )
        module.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
        for value, kept in zip(self.translator.adapter.buffers(), before, strict=True):
            value.copy_(kept)
        self.checkpoint()
        return self._accumulate(module, phase, step, microbatches, batches)

    def _accumulate(
        self,
        module: Any,
        phase: TrainPhase,
        step: int,
        microbatches: Sequence[Microbatch],
        batches: Sequence[Batch],
    ) -> list[dict[str, Tensor]]:
        found = []
        for number, (microbatch, batch) in enumerate(zip(microbatches, batches, strict=True)):
            # Seeded by seed, phase and step: a resumed run needs no generator's state.
            seed(self.accelerator.device, self._chance(phase, step, number))
            last = number == len(microbatches) - 1
            with nullcontext() if last else self.accelerator.no_sync(module):
                found.append(self._descend(module, phase, microbatch, batch))
        return found

    def _descend(
        self, module: Any, phase: TrainPhase, microbatch: Microbatch, batch: Batch
    ) -> dict[str, Tensor]:
        """Add the gradients of a microbatch to those of its step."""
        config = self.pipeline.translate
        options = {"alpha": config.alpha, "smoothing": config.label_smoothing}
        losses = module(batch, phase=phase, **options if phase == "translate" else {})
        shares = microbatch.weigh(losses, config.alpha if phase == "translate" else 1.0)
        # DDP gives the mean of the processes' gradients; shares want their sum.
        (shares["loss"] * self.accelerator.num_processes).backward()
        return {name: value.detach() for name, value in shares.items()}

    def _chance(self, phase: TrainPhase, step: int, number: int) -> int:
        """Seed of what is random in a microbatch of a step; every process has its own."""
        rank = number * self.accelerator.num_processes + self.accelerator.process_index
        text = f"{self.pipeline.seed} {phase} {step}" + (f" {rank}" if rank else "")
        return random.Random(text).getrandbits(63)  # noqa: S311

    def _after(self, phase: TrainPhase, config: StageConfig, optimiser: Any) -> bool:
        """Log, select and save what is due after a step; True once patience is over."""
        step, last = self.state.step, self.state.step == config.steps
        if step % LOG_EVERY == 0 or last:
            rate = self._rate(config, step - 1)
            self._log(phase, config, self.meter.take(self.accelerator) | {"lr": rate})
        else:
            self._report(phase, config, {})
        every = self.pipeline.translate.eval_every
        if phase == "translate" and (step % every == 0 or last):
            self._select(config)
            self.timer.skip()
        if step % LOG_EVERY == 0 and time.monotonic() - self.saved >= self.save_seconds:
            self._save(optim.state(optimiser, self.translator))
        return self.state.stale >= self.pipeline.translate.patience

    def _select(self, config: StageConfig) -> None:
        """Score dev; keep the weights if they are the best so far, the earlier of equals."""
        state, text = self.state, self.pipeline.text
        hypotheses = [scored(hypothesis, text) for hypothesis in self._decode_dev()]
        bleu = bleu4(hypotheses, self.dev.texts, tokenize=text.tokenize)
        if state.best_bleu is None or bleu > state.best_bleu:
            state.best_bleu, state.best_step, state.stale = bleu, state.step, 0
            self._keep()
        else:
            state.stale += 1
        figures = {"dev_loss": self._dev_loss(config), "dev_bleu": bleu}
        self._log("translate", config, figures | {"best_bleu": state.best_bleu})

    def _decode_dev(self) -> list[str]:
        def progress(done: int, total: int) -> None:
            figures = {"dev_clips": done, "dev_clips_total": total}
            self._report("translate", self.pipeline.translate, figures)

        decoded = decode(self.translator, self._own_dev(), self.pipeline.decode, progress=progress)
        return gather_texts(self.accelerator, decoded)

    def _dev_loss(self, config: StageConfig) -> float:
        """The translation loss of dev: nats a token, labels smoothed as in training."""
        size = config.batch // (config.grad_accum_steps * self.accelerator.num_processes)
        nats, tokens = cross_entropy(
            self.translator,
            self._own_dev(),
            batch=max(1, size),
            smoothing=self.pipeline.translate.label_smoothing,
        )
        sums = torch.tensor([nats, tokens], device=self.accelerator.device)
        total: Tensor = self.accelerator.reduce(sums)
        return (total[0] / total[1]).item()

    def _own_dev(self) -> Examples:
        """Of dev the batches that are this process's to compute."""
        turn = self.accelerator.process_index, self.accelerator.num_processes
        return replace(self.dev, turn=turn)

    def _end_align(self) -> None:
        config = self.pipeline.align
        if config.steps:
            self.state.recall = recall_at_1(self.translator, self.dev)
            self._log("align", config, {"dev_recall": self.state.recall})
        self.state.phase, self.state.step, self.optimizer_state = "translate", 0, {}
        self._save({})

    def _log(self, phase: TrainPhase, config: StageConfig, fields: Mapping[str, float]) -> None:
        if not all(math.isfinite(value) for value in fields.values()):
            raise SpamoError(
                f"{phase} diverged by step {self.state.step}: {dict(fields)}",
                where=self.folder.path,
                remedy=f"lower {phase}.lr (now {config.lr}) or lengthen {phase}.warmup",
            )
        if not self.accelerator.is_main_process:
            return
        line = MetricsLine(phase, self.state.step, fields)
        self.state.metrics_bytes = self.folder.log(line)
        for drawn in self.curves:
            drawn.add(line)
        self._report(phase, config, fields)

    def _report(self, phase: TrainPhase, config: StageConfig, news: Mapping[str, float]) -> None:
        if self.progress is not None:
            self.progress(phase, self.state.step, config.steps, news)

    def _keep(self) -> None:
        """Make the present weights those of the run."""
        if self.accelerator.is_main_process:
            write_tensors(self.folder.model, self.translator.trained())

    def _save(self, optimizer_state: Mapping[str, Tensor]) -> None:
        """Write a state to resume from."""
        if not self.accelerator.is_main_process:
            return
        tensors = {f"model.{name}": value for name, value in self.translator.trained().items()}
        tensors |= {f"optimiser.{name}": value for name, value in optimizer_state.items()}
        self.folder.save_state(tensors, asdict(self.state))
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


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
