"""Clips with their sentences, cut into batches of similar length."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import starmap
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import DEV_SPLITS, Manifest
from spamo_cache.datasets.mixture import corpus_of
from spamo_cache.datasets.resplit import resplit
from spamo_cache.errors import ConfigError, StoreError, UsageError
from spamo_cache.model.prompts import Prompts, Sentence, prompts_of, sentence_of
from spamo_cache.model.tokens import Tokens, padded_ids
from spamo_cache.model.translator import Batch
from spamo_cache.train.features import Bank, Features, crop_of, derangement, usable

MEMORY = 2 << 30
"""Bytes of features of one split that are kept in memory by default."""

T = TypeVar("T")

_READERS = 4
"""Threads that read and verify batches for a GPU, whose steps of a warm-up are shorter than one
thread takes to read a batch."""

_CPU = torch.device("cpu")
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
    sentences: Sequence[Sentence]
    prompts: Prompts
    joined: np.ndarray
    """(clips,) rows of each clip once its streams are joined."""
    turn: tuple[int, int] = (0, 1)
    """Which batches :meth:`sorted_batches` gives: of so many (second) every one from the first."""

    def __len__(self) -> int:
        return len(self.ids)

    def batch(
        self, numbers: Sequence[int], draw: int = 0, among: Sequence[int] | None = None
    ) -> Batch:
        """The clips with these numbers.

        Args:
            draw: what is left to chance differs with it: in training the number of the step.
            among: those of all processes that share the batch; None is these alone.
        """
        chosen = [self.sentences[number] for number in numbers]
        shared = numbers if among is None else among
        return Batch(
            self.bank.packed(numbers, draw),
            self.labels(numbers),
            self.prompts.ids(chosen, draw),
            longest_clip=int(self.joined[list(shared)].max()),
            longest_sentence=max(len(self.tokens[number]) for number in shared),
        )

    def labels(self, numbers: Sequence[int]) -> Tensor:
        return padded_ids([self.tokens[number] for number in numbers])

    def sorted_batches(self, size: int) -> list[list[int]]:
        """All clips, longest first, cut by ``size``: for decoding."""
        order = np.argsort(-self.bank.lengths, kind="stable").tolist()
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        return batches[self.turn[0] :: self.turn[1]]


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
        ConfigError: pairs are asked for that no clip has.
        StoreError: clips that were never extracted, or no clip that can be used.
    """
    check_pairs(pipeline, manifest, split)
    stores = {name: stores[name] for name in pipeline.streams}
    spoken = {clip.id: sentence_of(clip, pipeline) for clip in manifest.clips(split)}
    ids, failed = usable(
        stores,
        spoken,
        f"split {split} of {manifest.corpus}",
        drop_missing=pipeline.protocol.drop_missing,
    )
    if not ids:
        raise StoreError(f"no clip of split {split!r} has features", where=manifest.corpus)
    shuffled = pipeline.shuffle_features if shuffle is None else shuffle
    bank = Bank(
        stores,
        ids,
        derangement=derangement(ids, pipeline.seed) if shuffled else None,
        max_frames=pipeline.max_frames,
        memory=memory,
        crop=crop_of(pipeline),
    )
    sentences = [spoken[clip] for clip in ids]
    texts = [sentence.text for sentence in sentences]
    targets = tokens.encode(texts)
    if not pipeline.protocol.whole_targets:
        targets = [_cut(line, pipeline.decode.max_tokens) for line in targets]
    prompts = prompts_of(pipeline, manifest, tokens)
    along_time = pipeline.adapter.fusion == "time"
    joined = bank.lengths if along_time else bank.lengths_of(pipeline.streams[0])
    return Examples(split, ids, texts, targets, bank, failed, sentences, prompts, joined)


def check_pairs(pipeline: Pipeline, manifest: Manifest, split: str) -> None:
    """See that the sentences that a split's prompts show are translated.

    Raises:
        ConfigError: those of the training split, or of the split itself where pairs come from the
            batch, are translated into none of a language that pairs are asked for in.
    """
    shown = split if pipeline.protocol.pairs_from_batch else "train"
    languages = dict.fromkeys(pipeline.llm.in_context_languages)
    clips = manifest.clips(shown) if languages else ()
    for clip in clips:
        for language in [name for name in languages if clip.extra.get(f"text_{name}")]:
            del languages[language]
        if not languages:
            return
    if languages:
        missing = ", ".join(f"text_{name}" for name in languages)
        raise ConfigError(
            "llm.in_context_languages asks for translations that no clip has: "
            f"{missing} of split {shown}",
            where=f"manifest of {manifest.corpus}",
            remedy="add these columns to the manifest, or leave the pairs out: "
            "--set llm.in_context_languages=[], and under protocol official "
            "--set 'protocol={official: true, pairs_from_batch: false}'",
        )


