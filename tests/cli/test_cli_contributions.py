"""Which frames of a clip speak for its translation, and what frames are kept of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from spamo_cache import io

pytestmark = pytest.mark.slow

Call = Callable[..., Result]
Enter = Callable[[Path, pytest.MonkeyPatch], None]
RUN = "runs/frames/tiny"


@pytest.fixture(scope="module")
def trained(made: Path, call: Call, enter: Enter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab with a run that was evaluated; its tiny LLM babbles."""
    folder = tmp_path_factory.mktemp("contributions")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        call("extract --manifest manifest.csv --dataset frames --spec spec.yaml --executor serial")
        call("train pipeline.yaml")
        call(f"evaluate {RUN}")
    return folder


@pytest.fixture
def lab_of_run(trained: Path, enter: Enter, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(trained, monkeypatch)
    shutil.rmtree(trained / RUN / "analysis", ignore_errors=True)
    return trained / RUN / "analysis" / "attribution"


def test_frames_are_kept_beside_the_curves(lab_of_run: Path, call: Call) -> None:
    found = json.loads(call(f"analyze {RUN} --clip test-1 --root . --json").stdout)[RUN]["test-1"]
    (kept,) = lab_of_run.glob("*.json")
    assert io.read_json(kept) == found
    # 13 frames; the one window is filled up with the last of them.
    assert (found["unit"], found["length"], found["without"]) == ("frame", 13, None)
    motion, spatial = (found["streams"][name] for name in ("motion", "spatial"))
    assert (motion["first"], motion["last"]) == ([0], [12])
    assert spatial["first"] == spatial["last"] == list(range(13))
    assert motion["curve"] == pytest.approx([motion["rows"][0] / 13] * 13, abs=2e-6)
    assert spatial["curve"] == spatial["rows"]
    assert motion["share"] + spatial["share"] == pytest.approx(1.0)
    assert [shot["at"] for shot in found["shots"]] == sorted(
        {(2 * i + 1) * 13 // 16 for i in range(8)}
    )
    for shot in found["shots"]:
        with Image.open(lab_of_run / shot["file"]) as picture:
            assert (picture.format, picture.height) == ("JPEG", 96)


def test_a_number_stands_for_the_worst_and_the_best(
    lab_of_run: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A home that does not remember where the corpus was extracted from.
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    shown = call(f"analyze {RUN} --clip 2").stdout
    assert {json.loads(path.read_text())["clip"] for path in lab_of_run.glob("*.json")} == {
        "test-0",
        "test-1",
    }
    assert "the folder of the raw corpus is not known" in shown
    assert not list(lab_of_run.glob("*.jpg"))


def test_another_corpus_gives_no_frames(lab_of_run: Path, call: Call, tmp_path: Path) -> None:
    call(f"analyze {RUN} --clip test-1 --root {tmp_path}")
    (kept,) = lab_of_run.glob("*.json")
    assert "cannot be read" in json.loads(kept.read_text(encoding="utf-8"))["without"]
    # Fewer frames than the features are of.
    shutil.copytree("frames/test-0", tmp_path / "frames/test-1")
    (tmp_path / "frames/test-1/longer").mkdir()
    for number in range(60):
        shutil.copy("frames/test-0/0000.png", tmp_path / f"frames/test-1/1{number:03}.png")
    call(f"analyze {RUN} --clip test-1 --root {tmp_path}")
    assert "other frames" in json.loads(kept.read_text(encoding="utf-8"))["without"]


def test_clips_that_are_not_there_are_refused(lab_of_run: Path, call: Call) -> None:
    assert "nearest is 'test-1'" in call(f"analyze {RUN} --clip test-9", code=2).output
    assert not lab_of_run.exists()
