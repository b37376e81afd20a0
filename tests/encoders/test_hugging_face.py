"""Streams of any Hugging Face vision network: its own features on its own processor's pixels."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from spamo_cache.config import CacheSpec, TransformersStream, parse
from spamo_cache.encoders import registry
from spamo_cache.encoders.encoder import encode_clip
from spamo_cache.encoders.preprocess import Normalise, Resize, prepare
from spamo_cache.encoders.registry import Compute
from spamo_cache.errors import ConfigError, WeightsError

Save = Callable[..., Any]

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
DINO = {k: v for k, v in SHAPE.items() if k != "intermediate_size"} | {"image_size": 48}
CROPPED = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
SQUASHED = {"size": {"height": 32, "width": 32}}
IMAGES = ["vit", "dinov2", "dinov2-registers", "dinov3", "siglip", "clip"]
VIDEOS = ["videomae", "timesformer", "vivit", "vjepa2"]
PREFIX = {"vit": 1, "dinov2": 1, "dinov2-registers": 5, "dinov3": 5, "clip": 1}
PREFIX |= {"timesformer": 1, "vivit": 1}
"""Tokens before the patches; none in the others."""
USUAL: Resize = "torchvision-uint8"
RESIZE: dict[str, Resize] = {"vivit": "pil"}
"""What the networks' own processors resize with."""


def network(kind: str) -> tuple[Any, Any]:
    """A tiny network of the real class, and the processor its authors publish with it."""
    import transformers as hf

    clips = {**SHAPE, "num_frames": 4}
    vjepa2 = {"crop_size": 32, "frames_per_clip": 4, "num_hidden_layers": 3, "hidden_size": 32}
    vjepa2 |= {"num_attention_heads": 4, "patch_size": 8, "pred_hidden_size": 32}
    vjepa2 |= {"pred_num_attention_heads": 4, "pred_num_hidden_layers": 1}
    makers: dict[str, Callable[[], tuple[Any, Any]]] = {
        "vit": lambda: (hf.ViTConfig(**SHAPE), hf.ViTImageProcessor(**SQUASHED)),
        "dinov2": lambda: (hf.Dinov2Config(**DINO), hf.BitImageProcessor(**CROPPED)),
        "dinov2-registers": lambda: (
            hf.Dinov2WithRegistersConfig(**DINO, num_register_tokens=4),
            hf.BitImageProcessor(**CROPPED),
        ),
        "dinov3": lambda: (
            hf.DINOv3ViTConfig(**SHAPE, num_register_tokens=4),
            hf.DINOv3ViTImageProcessor(**SQUASHED),
        ),
        "siglip": lambda: (hf.SiglipVisionConfig(**SHAPE), hf.SiglipImageProcessor(**SQUASHED)),
        "clip": lambda: (hf.CLIPVisionConfig(**SHAPE), hf.CLIPImageProcessor(**CROPPED)),
        "videomae": lambda: (hf.VideoMAEConfig(**clips), hf.VideoMAEImageProcessor(**CROPPED)),
        "timesformer": lambda: (
            hf.TimesformerConfig(**clips),
            hf.VideoMAEImageProcessor(**CROPPED),
        ),
        "vivit": lambda: (
            hf.VivitConfig(**clips, tubelet_size=[2, 8, 8]),
            hf.VivitImageProcessor(**CROPPED),
        ),
        "vjepa2": lambda: (
            hf.VJEPA2Config(**vjepa2),
            hf.VJEPA2VideoProcessor(crop_size={"height": 32, "width": 32}),
        ),
    }
    torch.manual_seed(0)
    config, processor = makers[kind]()
    return hf.AutoModel.from_config(config), processor


def stream(kind: str, **changes: Any) -> TransformersStream:
    window = {"window": 4, "stride": 2} if kind in VIDEOS else {}
    given = {"encoder": "transformers", "weights": "network", **window, **changes}
    return TransformersStream(**given)


def frames(count: int = 9) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 40, 56, 3), np.uint8)


def official_pixels(processor: Any, clip: NDArray[np.uint8]) -> torch.Tensor:
    """(frames, 3, side, side) as the network's own processor makes them."""
    if "Video" in type(processor).__name__ and "Image" not in type(processor).__name__:
        video = torch.from_numpy(clip).permute(0, 3, 1, 2)
        return processor(video, return_tensors="pt")["pixel_values_videos"][0]
    if type(processor).__name__ in ("VideoMAEImageProcessor", "VivitImageProcessor"):
        return processor([list(clip)], return_tensors="pt")["pixel_values"][0]
    return processor(list(clip), return_tensors="pt")["pixel_values"]


