"""Leaks that are planted, and how the card tells of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from spamo_cache.datasets.manifest import Manifest
from spamo_cache.datasets.overlap import same_videos
from spamo_cache.datasets.resplit import resplit
from spamo_cache.evaluate import evaluate
from spamo_cache.metrics.scores import bleu4

SHORT = {
    "translate": {"steps": 2, "batch": 4, "lr": 1e-3},
    "align": {"steps": 0, "batch": 4, "lr": 1e-3},
    # No sentence is longer than can be said.
    "decode": {"beams": 1, "max_tokens": 40, "batch": 6},
}
LETTERS = str.maketrans("0123456789/", "acdefghilm ")


@pytest.fixture
def judged(toy, tmp_path):
    """Train for two steps, evaluate, and give the card and its warnings by kind."""

    def judge(split="test", *, change=lambda clip: clip, failed=(), text=None, **pipeline):
        manifest, stores = toy.corpus(failed=failed)
        manifest = Manifest.from_clips("toy", [change(clip) for clip in manifest.clips()])
        config = toy.pipeline(**SHORT | pipeline)
        toy.run(tmp_path / "run", config, manifest=manifest, stores=stores)
        card = evaluate(tmp_path / "run", split, stores=stores, device="cpu")
        written = json.loads((tmp_path / "run" / "evaluation" / f"{split}.json").read_text())
        assert [one["kind"] for one in written["warnings"]] == [one.kind for one in card.warnings]
        return card, {warning.kind: warning for warning in card.warnings}

    return judge


def distinct(clip):
    """A sentence of its own, of letters that the tokenizer knows."""
    own = clip.id.translate(LETTERS)
    return replace(clip, text=f"{clip.text} {own}", extra={"text_en": f"english of {clip.id}"})


@pytest.mark.slow
def test_a_run_without_leaks_has_no_warnings(judged):
    card, found = judged(change=distinct)
    assert found == {}
    assert (card.n, card.failed) == (6, {})


@pytest.mark.slow
def test_selection_on_test(judged):
    _, found = judged(protocol={"select_on_test": True})
    assert found["selected-on-test"].severity == "warning"


@pytest.mark.slow
def test_selection_on_dev_is_a_note_on_dev(judged):
    _, found = judged("dev")
    assert found["selected-on-dev"].severity == "note"


@pytest.mark.slow
def test_clips_of_training_are_known_by_heart(judged):
    _, found = judged("train", change=distinct)
    assert set(found) == {"trained-on"}
    assert found["trained-on"].severity == "warning"


# --- weights of another run ---------------------------------------------------------------------

NOTHING = SHORT | {stage: SHORT[stage] | {"steps": 0} for stage in ("align", "translate")}


@pytest.fixture
def begun(toy, tmp_path):
    """Train ``first``, take its weights for another run, and give the warnings on that one."""

    def begin(first, *, change=lambda clip: clip, **pipeline):
        known, stores = toy.corpus()
        own = Manifest.from_clips("toy", [distinct(clip) for clip in known.clips()])
        before = Manifest.from_clips("toy", [change(clip) for clip in own.clips()])
        toy.run(tmp_path / "first", toy.pipeline(**SHORT, **first), manifest=before, stores=stores)
        config = toy.pipeline(init_from=str(tmp_path / "first"), **NOTHING | pipeline)
        toy.run(tmp_path / "run", config, manifest=own, stores=stores)
        card = evaluate(tmp_path / "run", "test", stores=stores, device="cpu")
        return card, {warning.kind: warning for warning in card.warnings}

    return begin


@pytest.mark.slow
def test_weights_of_another_run_are_said_to_be_its(toy, begun, tmp_path):
    card, found = begun({})
    assert set(found) == {"start"}
    assert found["start"].words == (
        f"Nothing was trained: the weights are those of {tmp_path / 'first'}."
    )
    first = evaluate(tmp_path / "first", "test", stores=toy.corpus()[1], device="cpu")
    said = [
        [json.loads(line)["hypothesis"] for line in path.read_text().splitlines()]
        for path in sorted(tmp_path.glob("*/evaluation/test.hypotheses.jsonl"))
    ]
    assert len(said) == 2
    assert said[0] == said[1]
    assert (card.n, first.n) == (6, 6)


@pytest.mark.slow
def test_a_run_that_went_on_from_another_says_so(begun):
    _, found = begun({}, translate=SHORT["translate"])
    assert set(found) == {"start"}
    assert "Training began with the weights of" in found["start"].words


@pytest.mark.slow
def test_selection_on_test_is_inherited(begun):
    _, found = begun({"protocol": {"select_on_test": True}})
    assert found["selected-on-test"].severity == "warning"


@pytest.mark.slow
def test_sentences_and_videos_of_an_earlier_training_are_found(toy, begun):
    told = next(distinct(one).text for one in toy.corpus()[0].clips() if one.id == "test/3")
    planted = {"train/0": {"text": told, "source": "test/1.mp4"}}
    _, found = begun({}, change=lambda clip: replace(clip, **planted.get(clip.id, {})))
    assert found["seen-in-training"].clips == found["video-in-training"].clips == 1


@pytest.mark.slow
def test_runs_that_are_moved_together_are_still_known(toy, begun, tmp_path):
    begun({"protocol": {"select_on_test": True}})
    (tmp_path / "moved").mkdir()
    for name in ("first", "run"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    shutil.rmtree(tmp_path / "moved" / "run" / "evaluation")
    card = evaluate(tmp_path / "moved" / "run", "test", stores=toy.corpus()[1], device="cpu")
    assert [one.kind for one in card.warnings] == ["selected-on-test", "start"]


@pytest.mark.slow
def test_weights_whose_run_is_gone_are_not_trusted(toy, begun, tmp_path):
    begun({})
    (tmp_path / "first" / "model.safetensors").write_bytes(b"of another run")
    shutil.rmtree(tmp_path / "run" / "evaluation")
    card = evaluate(tmp_path / "run", "test", stores=toy.corpus()[1], device="cpu")
    assert [(one.kind, one.severity) for one in card.warnings] == [
        ("start-unknown", "warning"),
        ("start", "note"),
    ]


@pytest.mark.slow
def test_a_run_that_never_learnt_to_translate(judged):
    _, found = judged(change=distinct, translate=NOTHING["translate"])
    assert set(found) == {"untaught"}
    assert found["untaught"].severity == "warning"


@pytest.mark.slow
def test_leaks_are_looked_for_in_what_was_trained_on(toy, judged, tmp_path):
    """Whatever manifest the test split comes from."""
    judged(change=lambda clip: replace(clip, text="regen") if clip.id[-2:] == "/0" else clip)
    alone = [replace(clip, text="regen .") for clip in toy.corpus()[0].clips("test")]
    manifest, stores = Manifest.from_clips("toy", alone), toy.corpus()[1]
    card = evaluate(tmp_path / "run", "test", manifest=manifest, stores=stores, device="cpu")
    assert {one.kind: one.clips for one in card.warnings} == {
        "seen-in-training": 6,
        "dev-test-overlap": 6,
    }


@pytest.mark.slow
def test_sentences_that_the_tokenizer_does_not_know(judged):
    """A script that it lacks, in training and on test."""
    card, found = judged(change=lambda clip: replace(distinct(clip), text=f"明天 {clip.id}"))
    words = [one.words for one in card.warnings if one.kind == "unknown-tokens"]
    assert found["unknown-tokens"].severity == "warning"
    assert "in 16 of 16 sentences of train" in words[0]
    assert "in 6 of 6 sentences of test" in words[1]
    assert "cut-targets" not in found


@pytest.mark.slow
def test_sentences_that_cannot_be_said_in_full(judged):
    _, found = judged("dev", change=distinct, decode={"beams": 1, "max_tokens": 6})
    assert (found["cut-targets"].clips, found["cut-targets"].severity) == (5, "note")
    assert "5 of 5 sentences of dev have more than decode.max_tokens = 6" in (
        found["cut-targets"].words
    )


@pytest.mark.slow
def test_prompts_without_a_pair_are_counted(judged):
    """Where only some sentences are translated."""
    _, found = judged(
        change=lambda clip: replace(
            distinct(clip), extra={"text_en": "english" if clip.id[-1] in "02" else ""}
        ),
        llm={"weights": "llm", "in_context_languages": ["en"], "tuning": {"r": 4}},
        protocol={"pairs_from_batch": True},
    )
    assert found["no-pairs"].clips == 4
    assert "4 of 6 prompts show no pair" in found["no-pairs"].words


@pytest.mark.slow
def test_test_references_in_the_prompts(judged):
    """As in the official release: every clip is shown another one's reference."""
    _, found = judged(
        change=distinct,
        llm={"weights": "llm", "in_context_languages": ["en"], "tuning": {"r": 4}},
        protocol={"pairs_from_batch": True},
    )
    leak = found["pairs-from-batch"]
    assert leak.severity == "warning"
    assert leak.clips == 6
    assert "6 of 6 prompts show a reference of test itself" in leak.words


