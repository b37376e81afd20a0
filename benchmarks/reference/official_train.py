"""How the official release trains, for comparison: its way of working, fairly stated.

A float32 ``.npy`` per clip and stream, loaded whole; clips projected, joined, padded and masked one
by one in Python; sentences and prompts put through the tokenizer at every step; the LLM loaded, and
its input built, during the warm-up as well, although only VT-Align is minimised then; checkpoints
of the whole model. Layers, LoRA, optimiser, batches and the threads are those of the run it is
compared with: it computes the same loss, with the same tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from spamo_cache.config import StageConfig
from spamo_cache.model.tokens import IGNORED
from spamo_cache.model.translator import TrainPhase, Translator
from spamo_cache.train import optim


class OfficialTrainer:
    """Training steps on the layers of a translator.

    Args:
        features: folder with ``<stream>/<clip>.npy``.
        clips: ids.
        texts: their sentences.
        prompt: what stands behind the sign rows.
    """

    def __init__(
        self, translator: Translator, features: Path, clips: Sequence[str], texts: Sequence[str],
        prompt: str,
    ) -> None:  # fmt: skip
        self.translator, self.features = translator, features
        self.clips, self.texts, self.prompt = clips, texts, prompt
        self.llm: Any = translator.attach()

    def steps(
        self, stage: TrainPhase, config: StageConfig, batches: Iterator[Sequence[int]]
    ) -> None:
        """One optimiser step per batch."""
        self.translator.train()
        trained = [value for value in self.translator.parameters() if value.requires_grad]
        optimiser = optim.make(self.translator, config)
        device = self.translator.device
        half = device.type == "cuda" or self.llm.dtype == torch.bfloat16
        for step, numbers in enumerate(batches):
            optim.set_rate(optimiser, optim.learning_rate(config, step))
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = self.loss(stage, numbers)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
            optimiser.step()
            optimiser.zero_grad()

    def loss(self, stage: TrainPhase, numbers: Sequence[int]) -> Tensor:
        rows, lengths = self._signs(numbers)
        texts = [self.texts[number] for number in numbers]
        labels = self._padded(self.translator.tokens.encode(texts), IGNORED)
        read, mask = self._read(rows, lengths)
        align = self._align(rows, lengths, labels)
        if stage == "align":
            return align
        output = self.llm.model(inputs_embeds=read, attention_mask=mask, labels=labels)
        loss: Tensor = output.loss + align
        return loss

    def save(self, path: Path) -> None:
        """The whole model, frozen weights and all."""
        torch.save({"state_dict": self.translator.state_dict()}, path)

    def _signs(self, numbers: Sequence[int]) -> tuple[Tensor, list[int]]:
        """(clips, longest, width of the LLM) and how many of the rows are true ones."""
        adapter, device = self.translator.adapter, self.translator.device
        joined = []
        for number in numbers:
            parts = []
            for stream, project in adapter.projections.items():
                array = np.load(self.features / stream / f"{self.clips[number]}.npy")
                parts.append(project(torch.from_numpy(array).to(device)))
            joined.append(torch.cat(parts))
        longest = max(map(len, joined))
        padded = [F.pad(rows, (0, 0, 0, longest - len(rows))) for rows in joined]
        x, lengths = torch.stack(padded).transpose(1, 2), [len(rows) for rows in joined]
        layers = iter(zip(adapter.tcn.convs, adapter.tcn.norms, strict=True))
        for kind, size in adapter.tcn.steps:
            if kind == "p":
                x, lengths = F.max_pool1d(x, size), [length // size for length in lengths]
            else:
                conv, norm = next(layers)
                x = F.relu(norm(conv(x)))
                lengths = [length - size + 1 for length in lengths]
        return adapter.mlp(x.transpose(1, 2)), lengths

    def _read(self, rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Sign rows and prompt of each clip, padded, and their mask."""
        ids = self.translator.tokens.prompts([self.prompt] * len(lengths))
        prompts = self.translator.embeddings(self._padded(ids, self.translator.tokens.padding))
        joined = [
            torch.cat([clip[:length], prompt[: len(own)].to(clip.dtype)])
            for clip, length, prompt, own in zip(rows, lengths, prompts, ids, strict=True)
        ]
        longest = max(map(len, joined))
        mask = torch.zeros(len(joined), longest, dtype=torch.long, device=rows.device)
        for number, clip in enumerate(joined):
            mask[number, : len(clip)] = 1
        read = torch.stack([F.pad(clip, (0, 0, 0, longest - len(clip))) for clip in joined])
        return read.to(self.llm.dtype), mask

    def _align(self, rows: Tensor, lengths: Sequence[int], labels: Tensor) -> Tensor:
        signs, texts = [], []
        for clip, length, ids in zip(rows, lengths, labels, strict=True):
            signs.append(clip[:length].mean(0))
            with torch.no_grad():
                texts.append(self.translator.embeddings(ids[ids != IGNORED]).float().mean(0))
        sign, text = (F.normalize(torch.stack(parts), dim=-1) for parts in (signs, texts))
        logits = self.translator.align.log_scale.exp() * sign @ text.T
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def _padded(self, sequences: Sequence[Sequence[int]], value: int) -> Tensor:
        longest = max(map(len, sequences))
        rows = [[*ids, *[value] * (longest - len(ids))] for ids in sequences]
        return torch.tensor(rows, device=self.translator.device)
