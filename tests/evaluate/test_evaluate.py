from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.evaluate import bleurt, evaluate, evaluation, translate_features
from spamo_cache.model.translator import Translator
from spamo_cache.runs.load import load_run
from spamo_cache.runs.records import Unfinished, texts_folder
from spamo_cache.train import decoding
from spamo_cache.train.data import examples

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(toy, tmp_path_factory):
    """A run whose test split has one clip that could not be extracted."""
    manifest, stores = toy.corpus(failed=("test/2",))
    out = tmp_path_factory.mktemp("runs") / "run"
    toy.run(out, manifest=manifest, stores=stores)
    return out, stores


def table(run, name):
    path = run / "evaluation" / f"{name}.hypotheses.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_clip_is_accounted_for(run):
    card = evaluate(run[0], "test", stores=run[1], device="cpu")
    assert card.n == 6
    assert card.failed == {"test/2": "spatial: cannot be decoded"}
    lines = table(run[0], "test")
    assert [line["id"] for line in lines] == [f"test/{i}" for i in range(6)]
    assert lines[2]["hypothesis"] == ""
    assert [line["failed"] for line in lines if line["failed"]] == ["spatial: cannot be decoded"]
    words = {"bleu1", "bleu2", "bleu3", "bleu4", "chrf", "ter"}
    assert set(card.metrics) == words | {"rouge_l", "rouge_l_official", "rouge_l_coco"}
    assert set(card.signatures) == set(card.intervals) == set(card.metrics)
    assert all(0 <= line[name] <= 100 for line in lines for name in ("bleu", "chrf", "rouge_l"))


def test_dev_scores_what_training_selected(run):
    card = evaluate(run[0], "dev", stores=run[1], device="cpu")
    done = json.loads((run[0] / "done.json").read_text())
    assert card.metrics["bleu4"] == pytest.approx(done["best_bleu"])


def test_an_equal_evaluation_is_read_back(run, monkeypatch):
    first = evaluate(run[0], "test", stores=run[1], device="cpu")
    # Nor is the language model loaded for it.
    monkeypatch.setattr(evaluation, "load_run", lambda *_, **__: pytest.fail("loaded again"))
    again = evaluate(run[0], "test", stores=run[1], device="cpu")
    assert again == first


def test_an_interrupted_evaluation_goes_on_after_the_last_whole_batch(run, tmp_path, monkeypatch):
    expected = evaluate(run[0], "test", stores=run[1], device="cpu")
    lines = table(run[0], "test")
    out = shutil.copytree(run[0], tmp_path / "run")
    shutil.rmtree(out / "evaluation")

    def interrupt(done: int, total: int) -> None:
        if done == 4:  # of 5, two a batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(out, "test", stores=run[1], device="cpu", progress=interrupt)
    unfinished = out / "evaluation" / "test.unfinished.jsonl"
    unfinished.write_bytes(unfinished.read_bytes()[:-9])  # as a kill leaves the second line
    # Another evaluation takes nothing from it, nor its place.
    shuffled = evaluate(out, "test", stores=run[1], device="cpu", shuffle=True)
    assert shuffled.name == "test-shuffled"
    assert unfinished.exists()

    decoded, generate = [], Translator.generate
    monkeypatch.setattr(Translator, "generate", lambda *args: decoded.append(1) or generate(*args))
    told = []
    card = evaluate(out, "test", stores=run[1], device="cpu", progress=lambda *n: told.append(n))
    assert (card, table(out, "test")) == (expected, lines)
    assert len(decoded) == 2 + 2  # the language alone comes after it: three lengths
    assert told[0] == (2, 5)
    assert not unfinished.exists()


def test_what_was_decoded_with_other_settings_is_decoded_again(tmp_path):
    batches = {"test/0": "regen", "test/1": "schnee"}
    Unfinished(tmp_path, "test", "of these settings").add(batches)
    assert Unfinished(tmp_path, "test", "of these settings").read() == batches
    assert Unfinished(tmp_path, "test", "of others").read() == {}


def test_a_card_without_its_table_is_made_anew(run):
    first = evaluate(run[0], "test", stores=run[1], device="cpu")
    lines = table(run[0], "test")
    (run[0] / "evaluation" / "test.hypotheses.jsonl").unlink()
    assert evaluate(run[0], "test", stores=run[1], device="cpu") == first
    assert table(run[0], "test") == lines


def test_texts_that_were_edited_or_lost_are_written_again(run, caplog):
    first = evaluate(run[0], "test", stores=run[1], device="cpu")
    folder = texts_folder(run[0], "test")
    written = {path: path.read_bytes() for path in folder.iterdir()}
    edited, lost, *_ = written
    edited.write_bytes(b"better")
    assert evaluate(run[0], "test", stores=run[1], device="cpu") == first
    lost.unlink()
    assert evaluate(run[0], "test", stores=run[1], device="cpu") == first
    assert {path: path.read_bytes() for path in folder.iterdir()} == written
    assert caplog.text.count("is not what was written; evaluated again") == 2


