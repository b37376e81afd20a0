"""Every switch of the official protocol changes what it says, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from spamo_cache.config import Pipeline, ProtocolConfig
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import ConfigError, StoreError
from spamo_cache.evaluate import evaluate
from spamo_cache.model.text import normalise
from spamo_cache.model.tokens import Tokens
from spamo_cache.model.translator import Translator
from spamo_cache.runs.load import load_run
from spamo_cache.train import MemoryFeatures
from spamo_cache.train.data import examples
from spamo_cache.train.decoding import decode
from spamo_cache.train.features import Bank

SWITCHES = list(ProtocolConfig.model_fields)
PAIRS = {
    "weights": "llm",
    "prompt": "{language}",
    "in_context_languages": ["en"],
    "tuning": {"r": 4},
}


def flat(value, key=""):
    if not isinstance(value, dict):
        return {key: value}
    return {
        name: found
        for part, inner in value.items()
        for name, found in flat(inner, f"{key}.{part}" if key else part).items()
    }


def changed(one: Pipeline, other: Pipeline) -> dict:
    """Keys in which two pipelines differ, and what the second has there."""
    before, after = (flat(config.model_dump(mode="json")) for config in (one, other))
    assert before.keys() <= after.keys()
    return {key: value for key, value in after.items() if value != before.get(key)}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_sets_no_other_key_than_it_names(toy, switch):
    chinese = {"language": "Chinese", "tokenize": "zh"}
    plain = toy.pipeline(text=chinese, llm=PAIRS)
    implied = {
        "bleu_13a": {"text.tokenize": "13a"},
        "no_warm_up": {"align.steps": 0},
        "batches_of_eight": {
            f"{stage}.{key}": value
            for stage in ("align", "translate")
            for key, value in (("batch", 16), ("grad_accum_steps", 2))
        },
        "tokens_63": {"decode.max_tokens": 63},
        "pil_resize": {"spec_set.frames.resize": "pil"},
        "float32_features": {"spec_set.compute": "float32", "spec_set.store.dtype": "float32"},
        "lower_and_dot": {
            "text.lower": True,
            "text.final_dot": "attached",
            "text.hypotheses": "lower",
        },
    }
    switched = toy.pipeline(text=chinese, llm=PAIRS, protocol={switch: True})
    assert changed(plain, switched) == {f"protocol.{switch}": True} | implied.get(switch, {})
    assert switched.protocol.name == switch
    off = toy.pipeline(text=chinese, llm=PAIRS, protocol={switch: False})
    assert off == plain
    assert off.protocol.name == "default"


def test_one_word_turns_all_of_them_on(toy):
    config = toy.pipeline(llm=PAIRS, protocol="official")
    assert all(value for _, value in config.protocol)
    assert config == toy.pipeline(llm=PAIRS, protocol=dict.fromkeys(SWITCHES, True))
    assert config.protocol.name == "official"
    assert (config.align.steps, config.text.tokenize, config.text.lower) == (0, "13a", True)
    # As kept in a run's folder.
    assert Pipeline.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValueError, match="protocol"):
        toy.pipeline(protocol="offical")


def test_official_but_for_a_switch_is_called_so(toy):
    config = toy.pipeline(protocol={"official": True, "pairs_from_batch": False})
    assert config.protocol.name == "official without pairs_from_batch"
    assert sum(value for _, value in config.protocol) == len(SWITCHES) - 1
    assert Pipeline.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValueError, match="pairs_from_batch shows no pair"):
        toy.pipeline(protocol="official")


def test_text_is_lowered_and_ends_with_a_dot(toy):
    text = toy.pipeline(protocol={"lower_and_dot": True}).text
    found = [normalise(line, text) for line in ("Regen", "Regen.", "Regen .", "Regen!", "")]
    assert found == ["regen.", "regen.", "regen .", "regen!.", ""]


def data_of(toy, split="dev", stores=None, **protocol):
    config = toy.pipeline(protocol=protocol)
    manifest, features = toy.corpus()
    tokens = Tokens(toy.GOLDEN / "llm")
    return config, examples(config, manifest, stores or features, split, tokens)


def translator_of(config, toy):
    torch.manual_seed(0)
    made = Translator(config, {"spatial": 8, "motion": 6}, toy.GOLDEN / "llm")
    torch.manual_seed(0)
    made.attach()
    return made.eval()


@pytest.mark.slow
def test_padding_is_pooled_by_alignment_alone(toy):
    losses = []
    for padded in (False, True):
        config, data = data_of(toy, pool_padding=padded)
        with torch.no_grad():
            losses.append(translator_of(config, toy)(data.batch(range(5)), phase="translate"))
    assert losses[0]["lm"] == losses[1]["lm"]
    assert losses[0]["align"] != losses[1]["align"]


@pytest.mark.slow
def test_sampled_beams_are_drawn_from_the_seed(toy):
    said, seeds = {}, {}
    for sampled in (False, True):
        config, data = data_of(toy, sampled_beams=sampled)
        model = translator_of(config, toy)
        with torch.no_grad():
            # Less sure of itself, so that there is something to draw from.
            model.embeddings.weight.mul_(0.1)
        before = torch.get_rng_state()
        said[sampled] = [decode(model, data, config.decode) for _ in range(2)]
        seeds[sampled] = torch.equal(before, torch.get_rng_state())
        with torch.no_grad():
            said[sampled].append(model(data.batch([0, 1]), phase="translate")["loss"].item())
    for first, second, _ in said.values():
        assert first == second
    assert said[True][0] != said[False][0]
    assert said[True][2] == said[False][2]
    assert seeds == {False: True, True: True}


@pytest.mark.slow
def test_weights_are_selected_on_test(toy, tmp_path):
    default, leaky = (tmp_path / name for name in ("default", "leaky"))
    summary = toy.run(default)
    leaked = toy.run(leaky, toy.pipeline(protocol={"select_on_test": True}))
    _, stores = toy.corpus()
    for out, found, split in ((default, summary, "dev"), (leaky, leaked, "test")):
        card = evaluate(out, split, stores=stores, device="cpu")
        assert card.metrics["bleu4"] == pytest.approx(found.best_bleu)
    # What is learnt up to a step is the same: test only chooses among the steps.
    curves = [
        [json.loads(line).get("lm") for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (default, leaky)
    ]
    assert curves[0] == curves[1]


@pytest.mark.slow
@pytest.mark.parametrize("absent", [False, True], ids=["failed", "absent"])
def test_missing_clips_are_dropped(toy, tmp_path, absent):
    manifest, stores = toy.corpus(failed=("test/2",))
    dropping = toy.pipeline(
        protocol={"drop_missing": True}, translate={"steps": 2, "batch": 4, "lr": 1e-3}
    )
    if absent:
        stores = {name: MemoryFeatures(store._arrays) for name, store in stores.items()}
    toy.run(tmp_path, dropping, manifest=manifest, stores=stores)
    card = evaluate(tmp_path, "test", stores=stores, device="cpu")
    assert (card.n, card.protocol) == (5, "drop_missing")
    reason = "never extracted" if absent else "spatial: cannot be decoded"
    assert card.failed == {"test/2": reason}
    lines = (tmp_path / "evaluation" / "test.hypotheses.jsonl").read_text().splitlines()
    assert "test/2" not in [json.loads(line)["id"] for line in lines]
    written = json.loads((tmp_path / "evaluation" / "test.json").read_text())
    assert written["protocol"] == "drop_missing"


def test_clips_never_extracted_are_an_error_otherwise(toy):
    _, stores = toy.corpus(failed=("dev/2",))
    stores = {name: MemoryFeatures(store._arrays) for name, store in stores.items()}
    with pytest.raises(StoreError, match="no features yet"):
        data_of(toy, stores=stores)


@pytest.mark.slow
def test_there_is_no_warm_up(toy, tmp_path):
    config = toy.pipeline(
        protocol={"no_warm_up": True}, translate={"steps": 2, "batch": 4, "lr": 1e-3}
    )
    assert toy.run(tmp_path, config).recall is None
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["stage"] for line in lines} == {"translate"}


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_long_clips_are_cropped_at_random(memory):
    rows = {"long": np.arange(100.0)[:, None], "short": np.arange(900.0, 908.0)[:, None]}
    motion = {"long": np.arange(12.0)[:, None], "short": np.arange(1.0)[:, None]}
    stores = {"spatial": MemoryFeatures(rows), "motion": MemoryFeatures(motion)}
    bank = Bank(stores, ["short", "long"], max_frames=50, memory=memory, crop="0")
    assert bank.lengths.tolist() == [9, 62]
    starts = set()
    for draw in range(12):
        packed = bank.packed([0, 1], draw)
        assert packed["spatial"].lengths.tolist() == [8, 50]
        assert packed["motion"].lengths.tolist() == [1, 12]
        spatial = packed["spatial"].rows[:, 0]
        assert spatial[:8].tolist() == rows["short"][:, 0].tolist()
        assert spatial[8:].diff().eq(1).all()
        assert packed["motion"].rows[1:, 0].tolist() == motion["long"][:, 0].tolist()
        starts.add(int(spatial[8]))
        assert torch.equal(spatial[8:], bank.packed([1], draw)["spatial"].rows[:, 0])
    assert len(starts) > 6
    assert starts <= set(range(51))


def test_cropping_leaves_short_clips_alone(toy):
    batches = [data_of(toy, crop_at_random=crop)[1].batch([0, 1, 2]) for crop in (False, True)]
    for stream, part in batches[0].streams.items():
        assert torch.equal(part.rows, batches[1].streams[stream].rows)


def with_english(toy, *, of=lambda _: True):
    """The toy's corpus, translated into English where ``of`` says so."""
    manifest, stores = toy.corpus()
    clips = [
        replace(clip, extra={"text_en": f"say {clip.text}" if of(clip) else ""})
        for clip in manifest.clips()
    ]
    return Manifest.from_clips("toy", clips), stores