def official_rows(kind: str, model: Any, pixels: torch.Tensor, output: str) -> torch.Tensor:
    if kind in VIDEOS:
        pixels = torch.stack([pixels[start : start + 4] for start in range(0, 6, 2)])
    with torch.inference_mode():
        outputs = model(pixels, **({"skip_predictor": True} if kind == "vjepa2" else {}))
    if output == "pooler":
        return outputs.pooler_output
    states = outputs.last_hidden_state
    return states[:, 0] if output == "cls" else states[:, PREFIX.get(kind, 0) :].mean(1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", IMAGES + VIDEOS)
def test_features_are_the_networks_own(
    tmp_path: Path, hugging_face_folder: Save, kind: str
) -> None:
    model = hugging_face_folder(*(pair := network(kind)))
    pixels = official_pixels(pair[1], frames())
    outputs = ["mean"]
    outputs += ["cls"] if kind in PREFIX else []
    outputs += ["pooler"] if kind not in ("videomae", "timesformer", "vjepa2") else []
    for output in ("cls", "mean", "pooler"):
        if output not in outputs:
            with pytest.raises(ConfigError, match=f"no output '{output}'") as error:
                registry.build(stream(kind, output=output), tmp_path)
            assert all(offered in str(error.value).split("it has")[1] for offered in outputs)
            continue
        encoder = registry.build(stream(kind, output=output), tmp_path, "float32")
        found = torch.from_numpy(encode_clip(encoder, frames(), resize=RESIZE.get(kind, USUAL)))
        wanted = official_rows(kind, model, pixels, output)
        # DINOv3's processor resizes floats: 8 bits in between are a rounding of the pixels.
        tolerance = 5e-2 if kind == "dinov3" else 2e-5
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=1e-5)
        assert encoder.width == 32
        assert encoder.rows(9) == len(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", IMAGES + VIDEOS)
def test_pixels_are_those_of_the_networks_own_processor(
    tmp_path: Path, hugging_face_folder: Save, kind: str
) -> None:
    _, processor = pair = network(kind)
    hugging_face_folder(*pair)
    encoder = registry.build(stream(kind, output="mean"), tmp_path, "float32")
    spec = encoder.preprocess.resize_spec
    ours = Normalise(encoder.preprocess)(prepare(frames(), spec, RESIZE.get(kind, USUAL)))
    levels = 1.01 if kind == "dinov3" else 1e-4
    level = torch.tensor([1 / 255 / std for std in encoder.preprocess.std]).view(3, 1, 1)
    off = (ours - official_pixels(processor, frames())).abs() / level
    assert off.max() <= levels


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", IMAGES + VIDEOS)
def test_half_precision(
    tmp_path: Path, hugging_face_folder: Save, pixels: Save, kind: str, compute: Compute
) -> None:
    hugging_face_folder(*network(kind))
    given = pixels(2, 4, 3, 32, 32) if kind in VIDEOS else pixels(2, 3, 32, 32)
    entry = stream(kind, output="mean")
    narrow, wide = (registry.build(entry, tmp_path, c).encode(given) for c in (compute, "float32"))
    assert narrow.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(narrow, wide).min() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("kind", IMAGES + VIDEOS)
def test_layers_are_the_hidden_states_of_transformers(
    tmp_path: Path, hugging_face_folder: Save, pixels: Save, kind: str
) -> None:
    model = hugging_face_folder(*network(kind))
    given = pixels(2, 4, 3, 32, 32) if kind in VIDEOS else pixels(2, 3, 32, 32)
    for layer in (0, 2, -1):
        encoder = registry.build(stream(kind, output="mean", layer=layer), tmp_path, "float32")
        options = {"skip_predictor": True} if kind == "vjepa2" else {}
        with torch.inference_mode():
            states = model(encoder.normalise(given), output_hidden_states=True, **options)
        wanted = states.hidden_states[layer][:, PREFIX.get(kind, 0) :].mean(1)
        torch.testing.assert_close(encoder.encode(given), wanted, atol=1e-5, rtol=1e-5)
    for layer in (4, -5):
        with pytest.raises(ConfigError, match="has 4 hidden states"):
            registry.build(stream(kind, output="mean", layer=layer), tmp_path)


@pytest.mark.slow
def test_the_vision_half_of_a_two_tower_model(tmp_path: Path, hugging_face_folder: Save) -> None:
    from transformers import SiglipConfig, SiglipModel

    text = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 16}
    processor = network("siglip")[1]
    both = hugging_face_folder(
        SiglipModel(SiglipConfig(text_config=text, vision_config=SHAPE)), processor
    )
    encoder = registry.build(stream("siglip", output="pooler"), tmp_path, "float32")
    found = torch.from_numpy(encode_clip(encoder, frames()))
    with torch.inference_mode():
        wanted = both.vision_model(official_pixels(processor, frames())).pooler_output
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-5)


