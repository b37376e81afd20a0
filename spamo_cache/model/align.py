"""VT-Align: pull each clip towards its sentence, away from the others (paper section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from spamo_cache.model.gather import gathered
from spamo_cache.model.rows import Padded

LOG_SCALE = 2.6592
"""Log of the softmax's first inverse temperature, as in CLIP: 1 / 0.07."""


class VTAlign(nn.Module):
    """Symmetric softmax contrastive loss between pooled sign rows and pooled input embeddings.

    In training on several devices every clip is told apart from the clips of all of them: loss
    and gradients are those of one batch on one device.

    Args:
        width: the LLM's embedding width.
        padded: means run over the batch's padding too, as the official release has them.
    """

    center: Tensor

    def __init__(self, width: int, *, padded: bool = False) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(LOG_SCALE))
        self.padded = padded
        # Zero until the mean of the training sentences is known, and for good without centring.
        self.register_buffer("center", torch.zeros(width))

    def pool(self, rows: Padded) -> Tensor:
        """(clips, width) means in float32."""
        whole = Padded(rows.rows.float(), rows.lengths)
        return whole.rows.mean(1) if self.padded else whole.mean()

    def pool_sign(self, rows: Padded) -> Tensor:
        """(clips, width) unit vectors."""
        return F.normalize(self.pool(rows), dim=-1)

    def pool_text(self, rows: Padded) -> Tensor:
        """(clips, width) unit vectors, of embeddings less the centre."""
        return F.normalize(self.pool(rows) - self.center, dim=-1)

    def forward(self, sign: Padded, text: Padded) -> Tensor:
        """Scalar loss; clip i of ``sign`` belongs to sentence i of ``text``."""
        signs, texts = self.pool_sign(sign), self.pool_text(text)
        if self.training:
            signs, texts = gathered(signs), gathered(texts)
        # In half precision a cosine is off by 0.004, and its logit by 14 times as much and more.
        with torch.autocast(signs.device.type, enabled=False):
            logits = self.log_scale.exp() * signs @ texts.T
            target = torch.arange(len(logits), device=logits.device)
            return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
