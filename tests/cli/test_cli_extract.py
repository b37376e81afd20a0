"""What ``extract`` says: before, during and after the work."""

import errno
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from spamo_cache import config
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.extract import estimate, extraction
from spamo_cache.store import attributes
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.writer import StoreWriter
from spamo_cache.workflow import stores

Call = Callable[..., Result]

CORPUS = "--manifest manifest.csv --dataset frames"
EXTRACT = "extract --manifest manifest.csv --dataset frames --spec spec.yaml --executor serial"


def events(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.slow
def test_the_log_tells_progress_failures_and_last_the_summary(lab: Path, call: Call) -> None:
    (lab / "frames" / "test-1" / "0003.png").write_bytes(b"\x89PNG and nothing more")
    result = call(EXTRACT, "--json", code=1)
    *log, summary = events(result)
    assert {line["event"] for line in log} == {"progress", "failure"}
    (failure,) = (line for line in log if line["event"] == "failure")
    assert failure["clip"] == "test-1"
    assert summary["event"] == "summary"
    assert summary["failed"] == [["test-1", failure["reason"]]]
    last = [line for line in log if line["event"] == "progress"][-1]
    assert (last["clips"], last["clips_total"], last["failures"]) == (10, 10, 1)
    assert last["done"] == last["total"] == summary["frames"]
    assert (last["task"], last["of"], last["unit"]) == ("extract", "frames", "frames")
    assert last["seconds_left"] == 0
    assert result.stderr.splitlines()[-1].endswith("rerun with --retry-failed")


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_done(
    lab: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    told = call(EXTRACT, "--dry-run --calibrate").stdout
    assert "spatial rows   158 (one per frame)" in told
    assert "(one per window)" in told
    thinned = call(EXTRACT, "--dry-run --set streams.spatial.stride=4").stdout
    assert "(one per 4 frames)" in thinned
    assert "to compute     10" in told
    assert "frames/s measured" in told
    assert "you, now" in told
    assert not (lab.parent / "home" / "features").exists()
    call(EXTRACT, "--dry-run --calibrate", "--split train", "--limit 2")
    call(EXTRACT, "--calibrate", code=2)


@pytest.mark.slow
def test_a_sample_is_copied_into_the_whole(lab: Path, call: Call) -> None:
    call(EXTRACT, "--limit 1")
    told = call(EXTRACT, "--dry-run").stdout
    assert "to copy        3" in told
    assert "to compute     7" in told
    assert told.count("clips held by") == 2
    done = call(EXTRACT).stdout
    assert "copied         3" in done
    assert "computed       7" in done


@pytest.mark.slow
def test_a_store_made_from_python_is_the_store_of_the_command_line(
    lab: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # When, by whom: of the partitions, and of the store.
    monkeypatch.setattr(attributes, "now", lambda: "then")
    call(EXTRACT)
    manifest = Manifest.read(lab / "manifest.csv", corpus="frames")
    spec = config.load(lab / "spec.yaml", config.CacheSpec)
    made = extraction.extract(
        manifest, lab, spec, lab, store_root=lab / "python", executor="serial"
    )
    for store in made.stores.values():
        twin = lab.parent / "home" / "features" / "frames" / Path(str(store)).name
        assert plain(Path(str(store))) == plain(twin)
        assert (Path(str(store)) / "manifest.parquet").is_file()


def plain(store: Path) -> dict[str, object]:
    """Everything in a store; of receipts all but what tells who made it and when."""
    found: dict[str, object] = {}
    for path in store.rglob("*"):
        name = path.relative_to(store).as_posix()
        if name.startswith("receipts/") and name[9:10].isdigit():
            receipt = json.loads(path.read_bytes())
            found[name] = {k: v for k, v in receipt.items() if k not in {"provenance", "sha256"}}
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


@pytest.mark.parametrize(
    "mistake",
    [
        "--streams spatail",
        "--split tset",
        "--set streams.motion.strid=4",
        "--device tpu",
        "--workers 0",
        "--slurm nowhere.yaml",
        "--executor serial --scheduler tcp://127.0.0.1:9",
        "--spec nowhere.yaml",
    ],
)
def test_mistakes_are_told_before_a_corpus_is_drawn(lab: Path, call: Call, mistake: str) -> None:
    call("extract --size 28", mistake, code=2)
    assert not (lab.parent / "home").exists()


def test_a_home_that_cannot_be_written_is_told_before_anything_is_computed(
    lab: Path, call: Call
) -> None:
    (lab.parent / "home").write_text("no folder")
    told = call(EXTRACT, "--store features", code=2).stderr
    assert "SPAMO_HOME" in told
    assert not (lab / "features").exists()


@pytest.mark.slow
def test_features_without_their_note_are_complete(
    lab: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of SPAMO_HOME fills up while features are written to another one."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "home/stores.json")

    with monkeypatch.context() as patch:
        patch.setattr(stores, "remember", full)
        told = call(EXTRACT, "--split dev", code=1).stderr
    assert "error: the features are complete" in told
    assert "No space left on device" in told
    assert "computed twice" in told
    assert "there already  2" in call(EXTRACT, "--split dev").stdout


@pytest.mark.slow
def test_whom_it_waits_for_is_told(lab: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run has claimed the partitions, and lets go of them after a while."""
    call(EXTRACT, "--split dev")
    (store,) = (lab.parent / "home" / "features" / "frames").glob("motion-*.zarr")
    leases = StoreWriter.at(store).leases
    name = str(FeatureStore.open(store).slot("test-0").partition)
    for option in ("", "--json"):
        with ExitStack() as theirs:
            assert theirs.enter_context(leases.hold(name))
            monkeypatch.setattr(extraction.time, "sleep", lambda _, let_go=theirs.close: let_go())
            holder = str(leases.live()[name])
            result = call(EXTRACT, "--split test --retry-failed", option)
        if option:
            waiting = [line["for"] for line in events(result) if line["event"] == "waiting"]
            assert waiting == [[holder], []]
        else:
            assert f"waiting for {holder}" in result.stderr
            (receipt,) = store.glob(f"receipts/{name}.json")
            receipt.unlink()


@pytest.mark.slow
def test_training_and_evaluation_read_the_same_store_under_other_splits(
    lab: Path, call: Call
) -> None:
    manifest = lab / "manifest.csv"
    written = manifest.read_text(encoding="utf-8")
    manifest.write_text(written.replace(",dev,", ",valid,"), encoding="utf-8")
    call(EXTRACT)
    refused = call("train pipeline.yaml", code=2).stderr
    assert "call one 'dev' in the manifest" in refused
    # One clip goes from training to dev besides, and one from test to training.
    moved = written.replace("train-5,train", "train-5,dev").replace("test-1,test", "test-1,train")
    manifest.write_text(moved, encoding="utf-8")
    *_, summary = events(call(EXTRACT, "--json"))
    assert (summary["reused"], summary["computed_frames"], summary["copied"]) == (10, 0, 0)
    call("train pipeline.yaml -o run")
    card = json.loads(call("evaluate run --split dev --json").stdout)
    assert card["n"] == 3
    # All clips are dealt anew: the stores are read as they lie.
    features = lab.parent / "home" / "features"
    before = {path: path.read_bytes() for path in features.rglob("*") if path.is_file()}
    shards = {path: path.stat().st_mtime_ns for path in before if path.parent.name == "features"}
    call(f"manifest {CORPUS} --resplit sentence --folds 3 --seed 1 -o folds")
    assert len(list(lab.glob("folds/*.parquet"))) == 3
    fewer = call(f"manifest {CORPUS} --resplit sentence --folds 2 -o folds", code=2)
    assert "holds fold-3.parquet already, which is not one of these 2 folds" in fewer.stderr
    again = f"extract --manifest folds/fold-2.parquet --root {lab} --spec spec.yaml"
    *_, summary = events(call(again, "--executor serial --json"))
    assert (summary["reused"], summary["computed_frames"], summary["copied"]) == (10, 0, 0)
    call("train pipeline.yaml --manifest folds/fold-2.parquet -o fold-2")
    card = json.loads(call("evaluate fold-2 --json").stdout)
    assert (card["resplit"], card["n"]) == ("fold 2 of 3 by sentence, seed 1", 3)
    assert "seen-in-training" not in {one["kind"] for one in card["warnings"]}
    assert before == {path: path.read_bytes() for path in features.rglob("*") if path.is_file()}
    assert shards == {path: path.stat().st_mtime_ns for path in shards}


def test_what_cannot_be_split_anew_is_told_in_words(lab: Path, call: Call) -> None:
    told = call(f"manifest {CORPUS} --resplit signer", code=2).stderr
    assert "10 of 10 clips have no signer" in told
    assert "--resplit signer" in call(f"manifest {CORPUS} --folds 2", code=2).stderr
    told = call(f"manifest {CORPUS} --resplit sentence -o split.csv", code=2).stderr
    assert "CSV cannot say how it was split" in told
