"""Language models of any size with random weights, as Hugging Face folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from spamo_cache.compat import declare_torchvision_ops, quiet
from spamo_cache.config import shipped

SHAPES: dict[str, dict[str, Any]] = {
    "small": {"d_model": 256, "d_kv": 64, "d_ff": 512, "num_layers": 4, "num_heads": 4},
    "base": {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "large": {"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
}
"""As small as shows anything, Flan-T5-base, and Flan-T5-XL."""


def outline(shape: str, dtype: torch.dtype, device: str, dropout: float = 0.0) -> Any:
    """A T5 of Flan-T5's kind with random weights, born on ``device``."""
    declare_torchvision_ops()
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config: Any = T5Config(
        **SHAPES[shape],
        vocab_size=32_128,
        feed_forward_proj="gated-gelu",
        dropout_rate=dropout,
    )
    config.decoder_start_token_id = 0
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with quiet(), torch.device(device):
            return T5ForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(usual)


def write_llm(folder: Path, shape: str, dtype: str, device: str = "cpu") -> None:
    """One with its tokenizer, that of the bundled corpus; a GPU draws a large one in seconds."""
    with quiet():
        outline(shape, getattr(torch, dtype), device).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shipped("pipelines") / "signed-weather" / "llm" / name, folder)
