"""Hugging Face networks: loaded without code of theirs, checked for what is lost in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from spamo_cache import checkpoints
from spamo_cache.compat import declare_torchvision_ops, quiet
from spamo_cache.encoders import weights
from spamo_cache.encoders.preprocess import Preprocess, from_processor
from spamo_cache.errors import WeightsError, shortage

_NOT_CONTENT = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
"""Entries of a config that say who wrote it, and when."""


def load(path: Path, key_map: Mapping[str, str], *, unused: tuple[str, ...] = ()) -> Any:
    """The vision network of a folder, float32, on the CPU, with all of its tensors.

    Args:
        path: a folder with config.json and weights, or a file of weights beside its config.json.
        key_map: as in :func:`weights.tensors`.
        unused: parts of the network that the output does not need, and a checkpoint may lack:
            they are left out of :func:`sha256`, too.

    Raises:
        WeightsError: unreadable or unknown weights; tensors missing, left over or dropped.
    """
    config = checkpoints.architecture(weights.folder_of(path))
    from transformers import AutoModel

    with checkpoints.explained(path), quiet():
        with torch.device("meta"):
            given = getattr(config, "vision_config", config)
            outline = AutoModel.from_config(given, trust_remote_code=False)
        try:
            model, report = type(outline).from_pretrained(
                None,
                config=outline.config,
                state_dict=weights.tensors(path, key_map),
                dtype=torch.float32,
                output_loading_info=True,
            )
        except RuntimeError as error:
            if shortage(error) is not None:
                raise
            raise WeightsError(
                "its tensors have other shapes than its config", where=path
            ) from None
    _check_names(model, report, unused, path)
    if model.config.model_type == "videomae":
        # Read again: the network may stand in the memory of what it was given.
        stored = weights.tensors(path, key_map)
        bare = {name.removeprefix("videomae."): tensor for name, tensor in stored.items()}
        check_biases(model.encoder.layer, bare)
    return model.eval().requires_grad_(requires_grad=False)


def preprocess(folder: Path, *, size: int | None = None) -> Preprocess:
    """What the folder's own image or video processor does, defaults of its class included.

    Raises:
        WeightsError: no processor, or one that cannot be followed exactly.
    """
    declare_torchvision_ops()
    from transformers import AutoImageProcessor, AutoVideoProcessor

    images = folder / "preprocessor_config.json"
    of_videos = not images.is_file()
    where = folder / "video_preprocessor_config.json" if of_videos else images
    kind: Any = AutoVideoProcessor if of_videos else AutoImageProcessor
    remedy = "take the preprocessor_config.json published with the weights"
    with checkpoints.explained(where, "no usable image processor", remedy), quiet():
        processor = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        given = processor.to_dict()
    return from_processor(given, where=where, size=size)


def sha256(model: Any, preprocess: Preprocess, *, unused: tuple[str, ...] = ()) -> str:
    """Content hash of a network as :func:`load` gives it."""
    config = {k: v for k, v in model.config.to_diff_dict().items() if k not in _NOT_CONTENT}
    header = {"kind": "transformers", "config": config, "preprocess": preprocess.describe()}
    state = {k: v for k, v in model.state_dict().items() if k.partition(".")[0] not in unused}
    return weights.sha256(state, header)


def check_biases(layers: Iterable[Any], stored: Mapping[str, torch.Tensor]) -> None:
    """Compare the query and value biases a VideoMAE has with those of its checkpoint.

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


def _check_names(
    model: Any, report: Mapping[str, Any], unused: tuple[str, ...], where: Path
) -> None:
    """Every tensor of the network is in the file; what else is there belongs to other parts."""
    missing = [name for name in report["missing_keys"] if name.partition(".")[0] not in unused]
    if missing:
        raise WeightsError(f"{len(missing)} tensors are missing: {missing[0]}, ...", where=where)
    # Heads, decoders and text towers stand beside the network's own parts, never within them.
    own = {name for name, _ in model.named_children()} - set(unused)
    bare = [name.removeprefix(f"{model.base_model_prefix}.") for name in report["unexpected_keys"]]
    left = [name for name in bare if name.partition(".")[0] in own]
    if left:
        raise WeightsError(f"{len(left)} tensors fit nowhere: {left[0]}, ...", where=where)
