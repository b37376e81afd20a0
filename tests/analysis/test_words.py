from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from spamo_cache.analysis.tokens import Matches, gloss_words, pieces, plain, text_words
from spamo_cache.model.tokens import Tokens

LLM = Path(__file__).parents[2] / "pipelines" / "signed-weather" / "llm"


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens(LLM)


@pytest.mark.parametrize(
    ("gloss", "words"),
    [
        ("MORGEN REGEN MORGEN", ["morgen", "regen"]),
        ("__ON__ loc-NORD MORGEN+SUED __OFF__", ["nord", "morgen", "süd"]),
        ("NEUE DAUER FUENF MAERZ SCHOEN", ["neue", "dauer", "fünf", "märz", "schön"]),
        ("poss-BEIN cl-KOMMEN S+H N12", ["bein", "kommen", "n12"]),
        ("walk home", ["walk", "home"]),
        ("", []),
    ],
)
def test_glosses_are_words(gloss: str, words: list[str]) -> None:
    assert gloss_words(gloss, "German") == words


def test_umlauts_are_put_back_in_german_only() -> None:
    assert gloss_words("BLUE SHOES", "English") == ["blue", "shoes"]


def test_case_and_compatibility_forms_do_not_count() -> None:
    assert plain(" Strasse ") == plain("STRAßE") == "strasse"
    # A u with a combining diaeresis, and full-width letters.
    assert plain("su\u0308d") == "süd"
    assert plain("\uff32egen") == "regen"


def test_sentences_are_words_less_punctuation(tokens: Tokens) -> None:
    assert text_words("Im Süden, im Norden: 12 Grad.", tokens) == [
        "im",
        "süden",
        "norden",
        "12",
        "grad",
    ]


def test_a_script_without_spaces_is_cut_as_the_tokenizer_cuts_it() -> None:
    class Chinese:
        def prompts(self, texts: list[str]) -> list[list[int]]:
            return [[0, 1, 2] for _ in texts]

        def decode(self, sequences: list[list[int]]) -> list[str]:
            return [["", "今天", "下雨"][ids[0]] for ids in sequences]

    assert text_words("今天下雨。", cast("Tokens", Chinese())) == ["今天", "下雨"]


def test_words_match_whole_inflected_or_in_pieces(tokens: Tokens) -> None:
    assert pieces("sonnenschein", tokens) == ["sonn", "en", "s", "che", "in"]
    seen = ["norden", "ost", "osten", "sonn", "en", "s", "che", "in", "regnet"]
    found = Matches(seen, ["nord", "ost", "sonnenschein", "regen", "in"], tokens)
    assert found.belonging("nord") >= {"norden"}
    # Three letters are no stem; "ost" is there by itself. Nor is an ending of many letters one.
    assert found.whole["ost"] == {"ost"}
    assert found.whole["sonnenschein"] == set()
    assert found.belonging("sonnenschein") >= {"sonn", "en", "s", "che", "in"}
    assert "regnet" not in found.belonging("regen")
    making = found.making("sonnenschein")
    assert {"sonn", "en", "s", "che", "in"} in making
    assert {"en"} not in making
    assert found.whole["in"] == {"in"}


def test_what_the_tokenizer_cannot_spell_is_no_piece(tokens: Tokens) -> None:
    # Of "Quark" it knows some letters only: those alone do not make the word up.
    found = Matches(["a", "r", "k", "u"], ["quark"], tokens)
    assert found.making("quark") == []
    assert found.belonging("quark") == set()
