"""open_clip vision towers from whatever a lab has: a tag, a hub id, a folder, a file.

A Hugging Face ``CLIPVisionModel`` is converted on load into open_clip's ``VisionTransformer``,
with the activation its own config names: plain GELU in place of QuickGELU loads without a word and
gives features that are wrong by little enough to go unnoticed.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.config import SpatialStream
from spamo_cache.encoders import weights
from spamo_cache.encoders.blocks import Activation
from spamo_cache.encoders.preprocess import Preprocess, from_open_clip, from_processor
from spamo_cache.errors import ConfigError, WeightsError

_CONVERTED = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",  # the misspelling is the checkpoints'
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_CONVERTED_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A loaded vision tower."""

    visual: Any
    """open_clip ``VisionTransformer``, float32, on the CPU."""
    preprocess: Preprocess
    activation: Activation


def load(stream: SpatialStream, base: Path) -> Tower:
    """Load the tower a stream names; relative weights stand beside the spec, in ``base``.

    Raises:
        ConfigError: an unknown model or tag.
        WeightsError: missing, incomplete or unsuitable weights.
    """
    declare_torchvision_ops()
    path = weights.local(stream.weights, base)
    if path is not None:
        return _from_path(path, stream)
    if "/" in stream.weights:
        return _from_path(weights.from_hub(stream.weights), stream)
    return _from_tag(stream)


