"""ROUGE-L against values worked out by hand: LCS, precision P, recall R, F."""

from __future__ import annotations

import unicodedata

import pytest

from spamo_cache.metrics.rouge import rouge
from spamo_cache.metrics.words import bare, unspaced, words


def of(hypothesis, reference):
    return {name: measure.score for name, measure in rouge([hypothesis], [reference]).items()}


def coco(precision, recall):
    return 100 * (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


def test_umlauts_are_letters():
    # Words: in der nacht fällt schnee | nachts fällt in der höhe schnee; common: in der schnee.
    found = of("in der nacht fällt schnee", "nachts fällt in der höhe schnee")
    assert found["rouge_l"] == pytest.approx(100 * 2 * 3 / (5 + 6))
    assert found["rouge_l_coco"] == pytest.approx(coco(3 / 5, 3 / 6))
    # a-z0-9: in der nacht f llt schnee | nacht f llt in der h he schnee: nacht f llt schnee is 4
    # of 6 and of 8, for the stemmer takes the s of nachts.
    assert found["rouge_l_official"] == pytest.approx(100 * 2 * 4 / (6 + 8))


def test_chinese_is_read_by_character():
    # 明天 下雨 | 明天 有 雨: common are 明天雨, 3 of 4 and of 4.
    found = of("明天下雨", "明天有雨")
    assert found["rouge_l"] == pytest.approx(75)
    assert found["rouge_l_coco"] == pytest.approx(75)
    assert found["rouge_l_official"] == 0


def test_punctuation_counts_under_coco_alone():
    # Without the dots 2 of 2; with them "regen." is another word than "regen": 1 of 2.
    found = of("viel regen.", "viel regen")
    assert found["rouge_l"] == found["rouge_l_official"] == 100
    assert found["rouge_l_coco"] == pytest.approx(50)
    # 雨。| 雨: 1 of 2 and of 1.
    found = of("雨。", "雨")
    assert found["rouge_l"] == 100
    assert found["rouge_l_coco"] == pytest.approx(coco(1 / 2, 1))


def test_beta_favours_recall():
    # P = 1, R = 1/2 and the other way round.
    short, long = of("a b", "a b c d"), of("a b c d", "a b")
    assert short["rouge_l"] == long["rouge_l"] == pytest.approx(100 * 2 / 3)
    assert short["rouge_l_coco"] == pytest.approx(coco(1, 0.5))
    assert long["rouge_l_coco"] == pytest.approx(coco(0.5, 1))
    assert long["rouge_l_coco"] > short["rouge_l_coco"]


def test_english_endings_are_taken_off_by_the_official_one_alone():
    found = of("the dogs running", "the dog runs")
    assert found["rouge_l"] == pytest.approx(100 / 3)
    assert found["rouge_l_official"] == pytest.approx(100)


@pytest.mark.parametrize("pair", [("", "schnee"), ("schnee", ""), ("", ""), ("...", "schnee")])
def test_nothing_scores_nothing(pair):
    assert set(of(*pair).values()) == {0}


def test_the_score_is_the_mean_over_clips():
    found = rouge(["regen", "", "viel schnee"], ["regen", "sonne", "viel regen"])
    assert found["rouge_l"].per_clip == [100, 0, 50]
    assert found["rouge_l"].score == 50


def test_words_of_many_scripts():
    assert words("Die Höhe: 1.000 m!") == ["die", "höhe", "1", "000", "m"]
    assert words(unicodedata.normalize("NFD", "Höhe")) == ["höhe"]
    assert words("我用A4纸,3张。") == ["我", "用", "a4", "纸", "3", "张"]
    assert words("हिन्दी में") == ["हिन्दी", "में"]
    assert words("これはペン") == list("これはペン")


def test_a_text_is_unspaced_by_most_of_its_lines():
    assert unspaced(["明天", "OK"]) is False
    assert unspaced(["明天", "下雨", "OK"]) is True
    assert unspaced([]) is False


@pytest.mark.parametrize("text", ["es regnet .", "es regnet.", "es regnet?! ", "es regnet"])
def test_bare_takes_the_end_off(text):
    assert bare(text) == "es regnet"