def selection_split(pipeline: Pipeline, manifest: Manifest) -> str:
    """The split that checkpoints are selected on.

    Raises:
        UsageError: the manifest has none; selecting on test is a protocol's choice alone.
    """
    if pipeline.protocol.select_on_test:
        return "test"
    for name in DEV_SPLITS:
        if name in manifest.splits:
            return name
    raise UsageError(
        f"corpus {manifest.corpus} has no split to select on",
        where=f"splits: {', '.join(manifest.splits)}",
        remedy="call one 'dev' in the manifest and give it with --manifest; "
        "the features stay as they are",
    )


def _cut(tokens: Sequence[int], limit: int) -> list[int]:
    """At most ``limit`` tokens, the end token always among them."""
    return list(tokens) if len(tokens) <= limit else [*tokens[: limit - 1], tokens[-1]]


class Schedule:
    """Which clips make up step k of a stage: a pure function of the seed.

    Every epoch is a new permutation. Of several corpora it has a fixed number of clips each, which
    go through their corpus in permutations of its own. Within pools of a few batches clips are
    sorted by length, so that little is padded; then the batches are shuffled. The clips that do not
    fill a batch at the end of an epoch are left for the next one.

    Args:
        lengths: (clips,) rows.
        batch: clips of a step.
        unsorted: as in the official release, clips of any length share a batch, and those left at
            the end of an epoch are a smaller one.
        corpora: of several ones.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch: int,
        seed: str,
        *,
        unsorted: bool = False,
        corpora: Sequence[Ration] = (),
    ) -> None:
        self._lengths, self._corpora = lengths, corpora
        self._unsorted = unsorted
        self._batch = batch if unsorted else min(batch, len(lengths))
        self._seed = seed
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    @property
    def batch(self) -> int:
        """Clips per batch: those asked for, or all there are."""
        return self._batch

    @property
    def per_epoch(self) -> int:
        return len(self._lengths) // self._batch + (self.left > 0)

    @property
    def left(self) -> int:
        """Clips of the smaller batch that an epoch ends with; 0 where all batches are whole."""
        return len(self._lengths) % self._batch if self._unsorted else 0

    def __getitem__(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._plan(epoch))
        return self._epoch[1][place]

    def _plan(self, epoch: int) -> list[list[int]]:
        # Seeding with a string hashes it by sha512: the same on every machine and version.
        chance = random.Random(f"{self._seed} {epoch}")  # noqa: S311
        order = self._order(epoch, chance)
        if self._unsorted:
            return [order[i : i + self._batch] for i in range(0, len(order), self._batch)]
        order = order[: self.per_epoch * self._batch]
        pool = self._batch * _POOL
        batches = []
        for start in range(0, len(order), pool):
            ranked = sorted(order[start : start + pool], key=lambda i: int(self._lengths[i]))
            batches += [ranked[i : i + self._batch] for i in range(0, len(ranked), self._batch)]
        chance.shuffle(batches)
        return batches

    def _order(self, epoch: int, chance: random.Random) -> list[int]:
        """The clips of an epoch, in the order in which they are cut into pools."""
        if not self._corpora:
            order = list(range(len(self._lengths)))
            chance.shuffle(order)
            return order
        # Corpora are shuffled, not clips: one that is drawn often meets itself as late as can be.
        turns = [place for place, one in enumerate(self._corpora) for _ in range(one.drawn)]
        chance.shuffle(turns)
        upcoming = [one.clips_of(epoch, self._seed) for one in self._corpora]
        return [next(upcoming[place]) for place in turns]


@dataclass(frozen=True, slots=True)
class Ration:
    """What one of several corpora adds to an epoch.

    Attributes:
        corpus: its name.
        numbers: of its clips.
        drawn: clips of an epoch, which may be more or fewer than it has.
    """

    corpus: str
    numbers: Sequence[int]
    drawn: int

    def clips_of(self, epoch: int, seed: str) -> Iterator[int]:
        """Its clips in an epoch: a stretch of its permutations, laid end to end."""
        lap, order = -1, list[int]()
        for position in range(epoch * self.drawn, (epoch + 1) * self.drawn):
            wanted, place = divmod(position, len(self.numbers))
            if wanted != lap:
                lap, order = wanted, list(self.numbers)
                random.Random(f"{seed} {self.corpus} {lap}").shuffle(order)  # noqa: S311
            yield order[place]


def rations(pipeline: Pipeline, ids: Sequence[str]) -> list[Ration]:
    """How an epoch of so many clips is made up of several corpora; empty for one corpus alone.

    Raises:
        StoreError: one of the corpora has no clip with features.
    """
    if not pipeline.others:
        return []
    numbers: dict[str, list[int]] = {name: [] for name in pipeline.corpora}
    for number, clip in enumerate(ids):
        numbers[corpus_of(clip, pipeline.corpus, pipeline.others)].append(number)
    if empty := [name for name, found in numbers.items() if not found]:
        raise StoreError("no training clip has features", where=f"corpus {empty[0]}")
    shares = pipeline.shares({name: len(found) for name, found in numbers.items()})
    drawn = _apportioned(shares, len(ids))
    return [Ration(name, found, drawn[name]) for name, found in numbers.items()]


def _apportioned(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers, at least 1 each, that add up to ``total`` about as the shares say."""
    counts = {name: max(1, int(share * total)) for name, share in shares.items()}
    # From float to int everything is rounded down, so few are missing, if not too many there.
    order = sorted(shares, key=lambda name: counts[name] - shares[name] * total)
    for step in range(total - sum(counts.values())):
        counts[order[step % len(order)]] += 1
    largest = max(counts, key=lambda name: counts[name])
    counts[largest] -= sum(counts.values()) - total
    return counts


