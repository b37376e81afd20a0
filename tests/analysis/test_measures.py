from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from spamo_cache.analysis import measures
from spamo_cache.analysis.alignment import summary
from spamo_cache.model.adapter import VTAlign
from spamo_cache.model.rows import Padded

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
    assert found.chance_at_1 == 1 / 400
    assert found.recall_at_5 < 0.05
    assert 150 < found.median_rank < 250
    assert abs(found.own_cosine) < 0.02


def test_equal_sentences_count_as_one() -> None:
    sign = EYE[[0, 0, 1]]
    text = EYE[[0, 0, 1]]
    assert measures.distinct(["a", "a", "b"])[0] == [0, 2]
    found = summary(sign, text, ["a", "a", "b"])
    assert found.recall_at_1 == 1.0
    assert (found.clips, found.sentences, found.chance_at_1) == (3, 2, 0.5)
    assert found.chance_at_5 == 1.0


def test_a_single_sentence_has_no_others() -> None:
    assert summary(EYE[:2], EYE[:2], ["a", "a"]).other_cosine is None


def gaussians(n: int, width: int, count: int = 2) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(count, n, width)))


def test_cka_of_a_turned_and_scaled_copy_is_one() -> None:
    one, turn = gaussians(40, 40)
    turn = np.linalg.qr(turn)[0]
    assert measures.cka(one, one @ turn * 3 + 5) == pytest.approx(1)


def test_cka_of_unrelated_sets_is_zero_however_wide() -> None:
    one, other = gaussians(60, 600)
    assert measures.cka(one, other) == pytest.approx(0, abs=0.1)
    # What it would be without the correction.
    plain = [vectors - vectors.mean(0) for vectors in (one, other)]
    grams = [vectors @ vectors.T for vectors in plain]
    sizes = np.linalg.norm(grams[0]) * np.linalg.norm(grams[1])
    assert (grams[0] * grams[1]).sum() / sizes > 0.8


def test_cka_of_half_shared_vectors_is_known() -> None:
    shared, one, other = gaussians(1500, 20, 3)
    # Covariances: cross 1, own 1 + 1: (1 / 2) squared.
    assert measures.cka(shared + one, shared + other) == pytest.approx(0.25, abs=0.02)


def test_cka_of_few_clips_or_one_point_is_none() -> None:
    one, other = gaussians(3, 4)
    assert measures.cka(one, other) is None
    assert measures.cka(np.ones((9, 4)), gaussians(9, 4)[0]) is None


def test_infonce_of_a_perfect_alignment_is_its_ceiling() -> None:
    found = measures.infonce(np.eye(32), np.eye(32))
    assert found.ceiling == pytest.approx(np.log(32))
    assert found.nats == pytest.approx(np.log(32), abs=1e-6)
    assert measures.infonce(np.eye(32), np.roll(np.eye(32), 1, 0)).nats == 0.0


def test_infonce_of_equal_sentences_is_their_entropy() -> None:
    # Eight sentences, each of sixteen clips: log 8 is all there is to know.
    vectors = np.tile(np.eye(8), (16, 1))
    assert measures.infonce(vectors, vectors).nats == pytest.approx(np.log(8), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("right", [0.9, 0.5])
def test_infonce_of_a_noisy_channel_is_its_information(right: float) -> None:
    """Of ten sentences a clip points to its own, or else to any of the other nine."""
    rng = np.random.default_rng(0)
    said = rng.integers(10, size=1500)
    wrong = (said + rng.integers(1, 10, size=1500)) % 10
    shown = np.where(rng.random(1500) < right, said, wrong)
    found = measures.infonce(np.eye(10)[shown], np.eye(10)[said])
    true = np.log(10) + right * np.log(right) + (1 - right) * np.log((1 - right) / 9)
    assert found.nats == pytest.approx(true, abs=4 * found.error)
    assert found.error < 0.04
    # The best critic tells right from wrong by their odds.
    assert 1 / found.temperature == pytest.approx(np.log(9 * right / (1 - right)), rel=0.15)


def test_infonce_is_what_vt_aligns_loss_leaves_of_the_ceiling() -> None:
    sign, text = (torch.tensor(vectors).float() for vectors in gaussians(50, 8))
    # One sentence is near to many clips, so that the two directions differ.
    sign = F.normalize(sign + 2 * text, dim=-1)
    text = F.normalize(text + (torch.arange(50) % 5 == 0)[:, None] * sign[0], dim=-1)
    found = measures.infonce(sign.numpy(), text.numpy())
    align = VTAlign(8)
    align.log_scale.data.fill_(-np.log(found.temperature))
    rows = (Padded(vectors[:, None], torch.ones(50)) for vectors in (sign, text))
    assert found.nats == pytest.approx(np.log(50) - align(*rows).item(), abs=1e-4)
    assert 0.5 < found.nats < np.log(50)


def test_the_peak_of_a_parabola() -> None:
    assert measures.peak(lambda x: -((x - 0.3) ** 2), -1, 2) == pytest.approx(0.3, abs=1e-3)
