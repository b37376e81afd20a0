from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spamo_cache.analysis import attribution_docs
from spamo_cache.analysis.attribution import TOLERANCE, attribution, integrate, split_words
from spamo_cache.config import Pipeline
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import UsageError
from spamo_cache.model.rows import Packed
from spamo_cache.model.tokens import Tokens, padded_ids
from spamo_cache.model.translator import Batch, Translator
from spamo_cache.runs.attributions import ClipAttribution, read_attribution
from spamo_cache.runs.load import load_run
from spamo_cache.runs.records import Scorecard, ScoredClip, keep_card
from spamo_cache.train import MemoryFeatures, train
from spamo_cache.train.features import Bank
from tests.support import decoders

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden" / "translator"
WORDS = ["regen", "sonne", "wind", "schnee"]
ROWS = 12
PIPELINE = {
    "name": "one-row",
    "question": "Is the one row that speaks found?",
    "corpus": "words",
    "spec": "none",
    "streams": ["spatial"],
    "text": {"language": "German"},
    "adapter": {"width": 32, "tcn": "k1", "scale": "embeddings", "dropout": 0.0},
    "llm": {"weights": str(GOLDEN / "llm"), "tuning": {"r": 8, "dropout": 0.0}},
    "align": {"batch": 16, "lr": 3e-3, "steps": 60, "center": True},
    "translate": {"batch": 16, "lr": 3e-3, "steps": 120, "eval_every": 120},
    "decode": {"beams": 2, "max_tokens": 8},
}


def test_a_square_is_attributed_exactly_and_each_word_to_its_own_rows() -> None:
    clip = {"a": torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]), "b": torch.tensor([[[5.0]]])}
    blank = {"a": torch.ones(1, 2, 2), "b": torch.zeros(1, 1, 1)}

    def score(streams) -> Tensor:
        return torch.stack(
            [streams["a"].square().sum((1, 2)), -streams["b"][:, 0, 0] * streams["a"][:, 1, 0]], 1
        )

    rows = integrate(score, blank, clip, steps=16)
    # The integral of the gradient of x^2 is x^2 - 1; the product is divided between its factors.
    assert rows["a"][0].tolist() == pytest.approx([9 - 1 + 1 - 1, 4 - 1 + 0 - 1], abs=1e-4)
    assert rows["a"][1].tolist() == pytest.approx([0, -2.5], abs=1e-4)
    assert rows["b"][:, 0].tolist() == pytest.approx([0, -7.5], abs=1e-4)


def translator(folder: Path) -> Translator:
    plain = {**PIPELINE, "streams": ["spatial", "motion"]}
    torch.manual_seed(0)
    made = Translator(Pipeline.model_validate(plain), {"spatial": 8, "motion": 6}, folder)
    with torch.no_grad():
        made.attach()
    return made.eval()


@pytest.mark.parametrize("family", ["T5", "Llama", "Qwen3", "GPT2"])
def test_every_llm_is_attributed_completely(family: str, tmp_path: Path) -> None:
    folder = GOLDEN / "llm" if family == "T5" else decoders.make(tmp_path, family)
    made, sentence = translator(folder), "im norden regen"
    chance = torch.Generator().manual_seed(1)
    streams = {
        name: Packed(torch.randn(rows, width, generator=chance), torch.tensor([rows]))
        for name, width, rows in (("spatial", 8, 20), ("motion", 6, 3))
    }
    usual = {"spatial": torch.zeros(8), "motion": torch.zeros(6)}
    found = attribution(made, Batch(streams, torch.zeros(1, 1, dtype=torch.long)), sentence, usual)
    assert found.words == ["im", "norden", "regen"]
    assert {name: rows.shape for name, rows in found.rows.items()} == {
        "spatial": (3, 20),
        "motion": (3, 3),
    }
    # The same numbers from the loss that training has, less what the end token costs in it.
    labels = padded_ids(made.tokens.encode([sentence]))
    with torch.inference_mode():
        logits = made.attach().logits(made.inputs(made.sign(streams)), labels)
    losses = torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="none")
    assert found.clip == pytest.approx(-float(losses[:-1].sum()), rel=1e-4)
    assert found.clip != pytest.approx(found.baseline, abs=1e-3)
    assert found.error <= TOLERANCE


