"""Leaks that are planted, and how the card tells of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from spamo_cache.datasets.manifest import Manifest
from spamo_cache.evaluate import evaluate
from spamo_cache.evaluate.metrics import bleu4

SHORT = {
    "translate": {"steps": 2, "batch": 4, "lr": 1e-3},
    "align": {"steps": 0, "batch": 4, "lr": 1e-3},
}


@pytest.fixture
def judged(toy, tmp_path):
    """Train for two steps, evaluate, and give the card and its warnings by kind."""

    def judge(split="test", *, change=lambda clip: clip, failed=(), text=None, **pipeline):
        manifest, stores = toy.corpus(failed=failed)
        manifest = Manifest.from_clips("toy", [change(clip) for clip in manifest.clips()])
        config = toy.pipeline(**SHORT, **pipeline)
        toy.run(tmp_path / "run", config, manifest=manifest, stores=stores)
        card = evaluate(tmp_path / "run", split, stores=stores, device="cpu")
        written = json.loads((tmp_path / "run" / "evaluation" / f"{split}.json").read_text())
        assert [one["kind"] for one in written["warnings"]] == [one.kind for one in card.warnings]
        return card, {caution.kind: caution for caution in card.warnings}

    return judge


def distinct(clip):
    return replace(clip, text=f"{clip.text} {clip.id}", extra={"text_en": f"english of {clip.id}"})


def test_a_run_without_leaks_has_no_warnings(judged):
    card, found = judged(change=distinct)
    assert found == {}
    assert (card.n, card.failed) == (6, {})


def test_selection_on_test(judged):
    _, found = judged(protocol={"select_on_test": True})
    assert found["selected-on-test"].grave


def test_selection_on_dev_is_a_note_on_dev(judged):
    _, found = judged("dev")
    assert not found["selected-on-dev"].grave


def test_test_references_in_the_prompts(judged):
    """As in the official release: every clip is shown another one's reference."""
    _, found = judged(
        change=distinct,
        llm={"weights": "llm", "pairs": ["en"], "tuning": {"r": 4}},
        protocol={"pairs_from_batch": True},
    )
    leak = found["pairs-from-batch"]
    assert leak.grave
    assert leak.clips == 6
    assert "6 of 6 prompts show a reference of test itself" in leak.words


def test_pairs_of_training_sentences_are_a_note(judged):
    _, found = judged(change=distinct, llm={"weights": "llm", "pairs": ["en"], "tuning": {"r": 4}})
    assert not found["pairs"].grave
    assert "0 of 6 prompts" in found["pairs"].words


def test_a_reference_in_a_prompt_is_seen_whatever_the_protocol_says(judged, monkeypatch):
    """Were training pairs ever to leak, the prompts themselves would tell."""
    monkeypatch.setattr("spamo_cache.model.prompts.donors", lambda training, *_: training[:1])
    shared = {"train/0": "Nacht, Regen.", "test/1": "nacht regen"}
    _, found = judged(
        change=lambda clip: replace(distinct(clip), text=shared.get(clip.id, distinct(clip).text)),
        llm={"weights": "llm", "pairs": ["en"], "tuning": {"r": 4}},
    )
    # Its own reference is never shown to a clip.
    assert found["reference-in-prompt"].clips == 5
    assert found["reference-in-prompt"].grave
    assert found["seen-in-training"].clips == 1


def test_test_sentences_among_those_of_training(judged):
    """Other case and dots do not hide them."""
    planted = {"train/0": "Regen Schnee Sonne Heute.", "train/1": "nacht norden"}
    planted |= {"test/0": "regen schnee sonne heute", "test/1": "Nacht, Norden!"}
    planted |= {"dev/0": "Nacht Norden"}
    _, found = judged(
        change=lambda clip: replace(clip, text=planted.get(clip.id, f"eins {clip.id} zwei drei"))
    )
    leak = found["seen-in-training"]
    assert (leak.clips, leak.grave) == (2, True)
    assert "2 of 6 references (33.3%) are sentences of train too" in leak.words
    assert found["dev-test-overlap"].clips == 1
    assert not found["dev-test-overlap"].grave


def test_bleu_without_the_sentences_seen(judged, tmp_path):
    _, found = judged(
        change=lambda clip: (
            replace(clip, text="regen") if clip.id.endswith("/0") else distinct(clip)
        )
    )
    lines = [
        json.loads(line)
        for line in (tmp_path / "run/evaluation/test.hypotheses.jsonl").read_text().splitlines()
    ]
    assert [line["seen"] for line in lines] == [True] + [False] * 5
    unseen = [line for line in lines if not line["seen"]]
    value = bleu4(
        [line["hypothesis"] for line in unseen],
        [line["reference"] for line in unseen],
        tokenize="13a",
    )
    assert f"BLEU-4 of the other 5 is {value:.2f}" in found["seen-in-training"].words


def test_a_training_video_in_the_test_split(judged):
    _, found = judged(
        change=lambda clip: replace(clip, source="train/3.mp4") if clip.id == "test/1" else clip
    )
    leak = found["video-in-training"]
    assert (leak.clips, leak.grave) == (1, True)


@pytest.mark.parametrize("dropped", [True, False])
def test_clips_without_features(judged, dropped):
    card, found = judged(failed=("test/2", "test/4"), protocol={"drop_missing": dropped})
    caution = found["dropped" if dropped else "failed"]
    assert (caution.clips, caution.grave) == (2, dropped)
    assert "2 of 6 clips" in caution.words
    assert "test/2" in caution.words
    assert card.n == (4 if dropped else 6)
    assert set(card.failed) == {"test/2", "test/4"}


def test_sampling(judged):
    assert "seed 0" in judged(protocol={"sampled_beams": True})[1]["sampled"].words


def test_chinese_under_13a(judged):
    card, found = judged(
        change=lambda clip: replace(clip, text="明天北方下雨"), text={"language": "Chinese"}
    )
    caution = found["13a-on-chinese"]
    assert caution.grave
    assert f"BLEU-4 {card.metrics['bleu4']:.2f}" in caution.words
    assert card.conventions[0].headline


def test_english_rouge_on_german(judged):
    card, found = judged(
        change=lambda clip: replace(clip, text="schöne höhe regen regen"),
        protocol={"english_rouge": True},
    )
    assert "50.0%" in found["english-rouge"].words
    assert card.headline["rouge"] == "rouge_l_official"


def test_another_number_of_clips_than_published(judged):
    _, found = judged(corpus="phoenix14t")
    assert "6 clips here, 642 as published" in found["other-clips"].words


def test_bleurt_is_missed_where_papers_report_it(judged):
    card, found = judged(corpus="how2sign")
    assert "hf download" in found["no-bleurt"].words
    assert "bleurt" not in card.metrics
