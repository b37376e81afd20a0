"""Numbers, names and places that are right."""

from __future__ import annotations

from pathlib import Path

import pytest

import spamo_cache as sc
from spamo_cache.errors import ConfigError
from spamo_cache.evaluate.content import ContentList, content_list, content_words


def share(said: str, true: str, *words: str) -> tuple[int, int, int]:
    found = content_words([said], [true], ContentList("a list", words), bootstrap=0)
    return (0, 0, 0) if found is None else (found.right, found.said, found.expected)


def test_numbers_count_and_words_of_the_list_as_often_as_both_say_them() -> None:
    assert share("12 grad am 3.5.", "12 grad am 4.5.") == (1, 2, 2)
    assert share("im Norden und Süden", "im norden", "norden", "süden") == (1, 2, 1)
    assert share("norden norden", "norden", "norden") == (1, 2, 1)
    assert share("nichts", "gar nichts", "norden") == (0, 0, 0)


def test_words_are_whole_and_phrases_are_one() -> None:
    assert share("nordens zwei", "zweite zwei", "norden", "zwei") == (1, 1, 1)
    assert share("baden württemberg", "baden württemberg", "baden", "baden württemberg") == (1,) * 3
    # No spaces, no ends of words: what stands there counts.
    assert share("明天北京下雨", "今天北京有雪", "北京") == (1, 1, 1)


def test_shares_are_over_all_clips_with_their_intervals() -> None:
    listed = ContentList("a list", ("norden", "süden"))
    found = content_words(["norden", "süden", "norden"] * 9, ["norden", "norden", "es"] * 9,
                          listed, bootstrap=100)  # fmt: skip
    assert found is not None
    assert found.metrics == pytest.approx({"precision": 100 / 3, "recall": 50})
    low, high = found.intervals["recall"]
    assert 20 < low < 50 < high < 80


def test_a_list_is_given_or_comes_with_the_corpus(tmp_path: Path) -> None:
    assert "norden" in content_list("signed-weather").words
    assert "einundzwanzig" in content_list("phoenix14t").words
    assert content_list("mine") == content_list(None) == ContentList("numbers in digits", ())
    own = tmp_path / "words.txt"
    own.write_text("# places\n Süden \nsüden\n\nNeu York\n", encoding="utf-8")
    assert content_list("phoenix14t", own).words == ("süden", "neu york")
    scored = sc.score(["im süden"], ["im süden"], content_words=own, bootstrap=0)
    assert scored.content is not None
    assert (scored.content.right, scored.content.source) == (1, "numbers and words.txt")


@pytest.mark.parametrize("content", [b"# nothing\n", b"\xff\xfe", None])
def test_a_list_that_cannot_be_used_is_one_clear_error(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"lists no|not UTF-8|cannot be read"):
        content_list("mine", path)
