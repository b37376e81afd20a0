"""An LLM from its folder: architecture, precision, and what of it is trained."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable
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
    kind = _kind(decoder_only=decoder_only)
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


def check_targets(folder: Path, config: LLMConfig) -> None:
    """See that what is to be tuned is there, by the model's shape alone: no weight is read.

    Raises:
        WeightsError: the folder describes no model that writes text.
        ConfigError: a LoRA target that the model does not have; bitsandbytes is missing.
    """
    if config.quantise != "none":
        _quantised(config)
    if config.tuning.mode != "lora":
        return
    declare_torchvision_ops()
    from transformers import AutoConfig  # noqa: PLC0415

    try:
        shape: Any = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        with quiet(), torch.device("meta"):
            model = _kind(decoder_only=not shape.is_encoder_decoder).from_config(shape)
    except (OSError, ValueError) as error:
        raise WeightsError(f"describes no model: {error}", where=folder) from error
    _targets(model, config.tuning)


def _kind(*, decoder_only: bool) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: PLC0415

    return AutoModelForCausalLM if decoder_only else AutoModelForSeq2SeqLM


def _targets(model: Any, tuning: TuningConfig) -> list[str]:
    """The layers that get a LoRA, by the ends of their names.

    Raises:
        ConfigError: one that no linear layer of the model is called.
    """
    layers = {name for name, layer in model.named_modules() if _is_linear(layer)}
    if not tuning.targets:
        ends = {name.rpartition(".")[2] for name in layers}
        found = next((known for known in _TARGETS if ends.issuperset(known)), None)
        if found is None:
            raise _no_such_layer("its queries and values have no name known here", layers)
        return list(found)
    for target in tuning.targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise _no_such_layer(f"the model has no linear layer {target!r}", layers)
    return list(tuning.targets)


def _is_linear(layer: Any) -> bool:
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415

    return isinstance(layer, torch.nn.Linear | Conv1D)


def _with_lora(model: Any, tuning: TuningConfig, decoder_only: bool) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model  # noqa: PLC0415

    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM if decoder_only else TaskType.SEQ_2_SEQ_LM,
        r=tuning.r,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=_targets(model, tuning),
    )
    with warnings.catch_warnings():
        # peft asks transformers for an attribute by its old name, and says how it sees that
        # GPT-2 keeps its weights transposed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        return get_peft_model(model, lora)


def _no_such_layer(what: str, layers: Iterable[str]) -> ConfigError:
    names = sorted({name.rpartition(".")[2] for name in layers})
    return ConfigError(what, where="llm.tuning.targets", remedy=f"choose among {', '.join(names)}")
