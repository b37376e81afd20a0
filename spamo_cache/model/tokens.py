"""Sentences and prompts as the LLM's token ids, and back; and what is lost on the way."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spamo_cache import checkpoints
from spamo_cache.datasets.overlap import gist
from spamo_cache.errors import WeightsError
from spamo_cache.model.rows import Packed

IGNORED = -100
"""Stands where a sequence of ids is padded; as a label it costs nothing."""


class Tokens:
    """The LLM's tokenizer, reduced to what translation needs.

    An encoder-decoder gets sentences and prompts as its tokenizer makes them, end token and all.
    A decoder-only model reads one sequence: ``opening``, sign rows, prompt, sentence, ``end``.

    Raises:
        WeightsError: the folder holds no tokenizer that transformers can read, or one without an
            end token.
    """

    def __init__(self, folder: Path) -> None:
        config = checkpoints.architecture(folder)
        _refuse_own_class(folder / "tokenizer_config.json")
        from transformers import AutoTokenizer  # noqa: PLC0415

        with checkpoints.explained(folder, "holds no usable tokenizer"):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        if self._tokenizer.eos_token_id is None:
            raise WeightsError("its tokenizer has no end token", where=folder)
        self.decoder_only = not config.is_encoder_decoder

    @property
    def end(self) -> int:
        return int(self._tokenizer.eos_token_id)

    @property
    def padding(self) -> int:
        """Id of the padding token; of the end token where a tokenizer has none."""
        own = self._tokenizer.pad_token_id
        return self.end if own is None else int(own)

    @property
    def unknown(self) -> int | None:
        """Id that stands for what the tokenizer does not know; None where it has none."""
        own = self._tokenizer.unk_token_id
        return None if own is None else int(own)

    @property
    def opening(self) -> list[int]:
        """Ids in front of the sign rows: what the tokenizer begins a decoder-only sequence with."""
        own = self._tokenizer("").input_ids if self.decoder_only else []
        return [token for token in own if token == self._tokenizer.bos_token_id]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of target sentences, the end token behind them."""
        if self.decoder_only:
            return [[*ids, self.end] for ids in self.prompts(texts)]
        return self.prompts(texts)

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of what stands behind the sign rows."""
        own = not self.decoder_only
        return [list(ids) for ids in self._tokenizer(list(texts), add_special_tokens=own).input_ids]

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        # Spaces before punctuation stay: a hypothesis is scored as it was generated.
        texts = self._tokenizer.batch_decode(
            [list(ids) for ids in sequences],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return [" ".join(text.split()) for text in texts]

    def written(self) -> list[str]:
        """What each id stands for by itself; nothing for special tokens."""
        return self.decode([[token] for token in range(len(self._tokenizer))])


def _refuse_own_class(path: Path) -> None:
    """Where a tokenizer is code of its own, transformers would take another in its place."""
    import transformers  # noqa: PLC0415

    given = checkpoints.read_json(path) if path.is_file() else {}
    kind = str(given.get("tokenizer_class"))
    if "AutoTokenizer" in (given.get("auto_map") or ()) and not hasattr(transformers, kind):
        raise WeightsError(
            "the tokenizer needs Python code that comes with it, and such code is never run",
            where=path,
            remedy="take a model whose tokenizer transformers itself has",
        )


def padded_ids(sequences: Sequence[Sequence[int]]) -> Tensor:
    """(sequences, longest) ids, padded with -100."""
    rows = [torch.tensor(ids, dtype=torch.long) for ids in sequences]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)


def packed_ids(sequences: Sequence[Sequence[int]]) -> Packed:
    """(sum of lengths,) ids."""
    sizes = tuple(map(len, sequences))
    return Packed(torch.tensor([*chain(*sequences)], dtype=torch.long), torch.tensor(sizes), sizes)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Counts over sentences in the corpus's convention.

    Attributes:
        sentences: how many there are.
        tokens: what they come to, end tokens left out.
        unknown: tokens among these that stand for anything the tokenizer does not know.
        lossy: sentences with such tokens, or whose letters do not all come back.
        long: sentences of more than ``limit`` tokens, end token included.
        longest: tokens of the longest one, end token included.
        limit: the most tokens of a sentence that are learnt and generated.
    """

    sentences: int
    tokens: int
    unknown: int
    lossy: int
    long: int
    longest: int
    limit: int


def coverage(tokens: Tokens, sentences: Sequence[str], limit: int) -> Coverage:
    """Count what is lost of ``sentences``.

    Args:
        limit: ``decode.max_tokens``.
    """
    encoded = tokens.encode(sentences)
    # The end token, which every sentence has, is none of its words.
    bare = [line[:-1] for line in encoded]
    unknown = [line.count(tokens.unknown) if tokens.unknown is not None else 0 for line in bare]
    back = tokens.decode(encoded)
    lossy = [
        count > 0 or _letters(text) != _letters(decoded)
        for count, text, decoded in zip(unknown, sentences, back, strict=True)
    ]
    lengths = [len(line) for line in encoded]
    return Coverage(
        sentences=len(encoded),
        tokens=sum(map(len, bare)),
        unknown=sum(unknown),
        lossy=sum(lossy),
        long=sum(length > limit for length in lengths),
        longest=max(lengths, default=0),
        limit=limit,
    )


def unknown_words(counts: Coverage, what: str) -> str | None:
    """A sentence with numbers on what the tokenizer does not know; None where it knows all.

    Args:
        what: whose sentences these are, as in ``train``.
    """
    if not counts.lossy:
        return None
    share = f"{counts.lossy:,} of {counts.sentences:,} sentences of {what}"
    if not counts.unknown:
        return f"{share} lose letters in the LLM's tokenizer"
    return (
        f"{counts.unknown:,} of {counts.tokens:,} target tokens of {what} are unknown to the LLM's "
        f"tokenizer ({counts.unknown / counts.tokens:.1%}), in {share}"
    )


def cut_words(counts: Coverage, what: str) -> str | None:
    """A sentence with numbers on what is too long to be said; None where nothing is."""
    if not counts.long:
        return None
    return (
        f"{counts.long:,} of {counts.sentences:,} sentences of {what} have more than "
        f"decode.max_tokens = {counts.limit} tokens and are cut there; the longest has "
        f"{counts.longest:,}"
    )


def _letters(text: str) -> str:
    return gist(unicodedata.normalize("NFKC", text))
