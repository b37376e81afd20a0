from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spamo_cache import checkpoints, io
from spamo_cache.config import MotionStream, SpatialStream
from spamo_cache.encoders import registry, weights
from spamo_cache.errors import ConfigError, DamagedError, SpamoError, WeightsError

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with both tiny networks, free to be damaged; and a home of its own."""
    for name in ("clip-vision", "videomae"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def spatial(**changes: object) -> SpatialStream:
    return SpatialStream(**{"encoder": "open_clip", "weights": "clip-vision", **changes})  # type: ignore[arg-type]


def motion(**changes: object) -> MotionStream:
    return MotionStream(**{"encoder": "videomae", "weights": "videomae", **changes})  # type: ignore[arg-type]


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.slow
def test_hash_is_of_contents_not_of_places(base: Path) -> None:
    there = registry.build(spatial(), GOLDEN).weights_sha256
    assert registry.build(spatial(), base).weights_sha256 == there
    shutil.move(base / "clip-vision", base / "elsewhere")
    assert registry.build(spatial(weights="elsewhere"), base).weights_sha256 == there
    state = load_file(base / "elsewhere" / "model.safetensors")
    state = {f"vision_model.{name}": tensor for name, tensor in state.items()}
    save_file(state, base / "elsewhere" / "model.safetensors")
    assert registry.build(spatial(weights="elsewhere"), base).weights_sha256 == there


@pytest.mark.parametrize("change", ["tensor", "heads", "activation", "mean"])
def test_hash_tells_everything_that_moves_a_feature(base: Path, change: str) -> None:
    before = registry.build(spatial(), base).weights_sha256
    folder = base / "clip-vision"
    if change == "tensor":
        state = load_file(folder / "model.safetensors")
        state["pre_layrnorm.bias"][0] += 1e-3
        save_file(state, folder / "model.safetensors")
    elif change == "heads":
        edit_config(folder, num_attention_heads=2)
    elif change == "activation":
        edit_config(folder, hidden_act="gelu")
    else:
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.5, 0.5, 0.5]}))
    assert registry.build(spatial(), base).weights_sha256 != before


def test_quick_gelu_mismatch_is_refused(base: Path) -> None:
    with pytest.raises(WeightsError, match="quick_gelu") as error:
        registry.build(spatial(model="ViT-L-14"), base)
    assert "ViT-L-14-quickgelu" in str(error.value)
    with pytest.raises(WeightsError, match="disagree about QuickGELU") as error:
        registry.build(spatial(model="ViT-L-14", weights="openai"), base)
    assert "ViT-L-14-quickgelu" in str(error.value)


def test_model_of_another_shape_is_refused(base: Path) -> None:
    with pytest.raises(WeightsError, match="do not have the shape"):
        registry.build(spatial(model="ViT-L-14-quickgelu"), base)


def test_dropped_biases_are_noticed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers 5.9 to 5.17 do: zeros in place of the checkpoint's biases."""
    from spamo_cache.compat import declare_torchvision_ops

    declare_torchvision_ops()
    from transformers import VideoMAEModel

    whole = VideoMAEModel.from_pretrained

    def dropping(*args: object, **options: object) -> object:
        model, report = whole(*args, **options)
        torch.nn.init.zeros_(model.encoder.layer[1].attention.attention.value.bias)
        return model, report

    monkeypatch.setattr(VideoMAEModel, "from_pretrained", dropping)
    with pytest.raises(WeightsError, match="dropped the value bias of layer 1"):
        registry.build(motion(), base)


@pytest.mark.parametrize("name", ["clip-vision", "videomae"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing tensor", "missing: encoder|is missing"),
        ("cut file", "cannot be read .SafetensorError"),
        ("no file", "holds no weights that can be read"),
        ("no config", "cannot be read: No such file"),
        ("no processor", "no usable image processor"),
    ],
)
def test_damaged_folders_are_refused(base: Path, name: str, damage: str, words: str) -> None:
    file = base / name / "model.safetensors"
    if damage == "missing tensor":
        state = load_file(file)
        del state[next(key for key in state if ".1." in key and key.endswith("weight"))]
        save_file(state, file)
    elif damage == "cut file":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        gone = {"no file": file.name, "no config": "config.json"}
        (base / name / gone.get(damage, "preprocessor_config.json")).unlink()
    with pytest.raises(WeightsError, match=words):
        registry.build(spatial() if name == "clip-vision" else motion(), base)


