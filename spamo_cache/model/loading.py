"""An LLM from its folder: architecture, precision, and what of it is trained."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch

from spamo_cache.compat import declare_torchvision_ops, quiet
from spamo_cache.config import LLMConfig, TuningConfig
from spamo_cache.errors import ConfigError, WeightsError
from spamo_cache.model.llm import LLM, DecoderLLM, Seq2SeqLLM
from spamo_cache.model.tokens import Tokens

_TARGETS = (("q", "v"), ("q_proj", "v_proj"), ("query", "value"), ("c_attn",))
"""The attention's query and value as T5, Llama and its kin, others, and GPT-2 name them."""


def load_llm(folder: Path, config: LLMConfig, tokens: Tokens, device: torch.device) -> LLM:
    """The model of a Hugging Face folder, on ``device``, ready to be trained as ``config`` says.

    Raises:
        WeightsError: the folder cannot be loaded as a model that writes text.
        ConfigError: LoRA targets that the model does not have; bitsandbytes is asked for and
            missing.
    """
    model = _read(folder, config, tokens.decoder_only, device)
    model.generation_config = _generation(model, tokens)
    model = _tuned(model, config, tokens.decoder_only)
    kind = DecoderLLM if tokens.decoder_only else Seq2SeqLLM
    return kind(model, tokens, getattr(torch, config.dtype))


def _read(folder: Path, config: LLMConfig, decoder_only: bool, device: torch.device) -> Any:
    declare_torchvision_ops()
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: PLC0415

    kind: Any = AutoModelForCausalLM if decoder_only else AutoModelForSeq2SeqLM
    # Quantised weights must be born on their device, they cannot be moved there.
    bits = {} if config.quantise == "none" else _quantised(config) | {"device_map": {"": device}}
    try:
        with quiet():
            model, found = kind.from_pretrained(
                str(folder),
                dtype=getattr(torch, config.dtype),
                local_files_only=True,
                output_loading_info=True,
                **bits,
            )
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot be loaded as a model: {error}", where=folder) from error
    if found["missing_keys"]:
        first = min(found["missing_keys"])
        raise WeightsError(f"lacks weights of the model, first {first!r}", where=folder)
    return model if bits else model.to(device)


def _generation(model: Any, tokens: Tokens) -> Any:
    """A checkpoint's special tokens, and nothing else of how it was once made to write.

    Its ``generation_config.json`` may ask for least lengths, forced or forbidden tokens and
    penalties, which ``generate`` would obey wherever a call leaves them open.
    """
    from transformers import GenerationConfig  # noqa: PLC0415

    own, config = model.generation_config, model.config
    names = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
    kept = {name: getattr(own, name, None) for name in names}
    kept = {
        name: getattr(config, name, None) if value is None else value
        for name, value in kept.items()
    }
    if tokens.decoder_only or kept["eos_token_id"] is None:
        kept["eos_token_id"] = tokens.end
    return GenerationConfig(**kept, pad_token_id=tokens.padding)


def _quantised(config: LLMConfig) -> dict[str, Any]:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{config.quantise} weights need bitsandbytes, which is not installed",
            where="llm.quantise",
            remedy="pip install bitsandbytes, or set llm.quantise to none",
        )
    from transformers import BitsAndBytesConfig  # noqa: PLC0415

    if config.quantise == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, config.dtype),
    )
    return {"quantization_config": four}


def _tuned(model: Any, config: LLMConfig, decoder_only: bool) -> Any:
    tuning = config.tuning
    if tuning.mode == "full":
        return model
    model.requires_grad_(False)
    return model if tuning.mode == "freeze" else _with_lora(model, tuning, decoder_only)


def _with_lora(model: Any, tuning: TuningConfig, decoder_only: bool) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model  # noqa: PLC0415

    targets = list(tuning.targets or _query_and_value(model))
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM if decoder_only else TaskType.SEQ_2_SEQ_LM,
        r=tuning.r,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=targets,
    )
    try:
        with warnings.catch_warnings():
            # peft asks transformers for an attribute by its old name, and says how it sees that
            # GPT-2 keeps its weights transposed.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
            return get_peft_model(model, lora)
    except ValueError as error:
        raise _no_such_layer(targets, " ".join(str(error).split())[:300]) from error


def _query_and_value(model: Any) -> tuple[str, ...]:
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    for targets in _TARGETS:
        if names.issuperset(targets):
            return targets
    raise _no_such_layer([], "query and value have no name known here")


def _no_such_layer(targets: list[str], what: str) -> ConfigError:
    return ConfigError(
        what,
        where=f"llm.tuning.targets: {targets}",
        remedy="name linear layers of the model, as in [q, v]",
    )
