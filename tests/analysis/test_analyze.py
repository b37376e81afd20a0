from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spamo_cache.analysis import analyze
from spamo_cache.analysis.alignment import beginning
from spamo_cache.cli.main import app
from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import StoreError, UsageError
from spamo_cache.runs.analyses import Analysis, read_analysis
from spamo_cache.runs.load import load_run
from spamo_cache.train import MemoryFeatures, train
from spamo_cache.train.loop import Trainer
from tests.support import decoders

GOLDEN = Path(__file__).parents[1] / "golden" / "translator"
LLM = Path(__file__).parents[2] / "pipelines" / "signed-weather" / "llm"
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
    """Sentences of two words; a clip's rows are its words' own directions and some noise."""
    rng = np.random.default_rng(0)
    directions = dict(zip(WORDS, rng.normal(size=(len(WORDS), 32)), strict=True))
    clips, arrays = [], {}
    for split, copies in (("train", 3), ("dev", 1), ("test", 2)):
        for copy, (one, other) in product(range(copies), combinations(WORDS, 2)):
            name = f"{split}-{one}-{other}-{copy}"
            known = {"source": f"{name}.mp4", "language": "German", "extra": {}}
            gloss = f"{one} {other}".upper()
            clips.append(Clip(id=name, split=split, text=f"{one} {other}", gloss=gloss, **known))
            # Of three lengths: batches are sorted by them.
            rows = np.repeat([directions[one], directions[other]], 11 + len(clips) % 3, axis=0)
            arrays[name] = (rows + 0.1 * rng.normal(size=rows.shape)).astype(np.float16)
    return Manifest.from_clips("words", clips), MemoryFeatures(arrays)


def pipeline(steps: int, **changes) -> Pipeline:
    stage = {"batch": 10, "lr": 3e-3}
    return Pipeline.model_validate(
        {
            "name": "words",
            "question": "Is alignment measured?",
            "corpus": "words",
            "spec": "none",
            "streams": ["spatial"],
            "text": {"language": "German"},
            "adapter": {"width": 32, "tcn": "k3 p2", "scale": "embeddings"},
            "llm": {"weights": str(LLM)},
            "align": stage | {"steps": steps, "center": True},
            "translate": stage | {"steps": 0},
        }
        | changes
    )


def trained(out: Path, steps: int, **changes) -> tuple[Manifest, MemoryFeatures]:
    manifest, features = corpus()
    stores = {"spatial": features}
    made = pipeline(steps, **changes)
    train(made, base=GOLDEN, manifest=manifest, stores=stores, out=out, device="cpu")
    return manifest, features


@pytest.fixture(scope="module")
def aligned(tmp_path_factory) -> tuple[Path, Analysis]:
    """A run whose alignment is as good as it can be, and what is found of it."""
    run = tmp_path_factory.mktemp("aligned") / "run"
    manifest, features = trained(run, 80)
    return run, analyze(run, manifest=manifest, stores={"spatial": features}, device="cpu")


@pytest.mark.slow
def test_alignment_is_at_chance_before_and_near_perfect_after_it_was_learnt(aligned) -> None:
    run, found = aligned
    assert read_analysis(run, "test") == found
    assert (found.split, found.of, found.failed) == ("test", 90, 0)
    before, after = found.before.alignment, found.after.alignment
    assert (after.clips, after.sentences, after.chance_at_1) == (90, 45, 1 / 45)
    assert before.recall_at_1 <= 0.15
    assert after.recall_at_1 >= 0.9
    assert after.own_cosine > after.other_cosine + 0.3
    assert after.median_rank == 1.0
    assert after.modality_gap < 0.5 * before.modality_gap
    assert after.cka > before.cka + 0.1
    assert before.infonce.nats < 1 < after.infonce.nats < np.log(90)


def test_entropy_and_divergence_come_nearer_to_the_sentences(aligned) -> None:
    entropy = aligned[1].entropy
    assert abs(entropy.sign.gap) < abs(entropy.sign_before.gap)
    assert entropy.sign.divergence < entropy.sign_before.divergence
    points = entropy.text.points, entropy.sign.points, entropy.sign_before.points
    assert points == (45, 90, 90)
    said = ("Gaussian kernel", "leave-one-out", "4 principal", "not comparable")
    assert all(words in entropy.estimator for words in said)


def test_rows_look_like_the_words_they_stand_for(aligned) -> None:
    after, before = aligned[1].after.tokens, aligned[1].before.tokens
    for scores, earlier in ((after.gloss, before.gloss), (after.text, before.text)):
        coverage, precision = scores.coverage, scores.precision
        assert coverage.value >= 0.8
        assert precision.value >= 0.8
        assert coverage.p == precision.p == 0.001
        # Two of ten words.
        assert coverage.chance == pytest.approx(0.2, abs=0.05)
        assert earlier.coverage.p > 0.01
    assert not before.examples
    example = after.examples[0]
    assert example.clip == "test-regen-sonne-0"
    assert example.gloss == ["REGEN", "SONNE"]
    assert {"regen", "sonne"} <= {row.token for row in example.rows}


