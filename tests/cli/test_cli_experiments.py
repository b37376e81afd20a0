"""`reproduce --all`: shared runs, a kill in the middle, a variant that fails, work left alone."""

import asyncio
import json
import os
import select
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from spamo_cache.runs.folder import exclusive
from tests.support.launcher import Launch

Call = Callable[..., Result]
Enter = Callable[[Path, pytest.MonkeyPatch], None]

LINE = (
    "reproduce frames --manifest manifest.csv --pipeline pipeline.yaml --executor serial -o out "
    "--all --device cpu --quick"
)
BOTH = "--only streams,windows"
STREAMS = """\
name: streams
question: What does each stream add?
variants:
  both: {label: both}
  spatial: {label: spatial alone, set: {streams: [spatial]}}
"""
WINDOWS = """\
name: windows
question: How dense must windows be?
axis: {label: frames}
variants:
  trained-4: {label: every 4, x: 4, set: {spec_set: {streams.motion.stride: 4}}}
  tested-4: {label: tested with every 4, x: 4, eval_spec_set: {streams.motion.stride: 4}}
  broken: {label: an LLM that is not there, set: {llm.weights: ./nowhere}}
"""


def laboratory(made: Path, folder: Path) -> Path:
    shutil.copytree(made, folder, dirs_exist_ok=True)
    (folder / "experiments").mkdir()
    (folder / "experiments" / "streams.yaml").write_text(STREAMS, encoding="utf-8")
    (folder / "experiments" / "windows.yaml").write_text(WINDOWS, encoding="utf-8")
    return folder


def results(folder: Path) -> Any:
    return json.loads((folder / "out" / "experiments" / "results.json").read_text())


def runs(document: Any) -> dict[str, dict[str, Any]]:
    """Experiment/variant -> its only run."""
    return {
        f"{experiment['name']}/{variant['name']}": variant["runs"][0]
        for experiment in document["experiments"]
        for variant in experiment["variants"]
        if variant["runs"]
    }


