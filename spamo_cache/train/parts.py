"""A batch cut into what each process computes at a time, and its numbers put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from spamo_cache.config import StageConfig
from spamo_cache.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Part:
    """Some clips of a batch, and what their losses count for in those of the whole batch.

    Attributes:
        numbers: the clips.
        lm: their share of the batch's tokens; the shares of all parts of all processes sum to 1.
        align: the same for VT-Align, to which every process contributes the loss of all of them.
    """

    numbers: Sequence[int]
    lm: float
    align: float

    def weigh(self, losses: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
        """``lm`` and ``align`` as far as there are such, by their shares, and ``loss``.

        Args:
            alpha: weight of ``align`` in ``loss``.
        """
        shares = {"lm": self.lm, "align": self.align}
        found = {name: losses[name] * share for name, share in shares.items() if name in losses}
        terms = [value * alpha if name == "align" else value for name, value in found.items()]
        return {"loss": torch.stack(terms).sum()} | found


class Parts:
    """How batches are cut: the clips dealt out to the processes, each hand cut into equal parts.

    Args:
        tokens: of every clip's sentence.

    Raises:
        ConfigError: a batch cannot be cut so.
    """

    def __init__(
        self, stage: str, config: StageConfig, batch: int, tokens: Sequence[int], crew: Accelerator
    ) -> None:
        self._tokens = tokens
        self._rank, self._processes = crew.process_index, crew.num_processes
        self._count = config.accumulate
        if batch % (self._count * self._processes):
            raise ConfigError(
                f"{batch} clips cannot be dealt out to {self._processes} processes in "
                f"{self._count} equal parts each",
                where=f"{stage}.batch",
                remedy=f"make it a multiple of {self._count * self._processes}",
            )

    def __call__(self, batch: Sequence[int]) -> list[Part]:
        """This process's parts of a batch."""
        total = sum(self._tokens[number] for number in batch)
        own = batch[self._rank :: self._processes]
        size = len(own) // self._count
        hands = [own[start : start + size] for start in range(0, len(own), size)]
        align = 1 / (self._count * self._processes)
        return [
            Part(hand, sum(map(self._tokens.__getitem__, hand)) / total, align) for hand in hands
        ]


class Meter:
    """Means over steps of what the parts came to, without waiting for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """What a part contributes to the figures of a step."""
        for name, value in values.items():
            held = self._sums.get(name)
            self._sums[name] = value.detach() if held is None else held + value.detach()

    def step(self) -> None:
        self._steps += 1

    def take(self, crew: Accelerator) -> dict[str, float]:
        """Figure -> mean over the steps since the last look, of all processes together."""
        totals = crew.reduce(torch.stack(list(self._sums.values())), "sum").tolist()
        means = {name: total / self._steps for name, total in zip(self._sums, totals, strict=True)}
        self._sums, self._steps = {}, 0
        return means