@pytest.mark.parametrize("leaky", [False, True])
def test_pairs_that_no_clip_has_are_an_error_before_training(toy, tmp_path, leaky):
    """As with the plain annotations of PHOENIX14T, which hold no translations."""
    config = toy.pipeline(llm=PAIRS, protocol={"pairs_from_batch": leaky})
    with pytest.raises(ConfigError, match="text_en"):
        toy.run(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    # Its own columns are asked for, in every language.
    two = toy.pipeline(
        llm=PAIRS | {"in_context_languages": ["en", "fr"]}, protocol={"pairs_from_batch": leaky}
    )
    manifest, _ = with_english(toy)
    with pytest.raises(ConfigError, match="text_fr") as raised:
        toy.run(tmp_path / "run", two, manifest=manifest)
    assert "text_en" not in str(raised.value)


def test_a_split_without_pairs_is_an_error_too(toy):
    manifest, stores = with_english(toy, of=lambda clip: clip.split != "test")
    leaky = toy.pipeline(llm=PAIRS, protocol={"pairs_from_batch": True})
    tokens = Tokens(toy.GOLDEN / "llm")
    assert len(examples(leaky, manifest, stores, "dev", tokens).batch([0, 1]).prompts.known) == 2
    with pytest.raises(ConfigError, match="split test"):
        examples(leaky, manifest, stores, "test", tokens)


@pytest.mark.slow
def test_a_run_keeps_to_its_protocol(toy, tmp_path):
    translate = {"steps": 2, "batch": 4, "lr": 1e-3}
    config = toy.pipeline(llm=PAIRS, protocol="official", translate=translate)
    manifest, stores = with_english(toy)
    toy.run(tmp_path, config, manifest=manifest)
    card = evaluate(tmp_path, "test", stores=stores, device="cpu")
    assert card.protocol == "official"
    assert "tok:13a" in card.signatures["bleu4"]
    loaded = load_run(tmp_path, device="cpu")
    assert loaded.translator.sampled
    assert loaded.translator.align.padded
