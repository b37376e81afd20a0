"""A run read from stores of another cache spec, which may differ in what was said and no more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from spamo_cache import io
from spamo_cache.errors import StoreError
from spamo_cache.evaluate import evaluate, features
from spamo_cache.runs.folder import RunFolder, RunRecord, identity
from spamo_cache.store.attributes import Attributes, validated
from spamo_cache.store.layout import FORMAT

SPEC = {"encoder": "videomae", "window": 16, "stride": 8, "resize": "pil", "dtype": "float16"}
MADE = {"corpus_sha256": "c" * 64, "weights_sha256": "e" * 64}
NAMES = {"motion": "a" * 64, "spatial": "b" * 64}
"""Stream -> fingerprint of what the run was trained from."""


def attributes(fingerprint, *, made=None, **spec):
    """What a store says of itself."""
    return validated(
        {
            "format": FORMAT,
            "corpus": "toy",
            "stream": "motion",
            "fingerprint": fingerprint,
            "spec": {**SPEC, **spec},
            "weights": "toy",
            "semantics": 1,
            "clips": 1,
            "partitions": 1,
            "width": 2,
            "dtype": "float16",
            "chunk_rows": 8,
            "shard_rows": 16,
            **MADE,
            **(made or {}),
        },
        Attributes,
        "store",
    )


def other(**spec):
    """A store that the run was not trained from."""
    about = attributes("f" * 64, **spec)
    return SimpleNamespace(path="store", fingerprint=about.fingerprint, about=about)


@pytest.fixture
def check(tmp_path):
    """check_stores for a run trained from one motion store and one spatial store."""
    trained = {name: attributes(fingerprint) for name, fingerprint in NAMES.items()}
    parts = {"stores": NAMES, "llm": "1" * 64}
    record = RunRecord(
        identity=identity(parts),
        parts=parts,
        base="/",
        widths={},
        places=NAMES,
        stores=trained,
        versions={},
    )
    folder = RunFolder(tmp_path)
    io.write_json(folder.about, record.model_dump(mode="json"))
    own = {
        name: SimpleNamespace(path="store", fingerprint=about.fingerprint, about=about)
        for name, about in trained.items()
    }
    return lambda changed, **others: features.check_stores(folder, {**own, **others}, changed)


def test_what_was_said_may_differ(check):
    check({})
    check({"streams.motion.stride": 4}, motion=other(stride=4))
    check({"streams.motion.phase": 3}, motion=other(phase=3))
    # Left out of specs, it is 0.
    check({"streams.motion.phase": 0}, motion=other())
    both = {name: other(resize="torchvision-uint8") for name in ("motion", "spatial")}
    check({"frames.resize": "torchvision-uint8"}, **both)


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({"motion": other(stride=2)}, "stride 2, expected 4"),
        ({"motion": other(stride=4, window=8)}, "window 8, expected 16"),
        ({"motion": other(stride=4, phase=1)}, "phase 1, expected 0"),
        ({"motion": other(stride=4, made={"weights_sha256": "9" * 64})}, "weights_sha256"),
        ({"motion": other(stride=4, made={"corpus_sha256": "9" * 64})}, "corpus_sha256"),
        ({"motion": other(stride=4), "spatial": other()}, "trained from"),
        ({}, "stride 8, expected 4"),
    ],
)
def test_nothing_else_may(check, others, told):
    with pytest.raises(StoreError, match=told):
        check({"streams.motion.stride": 4}, **others)


def test_a_field_of_a_box_may_differ(tmp_path):
    box = {"scale": 1.5, "smooth": 5}
    about = attributes("a" * 64, region="face", box=box)
    record = {"identity": identity({}), "parts": {"stores": {"motion": "a" * 64}}, "base": "/"}
    stores = {"widths": {}, "places": {}, "stores": {"motion": about}, "versions": {}}
    folder = RunFolder(tmp_path)
    io.write_json(folder.about, RunRecord(**record, **stores).model_dump(mode="json"))
    wider = {"motion": other(region="face", box={**box, "scale": 2.0})}
    features.check_stores(folder, wider, {"streams.motion.box.scale": 2.0})
    with pytest.raises(StoreError, match=r"expected .*'scale': 3"):
        features.check_stores(folder, wider, {"streams.motion.box.scale": 3.0})


@pytest.mark.slow
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
