"""The language models that come with the project: like in all but their architecture."""

import random
from itertools import count, islice
from pathlib import Path

import pytest
import sacrebleu
import torch

from spamo_cache.config import DecodeConfig, LLMConfig, Pipeline, load
from spamo_cache.datasets.signed_weather.grammar import express, home_split, meaning
from spamo_cache.model.llm import load_llm
from spamo_cache.model.prompts import instruction
from spamo_cache.model.rows import Packed, join
from spamo_cache.model.tokens import Tokens

SHIPPED = Path(__file__).parents[2] / "pipelines" / "signed-weather"
FOLDERS = ["llm", "llm-decoder"]


def llm_of(folder):
    tokens = Tokens(SHIPPED / folder)
    return load_llm(
        SHIPPED / folder,
        LLMConfig(weights=folder, tuning={"mode": "freeze"}),
        tokens,
        torch.device("cpu"),
    ).eval()


def reports(split, wanted):
    """Meanings that pretraining never saw."""
    rng = random.Random(f"embedded {split}")
    found = (meaning("weather", rng) for _ in count())
    kept = (express(one, rng) for one in found if home_split("weather", one) == split)
    return list(islice(kept, wanted))


def packed(llm, texts):
    """The texts' embeddings as if they were sign rows: without an end token."""
    ids = [
        torch.tensor([i for i in one if i != llm.tokens.end]) for one in llm.tokens.prompts(texts)
    ]
    return Packed(llm.embeddings(torch.cat(ids)), torch.tensor([len(one) for one in ids]))


def test_they_share_pieces_and_their_numbers() -> None:
    first, second = (Tokens(SHIPPED / folder) for folder in FOLDERS)
    texts = [said.german for said in reports("dev", 20)]
    assert first.encode(texts) == second.encode(texts)
    assert (first.padding, first.end) == (second.padding, second.end)
    assert [first.decoder_only, second.decoder_only] == [False, True]


def test_they_are_of_one_size() -> None:
    sizes = [sum(p.numel() for p in llm_of(folder).parameters()) for folder in FOLDERS]
    assert max(sizes) / min(sizes) < 1.1


@torch.inference_mode()
@pytest.mark.parametrize("folder", FOLDERS)
def test_they_write_german_behind_rows_and_prompt(folder) -> None:
    llm, said = llm_of(folder), reports("test", 40)
    config = load(SHIPPED / "default.yaml", Pipeline)
    prompt = llm.tokens.prompts([instruction(config.llm, "German")])[0]
    asked = Packed(
        llm.embeddings(torch.tensor(prompt * len(said))), torch.full((len(said),), len(prompt))
    )
    rows = join([packed(llm, [one.english for one in said]), asked])
    written = llm.tokens.decode(llm.generate(rows, DecodeConfig(beams=1, max_tokens=40)).tolist())
    score = sacrebleu.corpus_bleu(written, [[one.german for one in said]])
    # Of several wordings one is the reference, by chance: words agree more than their order.
    assert score.precisions[0] > 75
    assert score.bp > 0.8
