"""What a run says without seeing: every row of a clip is the mean row of the training features.

What is left is the language model and what training taught it of the corpus's sentences. Clips
keep their numbers of rows, so how long a clip is can still be told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.datasets.mixture import corpus_of
from spamo_cache.errors import SpamoError
from spamo_cache.metrics import measures, summarize
from spamo_cache.model.translator import Translator
from spamo_cache.runs.folder import identity
from spamo_cache.runs.records import LanguagePrior
from spamo_cache.runs.tensors import read_tensors, write_tensors
from spamo_cache.train.data import Examples, examples
from spamo_cache.train.decoding import decode
from spamo_cache.train.features import Features, are_frames, are_marked

FILE = "mean_rows.safetensors"
"""In a run's folder: the mean row of each stream."""
MOST = 2_000
"""Training clips behind a mean row, spread evenly; more would change no digit that counts."""
_BATCH = 16
METRICS = ("bleu1", "bleu4", "chrf", "rouge_l", "rouge_l_official")


class MeanFeatures:
    """A stream whose clips have as many rows as they have, each of them the same row."""

    def __init__(self, store: Features, row: np.ndarray) -> None:
        self._store, self._row = store, row
        self.width, self.dtype = store.width, store.dtype
        self.fingerprint, self.path = store.fingerprint, store.path

    def state(self, clip: str) -> Literal["ok", "failed", "absent"]:
        return self._store.state(clip)

    def reason(self, clip: str) -> str | None:
        return self._store.reason(clip)

    def rows(self, clip: str) -> int:
        return self._store.rows(clip)

    def read_into(self, ids: Sequence[str], buffer: np.ndarray) -> np.ndarray:
        buffer[:] = self._row
        offsets: np.ndarray = np.cumsum([0, *(self.rows(clip) for clip in ids)])
        return offsets


def mean_features(
    run: Path, pipeline: Pipeline, manifest: Manifest, stores: Mapping[str, Features]
) -> dict[str, MeanFeatures] | None:
    """The streams of a run, blinded.

    The mean rows are kept in the run's folder; of a run on several corpora they are those of the
    one that is scored. None where the stores hold no training clip, and where the run reads frames.
    """
    if "train" not in manifest.splits or any(map(are_frames, stores.values())):
        return None
    clips = [clip.id for clip in manifest.clips("train")]
    # The stores are those of the corpus that is scored, and know no clips of the others.
    clips = [one for one in clips if corpus_of(one, "", pipeline.others) == ""]
    there = [clip for clip in clips if all(one.state(clip) == "ok" for one in stores.values())]
    if not there:
        return None
    chosen = there[:: -(-len(there) // MOST)]
    prints = {name: store.fingerprint for name, store in stores.items()}
    known = identity({"stores": prints, "clips": chosen})
    rows = _kept(run / FILE, known)
    if rows is None:
        rows = {name: mean_row(store, chosen) for name, store in stores.items()}
        tensors = {name: torch.from_numpy(row) for name, row in rows.items()}
        write_tensors(run / FILE, tensors, {"identity": known})
    return {name: MeanFeatures(store, rows[name]) for name, store in stores.items()}


def _kept(path: Path, known: str) -> dict[str, np.ndarray] | None:
    """The rows that an earlier evaluation kept, if they are of the same clips and not damaged."""
    try:
        tensors, header = read_tensors(path)
    except SpamoError:
        return None
    if header.get("identity") != known:
        return None
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def mean_row(store: Features, clips: Sequence[str]) -> np.ndarray:
    """(width,) float32: the mean over all valid rows of some clips, a few clips at a time."""
    total, count = np.zeros(store.width), 0
    for ids in (clips[first : first + _BATCH] for first in range(0, len(clips), _BATCH)):
        buffer: np.ndarray = np.empty(
            (sum(store.rows(clip) for clip in ids), store.width), store.dtype
        )
        store.read_into(ids, buffer)
        if are_marked(store):
            buffer = buffer[np.concatenate(store.valid(ids))]
        total += buffer.sum(0, dtype=np.float64)
        count += len(buffer)
    return (total / max(1, count)).astype(np.float32)


def translated(
    translator: Translator,
    pipeline: Pipeline,
    manifest: Manifest,
    blind: Mapping[str, Features],
    split: str,
) -> dict[str, str]:
    """Clip -> what the run says of it without seeing it.

    Clips with equal numbers of rows and equal prompts are one and the same input, translated once.
    Where prompts depend on the other clips of a batch, every clip is translated.
    """
    data = examples(pipeline, manifest, blind, split, translator.tokens, memory=0, shuffle=False)
    if pipeline.protocol.pairs_from_batch:
        return dict(zip(data.ids, decode(translator, data, pipeline.decode), strict=True))
    alike: dict[Any, list[int]] = {}
    for number, key in enumerate(_inputs(data)):
        alike.setdefault(key, []).append(number)
    said: dict[int, str] = {}
    for firsts in _batches(data, [numbers[0] for numbers in alike.values()], pipeline):
        batch = data.batch(firsts).to(translator.device)
        texts = translator.generate(batch.streams, pipeline.decode, batch.prompts)
        said |= dict(zip(firsts, texts, strict=True))
    return {data.ids[number]: said[numbers[0]] for numbers in alike.values() for number in numbers}


def _inputs(data: Examples) -> Iterator[tuple[Any, ...]]:
    """All that a translation depends on, of each clip."""
    lengths = [data.bank.lengths_of(name).tolist() for name in data.bank.streams]
    yield from zip(*lengths, data.prompts.texts(data.sentences), strict=True)


def _batches(data: Examples, numbers: Sequence[int], pipeline: Pipeline) -> Iterator[list[int]]:
    """Some clips, the longest first, as they are decoded together."""
    order = sorted(numbers, key=lambda number: -int(data.bank.lengths[number]))
    size = pipeline.decode.batch
    yield from (order[first : first + size] for first in range(0, len(order), size))


def scores(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str, bootstrap: int
) -> LanguagePrior:
    """What is said blindly, scored as any translation."""
    found = measures(hypotheses, references, tokenize=tokenize)
    kept = summarize({name: found[name] for name in METRICS}, bootstrap=bootstrap)
    commonest, clips = Counter(hypotheses).most_common(1)[0]
    return LanguagePrior(
        metrics=kept.values,
        intervals=kept.intervals,
        sentences=len(set(hypotheses)),
        commonest=commonest,
        clips=clips,
    )
