"""ME, the motion encoder (paper section 3.1): VideoMAE over overlapping windows of frames.

The feature is a hidden state **before** the final layer norm; VideoMAE has no class token, so
token 0 is the corner patch of the first two frames (which has seen all others by attention).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from spamo_cache.compat import declare_torchvision_ops, quiet
from spamo_cache.config import MotionStream
from spamo_cache.encoders import weights
from spamo_cache.encoders.blocks import Block, BlockWeights, flops, run
from spamo_cache.encoders.preprocess import Normalise, from_processor
from spamo_cache.errors import ConfigError, WeightsError


class MotionEncoder(nn.Module):
    """One row per window of frames, of the network's width."""

    per: Literal["window"] = "window"

    def __init__(self, stream: MotionStream, base: Path) -> None:
        """Load the weights.

        Raises:
            ConfigError: a window or layer the network does not have.
            WeightsError: missing, incomplete or silently dropped weights.
        """
        super().__init__()
        folder = weights.local(stream.weights, base) or weights.from_hub(stream.weights)
        model = _load(folder)
        given: Any = model.config
        if stream.window != given.num_frames:
            raise ConfigError(
                f"window {stream.window}: the weights are for {given.num_frames} frames",
                where=folder,
                remedy=f"set window: {given.num_frames}",
            )
        depth = _depth(stream.layer, given.num_hidden_layers)
        self.span, self.stride, self.tail = stream.window, stream.stride, stream.tail
        self.pooling = stream.token
        self.preprocess = from_processor(folder / "preprocessor_config.json", size=given.image_size)
        self.weights_sha256 = _hash(model, self.preprocess.describe())
        self.width: int = given.hidden_size
        self.tubelet, self.patch = given.tubelet_size, given.patch_size
        self.tokens_per_row: int = model.embeddings.num_patches
        self.normalise = Normalise(self.preprocess)
        projection = model.embeddings.patch_embeddings.projection
        self.embedding = nn.Parameter(projection.weight.flatten(1), requires_grad=False)
        self.embedding_bias = nn.Parameter(projection.bias, requires_grad=False)
        self.positions = nn.Parameter(model.embeddings.position_embeddings, requires_grad=False)
        self.blocks = nn.ModuleList(_block(layer, given) for layer in model.encoder.layer[:depth])
        self.flops_per_row = flops(self.blocks, self.tokens_per_row)

    def rows(self, frames: int) -> int:
        """Windows of a clip; a clip shorter than one window is padded to one."""
        return len(self.starts(frames))

    def starts(self, frames: int) -> Sequence[int]:
        """First frame of each window. Only full ones count, unless the tail is padded."""
        if frames <= 0:
            return range(0)
        beyond = max(frames - self.span, 0)
        if self.tail == "pad":
            beyond += self.stride - 1
        return range(0, beyond // self.stride * self.stride + 1, self.stride)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode windows of prepared frames.

        Args:
            pixels: uint8 (rows, window, 3, size, size) on the encoder's device.

        Returns:
            float32 (rows, width).
        """
        tokens = self._embed(self.normalise(pixels).to(self.embedding.dtype))
        if self.pooling == "mean":
            return run(self.blocks, tokens).mean(dim=1).float()
        return run(self.blocks, tokens, keep=1)[:, 0].float()

    def _embed(self, video: torch.Tensor) -> torch.Tensor:
        """(rows, window, 3, size, size) -> tokens (rows, tubelets * patches, width)."""
        # A convolution whose stride is its kernel is a product with flattened tubelets.
        patches = functional.pixel_unshuffle(video.flatten(0, 1), self.patch)
        grid = patches.unflatten(1, (3, self.patch**2)).unflatten(0, (len(video), -1, self.tubelet))
        tubelets = grid.permute(0, 1, 5, 6, 3, 2, 4).flatten(4).flatten(1, 3)
        return functional.linear(tubelets, self.embedding, self.embedding_bias) + self.positions


def check_biases(layers: Iterable[Any], stored: Mapping[str, torch.Tensor]) -> None:
    """Compare the query and value biases a model has with those of its checkpoint.

    Some transformers releases load zeros here without a word (5.9 to 5.17 do), which moves the
    features to a cosine of 0.97.

    Raises:
        WeightsError: a bias differs.
    """
    for index, layer in enumerate(layers):
        attention = layer.attention.attention
        for old, part in (("q_bias", "query"), ("v_bias", "value")):
            prefix = f"encoder.layer.{index}.attention.attention"
            wanted = stored.get(f"{prefix}.{old}", stored.get(f"{prefix}.{part}.bias"))
            found = getattr(attention, part).bias
            if wanted is not None and (found is None or not torch.equal(found.detach(), wanted)):
                raise WeightsError(
                    f"transformers dropped the {part} bias of layer {index}",
                    remedy="install transformers >= 5.18",
                )


def _load(folder: Path) -> Any:
    """A VideoMAEModel in float32, checked against its checkpoint."""
    if weights.read_json(folder / "config.json").get("model_type") != "videomae":
        raise WeightsError("is not a VideoMAE model", where=folder / "config.json")
    stored = weights.tensors(folder, r"encoder\.layer\..*(bias)")
    declare_torchvision_ops()
    from transformers import VideoMAEModel

    try:
        with quiet():
            loaded: Any = VideoMAEModel.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"cannot be loaded: {error}", where=folder) from None
    model, report = loaded
    missing = [name for name in report["missing_keys"] if not name.startswith("layernorm.")]
    if missing:
        raise WeightsError(f"{len(missing)} tensors are missing: {missing[0]}, ...", where=folder)
    bare = {name.removeprefix("videomae."): tensor for name, tensor in stored.items()}
    check_biases(model.encoder.layer, bare)
    return model.eval().requires_grad_(requires_grad=False)


def _depth(layer: int, layers: int) -> int:
    """Blocks to run for an index into the hidden states, of which there are ``layers`` + 1."""
    depth = layer if layer >= 0 else layers + 1 + layer
    if not 0 <= depth <= layers:
        raise ConfigError(f"layer {layer}: the network has {layers + 1} hidden states")
    return depth


def _block(layer: Any, given: Any) -> Block:
    attention, out = layer.attention.attention, layer.attention.output.dense
    parts = (attention.query, attention.key, attention.value)
    zeros = torch.zeros(given.hidden_size)
    biases = [zeros if part.bias is None else part.bias for part in parts]
    taken = BlockWeights(
        qkv=torch.cat([part.weight for part in parts]),
        qkv_bias=torch.cat(biases),
        out=out.weight,
        out_bias=out.bias,
        norm_1=(layer.layernorm_before.weight, layer.layernorm_before.bias),
        norm_2=(layer.layernorm_after.weight, layer.layernorm_after.bias),
        up=layer.intermediate.dense.weight,
        up_bias=layer.intermediate.dense.bias,
        down=layer.output.dense.weight,
        down_bias=layer.output.dense.bias,
    )
    if given.hidden_act != "gelu":
        raise WeightsError(f"unknown activation {given.hidden_act!r}")
    return Block(
        taken, heads=given.num_attention_heads, activation="gelu", eps=given.layer_norm_eps
    )


def _hash(model: Any, preprocess: Mapping[str, Any]) -> str:
    given = model.config
    header = {
        "kind": "videomae",
        "heads": given.num_attention_heads,
        "activation": given.hidden_act,
        "eps": given.layer_norm_eps,
        "preprocess": dict(preprocess),
    }
    # The final layer norm is behind every output offered here, and not every checkpoint has it.
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("layernorm.")}
    return weights.sha256(state, header)
