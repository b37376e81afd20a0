from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics.bleu import BLEU

from spamo_cache.metrics.intervals import interval, mean_of
from spamo_cache.metrics.scores import bleu4, measures, sentence_bleu, summarize

HYPOTHESES = ["heute regnet es im norden stark", "am tag scheint die sonne", "", "zehn grad heute"]
REFERENCES = ["heute regnet es im norden", "am tag scheint oft die sonne", "schnee", "zehn grad"]
CHINESE = (
    ["明天北方下雨,天气很冷。", "", "他今天很高兴"],
    ["明天北方下雪,天气很冷。", "你好吗?", "他今天不太高兴。"],
)


def scored(hypotheses, references, tokenize="13a", **options):
    return summarize(measures(hypotheses, references, tokenize=tokenize), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("texts", "tokenize"),
    [((HYPOTHESES, REFERENCES), "13a"), (CHINESE, "zh"), (CHINESE, "char"), (CHINESE, "13a")],
    ids=["german", "chinese-zh", "chinese-char", "chinese-13a"],
)
def test_equals_sacrebleus_own_command_line(tmp_path, texts, tokenize):
    """Numbers to ten digits, and signatures, of the same texts in files."""
    for name, lines in zip(("hypotheses", "references"), texts, strict=True):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    words = [sys.executable, "-m", "sacrebleu", str(tmp_path / "references")]
    words += ["-i", str(tmp_path / "hypotheses"), "-m", "bleu", "chrf", "ter", "-w", "10"]
    words += ["--tokenize", tokenize]
    words += ["--ter-normalized", "--ter-asian-support"] if texts is CHINESE else []
    printed = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    found = scored(*texts, tokenize, bootstrap=0)
    for name, document in zip(("bleu4", "chrf", "ter"), printed, strict=True):
        assert found.values[name] == pytest.approx(document["score"], abs=1e-9)
        assert found.signatures[name] == document["signature"]


def test_chinese_is_nothing_under_13a():
    values = {name: scored(*CHINESE, name).values["bleu4"] for name in ("13a", "zh", "char")}
    assert values["13a"] == 0
    assert values["zh"] > 30
    assert values["char"] > 30


def test_ter_counts_the_characters_of_chinese():
    # One character of ten is another: as a word the whole sentence would be.
    found = scored(["明天北方下雨天气很冷"], ["明天北方下雪天气很冷"], "zh")
    assert found.values["ter"] == pytest.approx(10)


def test_lower_orders_are_means_of_the_precisions():
    found = scored(HYPOTHESES, REFERENCES)
    bleu = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES])
    assert found.values["bleu1"] == pytest.approx(bleu.bp * bleu.precisions[0])
    expected = bleu.bp * np.sqrt(bleu.precisions[0] * bleu.precisions[1])
    assert found.values["bleu2"] == pytest.approx(expected)
    assert found.values["bleu1"] > found.values["bleu2"] > found.values["bleu4"]
    assert bleu4(HYPOTHESES, REFERENCES, tokenize="13a") == pytest.approx(bleu.score)


def test_says_how_it_was_scored():
    found = scored(HYPOTHESES, REFERENCES, "char", bootstrap=50)
    assert "tok:char" in found.signatures["bleu4"].split("|")
    assert found.bootstrap == {"resamples": 50, "seed": 12345}
    assert found.signatures.keys() == found.values.keys() == found.intervals.keys()


def test_each_clip_has_a_score_of_its_own():
    found = measures(HYPOTHESES, REFERENCES, tokenize="13a")
    single = [
        (
            BLEU(effective_order=True).sentence_score(one, [other]).score,
            sacrebleu.sentence_chrf(one, [other]).score,
        )
        for one, other in zip(HYPOTHESES, REFERENCES, strict=True)
    ]
    assert sentence_bleu(found["bleu4"]) == pytest.approx([bleu for bleu, _ in single])
    assert found["chrf"].per_clip == pytest.approx([chrf for _, chrf in single])


def test_interval_survives_resamples_that_score_nothing():
    low, high = interval(measures(HYPOTHESES, REFERENCES, tokenize="13a")["bleu4"], 200)
    assert low == 0 < high


def test_intervals_hold_the_score_and_repeat():
    found = scored(HYPOTHESES * 10, REFERENCES * 10)
    for name, (low, high) in found.intervals.items():
        assert 0 <= low < found.values[name] < high <= 100
    assert found == scored(HYPOTHESES * 10, REFERENCES * 10)


def test_interval_of_a_mean_is_as_wide_as_its_standard_error():
    values = np.random.default_rng(0).normal(50, 10, size=400)
    low, high = interval(mean_of(values.tolist(), ""), 2000)
    assert high - low == pytest.approx(2 * 1.96 * 10 / 20, rel=0.1)


def test_one_clip_has_no_interval():
    assert scored(["a b c d"], ["a b c d"]).intervals == {}


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="4 hypotheses for 3"):
        measures(HYPOTHESES, REFERENCES[:3], tokenize="13a")


def test_a_final_dot_that_stands_apart_is_no_reason_to_complain(caplog):
    lines = ["es regnet im norden ."] * 120
    assert bleu4(lines, lines, tokenize="13a") == pytest.approx(100)
    assert scored(lines, lines, bootstrap=0).values["bleu1"] == pytest.approx(100)
    assert caplog.text == ""
