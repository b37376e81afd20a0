"""A batch cut into what each process computes at a time, and its numbers put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from spamo_cache.config import StageConfig
from spamo_cache.errors import ConfigError
from spamo_cache.train.batches import Schedule


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
    """How batches are cut into equal parts, and the clips of a part dealt out to the processes.

    A batch with fewer clips than the others comes to fewer parts, the last one smaller.

    Args:
        schedule: of the batches that will be cut.
        tokens: of every clip's sentence.
        alike: parts count alike in the translation loss, not by their tokens; those that a
            smaller batch lacks count as nothing learnt.

    Raises:
        ConfigError: a batch cannot be cut so.
    """

    def __init__(
        self,
        stage: str,
        config: StageConfig,
        schedule: Schedule,
        tokens: Sequence[int],
        crew: Accelerator,
        *,
        alike: bool = False,
    ) -> None:
        self._tokens, self._alike = tokens, alike
        self._rank, self._processes = crew.process_index, crew.num_processes
        self._count = config.grad_accum_steps
        if schedule.batch % (self._count * self._processes):
            raise ConfigError(
                f"{schedule.batch} clips cannot be dealt out to {self._processes} processes in "
                f"{self._count} equal parts each",
                where=f"{stage}.batch",
                remedy=f"make it a multiple of {self._count * self._processes}",
            )
        if schedule.left % self._processes:
            raise ConfigError(
                f"the last {schedule.left} clips of an epoch cannot be dealt out to "
                f"{self._processes} processes",
                where="protocol.unsorted_batches",
                remedy="train in one process, or switch it off",
            )
        self._size = schedule.batch // self._count

    def __call__(self, batch: Sequence[int]) -> list[Part]:
        """This process's parts of a batch."""
        cut = [batch[start : start + self._size] for start in range(0, len(batch), self._size)]
        parts = self._count if self._alike else len(cut)
        found = []
        for part in cut:
            hand = part[self._rank :: self._processes]
            tokens = self._said(part) * parts if self._alike else self._said(batch)
            found.append(Part(hand, self._said(hand) / tokens, 1 / (parts * self._processes)))
        return found

    def _said(self, numbers: Sequence[int]) -> int:
        return sum(self._tokens[number] for number in numbers)


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