def test_a_damaged_card_is_told_without_a_remedy_that_nobody_needs(run, caplog):
    evaluate(run[0], "test", stores=run[1], device="cpu")
    path = run[0] / "evaluation" / "test.json"
    path.write_text(path.read_text().replace('"n": 6', '"n": 7'))
    evaluate(run[0], "test", stores=run[1], device="cpu")
    assert f"{path} disagrees with its own checksum; evaluated again" in caplog.text
    assert "to do" not in caplog.text


def test_a_card_of_before_is_made_anew(run):
    first = evaluate(run[0], "test", stores=run[1], device="cpu")
    path = run[0] / "evaluation" / "test.json"
    document = json.loads(path.read_text())
    old = {key: document[key] for key in ("run", "split", "n", "metrics", "failed")}
    path.write_text(json.dumps(old | {"identity": "of a version of before"}))
    assert evaluate(run[0], "test", stores=run[1], device="cpu") == first
    assert json.loads(path.read_text()) == document


def test_the_headline_is_the_first_of_the_conventions(run):
    card = evaluate(run[0], "test", stores=run[1], device="cpu")
    first = card.conventions[0]
    assert first.headline
    assert first.bleu4 == card.metrics["bleu4"]
    own = {key: card.headline[key] for key in ("tokenize", "lower", "final_dot")}
    assert own == {"tokenize": "13a", "lower": False, "final_dot": False}
    assert card.headline["rouge"] == "rouge_l"


SACREBLEU = """
import json, sys
from sacrebleu.sacrebleu import main
kept = []
for words in json.loads(sys.argv[1]):
    # It opens the standard streams anew, and the old ones must not be closed with that.
    kept += [sys.stdin, sys.stdout, sys.stderr]
    sys.argv = ["sacrebleu", *words]
    main()
    sys.stdout.flush()
"""


def by_sacrebleu(*commands):
    """What its command line prints for each of the commands."""
    words = [sys.executable, "-c", SACREBLEU, json.dumps([list(map(str, c)) for c in commands])]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    printed = ran.stdout
    decoder, found = json.JSONDecoder(), []
    while printed := printed.strip():
        document, end = decoder.raw_decode(printed)
        found.append(document)
        printed = printed[end:]
    return found


GERMAN = {"reference": "Am Tag regnet es, {} oft", "said": "am Tag  regnet es, {} sehr"}
CHINESE = {"reference": "明天北方下雨{}天气很冷", "said": "明天北方下雪{}天气很冷。"}


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ({}, GERMAN),
        ({"lower": True, "final_dot": True}, GERMAN),
        ({"lower": True, "final_dot": True, "hypotheses": "convention"}, GERMAN),
        ({"lower": True, "final_dot": "attached", "hypotheses": "lower"}, GERMAN),
        ({"language": "Chinese", "tokenize": "zh"}, CHINESE),
    ],
    ids=["cased", "dotted", "both", "official", "chinese"],
)
def test_sacrebleu_gives_every_number_from_what_was_written(
    toy, tmp_path, monkeypatch, text, sentences
):
    manifest, stores = toy.corpus()
    clips = [
        replace(clip, text=sentences["reference"].format(clip.id[-1])) for clip in manifest.clips()
    ]
    manifest = Manifest.from_clips("toy", clips)
    stage = {"steps": 1, "batch": 4, "lr": 1e-3}
    config = toy.pipeline(
        text={"language": "German", **text}, align=stage | {"steps": 0}, translate=stage
    )
    summary = toy.run(tmp_path / "run", config, manifest=manifest)
    # Selection scores as evaluation does.
    card = evaluate(tmp_path / "run", "dev", stores=stores, device="cpu")
    assert card.metrics["bleu4"] == pytest.approx(summary.best_bleu)

    said = [sentences["said"].format(number) for number in range(6)]
    monkeypatch.setattr(evaluation, "decode", lambda *_, **__: said)
    card = evaluate(tmp_path / "run", "test", stores=stores, device="cpu")
    folder = texts_folder(tmp_path / "run", "test")
    commands = []
    for one in card.conventions:
        sides = (folder / f"{one.texts}.{side}.txt" for side in ("references", "hypotheses"))
        commands.append([next(sides), "-i", next(sides), "-w", "10", "--tokenize", one.tokenize])
    spaceless = ["--ter-normalized", "--ter-asian-support"] if sentences is CHINESE else []
    headline = [*commands[0], "-m", "bleu", "chrf", "ter", *spaceless]
    first, *others = by_sacrebleu(headline, *commands[1:])
    for name, document in zip(("bleu4", "chrf", "ter"), first, strict=True):
        assert card.metrics[name] == pytest.approx(document["score"], abs=1e-9)
        assert card.signatures[name] == document["signature"]
    assert card.conventions[0].bleu4 == card.metrics["bleu4"]
    for one, document in zip(card.conventions[1:], others, strict=True):
        assert one.bleu4 == pytest.approx(document["score"], abs=1e-9)

    # Nothing is added to what was said: only the official release's lower case is taken from it.
    lines = table(tmp_path / "run", "test")
    written = (folder / f"{card.conventions[0].texts}.hypotheses.txt").read_text().splitlines()
    assert [line["hypothesis"] for line in lines] == written
    expected = [" ".join(one.split()) for one in said]
    if text.get("hypotheses") == "lower":
        expected = [one.lower() for one in expected]
    if text.get("hypotheses") == "convention":
        expected = [f"{one.lower()} ." for one in expected]
    assert written == expected
    assert card.headline["hypotheses"] == text.get("hypotheses", "as-said")


