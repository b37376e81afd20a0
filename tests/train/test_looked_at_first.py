"""What a corpus and an LLM do not have for each other is known before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spamo_cache.config import LLMConfig
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import ConfigError
from spamo_cache.model.llm import check_targets
from spamo_cache.model.tokens import Tokens, coverage, cut_words, unknown_words
from spamo_cache.train import run as training


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        (["q_proj"], "'q_proj'"),
        (["q", "v_proj"], "'v_proj'"),
        (["layer_norm"], "'layer_norm'"),
        (["shared"], "'shared'"),
    ],
)
def test_a_layer_that_the_llm_lacks_is_refused_with_those_that_it_has(
    toy, tmp_path, monkeypatch, targets, named
):
    monkeypatch.setattr(training, "Trainer", lambda *_, **__: pytest.fail("begun"))
    llm = {"weights": "llm", "prompt": "{language}", "tuning": {"r": 4, "targets": targets}}
    with pytest.raises(ConfigError, match=named) as raised:
        toy.run(tmp_path / "run", toy.pipeline(llm=llm))
    assert "choose among k, lm_head, o, q, v, wi_0, wi_1, wo" in str(raised.value)
    # The folder is free for the run with the right name.
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("targets", [(), ("q", "v"), ("SelfAttention.q",), ("wo",)])
def test_layers_that_it_has_are_taken(toy, targets):
    tuning = {"targets": targets}
    check_targets(toy.GOLDEN / "llm", LLMConfig.model_validate({"weights": "x", "tuning": tuning}))


def chinese(toy):
    clips = [replace(clip, text=f"明天北方 {clip.text}") for clip in toy.corpus()[0].clips()]
    return Manifest.from_clips("toy", clips)


def test_training_tells_what_the_tokenizer_does_not_know(toy, tmp_path, monkeypatch):
    told = []

    class StoppedError(Exception):
        pass

    def stop(*_, **__):
        raise StoppedError

    monkeypatch.setattr(training.Trainer, "start", stop)
    config = toy.pipeline(decode={"max_tokens": 6})
    with pytest.raises(StoppedError):
        toy.run(tmp_path / "run", config, manifest=chinese(toy), notice=told.append)
    unknown, cut = told
    assert "target tokens of train are unknown" in unknown
    assert "in 16 of 16 sentences" in unknown
    assert "16 of 16 sentences of train have more than decode.max_tokens = 6" in cut


def test_counts_are_those_of_the_tokenizer(toy):
    tokens = Tokens(toy.GOLDEN / "llm")
    known = ["heute regen", "schnee"]
    found = coverage(tokens, known, 40)
    assert (found.unknown, found.lossy, found.long) == (0, 0, 0)
    assert found.tokens == sum(len(line) - 1 for line in tokens.encode(known))
    assert unknown_words(found, "train") is None
    assert cut_words(found, "train") is None
    found = coverage(tokens, [*known, "明天北方下雨"], 2)
    assert found.lossy == 1
    assert found.unknown >= 1
    lengths = [len(line) for line in tokens.encode([*known, "明天北方下雨"])]
    assert found.long == sum(length > 2 for length in lengths)
    assert found.longest == max(lengths)


def test_letters_that_vanish_without_a_token_are_counted(toy):
    """Some tokenizers have no token for what they do not know: it is just not there."""

    class Dropping(Tokens):
        @property
        def unknown(self):
            return None

    found = coverage(Dropping(toy.GOLDEN / "llm"), ["heute regen", "明天 regen"], 40)
    assert (found.unknown, found.lossy) == (0, 1)
    assert unknown_words(found, "dev") == (
        "1 of 2 sentences of dev lose letters in the LLM's tokenizer"
    )
