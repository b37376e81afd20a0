"""The official checkpoint as a run of ours, and back, through the public functions."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from spamo_cache.config import Pipeline, load
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import ConfigError, UsageError, WeightsError
from spamo_cache.evaluate import evaluate, translate_features
from spamo_cache.model.rows import Packed
from spamo_cache.model.tokens import Tokens, padded_ids
from spamo_cache.model.translator import Batch
from spamo_cache.runs.load import load_run
from spamo_cache.train import MemoryFeatures, loop, train
from spamo_cache.train.official import export_checkpoint, import_checkpoint

PLAIN = {
    "name": "golden",
    "question": "does an imported checkpoint give the official release's numbers?",
    "corpus": "golden",
    "spec": "spamo",
    "text": {"language": "German"},
    "adapter": {"width": 24},
    "llm": {"weights": "llm", "tuning": {"dropout": 0}},
    "align": {"steps": 1, "batch": 4, "lr": 1e-3},
    "translate": {"steps": 3, "batch": 4, "lr": 1e-3, "eval_every": 3},
    "decode": {"max_tokens": 23},
    "protocol": {"pool_padding": True},
}


def pipeline(**changes):
    return Pipeline.model_validate(PLAIN | changes)


@pytest.fixture(scope="module")
def features(golden_folder):
    held = load_file(golden_folder / "features.safetensors")
    return {
        stream: {f"c{i}": held[f"{stream}.{i}"].numpy() for i in range(4)}
        for stream in ("spatial", "motion")
    }


@pytest.fixture(scope="module")
def stores(features):
    twins = {
        stream: {f"{split}/{clip}": rows for split in ("train", "dev", "test") for clip, rows in
                 arrays.items()}
        for stream, arrays in features.items()
    }  # fmt: skip
    return {stream: MemoryFeatures(arrays) for stream, arrays in twins.items()}


@pytest.fixture(scope="module")
def corpus(golden_expected, stores):
    """Manifest and stores with the four golden clips in every split."""
    manifest = Manifest.from_clips(
        "golden",
        [
            Clip(id=f"{split}/c{i}", split=split, source=f"{i}.mp4", text=text, language="German")
            for split in ("train", "dev", "test")
            for i, text in enumerate(golden_expected["texts"])
        ],
    )
    return {"manifest": manifest, "stores": stores}


def bring_in(golden_folder, corpus, out, config=None):
    return import_checkpoint(
        golden_folder / "official.ckpt", config or pipeline(), base=golden_folder, out=out, **corpus
    )


@pytest.fixture(scope="module")
def run(golden_folder, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "official"
    bring_in(golden_folder, corpus, out)
    return out


@pytest.fixture(scope="module")
def batch(golden_folder, golden_expected, features):
    streams = {}
    for stream, arrays in features.items():
        clips = [torch.from_numpy(arrays[f"c{i}"]) for i in range(4)]
        streams[stream] = Packed(torch.cat(clips), torch.tensor([len(clip) for clip in clips]))
    labels = padded_ids(Tokens(golden_folder / "llm").encode(golden_expected["texts"]))
    return Batch(streams, labels)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_imported_run_has_the_official_numbers(run, batch, golden_expected, mode):
    expected = golden_expected["expected"][mode]
    translator = load_run(run, device="cpu").translator.train(mode == "train")
    with torch.no_grad():
        sign = translator.adapter(batch.streams)
        logits = translator.llm.logits(translator.inputs(sign), batch.labels)
    translator = load_run(run, device="cpu").translator.train(mode == "train")
    losses = translator(batch, phase="translate")
    assert sign.lengths.tolist() == expected["visual_lengths"]
    assert logits.abs().mean().item() == pytest.approx(expected["logits_abs"], rel=1e-4)
    assert losses["lm"].item() == pytest.approx(expected["lm_loss"], rel=1e-4)
    assert losses["align"].item() == pytest.approx(expected["align_loss"], rel=1e-4)


@pytest.mark.slow
def test_the_imported_run_writes_the_official_sentences(
    run, stores, features, golden_folder, golden_expected
):
    sentences = Tokens(golden_folder / "llm").decode(golden_expected["expected"]["beam5"])
    card = evaluate(run, "test", stores=stores, device="cpu")
    assert card.protocol == "pool_padding"
    lines = (run / "evaluation" / "test.hypotheses.jsonl").read_text().splitlines()
    assert [json.loads(line)["hypothesis"] for line in lines] == sentences
    loaded = load_run(run, device="cpu")
    for clip, sentence in enumerate(sentences):
        rows = {stream: arrays[f"c{clip}"] for stream, arrays in features.items()}
        assert translate_features(loaded, rows) == sentence


def test_export_is_the_checkpoint_that_was_imported(run, golden_folder, tmp_path):
    export_checkpoint(run, tmp_path / "out.ckpt")
    first, second = (
        torch.load(path, weights_only=True)["state_dict"]
        for path in (golden_folder / "official.ckpt", tmp_path / "out.ckpt")
    )
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert torch.equal(value, second[name]), name
    assert [path.name for path in tmp_path.iterdir()] == ["out.ckpt"]


@pytest.mark.slow
def test_import_of_an_export_is_the_same_run(run, corpus, tmp_path):
    export_checkpoint(run, tmp_path / "out.ckpt")
    again = tmp_path / "again"
    config = load(run / "config.yaml", Pipeline)
    import_checkpoint(tmp_path / "out.ckpt", config, base=run, out=again, **corpus)
    # Its LLM is the pipeline's now: nothing of it is kept in the run.
    assert not (again / "imported-llm").exists()
    for name in ("model.safetensors", "resume.safetensors", "config.yaml"):
        assert (again / name).read_bytes() == (run / name).read_bytes()


def go_on(run, corpus, **options):
    config = load(run / "config.yaml", Pipeline)
    return train(config, base=run, out=run, device="cpu", **corpus, **options)


def scored(monkeypatch, *scores):
    """Let the scorings of dev come to ``scores``."""
    upcoming = iter(scores)
    monkeypatch.setattr(loop, "bleu4", lambda *_, **__: next(upcoming))


@pytest.mark.slow
def test_an_imported_run_trains_on(corpus, golden_folder, tmp_path, monkeypatch):
    bring_in(golden_folder, corpus, tmp_path / "run")
    before = load_file(tmp_path / "run" / "model.safetensors")
    scored(monkeypatch, 5.0, 6.0)
    summary = go_on(tmp_path / "run", corpus)
    assert (summary.reused, summary.best_step) == (False, 3)
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert before.keys() == after.keys()
    assert not torch.equal(before["adapter.mlp.0.weight"], after["adapter.mlp.0.weight"])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["stage"] for line in lines} == {"translate"}
    assert go_on(tmp_path / "run", corpus).reused
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["imported"]["name"] == "official.ckpt"


@pytest.mark.slow
def test_imported_weights_stay_until_they_are_beaten(corpus, golden_folder, tmp_path, monkeypatch):
    bring_in(golden_folder, corpus, tmp_path / "run")
    before = load_file(tmp_path / "run" / "model.safetensors")
    scored(monkeypatch, 5.0, 4.0)
    summary = go_on(tmp_path / "run", corpus)
    assert (summary.best_bleu, summary.best_step) == (5.0, 0)
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [(line["step"], line["dev_bleu"]) for line in lines if "dev_bleu" in line] == [
        (0, 5.0),
        (3, 4.0),
    ]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"adapter": {"width": 24, "tcn": "k5 p2"}}, "adapter.tcn"),
        ({"adapter": {"width": 24, "scale": "embeddings"}}, "adapter.scale"),
        ({"adapter": {"width": 24, "fusion": "features"}}, "adapter.fusion"),
        ({"streams": ["motion", "spatial"]}, "streams are motion, spatial"),
        ({"llm": {"weights": "llm", "tuning": {"mode": "full"}}}, "llm.tuning.mode"),
        ({"align": {"steps": 1, "batch": 4, "lr": 1e-3, "center": True}}, "align.center"),
    ],
)
def test_only_the_official_model_is_imported(golden_folder, corpus, tmp_path, changes, named):
    with pytest.raises(ConfigError, match=named):
        bring_in(golden_folder, corpus, tmp_path / "run", pipeline(**changes))
    assert not (tmp_path / "run").exists()


def test_other_widths_are_named(golden_folder, corpus, tmp_path):
    with pytest.raises(WeightsError, match="do not fit the pipeline"):
        bring_in(golden_folder, corpus, tmp_path, pipeline(adapter={"width": 16}))
    assert not list(tmp_path.iterdir())


def test_a_run_is_never_overwritten(golden_folder, corpus, run):
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="holds a run already"):
        bring_in(golden_folder, corpus, run)
    assert (run / "model.safetensors").read_bytes() == before
    assert not list(run.parent.glob(".llm-*"))
