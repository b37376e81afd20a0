"""Less to train on: nested samples, and a run that keeps exactly what it was trained on."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from spamo_cache.datasets.manifest import Manifest
from spamo_cache.datasets.mixture import mixed
from spamo_cache.datasets.resplit import resplit
from spamo_cache.model import prompts
from spamo_cache.model.prompts import Prompts
from spamo_cache.train.data import sample, selected
from spamo_cache.train.run import settings
from tests.support import toy as toy_corpus

SMALL = {
    "align": {"steps": 2, "batch": 2, "lr": 1e-3},
    "translate": {"steps": 2, "batch": 2, "lr": 1e-3, "eval_every": 2},
}


def training(manifest):
    return {clip.id for clip in manifest.clips("train")}


def drawn(manifest, share, seed):
    return sample(manifest, toy_corpus.pipeline(train_fraction=share, seed=seed))


@pytest.fixture(scope="module")
def manifest(toy):
    return toy.corpus()[0]


def test_a_pipeline_can_split_the_clips_anew(toy, manifest):
    anew = {"by": "signer", "folds": 3, "seed": 2}
    folds = resplit(manifest, **anew)
    for number, fold in enumerate(folds, start=1):
        found = selected(toy.pipeline(resplit=anew | {"fold": number}), manifest)
        assert (found.table, found.resplit) == (fold.table, fold.resplit)
    half = selected(toy.pipeline(resplit=anew | {"fold": 1}, train_fraction=0.5), manifest)
    assert training(half) < training(folds[0])
    # Runs that were made before there was the key keep their identity.
    assert "resplit" not in settings(toy.pipeline())
    # Those of another corpus that is trained on too stay in training.
    both = mixed(manifest, {"lab": replace(manifest, corpus="lab")}, ["toy", "lab"])
    several = toy.pipeline(resplit=anew | {"fold": 2}, corpora=["toy", "lab"])
    dealt = {clip.id: clip.split for clip in selected(several, both).clips()}
    assert dealt == {clip.id: clip.split for clip in folds[1].clips()} | {
        clip.id: "train" for clip in both.clips() if clip.id.startswith("lab::")
    }
    for wrong in (anew, anew | {"fold": 4}, {"by": "signer", "fold": 1}):
        with pytest.raises(ValueError, match="fold"):
            toy.pipeline(resplit=wrong)


def test_smaller_samples_lie_in_larger_ones(manifest):
    shares = (0.01, 1 / 8, 1 / 4, 1 / 2, 1.0)
    found = [drawn(manifest, share, 0) for share in shares]
    assert [len(training(one)) for one in found] == [1, 2, 4, 8, 16]
    for smaller, larger in pairwise(found):
        assert training(smaller) < training(larger)
    for one in found:
        others = [clip for clip in one.clips() if clip.split != "train"]
        assert others == [clip for clip in manifest.clips() if clip.split != "train"]
    assert found[-1] is manifest


def test_a_sample_is_by_seed_and_not_by_order(manifest):
    assert training(drawn(manifest, 0.5, 0)) != training(drawn(manifest, 0.5, 1))
    turned = Manifest.from_clips("toy", manifest.clips()[::-1])
    assert training(drawn(turned, 0.5, 0)) == training(drawn(manifest, 0.5, 0))


@pytest.mark.slow
def test_a_run_keeps_what_it_was_trained_and_selected_on(toy, tmp_path, manifest):
    toy.run(tmp_path / "run", toy.pipeline(train_fraction=0.25, seed=3, **SMALL))
    kept = Manifest.read(tmp_path / "run" / "manifest.parquet")
    assert training(kept) == training(drawn(manifest, 0.25, 3))
    assert [len(kept.clips(split)) for split in ("train", "dev", "test")] == [4, 5, 6]


@pytest.mark.slow
def test_pairs_come_from_the_sample(toy, tmp_path, manifest, monkeypatch):
    translated = Manifest.from_clips(
        "toy",
        [_with_english(clip) for clip in manifest.clips()],
    )
    donors = []

    class Watched(Prompts):
        def __init__(self, pipeline, tokens, training=(), held_out=()):
            donors.append({sentence.clip for sentence in training})
            super().__init__(pipeline, tokens, training, held_out)

    monkeypatch.setattr(prompts, "Prompts", Watched)
    pairs = {
        "weights": "llm",
        "prompt": "{language}",
        "in_context_languages": ["en"],
        "tuning": {"r": 4},
    }
    config = toy.pipeline(train_fraction=0.25, llm=pairs, **SMALL)
    toy.run(tmp_path / "run", config, manifest=translated)
    assert donors
    assert all(found == training(drawn(manifest, 0.25, 0)) for found in donors)


def _with_english(clip):
    return type(clip)(
        id=clip.id,
        split=clip.split,
        source=clip.source,
        text=clip.text,
        language=clip.language,
        extra={"text_en": f"english {clip.text}"},
    )
