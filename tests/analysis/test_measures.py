from __future__ import annotations

import numpy as np
import pytest

from spamo_cache.analysis import measures
from spamo_cache.analysis.alignment import summary

EYE = np.eye(4)


def test_a_perfect_alignment_has_rank_one() -> None:
    own = np.arange(4)
    assert measures.ranks(EYE, EYE, own).tolist() == [1, 1, 1, 1]
    assert measures.cosines(EYE, EYE, own) == (1.0, 0.0)
    assert measures.modality_gap(EYE, EYE) == 0.0


def test_known_ranks_and_recall() -> None:
    sign = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    text = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    ranks = measures.ranks(sign, text, np.array([0, 1, 2]))
    # The third clip's cosines are 0.6, 0.96 and 0.8.
    assert ranks.tolist() == [1, 2, 2]
    assert measures.recall(ranks, 1) == pytest.approx(1 / 3)
    assert measures.recall(ranks, 2) == 1.0


def test_everything_at_one_point_is_no_alignment() -> None:
    same = np.tile([[0.6, 0.8]], (5, 1))
    assert measures.ranks(same, same, np.arange(5)).tolist() == [5] * 5
    assert measures.recall(measures.ranks(same, same, np.arange(5)), 1) == 0.0


def test_the_gap_of_opposite_modalities_is_two() -> None:
    sign = np.tile([[1.0, 0.0]], (3, 1))
    assert measures.modality_gap(sign, -sign) == pytest.approx(2.0)
    turned = np.tile([[0.0, 1.0]], (3, 1))
    assert measures.modality_gap(sign, turned) == pytest.approx(np.sqrt(2))


def test_random_vectors_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    sign, text = rng.normal(size=(2, 400, 64))
    sign /= np.linalg.norm(sign, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    found = summary(sign, text, [str(n) for n in range(400)])
    assert found["chance_at_1"] == 1 / 400
    assert found["recall_at_5"] < 0.05
    assert 150 < found["median_rank"] < 250
    assert abs(found["own_cosine"]) < 0.02


def test_equal_sentences_count_as_one() -> None:
    sign = EYE[[0, 0, 1]]
    text = EYE[[0, 0, 1]]
    assert measures.distinct(["a", "a", "b"])[0] == [0, 2]
    found = summary(sign, text, ["a", "a", "b"])
    assert found["recall_at_1"] == 1.0
    assert (found["clips"], found["sentences"], found["chance_at_1"]) == (3, 2, 0.5)
    assert found["chance_at_5"] == 1.0


def test_a_single_sentence_has_no_others() -> None:
    assert summary(EYE[:2], EYE[:2], ["a", "a"])["other_cosine"] is None
