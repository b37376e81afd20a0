"""Write pretrained towers as the Hugging Face folders that cache specs name."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


def clip_vision_folder(visual: nn.Module, folder: Path, *, size: int, patch: int) -> None:
    """An open_clip ``VisionTransformer`` as a ``CLIPVisionModel`` folder (without projection)."""
    state = visual.state_dict()
    width = state["class_embedding"].shape[0]
    layers = len(visual.transformer.resblocks)
    tensors = {
        "vision_model.embeddings.class_embedding": state["class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["positional_embedding"],
    }
    for theirs, ours in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
        for kind in ("weight", "bias"):
            tensors[f"vision_model.{theirs}.{kind}"] = state[f"{ours}.{kind}"]
    for layer in range(layers):
        tensors |= _block(state, f"transformer.resblocks.{layer}.", layer)
    config = {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_act": "quick_gelu",
        "hidden_size": width,
        "image_size": size,
        "intermediate_size": 4 * width,
        "layer_norm_eps": 1e-05,
        "num_attention_heads": width // 32,
        "num_channels": 3,
        "num_hidden_layers": layers,
        "patch_size": patch,
    }
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
    }
    write_folder(folder, tensors, config, processor)


def write_folder(
    folder: Path, tensors: dict[str, torch.Tensor], config: dict, processor: dict
) -> None:
    """config.json, preprocessor_config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    kept = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def _block(state: dict[str, torch.Tensor], ours: str, layer: int) -> dict[str, torch.Tensor]:
    theirs = f"vision_model.encoder.layers.{layer}."
    tensors = {}
    for kind in ("weight", "bias"):
        parts = state[f"{ours}attn.in_proj_{kind}"].chunk(3)
        for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
            tensors[f"{theirs}self_attn.{name}.{kind}"] = part
        for their, our in (
            ("self_attn.out_proj", "attn.out_proj"),
            ("layer_norm1", "ln_1"),
            ("layer_norm2", "ln_2"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
        ):
            tensors[f"{theirs}{their}.{kind}"] = state[f"{ours}{our}.{kind}"]
    return tensors
