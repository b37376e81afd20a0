"""A Hugging Face ``CLIPVisionModel`` under the names of open_clip's ``VisionTransformer``."""

from __future__ import annotations

from collections.abc import Mapping

import torch

_NAMES = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",  # the misspelling is the checkpoints'
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_BLOCK_NAMES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def visual(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The vision tower's tensors in a checkpoint, under open_clip's names.

    Args:
        state: of open_clip's CLIP, its ``visual`` alone, or Hugging Face's CLIP or
            CLIPVisionModel, with a projection or without.

    Raises:
        KeyError: a tensor of a Hugging Face block is missing.
    """
    own = below(state, "visual.")
    if own is None and any("encoder.layers." in name for name in state):
        return _from_hugging_face(state)
    return dict(state) if own is None else own


def below(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor] | None:
    """The tensors below ``prefix``; None where there are none."""
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return found or None


def _from_hugging_face(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    inner = below(state, "vision_model.") or state
    converted = {new: inner[old] for old, new in _NAMES.items() if old in inner}
    if "visual_projection.weight" in state:
        converted["proj"] = state["visual_projection.weight"].T.contiguous()
    layers = {int(name.split(".")[2]) for name in inner if name.startswith("encoder.layers.")}
    for layer in sorted(layers):
        old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            for source, target in _BLOCK_NAMES.items():
                converted[f"{new}.{target}.{kind}"] = inner[f"{old}.{source}.{kind}"]
            parts = [inner[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            converted[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
    return converted
