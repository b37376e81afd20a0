"""SE, the spatial encoder (paper section 3.1): a CLIP image tower over S2 scales of each frame.

Every scale s shows the frame at s times the encoder's input size, cut into s x s crops. A scale's
feature is the mean over its crops, and the scales' features stand side by side. The larger images
are interpolated from the normalised base image, as the official release does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from spamo_cache.config import SpatialStream
from spamo_cache.encoders import openclip
from spamo_cache.encoders.encoder import Encoder, meta_forward
from spamo_cache.encoders.openclip_vit import PlainTower, WholeTower, is_plain
from spamo_cache.encoders.preprocess import Normalise


class SpatialEncoder(Encoder):
    """One row per ``stride`` frames, of ``len(scales) * tower width`` values."""

    per = "frame"

    def __init__(self, stream: SpatialStream, base: Path) -> None:
        """Load the weights; raises ConfigError or WeightsError as :func:`openclip.load` does."""
        super().__init__()
        tower = openclip.load(stream, base)
        self.scales, self.stride = stream.scales, stream.stride
        self.preprocess = tower.preprocess
        self.weights_sha256 = tower.sha256()
        build = PlainTower if is_plain(tower.visual) else WholeTower
        self.network = build(tower.visual, stream)
        side = tower.preprocess.resize_spec.size
        row, flops = meta_forward(self.network, (1, 3, side, side))
        crops = sum(scale * scale for scale in self.scales)
        self.width = row.shape[1] * len(self.scales)
        self.tokens_per_row = self.network.tokens * crops
        self.flops_per_row = flops * crops
        self.normalise = Normalise(tower.preprocess)
        self.enlarge = nn.ParameterList(
            nn.Parameter(bicubic(side, scale), requires_grad=False) for scale in self.scales
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        base = self.normalise(pixels)
        crops = torch.cat([self._crops(base, k) for k in range(len(self.scales))], dim=1)
        rows: torch.Tensor = self.network(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        counts = [scale * scale for scale in self.scales]
        scaled = [part.float().mean(dim=1) for part in rows.split(counts, dim=1)]
        return torch.cat(scaled, dim=-1)

    def _crops(self, base: torch.Tensor, index: int) -> torch.Tensor:
        return crops(base, self.scales[index], self.enlarge[index])


def crops(base: torch.Tensor, scale: int, matrix: torch.Tensor) -> torch.Tensor:
    """What a scale of S2 shows the tower: the enlarged pictures in ``scale * scale`` pieces.

    Args:
        base: float (rows, 3, side, side).
        matrix: of :func:`bicubic`.

    Returns:
        (rows, scale * scale, 3, side, side), row-major.
    """
    if scale == 1:
        return base[:, None]
    # Interpolation is linear: along each axis one product with a matrix made once.
    large = matrix @ base @ matrix.T
    rows, channels, side, _ = base.shape
    grid: torch.Tensor = large.view(rows, channels, scale, side, scale, side)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def bicubic(side: int, scale: int) -> torch.Tensor:
    """Matrix (scale * side, side) of torch's bicubic interpolation along one axis."""
    identity = torch.eye(side)[None, None]
    size = (scale * side, side)
    return functional.interpolate(identity, size=size, mode="bicubic", align_corners=False)[0, 0]