@pytest.mark.slow
def test_pairs_of_training_sentences_are_a_note(judged):
    _, found = judged(
        change=distinct, llm={"weights": "llm", "in_context_languages": ["en"], "tuning": {"r": 4}}
    )
    assert found["pairs"].severity == "note"
    assert "0 of 6 prompts" in found["pairs"].words


@pytest.mark.slow
def test_a_reference_in_a_prompt_is_seen_whatever_the_protocol_says(judged, monkeypatch):
    """Were training pairs ever to leak, the prompts themselves would tell."""
    monkeypatch.setattr("spamo_cache.model.prompts.donors", lambda training, *_: training[:1])
    shared = {"train/0": "Nacht, Regen.", "test/1": "nacht regen"}
    _, found = judged(
        change=lambda clip: replace(distinct(clip), text=shared.get(clip.id, distinct(clip).text)),
        llm={"weights": "llm", "in_context_languages": ["en"], "tuning": {"r": 4}},
    )
    # Its own reference is never shown to a clip.
    assert found["reference-in-prompt"].clips == 5
    assert found["reference-in-prompt"].severity == "warning"
    assert found["seen-in-training"].clips == 1


@pytest.mark.slow
def test_test_sentences_among_those_of_training(judged):
    """Other case and dots do not hide them."""
    planted = {"train/0": "Regen Schnee Sonne Heute.", "train/1": "nacht norden"}
    planted |= {"test/0": "regen schnee sonne heute", "test/1": "Nacht, Norden!"}
    planted |= {"dev/0": "Nacht Norden"}
    _, found = judged(
        change=lambda clip: replace(clip, text=planted.get(clip.id, f"eins {clip.id} zwei drei"))
    )
    leak = found["seen-in-training"]
    assert (leak.clips, leak.severity) == (2, "warning")
    assert "2 of 6 references (33.3%) are sentences of train too" in leak.words
    assert found["dev-test-overlap"].clips == 1
    assert found["dev-test-overlap"].severity == "note"


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_training_video_in_the_test_split(judged):
    _, found = judged(
        change=lambda clip: replace(clip, source="train/3.mp4") if clip.id == "test/1" else clip
    )
    leak = found["video-in-training"]
    assert (leak.clips, leak.severity) == (1, "warning")


