"""Attention is the same by whatever it is computed, and however it is told what is padding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.model import llm
from spamo_cache.model.rows import Packed, Padded, join
from spamo_cache.model.tokens import IGNORED

declare_torchvision_ops()

import transformers  # noqa: E402 (its models import torchvision)

SIZES: dict[str, Any] = {"vocab_size": 40, "d_model": 16, "dropout": 0.0, "dropout_rate": 0.0}
SIZES |= {"d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
SIZES |= {f"{part}_layers": 2 for part in ("encoder", "decoder")}
SIZES |= {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
SIZES |= {f"{part}_ffn_dim": 24 for part in ("encoder", "decoder")}
PLAIN: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24}
PLAIN |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
PLAIN |= {"n_embd": 16, "n_head": 2, "n_layer": 2, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
PLAIN |= {"embd_pdrop": 0.0}
SPECIAL: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}

SEQ2SEQ = {
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    "umt5": "UMT5ForConditionalGeneration",
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
}
DECODERS = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


def made(kind: str, attention: str) -> llm.LLM:
    sizes = SIZES if kind in SEQ2SEQ else PLAIN
    config = transformers.AutoConfig.for_model(kind, **sizes, **SPECIAL)
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = getattr(transformers, (SEQ2SEQ | DECODERS)[kind])(config)
    with torch.no_grad():
        for value in model.parameters():
            # So much that attention is far from an even mean.
            value.mul_(4 if value.ndim > 1 else 1)
    wrapped: Any = llm.Seq2SeqLLM if kind in SEQ2SEQ else llm.DecoderLLM
    made: llm.LLM = wrapped(model, SimpleNamespace(padding=0), torch.float32)
    return made


def batch() -> tuple[Padded, torch.Tensor]:
    chance = torch.Generator().manual_seed(1)
    lengths = [9, 4, 1]
    rows = join([Packed(torch.randn(sum(lengths), 16, generator=chance), torch.tensor(lengths))])
    labels = torch.tensor([[7, 8, 1, IGNORED], [9, 1, IGNORED, IGNORED], [5, 6, 7, 1]])
    return rows, labels


def learnt(model: llm.LLM) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    rows, labels = batch()
    loss = model.loss(rows, labels)
    loss.backward()
    named = model.named_parameters()
    return loss.detach(), {name: value.grad for name, value in named if value.grad is not None}


def check_equal(one: llm.LLM, other: llm.LLM) -> None:
    torch.testing.assert_close(learnt(one), learnt(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(SEQ2SEQ | DECODERS))
def test_the_fast_attention_learns_what_the_plain_one_does(kind: str) -> None:
    fast = made(kind, "sdpa")
    assert fast.mask(torch.ones(1, 3, dtype=torch.bool)).dtype == torch.bool
    check_equal(fast, made(kind, "eager"))


@pytest.mark.parametrize("kind", sorted(SEQ2SEQ | DECODERS))
def test_our_masks_are_those_of_transformers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = learnt(made(kind, "sdpa"))
    monkeypatch.setattr(llm, "_TAKE_MASKS", frozenset())
    torch.testing.assert_close(found, learnt(made(kind, "sdpa")), rtol=1e-4, atol=1e-5)


def test_all_types_that_take_masks_are_held_to_it() -> None:
    assert (SEQ2SEQ | DECODERS).keys() == llm._TAKE_MASKS
