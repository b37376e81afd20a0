"""Encoders of any size with random weights, in the formats the real ones come in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spamo_cache.compat import declare_torchvision_ops

_CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class Size:
    """Shape of a vision transformer."""

    width: int
    layers: int
    heads: int


SIZES = {
    "tiny": Size(96, 2, 3),
    "small": Size(384, 12, 6),
    "large": Size(1024, 24, 16),
}
"""``large`` is CLIP ViT-L/14 and VideoMAE-L/16, the encoders of the paper."""


def write(folder: Path, size: str) -> dict[str, Any]:
    """Write both encoders below ``folder``; returns the cache spec's ``streams``."""
    declare_torchvision_ops()
    from transformers import CLIPVisionConfig, CLIPVisionModel, VideoMAEConfig, VideoMAEModel

    torch.manual_seed(0)
    shape = SIZES[size]
    common: dict[str, Any] = {
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
    }
    clip = CLIPVisionModel(CLIPVisionConfig(patch_size=14, image_size=224, **common))
    motion = VideoMAEModel(VideoMAEConfig(patch_size=16, image_size=224, num_frames=16, **common))
    for name, network, pixels, resample in (
        ("clip-vision", clip, _CLIP, 3),
        ("videomae", motion, _IMAGENET, 2),
    ):
        network.save_pretrained(folder / name)
        _write_processor(folder / name, pixels, resample)
    return {
        "spatial": {"encoder": "open_clip", "weights": "clip-vision", "scales": [1, 2]},
        "motion": {"encoder": "videomae", "weights": "videomae"},
    }


def _write_processor(folder: Path, pixels: dict[str, Any], resample: int) -> None:
    kind = "CLIPImageProcessor" if resample == 3 else "VideoMAEImageProcessor"
    processor = {
        "image_processor_type": kind,
        "do_resize": True,
        "size": {"shortest_edge": 224},
        "resample": resample,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels["mean"]),
        "image_std": list(pixels["std"]),
        "do_convert_rgb": True,
    }
    if resample == 2:
        del processor["do_convert_rgb"]
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1))
