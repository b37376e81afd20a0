"""How the official release extracts features, for comparison: its way of working, fairly stated.

Clip by clip, every image through PIL, each encoder decoding for itself and the motion encoder every
frame of overlapping windows anew; all tokens of all layers kept to the end; patch tokens merged by
S2 although only the class token is used; one float32 ``.npy`` per clip and stream. The weights, the
threads and transformers are those of the run it is compared with, and so is the image processors'
backend, transformers' own choice (torchvision, several times faster than the release's PIL).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from spamo_cache.compat import declare_torchvision_ops

WINDOW, STRIDE = 16, 8
BATCH = 32


class Official:
    """Both encoders by transformers' own models and processors."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        declare_torchvision_ops()
        from transformers import AutoImageProcessor, CLIPVisionModel, VideoMAEModel

        self.device = device
        self.clip: Any = CLIPVisionModel.from_pretrained(folder / "clip-vision").eval().to(device)
        self.clip_processor = AutoImageProcessor.from_pretrained(folder / "clip-vision")
        self.motion: Any = VideoMAEModel.from_pretrained(folder / "videomae").eval().to(device)
        self.motion_processor = AutoImageProcessor.from_pretrained(folder / "videomae")

    def extract(self, source: Path, out: Path) -> None:
        """Both streams of one clip, each written to a file of its own."""
        np.save(out / f"{source.stem}_s2wrapping.npy", self.spatial(source))
        np.save(out / f"{source.stem}_overlap-8.npy", self.movement(source))

    @torch.no_grad()
    def spatial(self, source: Path) -> np.ndarray[Any, Any]:
        """(frames, 2 * width) float32."""
        features = [self._s2(pixels.to(self.device)) for pixels in self.spatial_input(source)]
        return torch.cat(features).cpu().numpy()

    @torch.no_grad()
    def movement(self, source: Path) -> np.ndarray[Any, Any]:
        """(windows, width) float32."""
        features = []
        for pixels in self.motion_input(source):
            hidden = self.motion(pixels.to(self.device), output_hidden_states=True).hidden_states
            features.append(hidden[-1][:, 0])
        return torch.cat(features).cpu().numpy()

    def spatial_input(self, source: Path) -> Iterator[torch.Tensor]:
        """Batches as the network takes them: float (frames, 3, 224, 224)."""
        images = _images(source)
        for k in range(0, len(images), BATCH):
            batch = [_loaded(image) for image in images[k : k + BATCH]]
            yield self.clip_processor(images=batch, return_tensors="pt")["pixel_values"]

    def motion_input(self, source: Path) -> Iterator[torch.Tensor]:
        """Windows as the network takes them: float (1, 16, 3, 224, 224)."""
        images = _images(source)
        images += images[-1:] * (WINDOW - len(images))
        for start in range(0, len(images) - WINDOW + 1, STRIDE):
            window = [_loaded(image) for image in images[start : start + WINDOW]]
            yield self.motion_processor(window, return_tensors="pt")["pixel_values"]

    def _s2(self, pixels: torch.Tensor) -> torch.Tensor:
        """Both scales, all tokens merged to maps and pooled to one size, then the class token."""
        scales = []
        for scale in (1, 2):
            side = pixels.shape[-1] * scale
            large = functional.interpolate(pixels, size=(side, side), mode="bicubic")
            rows = large.split(pixels.shape[-1], dim=2)
            crops = torch.cat([crop for row in rows for crop in row.split(pixels.shape[-1], dim=3)])
            tokens = self.clip(crops, output_hidden_states=True).hidden_states[-1]
            scales.append(_merged(tokens, scale))
        return torch.cat(scales, dim=-1)[:, 0]


def _merged(tokens: torch.Tensor, scale: int) -> torch.Tensor:
    """(crops * batch, 1 + patches, width) -> (batch, 1 + patches, width)."""
    side = int((tokens.shape[1] - 1) ** 0.5)
    parts = tokens.unflatten(0, (scale * scale, -1))
    prefix = parts[:, :, :1].mean(dim=0)
    maps = parts[:, :, 1:].transpose(2, 3).unflatten(3, (side, side))
    lines = [torch.cat(list(maps[k * scale : (k + 1) * scale]), dim=-1) for k in range(scale)]
    pooled = functional.interpolate(torch.cat(lines, dim=-2), size=(side, side), mode="area")
    return torch.cat([prefix, pooled.flatten(2).transpose(1, 2)], dim=1)


def _images(source: Path) -> list[Any]:
    """Files of a folder, opened when they are needed, or all frames of a video file."""
    if source.is_dir():
        return sorted(source.glob("*.png"))
    import av

    container: Any
    with av.open(str(source)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def _loaded(image: Path | Image.Image) -> Image.Image:
    return Image.open(image).convert("RGB") if isinstance(image, Path) else image
