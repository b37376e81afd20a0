"""BLEURT-20, where its weights are at hand: 2.3 GB are not fetched for a score nobody asked for.

BLEURT-20 is a RemBERT with one output, which transformers reads; the package ``bleurt-pytorch``,
whose files these are, does not import beside transformers 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spamo_cache import checkpoints
from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.metrics.intervals import Measure, mean_of

WEIGHTS = "lucadiliello/BLEURT-20"
_BATCH = 32


def find() -> Path | None:
    """The folder of the weights in the hub's cache; None where they were never fetched."""
    return checkpoints.cached(WEIGHTS)


@torch.inference_mode()
def bleurt(
    folder: Path, hypotheses: Sequence[str], references: Sequence[str], device: torch.device
) -> Measure:
    """The mean over clips of what BLEURT gives a hypothesis; near 100 for a perfect one.

    Raises:
        WeightsError: ``folder`` holds no such model.
    """
    with checkpoints.explained(folder, "holds no BLEURT"):
        model, pieces = _load(folder)
    model = model.to(device).eval()
    most = int(model.config.max_position_embeddings)
    encoded = [
        _encoded(pieces, reference, hypothesis)[:, :most]
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    order = sorted(range(len(encoded)), key=lambda number: encoded[number].shape[1])
    scores = dict[int, float]()
    for start in range(0, len(order), _BATCH):
        numbers = order[start : start + _BATCH]
        batch = pad_sequence([encoded[number].T for number in numbers], batch_first=True)
        ids, types, real = batch.to(device).unbind(2)
        logits = model(ids, attention_mask=real, token_type_ids=types).logits
        scores |= dict(zip(numbers, logits.flatten().tolist(), strict=True))
    points = [100 * scores[number] for number in range(len(encoded))]
    return mean_of(points, f"model:{WEIGHTS}|transformers:{version('transformers')}")


def _load(folder: Path) -> tuple[Any, SentencePieceProcessor]:
    declare_torchvision_ops()
    from transformers import RemBertConfig, RemBertForSequenceClassification  # noqa: PLC0415

    own = checkpoints.read_json(folder / "config.json")
    known = set(RemBertConfig().to_dict()) - {"model_type"}
    shape: dict[str, Any] = {key: value for key, value in own.items() if key in known}
    shape |= {"input_embedding_size": own["embedding_size"], "num_labels": 1}
    config = RemBertConfig(**shape, bos_token_id=None, eos_token_id=None)
    model = RemBertForSequenceClassification(config)
    tensors = checkpoints.tensors(folder).items()
    model.load_state_dict(
        {_renamed(name): tensor for name, tensor in tensors if not name.endswith("position_ids")}
    )
    return model, SentencePieceProcessor(model_file=str(folder / "spm.model"))


def _renamed(name: str) -> str:
    name = name.replace("embedding_projection", "embedding_hidden_mapping_in")
    return name.replace("bleurt.", "rembert.", 1)


def _encoded(pieces: SentencePieceProcessor, reference: str, hypothesis: str) -> Tensor:
    """(3, tokens): ids, which of the two sentences, and ones for what is no padding."""
    start, end = pieces.piece_to_id("[CLS]"), pieces.piece_to_id("[SEP]")
    first = [start, *pieces.encode(reference), end]
    second = [*pieces.encode(hypothesis), end]
    types = [0] * len(first) + [1] * len(second)
    return torch.tensor([first + second, types, [1] * len(types)])
