"""How a checkpoint was once made to write has no say in how it translates."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from spamo_cache.config import DecodeConfig, LLMConfig
from spamo_cache.model.llm import load_llm
from spamo_cache.model.rows import Padded
from spamo_cache.model.tokens import Tokens

HABITS = {
    "min_length": 10,
    "min_new_tokens": 10,
    "max_length": 3,
    "forced_bos_token_id": 5,
    "forced_eos_token_id": 6,
    "suppress_tokens": list(range(10, 60)),
    "begin_suppress_tokens": list(range(10, 60)),
    "bad_words_ids": [[token] for token in range(10, 60)],
    "sequence_bias": [[[7], 50.0]],
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 5.0,
    "length_penalty": -5.0,
    "exponential_decay_length_penalty": [1, 5.0],
    "early_stopping": True,
    "num_beams": 3,
    "num_return_sequences": 2,
    "do_sample": True,
    "temperature": 9.0,
    "top_k": 3,
    "typical_p": 0.3,
    "min_p": 0.3,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "guidance_scale": 3.0,
    "return_dict_in_generate": True,
    "output_scores": True,
}
IDS = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def written(folder, *, sampled=False):
    """Token ids by the model in ``folder`` of some rows."""
    torch.manual_seed(0)
    tokens = Tokens(folder)
    llm = load_llm(folder, LLMConfig(weights="llm"), tokens, torch.device("cpu")).eval()
    with torch.no_grad():
        # Less sure of itself, so that every habit would show.
        llm.embeddings.weight.mul_(0.1)
    rows = torch.randn(3, 9, llm.embeddings.weight.shape[1], generator=torch.manual_seed(1))
    padded = Padded(rows, torch.tensor([9, 4, 7]))
    torch.manual_seed(2)
    decode = DecodeConfig(beams=2, max_tokens=12)
    return llm.generate(padded, decode, sampled=sampled)


@pytest.fixture(scope="module")
def plain(golden_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "llm"
    shutil.copytree(golden_folder / "llm", folder)
    (folder / "generation_config.json").write_text(json.dumps(IDS))
    return written(folder), written(folder, sampled=True)


@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("habit", [*([name] for name in HABITS if name[0] in "mfs"), [*HABITS]])
def test_no_habit_of_a_checkpoint_is_obeyed(golden_folder, tmp_path, plain, habit, place):
    """Older checkpoints keep them in ``config.json``."""
    folder = tmp_path / "llm"
    shutil.copytree(golden_folder / "llm", folder)
    file = folder / place
    before = json.loads((golden_folder / "llm" / "config.json").read_text())
    if place == "config.json":
        (folder / "generation_config.json").unlink()
    held = IDS if place == "generation_config.json" else before
    file.write_text(json.dumps(held | {name: HABITS[name] for name in habit}))
    assert torch.equal(written(folder), plain[0])
    if len(habit) > 1:
        assert torch.equal(written(folder, sampled=True), plain[1])


def test_special_tokens_are_the_checkpoints_own(golden_folder, tmp_path):
    """A sentence begins and ends where the checkpoint says that sentences do."""
    folder = tmp_path / "llm"
    shutil.copytree(golden_folder / "llm", folder)
    (folder / "generation_config.json").write_text(json.dumps(IDS | {"decoder_start_token_id": 9}))
    assert written(folder)[:, 0].tolist() == [9, 9, 9]