def test_words_own_their_tokens(tmp_path: Path) -> None:
    tokens = Tokens(GOLDEN / "llm")
    (ids,) = tokens.encode(["im norden schneit es"])
    words, owners = split_words(tokens, ids)
    assert words == ["im", "norden", "schneit", "es"]
    assert len(owners) == len(ids) - 1  # the end token is nobody's
    assert sorted(set(owners)) == [0, 1, 2, 3]
    assert owners == sorted(owners)
    # Bytes as tokens: three for each character, none of which is a word of its own.
    tokens = Tokens(decoders.make(tmp_path, "Llama"))
    (ids,) = tokens.encode(["今天雨"])
    words, owners = split_words(tokens, ids)
    assert (words, owners) == (["今", "天", "雨"], [0] * 3 + [1] * 3 + [2] * 3)
    assert split_words(tokens, [tokens.end]) == ([], [])
    assert split_words(tokens, tokens.encode(["regen"])[0])[0] == ["regen"]


def corpus() -> tuple[Manifest, MemoryFeatures, dict[str, int]]:
    """Clips of noise with one row that says the word; and which row that is."""
    rng = np.random.default_rng(0)
    speaking = rng.normal(size=(len(WORDS), 16))
    clips, arrays, told = [], {}, {}
    for split, count in (("train", 160), ("dev", 8), ("test", 16)):
        for number in range(count):
            name, word = f"{split}/{number}", number % len(WORDS)
            rows = rng.normal(size=(ROWS, 16))
            told[name] = int(rng.integers(ROWS))
            rows[told[name]] = speaking[word]
            arrays[name] = rows.astype(np.float16)
            known = {"source": f"{name}.mp4", "language": "German", "extra": {}}
            clips.append(Clip(id=name, split=split, text=WORDS[word], **known))
    return Manifest.from_clips("words", clips), MemoryFeatures(arrays), told


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("attribution") / "run"
    manifest, features, _ = corpus()
    train(
        Pipeline.model_validate(PIPELINE),
        base=GOLDEN,
        manifest=manifest,
        stores={"spatial": features},
        out=out,
        device="cpu",
    )
    return out


def attributed(run: Path, ids: list[str]) -> dict[str, ClipAttribution]:
    manifest, features, _ = corpus()
    stores = {"spatial": features}
    return attribution_docs.attribute(run, ids, manifest=manifest, stores=stores, device="cpu")


def test_attribution_peaks_at_the_one_row_that_speaks(run: Path) -> None:
    told = corpus()[2]
    found = attributed(run, [f"test/{number}" for number in range(6)])
    peaks = [int(np.argmax(one.streams["spatial"].rows)) for one in found.values()]
    assert [one.hypothesis == one.reference for one in found.values()].count(True) >= 5
    # By chance it would be one in twelve.
    assert sum(peak == told[clip] for clip, peak in zip(found, peaks, strict=True)) >= 5
    assert max(one.nats.error for one in found.values()) < 0.05


