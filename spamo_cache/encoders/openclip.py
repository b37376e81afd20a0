"""open_clip vision towers from whatever a lab has: a tag, a hub id, a folder, a file.

A Hugging Face ``CLIPVisionModel`` is converted on load into open_clip's ``VisionTransformer``,
with the activation its own config names: plain GELU in place of QuickGELU loads without a word and
gives features that are wrong by little enough to go unnoticed.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from spamo_cache import checkpoints
from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.config import SpatialStream
from spamo_cache.encoders import preprocess, weights
from spamo_cache.encoders.blocks import Activation
from spamo_cache.encoders.openclip_vit import activation, is_plain
from spamo_cache.encoders.preprocess import Preprocess, from_open_clip
from spamo_cache.errors import ConfigError, WeightsError

_MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What open_clip raises for a config that describes no tower."""

_USUAL_SIDE = 224
"""Side of a tower's pictures where its configuration does not say."""
_ONLY_IN_TRAINING = {"timm_drop", "timm_drop_path", "patch_dropout"}
_NEVER = {"output_tokens": False, "timm_model_pretrained": False}

_CLIP_NAMES = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",  # the misspelling is the checkpoints'
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_CLIP_BLOCK_NAMES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
"""Names in Hugging Face's ``CLIPVisionModel`` -> names in open_clip's ``VisionTransformer``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A loaded vision tower."""

    visual: Any
    """open_clip's module, float32, on the CPU; its ``proj`` is None unless it is needed."""
    preprocess: Preprocess
    shape: Mapping[str, Any]
    """What its config says and its tensors do not."""

    def sha256(self) -> str:
        """Content hash; the same for all forms in which the same weights are published."""
        header = {**self.shape, "preprocess": self.preprocess.describe()}
        return weights.sha256(self.visual.state_dict(), header)


def load(stream: SpatialStream, base: Path) -> Tower:
    """Load the tower a stream names; relative weights stand beside the spec, in ``base``.

    Raises:
        ConfigError: an unknown model or tag, or an output the tower does not have.
        WeightsError: missing, incomplete or unsuitable weights.
    """
    declare_torchvision_ops()
    if "/" in stream.weights or weights.local(stream.weights, base) is not None:
        return _from_path(weights.locate(stream.weights, base), stream)
    return _from_tag(stream)


def preprocess_of(stream: SpatialStream, base: Path) -> Preprocess:
    """How frames are prepared for the tower a stream names; reads configurations, no weights.

    Raises:
        ConfigError: an unknown model or tag.
        WeightsError: no configuration, or one that cannot be followed exactly.
    """
    declare_torchvision_ops()
    if "/" not in stream.weights and weights.local(stream.weights, base) is None:
        model, tag = _tagged(stream)
        return from_open_clip(tag, size=_side(model))
    path = weights.locate(stream.weights, base, configs_only=True)
    folder = weights.folder_of(path)
    if path.is_file() and stream.model is not None:
        return from_open_clip(_usual_preprocess(stream.model, path), size=_named_side(stream.model))
    if (folder / "open_clip_config.json").is_file():
        given = checkpoints.read_json(folder / "open_clip_config.json")
        side = _side(given.get("model_cfg", given))
        return from_open_clip(given.get("preprocess_cfg", {}), size=side)
    given = checkpoints.architecture(folder)
    return preprocess.from_folder(folder, size=getattr(given, "vision_config", given).image_size)


def _named_side(model: str) -> int:
    return _side(_model_config(model))


def _side(model: Mapping[str, Any]) -> int:
    """Side of a tower's pictures, pixels."""
    return _square(model.get("vision_cfg", {}).get("image_size", _USUAL_SIDE))


