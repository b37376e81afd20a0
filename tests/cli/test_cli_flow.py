"""The commands on real frames: by hand, then all at once, with the same numbers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import Result

Call = Callable[..., Result]
Enter = Callable[[Path, pytest.MonkeyPatch], None]

pytestmark = pytest.mark.slow

EXTRACT = "extract --manifest manifest.csv --dataset frames --spec spec.yaml --executor serial"
REPRODUCE = (
    "reproduce frames --manifest manifest.csv --pipeline pipeline.yaml --executor serial -o again"
)


def document(result: Result) -> Any:
    """What a command with --json printed; of one that tells its progress, last."""
    try:
        return json.loads(result.stdout)
    except ValueError:
        return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def done(made: Path, call: Call, enter: Enter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab after extract and train, for tests that only add to it."""
    folder = tmp_path_factory.mktemp("done")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        call(EXTRACT)
        call("train pipeline.yaml")
    return folder


@pytest.fixture
def trained(done: Path, enter: Enter, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(done, monkeypatch)
    return done


def test_extract_computes_once(lab: Path, call: Call) -> None:
    extracted = document(call(EXTRACT, "--json"))
    assert (extracted["clips"], extracted["done"], extracted["failed"]) == (10, 10, [])
    for stream in extracted["streams"].values():
        assert Path(stream["store"]).is_dir()
    assert "there already  10" in call(EXTRACT).stdout
    assert "to compute     0" in call(EXTRACT, "--dry-run").stdout


def test_a_broken_clip_fails_the_command_but_not_the_others(lab: Path, call: Call) -> None:
    (lab / "frames" / "test-1" / "0003.png").write_bytes(b"\x89PNG and nothing more")
    result = call(EXTRACT, "--json", code=1)
    assert document(result)["done"] == 9
    assert "failed: test-1 (frames/test-1): " in result.stderr
    call("train pipeline.yaml")
    card = call("evaluate runs/frames/tiny --json")
    assert document(card)["n"] == 2
    assert "failed: test-1" in card.stderr


def test_stage_two_by_hand(trained: Path, call: Call) -> None:
    assert "there already" in call("train pipeline.yaml").stdout
    assert document(call("train pipeline.yaml --json"))["path"] == "runs/frames/tiny"
    card = document(call("evaluate runs/frames/tiny --json"))
    assert card["n"] == 2
    assert set(card["metrics"]) >= {"bleu1", "bleu2", "bleu3", "bleu4", "chrf"}
    table = call("evaluate runs/frames/tiny").stdout
    assert "bleu4" in table
    assert card["signatures"]["bleu4"] in table
    floor = document(call("evaluate runs/frames/tiny --shuffle --json"))
    assert floor["shuffled"]
    said = document(call("translate runs/frames/tiny frames/test-0 --json"))
    lines = (trained / "runs/frames/tiny/evaluation/test.hypotheses.jsonl").read_text().splitlines()
    hypotheses = {line["id"]: line["hypothesis"] for line in map(json.loads, lines)}
    assert said == [{"video": "frames/test-0", "text": hypotheses["test-0"]}]
    page = call("report runs/frames/tiny -o page.html").stdout.strip()
    assert "<html" in Path(page).read_text(encoding="utf-8")
    found = document(call("analyze runs/frames/tiny --json"))
    assert found["runs/frames/tiny"]


def test_a_video_that_cannot_be_read_fails_translate(trained: Path, call: Call) -> None:
    (trained / "broken.mp4").write_bytes(b"no video")
    result = call("translate runs/frames/tiny frames/test-1 broken.mp4", code=1)
    assert result.stdout.splitlines()[0].startswith("frames/test-1\t")
    assert "failed: broken.mp4" in result.stderr


def test_an_unknown_split_is_named(trained: Path, call: Call) -> None:
    assert "tset" in call("evaluate runs/frames/tiny --split tset", code=2).stderr


def test_training_another_experiment_into_a_run_is_refused(trained: Path, call: Call) -> None:
    result = call("train pipeline.yaml --set seed=7", code=2)
    assert "seed" in result.stderr


def test_stores_can_be_listed_checked_shared_and_converted(trained: Path, call: Call) -> None:
    listed = document(call("store ls --json"))
    assert {entry["stream"] for entry in listed} == {"spatial", "motion"}
    assert "frames/spatial" in call("store ls").stdout
    assert document(call("store info frames/spatial --json"))["corpus"] == "frames"
    assert "sound" in call("store verify frames/spatial --deep").stdout
    call("store diff frames/spatial frames/motion", code=1)
    assert "no difference" in call("store diff frames/motion frames/motion").stdout
    call("store push frames/motion other")
    copy = next((trained / "other" / "frames").glob("motion-*.zarr"))
    call("store pull frames/motion --from other --store third")
    call("store export frames/motion motion.h5")
    call("store import motion.h5 -d frames --stream motion --store fourth")
    call("store export frames/motion arrays")
    call(f"store rm {copy} --yes")
    assert not copy.exists()


def test_features_of_others_train_without_an_extraction_of_ones_own(
    trained: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in ("spatial", "motion"):
        call(f"store push frames/{stream} shared")
    call("store export frames/motion foreign.h5")
    monkeypatch.setenv("SPAMO_HOME", str(trained / "colleague"))
    monkeypatch.setenv("SPAMO_CACHE", f"{trained / 'mine'}:{trained / 'shared'}")
    call("train pipeline.yaml", code=2)
    call("train pipeline.yaml --manifest manifest.csv -o runs/shared")
    call("store import foreign.h5 -d frames --stream motion")
    foreign = next((trained / "mine" / "frames").glob("motion-*.zarr"))
    call(f"train pipeline.yaml --manifest manifest.csv --features motion={foreign} -o runs/foreign")


def test_weights_of_one_name_and_other_content_are_not_confused(lab: Path, call: Call) -> None:
    first = document(call(EXTRACT, "--json"))["streams"]["spatial"]["store"]
    weights = lab / "clip-vision" / "model.safetensors"
    tensors = load_file(weights)
    tensors["post_layernorm.bias"] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    call(EXTRACT)
    refused = call("train pipeline.yaml", code=2)
    assert "different weights" in refused.stderr
    assert "--features spatial=" in refused.stderr
    call(f"train pipeline.yaml --features spatial={first}")


def test_a_flipped_bit_is_found_and_repaired(lab: Path, call: Call) -> None:
    extracted = document(call(EXTRACT, "--json"))
    store = Path(extracted["streams"]["spatial"]["store"])
    shard = next(path for path in (store / "features").iterdir() if path.name.startswith("c"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 4
    shard.chmod(0o644)
    shard.write_bytes(data)
    found = call("store verify frames/spatial --deep", code=1).stdout
    assert "clip " in found
    assert "--repair" in found
    call("store verify frames/spatial --deep --repair")
    assert document(call(EXTRACT, "--json"))["done"] > 0
    call("store verify frames/spatial --deep")


def test_reproduce_gives_the_numbers_of_the_commands_and_reuses_everything(
    trained: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand = document(call("evaluate runs/frames/tiny --json"))
    # Another home and folder: nothing of what was made by hand is at hand.
    monkeypatch.setenv("SPAMO_HOME", str(trained / "fresh"))
    told = call(REPRODUCE, "--json")
    first = document(told)
    assert '{"event": "stage", "stage": "train"}' in told.stdout.splitlines()
    assert first["scores"]["metrics"] == by_hand["metrics"]
    assert Path(first["report"]).is_file()
    worked = {stage["name"]: stage["reused"] for stage in first["stages"]}
    assert list(worked) == ["corpus", "manifest", "extract", "train", "evaluate", "report"]
    assert not worked["extract"]
    again = document(call(REPRODUCE, "--json"))
    assert again["scores"] == first["scores"]
    reused = {stage["name"] for stage in again["stages"] if stage["reused"]}
    assert reused >= {"corpus", "extract", "train", "evaluate"}
    shown = call(REPRODUCE).stdout
    assert "to expect" not in shown
    for word in (
        "again/tiny: test split of frames",
        "bleu4",
        "95 % interval",
        "wort 0 im satz",
        "extract",
        "report.html",
    ):
        assert word in shown


def test_manifest_writes_what_it_reads(lab: Path, call: Call) -> None:
    result = call("manifest --manifest manifest.csv --dataset frames --json")
    assert document(result)["clips"] == {"train": 6, "dev": 2, "test": 2}
    call("manifest --manifest frames.parquet -o again.csv")
    assert len((lab / "again.csv").read_text(encoding="utf-8").splitlines()) == 11


def test_doctor_looks_at_a_corpus_and_at_the_machine(lab: Path, call: Call) -> None:
    assert "python" in call("doctor").stdout
    assert not document(call("doctor -d frames --manifest manifest.csv --json"))["failed"]
    shutil.rmtree(lab / "frames" / "test-0")
    result = call("doctor -d frames --manifest manifest.csv", code=1)
    assert "missing" in result.stdout


def test_a_damaged_llm_is_told_before_work_begins(lab: Path, call: Call) -> None:
    """reproduce has extracted nothing then, and train has begun no run."""
    file = lab / "llm" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert "model.safetensors" in call(REPRODUCE, code=1).stderr
    assert not (lab.parent / "home" / "features").exists()
    call(EXTRACT)
    assert "cannot be read" in call("train pipeline.yaml -o run", code=1).stderr
    assert not (lab / "run").exists()
    file.write_bytes(whole)
    call("train pipeline.yaml -o run")
