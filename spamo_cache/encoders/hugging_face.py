"""Any other stream: a vision network of transformers' ``AutoModel``, run as its authors wrote it.

Image networks (DINOv2, DINOv3, SigLIP, ViT) give a row per frame, video networks (VideoMAE,
TimeSformer, ViViT, V-JEPA 2) a row per window.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spamo_cache.config import TransformersStream
from spamo_cache.encoders import preprocess, weights
from spamo_cache.encoders.encoder import Encoder, meta_forward
from spamo_cache.encoders.preprocess import Normalise, Preprocess
from spamo_cache.errors import ConfigError

_POOLERS = ("pooler", "head")
"""Parts behind every output but the pooler's; many checkpoints lack them."""

_OPTIONS: Mapping[str, Mapping[str, Any]] = {"vjepa2": {"skip_predictor": True}}
"""Arguments that make a network stop at its last hidden state."""

_NOT_CONTENT = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
"""Entries of a config that say who wrote it, and when."""


class TransformersEncoder(Encoder):
    """One row per frame or window, of the network's width."""

    def __init__(self, stream: TransformersStream, base: Path) -> None:
        """Load the weights.

        Raises:
            ConfigError: a window, layer or output the network does not have.
            WeightsError: missing, incomplete or unsuitable weights.
        """
        super().__init__()
        path = weights.locate(stream.weights, base)
        folder = weights.folder_of(path)
        unused = () if stream.output == "pooler" else _POOLERS
        model = weights.load_network(path, stream.key_map, unused=unused)
        _check_window(stream, model.config, folder)
        self.per = stream.per
        self.span, self.stride, self.tail = stream.window or 1, stream.stride, stream.tail
        self.preprocess = preprocess.from_folder(folder)
        self.weights_sha256 = _hash(model, self.preprocess, unused)
        self.normalise = Normalise(self.preprocess)
        self.network = VisionNetwork(model, stream, self.preprocess.resize_spec.size)
        self.width = self.network.width
        self.tokens_per_row = self.network.tokens
        self.flops_per_row = self.network.flops


class VisionNetwork(nn.Module):
    """A network and what is taken of its outputs: float32 pixels -> (rows, width)."""

    def __init__(self, model: Any, stream: TransformersStream, side: int) -> None:
        """Keep ``model``; raises ConfigError for an output or layer it does not have."""
        super().__init__()
        self.model, self.output, self.layer = model, stream.output, stream.layer
        self.options = {**_OPTIONS.get(model.config.model_type, {})}
        if self.layer is not None:
            self.options["output_hidden_states"] = True
        frames = () if stream.window is None else (stream.window,)
        outputs, self.flops = _outlined(model, (1, *frames, 3, side, side), self.options)
        self.prefix = _prefix(outputs, model.config, side, stream.window)
        _check_output(stream, outputs, self.prefix)
        row = self._row(outputs)
        self.width: int = row.shape[-1]
        tokens = outputs.last_hidden_state
        self.tokens: int = tokens.shape[1] if tokens.ndim == 3 else (side // 16) ** 2

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._row(self.model(pixels.to(self.model.dtype), **self.options))

    def _row(self, outputs: Any) -> torch.Tensor:
        if self.output == "pooler":
            pooled: torch.Tensor = outputs.pooler_output.flatten(1)
            return pooled
        states: torch.Tensor = (
            outputs.last_hidden_state if self.layer is None else outputs.hidden_states[self.layer]
        )
        return states[:, 0] if self.output == "cls" else states[:, self.prefix :].mean(dim=1)


def _check_window(stream: TransformersStream, given: Any, where: Path) -> None:
    trained = getattr(given, "num_frames", None) or getattr(given, "frames_per_clip", None)
    if (stream.window is None) != (trained is None):
        raise ConfigError(
            f"{given.model_type} takes {'single pictures' if trained is None else 'windows'}",
            where=where,
            remedy="leave `window` out" if trained is None else f"set window: {trained}",
        )
    # Rotary positions have no length of their own; learned ones have one.
    if hasattr(given, "num_frames") and stream.window != trained:
        raise ConfigError(
            f"window {stream.window}: the weights are for {trained} frames",
            where=where,
            remedy=f"set window: {trained}",
        )
    if (stream.window or 0) % _tubelet(given):
        raise ConfigError(
            f"window {stream.window} is no multiple of the network's {_tubelet(given)} frames",
            where=where,
        )


def _outlined(model: Any, shape: tuple[int, ...], options: Mapping[str, Any]) -> tuple[Any, int]:
    try:
        outputs, flops = meta_forward(model, shape, options)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"{type(model).__name__} does not take pictures of shape {list(shape[1:])}: {error}",
            remedy="take the image processor published with the weights, or other weights",
        ) from None
    if getattr(outputs, "last_hidden_state", None) is None:
        raise ConfigError(f"{type(model).__name__} gives no hidden states")
    return outputs, flops


def _prefix(outputs: Any, given: Any, side: int, window: int | None) -> int | None:
    """Tokens before those of the patches: class token, registers; None where nothing says."""
    patch, tokens = getattr(given, "patch_size", None), outputs.last_hidden_state
    if not isinstance(patch, int) or tokens.ndim != 3:
        return None
    patches = (side // patch) ** 2 * ((window or 1) // _tubelet(given))
    prefix = tokens.shape[1] - patches
    return prefix if 0 <= prefix < patches else None


def _tubelet(given: Any) -> int:
    size = getattr(given, "tubelet_size", 1)
    frames: int = size if isinstance(size, int) else size[0]
    return frames


def _check_output(stream: TransformersStream, outputs: Any, prefix: int | None) -> None:
    offered = ["pooler"] if getattr(outputs, "pooler_output", None) is not None else []
    offered += [] if prefix is None else ["mean"]
    offered += ["cls"] if prefix else []
    if stream.output not in offered:
        raise ConfigError(
            f"the network has no output {stream.output!r}",
            remedy=f"it has: {', '.join(offered) or 'none of those known here'}",
        )
    if stream.layer is None:
        return
    layers = len(outputs.hidden_states)
    if not -layers <= stream.layer < layers:
        raise ConfigError(f"layer {stream.layer}: the network has {layers} hidden states")


def _hash(model: Any, preprocess: Preprocess, unused: tuple[str, ...]) -> str:
    config = {k: v for k, v in model.config.to_diff_dict().items() if k not in _NOT_CONTENT}
    header = {"kind": "transformers", "config": config, "preprocess": preprocess.describe()}
    state = {k: v for k, v in model.state_dict().items() if k.partition(".")[0] not in unused}
    return weights.sha256(state, header)