def _square(size: int | Sequence[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise ConfigError(f"towers for pictures of {size} px are not supported")
    return sides.pop()


def _from_path(path: Path, stream: SpatialStream) -> Tower:
    folder = weights.folder_of(path)
    if path.is_file() and stream.model is not None:
        return _from_file(path, stream.model, stream)
    if (folder / "open_clip_config.json").is_file():
        return _from_open_clip(path, folder, stream)
    if path.is_file() and not (folder / "config.json").is_file():
        raise ConfigError("a bare weights file needs `model:` to say its shape", where=path)
    return _from_hugging_face(path, folder, stream)


def _from_hugging_face(path: Path, folder: Path, stream: SpatialStream) -> Tower:
    kind = checkpoints.read_json(folder / "config.json").get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise ConfigError(
            f"a {kind!r} model is not one of open_clip's",
            where=folder / "config.json",
            remedy="use `encoder: transformers` or, for VideoMAE, `encoder: videomae`",
        )
    given = checkpoints.architecture(folder)
    # A CLIPModel describes its tower one level down, and the projection at its own.
    vision = getattr(given, "vision_config", given)
    build = partial(_vision_transformer, vision, given.projection_dim)
    visual = _assembled(build, path, stream)
    if stream.model is not None:
        _agree(stream.model, visual, folder)
    return Tower(
        visual=visual,
        preprocess=preprocess.from_folder(folder, size=vision.image_size),
        shape=_plain_shape(visual),
    )


def _from_open_clip(path: Path, folder: Path, stream: SpatialStream) -> Tower:
    given = checkpoints.read_json(folder / "open_clip_config.json")
    model = given.get("model_cfg", given)
    visual = _assembled(partial(_from_model_config, model), path, stream)
    if stream.model is not None:
        _agree(stream.model, visual, folder)
    return _tower(visual, model, given.get("preprocess_cfg", {}))


def _from_file(path: Path, name: str, stream: SpatialStream) -> Tower:
    model = _model_config(name)
    preprocess = _usual_preprocess(name, path)
    return _tower(_assembled(partial(_from_model_config, model), path, stream), model, preprocess)


def _tagged(stream: SpatialStream) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of a model that open_clip knows, and of its weights."""
    import open_clip

    if stream.model is None:
        raise ConfigError(
            f"weights {stream.weights!r} name neither a path nor a hub id",
            remedy="an open_clip tag needs `model:` too; a folder needs the right path",
        )
    model = _model_config(stream.model)
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(stream.model, stream.weights)
    if not tag:
        known = open_clip.list_pretrained_tags_by_model(stream.model)
        raise ConfigError(
            f"open_clip has no weights {stream.weights!r} for {stream.model}",
            remedy=f"known: {', '.join(known) or 'none'}",
        )
    timm = "timm_model_name" in model["vision_cfg"]  # timm's towers have their own activations
    if not timm and bool(tag.get("quick_gelu")) != bool(model.get("quick_gelu")):
        raise WeightsError(
            f"{stream.weights!r} and model {stream.model!r} disagree about QuickGELU",
            remedy=f"set model: {_other_name(stream.model)}",
        )
    return model, tag


def _from_tag(stream: SpatialStream) -> Tower:
    model, tag = _tagged(stream)
    # The entry may name a file in the repository, which is a pickle then.
    folder = checkpoints.from_hub("/".join(tag.get("hf_hub", "").split("/")[:2]))
    visual = _assembled(partial(_from_model_config, model), folder, stream)
    return _tower(visual, model, tag)


def _assembled(build: Callable[[], Any], path: Path, stream: SpatialStream) -> Any:
    """Build the tower and hand it its tensors; every one must be there, and no other."""
    try:
        own = vision_tensors(weights.tensors(path, stream.key_map))
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"tensor {error} is missing", where=path) from None
    try:
        visual = build()
    except _MALFORMED as error:
        raise WeightsError(
            f"the config describes no tower ({type(error).__name__}: {error})", where=path
        ) from None
    if hasattr(visual, "proj") and stream.output != "embedding":
        visual.proj = None  # behind every other output
        own.pop("proj", None)
    try:
        visual.load_state_dict(own, strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(
            f"the weights do not fit the model: {' '.join(str(error).split())[:300]}",
            where=path,
            remedy="check `model`, `weights`, `key_map` and `output` in the spec",
        ) from None
    return visual.eval().requires_grad_(requires_grad=False)


def _vision_transformer(given: Any, output_dim: int) -> Any:
    from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer

    quick = _activation(given.hidden_act) == "quick_gelu"
    with torch.device("meta"):
        return VisionTransformer(
            image_size=given.image_size,
            patch_size=given.patch_size,
            width=given.hidden_size,
            layers=given.num_hidden_layers,
            heads=given.num_attention_heads,
            mlp_ratio=given.intermediate_size / given.hidden_size,
            act_layer=QuickGELU if quick else torch.nn.GELU,
            norm_layer=partial(LayerNorm, eps=given.layer_norm_eps),
            output_dim=output_dim,
        )


def _from_model_config(model: Mapping[str, Any]) -> Any:
    from open_clip.model import _build_vision_tower

    vision = {**model["vision_cfg"], **_NEVER}
    # timm's towers have buffers that no checkpoint holds: they are built with their numbers.
    with torch.device("cpu" if vision.get("timm_model_name") else "meta"):
        return _build_vision_tower(model["embed_dim"], vision, bool(model.get("quick_gelu")))


def _tower(visual: Any, model: Mapping[str, Any], preprocess: Mapping[str, Any]) -> Tower:
    return Tower(
        visual=visual,
        preprocess=from_open_clip(preprocess, size=_square(visual.image_size)),
        shape=_plain_shape(visual) if is_plain(visual) else _whole_shape(model),
    )


def _plain_shape(visual: Any) -> dict[str, Any]:
    block = visual.transformer.resblocks[0]
    shape = {
        "kind": "clip-vision",
        "heads": block.attn.num_heads,
        "activation": activation(block),
        "eps": block.ln_1.eps,
    }
    if visual.proj is not None:
        shape |= {"pool": visual.pool_type, "norm_last": visual.final_ln_after_pool}
    return shape


def _whole_shape(model: Mapping[str, Any]) -> dict[str, Any]:
    from open_clip.model import CLIPVisionCfg

    usual = asdict(CLIPVisionCfg())
    given = asdict(CLIPVisionCfg(**{**model["vision_cfg"], **_NEVER}))
    vision = {k: v for k, v in given.items() if v != usual[k] and k not in _ONLY_IN_TRAINING}
    return {"kind": "open_clip", "quick_gelu": bool(model.get("quick_gelu")), "vision": vision}


def _usual_preprocess(name: str, where: object) -> dict[str, Any]:
    """What all weights that open_clip lists for a model agree on; a bare file does not say."""
    import open_clip

    keys = ("mean", "std", "interpolation", "resize_mode")
    tags = open_clip.list_pretrained_tags_by_model(name)
    configs = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    kept = [{key: tag[key] for key in keys if key in tag} for tag in configs]
    if any(other != kept[0] for other in kept):
        raise WeightsError(
            f"weights of {name} are published with different means, and a file does not say its",
            where=where,
            remedy="give a folder that has the file and its open_clip_config.json",
        )
    return kept[0] if kept else {}


def _model_config(name: str) -> dict[str, Any]:
    import open_clip

    known = name in open_clip.list_models()
    model: dict[str, Any] | None = open_clip.get_model_config(name) if known else None
    if model is None:
        nearest = difflib.get_close_matches(name, open_clip.list_models(), n=1, cutoff=0.0)
        raise ConfigError(f"open_clip has no model {name!r}", remedy=f"nearest is {nearest[0]!r}")
    return model


def _agree(name: str, visual: Any, where: object) -> None:
    """A `model` given beside a folder must be what the folder holds."""
    wanted = _from_model_config(_model_config(name))
    if is_plain(wanted) and is_plain(visual):
        own, other = (activation(t.transformer.resblocks[0]) for t in (visual, wanted))
        if own != other:
            raise WeightsError(
                f"the weights use {own}, model {name!r} does not",
                where=where,
                remedy=f"set model: {_other_name(name)}, or leave `model` out",
            )
    if _shapes(wanted) != _shapes(visual):
        raise WeightsError(
            f"the weights do not have the shape of model {name!r}",
            where=where,
            remedy="leave `model` out: the folder says its shape",
        )


def _shapes(visual: Any) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in visual.state_dict().items() if name != "proj"}


def _activation(name: str) -> Activation:
    if name == "quick_gelu":
        return "quick_gelu"
    if name == "gelu":
        return "gelu"
    raise ValueError(f"unknown activation {name!r}")


def _other_name(model: str) -> str:
    ending = "-quickgelu"
    return model.removesuffix(ending) if model.endswith(ending) else model + ending


def vision_tensors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The vision tower's tensors in a checkpoint, under open_clip's names.

    Args:
        state: of open_clip's CLIP, its ``visual`` alone, or Hugging Face's CLIP or
            CLIPVisionModel, with a projection or without.

    Raises:
        KeyError: a tensor of a Hugging Face block is missing.
    """
    own = _below(state, "visual.")
    if own is None and any("encoder.layers." in name for name in state):
        return _from_clip_names(state)
    return dict(state) if own is None else own


def _below(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor] | None:
    """The tensors below ``prefix``; None where there are none."""
    inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return inner or None


def _from_clip_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    inner = _below(state, "vision_model.") or state
    converted = {new: inner[old] for old, new in _CLIP_NAMES.items() if old in inner}
    if "visual_projection.weight" in state:
        converted["proj"] = state["visual_projection.weight"].T.contiguous()
    layers = {int(name.split(".")[2]) for name in inner if name.startswith("encoder.layers.")}
    for layer in sorted(layers):
        old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            for source, target in _CLIP_BLOCK_NAMES.items():
                converted[f"{new}.{target}.{kind}"] = inner[f"{old}.{source}.{kind}"]
            parts = [inner[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            converted[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
    return converted
