"""What a step of LoRA on a T5 holds of a device's memory: reckoned from shapes, and measured."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import Tensor

from reference.llms import outline
from spamo_cache.compat import avoid_cudnn_attention, checkpoint_activations
from spamo_cache.config import LLMConfig
from spamo_cache.model.llm import Seq2SeqLLM, _tuned
from spamo_cache.model.rows import Padded

BATCH = 16
CLIPS = {"mean": (37, 25), "longest": (141, 64)}
"""Rows that the LLM reads (sign rows of PHOENIX14T's 115 frames, and of 512, and a short prompt),
and tokens that it says."""
_ADAPTER = {"base": 13_400_000, "large": 17_500_000}
"""Parameters of the sign adapter and VT-Align."""


def memory(
    device: str, size: str, rows: int, tokens: int, *, batch: int = BATCH, checkpointing: bool
) -> dict[str, int]:
    """Bytes of a step: ``weights``, ``trained`` (of what is trained: weights, gradients, moments),
    ``activations``, their sum ``reckoned`` and, on a GPU, ``measured``.

    Reckoned on torch's device ``meta``, which knows shapes alone: what the way forth keeps for the
    way back, every tensor once. The allocator's waste, kernels and cuBLAS come on top, some 1 GB.
    """
    llm = _llm(size, "meta", checkpointing)
    trained = [value for value in llm.parameters() if value.requires_grad]
    frozen = [value for value in llm.parameters() if not value.requires_grad]
    kept: dict[int, int] = {}
    own = {value.untyped_storage()._cdata for value in llm.parameters()}
    held: list[Tensor] = []

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            held.append(value)  # or another would get its address
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        _loss(llm, rows, tokens, batch)
    if checkpointing:
        # One block after the other is computed anew.
        whole = memory("meta", size, rows, tokens, batch=batch, checkpointing=False)["activations"]
        kept[0] = whole // (2 * llm.model.config.num_layers)
    # transformers ties a new T5's head to its embeddings; Flan-T5 has one of its own.
    head = 2 * llm.model.config.vocab_size * llm.model.config.d_model
    found = {
        "weights": sum(value.nbytes for value in frozen) + head,
        # In float32: weight, gradient and AdamW's two moments.
        "trained": 16 * (sum(value.numel() for value in trained) + _ADAPTER[size]),
        "activations": sum(kept.values()),
    }
    found["reckoned"] = sum(found.values())
    if device == "cuda":
        found["measured"] = _measured(size, rows, tokens, batch, checkpointing)
    return found


def _llm(size: str, device: str, checkpointing: bool) -> Seq2SeqLLM:
    avoid_cudnn_attention()
    model: Any = outline(size, torch.bfloat16, device, dropout=0.1)
    model = _tuned(model, LLMConfig(weights="-", dtype="bfloat16"), decoder_only=False)
    if device == "meta":
        # Autocast, which computes in bfloat16 with LoRA's float32 weights, does not know meta.
        model = model.to(torch.bfloat16)
    if checkpointing:
        checkpoint_activations(model)
    tokens: Any = None
    return Seq2SeqLLM(model.train(), tokens, torch.bfloat16)


def _loss(llm: Seq2SeqLLM, rows: int, tokens: int, batch: int) -> Tensor:
    device, width = next(llm.parameters()).device, llm.model.config.d_model
    read = torch.randn(batch, rows, width, dtype=torch.bfloat16, device=device)
    lengths = torch.full((batch,), rows, device=device)
    labels = torch.ones(batch, tokens, dtype=torch.long, device=device)
    return llm.loss(Padded(read.requires_grad_(), lengths, (rows,) * batch), labels)


def _measured(size: str, rows: int, tokens: int, batch: int, checkpointing: bool) -> int:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    llm = _llm(size, "cuda", checkpointing)
    adapter = torch.zeros(_ADAPTER[size], device="cuda", requires_grad=True)
    trained = [value for value in llm.parameters() if value.requires_grad] + [adapter]
    optimiser = torch.optim.AdamW(trained, fused=True)
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            loss = _loss(llm, rows, tokens, batch) + 0 * adapter.sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return torch.cuda.max_memory_allocated()
