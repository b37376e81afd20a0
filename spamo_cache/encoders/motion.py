"""ME, the motion encoder (paper section 3.1): VideoMAE over overlapping windows of frames.

The feature is a hidden state **before** the final layer norm; VideoMAE has no class token, so
token 0 is the corner patch of the first two frames (which has seen all others by attention).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from spamo_cache import checkpoints
from spamo_cache.config import MotionStream
from spamo_cache.encoders import preprocess, weights
from spamo_cache.encoders.blocks import Block, BlockWeights, run
from spamo_cache.encoders.encoder import Encoder, meta_forward
from spamo_cache.encoders.preprocess import Normalise, Preprocess
from spamo_cache.errors import ConfigError, WeightsError

_UNUSED = ("layernorm",)
"""Behind every output offered here, and not in every checkpoint."""


class MotionEncoder(Encoder):
    """One row per window of frames, of the network's width."""

    per = "window"

    def __init__(self, stream: MotionStream, base: Path) -> None:
        """Load the weights.

        Raises:
            ConfigError: a window or layer the network does not have.
            WeightsError: missing, incomplete or silently dropped weights.
        """
        super().__init__()
        path = weights.locate(stream.weights, base)
        folder = weights.folder_of(path)
        if checkpoints.read_json(folder / "config.json").get("model_type") != "videomae":
            raise WeightsError("is not a VideoMAE model", where=folder / "config.json")
        model = weights.load_network(path, stream.key_map, unused=_UNUSED)
        given: Any = model.config
        if stream.window != given.num_frames:
            raise ConfigError(
                f"window {stream.window}: the weights are for {given.num_frames} frames",
                where=folder,
                remedy=f"set window: {given.num_frames}",
            )
        self.span, self.stride, self.tail = stream.window, stream.stride, stream.tail
        self.phase = stream.phase
        self.preprocess = preprocess.from_folder(folder, size=given.image_size)
        self.weights_sha256 = _hash(model, self.preprocess)
        self.normalise = Normalise(self.preprocess)
        self.network = VideoTower(model, stream)
        side = self.preprocess.resize_spec.size
        row, self.flops_per_row = meta_forward(self.network, (1, self.span, 3, side, side))
        self.width = row.shape[1]
        self.tokens_per_row = model.embeddings.num_patches


class VideoTower(nn.Module):
    """VideoMAE: float32 (rows, window, 3, side, side) -> (rows, width)."""

    def __init__(self, model: Any, stream: MotionStream) -> None:
        """Take over the weights of ``model``; raises ConfigError for a layer it does not have."""
        super().__init__()
        given = model.config
        depth = _depth(stream.layer, given.num_hidden_layers)
        self.pooling = stream.token
        self.tubelet, self.patch = given.tubelet_size, given.patch_size
        projection = model.embeddings.patch_embeddings.projection
        self.embedding = nn.Parameter(projection.weight.flatten(1), requires_grad=False)
        self.embedding_bias = nn.Parameter(projection.bias, requires_grad=False)
        self.positions = nn.Parameter(model.embeddings.position_embeddings, requires_grad=False)
        self.blocks = nn.ModuleList(_block(layer, given) for layer in model.encoder.layer[:depth])

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        tokens = self._embed(video.to(self.embedding.dtype))
        if self.pooling == "mean":
            return run(self.blocks, tokens).mean(dim=1)
        return run(self.blocks, tokens, keep=1)[:, 0]

    def _embed(self, video: torch.Tensor) -> torch.Tensor:
        """(rows, window, 3, size, size) -> tokens (rows, tubelets * patches, width)."""
        # A convolution whose stride is its kernel is a product with flattened tubelets.
        split = video.unflatten(4, (-1, self.patch)).unflatten(3, (-1, self.patch))
        grid = split.unflatten(1, (-1, self.tubelet)).permute(0, 1, 4, 6, 3, 2, 5, 7)
        tubelets = grid.flatten(4).flatten(1, 3)
        return functional.linear(tubelets, self.embedding, self.embedding_bias) + self.positions


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


def _hash(model: Any, preprocess: Preprocess) -> str:
    given = model.config
    header = {
        "kind": "videomae",
        "heads": given.num_attention_heads,
        "activation": given.hidden_act,
        "eps": given.layer_norm_eps,
        "preprocess": preprocess.describe(),
    }
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(_UNUSED)}
    return weights.sha256(state, header)
