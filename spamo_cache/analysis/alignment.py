"""Alignment of a run's sign features with the LLM's embeddings (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spamo_cache import io
from spamo_cache.analysis import entropy, measures, tokens
from spamo_cache.compat import cpu_threads
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.evaluate.features import check_stores
from spamo_cache.model.translator import Translator
from spamo_cache.runs.analyses import (
    Alignment,
    Analysis,
    Entropies,
    Measured,
    analysis_file,
)
from spamo_cache.runs.documents import write_document
from spamo_cache.runs.load import Run, load_run, open_stores
from spamo_cache.train.data import Examples, examples
from spamo_cache.train.features import Features, encoders_of

CLIPS = 4096
"""Of a larger split as many are taken, evenly: all pairs of clips are compared."""

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Seen:
    """Clips as a translator places them.

    Attributes:
        sign_nd: unit vectors of the clips.
        text_nd: those of their sentences.
        texts: the sentences.
        visual: the tokens that the sign rows look like, and of how many ``candidates``.
    """

    sign_nd: NDArray[np.float32]
    text_nd: NDArray[np.float32]
    texts: Sequence[str]
    visual: Sequence[tokens.Visual]
    candidates: int


def analyze(
    run: Path,
    split: str = "test",
    *,
    manifest: Manifest | None = None,
    stores: Mapping[str, Features] | None = None,
    device: str = "auto",
    roots: Sequence[str] | None = None,
    llm: Path | None = None,
) -> Analysis:
    """Measure how near clips lie to their own sentences; keeps ``<run>/analysis/<split>.json``.

    Sign rows and input embeddings are pooled as VT-Align pools them.

    Args:
        run: folder of a finished run.
        split: the split whose clips are placed.
        manifest: None takes the one kept in the run.
        stores: stream -> features; None finds those the run was trained from.
        roots: to look for them in; None is SPAMO_CACHE's.
        llm: folder of the run's LLM, where that has moved.

    Raises:
        UsageError: no finished run there, or no such split.
        StoreError: a store is not the one trained from, or lacks clips of the split.
    """
    path = analysis_file(run, split)
    io.check_output(path)
    known = stores or {}
    loaded = load_run(run, device=device, encoders=encoders_of(known, known), llm=llm)
    manifest = manifest or loaded.folder.sentences()
    stores = stores or open_stores(loaded.folder, roots, split=split)
    check_stores(loaded.folder, stores)
    data = examples(loaded.pipeline, manifest, stores, split, loaded.translator.tokens)
    numbers = np.linspace(0, len(data) - 1, min(len(data), CLIPS)).round().astype(int).tolist()
    by_id = {clip.id: clip for clip in manifest.clips(split)}
    clips = [by_id[data.ids[number]] for number in numbers]
    missing = _unknown_start(loaded)
    with cpu_threads(loaded.pipeline.threads):
        after = look(loaded.translator, data, numbers)
        before = None if missing else look(beginning(loaded), data, numbers)
        analysis = Analysis(
            split=split,
            of=len(data),
            failed=len(data.failed),
            after=_measured(after, clips, loaded.translator, tokens.EXAMPLES),
            before=_measured(before, clips, loaded.translator, 0) if before else None,
            before_missing=missing,
            entropy=_entropy(after, before),
        )
    write_document(path, analysis)
    return analysis


def summary(sign_nd: measures.Floats, text_nd: measures.Floats, texts: Sequence[str]) -> Alignment:
    """The measures for paired unit vectors; row i of both belongs to ``texts[i]``."""
    kept, own_n = measures.distinct(texts)
    text_md = text_nd[kept]
    ranks_n = measures.ranks(sign_nd, text_md, own_n)
    paired, unpaired = measures.cosines(sign_nd, text_md, own_n)
    return Alignment(
        clips=len(texts),
        sentences=len(kept),
        recall_at_1=measures.recall(ranks_n, 1),
        recall_at_5=measures.recall(ranks_n, 5),
        recall_at_10=measures.recall(ranks_n, 10),
        chance_at_1=1 / len(kept),
        chance_at_5=min(1.0, 5 / len(kept)),
        chance_at_10=min(1.0, 10 / len(kept)),
        median_rank=float(np.median(ranks_n)),
        modality_gap=measures.modality_gap(sign_nd, text_nd),
        own_cosine=paired,
        other_cosine=unpaired,
        cka=measures.cka(sign_nd, text_nd),
        infonce=measures.infonce(sign_nd, text_nd),
    )


def beginning(loaded: Run) -> Translator:
    """The translator that a run's training began with: its seed decides it.

    VT-Align's centre is a fact about the training sentences, so the run's own is taken.
    """
    pipeline, now = loaded.pipeline, loaded.translator
    with torch.random.fork_rng(devices=()):  # it is made on the CPU
        torch.manual_seed(pipeline.seed)
        then = Translator(pipeline, loaded.folder.read_about().widths, now.folder)
    then.align.center.copy_(now.align.center)
    return then.to(now.device).eval()


def _unknown_start(loaded: Run) -> str | None:
    """Why the weights that training began with are not known, where they are not."""
    if loaded.folder.imported:
        return "the run was imported: its first weights are not known"
    if loaded.pipeline.init_from is not None:
        return "the run began with another run's weights"
    if loaded.pipeline.encoders is not None:
        return "the run has trained its encoders too"
    return None


@torch.inference_mode()
def look(translator: Translator, data: Examples, numbers: Sequence[int]) -> Seen:
    """Place clips and sentences, and read the sign rows as tokens, in the order of ``numbers``."""
    vocabulary = tokens.Vocabulary(translator)
    place = {number: row for row, number in enumerate(numbers)}
    order: list[int] = []
    sign, text = [], []
    visual: list[tokens.Visual] = []
    for listed in data.sorted_batches(_BATCH):
        if not (batch := [number for number in listed if number in place]):
            continue
        clips = data.batch(batch).to(translator.device)
        rows = translator.sign(clips.streams)
        sign.append(translator.align.pool_sign(rows).float().cpu())
        text.append(translator.align.pool_text(translator.sentences(clips.labels)).float().cpu())
        visual += vocabulary.read(rows)
        order += [place[number] for number in batch]
    back = np.argsort(order)
    return Seen(
        sign_nd=torch.cat(sign).numpy()[back],
        text_nd=torch.cat(text).numpy()[back],
        visual=[visual[row] for row in back],
        texts=[data.texts[number] for number in numbers],
        candidates=vocabulary.size,
    )


def _measured(seen: Seen, clips: Sequence[Clip], translator: Translator, examples: int) -> Measured:
    return Measured(
        alignment=summary(seen.sign_nd, seen.text_nd, seen.texts),
        tokens=tokens.compare(
            seen.visual,
            clips,
            translator.tokens,
            candidates=seen.candidates,
            examples=examples,
        ),
    )


def _entropy(after: Seen, before: Seen | None) -> Entropies | None:
    kept, _ = measures.distinct(after.texts)
    return entropy.against(
        after.text_nd[kept], after.sign_nd, None if before is None else before.sign_nd
    )
