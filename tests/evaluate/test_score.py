"""Scores of anybody's translations, without a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spamo_cache.errors import UsageError
from spamo_cache.evaluate import score

GERMAN = (
    ["heute regnet es im norden stark", "am tag scheint die sonne", "", "zehn grad heute ."],
    ["heute regnet es im norden", "am tag scheint oft die sonne", "schnee", "zehn grad ."],
)
CHINESE = (
    ["明天北方下雨,天气很冷。", "他今天很高兴"],
    ["明天北方下雪,天气很冷。", "他今天不太高兴。"],
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("texts", "language", "tokenize"),
    [(GERMAN, "German", "13a"), (CHINESE, "Chinese", "zh")],
    ids=["German", "Chinese"],
)
def test_bleu_is_that_of_sacrebleus_command_line(
    tmp_path: Path, texts: tuple[list[str], list[str]], language: str, tokenize: str
) -> None:
    for name, lines in zip(("hypotheses", "references"), texts, strict=True):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    words = [sys.executable, "-m", "sacrebleu", str(tmp_path / "references"), "-w", "10"]
    words += ["-i", str(tmp_path / "hypotheses"), "-m", "bleu", "--tokenize", tokenize]
    printed = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    scores = score(*texts, language=language, bootstrap=50)
    assert scores.metrics["bleu4"] == pytest.approx(printed["score"], abs=1e-9)
    assert scores.signatures["bleu4"] == printed["signature"]
    assert scores.headline["tokenize"] == tokenize
    assert scores.conventions[0].headline
    assert scores.conventions[0].bleu4 == scores.metrics["bleu4"]
    assert scores.intervals.keys() == scores.metrics.keys()
    assert scores.n == len(texts[0])


def test_what_would_mislead_is_among_the_warnings() -> None:
    (empty,) = score(*GERMAN, bootstrap=0).warnings
    assert (empty.kind, empty.clips, empty.severity) == ("empty", 1, "note")
    (words,) = score(*CHINESE, tokenize="13a", bootstrap=0).warnings
    assert (words.kind, words.severity) == ("13a-on-chinese", "warning")


def test_sides_of_unequal_length_and_unknown_tokenizers_are_refused() -> None:
    with pytest.raises(UsageError, match="1 hypotheses for 2 references"):
        score(["a"], ["a", "b"])
    with pytest.raises(UsageError, match="0 hypotheses for 0 references"):
        score([], [])
    with pytest.raises(UsageError, match="'moses'"):
        score(["a"], ["a"], tokenize="moses")
