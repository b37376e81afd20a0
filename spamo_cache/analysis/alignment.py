"""Alignment of a run's sign features with the LLM's embeddings (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spamo_cache.analysis import measures
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.evaluate.inference import load_run
from spamo_cache.evaluate.scorecard import check_stores, open_stores
from spamo_cache.model.translator import Translator
from spamo_cache.train.batches import Examples, examples
from spamo_cache.train.checkpoint import write_json
from spamo_cache.train.features import Features

_BATCH = 64


def analyze(
    run: Path,
    split: str = "test",
    *,
    manifest: Manifest | None = None,
    stores: Mapping[str, Features] | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Measure how near clips lie to their own sentences; keeps ``<run>/analysis/<split>.json``.

    Sign rows and input embeddings are pooled as VT-Align pools them.

    Args:
        run: folder of a finished run.
        split: the split whose clips are placed.
        manifest: None takes the one kept in the run.
        stores: stream -> features; None opens those the run was trained from.

    Returns:
        ``clips`` and distinct ``sentences``; ``recall_at_1`` and ``recall_at_5`` of a clip's own
        sentence with their chance levels; its ``median_rank``; the ``modality_gap``; the mean
        cosine with the own sentence and with the others.

    Raises:
        UsageError: no finished run there, or no such split.
        StoreError: a store is not the one trained from, or lacks clips of the split.
    """
    loaded = load_run(run, device=device)
    manifest = manifest or Manifest.read(loaded.folder.manifest)
    stores = stores or open_stores(loaded.folder)
    check_stores(loaded.folder, stores)
    tokens = loaded.translator.tokens
    data = examples(loaded.pipeline, manifest, stores, split, tokens)
    sign_nd, text_nd = pooled(loaded.translator, data)
    found = {"split": split, **summary(sign_nd, text_nd, list(data.texts))}
    folder = run / "analysis"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{split}.json", found)
    return found


def summary(
    sign_nd: measures.Floats, text_nd: measures.Floats, texts: list[str]
) -> dict[str, float | int | None]:
    """The measures for paired unit vectors; row i of both belongs to ``texts[i]``."""
    kept, own_n = measures.distinct(texts)
    text_md = text_nd[kept]
    ranks_n = measures.ranks(sign_nd, text_md, own_n)
    paired, unpaired = measures.cosines(sign_nd, text_md, own_n)
    return {
        "clips": len(texts),
        "sentences": len(kept),
        "recall_at_1": measures.recall(ranks_n, 1),
        "recall_at_5": measures.recall(ranks_n, 5),
        "chance_at_1": 1 / len(kept),
        "chance_at_5": min(1.0, 5 / len(kept)),
        "median_rank": float(np.median(ranks_n)),
        "modality_gap": measures.modality_gap(sign_nd, text_nd),
        "own_cosine": paired,
        "other_cosine": unpaired,
    }


@torch.inference_mode()
def pooled(
    translator: Translator, data: Examples
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(clips, width) unit vectors of clips and of their sentences, in the order of ``data``."""
    device = translator.device
    order: list[int] = []
    sign, text = [], []
    for numbers in data.sorted_batches(_BATCH):
        batch = data.batch(numbers).to(device)
        sign.append(translator.align.pool_sign(translator.adapter(batch.streams)).float().cpu())
        text.append(translator.align.pool_text(translator.sentences(batch.labels)).float().cpu())
        order += numbers
    back = np.argsort(order)
    return torch.cat(sign).numpy()[back], torch.cat(text).numpy()[back]