@pytest.mark.slow
def test_signers_of_training_and_clips_without_one(judged, tmp_path):
    signers = {"test/0": "train-0", "test/1": " train-1 ", "test/2": None, "train/0": ""}
    _, found = judged(
        change=lambda clip: replace(distinct(clip), signer=signers.get(clip.id, clip.signer))
    )
    leak, gaps = found["signers-in-training"], found["unknown-signers"]
    assert (leak.clips, leak.severity, gaps.clips, gaps.severity) == (2, "warning", 1, "note")
    assert "2 of 6 clips of test are by signers of train (2 of 4 signers); BLEU-4" in leak.words
    assert "no signer is given for 1 of 6 clips of test and 1 of 16 clips of train" in gaps.words


@pytest.mark.parametrize(
    ("times", "shared"),
    [
        ((3.0, 7.0), True),
        ((4.5, 4.6), True),
        ((4.9, 9.0), True),
        ((None, None), True),
        ((None, 2.5), True),
        ((5.0, 9.0), False),
        ((0.0, 2.0), False),
        ((6.0, None), False),
    ],
)
def test_overlapping_times_of_a_training_video(toy, times, shared):
    """A test clip against a training clip from 2 to 5 s of the same video."""
    clips = [replace(clip, source="a.mp4") for clip in toy.corpus()[0].clips()[:2]]
    train, test = (
        replace(clip, start=start, end=end)
        for clip, (start, end) in zip(clips, [(2.0, 5.0), times], strict=True)
    )
    assert same_videos([train], [test]) == [shared]
    assert same_videos([train], [replace(test, source="./a.mp4")]) == [shared]
    assert same_videos([train], [replace(test, source="b.mp4")]) == [False]


