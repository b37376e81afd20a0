"""An LLM's folder in every form it is published in, and what is told of a damaged one."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spamo_cache.config import LLMConfig
from spamo_cache.errors import WeightsError
from spamo_cache.model.llm import check_llm, load_llm
from spamo_cache.model.tokens import Tokens
from spamo_cache.model.weights import digest, embedding_table, locate

CONFIG = LLMConfig(weights="llm", tuning={"mode": "freeze"})  # type: ignore[arg-type]


@pytest.fixture
def llm(golden_folder: Path, tmp_path: Path) -> Path:
    """A T5 that may be changed."""
    shutil.copytree(golden_folder / "llm", tmp_path / "llm")
    return tmp_path / "llm"


def pickled(folder: Path, shards: int) -> None:
    """Put ``pytorch_model.bin`` in the place of safetensors, whole or as mT0-XL has it."""
    file = folder / "model.safetensors"
    state = load_file(file)
    file.unlink()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names = sorted(state)
    placed = {
        name: f"pytorch_model-{k % shards + 1:05}-of-{shards:05}.bin"
        for k, name in enumerate(names)
    }
    for part in set(placed.values()):
        torch.save({name: state[name] for name in names if placed[name] == part}, folder / part)
    index = {"metadata": {"total_size": 1}, "weight_map": placed}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pickled_weights_are_the_same_model(
    llm: Path, golden_folder: Path, shards: int, dtype: str
) -> None:
    pickled(llm, shards)
    config = CONFIG.model_copy(update={"dtype": dtype})
    check_llm(llm, config)
    found, wanted = (
        load_llm(folder, config, Tokens(folder), torch.device("cpu")).state_dict()
        for folder in (llm, golden_folder / "llm")
    )
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert torch.equal(embedding_table(llm), embedding_table(golden_folder / "llm"))


def test_the_digest_is_of_pickled_weights_too(llm: Path) -> None:
    pickled(llm, 2)
    before = digest(llm)
    (llm / "README.md").write_text("of no weight")
    assert digest(llm) == before
    file = llm / "pytorch_model-00002-of-00002.bin"
    state = torch.load(file, weights_only=True)
    next(iter(state.values())).add_(1)
    torch.save(state, file)
    assert digest(llm) != before


def test_pickles_beside_safetensors_count_for_nothing(llm: Path) -> None:
    before = digest(llm)
    (llm / "pytorch_model.bin").write_bytes(b"anything")
    check_llm(llm, CONFIG)
    assert digest(llm) == before


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def without(file: Path, name: str) -> None:
    save_file({k: v for k, v in load_file(file).items() if k != name}, file)


def reshaped(file: Path, name: str) -> None:
    save_file(load_file(file) | {name: torch.zeros(3, 3)}, file)


LOST = "encoder.block.1.layer.0.SelfAttention.v.weight"
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut weights": (lambda llm: cut(llm / "model.safetensors"), "cannot be read"),
    "no weights": (lambda llm: (llm / "model.safetensors").unlink(), "holds no weights"),
    "a web page": (lambda llm: (llm / "model.safetensors").write_text("<html>"), "a web page"),
    "a tensor lost": (lambda llm: without(llm / "model.safetensors", LOST), f"first '{LOST}'"),
    "another shape": (lambda llm: reshaped(llm / "model.safetensors", LOST), f"first '{LOST}'"),
    "cut tokenizer": (lambda llm: cut(llm / "tokenizer.json"), "no usable tokenizer"),
    "no tokenizer": (lambda llm: (llm / "tokenizer.json").unlink(), "no usable tokenizer"),
    "other JSON": (lambda llm: (llm / "tokenizer.json").write_text("[]"), "no usable tokenizer"),
    "no object": (lambda llm: (llm / "config.json").write_text("[]"), "no JSON object"),
    "cut config": (lambda llm: cut(llm / "config.json"), "cannot be read"),
    "unknown model": (lambda llm: (llm / "config.json").write_text("{}"), "cannot be used"),
    "an encoder": (
        lambda llm: (llm / "config.json").write_text('{"model_type": "vit"}'),
        "cannot be used",
    ),
    "bad habits": (
        lambda llm: (llm / "generation_config.json").write_text("["),
        "cannot be used",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_one_error(llm: Path, damage: str) -> None:
    spoil, message = DAMAGES[damage]
    spoil(llm)
    with pytest.raises(WeightsError, match=message) as error:
        check_llm(llm, CONFIG)
    assert str(llm) in str(error.value.where)


def test_a_clone_without_lfs_is_told_where_the_model_is_looked_for(llm: Path) -> None:
    (llm / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match="Git LFS pointer"):
        locate("llm", llm.parent)


CODE = """
from pathlib import Path
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

Path({marker!r}).touch()

class Config(PreTrainedConfig):
    model_type = "own"
    is_encoder_decoder = True

class Tokenizer(PreTrainedTokenizerFast):
    pass

def generate(model, *args, **kwargs):
    pass
"""


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json", "custom_generate"])
def test_code_in_the_folder_is_never_run(
    llm: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Nor when whoever sits at the terminal says yes to everything."""
    marker = llm.parent / "it-ran"
    code = CODE.format(marker=str(marker))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    if place == "custom_generate":
        (llm / place).mkdir()
        (llm / place / "generate.py").write_text(code)
        load_llm(llm, CONFIG, Tokens(llm), torch.device("cpu"))
    else:
        (llm / "own.py").write_text(code)
        given = json.loads((llm / place).read_text())
        given |= {"model_type": "own", "tokenizer_class": "OwnTokenizer"}
        given |= {
            "auto_map": {"AutoConfig": "own.Config", "AutoTokenizer": ["own.Tokenizer", None]}
        }
        (llm / place).write_text(json.dumps(given))
        with pytest.raises(WeightsError, match="such code is never run"):
            check_llm(llm, CONFIG)
    assert not marker.exists()


def test_other_files_of_the_folder_change_nothing(llm: Path) -> None:
    """An adapter, or a config that names other weights: only what the digest covers is read."""
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "../other", "target_modules": ["q"]}
    (llm / "adapter_config.json").write_text(json.dumps(adapter))
    given = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps(given | {"transformers_weights": "x.safetensors"}))
    check_llm(llm, CONFIG)
    load_llm(llm, CONFIG, Tokens(llm), torch.device("cpu"))