def test_bleurt_where_its_weights_are_at_hand(run, monkeypatch):
    folder = Path(__file__).parents[1] / "golden" / "bleurt"
    monkeypatch.setattr(bleurt, "find", lambda: folder)
    card = evaluate(run[0], "test", stores=run[1], device="cpu", bootstrap=10)
    low, high = card.intervals["bleurt"]
    assert low <= card.metrics["bleurt"] <= high


def test_other_settings_are_decoded_again(run, monkeypatch):
    evaluate(run[0], "test", stores=run[1], device="cpu")
    decoded = []

    def decode(*arguments, **options):
        decoded.append(1)
        return decoding.decode(*arguments, **options)

    monkeypatch.setattr(evaluation, "decode", decode)
    evaluate(run[0], "test", stores=run[1], device="cpu", bootstrap=10)
    assert decoded == [1]


def test_shuffled_stands_beside_the_plain_one(run):
    evaluate(run[0], "test", stores=run[1], device="cpu")
    card = evaluate(run[0], "test", stores=run[1], shuffle=True, device="cpu")
    assert card.shuffled
    assert table(run[0], "test") != table(run[0], "test-shuffled")


def test_refuses_other_features_than_the_runs(toy, run):
    _, others = toy.corpus()
    with pytest.raises(StoreError, match="trained from"):
        evaluate(run[0], "test", stores=others, device="cpu")


def test_features_held_in_memory_must_be_given_again(run):
    with pytest.raises(StoreError, match="hand them to evaluate"):
        evaluate(run[0], "test", device="cpu")


def test_unknown_split_and_unfinished_run(run, tmp_path):
    with pytest.raises(UsageError, match="no split"):
        evaluate(run[0], "tset", stores=run[1], device="cpu")
    with pytest.raises(UsageError, match="no run"):
        evaluate(tmp_path, "test", stores=run[1], device="cpu")
    shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "run" / "done.json").unlink()
    with pytest.raises(UsageError, match="no finished run"):
        evaluate(tmp_path / "run", "test", stores=run[1], device="cpu")


def test_translates_a_new_clip_as_the_split(run):
    evaluate(run[0], "test", stores=run[1], device="cpu")
    loaded = load_run(run[0], device="cpu")
    for line in table(run[0], "test"):
        if line["failed"] is None:
            rows = {name: store._arrays[line["id"]] for name, store in run[1].items()}
            assert translate_features(loaded, rows) == line["hypothesis"]
    valid = {"spatial": np.arange(len(rows["spatial"])) % 2 == 0}
    noise = {**rows, "spatial": np.where(valid["spatial"][:, None], rows["spatial"], 9)}
    assert translate_features(loaded, noise, valid) == translate_features(loaded, rows, valid)


@pytest.mark.parametrize("broken", ["missing", "empty", "narrow"])
def test_refuses_features_that_do_not_fit(run, broken):
    rows = {name: store._arrays["test/0"] for name, store in run[1].items()}
    if broken == "missing":
        del rows["motion"]
    else:
        rows["motion"] = rows["motion"][:0] if broken == "empty" else rows["motion"][:, :2]
    with pytest.raises(UsageError, match="'motion' must be"):
        translate_features(run[0], rows)


def test_recall_counts_equal_sentences_as_one(run):
    loaded = load_run(run[0], device="cpu")

    manifest = Manifest.read(run[0] / "manifest.parquet")
    data = examples(loaded.pipeline, manifest, run[1], "dev", loaded.translator.tokens)
    assert 0 <= decoding.recall_at_1(loaded.translator, data) <= 1
    same = replace(data, texts=["x"] * 5)
    assert decoding.recall_at_1(loaded.translator, same) == 1
