"""Clips with their sentences, cut into batches of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import StoreError
from spamo_cache.model.llm import Tokens, labels_of
from spamo_cache.model.text import normalise
from spamo_cache.model.translator import Batch
from spamo_cache.train.features import Bank, Features, donors, usable

MEMORY = 2 << 30
"""Bytes of features of one split that are kept in memory by default."""

_POOL = 16
"""Batches whose clips are sorted by length together: much order saved, little chance lost."""


@dataclass(frozen=True, slots=True)
class Examples:
    """One split: ids, features, sentences in the corpus's convention, and their tokens.

    ``failed`` holds the clips without features and why; they are in none of the other fields.
    """

    split: str
    ids: Sequence[str]
    texts: Sequence[str]
    tokens: Sequence[Sequence[int]]
    bank: Bank
    failed: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, numbers: Sequence[int]) -> Batch:
        return Batch(self.bank.packed(numbers), self.labels(numbers))

    def labels(self, numbers: Sequence[int]) -> Tensor:
        return labels_of([self.tokens[number] for number in numbers])

    def sorted_batches(self, size: int) -> list[list[int]]:
        """All clips, longest first, cut by ``size``: for decoding."""
        order = np.argsort(-self.bank.lengths, kind="stable").tolist()
        return [order[start : start + size] for start in range(0, len(order), size)]


def examples(
    pipeline: Pipeline,
    manifest: Manifest,
    stores: Mapping[str, Features],
    split: str,
    tokens: Tokens,
    *,
    memory: int = MEMORY,
    shuffle: bool | None = None,
) -> Examples:
    """The clips of one split, joined with their features.

    Args:
        memory: bytes of features to keep in memory.
        shuffle: overrides ``pipeline.shuffle_features``.

    Raises:
        UsageError: the manifest has no such split.
        StoreError: clips that were never extracted, or no clip that can be used.
    """
    stores = {name: stores[name] for name in pipeline.streams}
    texts = {clip.id: normalise(clip.text, pipeline.text) for clip in manifest.clips(split)}
    ids, failed = usable(stores, texts, f"split {split} of {manifest.corpus}")
    if not ids:
        raise StoreError(f"no clip of split {split!r} has features", where=manifest.corpus)
    shuffled = pipeline.shuffle_features if shuffle is None else shuffle
    bank = Bank(
        stores,
        ids,
        donors=donors(ids, pipeline.seed) if shuffled else None,
        max_frames=pipeline.max_frames,
        memory=memory,
    )
    sentences = [texts[clip] for clip in ids]
    targets = [_cut(line, pipeline.decode.max_tokens) for line in tokens.encode(sentences)]
    return Examples(split, ids, sentences, targets, bank, failed)


def _cut(tokens: Sequence[int], limit: int) -> list[int]:
    """At most ``limit`` tokens, the end token always among them."""
    return list(tokens) if len(tokens) <= limit else [*tokens[: limit - 1], tokens[-1]]


class Schedule:
    """Which clips make up step k of a stage: a pure function of the seed.

    Every epoch is a new permutation. Within pools of a few batches clips are sorted by length, so
    that little is padded; then the batches are shuffled. The clips that do not fill a batch at
    the end of an epoch are left for the next one.
    """

    def __init__(self, lengths: np.ndarray, batch: int, seed: str) -> None:
        self._lengths = lengths
        self._batch = min(batch, len(lengths))
        self._seed = seed
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    @property
    def per_epoch(self) -> int:
        return len(self._lengths) // self._batch

    def __getitem__(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._plan(epoch))
        return self._epoch[1][place]

    def _plan(self, epoch: int) -> list[list[int]]:
        # Seeding with a string hashes it by sha512: the same on every machine and version.
        chance = random.Random(f"{self._seed} {epoch}")  # noqa: S311
        order = list(range(len(self._lengths)))
        chance.shuffle(order)
        order = order[: self.per_epoch * self._batch]
        pool = self._batch * _POOL
        batches = []
        for start in range(0, len(order), pool):
            ranked = sorted(order[start : start + pool], key=lambda i: int(self._lengths[i]))
            batches += [ranked[i : i + self._batch] for i in range(0, len(ranked), self._batch)]
        chance.shuffle(batches)
        return batches


def stream_batches(data: Examples, numbers: Iterator[Sequence[int]]) -> Iterator[Batch]:
    """Batches in the given order; the next one is read while the current one is worked on."""
    if data.bank.in_memory:
        yield from map(data.batch, numbers)
        return
    with ThreadPoolExecutor(1) as reader:
        upcoming = None
        for chosen in numbers:
            current, upcoming = upcoming, reader.submit(data.batch, chosen)
            if current is not None:
                yield current.result()
        if upcoming is not None:
            yield upcoming.result()