def test_shuffled_weights_give_another_map(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adebayo et al. (2018): a map that does not need the weights explains nothing."""
    monkeypatch.setattr("spamo_cache.analysis.attribution.MOST", 32)
    loaded, (_, features, told) = load_run(run, device="cpu"), corpus()
    usual = {"spatial": torch.zeros(16)}

    def peaks() -> list[bool]:
        bank = Bank({"spatial": features}, list(told)[-6:], max_frames=512, memory=0)
        found = []
        for number, clip in enumerate(list(told)[-6:]):
            batch = Batch(bank.packed([number]), torch.zeros(1, 1, dtype=torch.long))
            word = WORDS[int(clip.split("/")[1]) % len(WORDS)]
            rows = attribution(loaded.translator, batch, word, usual).rows["spatial"].sum(0)
            found.append(int(np.argmax(rows)) == told[clip])
        return found

    trained = sum(peaks())
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in loaded.translator.adapter.parameters():
            order = torch.randperm(weight.numel(), generator=chance)
            weight.copy_(weight.flatten()[order].view_as(weight))
    assert trained >= 5
    assert sum(peaks()) <= 2


def test_documents_add_up_and_are_kept(run: Path) -> None:
    (document,) = attributed(run, ["test/3"]).values()
    kept = run / attribution_docs.FOLDER / f"{attribution_docs.slug('test/3')}.json"
    assert read_attribution(kept) == document
    stream = document.streams["spatial"]
    assert (document.unit, document.length, stream.share) == ("row", ROWS, 1.0)
    assert (stream.first, stream.last) == (list(range(ROWS)), list(range(ROWS)))
    total = document.nats.attributed
    assert sum(stream.rows) == pytest.approx(total, abs=1e-4)
    words = np.sum([word.curve for word in document.words], axis=0)
    assert words == pytest.approx(np.array(stream.curve), abs=1e-4)
    assert " ".join(word.word for word in document.words) == document.hypothesis
    assert document.shots == []
    assert document.without == "nobody asked for frames"


def test_unknown_clips_and_shuffled_runs_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no clip 'test/99'") as caught:
        attributed(run, ["test/99"])
    assert "test/9" in caught.value.remedy
    loaded = load_run(run, device="cpu")
    shuffled = loaded.pipeline.model_copy(update={"shuffle_features": True})
    changed = replace(loaded, pipeline=shuffled)
    monkeypatch.setattr(attribution_docs, "load_run", lambda *_, **__: changed)
    with pytest.raises(UsageError, match="another's features"):
        attributed(run, ["test/3"])


@pytest.mark.parametrize(
    "clip", ["../../etc/passwd", "/abs", "a:b", "ä 你", "x" * 5000, "", ".", "\ud800", "a\0b"]
)
def test_slugs_are_plain_file_names(clip: str) -> None:
    name = attribution_docs.slug(clip)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert 10 <= len(name) < 80
    assert name[0] != "-"


def test_slugs_differ_where_ids_do() -> None:
    ids = ["a b", "a-b", "A-B", "a_b", "ä", "ö", "x" * 100, "x" * 101]
    assert len(set(map(attribution_docs.slug, ids))) == len(ids)


def test_worst_and_best_are_picked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not evaluated on test"):
        attribution_docs.pick(tmp_path, 2)
    scores = {"a": 50.0, "b": 10.0, "c": 90.0, "silent": 0.0, "d": 20.0, "e": 70.0}
    lines = [
        ScoredClip(
            id=clip, hypothesis="" if clip == "silent" else "wort", reference="wort", chrf=chrf
        )
        for clip, chrf in scores.items()
    ]
    card = Scorecard(
        run="run", name="test", split="test", protocol="default", n=len(lines), metrics={},
        intervals={}, signatures={}, bootstrap={}, headline={}, conventions=[], warnings=[],
        published=[], failed={}, shuffled=False, changed={}, stores={}, identity="i",
    )  # fmt: skip
    keep_card(tmp_path, card, lines)
    assert attribution_docs.pick(tmp_path, 4) == ["b", "d", "e", "c"]
    assert attribution_docs.pick(tmp_path, 1) == ["c"]
    assert attribution_docs.pick(tmp_path, 99) == ["b", "d", "a", "e", "c"]


def test_rows_lie_evenly_over_their_moments() -> None:
    span = np.array([[0, 3], [2, 3]])
    curve = attribution_docs.spread(np.array([[4.0, 2.0]]), span, 5)
    assert curve.tolist() == [[1.0, 1.0, 2.0, 2.0, 0.0]]


def test_thinned_rows_know_which_they_are() -> None:
    rows = np.arange(40, dtype=np.float32)[:, None]
    stores = {"spatial": MemoryFeatures({"c": rows}), "motion": MemoryFeatures({"c": rows[:7]})}
    for crop in (None, "0"):
        bank = Bank(stores, ["c"], max_frames=10, memory=0, crop=crop)
        for name, packed in bank.packed([0]).items():
            assert packed.rows[:, 0].tolist() == bank.row_indices(name, 0).tolist()
        assert len(bank.row_indices("spatial", 0)) == 10
