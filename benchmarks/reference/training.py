"""One corpus and one LLM, and on them our trainer and one that works as the official release."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reference.llms import write_llm
from reference.material import Material, lengths
from reference.official_train import OfficialTrainer
from spamo_cache.config import Pipeline, StageConfig
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.model.translator import Batch, TrainPhase, Translator
from spamo_cache.runs.folder import RunFolder
from spamo_cache.store.reader import FeatureStore
from spamo_cache.train import Progress, train
from spamo_cache.train.data import Schedule
from spamo_cache.train.distributed import make_accelerator
from spamo_cache.train.loop import Trainer
from spamo_cache.train.microbatch import Microbatch

WORDS = "am sonntag ist es im norden bewölkt und regnet es zeitweise aber an der küste scheint die"
STAGES: tuple[TrainPhase, TrainPhase] = ("align", "translate")
STEPS = {"small": 4, "base": 1, "large": 4}
"""Steps of a round on a CPU."""
GPU_STEPS: dict[TrainPhase, int] = {"align": 150, "translate": 30}
"""On a GPU: the first batch of a round is waited for, which among few steps would be much."""
OFFICIAL_GPU_STEPS = 10
"""It reads as it goes, and is so slow that more would take minutes."""


class Timed(Trainer):
    """Our trainer, whose stages can be run again and again."""

    def again(self, stage: TrainPhase) -> None:
        self.state.step = 0
        self._run_phase(stage, getattr(self.pipeline, stage))

    def _after(self, *_: Any) -> bool:
        return False


class Idle(Timed):
    """The same on batches that lie on the device: what data never waited for would cost."""

    _held: tuple[TrainPhase, list[tuple[int, list[Microbatch]]], list[Batch]] | None = None

    def _planned(
        self, stage: TrainPhase, config: StageConfig
    ) -> tuple[Iterator[tuple[int, list[Microbatch]]], Iterator[Batch]]:
        if self._held is None or self._held[0] != stage:  # in the first round, not counted
            planned, batches = super()._planned(stage, config)
            self._held = stage, list(planned), list(batches)
        _, planned_again, at_hand = self._held
        return iter(planned_again), iter(at_hand)


class Bench:
    """One corpus, one LLM, and both trainers on them."""

    def __init__(
        self, place: Path, shape: str, *, clips: int, batch: int, device: str, width: int = 768
    ) -> None:
        self.place, self.device = place, device
        self.steps = STEPS[shape]
        steps = dict.fromkeys(STAGES, self.steps) if device == "cpu" else GPU_STEPS
        self.dtype = "float32" if shape == "small" else "bfloat16"
        if not (place / "llm").exists():
            # Hubs keep them in float32, whatever they are loaded as; the large one saves its disk.
            kept = self.dtype if shape == "large" else "float32"
            write_llm(place / "llm", shape, kept, device)
        rows = lengths(clips)
        self.spatial = Material(rows)
        self.motion = Material([(n - 16) // 8 + 1 for n in rows], 1024, "motion")
        chance = np.random.default_rng(0)
        self.texts = [" ".join(chance.choice(WORDS.split(), 12)) for _ in rows]
        stages: dict[str, Any] = {
            name: {"steps": steps[name], "batch": batch, "lr": 1e-4} for name in STAGES
        }
        self.pipeline = Pipeline.model_validate(
            {
                "name": "bench",
                "question": "What does a step cost?",
                "corpus": "benchmark",
                "spec": "spamo",
                "text": {"language": "German"},
                "adapter": {"width": width},
                "llm": {"weights": "llm", "dtype": self.dtype},
                **stages,
                "log": [],
            }
        )

    @cached_property
    def manifest(self) -> Manifest:
        found = [
            Clip(id=clip, split="train", source=clip, text=text, language="German")
            for clip, text in zip(self.spatial.ids, self.texts, strict=True)
        ]
        # The split that is never decoded here.
        found[-1] = Clip(id=found[-1].id, split="dev", source="-", text="-", language="German")
        return Manifest.from_clips("benchmark", found)

    def write(self) -> None:
        """Everything that both read."""
        _ = self.stores, self.files

    @cached_property
    def stores(self) -> dict[str, FeatureStore]:
        return {m.stream: m.store(self.place / "stores") for m in (self.spatial, self.motion)}

    @cached_property
    def files(self) -> Path:
        """The official way's features."""
        features = self.place / "npy"
        for material in (self.spatial, self.motion):
            if not (folder := features / material.stream).exists():
                folder.mkdir(parents=True)
                for clip, rows in material:
                    np.save(folder / f"{clip}.npy", rows.astype(np.float32))
        return features

    def ours(self, kind: type[Timed] = Timed) -> Timed:
        folder = self.place / "run"
        folder.mkdir(exist_ok=True)
        return kind(
            self.pipeline,
            make_accelerator(self.pipeline, self.device),
            RunFolder(folder),
            llm=self.place / "llm",
            manifest=self.manifest,
            stores=self.stores,
            memory=0,
        )

    def train(self, stage: TrainPhase, progress: Progress) -> None:
        """One stage as a user has it, from nothing."""
        out = self.place / "whole"
        shutil.rmtree(out, ignore_errors=True)
        plain = self.pipeline.model_dump(mode="json")
        for other in STAGES:
            plain[other]["steps"] = self.steps if other == stage else 0
        train(
            Pipeline.model_validate(plain),
            base=self.place,
            manifest=self.manifest,
            stores=self.stores,
            out=out,
            device=self.device,
            memory=0,
            progress=progress,
        )

    def official(self) -> OfficialTrainer:
        torch.manual_seed(0)
        widths = {material.stream: material.width for material in (self.spatial, self.motion)}
        translator = Translator(self.pipeline, widths, self.place / "llm").to(self.device)
        prompt = "Translate the given sentence into German."
        return OfficialTrainer(translator, self.files, self.spatial.ids, self.texts, prompt)

    def steps_of(self, trainer: Timed | OfficialTrainer, stage: TrainPhase) -> int:
        """Of a round."""
        if isinstance(trainer, OfficialTrainer) and self.device != "cpu":
            return OFFICIAL_GPU_STEPS
        steps: int = getattr(self.pipeline, stage).steps
        return steps

    def official_steps(self, trainer: OfficialTrainer, stage: TrainPhase) -> None:
        config = getattr(self.pipeline, stage)
        rows = [a + b for a, b in zip(self.spatial.rows, self.motion.rows, strict=True)][:-1]
        plan = Schedule(np.array(rows), config.batch, f"{self.pipeline.seed} {stage}")
        steps = range(self.steps_of(trainer, stage))
        trainer.steps(stage, config, map(plan.__getitem__, steps))
