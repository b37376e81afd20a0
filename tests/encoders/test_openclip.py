"""Every kind of open_clip tower, in every form of weights, against open_clip's own outputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spamo_cache.config import SpatialStream
from spamo_cache.encoders import registry
from spamo_cache.encoders.openclip_vit import PlainTower, WholeTower
from spamo_cache.encoders.spatial import SpatialEncoder
from spamo_cache.errors import ConfigError, WeightsError

Save = Callable[..., Any]

PLAIN = {"width": 32, "layers": 3, "head_width": 8, "patch_size": 8, "image_size": 32}
HUGGING_FACE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
CLIPA = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
PLAIN_KINDS = {
    "clip": {},
    "layer scale": {"ls_init_value": 0.1},
    "clipa": CLIPA,
    "average": {"pool_type": "avg"},
    "sine positions": {"pos_embed_type": "sin_cos_2d"},
    "trained with patch dropout": {"patch_dropout": 0.5},
}
OTHER_KINDS: dict[str, dict[str, Any]] = {
    "coca": {**PLAIN, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
    "query norm": {**PLAIN, "qk_norm": True},
    "tanh": {**PLAIN, "act_kwargs": {"approximate": "tanh"}},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 64},
    "timm siglip": {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 224,
    },
    "timm eva": {
        "timm_model_name": "eva02_tiny_patch14_224",
        "timm_pool": "token",
        "timm_proj": None,
        "image_size": 224,
    },
    "timm convnext": {
        "timm_model_name": "convnext_atto",
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_drop_path": 0.1,
        "image_size": 224,
    },
}


def build(base: Path, weights: str = "tower", **changes: Any) -> SpatialEncoder:
    stream = SpatialStream(encoder="open_clip", weights=weights, **changes)
    return registry.build(stream, base, "float32")  # type: ignore[return-value]


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_plain_towers(
    tmp_path: Path, pixels: Save, open_clip_folder: Save, kind: str, quick_gelu: bool
) -> None:
    model = open_clip_folder({**PLAIN, **PLAIN_KINDS[kind]}, quick_gelu=quick_gelu)
    frames = pixels(3, 3, 32, 32)
    for output in ("cls-pre-norm", "cls", "mean", "embedding"):
        for layer in (-1,) if output == "embedding" else (-1, 0, -2):
            encoder = build(tmp_path, scales=(1,), output=output, layer=layer)
            assert isinstance(encoder.network, PlainTower)
            found = encoder.encode(frames)
            with torch.inference_mode():
                base = encoder.normalise(frames)
                given = model.visual.forward_intermediates(
                    base,
                    normalize_intermediates=output == "cls",
                    output_fmt="NLC",
                    output_extra_tokens=True,
                )
            prefix, patches = given["image_intermediates_prefix"], given["image_intermediates"]
            wanted = {
                "cls-pre-norm": prefix[layer][:, 0],
                "cls": prefix[layer][:, 0],
                "mean": patches[layer].mean(1),
                "embedding": given["image_features"],
            }
            assert encoder.width == found.shape[1]
            close(found, wanted[output])


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_towers_give_their_embedding(
    tmp_path: Path, pixels: Save, open_clip_folder: Save, kind: str
) -> None:
    model = open_clip_folder(OTHER_KINDS[kind])
    encoder = build(tmp_path, scales=(1,), output="embedding")
    assert isinstance(encoder.network, WholeTower)
    side = encoder.preprocess.resize_spec.size
    frames = pixels(2, 3, side, side)
    with torch.inference_mode():
        wanted = model.visual(encoder.normalise(frames))
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    close(encoder.encode(frames), wanted)
    assert encoder.width == wanted.shape[1]
    assert encoder.flops_per_row > 1e5
    assert encoder.tokens_per_row == (side // 16) ** 2
    for changes in ({"output": "cls"}, {"output": "embedding", "layer": 0}):
        with pytest.raises(ConfigError, match="set output: embedding"):
            build(tmp_path, **changes)


@pytest.mark.slow
def test_scales_of_other_towers_are_means_over_crops(
    tmp_path: Path, pixels: Save, open_clip_folder: Save
) -> None:
    model = open_clip_folder(OTHER_KINDS["resnet"])
    frames = pixels(2, 3, 64, 64)
    encoder = build(tmp_path, scales=(1, 2), output="embedding")
    with torch.inference_mode():
        base = encoder.normalise(frames)
        large = torch.nn.functional.interpolate(base, scale_factor=2, mode="bicubic")
        crops = [large[..., i : i + 64, j : j + 64] for i in (0, 64) for j in (0, 64)]
        halves = [model.visual(base), torch.stack([model.visual(c) for c in crops]).mean(0)]
    torch.testing.assert_close(encoder.encode(frames), torch.cat(halves, 1), atol=2e-5, rtol=1e-4)


def test_flops_are_those_of_the_formula(tmp_path: Path, open_clip_folder: Save) -> None:
    open_clip_folder(PLAIN)
    encoder = build(tmp_path, scales=(1, 2), output="mean")
    tokens, width, layers = 17, 32, 3
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    patches = 2 * 16 * 3 * 8**2 * width
    assert encoder.flops_per_row == 5 * (layers * block + patches)


def clip_folder(tmp_path: Path, save: Save, kind: str, **options: Any) -> Any:
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPVisionConfig,
        CLIPVisionModel,
        CLIPVisionModelWithProjection,
    )

    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision = {**HUGGING_FACE, "projection_dim": 24}
    given = {"text_config": text, "vision_config": vision, "projection_dim": 24}
    networks = {
        "vision": lambda: CLIPVisionModel(CLIPVisionConfig(**vision)),
        "projection": lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**vision)),
        "whole": lambda: CLIPModel(CLIPConfig(**given)),
    }
    torch.manual_seed(0)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return save(networks[kind](), CLIPImageProcessor(**size), **options)


@pytest.mark.parametrize("kind", ["vision", "projection", "whole"])
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "sharded"])
def test_hugging_face_folders_are_converted(
    tmp_path: Path, pixels: Save, hugging_face_folder: Save, kind: str, shards: bool
) -> None:
    options = {"max_shard_size": "20KB"} if shards else {}
    network = clip_folder(tmp_path, hugging_face_folder, kind, **options)
    assert len(list((tmp_path / "network").glob("*.safetensors"))) > 1 or not shards
    frames = pixels(3, 3, 32, 32)
    encoder = build(tmp_path, "network", scales=(1,))
    tower = getattr(network, "vision_model", network)
    with torch.inference_mode():
        states = tower(encoder.normalise(frames), output_hidden_states=True).hidden_states
    close(encoder.encode(frames), states[-1][:, 0])
    if kind == "vision":
        with pytest.raises(WeightsError, match="proj"):
            build(tmp_path, "network", output="embedding")
        return
    with torch.inference_mode():
        base = encoder.normalise(frames)
        wanted = (
            network(base).image_embeds
            if kind == "projection"
            else network.visual_projection(tower(base).pooler_output)
        )
    close(build(tmp_path, "network", scales=(1,), output="embedding").encode(frames), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["cls-pre-norm", "embedding"])
def test_all_forms_of_the_same_weights_have_one_hash(
    tmp_path: Path, hugging_face_folder: Save, output: str
) -> None:
    """Hugging Face's CLIP, whole and sharded, and what open_clip's users made of it."""
    from spamo_cache.encoders import openclip

    clip_folder(tmp_path, hugging_face_folder, "whole")
    clip_folder(tmp_path, hugging_face_folder, "whole", name="sharded", max_shard_size="20KB")
    clip_folder(tmp_path, hugging_face_folder, "projection", name="vision")
    state = load_file(tmp_path / "network" / "model.safetensors")
    vision = {k: v for k, v in state.items() if k.startswith(("vision_model.", "visual_proj"))}
    save_file(vision, tmp_path / "vision" / "model.safetensors")
    folder = tmp_path / "converted"
    folder.mkdir()
    tower = {f"visual.{name}": tensor for name, tensor in openclip.vision_tensors(state).items()}
    save_file(tower, folder / "open_clip_model.safetensors")
    processor = json.loads((tmp_path / "network" / "preprocessor_config.json").read_text())
    model = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": {**PLAIN, "mlp_ratio": 2.0}}
    means = {"mean": processor["image_mean"], "std": processor["image_std"]}
    document = {"model_cfg": model, "preprocess_cfg": means}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    names = ("network", "sharded", "vision", "converted", "pickled", "converted-pickled")
    for name, file in (
        ("network", "pytorch_model.bin"),
        ("converted", "open_clip_pytorch_model.bin"),
    ):
        copy = tmp_path / {"network": "pickled", "converted": "converted-pickled"}[name]
        shutil.copytree(tmp_path / name, copy)
        (weights,) = copy.glob("*.safetensors")
        torch.save(load_file(weights), copy / file)
        weights.unlink()
    assert len({build(tmp_path, name, output=output).weights_sha256 for name in names}) == 1


def test_bare_files_need_a_model_and_one_normalisation(
    tmp_path: Path, pixels: Save, open_clip_folder: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    model = open_clip_folder(PLAIN)
    shutil.copy(tmp_path / "tower" / "open_clip_model.safetensors", tmp_path / "bare.safetensors")
    with pytest.raises(ConfigError, match="needs `model:`"):
        build(tmp_path, "bare.safetensors")
    given = json.loads((tmp_path / "tower" / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "tiny-registered.json").write_text(json.dumps(given))
    open_clip.add_model_config(tmp_path / "tiny-registered.json")
    encoder = build(tmp_path, "bare.safetensors", model="tiny-registered", scales=(1,))
    assert encoder.preprocess.mean == open_clip.OPENAI_DATASET_MEAN
    frames = pixels(2, 3, 32, 32)
    with torch.inference_mode():
        wanted = model.visual.transformer(model.visual._embeds(encoder.normalise(frames)))[:, 0]
    close(encoder.encode(frames), wanted)
    with pytest.raises(WeightsError, match="published with different means"):
        build(tmp_path, "bare.safetensors", model="ViT-L-14")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "open_clip_pytorch_model.bin", "x.pt"])
def test_pickles_run_nothing(tmp_path: Path, hugging_face_folder: Save, name: str) -> None:
    clip_folder(tmp_path, hugging_face_folder, "vision")
    folder, marker = tmp_path / "network", tmp_path / "it-ran"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())
    with pytest.raises(WeightsError, match="holds no weights" if name == "x.pt" else r"os\.system"):
        build(tmp_path, "network")
    with pytest.raises(WeightsError, match=r"os\.system"):
        build(tmp_path, f"network/{name}", model="ViT-L-14-quickgelu")
    assert not marker.exists()


@pytest.mark.slow
def test_a_checkpoint_in_training_form_is_mapped(
    tmp_path: Path, pixels: Save, open_clip_folder: Save
) -> None:
    """As open_clip's own training writes it, averaged weights beside, next to its configuration."""
    open_clip_folder(PLAIN)
    wanted = build(tmp_path)
    file = tmp_path / "tower" / "open_clip_model.safetensors"
    state = {f"module.{name}": tensor for name, tensor in load_file(file).items()}
    spoilt = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    file.unlink()
    checkpoint = {"epoch": 7, "name": "signs", "state_dict": state, "averaged": spoilt}
    torch.save(checkpoint, tmp_path / "tower" / "epoch_7.pt")
    found = build(tmp_path, "tower/epoch_7.pt", key_map={"state_dict.module.": ""})
    assert found.weights_sha256 == wanted.weights_sha256
    frames = pixels(2, 3, 32, 32)
    close(found.encode(frames), wanted.encode(frames))
    for key_map, message in (
        ({}, "do not fit the model"),
        ({"model.": ""}, "no tensor has a name that key_map knows"),
        ({"state_dict.module.": "", "averaged.module.": ""}, "gives two tensors the name"),
    ):
        with pytest.raises(WeightsError, match=message):
            build(tmp_path, "tower/epoch_7.pt", key_map=key_map)


