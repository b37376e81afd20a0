"""Tiny decoder-only models with random weights, saved as their publishers save the real ones."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from spamo_cache.compat import declare_torchvision_ops

declare_torchvision_ops()

import transformers  # noqa: E402 (its models import torchvision)

_SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}

# Llama opens every sequence with <s> and has no padding token; Qwen is the reverse.
FAMILIES = {
    "Llama": {"bos_token": "<s>", "eos_token": "</s>"},
    "Qwen2": {"eos_token": "</s>", "pad_token": "<pad>"},
    "Qwen3": {"eos_token": "</s>", "pad_token": "<pad>"},
    "GPT2": {"eos_token": "</s>"},
    "Gemma": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
}

_HEADS = {"GPT2": "GPT2LMHeadModel"}


def make(folder: Path, family: str) -> Path:
    tokenizer = _tokenizer(FAMILIES[family])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        **_SIZES,
        head_dim=8,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=family != "Llama",
    )
    network = getattr(transformers, _HEADS.get(family, f"{family}ForCausalLM"))(config)
    # A published model brings habits of its own, which translation must not take over.
    network.generation_config.update(
        do_sample=True, temperature=0.3, top_p=0.5, repetition_penalty=1.7
    )
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim > 1:
                value.mul_(8)
    network.save_pretrained(folder)
    return folder


def _tokenizer(specials: dict[str, str]) -> transformers.PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=sorted(specials.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["heute regen im norden scheint die sonne schnee"], trainer)
    if "bos_token" in specials:
        bos = specials["bos_token"]
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, **specials)
