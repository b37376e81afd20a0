"""Pretrain the language model of signed-weather: a tiny T5 that knows German weather reports.

Usage: python -m pretrain.llm --out pipelines/signed-weather/llm

Text only, from the grammar's ``train`` meanings: no sentence of dev or test at any corpus size, and
no gloss. Two tasks under one prompt: English to German, and a German sentence from its words in
disorder, some missing, some repeated, their embeddings blurred, which is what sign rows will be.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import sacrebleu
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.datasets.signed_weather.grammar import (
    TRAIN_KINDS,
    Utterance,
    express,
    home_split,
    meaning,
)

declare_torchvision_ops()

from transformers import (  # noqa: E402
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

PROMPT = "Translate the given sentence into German."
SPECIAL = ["<pad>", "</s>", "<unk>"]
_FUNCTION_WORDS = {"am", "in", "der", "im", "den", "an", "es", "und", "sich", "die", "bei"}


def utterances(count: int, seed: int, split: str = "train") -> list[Utterance]:
    """Random reports whose meanings belong to ``split``."""
    rng = random.Random(f"text {seed}")
    found: list[Utterance] = []
    while len(found) < count:
        (kind,) = rng.choices(list(TRAIN_KINDS), list(TRAIN_KINDS.values()))
        said = meaning(kind, rng)
        if home_split(kind, said) == split:
            found.append(express(said, rng))
    return found


def tokenizer(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding of the domain's own text; most words become one piece."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decoders.Metaspace()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL))
    bpe.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=512,
    )  # fmt: skip


def disorder(german: str, rng: random.Random) -> str:
    """Content words in an order of their own, some lost, some twice; a sign stream as text."""
    words = german.split()
    kept = [w for w in words if rng.random() > (0.75 if w in _FUNCTION_WORDS else 0.08)]
    spread = rng.choice((1.5, 3.0, 6.0))
    ranked = sorted(enumerate(kept), key=lambda item: item[0] + rng.uniform(0, spread))
    return " ".join(f"{w} {w}" if rng.random() < 0.15 else w for _, w in ranked)


def source(said: Utterance, rng: random.Random) -> str:
    shown = said.english if rng.random() < 0.4 else disorder(said.german, rng)
    return f"{shown} {PROMPT}"


def model(size: int, width: int, layers: int) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=size, d_model=width, d_kv=32, d_ff=2 * width, num_layers=layers,
        num_decoder_layers=layers, num_heads=4, feed_forward_proj="gated-gelu",
        dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


@torch.inference_mode()
def bleu(llm: T5ForConditionalGeneration, words: PreTrainedTokenizerFast, said: list[Utterance],
         rng: random.Random) -> float:  # fmt: skip
    """BLEU-4 of both tasks on meanings of the dev split."""
    llm.eval()
    batch = words([source(u, rng) for u in said], return_tensors="pt", padding=True)
    rows = llm.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=40
    )
    llm.train()
    hypotheses = words.batch_decode(rows, skip_special_tokens=True)
    return sacrebleu.corpus_bleu(hypotheses, [[u.german for u in said]]).score


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    rng = random.Random(arguments.seed)
    started = time.monotonic()
    said = utterances(arguments.sentences, arguments.seed)
    held_out = utterances(200, arguments.seed + 1, "dev")
    words = tokenizer([*[PROMPT] * 500, *(u.german for u in said), *(u.english for u in said)], 600)
    llm = model(len(words), arguments.width, arguments.layers)
    optimiser = torch.optim.AdamW(llm.parameters(), lr=arguments.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, arguments.lr, total_steps=arguments.steps, pct_start=0.05
    )
    log = []
    for step in range(1, arguments.steps + 1):
        batch = rng.choices(said, k=arguments.batch)
        given = words([source(u, rng) for u in batch], return_tensors="pt", padding=True)
        target = words([u.german for u in batch], return_tensors="pt", padding=True).input_ids
        rows = llm.get_input_embeddings()(given.input_ids)
        blur = torch.rand(len(batch), 1, 1) * 0.5 * rows.detach().std()
        loss = llm(
            inputs_embeds=rows + blur * torch.randn_like(rows),
            attention_mask=given.attention_mask,
            labels=target.masked_fill(target == 0, -100),
        ).loss
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(llm.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 300 == 0 or step == arguments.steps:
            score = bleu(llm, words, held_out, random.Random(0))
            log.append({"step": step, "loss": loss.item(), "bleu": score,
                        "seconds": time.monotonic() - started})  # fmt: skip
            print(json.dumps(log[-1]), flush=True)
            llm.save_pretrained(arguments.out)
            words.save_pretrained(arguments.out)
            (arguments.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=3)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
