"""A run on several corpora: their clips apart, their shares as asked for, and what the run says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from spamo_cache.datasets.manifest import Manifest
from spamo_cache.datasets.mixture import mixed
from spamo_cache.errors import ConfigError, CorpusError, StoreError, UsageError
from spamo_cache.evaluate import evaluate
from spamo_cache.model.prompts import sentence_of
from spamo_cache.runs.folder import RunFolder, RunSummary
from spamo_cache.train.data import Ration, Schedule, rations, sample
from spamo_cache.train.features import MemoryFeatures, MixedFeatures
from spamo_cache.train.loop import Trainer
from spamo_cache.train.run import settings

Data = tuple[Manifest, Manifest, dict[str, MixedFeatures]]
BOTH: dict[str, Any] = {"corpora": {"toy": 1, "coast": 3}}
SMALL: dict[str, Any] = {
    "align": {"steps": 3, "batch": 4, "lr": 1e-3},
    "translate": {"steps": 12, "batch": 4, "lr": 1e-3, "eval_every": 6},
    "decode": {"beams": 1, "max_tokens": 6},
}


@pytest.fixture(scope="module")
def data(toy: ModuleType) -> Data:
    """Two corpora that call their clips alike; the second one is in English, and has a failure."""
    own, stores = toy.corpus()
    clips = [
        replace(
            clip,
            language="English",
            text=f"say {clip.text}",
            source=f"{clip.id.replace('/', '-c')}.mp4",
        )
        for clip in own.clips()
    ]
    coast = Manifest.from_clips("coast", clips)
    other = {
        name: MemoryFeatures(
            {clip: -rows for clip, rows in features._arrays.items() if clip != "train/1"},
            {"train/1": "cannot be decoded"},
        )
        for name, features in stores.items()
    }
    joined = {name: MixedFeatures(stores[name], {"coast": other[name]}) for name in stores}
    return own, coast, joined


def ids(manifest: Manifest, split: str = "train") -> list[str]:
    return [clip.id for clip in manifest.clips(split)]


def test_clips_that_are_called_alike_stay_apart(data: Data) -> None:
    own, coast, stores = data
    both = mixed(own, {"coast": coast}, ("toy", "coast"))
    assert ids(both) == [*ids(own), *(f"coast::{clip}" for clip in ids(coast))]
    assert ids(both, "dev") == ids(own, "dev"), "what is scored is the target's"
    last = both.clips("train")[-1]
    assert (last.source, last.signer) == ("coast::train-c15.mp4", "coast::train-1")
    one, two = "train/0", "coast::train/0"
    assert stores["spatial"].state("coast::train/1") == "failed"
    rows = stores["spatial"].rows(one)
    buffer = np.empty((3 * rows, 8), np.float16)
    offsets = stores["spatial"].read_into([two, one, two], buffer)
    assert offsets.tolist() == [0, rows, 2 * rows, 3 * rows]
    assert np.array_equal(buffer[:rows], -buffer[rows : 2 * rows])
    assert np.array_equal(buffer[:rows], buffer[2 * rows :])


def test_rows_are_valid_as_their_own_corpus_says() -> None:
    marked = MemoryFeatures({"a": np.ones((3, 2))}, valid={"a": np.array([True, False, True])})
    plain = MemoryFeatures({"a": np.ones((2, 2))})
    both = MixedFeatures(plain, {"coast": marked})
    assert both.has_validity
    assert [one.tolist() for one in both.valid(["a", "coast::a"])] == [
        [True, True],
        [True, False, True],
    ]
    assert not MixedFeatures(plain, {"coast": plain}).has_validity


class Strict(MemoryFeatures):
    """As a store on disk, which reads into buffers of its own dtype alone."""

    def read_into(self, ids: Any, buffer: np.ndarray) -> np.ndarray:
        assert buffer.dtype == self.dtype
        return super().read_into(ids, buffer)


def test_features_of_two_dtypes_are_read_in_the_one_that_holds_both() -> None:
    own = Strict({"a": np.full((2, 2), 0.5, np.float16)})
    wide = Strict({"a": np.full((1, 2), 1e6, np.float32)})
    both = MixedFeatures(own, {"coast": wide})
    buffer = np.empty((3, 2), both.dtype)
    both.read_into(["a", "coast::a"], buffer)
    assert buffer.tolist() == [[0.5, 0.5], [0.5, 0.5], [1e6, 1e6]]


def test_without_the_target_among_them_only_the_others_are_trained_on(data: Data) -> None:
    own, coast, _ = data
    alone = mixed(own, {"coast": coast}, ("coast",))
    assert ids(alone) == [f"coast::{clip}" for clip in ids(coast)]
    assert ids(alone, "test") == ids(own, "test")
    with pytest.raises(UsageError, match="coast has no split 'train'"):
        mixed(own, {"coast": coast.select(["dev"])}, ("coast",))
    odd = Manifest.from_clips("toy", [replace(own.clips()[0], id="coast::a")])
    with pytest.raises(CorpusError, match="looks like one of corpus coast"):
        mixed(odd, {"coast": coast}, ("toy", "coast"))


def test_an_epoch_has_the_shares_asked_for_and_every_clip_comes_equally_often() -> None:
    shares = [Ration("small", range(5), 12), Ration("large", range(5, 35), 23)]
    schedule = Schedule(np.arange(35), 5, "0 align", corpora=shares)
    steps = [schedule[step] for step in range(7 * 6)]
    assert steps == [schedule[step] for step in range(7 * 6)]
    for epoch in range(6):
        drawn = [clip for batch in steps[7 * epoch : 7 * epoch + 7] for clip in batch]
        assert Counter(clip < 5 for clip in drawn) == {True: 12, False: 23}
    seen = Counter(clip for batch in steps for clip in batch)
    for one in shares:
        counts = {seen[clip] for clip in one.numbers}
        assert max(counts) - min(counts) <= 1
    assert Schedule(np.arange(35), 5, "1 align", corpora=shares)[0] != steps[0]


def test_weights_and_temperature_decide_how_much_each_corpus_gives(toy: ModuleType) -> None:
    names = [*(f"train/{n}" for n in range(10)), *(f"coast::train/{n}" for n in range(90))]

    def drawn(**changes: Any) -> dict[str, int]:
        return {one.corpus: one.drawn for one in rations(toy.pipeline(**changes), names)}

    assert drawn() == {}
    assert drawn(corpora=["toy", "coast"]) == {"toy": 10, "coast": 90}
    assert drawn(corpora=["toy", "coast"], corpora_temperature=2.0) == {"toy": 25, "coast": 75}
    assert drawn(**BOTH) == {"toy": 25, "coast": 75}
    assert drawn(corpora={"toy": 1e-9, "coast": 1}) == {"toy": 1, "coast": 99}
    with pytest.raises(StoreError, match="no training clip has features"):
        drawn(corpora=["toy", "coast", "third"])


def test_a_share_of_the_training_clips_is_one_of_every_corpus(toy: ModuleType, data: Data) -> None:
    both = mixed(data[0], {"coast": data[1]}, ("toy", "coast"))
    kept = ids(sample(both, toy.pipeline(train_fraction=0.25, **BOTH)))
    assert sum(clip.startswith("coast::") for clip in kept) == len(kept) / 2 == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpora": ["toy", "toy"]}, "name one twice"),
        ({**BOTH, "corpora_temperature": 2.0}, "leave the temperature out"),
        ({"corpora": {"toy": 0}}, "greater than 0"),
        ({**BOTH, "encoders": {"blocks": 1}}, "tuned on one corpus"),
    ],
)
def test_corpora_that_cannot_be_mixed_are_one_clear_error(
    toy: ModuleType, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        toy.pipeline(**changes)


def test_each_clip_is_prompted_in_its_own_language(toy: ModuleType, data: Data) -> None:
    both = mixed(data[0], {"coast": data[1]}, ("toy", "coast"))
    clips = [both.clips("train")[0], both.clips("train")[-1]]
    said = [sentence_of(clip, toy.pipeline(**BOTH)).language for clip in clips]
    assert said == ["German", "English"]
    # A target whose table spells its language otherwise is prompted as the pipeline says.
    config = toy.pipeline(text={"language": "Deutsch"}, **BOTH)
    assert sentence_of(clips[0], config).language == "Deutsch"


def test_a_language_without_a_prompt_is_told_before_anything_is_trained(
    toy: ModuleType, data: Data, tmp_path: Path
) -> None:
    both = mixed(data[0], {"coast": data[1]}, ("toy", "coast"))
    llm = {"weights": "llm", "prompt": {"German": "Sag:"}}
    with pytest.raises(ConfigError, match="no prompt for language 'English'"):
        toy.run(tmp_path / "run", toy.pipeline(llm=llm, **BOTH), manifest=both, stores=data[2])
    assert not (tmp_path / "run").exists()


def test_a_run_on_one_corpus_is_what_it_was(toy: ModuleType) -> None:
    assert not {"corpora", "corpora_temperature"} & settings(toy.pipeline()).keys()


class KilledError(Exception):
    pass


def test_a_run_says_what_it_took_from_each_and_resumes_to_the_same_bytes(
    toy: ModuleType, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, coast, stores = data
    both = mixed(own, {"coast": coast}, ("toy", "coast"))
    config, notices = toy.pipeline(**SMALL, **BOTH), list[str]()
    whole = toy.run(tmp_path / "whole", config, manifest=both, stores=stores, notice=notices.append)
    about = RunFolder(whole.path).read_about()
    assert {name: (one.clips, one.share) for name, one in about.corpora.items()} == {
        "toy": (16, 0.25),
        "coast": (16, 0.75),
    }
    other = stores["spatial"].others["coast"].fingerprint
    assert about.parts["corpora"]["coast"]["spatial"] == other != about.fingerprints["spatial"]
    assert whole.failed["train"] == {"coast::train/1": "spatial: cannot be decoded"}
    assert not any("toy is selected and scored on" in one for one in notices)
    after = Trainer._after

    def killed(self: Trainer, now: Any, config: Any, optimiser: Any) -> None:
        after(self, now, config, optimiser)
        if (now, self.state.step) == ("translate", 10):
            raise KilledError

    monkeypatch.setattr(Trainer, "_after", killed)
    with pytest.raises(KilledError):
        toy.run(tmp_path / "cut", config, manifest=both, stores=stores)
    monkeypatch.undo()
    toy.run(tmp_path / "cut", config, manifest=both, stores=stores)
    for name in ("model.safetensors", "metrics.jsonl", "run.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (whole.path / name).read_bytes()
    # Other features of the other corpus are another experiment.
    changed = {name: MixedFeatures(one.own, {"coast": one.own}) for name, one in stores.items()}
    with pytest.raises(UsageError, match=r"corpora\.coast\.motion"):
        toy.run(tmp_path / "cut", config, manifest=both, stores=changed)


def test_what_the_others_have_of_the_scored_clips_is_said(
    toy: ModuleType, data: Data, tmp_path: Path
) -> None:
    own, coast, stores = data
    known = {clip.split: clip for clip in own.clips()}
    test, name = known["test"], "deep/test/5.webm"
    clips = [
        replace(clip, text=test.text, source=name) if clip.id == "train/0" else clip
        for clip in coast.clips()
    ]
    both = mixed(own, {"coast": Manifest.from_clips("coast", clips)}, ("toy", "coast"))
    notices: list[str] = []
    config = toy.pipeline(**{**SMALL, "align": {**SMALL["align"], "steps": 0}}, **BOTH)
    config = config.model_copy(
        update={"translate": config.translate.model_copy(update={"steps": 0})}
    )
    toy.run(tmp_path / "run", config, manifest=both, stores=stores, notice=notices.append)
    scored = "of 11 clips that toy is selected and scored on"
    assert f"1 {scored} say training sentences of coast" in notices
    assert any(f"1 {scored} are called like training videos of coast" in one for one in notices)


# --- beginning with a run on another corpus -----------------------------------------------------

NOTHING = {stage: {"steps": 0, "batch": 4, "lr": 1e-3} for stage in ("align", "translate")}


def test_weights_of_another_corpus_are_taken_over_and_named(
    toy: ModuleType, finished: tuple[Path, RunSummary], tmp_path: Path
) -> None:
    own, stores = toy.corpus()
    inland = Manifest.from_clips("inland", own.clips())
    # Each corpus has its convention; the weights do not mind.
    text = {"language": "German", "final_dot": True, "tokenize": "none"}
    config = toy.pipeline(corpus="inland", text=text, init_from=str(finished[0]), **NOTHING)
    run = toy.run(tmp_path / "run", config, manifest=inland, stores=stores).path
    before, after = (load_file(one / "model.safetensors") for one in (finished[0], run))
    assert before.keys() == after.keys()
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    begun = RunFolder(run).read_about().init_from
    assert begun is not None
    assert (begun.path, begun.name, begun.corpora) == (str(finished[0]), "toy", ("toy",))
    card = evaluate(run, "test", stores=stores, device="cpu")
    found = {warning.kind: warning.words for warning in card.warnings}
    assert f"those of {finished[0]}, trained on toy." in found["start"]
    # The files of the two are called alike, and lie in different folders.
    assert not {"video-in-training", "signers-in-training"} & found.keys()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapter": {"width": 8}}, "adapter.width 16, not 8"),
        ({"adapter": {"width": 16, "tcn": "k3"}}, "adapter.tcn k5 p2 k5 p2, not k3"),
        ({"streams": ["spatial"]}, "streams spatial, motion, not spatial"),
        ({"llm": {"weights": "llm", "tuning": {"r": 2}}}, "llm.tuning.r 4, not 2"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_the_first_key_that_differs(
    toy: ModuleType,
    finished: tuple[Path, RunSummary],
    tmp_path: Path,
    changes: dict[str, Any],
    words: str,
) -> None:
    config = toy.pipeline(init_from=str(finished[0]), **changes)
    with pytest.raises(UsageError, match=f"was trained with {words}"):
        toy.run(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_features_of_another_width_are_refused(
    toy: ModuleType, finished: tuple[Path, RunSummary], tmp_path: Path
) -> None:
    _, stores = toy.corpus()
    stores["motion"] = MemoryFeatures(
        {clip: rows[:, :3] for clip, rows in stores["motion"]._arrays.items()}
    )
    with pytest.raises(UsageError, match="stream 'motion' differs in width"):
        toy.run(tmp_path / "run", toy.pipeline(init_from=str(finished[0])), stores=stores)