@pytest.mark.parametrize("weights_name", ["nobody/nothing", "nobody/nothing@abc123"])
def test_hub_out_of_reach_says_what_to_do(base: Path, weights_name: str) -> None:
    for stream in (spatial(weights=weights_name), motion(weights=weights_name)):
        with pytest.raises(WeightsError, match="the hub does not give") as error:
            registry.build(stream, base)
        assert "give its folder" in str(error.value)


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (spatial(weights="./nothing"), "no such weights"),
        (spatial(weights="nothing"), "name neither a path nor a hub id"),
        (spatial(model="ViT-L-14-quickgelu", weights="openay"), "has no weights 'openay'"),
        (spatial(model="ViT-L-41", weights="openai"), "has no model 'ViT-L-41'"),
        (spatial(layer=3), "layer 3: the tower has 3"),
        (spatial(layer=-4), "layer -4: the tower has 3"),
        (motion(weights="nothing"), "neither a path nor `org/name"),
        (motion(weights="clip-vision"), "is not a VideoMAE model"),
        (motion(window=8), "window 8: the weights are for 16 frames"),
        (motion(layer=4), "layer 4: the network has 4"),
    ],
    ids=str,
)
def test_impossible_streams_are_refused(
    base: Path, stream: SpatialStream | MotionStream, words: str
) -> None:
    with pytest.raises(SpamoError, match=words) as error:
        registry.build(stream, base)
    assert isinstance(error.value, ConfigError | WeightsError)


def test_pins_hold_the_first_hash(base: Path) -> None:
    weights.pin("hub:a/b", "1" * 64)
    weights.pin("hub:a/b", "1" * 64)
    weights.pin("hub:c/d", "2" * 64)
    with pytest.raises(WeightsError, match="has changed"):
        weights.pin("hub:a/b", "3" * 64)
    path = base / "home" / "weights.json"
    pins = io.read_json(path)
    assert pins == {"hub:a/b": "1" * 64, "hub:c/d": "2" * 64}
    path.write_text(path.read_text().replace("11", "13", 1))
    with pytest.raises(DamagedError, match="checksum"):
        weights.pin("hub:a/b", "1" * 64)


@pytest.mark.slow
def test_fetched_weights_are_pinned_and_local_ones_are_not(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.build(spatial(), base)
    assert not (base / "home").exists()
    monkeypatch.setattr(checkpoints, "from_hub", lambda *_, **__: base / "clip-vision")
    registry.build(spatial(weights="org/name@main"), base)
    edit_config(base / "clip-vision", num_attention_heads=2)
    with pytest.raises(WeightsError, match="has changed"):
        registry.build(spatial(weights="org/name@main"), base)


@pytest.mark.slow
@pytest.mark.parametrize("revision", ["", "@main", "@0123456789abcdef"])
def test_the_hub_gives_what_a_folder_gives(
    base: Path, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    """From the hub's own cache, without a network; other contents later are refused."""
    import huggingface_hub

    cache = base / "hub" / "models--org--name"
    commit = "0123456789abcdef" if "0" in revision else "f" * 40
    for folder in ("refs", "snapshots"):
        (cache / folder).mkdir(parents=True)
    (cache / "refs" / (revision[1:] or "main")).write_text(commit)
    shutil.copytree(base / "clip-vision", cache / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(base / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    stream = spatial(weights=f"org/name{revision}")
    here = registry.build(spatial(), base).weights_sha256
    assert registry.build(stream, base).weights_sha256 == here
    edit_config(cache / "snapshots" / commit, num_attention_heads=2)
    with pytest.raises(WeightsError, match="has changed"):
        registry.build(stream, base)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
@pytest.mark.parametrize("name", ["clip-vision", "videomae"])
def test_damaged_files_give_one_clear_error_or_an_encoder(base: Path, name: str, file: str) -> None:
    generator = random.Random(file + name)
    path = base / name / file
    whole = path.read_bytes()
    refused = 0
    for _ in range(25):
        path.write_bytes(damaged(whole, generator))
        try:
            encoder = registry.build(spatial() if name == "clip-vision" else motion(), base)
            frames = torch.zeros(encoder.span, 3, 224, 224, dtype=torch.uint8)
            encoder.encode(frames if encoder.span == 1 else frames[None])
        except SpamoError:
            refused += 1
    assert refused > 5


def damaged(whole: bytes, generator: random.Random) -> bytes:
    """Cut, a byte flipped, or an entry of a JSON object replaced by nonsense."""
    kind = generator.randrange(3)
    if kind == 0:
        return whole[: generator.randrange(len(whole))]
    if kind == 1 or whole[:1] != b"{":
        changed = bytearray(whole)
        changed[generator.randrange(min(len(whole), 500))] ^= 1 << generator.randrange(8)
        return bytes(changed)
    document = json.loads(whole)
    nonsense = [None, -1, 0, 7, 1.5, "x", [], {}, [1, 2, 3], float("nan")]
    document[generator.choice(sorted(document))] = generator.choice(nonsense)
    return json.dumps(document).encode()
