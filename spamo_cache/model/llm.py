"""The language model: reads embedding rows, writes tokens; encoder-decoder or decoder-only."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from spamo_cache.config import DecodeConfig
from spamo_cache.model.rows import Padded
from spamo_cache.model.tokens import IGNORED, Tokens

TOP_P = 0.9
"""Probability mass that sampled beams draw from, as in the official release."""


class LLM(nn.Module):
    """A model of transformers behind the interface that translation needs.

    Args:
        model: the tuned model; :func:`spamo_cache.model.loading.load_llm` makes one.
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

    @abstractmethod
    def logits(self, rows: Padded, labels: Tensor) -> Tensor:
        """(clips, tokens, vocabulary) in float32: what is said in place of each label.

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
            **self._reading(rows),
            decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels),
            decoder_attention_mask=(labels != IGNORED).long(),
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
        said = labels[:, :-1]
        spoken = self.embeddings(said.masked_fill(said == IGNORED, self.tokens.padding))
        mask = torch.cat([inside, said != IGNORED], dim=1).long()
        output = self.model(
            inputs_embeds=torch.cat([read.to(self.dtype), spoken.to(self.dtype)], dim=1),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=labels.shape[1],
            use_cache=False,
        )
        return output.logits.float()  # type: ignore[no-any-return]

    def _reading(self, rows: Padded) -> dict[str, Any]:
        read, inside = rows.aligned_right()
        return {"inputs_embeds": read.to(self.dtype), "attention_mask": inside.long()}
