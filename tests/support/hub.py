"""A cache of the Hugging Face hub, with tiny networks in the files that the public ones have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file

from spamo_cache.compat import declare_torchvision_ops

FLAN_T5_XL = "7d6315df2c2fb742f0f5b556879d730926ca9001"
MAIN = "0" * 40
"""Stands for commits that no file of the project names."""

CLIP = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 32, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
}
"""ViT-L-14-quickgelu, narrow and shallow; open_clip takes a model's shape from its name."""

VIDEOMAE_PROCESSOR = """\
{
  "do_center_crop": true,
  "do_normalize": true,
  "do_resize": true,
  "feature_extractor_type": "VideoMAEFeatureExtractor",
  "image_mean": [
    0.485,
    0.456,
    0.406
  ],
  "image_std": [
    0.229,
    0.224,
    0.225
  ],
  "resample": 2,
  "size": 224
}
"""
"""Of MCG-NJU/videomae-large, as it is."""

T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
T5 |= {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0}


def build(cache: Path, sentences: Iterable[str]) -> None:
    """Fill ``cache`` with everything that the specs and pipelines of the corpora name."""
    declare_torchvision_ops()
    torch.manual_seed(0)
    aside = cache / "aside"
    pieces = _pieces(aside, sentences)
    for name, commit, make in (
        ("timm/vit_large_patch14_clip_224.openai", MAIN, _openai),
        ("MCG-NJU/videomae-large", MAIN, _videomae),
        ("google/flan-t5-xl", FLAN_T5_XL, lambda folder: _flan_t5(folder, pieces)),
        ("bigscience/mt0-xl", MAIN, lambda folder: _mt0(folder, pieces)),
    ):
        folder = aside / name
        folder.mkdir(parents=True)
        make(folder)
        _publish(cache, name, commit, folder)


def _publish(cache: Path, name: str, commit: str, folder: Path) -> None:
    """Put a repository's files where huggingface_hub keeps them: blobs, and links to them."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for path in folder.iterdir():
        blob = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(repository / "blobs" / blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob)


def _openai(folder: Path) -> None:
    """open_clip's file of the whole CLIP, and timm's of the tower beside it."""
    import open_clip

    state = open_clip.CLIP(**CLIP).state_dict()
    save_file(state, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP}))
    tower = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    save_file(
        {f"timm.{name}": value for name, value in tower.items()}, folder / "model.safetensors"
    )
    timm = {"architecture": "vit_large_patch14_clip_quickgelu_224", "num_classes": 768}
    (folder / "config.json").write_text(json.dumps(timm))


def _videomae(folder: Path) -> None:
    """The network with its decoder, under the names of transformers 4.22."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    shape |= {"intermediate_size": 64, "layer_norm_eps": 1e-12, "use_mean_pooling": False}
    shape |= {f"decoder_{key}": 16 for key in ("hidden_size", "intermediate_size")}
    config = VideoMAEConfig(
        **shape, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, num_frames=16
    )
    network = VideoMAEForPreTraining(config)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # zeros would hide one that is dropped
    network.save_pretrained(folder)
    _age(folder, "4.22.0.dev0", qv_bias="qkv_bias", dtype="torch_dtype")
    (folder / "preprocessor_config.json").write_text(VIDEOMAE_PROCESSOR)


def _flan_t5(folder: Path, pieces: Path) -> None:
    """Two shards of safetensors and their index."""
    from transformers import T5Config, T5ForConditionalGeneration

    network = T5ForConditionalGeneration(T5Config(vocab_size=160, **T5))
    whole = sum(value.nbytes for value in network.state_dict().values())
    network.save_pretrained(folder, max_shard_size=int(whole * 0.7))
    _age(folder, "4.23.1", dtype="torch_dtype")
    _tokenizer(folder, pieces)


def _mt0(folder: Path, pieces: Path) -> None:
    """Two pickled shards and their index, as transformers 4 wrote them; no safetensors."""
    from transformers import MT5Config, MT5ForConditionalGeneration

    network = MT5ForConditionalGeneration(MT5Config(vocab_size=160, **T5))
    network.config.save_pretrained(folder)
    network.generation_config.save_pretrained(folder)
    _age(folder, "4.24.0.dev0")
    save_bin(network.state_dict(), folder, shards=2)
    _tokenizer(folder, pieces)


def save_bin(state: Mapping[str, torch.Tensor], folder: Path, *, shards: int) -> None:
    """``pytorch_model.bin``, or as many shards of one with their index."""
    if shards == 1:
        torch.save(dict(state), folder / "pytorch_model.bin")
        return
    placed = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        names = list(state)[number::shards]
        torch.save({name: state[name].clone() for name in names}, folder / file)
        placed |= dict.fromkeys(names, file)
    size = sum(value.nbytes for value in state.values())
    document = {"metadata": {"total_size": size}, "weight_map": placed}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(document, indent=2))


def _age(folder: Path, version: str, **old_names: str) -> None:
    """Give config.json the version and the names of an older transformers."""
    path = folder / "config.json"
    given: dict[str, Any] = json.loads(path.read_text())
    for new, old in old_names.items():
        given[old] = given.pop(new)
    path.write_text(json.dumps(given | {"transformers_version": version}, indent=2))


def _pieces(folder: Path, sentences: Iterable[str]) -> Path:
    """T5's numbering: padding, end, unknown."""
    folder.mkdir(parents=True)
    (folder / "sentences.txt").write_text("\n".join(sentences), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "sentences.txt"),
        model_prefix=str(folder / "spiece"),
        vocab_size=150,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return folder / "spiece.model"


def _tokenizer(folder: Path, pieces: Path) -> None:
    """spiece.model, and the files that transformers makes of it, in their older form."""
    from transformers import T5Tokenizer

    (folder / "spiece.model").write_bytes(pieces.read_bytes())
    T5Tokenizer.from_pretrained(folder, extra_ids=0).save_pretrained(folder)
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    given = {**special, "extra_ids": 0, "sp_model_kwargs": {}, "tokenizer_class": "T5Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(given))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
