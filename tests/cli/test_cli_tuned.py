"""Encoders tuned from frames by the command line, on the bundled corpus and its networks."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import Result

from spamo_cache.datasets import signed_weather
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import UsageError, VideoError
from spamo_cache.train.features import Bank
from spamo_cache.workflow import resolve
from spamo_cache.workflow.frames import input_streams
from spamo_cache.workflow.stores import pipeline_stores

Call = Callable[..., Result]
Enter = Callable[[Path, pytest.MonkeyPatch], None]

pytestmark = pytest.mark.slow

FEW = (
    "--set align.batch=4 --set translate.batch=4 --set translate.steps=2"
    " --set translate.eval_every=2 --set decode.beams=1"
)
TUNED = f"{FEW} --set align.steps=0 --set init_from=frozen --set encoders.blocks=2"


@pytest.fixture(scope="module")
def done(call: Call, enter: Enter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips with their features, and a short run that read these."""
    folder = tmp_path_factory.mktemp("few")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        signed_weather.make(folder / "corpus", 28, workers=1)
        call("extract --root corpus --executor serial")
        call(f"train {FEW} --set align.steps=2 -o frozen")
    return folder


@pytest.fixture
def lab(done: Path, enter: Enter, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(done, monkeypatch)
    return done


@pytest.fixture
def tuned(lab: Path, call: Call) -> Path:
    call(f"train {TUNED} --root corpus -o tuned")
    return lab / "tuned"


def test_trains_and_evaluates_from_frames(tuned: Path, call: Call) -> None:
    weights = load_file(tuned / "model.safetensors")
    for stream in ("spatial", "motion"):
        learnt = [v for name, v in weights.items() if name.startswith(f"encoders.{stream}.")]
        # Two blocks, in each the attention's two layers, of each the LoRA's two matrices.
        assert len(learnt) == 8
        assert all(value.any() for value in learnt)
    told = json.loads((tuned / "done.json").read_text())
    frozen = json.loads((tuned.parent / "frozen" / "done.json").read_text())
    assert told["steps"] == frozen["steps"] == 2
    assert told["trained"] > frozen["trained"]
    assert told["step_seconds"] > frozen["step_seconds"]
    card = json.loads(call(f"evaluate {tuned} --root corpus --json").stdout)
    assert card["n"] == len(Manifest.read(tuned / "manifest.parquet").clips("test"))
    assert "there already" in call(f"train {TUNED} --root corpus -o tuned").stdout


def test_fresh_encoders_give_what_the_stores_hold(lab: Path) -> None:
    """To the rounding of the stores' float16, for every row of every clip."""
    pipeline, path = resolve.named_pipeline("signed-weather", ["encoders.blocks=4"])
    table, stores = pipeline_stores(pipeline, path.parent)
    streams = input_streams(pipeline, stores, path.parent, lab / "corpus")
    ids = [clip.id for clip in table.clips()]
    for name, store in stores.items():
        packed = Bank({name: streams[name]}, ids, max_frames=512, memory=0).packed(range(len(ids)))
        with torch.no_grad():
            found = streams[name].encoder(packed[name].rows).numpy()  # type: ignore[attr-defined]
        kept = np.concatenate(store.read(ids)).astype(np.float32)
        assert found.shape == kept.shape
        np.testing.assert_allclose(found, kept, rtol=2**-10, atol=2e-4)


def test_other_commands_say_that_they_read_features(tuned: Path, call: Call) -> None:
    for command in (f"analyze {tuned}", f"train -o {tuned} --export-official file.ckpt"):
        said = call(command, code=2).stderr
        assert "can only be evaluated, from the corpus's frames" in " ".join(said.split())


def test_a_corpus_that_changed_is_not_trained_on(lab: Path, tmp_path: Path) -> None:
    shutil.copytree(lab / "corpus", tmp_path / "corpus")
    pipeline, path = resolve.named_pipeline("signed-weather", ["encoders.blocks=1"])
    table, stores = pipeline_stores(pipeline, path.parent)
    streams = input_streams(pipeline, stores, path.parent, tmp_path / "corpus")
    clip = table.clips("train")[0]
    with (tmp_path / "corpus" / clip.source).open("ab") as file:
        file.write(b"more")
    with pytest.raises(VideoError, match="not the clip that was extracted"):
        Bank(streams, [clip.id], max_frames=512, memory=0).packed([0])


def test_other_corpora_have_to_be_named(lab: Path) -> None:
    pipeline, path = resolve.named_pipeline("phoenix14t", ["encoders.blocks=1"])
    with pytest.raises(UsageError, match="takes the frames") as told:
        input_streams(pipeline, {}, path.parent, None)
    assert "--root DIR" in str(told.value)