Wanted = tuple[Sequence[int], int, Sequence[int]]
"""What :meth:`Examples.batch` is asked for."""


def stream_batches(
    data: Examples, wanted: Iterable[Wanted], device: torch.device = _CPU
) -> Iterator[Batch]:
    """Batches on ``device``; the next ones are brought there while the current one is worked on."""
    if device.type == "cuda":
        bring = Transfer(device)
        # Frames are large, and decoded by threads of their own.
        threads = 1 if data.bank.of_frames else _READERS
        made = starmap_ahead(lambda *asked: bring.begin(data.batch(*asked)), wanted, threads)
        yield from map(bring.arrive, made)
    elif data.bank.in_memory:
        yield from starmap(data.batch, wanted)
    else:
        yield from starmap_ahead(data.batch, wanted, 1)


def starmap_ahead(
    make: Callable[..., T], wanted: Iterable[tuple[Any, ...]], threads: int
) -> Iterator[T]:
    """As ``itertools.starmap``, computed by threads that are two results each ahead."""
    upcoming: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as readers:
        for asked in wanted:
            upcoming.append(readers.submit(make, *asked))
            if len(upcoming) > 2 * threads:
                yield upcoming.popleft().result()
        while upcoming:
            yield upcoming.popleft().result()


class Transfer:
    """Copies batches to a GPU from page-locked memory, on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def begin(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        """The batch as it will be on the device once the event has come."""
        with torch.cuda.stream(self._stream):
            there = batch.pin_memory().to(self._device)
            return there, self._stream.record_event()

    def arrive(self, begun: tuple[Batch, torch.cuda.Event]) -> Batch:
        """The batch, for whose arrival the device waits, but not the host."""
        batch, copied = begun
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(copied)
        for tensor in batch.tensors():
            # Or its memory would be given to another batch while this stream still reads it.
            tensor.record_stream(computing)
        return batch


def selected(pipeline: Pipeline, manifest: Manifest) -> Manifest:
    """The clips that a pipeline trains, selects and tests on, of all there are.

    Raises:
        UsageError: the pipeline splits its corpus anew, and it cannot be split so.
    """
    return sample(_resplit(pipeline, manifest), pipeline)


def _resplit(pipeline: Pipeline, manifest: Manifest) -> Manifest:
    """The clips of the pipeline's own corpus in other splits, as it says."""
    if pipeline.resplit is None:
        return manifest
    ids = manifest.table["id"].to_pylist()
    own = [corpus_of(clip, pipeline.corpus, pipeline.others) == pipeline.corpus for clip in ids]
    options = pipeline.resplit.model_dump(exclude={"fold"})
    anew = resplit(manifest.keep(own), **options)[(pipeline.resplit.fold or 1) - 1]
    if all(own):
        return anew
    others = manifest.keep([not one for one in own])
    return replace(anew, table=pa.concat_tables([anew.table, others.table]))


def sample(manifest: Manifest, pipeline: Pipeline) -> Manifest:
    """The manifest with ``train_fraction`` of the training clips of every corpus, at least one.

    Clips are ranked by the hash of ``seed`` and their id: a sample is spread over the corpus, is
    the same on every machine, and contains every smaller one of the same seed. Other splits stay
    whole.
    """
    ids, splits = manifest.table["id"].to_pylist(), manifest.table["split"].to_pylist()
    training: dict[str, set[str]] = {}
    for clip, split in zip(ids, splits, strict=True):
        if split == "train":
            corpus = corpus_of(clip, pipeline.corpus, pipeline.others)
            training.setdefault(corpus, set()).add(clip)
    left_out: set[str] = set()
    for clips in training.values():
        count = max(1, round(pipeline.train_fraction * len(clips)))
        left_out.update(sorted(clips, key=lambda clip: _rank(clip, pipeline.seed))[count:])
    return manifest.keep([clip not in left_out for clip in ids]) if left_out else manifest


def _rank(clip: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {clip}".encode("utf-8", "surrogatepass")).digest()
