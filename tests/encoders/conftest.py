"""Tiny networks of the real classes with random weights, saved in the forms labs have."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from spamo_cache.compat import declare_torchvision_ops

declare_torchvision_ops()

Save = Callable[..., Any]

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
MEANS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"}


def randomised(network: torch.nn.Module) -> Any:
    """Every parameter away from the zeros and ones that hide mistakes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture(scope="session")
def pixels() -> Callable[..., torch.Tensor]:
    """Makes random uint8 pixels of a shape."""

    def make(*shape: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    return make


@pytest.fixture
def open_clip_folder(tmp_path: Path) -> Save:
    """Saves a model as open_clip pushes it to the hub; returns open_clip's own loading of it."""
    import open_clip
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    def save(vision: Mapping[str, Any], name: str = "tower", **model: Any) -> Any:
        given = {"embed_dim": 24, "vision_cfg": dict(vision), "text_cfg": TEXT, **model}
        network = randomised(CLIP(**given, output_dict=True))
        folder = tmp_path / name
        folder.mkdir()
        save_file(network.state_dict(), folder / "open_clip_model.safetensors")
        document = {"model_cfg": given, "preprocess_cfg": MEANS}
        (folder / "open_clip_config.json").write_text(json.dumps(document))
        return open_clip.create_model(f"local-dir:{folder}").eval()

    return save


@pytest.fixture
def hugging_face_folder(tmp_path: Path) -> Save:
    """Saves a network with its processor as transformers does; returns the network."""

    def save(network: Any, processor: Any, name: str = "network", **options: Any) -> Any:
        randomised(network).save_pretrained(tmp_path / name, **options)
        processor.save_pretrained(tmp_path / name)
        return network

    return save
