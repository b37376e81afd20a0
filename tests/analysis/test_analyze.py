from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spamo_cache.analysis import analyze
from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.train import MemoryFeatures, train

GOLDEN = Path(__file__).parents[1] / "golden" / "translator"
WORDS = [
    "regen",
    "sonne",
    "wind",
    "schnee",
    "nebel",
    "wolken",
    "norden",
    "süden",
    "morgen",
    "nacht",
]


def corpus() -> tuple[Manifest, MemoryFeatures]:
    """Ten sentences of one word; a clip's rows are its word's own direction and some noise."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(len(WORDS), 32))
    clips, arrays = [], {}
    for split, copies in (("train", 4), ("dev", 1), ("test", 2)):
        for copy in range(copies):
            for word, direction in zip(WORDS, directions, strict=True):
                name = f"{split}-{word}-{copy}"
                known = {"source": f"{name}.mp4", "language": "German", "extra": {}}
                clips.append(Clip(id=name, split=split, text=word, **known))
                rows = direction + 0.1 * rng.normal(size=(12, 32))
                arrays[name] = rows.astype(np.float16)
    return Manifest.from_clips("words", clips), MemoryFeatures(arrays)


def trained(out: Path, steps: int) -> tuple[Manifest, MemoryFeatures]:
    manifest, features = corpus()
    stage = {"batch": 10, "lr": 3e-3}
    pipeline = Pipeline.model_validate(
        {
            "name": "words",
            "question": "Is alignment measured?",
            "corpus": "words",
            "spec": "none",
            "streams": ["spatial"],
            "text": {"language": "German"},
            "adapter": {"width": 32, "tcn": "k3 p2", "scale": "embeddings"},
            "llm": {"weights": str(GOLDEN / "llm")},
            "align": stage | {"steps": steps, "center": True},
            "translate": stage | {"steps": 0},
        }
    )
    stores = {"spatial": features}
    train(pipeline, base=GOLDEN, manifest=manifest, stores=stores, out=out, device="cpu")
    return manifest, features


def test_alignment_is_at_chance_before_and_perfect_after_it_was_learnt(tmp_path: Path) -> None:
    found = {}
    for steps in (1, 60):
        run = tmp_path / f"run{steps}"
        manifest, features = trained(run, steps)
        found[steps] = analyze(run, manifest=manifest, stores={"spatial": features}, device="cpu")
        assert json.loads((run / "analysis/test.json").read_text()) == found[steps]
    assert (found[60]["clips"], found[60]["sentences"], found[60]["split"]) == (20, 10, "test")
    assert found[60]["chance_at_1"] == 0.1
    assert found[1]["recall_at_1"] <= 0.5
    assert found[60]["recall_at_1"] >= 0.9
    assert found[60]["own_cosine"] > found[60]["other_cosine"] + 0.3
    assert found[60]["median_rank"] == 1.0


def test_other_features_and_no_run_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    manifest, features = trained(run, 1)
    assert features.width == 32
    zeros = np.zeros((12, 32), np.float16)
    other = MemoryFeatures({clip.id: zeros for clip in manifest.clips()})
    with pytest.raises(StoreError, match="was trained from"):
        analyze(run, manifest=manifest, stores={"spatial": other}, device="cpu")
    with pytest.raises(UsageError):
        analyze(tmp_path / "absent")
    assert not (run / "analysis").exists()
