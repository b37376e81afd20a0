"""Files of weights: equal tensors from every form, and one clear error for what is none."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spamo_cache import checkpoints
from spamo_cache.errors import WeightsError

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(4, dtype=torch.float16)}
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:8a8a0d8ba9e0d9b9d8f0fd6bbd5ee0fb4a0a2d0bca4c1b4b6dd7e2f4c4d6a8a1\nsize 4\n"
)
PAGE = "\n<!DOCTYPE html>\n<html><body>Access to this model is restricted.</body></html>\n"


class Runs:
    """Pickles into a command."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> Any:
        return os.system, (self._command,)


def sharded(folder: Path, suffix: str, save: Callable[[Any, Path], None]) -> Path:
    """Two files and their index, as transformers writes them; the index."""
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    placed = {name: f"{stem}-{k + 1:05}-of-00002.{suffix}" for k, name in enumerate(STATE)}
    for name, file in placed.items():
        save({name: STATE[name]}, folder / file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": placed}))
    return index


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(
        found[name].dtype == STATE[name].dtype and torch.equal(found[name], STATE[name])
        for name in STATE
    )


@pytest.mark.parametrize("form", ["safetensors", "bin", "old bin", "shards", "bin shards"])
def test_every_form_gives_the_same_tensors(tmp_path: Path, form: str) -> None:
    if form == "safetensors":
        save_file(STATE, tmp_path / "model.safetensors")
    elif form == "bin":
        torch.save(STATE, tmp_path / "pytorch_model.bin")
    elif form == "old bin":
        file = tmp_path / "pytorch_model.bin"
        torch.save(STATE, file, _use_new_zipfile_serialization=False)
    elif form == "shards":
        sharded(tmp_path, "safetensors", save_file)
    else:
        sharded(tmp_path, "bin", torch.save)
    assert same(checkpoints.tensors(tmp_path))


def test_safetensors_win_over_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sharded(tmp_path, "safetensors", save_file)
    sharded(tmp_path, "bin", torch.save)
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    assert same(checkpoints.tensors(tmp_path))


def test_tensors_of_a_training_checkpoint_have_names_with_dots(tmp_path: Path) -> None:
    whole = {"model": STATE, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "epoch": 3}
    torch.save(whole, tmp_path / "checkpoint.pth")
    found = checkpoints.tensors(tmp_path / "checkpoint.pth")
    assert set(found) == {"model.a.weight", "model.b.bias", "optimizer.state.0.step"}


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (np.float64(1.5), "numpy._core.multiarray.scalar"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ("command", "posix.system"),
    ],
    ids=["arguments", "a NumPy number", "a module", "a command"],
)
@pytest.mark.parametrize("kind", ["archive", "old", "plain pickle"])
def test_a_pickle_of_more_than_tensors_is_refused_by_name(
    tmp_path: Path, more: Any, name: str, kind: str
) -> None:
    marker, file = tmp_path / "it-ran", tmp_path / "pytorch_model.bin"
    given = {"model": STATE, "more": Runs(f"touch {marker}") if more == "command" else more}
    if kind == "plain pickle":
        file.write_bytes(pickle.dumps(given["more"], protocol=2))
    else:
        torch.save(given, file, _use_new_zipfile_serialization=kind == "archive")
    with pytest.raises(WeightsError, match=name if kind != "plain pickle" else "pytorch_model"):
        checkpoints.tensors(tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("pointer", "is a Git LFS pointer"),
        ("page", "is a web page"),
        ("empty", "is empty"),
        ("cut", "cannot be read"),
        ("text", "cannot be read"),
        ("gone", "holds no weights"),
    ],
)
def test_what_stands_in_place_of_weights_is_told(
    tmp_path: Path, name: str, damage: str, message: str
) -> None:
    file = tmp_path / name
    (save_file if name.endswith("tensors") else torch.save)(STATE, file)
    whole = file.read_bytes()
    contents = {"pointer": POINTER.encode(), "page": PAGE.encode(), "empty": b"", "text": b"404"}
    file.write_bytes(contents.get(damage, whole[: len(whole) // 2]))
    if damage == "gone":
        file.unlink()
    with pytest.raises(WeightsError, match=message) as error:
        checkpoints.tensors(tmp_path)
    assert error.value.remedy


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("way", ["up", "absolute", "below", "link"])
def test_an_index_names_files_of_its_folder_alone(tmp_path: Path, suffix: str, way: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    index = sharded(folder, suffix, torch.save if suffix == "bin" else save_file)
    document = json.loads(index.read_text())
    first = document["weight_map"]["a.weight"]
    (folder / first).rename(tmp_path / first)
    if way == "link":
        (folder / first).symlink_to(tmp_path / first)
    else:
        names = {
            "up": f"../{first}",
            "absolute": str(tmp_path / first),
            "below": f"a/../../{first}",
        }
        document["weight_map"]["a.weight"] = names[way]
        index.write_text(json.dumps(document))
    with pytest.raises(WeightsError, match="names a file outside its folder"):
        checkpoints.tensors(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "lists no files"),
        ("[]", "holds no JSON object"),
        ('{"weight_map": {}}', "lists no files"),
        ('{"weight_map": 3}', "lists no files"),
        ("{", "cannot be read"),
    ],
)
def test_an_index_without_files_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "pytorch_model.bin.index.json").write_text(text)
    with pytest.raises(WeightsError, match=words):
        checkpoints.tensors(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    sharded(tmp_path, "bin", torch.save)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(WeightsError, match=r"00002-of-00002\.bin' is missing"):
        checkpoints.tensors(tmp_path)


def test_a_pickle_that_contains_itself_is_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    torch.save(endless, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        checkpoints.tensors(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model", "config.json"])
def test_a_clone_without_lfs_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(WeightsError, match="Git LFS pointer") as error:
        checkpoints.check(tmp_path)
    assert "git lfs pull" in str(error.value)