@pytest.mark.slow
def test_hash_is_of_contents(tmp_path: Path, hugging_face_folder: Save) -> None:
    """Equal for a sharded copy and for one that another release of transformers wrote."""
    pair = network("dinov2")
    hugging_face_folder(*pair)
    hugging_face_folder(*pair, name="sharded", max_shard_size="20KB")
    path = tmp_path / "sharded" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transformers_version": "4.0"}))
    # The second saving moved the parameters: equal tensors have to be made so.
    state = load_file(tmp_path / "network" / "model.safetensors")
    for file in (tmp_path / "sharded").glob("*.safetensors"):
        save_file({name: state[name] for name in load_file(file)}, file, {"format": "pt"})
    first, other = (
        registry.build(stream("dinov2", output="cls", weights=name), tmp_path).weights_sha256
        for name in ("network", "sharded")
    )
    assert first == other
    state["layernorm.bias"] += 1e-3
    save_file(state, tmp_path / "network" / "model.safetensors", {"format": "pt"})
    changed = registry.build(stream("dinov2", output="cls"), tmp_path).weights_sha256
    assert changed != first


@pytest.mark.parametrize("change", ["missing", "left over", "pickle", "cut", "processor"])
@pytest.mark.parametrize("kind", ["dinov2", "timesformer"])
def test_unsound_folders_are_refused(
    tmp_path: Path, hugging_face_folder: Save, kind: str, change: str
) -> None:
    hugging_face_folder(*network(kind))
    file = tmp_path / "network" / "model.safetensors"
    state = load_file(file)
    name = next(name for name in sorted(state) if "layer.1" in name and name.endswith("bias"))
    if change == "missing":
        del state[name]
    elif change == "left over":
        state[name.replace("bias", "q_bias")] = state[name].clone()
    save_file(state, file, {"format": "pt"})
    if change == "pickle":
        file.rename(file.with_name("pytorch_model.bin"))
    elif change == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif change == "processor":
        (tmp_path / "network" / "preprocessor_config.json").unlink()
    messages = {
        "missing": "1 tensors are missing",
        "left over": "1 tensors fit nowhere",
        "pickle": "cannot be read",
        "cut": "cannot be read",
        "processor": "no usable image processor",
    }
    with pytest.raises(WeightsError, match=messages[change]):
        registry.build(stream(kind, output="cls"), tmp_path)


@pytest.mark.slow
def test_poolers_and_heads_may_be_missing_where_they_are_not_used(
    tmp_path: Path, hugging_face_folder: Save
) -> None:
    """Classifiers are published without the pooler, with a head that no stream needs."""
    from transformers import ViTConfig, ViTForImageClassification

    hugging_face_folder(ViTForImageClassification(ViTConfig(**SHAPE)), network("vit")[1])
    hashes = {
        registry.build(stream("vit", output="cls"), tmp_path).weights_sha256 for _ in range(2)
    }
    assert len(hashes) == 1  # a pooler that was drawn at random would make two
    with pytest.raises(WeightsError, match="pooler"):
        registry.build(stream("vit", output="pooler"), tmp_path)


def test_dropped_biases_of_videomae_are_noticed_here_too(
    tmp_path: Path, hugging_face_folder: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import VideoMAEModel

    hugging_face_folder(*network("videomae"))
    whole = VideoMAEModel.from_pretrained

    def dropping(*args: Any, **options: Any) -> Any:
        model, report = whole(*args, **options)
        torch.nn.init.zeros_(model.encoder.layer[2].attention.attention.query.bias)
        return model, report

    monkeypatch.setattr(VideoMAEModel, "from_pretrained", dropping)
    with pytest.raises(WeightsError, match="dropped the query bias of layer 2"):
        registry.build(stream("videomae", output="mean"), tmp_path)


@pytest.mark.slow
def test_both_ways_to_videomae_agree(tmp_path: Path, hugging_face_folder: Save) -> None:
    from spamo_cache.config import MotionStream

    hugging_face_folder(*network("videomae"))
    own = {"encoder": "videomae", "weights": "network", "window": 4, "stride": 2, "token": "mean"}
    streams = (MotionStream(**own), stream("videomae", output="mean", layer=-1))
    ours, theirs = (
        encode_clip(registry.build(each, tmp_path, "float32"), frames()) for each in streams
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes", "remedy"),
    [
        ("vit", {"window": 4}, "leave `window` out"),
        ("timesformer", {"window": None}, "set window: 4"),
        ("timesformer", {"window": 8}, "set window: 4"),
        ("vjepa2", {"window": 3}, "no multiple"),
    ],
)
def test_windows_fit_the_network(
    tmp_path: Path, hugging_face_folder: Save, kind: str, changes: dict[str, Any], remedy: str
) -> None:
    hugging_face_folder(*network(kind))
    with pytest.raises(ConfigError, match=remedy):
        registry.build(stream(kind, output="mean", **changes), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"do_resize": False},
        {"do_center_crop": False},
        {"do_flip_channel_order": True},
        {"crop_pct": 0.9},
        {"crop_size": {"height": 32, "width": 24}},
        {"crop_size": {"height": 40, "width": 40}},
        {"size": {"longest_edge": 32}},
        {"resample": 0},
        {"image_std": [0.5, 0.5]},
    ],
    ids=str,
)
def test_processors_that_cannot_be_followed_are_refused(
    tmp_path: Path, hugging_face_folder: Save, change: dict[str, Any]
) -> None:
    hugging_face_folder(*network("dinov2"))
    path = tmp_path / "network" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WeightsError, match="no usable image processor"):
        registry.build(stream("dinov2", output="cls"), tmp_path)


