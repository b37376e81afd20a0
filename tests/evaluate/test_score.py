"""Scores of anybody's translations, without a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import spamo_cache as sc
from spamo_cache.cli.main import app
from spamo_cache.errors import CorpusError, SpamoError, UsageError
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
    with pytest.raises(UsageError, match="1 hypothesis for 2 references"):
        score(["a"], ["a", "b"])
    with pytest.raises(UsageError, match="0 hypotheses for 0 references"):
        score([], [])
    with pytest.raises(UsageError, match="'moses'"):
        score(["a"], ["a"], tokenize="moses")


def lab(folder: Path, manifest: str = "") -> None:
    """Three clips, of which a system has translated two, in another order."""
    (folder / "theirs.csv").write_text("id,translation\nc,schnee\na,regen im norden\n")
    lines = [{"id": clip, "reference": text, "signer": 1} for clip, text in REFERENCES.items()]
    (folder / "ours.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = "".join(f"{clip},test,{clip}.mp4,{text},German\n" for clip, text in REFERENCES.items())
    head = "id,split,source,text,language\nz,train,z.mp4,nebel,German\n"
    (folder / "manifest.csv").write_text(f"{head}{rows}{manifest}")


REFERENCES = {"a": "regen im norden", "b": "sonne am tag", "c": "schnee in den bergen"}


def test_files_are_paired_by_clip_and_a_dropped_one_counts_as_empty(tmp_path: Path) -> None:
    lab(tmp_path, manifest="d,test,d.mp4,wind,German\n")
    found = sc.score(tmp_path / "theirs.csv", tmp_path / "ours.jsonl", bootstrap=0)
    said = {"a": "regen im norden", "b": "", "c": "schnee"}
    assert found.metrics == score(list(said.values()), list(REFERENCES.values())).metrics
    assert (found.n, found.missing, found.corpus) == (3, ["b"], None)
    assert [one.kind for one in found.warnings] == ["missing", "empty"]
    # A manifest will do for references, and tells of a clip that the other file lacks.
    listed = tmp_path / "manifest.csv"
    assert sc.score(tmp_path / "theirs.csv", listed, bootstrap=0).missing == ["b", "d"]
    whole = sc.score(said, tmp_path / "ours.jsonl", manifest=listed, corpus="mine", bootstrap=0)
    first, *_ = whole.warnings
    assert (first.kind, first.severity, whole.corpus) == ("other-clips", "warning", "mine")
    assert "3 clips are scored, test has 4; the first that is missing is d" in first.words


def test_a_known_corpus_brings_its_tokenizer_figures_and_number_of_clips() -> None:
    found = sc.score(*CHINESE, corpus="csl-daily", bootstrap=0)
    assert found.headline["tokenize"] == "zh"
    assert "Uni-Sign, pose only" in [one.system for one in found.published]
    assert "2 clips are scored, test has, as published, 1,176" in found.warnings[0].words
    assert not sc.score(*CHINESE, corpus="csl-daily", split="dev", bootstrap=0).published


@pytest.mark.parametrize(
    ("hypotheses", "named"),
    [
        ("id,translation\nx,schnee\n", "1 of 1 clips are not among the references, first 'x'"),
        ("id,translation\na,schnee\na,regen\n", "1 clip stands there more than once, first 'a'"),
        ("id,words\na,schnee\n", "has no column 'hypothesis', 'prediction', 'translation' or 't"),
        ("id,translation\n,schnee\n", "1 row has no id"),
        ("translation\nschnee\n", "1 hypothesis for 3 references"),
    ],
    ids=["unknown", "twice", "no column", "no id", "other number"],
)
def test_what_cannot_be_paired_is_one_clear_error(
    tmp_path: Path, hypotheses: str, named: str
) -> None:
    lab(tmp_path)
    (tmp_path / "theirs.csv").write_text(hypotheses)
    with pytest.raises(SpamoError) as raised:
        sc.score(tmp_path / "theirs.csv", tmp_path / "ours.jsonl")
    assert named in str(raised.value)
    assert "theirs.csv" in str(raised.value)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("sample: {}.mp4, prediction: {}", "sample: {}.mp4, ground-truth: {}"),
        ("{}|{}", "{}|{}"),
        ("H-{}\t-0.25\t{}", "T-{}\t{}"),
        ("{}\t{}", "{}\t{}"),
        ("{} {}", "{}|{}"),
    ],
    ids=["Uni-Sign", "SignJoey", "fairseq", "tab", "blank"],
)
def test_lines_that_name_their_clip_are_paired_by_it(
    tmp_path: Path, said: str, expected: str
) -> None:
    """Scored as they stand, equal names would count as words that are right."""
    (tmp_path / "said").write_text(f"{said.format(2, 'schnee')}\n{said.format(1, 'regen')}\n\n")
    (tmp_path / "true").write_text(
        f"{expected.format(1, 'regen')}\n{expected.format(2, '')}\n{expected.format(3, 'wind')}\n"
    )
    found = sc.score(tmp_path / "said", tmp_path / "true", bootstrap=0)
    assert found.metrics == score(["regen", "schnee", ""], ["regen", "", "wind"]).metrics
    assert found.missing == ["3"]


def test_lines_of_clip_and_sentence_are_told_from_sentences(tmp_path: Path) -> None:
    said, true = tmp_path / "said.txt", tmp_path / "true.txt"
    said.write_text("b2 regen am tag\na1 schnee\n")
    true.write_text("a1 schnee\nb2 regen\n")
    assert sc.score(said, true, bootstrap=0).metrics["bleu1"] == pytest.approx(50)
    said.write_text("regen am tag\nschnee\n")
    true.write_text("schnee fällt\nregen am tag\n", encoding="utf-8")
    assert sc.score(said, true, bootstrap=0).metrics["bleu1"] < 50
    said.write_text("a|regen\nund sonne\nb|schnee\n")
    with pytest.raises(CorpusError, match="1 line of 3 without a clip's name, the first is line 2"):
        sc.score(said, true)


def test_a_translation_beside_a_prediction_is_the_reference(tmp_path: Path) -> None:
    table = tmp_path / "both.csv"
    table.write_text("name,translation,prediction\nb,schnee,regen\na,sonne,wind\n")
    found = sc.score(table, table, bootstrap=0)
    assert found.metrics["chrf"] < 50
    # Clips go by the name that a corpus's own table gives them, whatever the order.
    same = sc.score({"a": "sonne", "b": "schnee"}, table, bootstrap=0)
    assert (same.metrics["chrf"], same.warnings) == (100, [])


def test_what_nobody_says_and_pairs_by_order_are_among_the_warnings() -> None:
    found = sc.score({"a": "Gr&uuml;&szlig;e", "b": "regen"}, ["Grüße", "regen"], bootstrap=0)
    assert [one.kind for one in found.warnings] == ["no-text", "paired-by-order"]
    assert found.warnings[0].words.startswith("1 of 2 hypotheses hold what nobody says, first '&uu")


def test_the_command_scores_plain_text(tmp_path: Path) -> None:
    for name, lines in zip(("said.txt", "true.txt"), GERMAN, strict=True):
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    words = ["score", str(tmp_path / "said.txt"), str(tmp_path / "true.txt"), "--bootstrap", "0"]
    said = CliRunner().invoke(app, [*words, "--language", "German"])
    assert said.exit_code == 0
    assert "1 of 4 hypotheses are empty" in said.stdout
    assert 'references end in " ."' in said.stdout
    document = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert document["metrics"] == score(*GERMAN, bootstrap=0).metrics
    (tmp_path / "true.txt").write_text("regen\n")
    refused = CliRunner().invoke(app, words)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "4 hypotheses for 1 reference" in refused.stderr
