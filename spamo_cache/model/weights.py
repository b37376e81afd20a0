"""Where an LLM's files lie and what they hold, without loading the model."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor

from spamo_cache import checkpoints, io
from spamo_cache.config import expanded
from spamo_cache.errors import WeightsError

_TABLES = (
    "shared.weight",
    "encoder.embed_tokens.weight",
    "model.shared.weight",
    "model.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "transformer.wte.weight",
    "wte.weight",
)
"""Names under which models keep their input embeddings: T5 and mT5, BART, decoder-only models."""


def locate(weights: str, base: Path) -> Path:
    """The local folder of ``org/name[@revision]`` (fetched on first use) or of a path.

    Args:
        weights: as in the pipeline: a path, relative to ``base``, wins over a hub id.
        base: folder of the pipeline's file.

    Raises:
        WeightsError: neither a model's folder nor a hub id that can be reached, or a folder with
            Git LFS pointers or web pages in place of its files.
    """
    folder = base / expanded(weights)
    if (folder / "config.json").is_file():
        folder = folder.resolve()
    elif not checkpoints.is_hub_id(weights):
        raise WeightsError(
            "is no folder of a model (config.json is missing)",
            where=folder,
            remedy="set llm.weights to a Hugging Face folder or to org/name@revision",
        )
    else:
        folder = checkpoints.from_hub(weights)
    checkpoints.check(folder)
    return folder


def at_hand(weights: str, base: Path) -> Path | None:
    """As :func:`locate`, of what is on this machine already; None otherwise."""
    if (base / expanded(weights) / "config.json").is_file() or not checkpoints.is_hub_id(weights):
        return locate(weights, base)
    return checkpoints.cached(weights)


def digest(folder: Path) -> str:
    """sha256 over the names and contents of the files that decide what the model says."""
    suffixes = {".json", ".safetensors", ".model", ".txt"}
    read = {path for path in folder.iterdir() if path.suffix in suffixes}
    total = hashlib.sha256()
    for path in sorted(read.union(checkpoints.files(folder))):
        total.update(f"{path.name} {io.file_sha256(path)}\n".encode())
    return total.hexdigest()


def embedding_table(folder: Path) -> Tensor:
    """The input embeddings (tokens, width) in float32, and nothing else of the model.

    Scaled where the model scales them on reading, as BART's kin may and Gemma does.

    Raises:
        WeightsError: no weights, or none of the known names in them.
    """
    state = checkpoints.tensors(folder)
    name = next((name for name in _TABLES if name in state), None)
    if name is None:
        raise WeightsError(
            "holds no input embeddings",
            where=folder,
            remedy=f"expected a tensor named {', '.join(_TABLES)}",
        )
    table = state[name].to(torch.float32)
    return table * _scale(folder, table.shape[1])


def _scale(folder: Path, width: int) -> float:
    config = checkpoints.read_json(folder / "config.json")
    gemma = str(config.get("model_type", "")).startswith("gemma")
    return math.sqrt(width) if gemma or config.get("scale_embedding") else 1.0