def convert(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename and fuse a ``CLIPVisionModel`` state dict to open_clip's ``VisionTransformer``.

    Raises:
        KeyError: a tensor of a block is missing.
    """
    inner = _inner(state)
    converted = {new: inner[old] for old, new in _CONVERTED.items() if old in inner}
    layers = {int(name.split(".")[2]) for name in inner if name.startswith("encoder.layers.")}
    for layer in sorted(layers):
        old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            for source, target in _CONVERTED_BLOCK.items():
                converted[f"{new}.{target}.{kind}"] = inner[f"{old}.{source}.{kind}"]
            parts = [inner[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            converted[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
    return converted


def _from_path(path: Path, stream: SpatialStream) -> Tower:
    if path.is_file():
        return _from_file(path, stream)
    if (path / "open_clip_config.json").is_file():
        return _from_open_clip_folder(path, stream)
    return _from_hugging_face(path, stream)


def _from_hugging_face(folder: Path, stream: SpatialStream) -> Tower:
    given = weights.read_json(folder / "config.json")
    given = given.get("vision_config", given)
    activation = _activation(given, folder)
    visual = _assembled(
        partial(_vision_transformer, given, activation), weights.tensors(folder), folder
    )
    if stream.model is not None:
        _agree(stream.model, visual, activation, folder)
    size = int(given["image_size"])
    preprocess = from_processor(folder / "preprocessor_config.json", size=size)
    return Tower(visual=visual, preprocess=preprocess, activation=activation)


def _from_open_clip_folder(folder: Path, stream: SpatialStream) -> Tower:
    given = weights.read_json(folder / "open_clip_config.json")
    model = given.get("model_cfg", given)
    visual = _assembled(partial(_from_model_config, model), weights.tensors(folder), folder)
    activation: Activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    if stream.model is not None:
        _agree(stream.model, visual, activation, folder)
    preprocess = from_open_clip(given.get("preprocess_cfg", {}), size=visual.image_size[0])
    return Tower(visual=visual, preprocess=preprocess, activation=activation)


def _from_file(path: Path, stream: SpatialStream) -> Tower:
    if stream.model is None:
        raise ConfigError("a bare weights file needs `model:` to say its shape", where=path)
    model = _model_config(stream.model)
    visual = _assembled(partial(_from_model_config, model), weights.tensors(path), path)
    activation: Activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    preprocess = from_open_clip({}, size=visual.image_size[0])
    return Tower(visual=visual, preprocess=preprocess, activation=activation)


def _from_tag(stream: SpatialStream) -> Tower:
    import open_clip

    if stream.model is None:
        raise ConfigError(
            f"weights {stream.weights!r} name neither a path nor a hub id",
            remedy="an open_clip tag needs `model:` too; a folder needs the right path",
        )
    model = _model_config(stream.model)
    tag = open_clip.get_pretrained_cfg(stream.model, stream.weights)
    if not tag:
        known = open_clip.list_pretrained_tags_by_model(stream.model)
        raise ConfigError(
            f"open_clip has no weights {stream.weights!r} for {stream.model}",
            remedy=f"known: {', '.join(known) or 'none'}",
        )
    if bool(tag.get("quick_gelu")) != bool(model.get("quick_gelu")):
        raise WeightsError(
            f"{stream.weights!r} and model {stream.model!r} disagree about QuickGELU",
            remedy=f"set model: {_other_name(stream.model)}",
        )
    folder = weights.from_hub(tag.get("hf_hub", "").rstrip("/"))
    visual = _assembled(partial(_from_model_config, model), weights.tensors(folder), folder)
    return Tower(
        visual=visual,
        preprocess=from_open_clip(tag, size=visual.image_size[0]),
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
    )


def _assembled(build: Callable[[], Any], state: Mapping[str, torch.Tensor], where: object) -> Any:
    """Build the tower without allocating and hand it its tensors; every one must be there."""
    hugging_face = any("encoder.layers." in name for name in state)
    try:
        own = convert(state) if hugging_face else _strip(state, "visual.")
    except KeyError as error:
        raise WeightsError(f"tensor {error} is missing", where=where) from None
    with torch.device("meta"):
        visual = build()
    visual.proj = None  # behind every output offered here
    own.pop("proj", None)
    try:
        visual.load_state_dict(own, strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(
            f"the weights do not fit the model: {' '.join(str(error).split())[:300]}",
            where=where,
            remedy="check `model` and `weights` in the spec",
        ) from None
    return visual.eval().requires_grad_(requires_grad=False)


def _vision_transformer(given: Mapping[str, Any], activation: Activation) -> Any:
    from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer

    return VisionTransformer(
        image_size=given["image_size"],
        patch_size=given["patch_size"],
        width=given["hidden_size"],
        layers=given["num_hidden_layers"],
        heads=given["num_attention_heads"],
        mlp_ratio=given["intermediate_size"] / given["hidden_size"],
        act_layer=QuickGELU if activation == "quick_gelu" else torch.nn.GELU,
        norm_layer=partial(LayerNorm, eps=given.get("layer_norm_eps", 1e-5)),
        output_dim=given.get("projection_dim", given["hidden_size"]),
    )


def _from_model_config(model: Mapping[str, Any]) -> Any:
    from open_clip.model import _build_vision_tower

    visual = _build_vision_tower(
        model["embed_dim"], dict(model["vision_cfg"]), bool(model.get("quick_gelu"))
    )
    if not hasattr(visual, "transformer") or visual.attn_pool is not None:
        raise ConfigError(
            "only open_clip's plain vision transformers are supported",
            remedy="choose a ViT model such as ViT-L-14-quickgelu",
        )
    return visual


def _model_config(name: str) -> dict[str, Any]:
    import open_clip

    found = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if found is None:
        nearest = difflib.get_close_matches(name, open_clip.list_models(), n=1, cutoff=0.0)
        raise ConfigError(f"open_clip has no model {name!r}", remedy=f"nearest is {nearest[0]!r}")
    model: dict[str, Any] = found
    return model


def _agree(name: str, visual: Any, activation: Activation, where: object) -> None:
    """A `model` given beside a folder must be what the folder holds."""
    model = _model_config(name)
    if bool(model.get("quick_gelu")) != (activation == "quick_gelu"):
        raise WeightsError(
            f"the weights use {activation}, model {name!r} does not",
            where=where,
            remedy=f"set model: {_other_name(name)}, or leave `model` out",
        )
    shape = model["vision_cfg"]
    wanted = shape.get("width"), shape.get("layers"), shape.get("patch_size")
    found = visual.conv1.weight.shape[0], visual.transformer.layers, visual.patch_size[0]
    if wanted != found:
        raise WeightsError(
            f"model {name!r} has width, layers, patch {wanted}, the weights {found}",
            where=where,
            remedy="leave `model` out: the folder says its shape",
        )


def _activation(given: Mapping[str, Any], where: object) -> Activation:
    name = given.get("hidden_act", "quick_gelu")  # the default of CLIPVisionConfig
    if name == "quick_gelu":
        return "quick_gelu"
    if name == "gelu":
        return "gelu"
    raise WeightsError(f"unknown activation {name!r}", where=where)


def _other_name(model: str) -> str:
    ending = "-quickgelu"
    return model.removesuffix(ending) if model.endswith(ending) else model + ending


def _inner(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    inner = _strip(state, "vision_model.")
    return {name: tensor for name, tensor in inner.items() if not name.endswith("position_ids")}


def _strip(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The part below ``prefix``; everything, where nothing has it."""
    below = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return below or dict(state)
