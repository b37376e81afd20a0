"""The official release's own numbers, recorded on tiny random weights."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spamo_cache.config import Pipeline
from spamo_cache.errors import WeightsError
from spamo_cache.model.rows import Packed
from spamo_cache.model.tokens import Tokens, padded_ids
from spamo_cache.model.translator import Batch, Translator
from spamo_cache.train.official import our_name, read_state

PIPELINE = Pipeline.model_validate(
    {
        "name": "golden",
        "question": "does it compute what the official release computes?",
        "corpus": "golden",
        "spec": "spamo",
        "text": {"language": "German"},
        "adapter": {"width": 24},
        "llm": {"weights": "llm", "tuning": {"dropout": 0}},
        "align": {"steps": 1, "batch": 4, "lr": 1e-3},
        "translate": {"steps": 1, "batch": 4, "lr": 1e-3},
        "decode": {"max_tokens": 23},
        "protocol": {"pool_padding": True},
    }
)


@pytest.fixture
def translator(golden_folder):
    translator = Translator(PIPELINE, {"spatial": 40, "motion": 1024}, golden_folder / "llm")
    translator.attach()
    state = read_state(golden_folder / "official.ckpt")
    missing, unexpected = translator.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) == {"adapter.rms", "align.center", "embeddings.weight"}
    return translator


@pytest.fixture(scope="module")
def batch(golden_folder, golden_expected):
    features = load_file(golden_folder / "features.safetensors")
    streams = {}
    for stream in ("spatial", "motion"):
        clips = [features[f"{stream}.{i}"] for i in range(4)]
        streams[stream] = Packed(torch.cat(clips), torch.tensor([len(clip) for clip in clips]))
    labels = padded_ids(Tokens(golden_folder / "llm").encode(golden_expected["texts"]))
    return Batch(streams, labels)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_same_rows_and_losses(translator, batch, golden_expected, mode):
    expected = golden_expected["expected"][mode]
    translator.train(mode == "train")
    with torch.no_grad():
        sign = translator.adapter(batch.streams)
        logits = translator.llm.logits(translator.inputs(sign), batch.labels)
        losses = translator(batch, phase="translate")
    assert list(sign.rows.shape) == expected["visual_shape"]
    assert sign.lengths.tolist() == expected["visual_lengths"]
    assert sign.rows.abs().mean().item() == pytest.approx(expected["visual_abs"], rel=1e-4)
    assert sign.rows.sum().item() == pytest.approx(expected["visual_sum"], rel=1e-4)
    assert logits.abs().mean().item() == pytest.approx(expected["logits_abs"], rel=1e-4)
    assert losses["lm"].item() == pytest.approx(expected["lm_loss"], rel=1e-4)
    assert losses["align"].item() == pytest.approx(expected["align_loss"], rel=1e-4)
    assert losses["loss"].item() == pytest.approx(
        expected["lm_loss"] + expected["align_loss"], rel=1e-4
    )


def test_same_gradients(translator, batch, golden_expected):
    translator.train()
    translator(batch, phase="translate")["loss"].backward()
    parameters = dict(translator.named_parameters())
    for name, norm in golden_expected["expected"]["grad_norms"].items():
        gradient = parameters[our_name(name)].grad
        # A bias in front of batch norm has no true gradient: what is recorded is rounding.
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-4), name


def test_same_beams(translator, batch, golden_expected):
    translator.eval()
    with torch.inference_mode():
        rows = translator.inputs(translator.adapter(batch.streams))
    ids = translator.llm.generate(rows, PIPELINE.decode)
    assert ids.tolist() == golden_expected["expected"]["beam5"]


def test_refuses_what_is_no_official_checkpoint(tmp_path):
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"x": torch.zeros(1)}}, other)
    with pytest.raises(WeightsError, match="official release"):
        read_state(other)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, how, file):
        self.how, self.file = how, str(file)

    def __reduce__(self):
        return self.how, (self.file,)


class Settings(dict):
    """As Lightning and omegaconf keep hyper-parameters: a class of their own, with a state."""

    def __init__(self, **values):
        super().__init__(values)
        self.flags = {"allow": True}


@pytest.mark.parametrize(
    "how", [os.mkdir, shutil.rmtree, eval, Path.touch], ids=lambda how: how.__qualname__
)
@pytest.mark.parametrize("place", ["state_dict", "callbacks"])
def test_never_runs_code_in_a_checkpoint(golden_folder, tmp_path, how, place):
    target = tmp_path / "target"
    if how is shutil.rmtree:
        target.mkdir()
    before = target.exists()
    content = torch.load(golden_folder / "official.ckpt", weights_only=True)
    bad = tmp_path / "bad.ckpt"
    torch.save(content | {place: Evil(how, target)}, bad)
    with contextlib.suppress(WeightsError):
        read_state(bad)
    assert target.exists() is before


def test_what_lightning_keeps_beside_the_weights_is_skipped(golden_folder, tmp_path):
    content = torch.load(golden_folder / "official.ckpt", weights_only=True)
    content |= {
        "hyper_parameters": Settings(lr=6e-4, paths=[Path("/data")], nested=Settings(beams=5)),
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.2), "kind": int}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "epoch": 7,
    }
    torch.save(content, tmp_path / "lightning.ckpt")
    plain, found = (
        read_state(path) for path in (golden_folder / "official.ckpt", tmp_path / "lightning.ckpt")
    )
    assert plain.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in plain.items())


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04torn"])
def test_refuses_what_is_no_checkpoint_at_all(tmp_path, content):
    (tmp_path / "odd.ckpt").write_bytes(content)
    with pytest.raises(WeightsError, match="checkpoint"):
        read_state(tmp_path / "odd.ckpt")
