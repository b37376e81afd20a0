from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from spamo_cache.config import DecodeConfig, LLMConfig, Pipeline, TextConfig
from spamo_cache.errors import ConfigError, WeightsError
from spamo_cache.model.llm import load_llm
from spamo_cache.model.rows import Packed, join, repeated
from spamo_cache.model.text import normalise
from spamo_cache.model.tokens import Tokens, padded_ids
from spamo_cache.model.translator import Batch, Translator
from spamo_cache.model.weights import digest, embedding_table, locate

TEXTS = ["heute regen", "im norden scheint die sonne", "schnee"]


def loaded(folder, **config):
    config = LLMConfig(weights="llm", **config)
    return load_llm(folder / "llm", config, Tokens(folder / "llm"), torch.device("cpu"))


def make(folder, **changes):
    plain = {
        "name": "t",
        "question": "?",
        "corpus": "c",
        "spec": "s",
        "streams": ["spatial"],
        "text": {"language": "German"},
        "adapter": {"width": 16},
        "llm": {"weights": "llm"},
        "align": {"steps": 1, "batch": 4, "lr": 1e-3},
        "translate": {"steps": 1, "batch": 4, "lr": 1e-3},
    }
    torch.manual_seed(0)
    return Translator(
        Pipeline.model_validate(plain | changes), {"spatial": 8, "motion": 6}, folder / "llm"
    )


def test_attention_is_not_planned_for_every_length(golden_folder):
    """torch takes cuDNN's first on an H100, whose plans are of one shape each."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    make(golden_folder)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.fixture(scope="module")
def batch(golden_folder):
    lengths = torch.tensor([20, 64, 33])
    chance = torch.Generator().manual_seed(1)
    rows = torch.randn(int(lengths.sum()), 8, generator=chance)
    labels = padded_ids(Tokens(golden_folder / "llm").encode(TEXTS))
    return Batch({"spatial": Packed(rows, lengths)}, labels)


def test_no_other_gpu_is_set_up(golden_folder, batch, monkeypatch):
    """Others work there: sampling takes the random state of its own device alone."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    translator = make(golden_folder, protocol={"sampled_beams": True}).eval()
    assert len(translator.generate(batch.streams, DecodeConfig(beams=2, max_tokens=2))) == 3


def alone(batch, clip):
    part = batch.streams["spatial"]
    rows = part.rows.split(part.lengths.tolist())[clip]
    labels = batch.labels[clip]
    return Batch(
        {"spatial": Packed(rows, part.lengths[clip : clip + 1])}, labels[labels != -100][None]
    )


def test_loss_of_a_clip_is_the_same_alone_and_in_a_batch(golden_folder, batch):
    model = make(golden_folder).eval()
    llm = model.attach().eval()
    with torch.no_grad():
        logits = llm.logits(model.inputs(model.adapter(batch.streams)), batch.labels)
        for clip in range(3):
            single = alone(batch, clip)
            expected = llm.loss(model.inputs(model.adapter(single.streams)), single.labels)
            inside = batch.labels[clip] != -100
            found = torch.nn.functional.cross_entropy(
                logits[clip][inside], batch.labels[clip][inside]
            )
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


ORDERS = [("spatial", "motion"), ("motion", "spatial"), ("motion",)]


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["time", "features", "gate"])
@pytest.mark.parametrize("norm", ["batch", "masked"])
@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_padding_does_not_matter_whatever_the_streams(golden_folder, order, fusion, norm):
    """Every clip alone and in every batch of two or three, clips of a single frame among them."""
    adapter = {"width": 16, "fusion": fusion, "norm": norm}
    model = make(golden_folder, streams=list(order), adapter=adapter).eval()
    model.attach()
    chance = torch.Generator().manual_seed(2)
    lengths = {"spatial": [1, 64, 17], "motion": [1, 7, 2]}
    rows = {
        name: [torch.randn(count, model.adapter.projections[name].in_features, generator=chance)
               for count in lengths[name]]
        for name in order
    }  # fmt: skip
    tokens = model.tokens.encode(TEXTS)

    def losses(clips):
        streams = {
            name: Packed(
                torch.cat([rows[name][clip] for clip in clips]),
                torch.tensor([lengths[name][clip] for clip in clips]),
            )
            for name in order
        }
        labels = padded_ids([tokens[clip] for clip in clips])
        logits = model.llm.logits(model.inputs(model.adapter(streams)), labels)
        found = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=-100, reduction="none"
        )
        return found.sum(1)

    alone = torch.cat([losses([clip]) for clip in range(3)])
    for clips in ([0, 1], [1, 2], [2, 0], [0, 1, 2]):
        torch.testing.assert_close(losses(clips), alone[clips], rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["time", "features", "gate"])
