"""Pretrain the language models of signed-weather: tiny ones that know German weather reports.

Usage: python -m pretrain.llm --out pipelines/signed-weather/llm
       python -m pretrain.llm --out pipelines/signed-weather/llm-decoder --decoder

Text only, from the grammar's ``train`` meanings: no sentence of dev or test at any corpus size, and
no gloss. Two tasks under one prompt: English to German, and a German sentence from its words in
disorder, some missing, some repeated, their embeddings blurred, which is what sign rows will be.
Both models read and write as they do in translation: a decoder-only model learns the sentence as
what follows the prompt.
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
from torch import Tensor, nn

from spamo_cache.compat import declare_torchvision_ops
from spamo_cache.config import DecodeConfig
from spamo_cache.datasets.signed_weather.grammar import (
    TRAIN_KINDS,
    Utterance,
    express,
    home_split,
    meaning,
)
from spamo_cache.model.llm import LLM, DecoderLLM, Seq2SeqLLM
from spamo_cache.model.rows import Padded
from spamo_cache.model.tokens import IGNORED, Tokens, padded_ids

declare_torchvision_ops()

from transformers import (  # noqa: E402
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
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


def encoder_decoder(size: int, width: int, layers: int) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=size, d_model=width, d_kv=32, d_ff=2 * width, num_layers=layers,
        num_decoder_layers=layers, num_heads=4, feed_forward_proj="gated-gelu",
        dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def decoder(size: int, width: int, layers: int) -> LlamaForCausalLM:
    """About as many parameters as the encoder-decoder with so many layers on each side."""
    config = LlamaConfig(
        vocab_size=size, hidden_size=width, intermediate_size=5 * width // 2,
        num_hidden_layers=2 * layers, num_attention_heads=4, max_position_embeddings=1024,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def reader(network: PreTrainedModel, words: PreTrainedTokenizerFast, out: Path) -> LLM:
    """The model as translation uses it; its folder is written."""
    network.save_pretrained(out)
    words.save_pretrained(out)
    tokens = Tokens(out)
    return (DecoderLLM if tokens.decoder_only else Seq2SeqLLM)(network, tokens, torch.float32)


def embedded(llm: LLM, texts: list[str]) -> Padded:
    ids = padded_ids(llm.tokens.prompts(texts))
    inside = ids != IGNORED
    return Padded(llm.embeddings(ids.masked_fill(~inside, llm.tokens.padding)), inside.sum(1))


def blurred(given: Padded) -> Padded:
    """Every sentence by an amount of its own."""
    rows = given.rows
    blur = torch.rand(len(rows), 1, 1) * 0.5 * rows.detach().std()
    return Padded(rows + blur * torch.randn_like(rows), given.lengths)


def loss(llm: LLM, said: list[Utterance], rng: random.Random) -> Tensor:
    given = embedded(llm, [source(u, rng) for u in said])
    return llm.loss(blurred(given), padded_ids(llm.tokens.encode([u.german for u in said])))


@torch.inference_mode()
def bleu(llm: LLM, said: list[Utterance], rng: random.Random) -> float:
    """BLEU-4 of both tasks on meanings of the dev split."""
    llm.eval()
    given = embedded(llm, [source(u, rng) for u in said])
    ids = llm.generate(given, DecodeConfig(beams=1, max_tokens=40))
    llm.train()
    hypotheses = llm.tokens.decode(ids.tolist())
    return sacrebleu.corpus_bleu(hypotheses, [[u.german for u in said]]).score


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    rng = random.Random(arguments.seed)
    started = time.monotonic()
    said = utterances(arguments.sentences, arguments.seed)
    held_out = utterances(200, arguments.seed + 1, "dev")
    words = tokenizer([*[PROMPT] * 500, *(u.german for u in said), *(u.english for u in said)], 600)
    make = decoder if arguments.decoder else encoder_decoder
    llm = reader(make(len(words), arguments.width, arguments.layers), words, arguments.out)
    optimiser = torch.optim.AdamW(llm.parameters(), lr=arguments.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, arguments.lr, total_steps=arguments.steps, pct_start=0.05
    )
    log = []
    for step in range(1, arguments.steps + 1):
        found = loss(llm, rng.choices(said, k=arguments.batch), rng)
        optimiser.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(llm.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 300 == 0 or step == arguments.steps:
            score = bleu(llm, held_out, random.Random(0))
            log.append({"step": step, "loss": found.item(), "bleu": score,
                        "seconds": time.monotonic() - started})  # fmt: skip
            print(json.dumps(log[-1]), flush=True)
            llm.model.save_pretrained(arguments.out)
            (arguments.out / "log.json").write_text(json.dumps(log, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--decoder", action="store_true", help="decoder-only, not a T5")
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
