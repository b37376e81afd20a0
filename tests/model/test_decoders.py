"""Decoder-only models: one sequence of sign rows, prompt and sentence."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from spamo_cache import extras
from spamo_cache.config import DecodeConfig, LLMConfig, Pipeline
from spamo_cache.errors import MissingLibraryError, WeightsError
from spamo_cache.model.llm import load_llm
from spamo_cache.model.rows import Packed, Padded, join
from spamo_cache.model.tokens import IGNORED, Tokens, padded_ids
from spamo_cache.model.translator import Batch, Translator
from spamo_cache.model.weights import embedding_table
from tests.support import decoders

TEXTS = ["heute regen", "im norden scheint die sonne", "schnee"]
PROMPT = "Translate into German."


Causal = decoders.transformers.AutoModelForCausalLM


@pytest.fixture(scope="module", params=list(decoders.FAMILIES))
def folder(request, tmp_path_factory):
    return decoders.make(tmp_path_factory.mktemp("family") / request.param, request.param)


def translator(folder, **llm):
    plain = {
        "name": "t",
        "question": "?",
        "corpus": "c",
        "spec": "s",
        "text": {"language": "German"},
        "adapter": {"width": 16, "scale": "embeddings"},
        "llm": {"weights": "llm", "prompt": "Translate into {language}.", **llm},
        "align": {"steps": 1, "batch": 4, "lr": 1e-3},
        "translate": {"steps": 1, "batch": 4, "lr": 1e-3},
    }
    torch.manual_seed(0)
    made = Translator(Pipeline.model_validate(plain), {"spatial": 8, "motion": 6}, folder)
    with torch.no_grad():
        made.attach()
    return made.eval()


@pytest.fixture(scope="module")
def batch(folder):
    chance = torch.Generator().manual_seed(1)
    streams = {}
    for name, width, lengths in (("spatial", 8, [20, 64, 1]), ("motion", 6, [2, 7, 1])):
        rows = torch.randn(sum(lengths), width, generator=chance)
        streams[name] = Packed(rows, torch.tensor(lengths))
    return Batch(streams, padded_ids(Tokens(folder).encode(TEXTS)))


def alone(batch, clip):
    streams = {
        name: Packed(part.rows.split(part.lengths.tolist())[clip], part.lengths[clip : clip + 1])
        for name, part in batch.streams.items()
    }
    labels = batch.labels[clip]
    return Batch(streams, labels[labels != IGNORED][None])


def sequence(model, single):
    """What a decoder-only model ought to read of one clip, put together by hand."""
    tokens = model.tokens
    sign = model.adapter(single.streams).rows[0]
    ids = torch.tensor(tokens.prompts([PROMPT])[0])
    parts = [model.embeddings(torch.tensor(tokens.opening, dtype=torch.long)), sign]
    return torch.cat([*parts, model.embeddings(ids)])


@pytest.mark.slow
def test_sentences_end_and_prompts_do_not(folder):
    tokens = Tokens(folder)
    assert [ids[-1] for ids in tokens.encode(TEXTS)] == [tokens.end] * 3
    assert all(tokens.end not in ids for ids in tokens.prompts(TEXTS))
    assert tokens.decode(tokens.encode(TEXTS)) == TEXTS
    assert len(tokens.opening) == ("bos_token" in decoders.FAMILIES[folder.name])
    assert tokens.opening != tokens.prompts(TEXTS)[0][:1]


@torch.no_grad()
def test_loss_is_the_models_own(folder, batch):
    model = translator(folder, tuning={"mode": "freeze"})
    own = Causal.from_pretrained(folder)
    for clip in range(3):
        single = alone(batch, clip)
        read = sequence(model, single)
        rows = torch.cat([read, model.embeddings(single.labels[0])])[None]
        labels = torch.cat([torch.full((1, len(read)), IGNORED), single.labels], dim=1)
        expected = own(inputs_embeds=rows, labels=labels).loss
        found = model(single, phase="translate", alpha=0.0)["lm"]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rows_that_are_not_valid_are_as_if_they_were_not_there(folder, batch):
    model = translator(folder)
    read = model.inputs(model.adapter(batch.streams))
    valid = torch.rand(read.mask.shape, generator=torch.Generator().manual_seed(3)) < 0.7
    valid[torch.arange(3), read.lengths - 1] = True  # a prompt is always read to its end
    marked = model.llm.logits(replace(read, valid=valid), batch.labels)
    parts = [rows[seen] for rows, seen in zip(read.rows, read.mask & valid, strict=True)]
    left = Packed(torch.cat(parts), torch.tensor(list(map(len, parts))))
    torch.testing.assert_close(marked, model.llm.logits(join([left]), batch.labels))


@torch.no_grad()
def test_loss_of_a_clip_is_the_same_alone_and_in_any_batch(folder, batch):
    model = translator(folder)
    for chosen in ([0, 1, 2], [2, 0], [1, 2]):
        singles = [alone(batch, clip) for clip in chosen]
        streams = {
            name: Packed(
                torch.cat([single.streams[name].rows for single in singles]),
                torch.cat([single.streams[name].lengths for single in singles]),
            )
            for name in batch.streams
        }
        labels = padded_ids([single.labels[0].tolist() for single in singles])
        logits = model.llm.logits(model.inputs(model.adapter(streams)), labels)
        for place, single in enumerate(singles):
            inside = labels[place] != IGNORED
            found = torch.nn.functional.cross_entropy(logits[place][inside], labels[place][inside])
            expected = model(single, phase="translate", alpha=0.0)["lm"]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 4])
def test_writes_what_the_model_writes_by_itself(folder, batch, beams):
    model = translator(folder)
    own = Causal.from_pretrained(folder)
    decode = DecodeConfig(beams=beams, max_tokens=9)
    expected = []
    for clip in range(3):
        ids = own.generate(
            inputs_embeds=sequence(model, alone(batch, clip))[None],
            num_beams=beams,
            do_sample=False,
            temperature=1.0,
            top_p=1.0,
            repetition_penalty=1.0,
            max_new_tokens=9,
            pad_token_id=model.tokens.padding,
        )
        expected += model.tokens.decode(ids.tolist())
    assert model.generate(batch.streams, decode) == expected
    # So small a Gemma, whose embeddings are its output layer, repeats itself.
    assert len(set(expected)) > 1 or "Gemma" in folder.name


@torch.no_grad()
def test_sampled_beams_are_drawn_from_nine_tenths(folder, batch):
    model = translator(folder)
    own = Causal.from_pretrained(folder)
    single = alone(batch, 0)
    torch.manual_seed(5)
    expected = own.generate(
        inputs_embeds=sequence(model, single)[None],
        num_beams=3,
        do_sample=True,
        top_p=0.9,
        temperature=1.0,
        repetition_penalty=1.0,
        max_new_tokens=9,
        pad_token_id=model.tokens.padding,
    )
    torch.manual_seed(5)
    rows = model.inputs(model.adapter(single.streams))
    found = model.llm.generate(rows, DecodeConfig(beams=3, max_tokens=9), sampled=True)
    assert found.tolist() == expected.tolist()


def test_gradients_reach_the_adapter_and_the_lora(folder, batch):
    model = translator(folder).train()
    model(batch, phase="translate", alpha=0.0)["loss"].backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad.isfinite().all() for name, p in trained.items() if "align" not in name)
    touched = {name for name, p in trained.items() if p.grad is not None and p.grad.any()}
    assert {name.rpartition(".")[0] for name in touched} >= {"adapter.mlp.0", "adapter.mlp.2"}
    lora = {name.split(".lora_")[0].rpartition(".")[2] for name in trained if ".lora_" in name}
    assert lora == ({"c_attn"} if "GPT2" in folder.name else {"q_proj", "v_proj"})


@pytest.mark.parametrize("mode", ["lora", "full", "freeze"])
def test_restoring_gives_the_same_model(folder, batch, mode):
    model, other = (translator(folder, tuning={"mode": mode}) for _ in range(2))
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.01)
        other.restore({name: value.clone() for name, value in model.trained().items()})
        losses = [m.eval()(batch, phase="translate")["loss"] for m in (model, other)]
    assert torch.equal(*losses)


@torch.no_grad()
def test_computes_in_bfloat16(folder, batch):
    model = translator(folder, dtype="bfloat16")
    assert model.embeddings.weight.dtype is torch.bfloat16
    exact = translator(folder)(batch, phase="translate")
    found = model(batch, phase="translate")
    assert found["lm"].dtype is torch.float32
    assert found["lm"].item() == pytest.approx(exact["lm"].item(), rel=0.05)
    assert model.generate(batch.streams, DecodeConfig(beams=2, max_tokens=4))


def test_reads_only_the_embedding_table(folder):
    llm = load_llm(folder, LLMConfig(weights="llm"), Tokens(folder), torch.device("cpu"))
    ids = torch.arange(300)
    torch.testing.assert_close(embedding_table(folder), llm.embeddings(ids))


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantisation_needs_bitsandbytes(folder, monkeypatch, bits):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    config = LLMConfig(weights="llm", quantise=bits)
    with pytest.raises(MissingLibraryError, match="pip install bitsandbytes"):
        load_llm(folder, config, Tokens(folder), torch.device("cpu"))


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ("8bit", {"load_in_8bit": True}),
        ("4bit", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    ],
)
def test_quantisation_asks_transformers_for_it(folder, monkeypatch, bits, expected):
    given = {}

    def read(*_, **options):
        given.update(options)
        raise ValueError("no GPU here")

    monkeypatch.setattr(extras, "is_there", lambda _: True)
    monkeypatch.setattr(decoders.transformers.PreTrainedModel, "from_pretrained", read)
    config = LLMConfig(weights="llm", quantise=bits, dtype="bfloat16")
    with pytest.raises(WeightsError, match="no GPU here"):
        load_llm(folder, config, Tokens(folder), torch.device("cpu"))
    asked = given["quantization_config"].to_dict()
    assert {key: asked[key] for key in expected} == expected
    assert given["dtype"] is torch.bfloat16
    assert given["device_map"] == {"": torch.device("cpu")}


def test_padding_moves_to_the_front():
    rows = Padded(torch.arange(12.0).view(2, 3, 2), torch.tensor([1, 3]))
    moved, inside = rows.aligned_right()
    assert inside.tolist() == [[False, False, True], [True, True, True]]
    assert moved[0].tolist() == [[0, 0], [0, 0], [0, 1]]
    assert torch.equal(moved[1], rows.rows[1])


def test_a_model_with_holes_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "llm")
    weights = tmp_path / "llm" / "model.safetensors"
    tensors = load_file(weights)
    lost = next(name for name in tensors if ".1.mlp." in name)
    del tensors[lost]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=lost):
        load_llm(weights.parent, LLMConfig(weights="llm"), Tokens(folder), torch.device("cpu"))


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    decoders.make(tmp_path, "Llama")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("eos_token")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="no end token"):
        Tokens(tmp_path)