def test_the_llm_reads_no_row_that_is_not_valid(golden_folder, batch, fusion):
    """A clip of which nothing was seen is translated from its prompt alone."""
    model = make(golden_folder, adapter={"width": 16, "fusion": fusion}).eval()
    llm = model.attach().eval()
    chance = torch.Generator().manual_seed(4)
    streams = {}
    for name, part in batch.streams.items():
        valid = torch.rand(len(part.rows), generator=chance) < 0.5
        valid[: int(part.lengths[0])] = False
        streams[name] = replace(part, valid=valid)
    noise = {n: p.holding(p.rows.masked_fill(~p.valid[:, None], 9)) for n, p in streams.items()}
    found, other = (
        llm.logits(model.inputs(model.sign(given)), batch.labels) for given in (streams, noise)
    )
    assert torch.equal(found, other)
    prompt = join([repeated(model.embeddings(model.prompt), 1)])
    expected = llm.logits(prompt, batch.labels[:1])
    torch.testing.assert_close(found[:1], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_beams_are_the_same_alone_and_in_a_batch(golden_folder, batch):
    model = make(golden_folder).eval()
    decode = DecodeConfig(beams=3, max_tokens=8)
    together = model.generate(batch.streams, decode)
    assert together == [model.generate(alone(batch, i).streams, decode)[0] for i in range(3)]
    assert model.generate(batch.streams, decode) == together


def test_prompt_stands_right_behind_the_sign_rows(golden_folder, batch):
    model = make(golden_folder).eval()
    model.attach()
    sign = model.adapter(batch.streams)
    rows = model.inputs(sign)
    ids = model.tokens.encode(["Translate the given sentence into German."])[0]
    prompt = model.embeddings(torch.tensor(ids))
    for clip, length in enumerate(sign.lengths.tolist()):
        torch.testing.assert_close(rows.rows[clip, length : length + len(ids)], prompt)
    assert (rows.lengths - sign.lengths == len(ids)).all()


@pytest.mark.parametrize(
    ("mode", "share"), [("freeze", 0.0), ("lora", 0.3), ("full", 1.0)], ids=str
)
def test_tuning_trains_what_it_says(golden_folder, mode, share):
    llm = loaded(golden_folder, tuning={"mode": mode})
    sizes = [(value.numel(), value.requires_grad) for value in llm.parameters()]
    trained = sum(size for size, wanted in sizes if wanted) / sum(size for size, _ in sizes)
    assert trained == share or 0 < trained < share < 1


@pytest.mark.slow
def test_restoring_gives_the_same_model(golden_folder, batch):
    model, other = make(golden_folder).eval(), make(golden_folder).eval()
    model.attach()
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1)
    state = {name: value.clone() for name, value in model.trained().items()}
    other.restore(state)
    other.eval()
    with torch.no_grad():
        assert torch.equal(
            model(batch, phase="translate")["loss"], other(batch, phase="translate")["loss"]
        )


def test_refuses_weights_of_another_pipeline(golden_folder):
    state = make(golden_folder).trained()
    with pytest.raises(WeightsError, match="do not fit"):
        make(golden_folder, adapter={"width": 8}).restore(state)
    with pytest.raises(WeightsError, match="do not fit"):
        make(golden_folder, adapter={"width": 16, "tcn": "k5"}).restore(state)


