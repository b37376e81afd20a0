"""Scores by group: every clip once, and together what the whole is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamo_cache.errors import UsageError
from spamo_cache.evaluate import evaluate, evaluation
from spamo_cache.evaluate.groups import groups
from spamo_cache.metrics import measures, summarize
from spamo_cache.runs.folder import RunFolder
from spamo_cache.runs.records import card_file, read_card
from spamo_cache.store.reader import FeatureStore
from tests.conftest import Tiny

CLIPS = 12
HYPOTHESES = [f"am tag {'regen ' * (n % 4)}im norden" for n in range(CLIPS)]
REFERENCES = [f"am tag {'regen ' * (n % 3)}im süden" for n in range(CLIPS)]
MEASURED = measures(HYPOTHESES, REFERENCES, tokenize="13a")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["ann", "ben", "cleo", None]), min_size=CLIPS, max_size=CLIPS))
def test_groups_add_up_to_the_whole(labels: list[str | None]) -> None:
    found = groups(labels, MEASURED, bootstrap=0)
    assert {group.value: group.n for group in found} == {
        label: labels.count(label) for label in labels
    }
    assert sum(group.n for group in found) == CLIPS
    whole = summarize(MEASURED, bootstrap=0).values
    for group in found:
        assert set(group.metrics) == set(whole)
        rows = [number for number, label in enumerate(labels) if label == group.value]
        alone = [[side[row] for row in rows] for side in (HYPOTHESES, REFERENCES)]
        assert group.metrics == pytest.approx(
            summarize(measures(*alone, tokenize="13a"), bootstrap=0).values
        )
    # A mean over clips is the mean over groups, each as heavy as its clips.
    mean = sum(group.n * group.metrics["rouge_l"] for group in found) / CLIPS
    assert mean == pytest.approx(whole["rouge_l"])
    sizes = [group.n for group in found if group.value is not None]
    assert sizes == sorted(sizes, reverse=True)
    assert None not in [group.value for group in found[:-1]]


def test_a_finished_evaluation_is_grouped_without_decoding(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny.run, run)
    stores = {name: FeatureStore.open(path) for name, path in tiny.stores.items()}
    before = read_card(card_file(run, "test"))
    monkeypatch.setattr(evaluation, "load_run", lambda *_, **__: pytest.fail("decodes again"))
    columns = ["signer", "source", "length", "seen-sentence"]
    card = evaluate(run, stores=stores, by=columns, device="cpu")
    assert card == read_card(card_file(run, "test"))
    assert replace(card, groups={}) == before
    assert [(group.value, group.n) for group in card.groups["signer"]] == [(None, 2)]
    (whole,) = card.groups["signer"]
    assert (whole.metrics, whole.intervals) == (card.metrics, card.intervals)
    assert len(card.groups["source"]) == 2
    assert {group.value for group in card.groups["length"]} == {"1 to 5 words"}
    assert {group.value for group in card.groups["seen-sentence"]} == {"in train"}
    # What is asked for later comes beside what was asked for before.
    later = evaluate(run, stores=stores, by=["language"], device="cpu")
    assert set(later.groups) == {*columns, "language"}
    with pytest.raises(UsageError, match="no column 'topic'") as caught:
        evaluate(run, stores=stores, by=["topic"], device="cpu")
    listed = ", ".join([*RunFolder(run).sentences().table.column_names, "length"])
    assert listed in (caught.value.remedy or "")
