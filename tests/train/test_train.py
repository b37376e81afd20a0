from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from spamo_cache.errors import SpamoError, StoreError, UsageError, WeightsError
from spamo_cache.train import loop

pytestmark = pytest.mark.slow


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_writes_curves_and_what_was_trained(finished):
    run, summary = finished
    logged = lines(run)
    assert [line["step"] for line in logged if "lm" in line] == [10, 20, 30, 40]
    scored = [line for line in logged if "dev_bleu" in line]
    assert [line["step"] for line in scored] == [15, 30, 40]
    assert scored[-1]["dev_loss"] < scored[0]["dev_loss"]
    assert summary.best_bleu == max(line["dev_bleu"] for line in logged if "dev_bleu" in line)
    tensors = load_file(run / "model.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"adapter", "align", "llm"}
    assert all("lora_" in name for name in tensors if name.startswith("llm."))


def test_learns_to_align_and_to_translate(finished):
    logged = lines(finished[0])
    losses = {key: [line[key] for line in logged if key in line] for key in ("align", "lm")}
    assert losses["align"][-1] < losses["align"][0]
    assert losses["lm"][-1] < losses["lm"][0]


def test_overfits_four_clips(toy, tmp_path):
    manifest, stores = toy.corpus({"train": 4, "dev": 4})
    # The dev clips say and show what the train clips do.
    twins = {f"dev/{i}": f"train/{i}" for i in range(4)}
    texts = {clip.id: clip.text for clip in manifest.clips()}
    clips = [
        type(clip)(
            id=clip.id,
            split=clip.split,
            source=clip.source,
            text=texts[twins.get(clip.id, clip.id)],
            language="German",
            extra={},
        )
        for clip in manifest.clips()
    ]
    for store in stores.values():
        store._arrays |= {dev: store._arrays[train] for dev, train in twins.items()}
    config = toy.pipeline(
        adapter={"width": 32, "scale": "embeddings"},
        llm={"weights": "llm", "prompt": "{language}", "tuning": {"mode": "full"}},
        align={"steps": 60, "batch": 4, "lr": 3e-3, "center": True},
        decode={"beams": 2, "max_tokens": 40},
        translate={"steps": 150, "batch": 4, "lr": 1e-2, "alpha": 0.1, "eval_every": 150},
    )
    manifest = type(manifest).from_clips("toy", clips)
    summary = toy.run(tmp_path / "run", config, manifest=manifest, stores=stores)
    assert lines(tmp_path / "run")[-2]["lm"] < 0.1
    assert summary.recall == 1
    assert summary.best_bleu == pytest.approx(100)


def test_a_finished_run_is_reused(toy, finished, monkeypatch):
    monkeypatch.setattr(loop.Trainer, "run", lambda _: pytest.fail("trained again"))
    again = toy.run(finished[0])
    assert again.reused
    assert again.best_bleu == finished[1].best_bleu


@pytest.mark.parametrize(
    ("changes", "named"), [({"seed": 1}, "pipeline.seed"), ({"max_frames": 9}, "max_frames")]
)
def test_refuses_the_folder_of_another_run(toy, finished, changes, named):
    with pytest.raises(UsageError, match=named):
        toy.run(finished[0], toy.pipeline(**changes))


def test_refuses_other_features_in_the_same_folder(toy, finished):
    _, stores = toy.corpus()
    stores["motion"]._arrays["train/0"] = stores["motion"]._arrays["train/0"] + 1
    with pytest.raises(UsageError, match=r"stores\.motion"):
        toy.run(finished[0], stores=stores)


def test_refuses_a_folder_with_other_things(toy, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds no run"):
        toy.run(tmp_path)


def test_names_a_missing_stream(toy, tmp_path):
    _, stores = toy.corpus()
    del stores["motion"]
    with pytest.raises(StoreError, match="motion"):
        toy.run(tmp_path / "run", stores=stores)


def test_refuses_clips_that_were_never_extracted(toy, tmp_path):
    _, stores = toy.corpus({"train": 15, "dev": 5, "test": 6})
    with pytest.raises(StoreError, match="train/15"):
        toy.run(tmp_path / "run", stores=stores)


def test_failed_clips_are_left_out_and_listed(toy, tmp_path):
    manifest, stores = toy.corpus(failed=("train/3",))
    config = toy.pipeline(translate={"steps": 0, "batch": 4, "lr": 1e-3})
    summary = toy.run(tmp_path / "run", config, manifest=manifest, stores=stores)
    assert summary.failed["train"] == {"train/3": "spatial: cannot be decoded"}
    assert summary.best_bleu is None


def test_align_never_loads_the_llm(toy, tmp_path, monkeypatch):
    from spamo_cache.model import translator

    monkeypatch.setattr(translator, "load_llm", lambda *_: pytest.fail("loaded the LLM"))
    config = toy.pipeline(translate={"steps": 0, "batch": 4, "lr": 1e-3})
    assert toy.run(tmp_path / "run", config).recall is not None


def test_never_selects_on_test(toy, tmp_path):
    manifest, stores = toy.corpus({"train": 8, "test": 4})
    with pytest.raises(UsageError, match="no split to select on"):
        toy.run(tmp_path / "run", manifest=manifest, stores=stores)


def test_patience_ends_training(toy, tmp_path):
    config = toy.pipeline(
        align={"steps": 0, "batch": 4, "lr": 1e-3},
        translate={"steps": 40, "batch": 4, "lr": 1e-9, "eval_every": 5, "patience": 2},
    )
    toy.run(tmp_path / "run", config)
    assert [line["step"] for line in lines(tmp_path / "run") if "dev_bleu" in line] == [5, 10, 15]


def test_divergence_is_an_error_with_a_remedy(toy, tmp_path):
    config = toy.pipeline(align={"steps": 20, "batch": 4, "lr": 1e30})
    with pytest.raises(SpamoError, match=r"lower align\.lr"):
        toy.run(tmp_path / "run", config)


def test_missing_llm_is_named(toy, tmp_path):
    config = toy.pipeline(llm={"weights": "./nowhere"})
    with pytest.raises(WeightsError, match="nowhere"):
        toy.run(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