@pytest.fixture(scope="module")
def done(
    made: Path,
    call: Call,
    enter: Enter,
    launch: Launch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A laboratory after all of it, in one go."""
    folder = laboratory(made, tmp_path_factory.mktemp("experiments"))
    with pytest.MonkeyPatch.context() as patch, launch.as_python():
        enter(folder, patch)
        said = call(LINE, BOTH, "--jobs 2", code=1)
    assert "windows/broken, seed 0: is no folder of a model" in said.stderr
    assert "p: against what the report holds a variant against" in said.stdout
    return folder


@pytest.fixture
def fresh(made: Path, enter: Enter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A laboratory in which nothing has been done, as the working directory."""
    folder = laboratory(made, tmp_path / "lab")
    enter(folder, monkeypatch)
    return folder


@pytest.mark.slow
def test_every_variant_has_a_run_and_equal_ones_the_same(done: Path) -> None:
    document = results(done)
    assert (document["corpus"], document["set"], document["seeds"]) == ("frames", [], [0])
    assert [one["name"] for one in document["experiments"]] == ["streams", "windows"]
    assert document["experiments"][1]["axis"] == {"label": "frames", "log": False}
    found = runs(document)
    assert found["windows/tested-4"]["path"] == found["streams/both"]["path"]
    assert found["windows/trained-4"]["path"] != found["streams/both"]["path"]
    assert found["windows/broken"]["evaluation"] is None
    for name, one in found.items():
        if name != "windows/broken":
            assert one["error"] is None
            run = done / "out" / "experiments" / one["path"]
            card = json.loads((run / "evaluation" / f"{one['evaluation']}.json").read_text())
            changed = {"streams.motion.stride": 4} if name == "windows/tested-4" else {}
            assert (card["split"], card["changed"]) == ("test", changed)
    assert "<html" in (done / "out" / "experiments" / "report.html").read_text(encoding="utf-8")
    # One spatial store for all, and a motion store for each stride.
    stores = sorted(path.name.split("-")[0] for path in (done / "home").rglob("*.zarr"))
    assert stores == ["motion", "motion", "spatial"]


@pytest.mark.slow
def test_what_is_there_is_not_done_again(
    done: Path, call: Call, enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(done, monkeypatch)
    before = results(done)
    told = call(LINE, BOTH, "--dry-run").stdout
    assert told.count("there") >= 3
    assert "to train" in told  # the broken one

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a child was started")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", started)
    call(LINE, "--only streams")
    assert results(done) == before
    call(LINE, BOTH, code=1)
    assert results(done) == before


@pytest.mark.slow
def test_a_spec_can_be_changed_by_hand(fresh: Path, call: Call) -> None:
    """Only the stream whose spec changed is computed, and `train` finds the store that fits."""
    extract = "extract --manifest manifest.csv --dataset frames --spec spec.yaml --executor serial"
    call(extract)
    changed = "streams.motion.stride=4"
    told = call(extract, f"--set {changed} --dry-run --json").stdout
    held = {
        name: stream["held"]
        for name, stream in json.loads(told.splitlines()[-1])["streams"].items()
    }
    assert held == {"spatial": 10, "motion": 0}
    missing = call(f"train pipeline.yaml --set spec_set.{changed} -o runs/4", code=2).stderr
    assert f"--streams motion --set {changed}" in missing
    call(extract, f"--set {changed}")
    call(f"train pipeline.yaml --set spec_set.{changed} -o runs/4")
    call("train pipeline.yaml -o runs/8")
    stores = [
        json.loads((fresh / "runs" / run / "run.json").read_text())["parts"]["stores"]
        for run in "48"
    ]
    assert stores[0]["spatial"] == stores[1]["spatial"]
    assert stores[0]["motion"] != stores[1]["motion"]
    assert "'stride'" in call(extract, "--set streams.motion.strid=4", code=2).stderr
    video = call("translate runs/4 frames/test-0 --json").stdout
    table = Path("runs/4/evaluation/test.hypotheses.jsonl")
    call("evaluate runs/4")
    assert (
        json.loads(video)[0]["text"] == json.loads(table.read_text().splitlines()[0])["hypothesis"]
    )
    # A run knows its clips, whatever was extracted since.
    call(extract, "--limit 1")
    call(f"evaluate runs/8 --spec-set {changed}")


@pytest.mark.slow
@pytest.mark.usefixtures("quick_python")
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes are watched by pidfd")
def test_killed_and_given_again_it_comes_to_the_same(done: Path, fresh: Path, call: Call) -> None:
    line = f"{LINE} --only streams --jobs 1"
    command = [sys.executable, "-m", "spamo_cache", *shlex.split(line)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stderr is not None
        next(text for text in parent.stderr if "[1/2] tiny-0: BLEU-4" in text)
        next(text for text in parent.stderr if "streams-spatial-0: training" in text)
        watched = list(map(os.pidfd_open, _children(parent.pid)))
        parent.kill()
        for child in watched:
            assert select.select([child], [], [], 60)[0], "a child outlived its parent"
            os.close(child)
    assert len(list((fresh / "out").rglob("done.json"))) == 1
    call(line)
    (streams,), (whole, _) = (results(one)["experiments"] for one in (fresh, done))
    assert streams == whole
    for one in (variant["runs"][0] for variant in streams["variants"]):
        card = Path("out", "experiments", one["path"], "evaluation", one["evaluation"])
        for name in (f"{card}.json", f"{card}.hypotheses.jsonl"):
            assert (fresh / name).read_text() == (done / name).read_text()


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--all --only hands", "choose among streams"),
        ("--only streams", "add --all"),
        ("--quick", "add --all"),
        ("--all --quick --seeds 2", "--quick is one seed"),
    ],
)
def test_what_cannot_be_meant_is_refused(fresh: Path, call: Call, words: str, named: str) -> None:
    assert fresh == Path.cwd()
    line = LINE.replace(" --all", "").replace(" --quick", "")
    assert named in call(line, words, code=2).stderr


def test_two_at_a_time_are_one_too_many(fresh: Path, call: Call) -> None:
    lab = fresh / "out" / "experiments"
    lab.mkdir(parents=True)
    with exclusive(lab / "lock"):
        assert "in use by another process" in call(LINE, BOTH, code=2).stderr
    assert not (lab / "results.json").exists()
