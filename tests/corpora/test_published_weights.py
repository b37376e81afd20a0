"""The shipped specs and pipelines on the weights they name, as the hub holds those, offline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from typer.testing import Result

from spamo_cache import load_spec
from spamo_cache.encoders.registry import build, outline
from spamo_cache.store.reader import FeatureStore
from tests.support import hub as published

Call = Callable[..., Result]

LLMS = {
    "phoenix14t": "google/flan-t5-xl@7d6315df2c2fb742f0f5b556879d730926ca9001",
    "csl-daily": "bigscience/mt0-xl@main",
    "how2sign": "google/flan-t5-xl@7d6315df2c2fb742f0f5b556879d730926ca9001",
}
SENTENCES = [
    "translate the given sentence into german chinese english.",
    "und nun die wettervorhersage für morgen",
    "im süden regnet es",
    "guten abend liebe zuschauer",
    "tiefer luftdruck bestimmt das wetter",
    "他的同学是警察。",
    "今天阴天，我不想骑自行车。",
    "你小张什么时候认识？",
    "Hi! I'm Johanna. He said go. Good bye.",
    "Take one cup of rice. Say hello first.",
]
SHORT = " ".join(f"--set {stage}.steps=2 --set {stage}.batch=2" for stage in ("align", "translate"))
"""All that a training of two steps changes of a pipeline."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The hub's cache, and open_clip with a small shape under the name of the large model."""
    cache = tmp_path_factory.mktemp("hub")
    published.build(cache, SENTENCES)
    import open_clip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-L-14-quickgelu", published.CLIP)
        yield cache


@pytest.mark.slow
def test_how_frames_are_prepared_is_known_without_weights(hub: Path) -> None:
    spec = load_spec("spamo")
    for stream in spec.streams.values():
        assert outline(stream, hub).preprocess == build(stream, hub).preprocess


@pytest.mark.slow
@pytest.mark.parametrize("corpus", LLMS)
def test_a_corpus_is_extracted_trained_and_evaluated(
    corpus: str, hub: Path, drawn: Mapping[str, Path], lab: Path, call: Call
) -> None:
    failing = 2 if corpus == "how2sign" else 0
    line = f"extract --dataset {corpus} --root {drawn[corpus]} --executor serial --json"
    extracted = json.loads(call(line, int(bool(failing))).stdout.splitlines()[-1])
    assert len(extracted["failed"]) == failing
    stores = {
        name: FeatureStore.open(Path(stream["store"]))
        for name, stream in extracted["streams"].items()
    }
    assert {name: store.attributes["weights"] for name, store in stores.items()} == {
        "spatial": "openai",
        "motion": "MCG-NJU/videomae-large@main",
    }
    assert [store.width for store in stores.values()] == [2 * 32, 32]
    trained = json.loads(call(f"train {corpus} {SHORT} -o run --json").stdout.splitlines()[-1])
    assert trained["best_step"] == 2
    asked = (lab / "run" / "config.yaml").read_text(encoding="utf-8")
    assert LLMS[corpus] in asked
    card: dict[str, Any] = json.loads(call("evaluate run --json").stdout)
    assert card["split"] == "test"
    assert card["n"] == (2 if corpus == "how2sign" else 1)
    assert 0 <= card["metrics"]["bleu4"] <= 100
