"""Times of stages over several calls."""

from pathlib import Path

import pytest

from spamo_cache import io
from spamo_cache.errors import SpamoError
from spamo_cache.workflow.timings import StageTimings, size_of


def test_reused_stages_keep_the_time_of_their_work(tmp_path: Path) -> None:
    path = tmp_path / "run" / "stages.json"
    with StageTimings(path).stage("extract") as stage:
        stage.bytes = 7
    took = StageTimings(path).all["extract"].seconds
    assert took > 0
    with StageTimings(path).stage("extract") as stage:
        stage.reused = True
    again = StageTimings(path).all["extract"]
    assert (again.seconds, again.bytes, again.reused) == (took, 7, True)


def test_work_that_was_cut_short_counts(tmp_path: Path) -> None:
    path = tmp_path / "stages.json"
    with pytest.raises(KeyboardInterrupt), StageTimings(path).stage("train"):
        raise KeyboardInterrupt
    before = StageTimings(path).all["train"].seconds
    with StageTimings(path).stage("train"):
        pass
    assert StageTimings(path).all["train"].seconds > before > 0


@pytest.mark.parametrize("text", ["{", "[1]", '[{"nam": "x"}]'])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stages.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpamoError, match=r"stages\.json"):
        StageTimings(path)


def test_the_key_that_is_wrong_is_named(tmp_path: Path) -> None:
    io.write_json(tmp_path / "stages.json", {"stages": [{"name": "train", "bytes": "many"}]})
    with pytest.raises(SpamoError, match=r"holds no stages: stages\.0\.bytes: .* integer"):
        StageTimings(tmp_path / "stages.json")


@pytest.mark.slow
def test_sizes_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x").write_bytes(b"123")
    (tmp_path / "a" / "b" / "y").write_bytes(b"4567")
    assert (size_of(tmp_path / "a"), size_of(tmp_path / "a" / "x")) == (7, 3)
