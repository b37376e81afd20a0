"""Microbatches: what one process computes at a time of the clips of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from spamo_cache import human
from spamo_cache.config import StageConfig
from spamo_cache.errors import ConfigError
from spamo_cache.train.data import Schedule


@dataclass(frozen=True, slots=True)
class Microbatch:
    """Some clips of a batch, and what their losses count for in those of the whole batch.

    Attributes:
        numbers: the clips.
        among: those that all processes compute together at that time.
        lm: their share of the tokens of the batch; those of all microbatches of all processes sum
            to 1.
        align: the same for VT-Align, to which every process contributes the loss of all of them.
    """

    numbers: Sequence[int]
    among: Sequence[int]
    lm: float
    align: float

    def weigh(self, losses: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
        """``lm`` and ``align`` as far as there are such, by their shares, and ``loss``.

        Args:
            alpha: weight of ``align`` in ``loss``.
        """
        shares = {"lm": self.lm, "align": self.align}
        weighted = {name: losses[name] * share for name, share in shares.items() if name in losses}
        terms = [value * alpha if name == "align" else value for name, value in weighted.items()]
        return {"loss": torch.stack(terms).sum()} | weighted


class MicrobatchSplitter:
    """Cuts batches into equal microbatches and deals the clips of each out to the processes.

    A batch with fewer clips than the others makes fewer microbatches, the last one smaller.

    Args:
        schedule: of the batches that will be cut.
        tokens: of every clip's sentence.
        alike: microbatches count alike in the translation loss, not by their tokens; those that a
            smaller batch lacks count as nothing learnt.

    Raises:
        ConfigError: a batch cannot be cut so.
    """

    def __init__(
        self,
        phase: str,
        config: StageConfig,
        schedule: Schedule,
        tokens: Sequence[int],
        accelerator: Accelerator,
        *,
        alike: bool = False,
    ) -> None:
        self._tokens, self._alike = tokens, alike
        self._rank, self._processes = accelerator.process_index, accelerator.num_processes
        self._count = config.grad_accum_steps
        if schedule.batch % (self._count * self._processes):
            raise ConfigError(
                f"{schedule.batch} clips cannot be dealt out to {self._processes} processes in "
                f"{self._count} equal microbatches each",
                where=f"{phase}.batch",
                remedy=f"make it a multiple of {self._count * self._processes}",
            )
        if schedule.left % self._processes:
            raise ConfigError(
                f"the last {human.count(schedule.left, 'clip')} of an epoch cannot be dealt out to "
                f"{self._processes} processes",
                where="protocol.unsorted_batches",
                remedy="train in one process, or switch it off",
            )
        self._size = schedule.batch // self._count

    def __call__(self, batch: Sequence[int]) -> list[Microbatch]:
        """This process's microbatches of a batch."""
        pieces = [batch[start : start + self._size] for start in range(0, len(batch), self._size)]
        count = self._count if self._alike else len(pieces)
        microbatches = []
        for piece in pieces:
            own = piece[self._rank :: self._processes]
            tokens = self._count_tokens(piece) * count if self._alike else self._count_tokens(batch)
            lm = self._count_tokens(own) / tokens
            microbatches.append(Microbatch(own, piece, lm, 1 / (count * self._processes)))
        return microbatches

    def _count_tokens(self, numbers: Sequence[int]) -> int:
        return sum(self._tokens[number] for number in numbers)