@pytest.mark.parametrize("projection", [24, 512])
def test_a_config_of_transformers_4_leaves_defaults_out(
    tmp_path: Path, pixels: Save, hugging_face_folder: Save, projection: int
) -> None:
    """config.json names what differs from the class alone, the processor is in its old form."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 4, "patch_size": 56}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)
    network = hugging_face_folder(CLIPModel(config), CLIPImageProcessor())
    whole = build(tmp_path, "network", output="embedding")
    short: dict[str, Any] = {"model_type": "clip", "transformers_version": "4.32.0"}
    short |= {"text_config": text, "vision_config": vision}
    short |= {} if projection == 512 else {"projection_dim": projection}
    (tmp_path / "network" / "config.json").write_text(json.dumps(short))
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224}
    (tmp_path / "network" / "preprocessor_config.json").write_text(json.dumps(old))
    found = build(tmp_path, "network", output="embedding", scales=(1,))
    assert found.weights_sha256 == whole.weights_sha256
    frames = pixels(2, 3, 224, 224)
    with torch.inference_mode():
        wanted = network.get_image_features(found.normalise(frames)).pooler_output
    close(found.encode(frames), wanted)


@pytest.mark.parametrize("change", ["missing", "left over", "misshapen"])
def test_every_tensor_must_fit(tmp_path: Path, open_clip_folder: Save, change: str) -> None:
    open_clip_folder(PLAIN)
    file = tmp_path / "tower" / "open_clip_model.safetensors"
    state = load_file(file)
    name = "visual.transformer.resblocks.1.attn.in_proj_bias"
    if change == "missing":
        del state[name]
    elif change == "left over":
        state[name + "_2"] = state[name].clone()
    else:
        state[name] = state[name][:-1]
    save_file(state, file)
    with pytest.raises(WeightsError, match="do not fit the model") as error:
        build(tmp_path)
    assert "in_proj_bias" in str(error.value)


@pytest.mark.parametrize(
    "vision",
    [{"width": "wide"}, {"patch_size": 0}, {"timm_model_name": "none"}, {"unknown": 1}, {}],
    ids=str,
)
def test_configs_that_describe_no_tower_are_refused(
    tmp_path: Path, open_clip_folder: Save, vision: dict[str, Any]
) -> None:
    open_clip_folder(PLAIN)
    path = tmp_path / "tower" / "open_clip_config.json"
    document = json.loads(path.read_text())
    document["model_cfg"]["vision_cfg"] = {**PLAIN, **vision} if vision else "none"
    path.write_text(json.dumps(document))
    with pytest.raises(WeightsError, match="describes no tower"):
        build(tmp_path)


def test_other_hugging_face_models_are_sent_to_their_encoder(
    tmp_path: Path, hugging_face_folder: Save
) -> None:
    clip_folder(tmp_path, hugging_face_folder, "vision")
    path = tmp_path / "network" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "siglip"}))
    with pytest.raises(ConfigError, match="encoder: transformers"):
        build(tmp_path, "network")
