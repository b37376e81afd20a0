"""Weights in files: which of a folder are read, whether they are sound, and their tensors.

A safetensors file holds tensors and nothing else. A ``.bin`` or ``.pth`` file is a pickle, which is
a small program: it goes through torch's restricted loader, which builds tensors and plain
containers and refuses every other name. Tensors stay in their file until they are used.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from safetensors import safe_open
from torch import Tensor

from spamo_cache.compat import declare_torchvision_ops, quiet
from spamo_cache.errors import SpamoError, WeightsError, shortage

# Of two forms of the same weights, safetensors need no pickle, and open_clip's names no conversion.
_NAMES = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt")

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_TEXTS = (".json", ".model", ".txt")
"""Endings of configurations and tokenizers."""
_HUB_FILES = [*(f"*{suffix}" for suffix in _TEXTS), "*.safetensors"]
_HUB_PICKLES = ["pytorch_model*.bin", "open_clip_pytorch_model*.bin"]


# --- where --------------------------------------------------------------------------------------


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form ``org/name[@revision]``; ``./folder`` is a folder."""
    return _HUB_ID.fullmatch(name) is not None and not name.startswith(".")


def from_hub(name: str, *, configs_only: bool = False) -> Path:
    """Folder of the repository ``org/name[@revision]``, fetched or from the hub's cache.

    Pickled weights are fetched only where the repository has no others.

    Args:
        configs_only: fetch the configurations, a few kilobytes, and no weights.

    Raises:
        WeightsError: not of that form, or neither cached nor reachable.
    """
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise WeightsError(
            f"{name!r} is neither a path nor `org/name[@revision]`",
            remedy="give a folder with config.json and model.safetensors, or a hub id",
        )
    try:
        for patterns in (["*.json"],) if configs_only else (_HUB_FILES, _HUB_PICKLES):
            folder = Path(
                snapshot_download(
                    match["name"], revision=match["revision"], allow_patterns=patterns
                )
            )
            if any(folder.glob("*.safetensors")):
                break
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"the hub does not give {name!r} ({type(error).__name__}: {_in_a_line(error)})",
            remedy="download the repository where there is a network and give its folder as "
            "`weights`",
        ) from error
    return folder


def cached(name: str) -> Path | None:
    """Folder of the repository ``org/name[@revision]`` in the hub's cache; None if not there."""
    repository, _, revision = name.partition("@")
    found = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    return Path(found).parent if isinstance(found, str) else None


def check(folder: Path) -> None:
    """Look at the configuration and tokenizer files of ``folder``.

    Raises:
        WeightsError: one is a Git LFS pointer or a web page.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix in _TEXTS and path.is_file():
            _check(path)


def files(folder: Path) -> list[Path]:
    """The files that hold the weights of a folder: one, or the shards of one.

    Raises:
        WeightsError: there are none, one is missing, or an index names files elsewhere.
    """
    for name in _NAMES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    raise WeightsError(
        "holds no weights that can be read",
        where=folder,
        remedy="model.safetensors or pytorch_model.bin, or the shards of one with their index, "
        "must stand beside config.json",
    )


def _shards(index: Path) -> list[Path]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise WeightsError("lists no files", where=index)
    found = []
    for name in sorted(set(map(str, listed.values()))):
        path = index.parent / name
        if Path(name).name != name or not _stays(path):
            raise WeightsError(
                f"names a file outside its folder: {name!r}",
                where=index,
                remedy="take the files as they were published",
            )
        if not path.is_file():
            raise WeightsError(
                f"{name!r} is missing", where=index.parent, remedy="download the folder again"
            )
        found.append(path)
    return found


def _stays(path: Path) -> bool:
    """Whether a file lies in its folder, or where the hub's cache keeps what it links to."""
    folder, real = path.parent.resolve(), path.resolve()
    cached = folder.parent.name == "snapshots" and real.parent == folder.parents[1] / "blobs"
    return real.parent == folder or cached


# --- what ---------------------------------------------------------------------------------------


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, or of all files of a folder, in their own types.

    What a training checkpoint nests gets names with dots: ``{"model": {"a": ...}}`` is ``model.a``;
    what is no tensor is left out.

    Raises:
        WeightsError: missing or damaged files, or a pickle that holds more than plain data.
    """
    found: dict[str, Tensor] = {}
    for file in [path] if path.is_file() else files(path):
        _check(file)
        if not file.stat().st_size:
            raise WeightsError("is empty", where=file, remedy="download it again")
        try:
            found |= _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
        except MemoryError:
            raise
        except Exception as error:
            raise _unreadable(file, error) from error
    return found


def _safetensors(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def _pickled(file: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of protocols and storages of older releases
        # Files from before torch 1.6 are no archives, and cannot be mapped.
        mapped = zipfile.is_zipfile(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    return dict(_flat(content))


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Mapping):
        for name, value in content.items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
            else:
                yield from _flat(value, f"{prefix}{name}.")


def _unreadable(file: Path, error: Exception) -> WeightsError:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and refused:
        return WeightsError(
            f"is a pickle that asks for {refused[1]}; only tensors are taken from one",
            where=file,
            remedy="where you trust it, keep its tensors alone: "
            'torch.save(torch.load(FILE, weights_only=False)["model"], NEW)',
        )
    # torch's own advice on a damaged pickle is to load it unsafely.
    own = isinstance(error, pickle.UnpicklingError)
    what = "no pickle of tensors" if own else f"{type(error).__name__}: {_in_a_line(error)}"
    return WeightsError(
        f"cannot be read ({what})",
        where=file,
        remedy="download it again, and compare its size with what was published",
    )


def _check(file: Path) -> None:
    """Tell apart what is commonly found in place of a file."""
    try:
        with file.open("rb") as opened:
            head = opened.read(256).lstrip().lower()
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", where=file) from error
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(
            "is a Git LFS pointer, not the file itself",
            where=file,
            remedy="run `git lfs pull` in that folder, or download the repository again",
        )
    if head.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise WeightsError(
            "is a web page in place of the file",
            where=file,
            remedy="download it again; where it needs a login, `hf auth login` first",
        )


# --- configurations -----------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a folder of weights.

    Raises:
        WeightsError: missing, or not such a file.
    """
    _check(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"cannot be read: {_in_a_line(error)}", where=path) from error
    if not isinstance(document, dict):
        raise WeightsError("holds no JSON object", where=path)
    return document


def architecture(folder: Path) -> Any:
    """The configuration of a folder as its class in transformers reads it, defaults included.

    Raises:
        WeightsError: no such file, or one of a network that transformers does not know.
    """
    declare_torchvision_ops()
    from transformers import AutoConfig  # noqa: PLC0415

    read_json(folder / "config.json")
    with explained(folder), quiet():
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def explained(
    where: object,
    what: str = "cannot be used",
    remedy: str = "take the files as they were published",
) -> Iterator[None]:
    """Turn whatever the libraries raise over a folder that is not what it should be into one error.

    Raises:
        WeightsError: in place of what was raised.
    """
    try:
        yield
    except (SpamoError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if shortage(error) is not None:
            raise
        if "trust_remote_code" in str(error):
            raise WeightsError(
                "needs Python code that comes with it, and such code is never run",
                where=where,
                remedy="take weights of a network that transformers itself has",
            ) from error
        raise WeightsError(
            f"{what} ({type(error).__name__}: {_in_a_line(error)})", where=where, remedy=remedy
        ) from error


def _in_a_line(error: object) -> str:
    text = " ".join(str(error).split())[:300]
    return "".join(letter if letter.isprintable() else " " for letter in text)
