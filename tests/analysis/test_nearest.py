from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spamo_cache.analysis import tokens
from spamo_cache.analysis.tokens import Vocabulary
from spamo_cache.config import Pipeline
from spamo_cache.model.rows import Padded
from spamo_cache.model.translator import Translator
from tests.support import decoders

SIGNED = Path(__file__).parents[2] / "pipelines" / "signed-weather"


def translator(llm: Path) -> Translator:
    plain: dict[str, Any] = {"name": "n", "question": "q", "corpus": "c", "spec": "s"}
    plain |= {stage: {"steps": 1, "batch": 1, "lr": 1} for stage in ("align", "translate")}
    pipeline = Pipeline.model_validate(
        plain
        | {"streams": ["spatial"], "text": {"language": "German"}, "adapter": {"width": 8}}
        | {"llm": {"weights": str(llm), "prompt": "{language}"}}
    )
    return Translator(pipeline, {"spatial": 4}, llm).eval()


@pytest.fixture(params=["T5", "Llama", "Gemma"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Translator:
    known = request.param == "T5"
    return translator(SIGNED / "llm" if known else decoders.make(tmp_path / "l", request.param))


def test_a_token_is_nearest_to_itself_whatever_its_length(
    model: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Chunks that the vocabulary is no multiple of.
    monkeypatch.setattr(tokens, "_BLOCK", 37)
    vocabulary = Vocabulary(model)
    words = [number for number, text in enumerate(vocabulary.written) if text.isalpha()]
    ids = torch.tensor(words)
    rows = model.embeddings(ids).float() - vocabulary.center
    chosen, cosine = vocabulary.nearest(0.3 * rows)
    assert chosen.tolist() == words
    assert torch.allclose(cosine, torch.ones(len(words)), atol=1e-5)
    # A hint of another direction changes nothing yet; a reversed row is another word.
    assert vocabulary.nearest(rows + 0.01 * rows.roll(1, 0))[0].tolist() == words
    assert (vocabulary.nearest(-rows)[0] != ids).all()


def test_the_centre_is_that_of_vt_align_or_of_the_table(model: Translator) -> None:
    usable = [n for n, text in enumerate(Vocabulary(model).written) if any(map(str.isalnum, text))]
    table = model.embeddings(torch.tensor(usable)).float().mean(0)
    assert torch.allclose(Vocabulary(model).center, table, atol=1e-5)
    model.align.center.fill_(0.25)
    assert Vocabulary(model).center.tolist() == model.align.center.tolist()


def test_special_tokens_and_punctuation_are_never_seen(model: Translator) -> None:
    vocabulary = Vocabulary(model)
    banned = [n for n, text in enumerate(vocabulary.written) if not any(map(str.isalnum, text))]
    end = model.tokens.end
    assert end in banned
    assert vocabulary.size == len(vocabulary.written) - len(banned)
    chosen, _ = vocabulary.nearest(
        model.embeddings(torch.tensor(banned)).float() - vocabulary.center
    )
    assert not set(chosen.tolist()) & set(banned)


def test_rows_are_read_by_clip_and_padding_is_not(model: Translator) -> None:
    vocabulary = Vocabulary(model)
    ids = [n for n, text in enumerate(vocabulary.written) if text.isalpha()][:3]
    rows = model.embeddings(torch.tensor(ids)).float() - vocabulary.center
    padded = Padded(torch.stack([rows, rows.flip(0)]), torch.tensor([3, 1]))
    first, second = vocabulary.read(padded)
    assert first.written == [vocabulary.written[n] for n in ids]
    assert second.written == [vocabulary.written[ids[2]]]
    assert first.cosines == pytest.approx([1, 1, 1], abs=1e-5)
