"""Several runs by one command, and long videos in windows."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from typer.testing import Result

from spamo_cache.config import Pipeline
from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.workflow.translate import Translation, windows

Call = Callable[..., Result]

EXTRACT = "extract --manifest manifest.csv --dataset frames --spec spec.yaml --executor serial"


def last(result: Result) -> Any:
    """The summary, after the events."""
    *events, summary = map(json.loads, result.stdout.splitlines())
    assert {event["event"] for event in events} <= {"notice", "progress", "run", "warning"}
    assert summary["event"] == "summary"
    return summary


@pytest.mark.slow
@pytest.mark.usefixtures("quick_python")
def test_seeds_are_runs_side_by_side_and_are_reused(extracted: Path, call: Call) -> None:
    found = last(call("train pipeline.yaml --seeds 2 --json"))
    assert [run["path"] for run in found["runs"]] == [f"runs/frames/tiny-{n}" for n in (0, 1)]
    (experiment,) = found["experiments"]
    assert (experiment["name"], experiment["runs"]) == ("tiny", 2)
    first, second = (
        (extracted / "runs/frames" / f"tiny-{n}" / "model.safetensors").read_bytes() for n in (0, 1)
    )
    assert first != second
    again = last(call("train pipeline.yaml --seeds 3 --json"))
    assert [run["reused"] for run in again["runs"]] == [True, True, False]
    table = call("train pipeline.yaml --seeds 3").stdout
    assert "deviation" in table
    assert "runs/frames/tiny-2" in table


@pytest.mark.slow
@pytest.mark.usefixtures("quick_python")
def test_a_sweep_trains_each_combination(extracted: Path, call: Call) -> None:
    text = (extracted / "pipeline.yaml").read_text(encoding="utf-8")
    (extracted / "swept.yaml").write_text(
        text + "sweep:\n  translate.lr: [1e-4, 1e-3]\n  streams: [[spatial], [spatial, motion]]\n"
    )
    found = last(call("train swept.yaml -o sweep --jobs 1 --json"))
    names = [Path(run["path"]).name for run in found["runs"]]
    assert names == [
        "tiny-lr-0.0001-streams-spatial",
        "tiny-lr-0.0001-streams-spatial-motion",
        "tiny-lr-0.001-streams-spatial",
        "tiny-lr-0.001-streams-spatial-motion",
    ]
    assert {run["path"] for run in found["runs"]} == {f"sweep/{name}" for name in names}
    assert "lr: 0.0001" in (extracted / "sweep" / names[0] / "config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_python")
def test_a_run_that_fails_leaves_the_others(extracted: Path, call: Call) -> None:
    """Here because another run is in its place."""
    call("train pipeline.yaml --set translate.steps=1 -o failing/tiny-0")
    result = call("train pipeline.yaml --seeds 2 --jobs 1 -o failing --json", code=1)
    assert [run["path"] for run in last(result)["runs"]] == ["failing/tiny-1"]
    assert "failed: tiny-0: holds a run of something else" in result.stderr


def test_processes_of_a_launcher_train_each_run_together(
    extracted: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other in this process, whose results others of them do not print again."""
    train = import_module("spamo_cache.train")

    trained: list[int] = []

    def noted(pipeline: Pipeline, **options: Any) -> None:
        trained.append(pipeline.seed)
        raise SpamoError("diverged")

    monkeypatch.setattr(train, "train", noted)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        result = call("train pipeline.yaml --seeds 2 -o launched", code=1)
        assert ("failed: tiny-1: diverged" in result.stderr) is said
    assert trained == [0, 1, 0, 1]


def test_what_another_process_tells_is_not_told_twice(
    extracted: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = import_module("spamo_cache.train")

    def failing(*_, **__):
        error = UsageError("is taken")
        error.heard = heard
        raise error

    monkeypatch.setattr(train, "train", failing)
    for heard in (False, True):
        told = call("train pipeline.yaml -o taken", code=2).output
        assert ("is taken" in told) is not heard


def film(path: Path, frames: int = 25, rate: int = 10) -> None:
    """A video of noise."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            picture = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def test_windows_cover_a_video_to_its_end(tmp_path: Path) -> None:
    film(tmp_path / "long.mp4")
    whole = Translation(tmp_path / "long.mp4", None, None)

    def times(found: list[Translation]) -> list[tuple[float, float]]:
        return [(round(one.start or 0, 3), round(one.end or 0, 3)) for one in found]

    assert times(windows(whole, 1.0, 0.5)) == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5)]
    # The last one is as long as the others, for which it begins earlier.
    assert times(windows(whole, 1.0, 0.0)) == [(0, 1), (1, 2), (1.5, 2.5)]
    assert times(windows(whole, 9.0, 1.0)) == [(0, 2.5)]
    part = Translation(whole.video, 0.4, 2.0)
    assert times(windows(part, 1.0, 0.0)) == [(0.4, 1.4), (1.0, 2.0)]


def test_windows_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="overlap"):
        windows(Translation(tmp_path / "any.mp4", None, None), 1.0, 1.0)
    with pytest.raises(UsageError, match="without times"):
        windows(Translation(tmp_path, None, None), 1.0, 0.0)


@pytest.mark.slow
def test_a_window_is_translated_like_that_range(extracted: Path, call: Call) -> None:
    film(extracted / "long.mp4")
    call("train pipeline.yaml")
    run = "translate runs/frames/tiny long.mp4"
    found = json.loads(call(f"{run} --window 1 --json").stdout)
    assert [(one["start"], one["end"]) for one in found] == [(0, 1), (1, 2), (1.5, 2.5)]
    alone = json.loads(call(f"{run} --start 1 --end 2 --json").stdout)
    assert alone == [{"video": "long.mp4", "text": found[1]["text"]}]
    (extracted / "broken.mp4").write_bytes(b"no video")
    lines = call(f"{run} broken.mp4 --window 1", code=1).stdout.splitlines()
    assert [line.split("\t")[:2] for line in lines][:2] == [
        ["long.mp4", "0.00-1.00"],
        ["long.mp4", "1.00-2.00"],
    ]
    assert lines[3:] == ["broken.mp4\t-\t"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifest.parquet", "stores.json"])
def test_a_damaged_note_of_the_last_extraction_is_one_clear_error(
    extracted: Path, call: Call, name: str
) -> None:
    note = extracted / "home" / "extracted" / "frames" / name
    data = note.read_bytes()
    for place in (len(data) // 3, len(data) // 2, len(data) - 8):
        damaged = bytearray(data)
        damaged[place] ^= 4
        note.write_bytes(damaged)
        assert name in call("train pipeline.yaml -o never", code=1).stderr
    call(EXTRACT)
    assert note.read_bytes() == data
    assert not Path("never").exists()
