"""From features to scores with a decoder-only LLM, and with in-context pairs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import ConfigError
from spamo_cache.evaluate import evaluate, translate_features
from spamo_cache.runs.load import load_run
from spamo_cache.train.data import examples
from spamo_cache.train.official import export_checkpoint
from tests.support import decoders


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return decoders.make(tmp_path_factory.mktemp("llama"), "Llama")


@pytest.mark.slow
def test_a_decoder_only_model_from_features_to_scores(toy, llama, tmp_path):
    _, stores = toy.corpus()
    config = toy.pipeline(
        llm={"weights": str(llama), "tuning": {"r": 4}},
        translate={"steps": 12, "batch": 4, "lr": 1e-2, "eval_every": 6},
    )
    summary = toy.run(tmp_path / "run", config)
    assert summary.recall is not None
    assert evaluate(tmp_path / "run", "test", stores=stores, device="cpu").n == 6
    with (tmp_path / "run" / "metrics.jsonl").open() as file:
        losses = [line["lm"] for line in map(json.loads, file) if "lm" in line]
    assert losses[-1] < losses[0]
    loaded = load_run(tmp_path / "run", device="cpu")
    with (tmp_path / "run" / "evaluation" / "test.hypotheses.jsonl").open() as file:
        lines = list(map(json.loads, file))
    for line in lines:
        rows = {name: store._arrays[line["id"]] for name, store in stores.items()}
        assert translate_features(loaded, rows) == line["hypothesis"]
    with pytest.raises(ConfigError, match="official release's model"):
        export_checkpoint(tmp_path / "run", tmp_path / "out.ckpt")


@pytest.mark.slow
def test_pairs_come_with_every_batch(toy, tmp_path):
    manifest, stores = toy.corpus()
    clips = [
        replace(clip, extra={"text_en": f"{clip.split} {number}"})
        for number, clip in enumerate(manifest.clips())
    ]
    manifest = Manifest.from_clips("toy", clips)
    config = toy.pipeline(
        llm={"weights": "llm", "in_context_languages": ["en"], "tuning": {"r": 4}},
        translate={"steps": 2, "batch": 4, "lr": 1e-3},
    )
    toy.run(tmp_path, config, manifest=manifest, stores=stores)
    assert evaluate(tmp_path, "test", stores=stores, device="cpu").n == 6
    loaded = load_run(tmp_path, device="cpu")
    data = examples(config, manifest, stores, "test", loaded.translator.tokens)
    plain = len(loaded.translator.prompt)
    assert min(data.batch([0, 1]).prompts.sizes) > plain
    drawn = {tuple(data.batch([0], draw).prompts.rows.tolist()) for draw in range(8)}
    assert len(drawn) > 1
    rows = {name: np.asarray(store._arrays["test/0"]) for name, store in stores.items()}
    assert isinstance(translate_features(loaded, rows), str)
