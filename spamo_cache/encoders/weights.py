"""Weights that a stream of a cache spec names: found, read, loaded, hashed and pinned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from spamo_cache import checkpoints, config, io
from spamo_cache.compat import quiet
from spamo_cache.errors import WeightsError, shortage

_SUFFIXES = (".safetensors", *checkpoints.PICKLES)
_BIASES = ("attention.q_bias", "attention.v_bias", "query.bias", "value.bias")
"""How the biases end that some transformers releases drop from a VideoMAE."""


def local(weights: str, base: Path) -> Path | None:
    """The file or folder ``weights`` names beside the spec in ``base``, None if it names none.

    Raises:
        WeightsError: it is plainly meant as a path and nothing is there.
    """
    path = base / config.expanded(weights)
    if path.exists():
        return path
    if weights.startswith((".", "/", "~")) or weights.endswith(("/", *_SUFFIXES)):
        raise WeightsError("no such weights", where=path, remedy="check `weights` in the spec")
    return None


def locate(weights: str, base: Path, *, configs_only: bool = False) -> Path:
    """The file or folder that ``weights`` names: beside the spec, or fetched from the hub.

    Args:
        configs_only: fetch the configurations without the weights.

    Raises:
        WeightsError: neither is there.
    """
    return local(weights, base) or checkpoints.from_hub(weights, configs_only=configs_only)


def folder_of(path: Path) -> Path:
    """Where the configuration of these weights lies, checked; beside them if they are one file.

    Raises:
        WeightsError: a file in it is a Git LFS pointer or a web page.
    """
    folder = path if path.is_dir() else path.parent
    checkpoints.check(folder)
    return folder


def tensors(path: Path, key_map: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Tensors of a file or folder as float32, under the names that the network has for them.

    Args:
        key_map: how names begin in the file -> how they begin in the network. The longest
            beginning counts, tensors that have none of them are left out. Empty keeps all.

    Raises:
        WeightsError: missing or damaged weights, or a ``key_map`` that does not fit them.
    """
    stored = checkpoints.tensors(path)
    named = _renamed(stored, key_map, path) if key_map else stored
    return {name: tensor.float() for name, tensor in named.items()}


def load_network(path: Path, key_map: Mapping[str, str], *, unused: tuple[str, ...] = ()) -> Any:
    """The vision network of a Hugging Face folder, float32, on the CPU; runs no code of the folder.

    Args:
        path: a folder with config.json and weights, or a file of weights beside its config.json.
        key_map: as in :func:`tensors`.
        unused: parts of the network that the output does not need, and a checkpoint may lack:
            leave them out of the hash, too.

    Raises:
        WeightsError: unreadable or unknown weights; tensors missing, left over or dropped.
    """
    config = checkpoints.architecture(folder_of(path))
    from transformers import AutoModel

    stored = tensors(path, key_map)
    # Copies: the network may stand in the memory of what it is given.
    biases = {name: tensor.clone() for name, tensor in stored.items() if name.endswith(_BIASES)}
    with checkpoints.explained(path), quiet():
        with torch.device("meta"):
            given = getattr(config, "vision_config", config)
            outline = AutoModel.from_config(given, trust_remote_code=False)
        try:
            model, report = type(outline).from_pretrained(
                None,
                config=outline.config,
                state_dict=stored,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except RuntimeError as error:
            if shortage(error) is not None:
                raise
            raise WeightsError(
                "its tensors have other shapes than its config", where=path
            ) from None
    _check_names(model, report, unused, path)
    if model.config.model_type == "videomae":
        bare = {name.removeprefix("videomae."): tensor for name, tensor in biases.items()}
        _check_biases(model.encoder.layer, bare)
    return model.eval().requires_grad_(requires_grad=False)


def sha256(state: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> str:
    """Hash of what is computed with: names, dtypes, shapes and bytes, in order of name.

    ``header`` says what tensors cannot: heads, activation, normalisation. Paths and file formats
    leave no trace, so that equal weights have equal hashes anywhere.
    """
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


_PINS_REMEDY = "remove it; the hashes of fetched weights are then recorded again"


def pins() -> dict[str, str]:
    """Name of fetched weights -> their hash, as it was recorded on first use."""
    path = _pins_file()
    found: dict[str, str] = io.read_json(path, _PINS_REMEDY) if path.exists() else {}
    return found


def _pins_file() -> Path:
    return config.home() / "weights.json"


def pin(name: str, digest: str) -> None:
    """Record the hash of fetched weights on first use; refuse any other ever after.

    Raises:
        WeightsError: ``name`` was recorded with another hash.
    """
    path, recorded = _pins_file(), pins()
    known = recorded.get(name)
    if known is None:
        text = io.to_json(recorded | {name: digest}, indent=1) + "\n"
        io.write_atomic(path, text.encode())
    elif known != digest:
        raise WeightsError(
            f"{name} has changed: {digest[:12]} now, {known[:12]} on first use",
            where=path,
            remedy="pin a revision; if you want the new weights, remove that file",
        )


def _renamed(
    stored: Mapping[str, torch.Tensor], key_map: Mapping[str, str], path: Path
) -> dict[str, torch.Tensor]:
    renamed: dict[str, torch.Tensor] = {}
    longest_first = sorted(key_map, key=len, reverse=True)
    for name, tensor in stored.items():
        old = next((start for start in longest_first if name.startswith(start)), None)
        if old is None:
            continue
        new = key_map[old] + name.removeprefix(old)
        if new in renamed:
            raise WeightsError(f"key_map gives two tensors the name {new!r}", where=path)
        renamed[new] = tensor
    if not renamed:
        raise WeightsError(
            "no tensor has a name that key_map knows",
            where=path,
            remedy=f"names are like {min(stored, default='(none)')!r}",
        )
    return renamed


def _check_biases(layers: Iterable[Any], stored: Mapping[str, torch.Tensor]) -> None:
    """Compare the query and value biases a VideoMAE has with those of its checkpoint.

    Some transformers releases load zeros here without a word (5.9 to 5.17 do), which moves the
    features to a cosine of 0.97.

    Raises:
        WeightsError: a bias differs.
    """
    for index, layer in enumerate(layers):
        attention = layer.attention.attention
        for old, part in (("q_bias", "query"), ("v_bias", "value")):
            prefix = f"encoder.layer.{index}.attention.attention"
            wanted = stored.get(f"{prefix}.{old}", stored.get(f"{prefix}.{part}.bias"))
            loaded = getattr(attention, part).bias
            if wanted is not None and (loaded is None or not torch.equal(loaded.detach(), wanted)):
                raise WeightsError(
                    f"transformers dropped the {part} bias of layer {index}",
                    remedy="install transformers >= 5.18",
                )


def _check_names(
    model: Any, report: Mapping[str, Any], unused: tuple[str, ...], where: Path
) -> None:
    """Every tensor of the network is in the file; what else is there belongs to other parts."""
    missing = [name for name in report["missing_keys"] if name.partition(".")[0] not in unused]
    if missing:
        raise WeightsError(f"{len(missing)} tensors are missing: {missing[0]}, ...", where=where)
    # Heads, decoders and text towers stand beside the network's own parts, never within them.
    own = {name for name, _ in model.named_children()} - set(unused)
    bare = [name.removeprefix(f"{model.base_model_prefix}.") for name in report["unexpected_keys"]]
    left = [name for name in bare if name.partition(".")[0] in own]
    if left:
        raise WeightsError(f"{len(left)} tensors fit nowhere: {left[0]}, ...", where=where)
