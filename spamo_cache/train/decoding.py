"""What a split scores in training: its sentences by beam search, their loss, and retrieval."""

from __future__ import annotations

from collections.abc import Callable

import torch

from spamo_cache.config import DecodeConfig
from spamo_cache.model.translator import Translator
from spamo_cache.runs.records import Unfinished
from spamo_cache.train.data import Examples

Decoded = Callable[[int, int], None]
"""Called with clips done and clips in all."""


def decode(
    translator: Translator,
    data: Examples,
    config: DecodeConfig,
    *,
    progress: Decoded | None = None,
    unfinished: Unfinished | None = None,
) -> list[str]:
    """One hypothesis per clip, in the order of ``data.ids``; deterministic.

    Clips of like length share a batch. The translator's mode is put back afterwards.

    Args:
        unfinished: keeps each batch as it is done; those it holds already are not decoded again.
    """
    hypotheses = [""] * len(data)
    done, training = 0, translator.training
    known = {} if unfinished is None else unfinished.read()
    translator.eval()
    try:
        for numbers in data.sorted_batches(config.batch):
            ids = [data.ids[number] for number in numbers]
            if known.keys() >= set(ids):
                texts = [known[clip] for clip in ids]
            else:
                batch = data.batch(numbers).to(translator.device)
                texts = translator.generate(batch.streams, config, batch.prompts)
                if unfinished is not None:
                    unfinished.add(dict(zip(ids, texts, strict=True)))
            for number, text in zip(numbers, texts, strict=True):
                hypotheses[number] = text
            done += len(numbers)
            if progress is not None:
                progress(done, len(data))
    finally:
        translator.train(training)
    return hypotheses


@torch.inference_mode()
def cross_entropy(
    translator: Translator, data: Examples, *, batch: int, smoothing: float
) -> tuple[float, int]:
    """The translation loss of a split, weights as they are.

    Args:
        batch: clips computed at a time.
        smoothing: of the labels, as in training: else the two could not be compared.

    Returns:
        Nats, summed over the tokens of all sentences, and the number of tokens.
    """
    training = translator.training
    translator.eval()
    nats, tokens = 0.0, 0
    try:
        for numbers in data.sorted_batches(batch):
            examples = data.batch(numbers).to(translator.device)
            loss = translator(examples, phase="translate", alpha=0.0, smoothing=smoothing)["lm"]
            count = sum(len(data.tokens[number]) for number in numbers)
            nats, tokens = nats + loss.item() * count, tokens + count
    finally:
        translator.train(training)
    return nats, tokens


@torch.inference_mode()
def recall_at_1(translator: Translator, data: Examples, *, batch: int = 64) -> float:
    """Share of clips whose own sentence is the nearest of the split's, after VT-Align (0..1).

    Equal sentences count as one.
    """
    device, training = translator.device, translator.training
    translator.eval()
    sign, text = [], []
    for numbers in data.sorted_batches(batch):
        examples = data.batch(numbers).to(device)
        sign.append(translator.align.pool_sign(translator.sign(examples.streams)))
        text.append(translator.align.pool_text(translator.sentences(examples.labels)))
    translator.train(training)
    order = [number for numbers in data.sorted_batches(batch) for number in numbers]
    nearest: list[int] = (torch.cat(sign) @ torch.cat(text).T).argmax(1).tolist()
    hits = [data.texts[order[i]] == data.texts[order[near]] for i, near in enumerate(nearest)]
    return sum(hits) / len(hits)