@pytest.mark.slow
@pytest.mark.parametrize("dropped", [True, False])
def test_clips_without_features(judged, dropped):
    card, found = judged(failed=("test/2", "test/4"), protocol={"drop_missing": dropped})
    warning = found["dropped" if dropped else "failed"]
    assert (warning.clips, warning.severity) == (2, "warning" if dropped else "note")
    assert "2 of 6 clips" in warning.words
    assert "test/2" in warning.words
    assert card.n == (4 if dropped else 6)
    assert set(card.failed) == {"test/2", "test/4"}


@pytest.mark.slow
def test_sampling(judged):
    assert "seed 0" in judged(protocol={"sampled_beams": True})[1]["sampled"].words


@pytest.mark.slow
def test_chinese_under_13a(judged):
    card, found = judged(
        change=lambda clip: replace(clip, text="明天北方下雨"), text={"language": "Chinese"}
    )
    warning = found["13a-on-chinese"]
    assert warning.severity == "warning"
    assert f"BLEU-4 {card.metrics['bleu4']:.2f}" in warning.words
    assert card.conventions[0].headline


@pytest.mark.slow
def test_english_rouge_on_german(judged):
    card, found = judged(
        change=lambda clip: replace(clip, text="schöne höhe regen regen"),
        protocol={"english_rouge": True},
    )
    assert "50.0%" in found["english-rouge"].words
    assert card.headline["rouge"] == "rouge_l_official"


@pytest.mark.slow
def test_another_number_of_clips_than_published(judged):
    _, found = judged(corpus="phoenix14t")
    assert "6 clips here, 642 as published" in found["other-clips"].words


@pytest.mark.slow
@pytest.mark.parametrize(("corpus", "severity"), [("toy", "note"), ("phoenix14t", "warning")])
def test_splits_that_are_not_the_corpus_own(toy, judged, tmp_path, corpus, severity):
    """A warning only where figures stand beside the score that were made on others."""
    judged(change=distinct, corpus=corpus)
    manifest, stores = toy.corpus()
    anew = resplit(manifest, "signer", folds=2)[1]
    card = evaluate(tmp_path / "run", "test", manifest=anew, stores=stores, device="cpu")
    found = {warning.kind: warning for warning in card.warnings}
    assert card.resplit == "fold 2 of 2 by signer, seed 0"
    assert card.resplit in found["resplit"].words
    assert found["resplit"].severity == severity
    assert "other-clips" not in found


@pytest.mark.slow
def test_bleurt_is_missed_where_papers_report_it(judged):
    card, found = judged(corpus="how2sign")
    assert "hf download" in found["no-bleurt"].words
    assert "bleurt" not in card.metrics
