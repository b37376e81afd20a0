"""What ``evaluate`` tells of a run, of several, and of two against each other."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Call = Callable[..., Result]
Enter = Callable[[Path, pytest.MonkeyPatch], None]

pytestmark = pytest.mark.slow

EXTRACT = "extract --manifest manifest.csv --dataset frames --spec spec.yaml --executor serial"
LEAKS = "protocol={select_on_test: true, pairs_from_batch: true, drop_missing: true}"


def document(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def done(made: Path, call: Call, enter: Enter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab with a broken test clip and two runs: one plain, one with every leak there is."""
    folder = tmp_path_factory.mktemp("leaks")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    table = folder / "manifest.csv"
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    rows.append("test-2,test,frames/dev-1,noch ein satz,German")
    lines = [f"{header},text_en", *(f"{row},english {row.partition(',')[0]}" for row in rows)]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "frames" / "test-1" / "0003.png").write_bytes(b"\x89PNG and nothing more")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        assert "failed: test-1 (frames/test-1): " in call(EXTRACT, code=1).stderr
        call("train pipeline.yaml -o plain")
        call(f"train pipeline.yaml -o leaky --set '{LEAKS}' --set llm.in_context_languages=[en]")
    return folder


@pytest.fixture
def lab(done: Path, enter: Enter, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(done, monkeypatch)
    return done


def test_a_store_that_is_gone_is_made_again_by_the_command_that_is_named(
    lab: Path, call: Call
) -> None:
    command = f"spamo-cache extract --dataset frames --manifest {lab}/manifest.csv"
    features = (lab / "home" / "features").rename(lab / "elsewhere")
    for line in ("evaluate plain --split dev", "analyze plain", "analyze plain --clip dev-0"):
        told = call(line, code=1).stderr
        assert f"again by `{command} --spec {lab}/spec.yaml`" in told, line
    features.rename(lab / "home" / "features")


def test_planted_leaks_are_flagged_wherever_one_looks(lab: Path, call: Call) -> None:
    shown = call("evaluate leaky")
    card = document(call("evaluate leaky --json"))
    written = json.loads((lab / "leaky" / "evaluation" / "test.json").read_text(encoding="utf-8"))
    assert written["warnings"] == card["warnings"]
    severe = {one["kind"]: one["clips"] for one in card["warnings"] if one["severity"] == "warning"}
    assert severe == {
        "selected-on-test": None,
        "pairs-from-batch": 2,
        "dropped": 1,
        "seen-in-training": 1,
        # The tiny tokenizer knows no digits.
        "unknown-tokens": 1,
    }
    for one in card["warnings"]:
        level = one["severity"]
        assert f"{level}: {one['words']} [{one['kind']}]" in shown.stdout
    assert "failed: test-1" in shown.stderr
    assert card["n"] == 2


def test_a_run_without_leaks_says_what_remains(lab: Path, call: Call) -> None:
    card = document(call("evaluate plain --json"))
    kinds = {one["kind"]: one["clips"] for one in card["warnings"]}
    leaks = {"failed": 1, "seen-in-training": 2, "dev-test-overlap": 2}
    assert kinds == leaks | {"unknown-tokens": 1, "cut-targets": 2, "unknown-signers": 3}
    assert card["n"] == 3
    shown = call("evaluate plain").stdout
    assert "note: 1 of 3 clips have no features and are scored as empty sentences" in shown
    for row in card["conventions"]:
        assert row["name"] in shown


def test_several_runs_come_to_a_mean(lab: Path, call: Call) -> None:
    call("train pipeline.yaml -o second --set seed=1")
    found = document(call("evaluate plain second --json"))
    scores = [card["metrics"]["chrf"] for card in found["runs"]]
    spread = found["spread"]["chrf"]
    assert (spread["runs"], spread["mean"]) == (2, pytest.approx(sum(scores) / 2))
    assert spread["deviation"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    assert "2 runs together" in call("evaluate plain second").stdout
    call("evaluate plain second --table all.tsv")
    with (lab / "all.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    assert [(row["run"], row["id"]) for row in rows] == [
        (run, f"test-{number}") for run in ("plain", "second") for number in range(3)
    ]


def test_a_run_against_another(lab: Path, call: Call) -> None:
    found = document(call("evaluate plain --against plain --json"))["against"]
    assert found["bleu4"]["p"] == 1
    assert "plain against plain" in call("evaluate plain --against plain").stdout
    # The leaky one dropped a clip: there is nothing to pair it with.
    assert "not the same" in call("evaluate plain --against leaky", code=2).stderr
    assert "--against" in call("evaluate plain plain --against plain", code=2).stderr


def test_stores_of_another_spec_at_test_time(lab: Path, call: Call) -> None:
    stride = "streams.motion.stride=1"
    assert "no store holds" in call(f"evaluate plain --spec-set {stride}", code=2).stderr
    call(EXTRACT, f"--streams motion --set {stride}", code=1)
    card = document(call(f"evaluate plain --spec-set {stride} --json"))
    usual = document(call("evaluate plain --json"))
    assert (card["name"], card["changed"]) == ("test@motion.stride=1", {"streams.motion.stride": 1})
    assert card["stores"]["motion"] != usual["stores"]["motion"]
    assert card["stores"]["spatial"] == usual["stores"]["spatial"]
    assert "at test time" in call(f"evaluate plain --spec-set {stride}").stdout
    assert "key=value" in call("evaluate plain --spec-set stride", code=2).stderr
    assert "nearest" in call("evaluate plain --spec-set streams.motion.strid=1", code=2).stderr


def test_scores_of_groups_are_shown_and_many_are_cut_short(
    lab: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = document(call("evaluate plain --by signer,source --json"))
    assert [(group["value"], group["n"]) for group in card["groups"]["signer"]] == [(None, 3)]
    assert {group["n"] for group in card["groups"]["source"]} == {1}
    monkeypatch.setattr("spamo_cache.cli.scores.GROUPS_SHOWN", 2)
    told = call("evaluate plain --by signer,source").stdout
    assert "By source: 3 groups" in told
    assert "(no value)" in told
    assert "and 1 more group of 1 clip" in told
    assert "choose among id, split" in call("evaluate plain --by topic", code=2).stderr
    call("report plain -o page.html")
    assert "By source" in (lab / "page.html").read_text(encoding="utf-8")
