"""The language model: reads embedding rows, writes tokens; from its folder to what is trained."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from spamo_cache import checkpoints, extras
from spamo_cache.compat import quiet
from spamo_cache.config import DecodeConfig, LLMConfig, TuningConfig
from spamo_cache.errors import ConfigError, MissingLibraryError, WeightsError
from spamo_cache.model.rows import Padded
from spamo_cache.model.tokens import IGNORED, Tokens

TOP_P = 0.9
"""Probability mass that sampled beams draw from, as in the official release."""


_TAKE_MASKS = frozenset(
    ["t5", "mt5", "umt5", "bart", "mbart", "llama", "qwen2", "qwen3", "gemma", "gpt2"]
)
"""Types of models that take a mask of four axes as it is.

Of one with two axes transformers asks the device whether it masks anything, and waits for the
answer, once or more in every step. Other types may read positions or windows off the two axes.
"""


class LLM(nn.Module):
    """A model of transformers behind the interface that translation needs.

    Args:
        model: the tuned model; :func:`spamo_cache.model.llm.load_llm` makes one.
        tokens: its tokenizer.
        dtype: in which it computes.
    """

    def __init__(self, model: Any, tokens: Tokens, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.tokens = tokens
        self.dtype = dtype

    @property
    def embeddings(self) -> nn.Module:
        """Token ids -> input embeddings."""
        return self.model.get_input_embeddings()  # type: ignore[no-any-return]

    def mask(self, inside: Tensor, *, causal: bool = False) -> Tensor:
        """What ``model`` is told of where its sequences are true.

        Args:
            inside: (clips, longest) bool, True on true positions.
            causal: no position sees a later one.
        """
        config = self.model.config
        if config.model_type not in _TAKE_MASKS or getattr(config, "sliding_window", None):
            return inside.long()
        seen = inside[:, None, None]
        if causal:
            seen = seen & torch.ones_like(inside[0].expand(inside.shape[1], -1)).tril()
            # Padding in front sees nothing, and of nothing there is no softmax.
            seen = seen | ~seen.any(-1, keepdim=True)
        if config._attn_implementation == "sdpa":
            return seen
        lowest = torch.finfo(self.dtype).min
        return torch.zeros_like(seen, dtype=self.dtype).masked_fill(~seen, lowest)

    @abstractmethod
    def logits(self, rows: Padded, labels: Tensor) -> Tensor:
        """(clips, tokens, vocabulary) in float32: predictions for each label.

        Args:
            rows: what the model reads.
            labels: (clips, tokens) ids, padded with -100.
        """

    def loss(self, rows: Padded, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy over the true tokens of the batch."""
        logits = self.logits(rows, labels)
        return F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing
        )

    @torch.inference_mode()
    def generate(self, rows: Padded, decode: DecodeConfig, *, sampled: bool = False) -> Tensor:
        """(clips, longest) token ids by beam search.

        Deterministic, unless ``sampled``: then beams grow by tokens drawn at random, from torch's
        global generator.
        """
        return self.model.generate(  # type: ignore[no-any-return]
            **self._reading(rows),
            num_beams=decode.beams,
            do_sample=sampled,
            top_p=TOP_P if sampled else 1.0,
            max_new_tokens=decode.max_tokens,
            length_penalty=decode.length_penalty,
        )

    @abstractmethod
    def _reading(self, rows: Padded) -> dict[str, Any]:
        """How the model is given ``rows`` to write from."""


class Seq2SeqLLM(LLM):
    """An encoder-decoder (T5, mT5, BART)."""

    def logits(self, rows: Padded, labels: Tensor) -> Tensor:
        output = self.model(
            inputs_embeds=rows.rows.to(self.dtype),
            attention_mask=self.mask(rows.mask),
            decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels),
            decoder_attention_mask=self.mask(labels != IGNORED, causal=True),
            use_cache=False,
        )
        return output.logits.float()  # type: ignore[no-any-return]

    def _reading(self, rows: Padded) -> dict[str, Any]:
        return {"inputs_embeds": rows.rows.to(self.dtype), "attention_mask": rows.mask.long()}


