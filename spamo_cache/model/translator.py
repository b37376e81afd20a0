"""Sign rows, then a prompt, into the LLM; out comes the sentence (paper section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from spamo_cache.compat import avoid_cudnn_attention
from spamo_cache.config import DecodeConfig, Pipeline
from spamo_cache.errors import WeightsError
from spamo_cache.model.adapter import SignAdapter, VTAlign
from spamo_cache.model.llm import LLM, load_llm
from spamo_cache.model.prompts import instruction
from spamo_cache.model.rows import Packed, Padded, join, repeated
from spamo_cache.model.tokens import IGNORED, Tokens
from spamo_cache.model.weights import embedding_table

TrainPhase = Literal["align", "translate"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips ready for the model.

    Attributes:
        streams: per stream the clips' rows, packed: features of any float type, or uint8 pixels
            where the stream's encoder is trained too.
        labels: (clips, longest sentence) token ids, padded with -100.
        prompts: the clips' token ids, packed; None is the pipeline's one prompt for all.
        longest_clip: joined rows of the longest clip of all processes that share the batch; 0
            where these clips are all.
        longest_sentence: the same in tokens.
    """

    streams: Mapping[str, Packed]
    labels: Tensor
    prompts: Packed | None = None
    longest_clip: int = 0
    longest_sentence: int = 0

    def to(self, device: torch.device) -> Batch:
        return replace(
            self,
            streams={name: packed.to(device) for name, packed in self.streams.items()},
            labels=self.labels.to(device, non_blocking=True),
            prompts=None if self.prompts is None else self.prompts.to(device),
        )

    def tensors(self) -> list[Tensor]:
        """All of them, in no particular order."""
        ragged = [*self.streams.values(), *([] if self.prompts is None else [self.prompts])]
        return [self.labels, *chain.from_iterable(one.tensors() for one in ragged)]

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which copies to a GPU keep nobody waiting."""
        return replace(
            self,
            streams={name: packed.pin_memory() for name, packed in self.streams.items()},
            labels=self.labels.pin_memory(),
            prompts=None if self.prompts is None else self.prompts.pin_memory(),
        )


class Translator(nn.Module):
    """The sign adapter, VT-Align and, once :meth:`attach` was called, the LLM.

    Until then only the LLM's embedding table is held: that is all the align phase needs.

    Args:
        pipeline: adapter, align and llm settings, protocol, streams.
        widths: stream -> width of its rows.
        folder: the LLM's Hugging Face folder.
        encoders: of the streams whose rows are pixels: they are tuned with the rest.
    """

    opening: Tensor
    prompt: Tensor

    def __init__(
        self,
        pipeline: Pipeline,
        widths: Mapping[str, int],
        folder: Path,
        encoders: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        avoid_cudnn_attention()
        self.config = pipeline.llm
        self.seed = pipeline.seed
        self.sampled = pipeline.protocol.sampled_beams
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
        self.align = VTAlign(width, padded=pipeline.protocol.pool_padding)
        self.encoders = nn.ModuleDict(encoders)
        self.llm: LLM | None = None
        prompt = self.tokens.prompts([instruction(pipeline.llm, pipeline.text.language)])[0]
        self.register_buffer("prompt", torch.tensor(prompt), persistent=False)
        opening = torch.tensor(self.tokens.opening, dtype=torch.long)
        self.register_buffer("opening", opening, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.prompt.device

    def attach(self) -> LLM:
        """Load the LLM with its tuning; from here on its own embedding table is used."""
        if self.llm is None:
            self.llm = load_llm(self.folder, self.config, self.tokens, self.device)
            # A fresh LoRA would drop out in a model that is being evaluated.
            self.llm.train(self.training)
            self._check_table(self.llm.embeddings)
            self.embeddings = self.llm.embeddings
        return self.llm

    @torch.no_grad()
    def _check_table(self, embeddings: nn.Module) -> None:
        """VT-Align has met the embeddings by their table alone: it must be what the LLM reads."""
        table, read = self.embeddings(self.prompt), embeddings(self.prompt).float()
        if not torch.allclose(table, read, rtol=0.02, atol=0.02 * table.abs().max().item()):
            raise WeightsError(
                "the LLM does more to its embeddings than to look them up", where=self.folder
            )

    def forward(
        self, batch: Batch, *, phase: TrainPhase, alpha: float = 1.0, smoothing: float = 0.0
    ) -> dict[str, Tensor]:
        """Scalar losses: ``loss`` to minimise, ``align`` and, when translating, ``lm``."""
        sign = self.sign(batch.streams, batch.longest_clip)
        if phase == "align":
            align = self.align(sign, self.sentences(batch.labels, batch.longest_sentence))
            return {"loss": align, "align": align}
        lm = self.attach().loss(self.inputs(sign, batch.prompts), batch.labels, smoothing)
        if alpha == 0:
            return {"loss": lm, "lm": lm}
        align = self.align(sign, self.sentences(batch.labels, batch.longest_sentence))
        return {"loss": lm + alpha * align, "lm": lm, "align": align}

    def sign(self, streams: Mapping[str, Packed], longest: int = 0) -> Padded:
        """The clips' sign rows, of features or of pixels.

        Args:
            longest: joined rows that clips are padded to at least.
        """
        encoded = {
            name: streams[name].holding(encoder(streams[name].rows))
            for name, encoder in self.encoders.items()
        }
        sign: Padded = self.adapter({**streams, **encoded}, longest)
        return sign

    @torch.no_grad()
    def sentences(self, labels: Tensor, longest: int = 0) -> Padded:
        """Input embeddings of the target sentences; padding holds the padding token's.

        Args:
            longest: tokens that sentences are padded to at least where VT-Align counts padding.
        """
        if self.align.padded and longest > labels.shape[1]:
            labels = F.pad(labels, (0, longest - labels.shape[1]), value=IGNORED)
        inside = labels != IGNORED
        ids = labels.masked_fill(~inside, self.tokens.padding)
        return Padded(self.embeddings(ids).float(), inside.sum(1))

    def inputs(self, sign: Padded, prompts: Packed | None = None) -> Padded:
        """What the LLM reads: each clip's sign rows and right behind them its prompt.

        Args:
            prompts: as in :class:`Batch`.
        """
        clips = len(sign.lengths)
        said = [repeated(self.prompt, clips) if prompts is None else prompts]
        if len(self.opening):
            said.insert(0, repeated(self.opening, clips))
        *before, after = (
            ids.holding(self.embeddings(ids.rows).to(sign.rows.dtype)) for ids in said
        )
        return join([*before, sign.packed(), after])

    @torch.inference_mode()
    def generate(
        self, streams: Mapping[str, Packed], decode: DecodeConfig, prompts: Packed | None = None
    ) -> list[str]:
        """One sentence per clip. The caller has put the model into evaluation mode."""
        rows = self.inputs(self.sign(streams), prompts)
        llm = self.attach()
        # Of all GPUs, this process would set up each one of the machine, whoever works there.
        gpus = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(gpus, enabled=self.sampled):
            if self.sampled:
                torch.manual_seed(self.seed)
            ids = llm.generate(rows, decode, sampled=self.sampled)
        return self.tokens.decode(ids.tolist())

    def trained(self) -> dict[str, Tensor]:
        """What training changes: adapter, VT-Align, tuned weights of LLM and encoders, by name."""
        state = {f"adapter.{name}": value for name, value in self.adapter.state_dict().items()}
        state |= {f"align.{name}": value for name, value in self.align.state_dict().items()}
        for part, module in (("llm", self.llm), ("encoders", self.encoders)):
            state |= {f"{part}.{name}": value for name, value in _tuned(module).items()}
        return {name: value.detach() for name, value in state.items()}

    @torch.no_grad()
    def begin_with(self, state: Mapping[str, Tensor]) -> None:
        """As :meth:`restore`, of a translator whose encoders were frozen, too."""
        own = _tuned(self.encoders)
        self.restore({f"encoders.{name}": value for name, value in own.items()} | {**state})

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


def _tuned(module: nn.Module | None) -> dict[str, Tensor]:
    named = () if module is None else module.named_parameters()
    return {name: value for name, value in named if value.requires_grad}
