"""A run read from stores of another cache spec, which may differ in what was said and no more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from spamo_cache.errors import StoreError
from spamo_cache.evaluate import evaluate, stores
from spamo_cache.train.checkpoint import RunFolder

SPEC = {"encoder": "videomae", "window": 16, "stride": 8, "resize": "pil", "dtype": "float16"}
MADE = {"corpus_sha256": "c", "weights_sha256": "w", "semantics": 1}


class Store(SimpleNamespace):
    """A store as far as it says how it was made."""

    path = "store"

    @classmethod
    def of(cls, fingerprint, *, made=None, **spec):
        attributes = {**MADE, **(made or {}), "spec": {**SPEC, **spec}}
        return cls(fingerprint=fingerprint, attributes=attributes)


@pytest.fixture
def check(tmp_path, monkeypatch):
    """check_stores for a run trained from one motion store and one spatial store."""
    trained = {name: Store.of(name) for name in ("motion", "spatial")}
    about = {
        "parts": {"stores": {name: name for name in trained}},
        "places": {name: name for name in trained},
    }
    monkeypatch.setattr(Store, "open", staticmethod(trained.__getitem__), raising=False)
    monkeypatch.setattr(stores, "FeatureStore", Store)
    monkeypatch.setattr(RunFolder, "read_about", lambda _: about)
    return lambda changed, **others: stores.check_stores(
        RunFolder(tmp_path), {**trained, **others}, changed
    )


def test_what_was_said_may_differ(check):
    check({})
    check({"streams.motion.stride": 4}, motion=Store.of("other", stride=4))
    check({"streams.motion.phase": 3}, motion=Store.of("other", phase=3))
    # Left out of specs, it is 0.
    check({"streams.motion.phase": 0}, motion=Store.of("other"))
    both = {name: Store.of("other", resize="torchvision-uint8") for name in ("motion", "spatial")}
    check({"frames.resize": "torchvision-uint8"}, **both)


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({"motion": Store.of("other", stride=2)}, "stride 2, expected 4"),
        ({"motion": Store.of("other", stride=4, window=8)}, "window 8, expected 16"),
        ({"motion": Store.of("other", stride=4, phase=1)}, "phase 1, expected 0"),
        ({"motion": Store.of("other", stride=4, made={"weights_sha256": "x"})}, "weights_sha256"),
        ({"motion": Store.of("other", stride=4, made={"corpus_sha256": "x"})}, "corpus_sha256"),
        ({"motion": Store.of("other", stride=4), "spatial": Store.of("new")}, "trained from"),
        ({}, "stride 8, expected 4"),
    ],
)
def test_nothing_else_may(check, others, told):
    with pytest.raises(StoreError, match=told):
        check({"streams.motion.stride": 4}, **others)


def test_a_changed_evaluation_stands_beside_the_plain_one(toy, finished):
    run, _ = finished
    _, plain = toy.corpus()
    thinned = {name: rows[::2] for name, rows in plain["motion"]._arrays.items()}
    changed = {"streams.motion.stride": 16}
    usual = evaluate(run, "test", stores=plain, device="cpu")
    card = evaluate(
        run,
        "test",
        stores={**plain, "motion": toy.MemoryFeatures(thinned)},
        changed=changed,
        device="cpu",
    )
    assert (card.name, card.changed) == ("test@motion.stride=16", changed)
    assert (run / "evaluation" / "test@motion.stride=16.hypotheses.jsonl").is_file()
    assert evaluate(run, "test", stores=plain, device="cpu") == usual
    assert card.stores["motion"] != usual.stores["motion"]
    with pytest.raises(StoreError, match="trained from"):
        evaluate(run, "test", stores={**plain, "motion": toy.MemoryFeatures(thinned)}, device="cpu")
