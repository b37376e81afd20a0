"""Sign rows, then a prompt, into the LLM; out comes the sentence (paper section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from spamo_cache.config import DecodeConfig, Pipeline
from spamo_cache.errors import WeightsError
from spamo_cache.model.adapter import SignAdapter
from spamo_cache.model.align import VTAlign
from spamo_cache.model.llm import IGNORED, Seq2SeqLLM, Tokens
from spamo_cache.model.rows import Packed, Padded, join
from spamo_cache.model.weights import embedding_table

Stage = Literal["align", "translate"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips ready for the model.

    Attributes:
        streams: per stream the clips' rows, packed, float32.
        labels: (clips, longest sentence) token ids, padded with -100.
    """

    streams: Mapping[str, Packed]
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        streams = {name: packed.to(device) for name, packed in self.streams.items()}
        return Batch(streams, self.labels.to(device, non_blocking=True))


class Translator(nn.Module):
    """The sign adapter, VT-Align and, once :meth:`attach` was called, the LLM.

    Until then only the LLM's embedding table is held: that is all the align stage needs.

    Args:
        pipeline: adapter, align and llm settings, streams.
        widths: stream -> width of its rows.
        folder: the LLM's Hugging Face folder.
    """

    prompt: Tensor

    def __init__(self, pipeline: Pipeline, widths: Mapping[str, int], folder: Path) -> None:
        super().__init__()
        self.config = pipeline.llm
        self.folder = folder
        self.tokens = Tokens(folder)
        table = embedding_table(folder)
        width = table.shape[1]
        self.embeddings: nn.Module = nn.Embedding(
            table.shape[0], width, _weight=table
        ).requires_grad_(False)
        self.adapter = SignAdapter(
            {name: widths[name] for name in pipeline.streams},
            pipeline.adapter,
            out=width,
            rms=table.square().mean().sqrt(),
        )
        self.align = VTAlign(pipeline.align, width)
        self.llm: Seq2SeqLLM | None = None
        prompt = pipeline.llm.prompt.replace("{language}", pipeline.text.language)
        ids = torch.tensor(self.tokens.encode([prompt])[0])
        self.register_buffer("prompt", ids, persistent=False)

    def attach(self) -> Seq2SeqLLM:
        """Load the LLM with its tuning; from here on its own embedding table is used."""
        if self.llm is None:
            self.llm = Seq2SeqLLM(self.folder, self.config).to(self.prompt.device)
            # A fresh LoRA would drop out in a model that is being evaluated.
            self.llm.train(self.training)
            self.embeddings = self.llm.embeddings
        return self.llm

    def forward(
        self, batch: Batch, *, stage: Stage, alpha: float = 1.0, smoothing: float = 0.0
    ) -> dict[str, Tensor]:
        """Scalar losses: ``loss`` to minimise, ``align`` and, when translating, ``lm``."""
        sign = self.adapter(batch.streams)
        if stage == "align":
            align = self.align(sign, self.sentences(batch.labels))
            return {"loss": align, "align": align}
        lm = self.attach().loss(self.inputs(sign), batch.labels, smoothing)
        if alpha == 0:
            return {"loss": lm, "lm": lm}
        align = self.align(sign, self.sentences(batch.labels))
        return {"loss": lm + alpha * align, "lm": lm, "align": align}

    @torch.no_grad()
    def sentences(self, labels: Tensor) -> Padded:
        """Input embeddings of the target sentences; padding holds the padding token's."""
        inside = labels != IGNORED
        ids = labels.masked_fill(~inside, self.tokens.padding)
        return Padded(self.embeddings(ids).float(), inside.sum(1))

    def inputs(self, sign: Padded) -> Padded:
        """What the LLM reads: each clip's sign rows and right behind them the prompt."""
        clips = len(sign.lengths)
        prompt = self.embeddings(self.prompt).to(sign.rows.dtype).repeat(clips, 1)
        lengths = torch.full_like(sign.lengths, len(self.prompt))
        return join([sign.packed(), Packed(prompt, lengths)])

    @torch.inference_mode()
    def generate(self, streams: Mapping[str, Packed], decode: DecodeConfig) -> list[str]:
        """One sentence per clip. The caller has put the model into evaluation mode."""
        ids = self.attach().generate(self.inputs(self.adapter(streams)), decode)
        return self.tokens.decode(ids.tolist())

    def trained(self) -> dict[str, Tensor]:
        """What training changes: adapter, VT-Align and the LLM's tuned weights, by name."""
        state = {f"adapter.{name}": value for name, value in self.adapter.state_dict().items()}
        state |= {f"align.{name}": value for name, value in self.align.state_dict().items()}
        state |= {f"llm.{name}": value for name, value in self._tuned().items()}
        return {name: value.detach() for name, value in state.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`trained` gave; the LLM is attached if ``state`` tunes it.

        Raises:
            WeightsError: names or shapes are not this translator's.
        """
        if any(name.startswith("llm.") for name in state):
            self.attach()
        own = self.trained()
        odd = sorted(own.keys() ^ state.keys()) or sorted(
            name for name, value in own.items() if value.shape != state[name].shape
        )
        if odd:
            raise WeightsError(
                f"{len(odd)} tensors do not fit this pipeline, first {odd[0]!r}",
                remedy="use the pipeline that the weights were trained with",
            )
        for name, value in own.items():
            value.copy_(state[name])

    def _tuned(self) -> dict[str, Tensor]:
        named = self.llm.named_parameters() if self.llm is not None else ()
        return {name: value for name, value in named if value.requires_grad}