def test_unknown_lora_target_is_a_config_error(golden_folder):
    with pytest.raises(ConfigError, match="no_such_layer"):
        loaded(golden_folder, tuning={"targets": ["no_such_layer"]})


def test_reads_only_the_embedding_table(golden_folder):
    table = embedding_table(golden_folder / "llm")
    llm = loaded(golden_folder)
    assert torch.equal(table, llm.embeddings.weight)


@pytest.fixture(scope="module", params=["MT5", "MBart"])
def relative(request, golden_folder, tmp_path_factory):
    """Another encoder-decoder, in its own format; MBart scales its embeddings."""
    import transformers

    folder = tmp_path_factory.mktemp("relatives") / "llm"
    sizes = {
        "MT5": {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        "MBart": {
            "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "scale_embedding": True,
            "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "forced_eos_token_id": 1,
        },
    }  # fmt: skip
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=53, d_model=32, decoder_start_token_id=0, **sizes[request.param]
    )
    torch.manual_seed(0)
    kind = f"{request.param}ForConditionalGeneration"
    getattr(transformers, kind)(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(golden_folder / "llm" / name, folder / name)
    return folder.parent


@pytest.mark.slow
@torch.no_grad()
def test_other_encoder_decoders_compute_what_they_do_by_themselves(relative, batch):
    model = make(relative, llm={"weights": "llm", "tuning": {"mode": "freeze"}}).eval()
    table = model.embeddings.weight
    own = model.attach().eval().model
    torch.testing.assert_close(table, model.embeddings(torch.arange(53)))
    for clip in range(3):
        single = alone(batch, clip)
        rows = model.inputs(model.adapter(single.streams)).rows
        expected = own(inputs_embeds=rows, labels=single.labels)
        found = model(single, phase="translate")["lm"]
        torch.testing.assert_close(found, expected.loss, rtol=1e-5, atol=1e-5)
    decode = DecodeConfig(beams=3, max_tokens=8)
    together = model.generate(batch.streams, decode)
    assert together == [model.generate(alone(batch, i).streams, decode)[0] for i in range(3)]


def test_lora_finds_query_and_value(relative):
    names = [name for name, _ in loaded(relative).named_parameters() if "lora_A" in name]
    found = {name.split(".lora_A")[0].rpartition(".")[2] for name in names}
    assert found in ({"q", "v"}, {"q_proj", "v_proj"})


def test_embeddings_that_are_more_than_a_table_are_refused(golden_folder, monkeypatch):
    model = make(golden_folder)
    monkeypatch.setattr(torch.nn.Embedding, "forward", lambda self, ids: self.weight[ids] * 3)
    model.embeddings.forward = lambda ids: model.embeddings.weight[ids]
    with pytest.raises(WeightsError, match="more to its embeddings"):
        model.attach()


def test_digest_follows_the_contents(golden_folder, tmp_path):
    copy = tmp_path / "llm"
    shutil.copytree(golden_folder / "llm", copy)
    assert digest(copy) == digest(golden_folder / "llm")
    (copy / "config.json").write_text("{}")
    assert digest(copy) != digest(golden_folder / "llm")


@pytest.mark.parametrize("weights", ["nowhere", "../nowhere", "a/b/c"])
def test_names_a_missing_model(tmp_path, weights):
    with pytest.raises(WeightsError, match="no folder of a model"):
        locate(weights, tmp_path)


def test_damaged_weights_are_named(golden_folder, tmp_path):
    copy = tmp_path / "llm"
    shutil.copytree(golden_folder / "llm", copy)
    (copy / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(WeightsError, match="cannot be read"):
        embedding_table(copy)


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("  Regen\tim \n Norden ", {}, "Regen im Norden"),
        ("Regen", {"lower": True, "final_dot": True}, "regen ."),
        ("Regen .", {"final_dot": True}, "Regen ."),
        ("下雨。", {"final_dot": True}, "下雨。"),
        ("", {"final_dot": True}, ""),
    ],
)
def test_text_convention(text, changes, expected):
    assert normalise(text, TextConfig(language="German", **changes)) == expected
