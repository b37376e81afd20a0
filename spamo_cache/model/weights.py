"""Where an LLM's files lie and what they hold, without loading the model."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

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

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_INDEX = "model.safetensors.index.json"


def locate(weights: str, base: Path) -> Path:
    """The local folder of ``org/name[@revision]`` (fetched on first use) or of a path.

    Args:
        weights: as in the pipeline: a path, relative to ``base``, wins over a hub id.
        base: folder of the pipeline's file.

    Raises:
        WeightsError: neither a model's folder nor a hub id that can be reached.
    """
    folder = base / Path(weights).expanduser()
    if (folder / "config.json").is_file():
        return folder.resolve()
    if not _HUB.fullmatch(weights) or weights.startswith("."):
        raise WeightsError(
            "is no folder of a model (config.json is missing)",
            where=folder,
            remedy="set llm.weights to a Hugging Face folder or to org/name@revision",
        )
    return _fetch(weights)


def at_hand(weights: str, base: Path) -> Path | None:
    """As :func:`locate`, of what is on this machine already; None otherwise."""
    if (base / Path(weights).expanduser() / "config.json").is_file() or not _HUB.fullmatch(weights):
        return locate(weights, base)
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

    name, _, revision = weights.partition("@")
    found = try_to_load_from_cache(name, "config.json", revision=revision or None)
    return Path(found).parent if isinstance(found, str) else None


def _fetch(weights: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    name, _, revision = weights.partition("@")
    # Safetensors only: a hub's .bin files are pickles.
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(
            f"cannot be fetched: {' '.join(str(error).split())[:300]}",
            where=weights,
            remedy="check the name and the network, or give a folder that holds the model",
        ) from error


def digest(folder: Path) -> str:
    """sha256 over the names and contents of the files that decide what the model says."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".safetensors", ".model", ".txt"}:
            total.update(f"{path.name} {file_digest(path)}\n".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file, which may be too large to be held in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def embedding_table(folder: Path) -> Tensor:
    """The input embeddings (tokens, width) in float32, and nothing else of the model.

    Scaled where the model scales them on reading, as BART's kin may and Gemma does.

    Raises:
        WeightsError: no safetensors, or none of the known names in them.
    """
    index = folder / _INDEX
    if index.is_file():
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    else:
        shards = dict.fromkeys(_TABLES, "model.safetensors")
    for name in _TABLES:
        path = folder / shards.get(name, "")
        if path.is_file():
            table = _tensor(path, name)
            if table is not None:
                return table.to(torch.float32) * _scale(folder, table.shape[1])
    raise WeightsError(
        "holds no input embeddings in safetensors",
        where=folder,
        remedy=f"expected one of {', '.join(_TABLES)} in model.safetensors",
    )


def _scale(folder: Path, width: int) -> float:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    gemma = str(config.get("model_type", "")).startswith("gemma")
    return math.sqrt(width) if gemma or config.get("scale_embedding") else 1.0


def _tensor(path: Path, name: str) -> Tensor | None:
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"cannot be read: {error}", where=path) from error