class DecoderLLM(LLM):
    """A decoder-only model (Llama, Qwen, SmolLM): the sentence goes on where the rows end.

    Rows are padded in front and sentences behind, so that all sentences begin in one column:
    logits are computed there alone, not for hundreds of sign rows times the vocabulary.
    """

    def logits(self, rows: Padded, labels: Tensor) -> Tensor:
        read, inside = rows.aligned_right()
        # What is read before the last label; nothing is predicted from the label itself.
        before = labels[:, :-1]
        given = self.embeddings(before.masked_fill(before == IGNORED, self.tokens.padding))
        inside = torch.cat([inside, before != IGNORED], dim=1)
        output = self.model(
            inputs_embeds=torch.cat([read.to(self.dtype), given.to(self.dtype)], dim=1),
            attention_mask=self.mask(inside, causal=True),
            position_ids=(inside.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=labels.shape[1],
            use_cache=False,
        )
        return output.logits.float()  # type: ignore[no-any-return]

    def _reading(self, rows: Padded) -> dict[str, Any]:
        read, inside = rows.aligned_right()
        return {"inputs_embeds": read.to(self.dtype), "attention_mask": inside.long()}


_TARGETS = (("q", "v"), ("q_proj", "v_proj"), ("query", "value"), ("c_attn",))
"""The attention's query and value as T5, Llama and its kin, others, and GPT-2 name them."""


def load_llm(folder: Path, config: LLMConfig, tokens: Tokens, device: torch.device) -> LLM:
    """The model of a Hugging Face folder, on ``device``, ready to be trained as ``config`` says.

    Raises:
        WeightsError: the folder cannot be loaded as a model that writes text.
        ConfigError: LoRA targets that the model does not have; bitsandbytes is asked for and
            missing.
    """
    model = _read(folder, checkpoints.tensors(folder), config, device)
    model.generation_config = _generation(model, tokens)
    model = _tuned(model, config, tokens.decoder_only)
    kind = DecoderLLM if tokens.decoder_only else Seq2SeqLLM
    return kind(model, tokens, getattr(torch, config.dtype))


def check_llm(folder: Path, config: LLMConfig) -> None:
    """Find what is wrong with an LLM's folder now rather than when it is needed, hours later.

    Raises:
        WeightsError: the folder cannot be loaded as a model that writes text, or has no tokenizer.
    """
    Tokens(folder)
    state = checkpoints.tensors(folder)
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    plain = config.model_copy(update={"quantise": "none"})
    _read(folder, shapes, plain, torch.device("meta"))


def _read(
    folder: Path, state: Mapping[str, Tensor], config: LLMConfig, device: torch.device
) -> Any:
    # Quantised weights must be born on their device, they cannot be moved there.
    born = config.quantise != "none" or device.type == "meta"
    given: dict[str, Any] = {"device_map": {"": device}} if born else {}
    given |= _quantised(config) if config.quantise != "none" else {}
    outline = _outline(folder)
    if outline.config.model_type in _TAKE_MASKS and not outline._supports_sdpa:
        raise MissingLibraryError(
            f"transformers {version('transformers')} has no fast attention for "
            f"{outline.config.model_type}",
            where=folder,
            remedy="install transformers 5.18 or newer",
        )
    with checkpoints.explained(folder), quiet():
        # Not from the folder: what else may lie in it (adapters, code, other weights) stays unread.
        model, loading = type(outline).from_pretrained(
            None,
            config=outline.config,
            state_dict=dict(state),
            generation_config=_generation_config(folder),
            dtype=getattr(torch, config.dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with their names
            **given,
        )
    wrong = {*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])}
    if wrong:
        raise WeightsError(
            f"{len(wrong)} tensors of the model are missing or have another shape than config.json "
            f"says, first {min(wrong)!r}",
            where=folder,
            remedy="take the files as they were published",
        )
    return model if born else model.to(device)


def _outline(folder: Path) -> Any:
    """The model without its numbers."""
    config = checkpoints.architecture(folder)
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: PLC0415

    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with checkpoints.explained(folder), torch.device("meta"):
        return kind.from_config(config, trust_remote_code=False)


def _generation_config(folder: Path) -> Any:
    """What the folder says of writing; None where it says nothing."""
    from transformers import GenerationConfig  # noqa: PLC0415

    if not (folder / "generation_config.json").is_file():
        return None
    return GenerationConfig.from_pretrained(folder, local_files_only=True)


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
    extras.need(
        "bitsandbytes",
        use=f"an LLM in {config.quantise}",
        where="llm.quantise",
        instead="set llm.quantise to none",
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
    _targets(_outline(folder), config.tuning)


def _targets(model: Any, tuning: TuningConfig) -> list[str]:
    """The layers that get a LoRA, by the ends of their names.

    Raises:
        ConfigError: one that no linear layer of the model is called.
    """
    layers = {name for name, layer in model.named_modules() if _is_linear(layer)}
    if not tuning.targets:
        ends = {name.rpartition(".")[2] for name in layers}
        usual = next((known for known in _TARGETS if ends.issuperset(known)), None)
        if usual is None:
            raise _no_such_layer("its queries and values have no name known here", layers)
        return list(usual)
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
