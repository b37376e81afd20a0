"""What sign rows look like to the language model: the token whose embedding is nearest."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from spamo_cache.analysis.tokens import Visual
from spamo_cache.model.rows import Padded
from spamo_cache.model.translator import Translator

_TOKENS = 4096
"""Embeddings that are looked at together: bounds memory, whatever the vocabulary."""


class Vocabulary:
    """The tokens that a sign row can look like, and where they lie.

    Special tokens and those without letter or digit are none. A token lies at its input embedding
    less the centre: VT-Align's own (the mean of the training sentences) where it has one, else
    the mean of the table. Sign rows are taken as they are, as VT-Align takes them. Without a
    centre the cosines would mostly be with the direction that all embeddings share.
    """

    def __init__(self, translator: Translator) -> None:
        self._embed = translator.embeddings
        self.written = translator.tokens.written()
        usable = [any(map(str.isalnum, text)) for text in self.written]
        # A tokenizer may know more ids than the model.
        rows = len(translator.embeddings.get_parameter("weight"))
        ids = torch.tensor(usable[:rows]).nonzero()[:, 0]
        self._parts = ids.to(translator.device).split(_TOKENS)
        self.size = len(ids)
        own = translator.align.center
        self.center = own if own.any() else self._mean()

    def read(self, clips: Padded) -> list[Visual]:
        """The tokens that each clip's sign rows look like."""
        packed = clips.packed()
        ids, cosines = self.nearest(packed.rows)
        sizes = packed.lengths.tolist()
        return [
            Visual([self.written[token] for token in tokens.tolist()], near.tolist())
            for tokens, near in zip(ids.split(sizes), cosines.split(sizes), strict=True)
        ]

    @torch.inference_mode()
    def nearest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Ids of the nearest tokens of (rows, width) sign rows, and their cosines."""
        rows = F.normalize(rows.float(), dim=-1)
        best = rows.new_full((len(rows),), -torch.inf)
        chosen = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        for ids in self._parts:
            placed = F.normalize(self._embed(ids).float() - self.center, dim=-1)
            cosine, place = (rows @ placed.T).max(1)
            chosen = torch.where(cosine > best, ids[place], chosen)
            best = best.maximum(cosine)
        return chosen, best

    @torch.inference_mode()
    def _mean(self) -> Tensor:
        total = torch.stack([self._embed(ids).float().sum(0) for ids in self._parts]).sum(0)
        return total / self.size
