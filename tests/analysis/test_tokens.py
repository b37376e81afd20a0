from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spamo_cache.analysis.tokens import Reference, Visual, against_chance, compare
from spamo_cache.datasets.manifest import Clip
from spamo_cache.model.tokens import Tokens
from spamo_cache.runs.analyses import AgainstChance

LLM = Path(__file__).parents[2] / "pipelines" / "signed-weather" / "llm"
WORDS = ["montag", "regen", "schnee", "norden", "westen", "frost", "wind", "nebel", "heute", "bei"]


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens(LLM)


def visual(text: str) -> Visual:
    return Visual(text.split(), [0.5] * len(text.split()))


def clip(name: str, text: str, gloss: str | None) -> Clip:
    return Clip(id=name, split="test", source=name, text=text, language="German", gloss=gloss)


def drawn(count: int) -> list[list[str]]:
    rng = np.random.default_rng(0)
    return [rng.choice(WORDS, size=3, replace=False).tolist() for _ in range(count)]


@pytest.mark.slow
def test_coverage_and_precision_by_hand(tokens: Tokens) -> None:
    seen = [visual("Montag montag regen die"), visual("frost")]
    found = Reference(seen, [["montag", "regen", "wind"], ["schnee"]], tokens).scores()
    assert found is not None
    assert found.clips == 2
    assert found.words == 2
    # Two of three words and none of one; three of four rows and none of one.
    assert found.coverage.value == pytest.approx((2 / 3 + 0) / 2)
    assert found.precision.value == pytest.approx((3 / 4 + 0) / 2)


def test_all_pieces_make_a_word_up_and_one_belongs_to_it(tokens: Tokens) -> None:
    words = [["sonnenschein"], ["sonnenschein"]]
    found = Reference([visual("sonn en s che in"), visual("sonn en die")], words, tokens).scores()
    assert found is not None
    assert found.coverage.value == pytest.approx(0.5)
    assert found.precision.value == pytest.approx((1 + 2 / 3) / 2)


def test_own_tokens_beat_chance_and_those_of_another_clip_do_not(tokens: Tokens) -> None:
    words = drawn(80)
    seen = [visual(" ".join(line)) for line in words]
    own = Reference(seen, words, tokens).scores()
    other = Reference(seen[1:] + seen[:1], words, tokens).scores()
    assert own is not None
    assert other is not None
    for mine, strange in ((own.coverage, other.coverage), (own.precision, other.precision)):
        assert mine.value == 1.0
        assert mine.p == 1 / 1000
        # Three of ten words, drawn independently.
        assert mine.chance == pytest.approx(0.3, abs=0.03)
        assert strange.value == pytest.approx(0.3, abs=0.08)
        assert strange.p > 0.05
        assert strange.chance == pytest.approx(mine.chance, abs=0.01)


def test_tokens_of_every_sentence_are_no_better_than_chance(tokens: Tokens) -> None:
    words = [[*line, "grad"] for line in drawn(40)]
    found = Reference([visual("grad grad")] * 40, words, tokens).scores()
    assert found is not None
    assert found.precision == AgainstChance(value=1.0, chance=1.0, spread=0.0, p=1.0)
    assert found.coverage.p == 1.0


def test_the_spread_of_chance_is_that_of_permutations() -> None:
    # One clip in two matches itself alone: the number of fixed points of a permutation.
    found = against_chance(np.eye(50, dtype=np.float32))
    assert found.value == 1.0
    assert found.chance * 50 == pytest.approx(1, abs=0.15)
    assert found.spread * 50 == pytest.approx(1, abs=0.15)


def test_clips_without_glosses_are_left_out(tokens: Tokens) -> None:
    clips = [clip("a", "es regnet", None), clip("b", "frost am montag", "MONTAG FROST")]
    found = compare([visual("regen"), visual("Frost die montag")], clips, tokens, candidates=9)
    assert found.gloss is not None
    assert found.text is not None
    assert found.gloss.clips == 1
    assert found.gloss.coverage.value == 1.0
    assert found.text.clips == 2
    assert found.rows == 4
    first, second = found.examples
    assert (first.clip, first.gloss, first.rows[0].gloss) == ("a", None, False)
    assert second.gloss == ["MONTAG", "FROST"]
    assert [(row.token, row.gloss, row.text) for row in second.rows] == [
        ("Frost", True, True),
        ("die", False, False),
        ("montag", True, True),
    ]
    assert compare([visual("regen")], clips[:1], tokens, candidates=9).gloss is None