def test_a_model_for_another_size_of_pictures_is_refused(
    tmp_path: Path, hugging_face_folder: Save
) -> None:
    from transformers import ViTImageProcessor

    larger = ViTImageProcessor(size={"height": 48, "width": 48})
    hugging_face_folder(network("vit")[0], larger)
    with pytest.raises(ConfigError, match="does not take pictures of shape"):
        registry.build(stream("vit", output="cls"), tmp_path)


CODE = """
from pathlib import Path
from transformers import PreTrainedConfig

Path({marker!r}).touch()

class Config(PreTrainedConfig):
    model_type = "own"

Model = Processor = Config
"""


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_code_beside_weights_is_never_run(
    tmp_path: Path, hugging_face_folder: Save, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Nor when whoever sits at the terminal says yes to everything."""
    hugging_face_folder(*network("dinov2"))
    folder, marker = tmp_path / "network", tmp_path / "it-ran"
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    given = json.loads((folder / file).read_text())
    given |= {"model_type": "own", "image_processor_type": "Own"}
    given |= {"auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model",
                           "AutoImageProcessor": "own.Processor"}}  # fmt: skip
    (folder / file).write_text(json.dumps(given))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    with pytest.raises(WeightsError, match="such code is never run"):
        registry.build(stream("dinov2", output="cls"), tmp_path)
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dinov2", "videomae"])
def test_pickled_weights_are_the_same_weights(
    tmp_path: Path, hugging_face_folder: Save, kind: str
) -> None:
    """In transformers' own file, and in a checkpoint whose names are below another one."""
    hugging_face_folder(*network(kind))
    folder = tmp_path / "network"
    wanted = registry.build(stream(kind, output="mean"), tmp_path).weights_sha256
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({"encoder": state, "step": 3}, folder / "last.ckpt")
    mapped = stream(kind, output="mean", weights="network/last.ckpt", key_map={"encoder.": ""})
    assert registry.build(mapped, tmp_path).weights_sha256 == wanted
    torch.save(state, folder / "pytorch_model.bin")
    assert registry.build(stream(kind, output="mean"), tmp_path).weights_sha256 == wanted


@pytest.mark.slow
def test_streams_of_all_kinds_in_one_spec(tmp_path: Path, hugging_face_folder: Save) -> None:
    """What a further stream costs: one entry."""
    streams = {
        "dino": {"encoder": "transformers", "weights": "dinov2", "output": "cls"},
        "jepa": {
            "encoder": "transformers",
            "weights": "vjepa2",
            "output": "mean",
            "window": 4,
            "stride": 2,
            "tail": "pad",
        },
        "spatial": {"encoder": "open_clip", "weights": "clip", "scales": [1, 2]},
        "motion": {"encoder": "videomae", "weights": "videomae", "window": 4, "stride": 2},
    }
    for kind in ("dinov2", "vjepa2", "clip", "videomae"):
        model, processor = network(kind)
        if kind == "clip":
            processor.size = {"shortest_edge": 32}
        hugging_face_folder(model, processor, name=kind)
    spec = parse({"name": "four", "streams": streams}, CacheSpec, where="test")
    found = {
        name: encode_clip(registry.build(entry, tmp_path), frames()).shape
        for name, entry in spec.streams.items()
    }
    assert found == {"dino": (9, 32), "jepa": (4, 32), "spatial": (9, 64), "motion": (3, 32)}
    assert [entry.per for entry in spec.streams.values()] == ["frame", "window"] * 2


def test_the_examples_of_the_readme_are_streams() -> None:
    text = (Path(__file__).parents[2] / "cache_specs" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(streams:.*?)```", text, re.DOTALL)
    specs = [
        parse({"name": "examples", **yaml.safe_load(block)}, CacheSpec, where="README")
        for block in blocks
    ]
    shown = {entry.encoder for spec in specs for entry in spec.streams.values()}
    assert shown == {"open_clip", "transformers"}


def test_a_pooler_has_no_layer() -> None:
    with pytest.raises(ValueError, match="leave `layer` out"):
        stream("vit", output="pooler", layer=1)