@pytest.mark.slow
def test_a_run_of_shuffled_features_is_at_chance(tmp_path: Path) -> None:
    manifest, features = trained(tmp_path / "run", 80, shuffle_features=True)
    found = analyze(tmp_path / "run", manifest=manifest, stores={"spatial": features})
    alignment, coverage = found.after.alignment, found.after.tokens.gloss.coverage
    assert alignment.recall_at_5 < 3 * alignment.chance_at_5
    assert alignment.infonce.nats < 0.2
    assert abs(coverage.value - coverage.chance) < 4 * coverage.spread + 0.02


@pytest.mark.slow
def test_before_is_where_the_trainer_begins(tmp_path: Path, monkeypatch) -> None:
    run, begun = tmp_path / "run", {}
    start = Trainer.start

    def noted(self, *, resume: bool) -> None:
        start(self, resume=resume)
        begun.update({name: value.clone() for name, value in self.translator.trained().items()})

    monkeypatch.setattr(Trainer, "start", noted)
    trained(run, 3, seed=5)
    loaded = load_run(run, device="cpu")
    after = loaded.translator.trained()
    drawn = torch.random.get_rng_state()
    then = beginning(loaded).trained()
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert then.keys() == begun.keys()
    assert all(torch.equal(value, begun[name]) for name, value in then.items())
    assert not torch.equal(after["adapter.mlp.0.weight"], then["adapter.mlp.0.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 2])
def test_a_decoder_only_model_is_looked_at_too(tmp_path: Path, steps: int) -> None:
    llm = decoders.make(tmp_path / "llm", "Llama")
    stage = {"batch": 10, "lr": 1e-3, "steps": steps}
    known = {"llm": {"weights": str(llm)}, "translate": stage, "decode": {"max_tokens": 4}}
    manifest, features = trained(tmp_path / "run", 3, **known)
    found = analyze(tmp_path / "run", "dev", manifest=manifest, stores={"spatial": features})
    # Of 22, 24 and 26 rows.
    assert found.after.tokens.rows == 15 * (10 + 11 + 12)
    assert found.after.tokens.candidates > 50
    assert 0 <= found.after.tokens.text.precision.value <= 1
    assert (tmp_path / "run/analysis/dev.json").exists()


@pytest.mark.slow
def test_a_large_split_is_sampled_and_failed_clips_are_told(tmp_path: Path, monkeypatch) -> None:
    manifest, features = trained(tmp_path / "run", 1)
    monkeypatch.setattr("spamo_cache.analysis.alignment.CLIPS", 30)
    found = analyze(tmp_path / "run", manifest=manifest, stores={"spatial": features})
    before, after = found.before.alignment, found.after.alignment
    assert (after.clips, found.of, before.clips) == (30, 90, 30)
    assert after.infonce.ceiling == pytest.approx(np.log(30))


def test_runs_are_shown_side_by_side(aligned, monkeypatch) -> None:
    found = aligned[1]
    tokens = replace(found.after.tokens, gloss=None, examples=[])
    imported = replace(
        found,
        after=replace(found.after, tokens=tokens),
        before=None,
        before_missing="imported",
        entropy=None,
    )
    known = {"one": found, "two": imported}
    monkeypatch.setattr("spamo_cache.analysis.analyze", lambda run, *_, **__: known[run.name])
    shown = CliRunner().invoke(app, ["analyze", "runs/one", "two"])
    assert shown.exit_code == 0
    heads, *lines = shown.stdout.splitlines()
    starts = [heads.index(f"{run}, {when}") for run in known for when in ("before", "after")]

    def cells(label: str) -> list[str]:
        (line,) = (line for line in lines if line.startswith(f"{label}  "))
        ends = [*starts[1:], None]
        return [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]

    recall = [f"{one.alignment.recall_at_1:.2f} (0.02)" for one in (found.before, found.after)]
    assert cells("recall@1") == [*recall, "", recall[1]]
    assert cells("entropy of clips, nats")[3] == "-"
    assert cells("glosses covered")[3] == "-"
    assert "test-regen-sonne-0: REGEN SONNE · regen sonne" in shown.stdout
    as_json = CliRunner().invoke(app, ["analyze", "runs/one", "two", "--json"]).stdout
    assert json.loads(as_json) == {"runs/one": asdict(found), "two": asdict(imported)}


@pytest.mark.slow
def test_other_features_and_no_run_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    manifest, features = trained(run, 1)
    assert features.width == 32
    zeros = np.zeros((12, 32), np.float16)
    other = MemoryFeatures({clip.id: zeros for clip in manifest.clips()})
    with pytest.raises(StoreError, match="was trained from"):
        analyze(run, manifest=manifest, stores={"spatial": other}, device="cpu")
    with pytest.raises(UsageError, match="holds no run"):
        analyze(tmp_path / "absent")
    assert not (run / "analysis").exists()
