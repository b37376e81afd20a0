from __future__ import annotations

import numpy as np
import pytest
import torch

from spamo_cache.errors import StoreError
from spamo_cache.model.tokens import Tokens
from spamo_cache.train.data import Schedule, examples, starmap_ahead, stream_batches
from spamo_cache.train.features import Bank, MemoryFeatures, derangement


def store(lengths, width=3):
    start = np.cumsum([0, *lengths])
    return MemoryFeatures(
        {
            f"c{i}": np.arange(start[i] * width, start[i + 1] * width, dtype=np.float32).reshape(
                -1, width
            )
            for i in range(len(lengths))
        }
    )


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_bank_hands_out_each_clips_own_rows(memory):
    stores = {"spatial": store([4, 9, 2]), "motion": store([1, 2, 1], width=5)}
    bank = Bank(stores, ["c0", "c1", "c2"], max_frames=100, memory=memory)
    assert bank.in_memory is bool(memory)
    assert bank.lengths.tolist() == [5, 11, 3]
    packed = bank.packed([2, 0])
    assert packed["motion"].lengths.tolist() == [1, 1]
    expected = np.concatenate([stores["spatial"]._arrays[clip] for clip in ("c2", "c0")])
    assert np.array_equal(packed["spatial"].rows.numpy(), expected)
    assert packed["spatial"].rows.dtype == torch.float32


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_long_clips_are_thinned_in_every_stream_alike(memory):
    stores = {"spatial": store([100, 8]), "motion": store([12, 1])}
    bank = Bank(stores, ["c0", "c1"], max_frames=50, memory=memory)
    packed = bank.packed([0, 1])
    assert packed["spatial"].lengths.tolist() == [50, 8]
    assert packed["motion"].lengths.tolist() == [6, 1]
    first = packed["spatial"].rows[:50, 0].numpy()
    assert (first[0], first[-1]) == (0, 297)
    assert (np.diff(first) > 0).all()


@pytest.mark.parametrize("memory", [0, 1 << 20])
@pytest.mark.parametrize("crop", [None, "7"])
def test_validity_goes_with_its_rows_however_they_are_chosen(memory, crop):
    features = store([100, 8, 60])
    valid = {c: rows[:, 0] % 2 == 0 for c, rows in features._arrays.items()}
    marked = MemoryFeatures(features._arrays, valid=valid)
    clips = ["c0", "c1", "c2"]
    bank = Bank(
        {"face": marked, "motion": store([12, 1, 9])},
        clips,
        derangement=derangement(clips, seed=3),
        max_frames=50,
        memory=memory,
        crop=crop,
    )
    packed = bank.packed([2, 0, 1], draw=4)
    face = packed["face"]
    assert face.lengths.sum() < 168
    assert np.array_equal(face.valid.numpy(), face.rows[:, 0].numpy() % 2 == 0)
    assert packed["motion"].valid is None
    assert marked.fingerprint != features.fingerprint


def test_every_clip_gets_the_features_of_another():
    clips = [f"c{i}" for i in range(50)]
    given = derangement(clips, seed=3)
    assert sorted(given) == sorted(given.values()) == sorted(clips)
    assert all(clip != donor for clip, donor in given.items())
    assert given == derangement(clips[::-1], seed=3) != derangement(clips, seed=4)
    with pytest.raises(StoreError, match="one clip alone"):
        derangement(["c0"], seed=3)


def test_shuffle_features_does_shuffle(toy):
    manifest, stores = toy.corpus()
    tokens = Tokens(toy.GOLDEN / "llm")
    plain = examples(toy.pipeline(), manifest, stores, "dev", tokens)
    shuffled = examples(toy.pipeline(shuffle_features=True), manifest, stores, "dev", tokens)
    assert plain.texts == shuffled.texts
    given = derangement(plain.ids, toy.pipeline().seed)
    for number, clip in enumerate(plain.ids):
        found = shuffled.bank.packed([number])["spatial"].rows
        other = plain.bank.packed([plain.ids.index(given[clip])])["spatial"].rows
        assert torch.equal(found, other)
        assert not torch.equal(found, plain.bank.packed([number])["spatial"].rows)


def test_an_epoch_sees_every_clip_once_and_differs_from_the_next():
    lengths = np.random.default_rng(0).integers(10, 200, 64)
    schedule = Schedule(lengths, 8, "0 align")
    epochs = [[schedule[step] for step in range(e * 8, e * 8 + 8)] for e in range(2)]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(64))
    assert epochs[0] != epochs[1]


def test_schedule_needs_no_history():
    lengths = np.arange(40)
    walked = [Schedule(lengths, 7, "x")[step] for step in range(23)]
    schedule = Schedule(lengths, 7, "x")
    assert [schedule[step] for step in range(23)] == walked
    assert all(len(batch) == 7 for batch in walked)


def test_batches_hold_clips_of_like_length():
    lengths = np.random.default_rng(0).integers(10, 400, 512)
    schedule = Schedule(lengths, 16, "x")
    padded = sum(16 * lengths[schedule[step]].max() for step in range(schedule.per_epoch))
    assert padded < 1.15 * lengths.sum()


def test_reading_ahead_changes_nothing(toy):
    manifest, stores = toy.corpus()
    tokens = Tokens(toy.GOLDEN / "llm")
    held, read = (
        examples(toy.pipeline(), manifest, stores, "train", tokens, memory=memory)
        for memory in (1 << 30, 0)
    )
    order = [[0, 3], [5, 1], [2, 2]]
    wanted = [(numbers, 0) for numbers in order]
    pairs = zip(stream_batches(held, wanted), stream_batches(read, wanted), strict=True)
    for one, other in pairs:
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.streams["motion"].rows, other.streams["motion"].rows)
    asked = [(number,) for number in range(20)]
    assert list(starmap_ahead(lambda number: number, asked, 4)) == list(range(20))


def test_reading_ahead_passes_errors_on(toy):
    manifest, stores = toy.corpus()
    data = examples(toy.pipeline(), manifest, stores, "train", Tokens(toy.GOLDEN / "llm"), memory=0)
    stores["motion"]._arrays.clear()
    with pytest.raises(KeyError, match="train/0"):
        list(stream_batches(data, [([0], 0)]))


def test_long_sentences_keep_their_end_token(toy):
    manifest, stores = toy.corpus()
    tokens = Tokens(toy.GOLDEN / "llm")
    config = toy.pipeline(decode={"max_tokens": 4})
    data = examples(config, manifest, stores, "train", tokens)
    whole = tokens.encode(data.texts)
    assert any(len(line) > 4 for line in whole)
    for cut, line in zip(data.tokens, whole, strict=True):
        assert len(cut) <= 4
        assert cut[-1] == line[-1]
