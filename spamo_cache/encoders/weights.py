"""Where weights come from, what they contain, and proof that they are what they were.

Only safetensors files are read: loading weights never executes anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from spamo_cache import config
from spamo_cache.errors import WeightsError
from spamo_cache.store import files, sealed

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_HUB_FILES = ("*.json", "*.safetensors", "*.safetensors.index.json")


def local(weights: str, base: Path) -> Path | None:
    """The file or folder ``weights`` names beside the spec in ``base``, None if it names none.

    Raises:
        WeightsError: it is plainly meant as a path and nothing is there.
    """
    path = base / Path(weights).expanduser()
    if path.exists():
        return path
    if weights.startswith((".", "/", "~")) or weights.endswith(("/", ".safetensors", *_PICKLES)):
        raise WeightsError("no such weights", where=path, remedy="check `weights` in the spec")
    return None


def from_hub(weights: str) -> Path:
    """Folder of a hub repository ``org/name[@revision]``, fetched or from the hub's cache.

    Raises:
        WeightsError: not of that form, or neither cached nor reachable.
    """
    match = _HUB_ID.fullmatch(weights)
    if match is None:
        raise WeightsError(
            f"{weights!r} is neither a path beside the spec nor `org/name[@revision]`",
            remedy="give a folder with config.json and model.safetensors, or a hub id",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                match["name"], revision=match["revision"], allow_patterns=list(_HUB_FILES)
            )
        )
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"the hub does not give {weights!r} ({type(error).__name__}: {_first_line(error)})",
            remedy="download the repository where there is a network and give its folder as "
            "`weights`",
        ) from None


def tensors(path: Path, pattern: str = "") -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, or of those in a folder, as float32.

    Args:
        path: the file or folder.
        pattern: regular expression somewhere in the names wanted.

    Raises:
        WeightsError: no safetensors there, pickles in their place, or a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    shards = [_checked(path)] if path.is_file() else sorted(_files(path))
    loaded: dict[str, torch.Tensor] = {}
    for file in shards:
        try:
            with safe_open(file, framework="pt") as opened:
                names = [name for name in opened.keys() if re.search(pattern, name)]  # noqa: SIM118
                loaded |= {name: opened.get_tensor(name).float() for name in names}
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"cannot be read: {_first_line(error)}", where=file) from None
    return loaded


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a weights folder."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot be read: {_first_line(error)}", where=path) from None
    if not isinstance(document, dict):
        raise WeightsError("holds no JSON object", where=path)
    return document


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


def pin(name: str, found: str) -> None:
    """Record the hash of fetched weights on first use; refuse any other ever after.

    Raises:
        WeightsError: ``name`` was recorded with another hash.
    """
    path = config.home() / "weights.json"
    remedy = "remove it: the hashes of what is fetched are then noted anew"
    pins = sealed.read(path, remedy) if path.exists() else {}
    known = pins.get(name)
    if known is None:
        text = sealed.dumps(pins | {name: found}, indent=1) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, text.encode(), path.parent)
    elif known != found:
        raise WeightsError(
            f"{name} is not what it was: {found[:12]} now, {known[:12]} on first use",
            where=path,
            remedy="pin a revision; if the change is meant, remove that file, which notes anew",
        )


def _files(folder: Path) -> Iterable[Path]:
    # Of two forms of the same weights, the one with open_clip's names needs no conversion.
    for stem in ("open_clip_model", "model"):
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            return _shards(index)
        if (folder / f"{stem}.safetensors").is_file():
            return [folder / f"{stem}.safetensors"]
    for pickled in sorted(path for path in folder.iterdir() if path.suffix in _PICKLES):
        _checked(pickled)
    raise WeightsError(
        "holds no model.safetensors", where=folder, remedy="convert the weights to safetensors"
    )


def _shards(index: Path) -> set[Path]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise WeightsError("lists no files", where=index)
    return {index.parent / Path(name).name for name in listed.values()}


def _checked(file: Path) -> Path:
    if file.suffix in _PICKLES:
        raise WeightsError(
            "is a pickle, and reading one can run any code",
            where=file,
            remedy="use the safetensors file published beside it, or convert it where you trust "
            "it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
            '"model.safetensors")',
        )
    return file


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0]
