"""The language model: loaded from a folder, tuned by LoRA, whole, or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.config import DecodeConfig, LLMConfig, TuningConfig
from spamo_cache.errors import ConfigError, WeightsError
from spamo_cache.model.rows import Padded

IGNORED = -100
"""Label of padding: no loss there."""


class Tokens:
    """The LLM's tokenizer, reduced to what translation needs.

    Raises:
        WeightsError: the folder holds no tokenizer that transformers can read.
    """

    def __init__(self, folder: Path) -> None:
        declare_torchvision_ops()
        from transformers import AutoTokenizer  # noqa: PLC0415

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError) as error:
            raise WeightsError(f"holds no usable tokenizer: {error}", where=folder) from error

    @property
    def padding(self) -> int:
        """Id of the padding token; of the end token where a tokenizer has none."""
        own = self._tokenizer.pad_token_id
        return int(self._tokenizer.eos_token_id if own is None else own)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with the tokenizer's own end token."""
        return [list(ids) for ids in self._tokenizer(list(texts)).input_ids]

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        texts = self._tokenizer.batch_decode(
            [list(ids) for ids in sequences], skip_special_tokens=True
        )
        return [" ".join(text.split()) for text in texts]


class Seq2SeqLLM(nn.Module):
    """An encoder-decoder that reads embedding rows and writes tokens (T5, mT5, BART).

    Args:
        folder: a Hugging Face folder.
        config: dtype and tuning.

    Raises:
        WeightsError: the folder cannot be loaded as such a model.
        ConfigError: LoRA targets that the model does not have.
    """

    def __init__(self, folder: Path, config: LLMConfig) -> None:
        super().__init__()
        self.model = _tuned(_load(folder, config.dtype), config.tuning)

    @property
    def embeddings(self) -> nn.Module:
        """Token ids -> input embeddings."""
        return self.model.get_input_embeddings()  # type: ignore[no-any-return]

    def logits(self, rows: Padded, labels: Tensor) -> Tensor:
        """(clips, tokens, vocabulary) in float32; ``labels`` (clips, tokens) steer the decoder."""
        output = self.model(
            inputs_embeds=rows.rows.to(self.dtype),
            attention_mask=rows.mask.long(),
            decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels),
            decoder_attention_mask=(labels != IGNORED).long(),
            use_cache=False,
        )
        return output.logits.float()  # type: ignore[no-any-return]

    def loss(self, rows: Padded, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy over the true tokens of the batch."""
        logits = self.logits(rows, labels)
        return F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing
        )

    @torch.inference_mode()
    def generate(self, rows: Padded, decode: DecodeConfig) -> Tensor:
        """(clips, longest) token ids by beam search; deterministic."""
        return self.model.generate(  # type: ignore[no-any-return]
            inputs_embeds=rows.rows.to(self.dtype),
            attention_mask=rows.mask.long(),
            num_beams=decode.beams,
            do_sample=False,
            max_new_tokens=decode.max_tokens,
            length_penalty=decode.length_penalty,
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype  # type: ignore[no-any-return]


def labels_of(sequences: Sequence[Sequence[int]]) -> Tensor:
    """(sentences, longest) token ids, padded with the label that is ignored."""
    rows = [torch.tensor(ids) for ids in sequences]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)


def _load(folder: Path, dtype: str) -> Any:
    declare_torchvision_ops()
    from transformers import AutoConfig, AutoModelForSeq2SeqLM  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    quiet: Any = logging.disable_progress_bar
    quiet()
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        if not config.is_encoder_decoder:
            raise WeightsError(
                "is a decoder-only model", where=folder, remedy="use a T5-like encoder-decoder"
            )
        return AutoModelForSeq2SeqLM.from_pretrained(
            str(folder), config=config, dtype=getattr(torch, dtype), local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot be loaded as a seq2seq model: {error}", where=folder) from error


def _tuned(model: Any, tuning: TuningConfig) -> Any:
    if tuning.mode == "full":
        return model
    model.requires_grad_(False)
    if tuning.mode == "freeze":
        return model
    from peft import LoraConfig, TaskType, get_peft_model  # noqa: PLC0415

    lora = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        r=tuning.r,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=list(tuning.targets),
    )
    try:
        with warnings.catch_warnings():
            # peft asks transformers for an attribute by its old name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            return get_peft_model(model, lora)
    except ValueError as error:
        raise ConfigError(
            " ".join(str(error).split())[:300],
            where=f"llm.tuning.targets: {list(tuning.targets)}",
            remedy="name linear layers of the model, as in [q, v]",
        ) from error
