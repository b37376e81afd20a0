from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics.bleu import BLEU

from spamo_cache.evaluate.metrics import bleu4, interval, score

HYPOTHESES = ["heute regnet es im norden stark", "am tag scheint die sonne", "", "zehn grad heute"]
REFERENCES = ["heute regnet es im norden", "am tag scheint oft die sonne", "schnee", "zehn grad"]


def test_equals_sacrebleu():
    found = score(HYPOTHESES, REFERENCES, tokenize="13a")
    bleu = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES])
    assert found.values["bleu4"] == pytest.approx(bleu.score)
    assert found.values["chrf"] == pytest.approx(
        sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    )
    assert bleu4(HYPOTHESES, REFERENCES, tokenize="13a") == pytest.approx(bleu.score)
    assert found.values["bleu1"] > found.values["bleu2"] > found.values["bleu4"]


def test_says_how_it_was_scored():
    found = score(HYPOTHESES, REFERENCES, tokenize="char", bootstrap=50)
    assert "tok:char" in found.signatures["bleu4"].split("|")
    assert found.bootstrap == {"resamples": 50, "seed": 12345}


def test_the_whole_set_scores_as_its_statistics_do():
    metric = BLEU()
    statistics = np.sum(metric._extract_corpus_statistics(HYPOTHESES, [REFERENCES]), axis=0)
    assert metric._compute_score_from_stats(statistics.tolist()).score == pytest.approx(
        metric.corpus_score(HYPOTHESES, [REFERENCES]).score
    )


def test_interval_survives_resamples_that_score_nothing():
    low, high = interval(BLEU(), HYPOTHESES, REFERENCES, resamples=200)
    assert low == 0 < high


def test_intervals_hold_the_score_and_repeat():
    found = score(HYPOTHESES * 10, REFERENCES * 10, tokenize="13a")
    for name, (low, high) in found.intervals.items():
        assert 0 <= low < found.values[name] < high <= 100
    assert found == score(HYPOTHESES * 10, REFERENCES * 10, tokenize="13a")


def test_one_clip_has_no_interval():
    assert score(["a b c d"], ["a b c d"], tokenize="13a").intervals == {}


def test_chinese_needs_its_own_tokenizer():
    hypotheses, references = ["明天北方下雨天气很冷"], ["明天北方下雪天气很冷"]
    assert bleu4(hypotheses, references, tokenize="13a") == 0
    assert bleu4(hypotheses, references, tokenize="zh") > 30


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="4 hypotheses for 3"):
        score(HYPOTHESES, REFERENCES[:3], tokenize="13a")
