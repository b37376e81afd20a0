"""`reproduce --all`: shared runs, a kill in the middle, a variant that fails, work left alone."""

import json
import os
import select
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import Result

from spamo_cache import devices
from spamo_cache.config import Experiment, Variant
from spamo_cache.errors import SpamoError
from spamo_cache.runs.folder import exclusive
from spamo_cache.workflow.experiments import processes
from spamo_cache.workflow.experiments.plan import Trial
from spamo_cache.workflow.experiments.results import Results
from spamo_cache.workflow.experiments.scheduler import Scheduler

Call = Callable[..., Result]
Enter = Callable[[Path, pytest.MonkeyPatch], None]

LINE = (
    "reproduce frames --manifest manifest.csv --pipeline pipeline.yaml --executor serial -o out "
    "--all --device cpu"
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
    return results_in(folder / "out" / "experiments")


def runs(document: Any) -> dict[str, dict[str, Any]]:
    """Experiment/variant -> its only run."""
    return {
        f"{experiment['name']}/{variant['name']}": variant["runs"][0]
        for experiment in document["experiments"]
        for variant in experiment["variants"]
        if variant["runs"]
    }


@pytest.fixture(scope="module")
def done(made: Path, call: Call, enter: Enter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A laboratory after all of it, in one go."""
    folder = laboratory(made, tmp_path_factory.mktemp("experiments"))
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        said = call(LINE, BOTH, "--jobs 2", code=1)
    assert "windows/broken, seed 0: is no folder of a model" in said.stderr
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

    monkeypatch.setattr(processes.asyncio, "create_subprocess_exec", started)
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
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes are watched by pidfd")
def test_killed_and_given_again_it_comes_to_the_same(done: Path, fresh: Path, call: Call) -> None:
    line = f"{LINE} --only streams --jobs 1"
    command = [sys.executable, "-m", "spamo_cache", *shlex.split(line)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stderr is not None
        next(text for text in parent.stderr if text.startswith("[1/2] tiny-0: BLEU-4"))
        next(text for text in parent.stderr if text.startswith("streams-spatial-0: training"))
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
    [("--all --only hands", "choose among streams"), ("--only streams", "add --all")],
)
def test_what_cannot_be_meant_is_refused(fresh: Path, call: Call, words: str, named: str) -> None:
    assert fresh == Path.cwd()
    line = LINE.replace(" --all", "")
    assert named in call(line, words, code=2).stderr


def test_two_at_a_time_are_one_too_many(fresh: Path, call: Call) -> None:
    lab = fresh / "out" / "experiments"
    lab.mkdir(parents=True)
    with exclusive(lab / "lock"):
        assert "in use by another process" in call(LINE, BOTH, code=2).stderr
    assert not (lab / "results.json").exists()


CARD = Path("runs", "one", "evaluation", "test.json")


@pytest.fixture
def noted(tmp_path: Path) -> Callable[..., list[str]]:
    """Names of the experiments in the table after one, ``now``, has been asked for again."""

    def known(question: str = "which?", base: str = "a") -> list[str]:
        for name, asked in (("before", "a"), ("now", base)):
            wanted = [experiment("before", "which?"), experiment("now", "what?")]
            if name == "now":
                wanted[0] = experiment("before", question)
            table = Results(tmp_path, wanted, [name], base=asked)
            trial = Trial(experiment=name, variant="plain", seed=0, run="key", test={})
            table.add(trial, tmp_path / "runs" / "one", evaluation="test")
        return [one["name"] for one in results_in(tmp_path)["experiments"]]

    (tmp_path / CARD).parent.mkdir(parents=True)
    (tmp_path / CARD).touch()
    return known


def experiment(name: str, question: str) -> Experiment:
    return Experiment(name=name, question=question, variants={"plain": Variant(label="it")})


def results_in(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def test_what_was_found_before_stays(noted: Callable[..., list[str]]) -> None:
    assert noted() == ["before", "now"]


def test_what_no_longer_holds_is_forgotten(noted: Callable[..., list[str]], tmp_path: Path) -> None:
    """The experiment, the base that all share or the scores are not what they were."""
    assert noted(question="which other?") == ["now"]
    assert noted(base="b") == ["now"]
    (tmp_path / CARD).unlink()
    assert noted() == ["now"]


def test_an_analysis_that_a_kill_cut_short_is_done_again(tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []

    class Pool:
        @asynccontextmanager
        async def place(self) -> AsyncIterator[Any]:
            async def call(_: str, folder: str, *options: str) -> None:
                asked.append(options)
                if "--clip" not in options:
                    (Path(folder) / "analysis" / "test.json").touch()

            yield call

    (tmp_path / "analysis" / "attribution").mkdir(parents=True)
    here: Any = SimpleNamespace(corpus_root=Path("corpus"), device="cuda:1")
    nothing: Any = None
    pool: Any = Pool()
    runner = Scheduler(here, nothing, nothing, nothing, pool)
    for _ in range(2):
        processes.asyncio.run(runner._look(tmp_path))
    device = ("--device", "cuda")
    assert asked == [("--clip", "4", "--root", "corpus", *device), device]


def test_places_are_gpus_or_shares_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_gpus", lambda _: ["3", "5"])
    assert [
        place["CUDA_VISIBLE_DEVICES"] for place in processes.worker_envs(None, None, "auto")
    ] == [
        *("3", "5"),
    ]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in processes.worker_envs(3, 1, "cuda")] == [
        *("3", "5", "3"),
    ]
    monkeypatch.setattr(devices, "cpu_cores", lambda: 8)
    assert processes.worker_envs(None, 2, "cpu")[0]["OMP_NUM_THREADS"] == "1"  # the suite's own
    monkeypatch.delenv("OMP_NUM_THREADS")
    several = processes.worker_envs(None, 2, "cpu")
    assert len(several) == 4
    assert several[0]["OMP_NUM_THREADS"] == "2"
    assert several[0]["CUDA_VISIBLE_DEVICES"] == ""
    # Who asks for all cores gets them: as many big models as cores would fill any memory.
    (alone,) = processes.worker_envs(None, None, "cpu")
    assert alone["OMP_NUM_THREADS"] == "8"


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ("a line\nerror: no such file\n  where: x\n  to do: y\n", 2, "no such file where: x"),
        ("Traceback\nValueError: 7\n", 1, "ValueError: 7"),
        ("", -9, "signal 9"),
        ("", 3, "code 3"),
    ],
)
def test_a_failed_command_says_why(said: str, code: int, told: str) -> None:
    assert told in processes._fault(said, code)


def test_errors_of_children_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(pool: processes.ProcessPool) -> None:
        async with pool.place() as call:
            await call("train", "nowhere.yaml")

    with processes.started([{}]) as pool, pytest.raises(SpamoError, match="no such file"):
        processes.asyncio.run(work(pool))
