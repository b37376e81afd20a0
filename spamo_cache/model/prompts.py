"""What stands behind the sign rows: the instruction and, if asked for, in-context pairs.

No reference of dev or test can reach a prompt: pairs come from the training split alone, and
never from a sentence that also occurs in another split, nor from the clip's own. A pair is in the
clip's language.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from threading import Lock

from spamo_cache.config import LLMConfig, Pipeline
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.mixture import corpus_of
from spamo_cache.datasets.overlap import gist
from spamo_cache.errors import ConfigError
from spamo_cache.model.rows import Packed
from spamo_cache.model.text import normalise
from spamo_cache.model.tokens import Tokens, packed_ids


@dataclass(frozen=True, slots=True)
class Sentence:
    """A clip's text in the pipeline's convention, its language as the prompt names it, and its
    translations by language."""

    clip: str
    text: str
    language: str
    translations: Mapping[str, str] = field(default_factory=dict)


def instruction(config: LLMConfig, language: str) -> str:
    """The prompt without pairs.

    Raises:
        ConfigError: prompts are given by language, and this one has none.
    """
    if isinstance(config.prompt, str):
        template = config.prompt
    elif language in config.prompt:
        template = config.prompt[language]
    else:
        raise ConfigError(
            f"no prompt for language {language!r}",
            where=f"llm.prompt: {', '.join(config.prompt)}",
            remedy="add one, or give one prompt for all",
        )
    return template.replace("{language}", language)


def donors(
    training: Iterable[Sentence], held_out: Collection[str], languages: Sequence[str]
) -> list[Sentence]:
    """Training sentences that pairs can be made of.

    Args:
        held_out: every text of the other splits.

    Raises:
        ConfigError: none is translated into all of ``languages``.
    """
    hidden = frozenset(map(gist, held_out))
    kept = [
        sentence
        for sentence in training
        if gist(sentence.text) not in hidden and all(map(sentence.translations.get, languages))
    ]
    if not kept:
        columns = ", ".join(f"text_{name}" for name in languages)
        raise ConfigError(
            f"no training sentence can be shown in a prompt: none has {columns} and occurs in "
            "training alone",
            where=f"llm.in_context_languages: {list(languages)}",
            remedy="translate more training sentences, or leave the pairs out",
        )
    return kept


class Prompts:
    """Makes the prompts of a batch; the same ones for the same seed, clip and draw.

    Args:
        pipeline: prompt, languages of the pairs, protocol, seed.
        tokens: the LLM's tokenizer.
        training: the sentences of the training split, needed for pairs only.
        held_out: every text of the other splits.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        tokens: Tokens,
        training: Iterable[Sentence] = (),
        held_out: Collection[str] = (),
    ) -> None:
        self._pipeline = pipeline
        self._languages = pipeline.llm.in_context_languages
        self._leaky = pipeline.protocol.pairs_from_batch
        wanted = self._languages and not self._leaky
        self._donors = donors(training, held_out, self._languages) if wanted else []
        self._encode = lru_cache(4096)(lambda text: tokens.prompts([text])[0])
        # Batches are made by several threads, and not every tokenizer can be used by two at once.
        self._encoding = Lock()

    def ids(self, sentences: Sequence[Sentence], draw: int = 0) -> Packed:
        """Token ids, (sum of lengths,) and those lengths.

        Args:
            sentences: the clips of the batch.
            draw: pairs change with it; a step's number in training, 0 in evaluation.
        """
        texts = self.texts(sentences, draw)
        with self._encoding:
            return packed_ids([self._encode(text) for text in texts])

    def texts(self, sentences: Sequence[Sentence], draw: int = 0) -> list[str]:
        """One prompt per clip."""
        plain = [instruction(self._pipeline.llm, one.language) for one in sentences]
        if not self._languages:
            return plain
        shown = self._from_batch(sentences, draw) if self._leaky else self._drawn(sentences, draw)
        return [" ".join([text, *pairs]) for text, pairs in zip(plain, shown, strict=True)]

    def _drawn(self, sentences: Sequence[Sentence], draw: int) -> list[list[str]]:
        return [self._pairs(self._donor(one, draw)) for one in sentences]

    def _donor(self, sentence: Sentence, draw: int) -> Sentence | None:
        # By the clip, not by its place: neither batches nor their order change a prompt.
        start = self._chance(f"{sentence.clip} {draw}").randrange(len(self._donors))
        around = chain(range(start, len(self._donors)), range(start))
        others = (self._donors[place] for place in around)
        alike = (one for one in others if one.language == sentence.language)
        own = gist(sentence.text)
        return next((one for one in alike if gist(one.text) != own), None)

    def _from_batch(self, sentences: Sequence[Sentence], draw: int) -> list[list[str]]:
        order = list(range(len(sentences)))
        self._chance(f"{sentences[0].clip} {draw}").shuffle(order)
        # Everybody gets the next one's pairs, so nobody their own; alone there is no next one.
        following = dict(zip(order, order[1:] + order[:1], strict=True))
        return [
            self._pairs(sentences[following[place]] if len(order) > 1 else None)
            for place in range(len(order))
        ]

    def _pairs(self, donor: Sentence | None) -> list[str]:
        if donor is None:
            return []
        sources = [donor.translations.get(language) for language in self._languages]
        return [f"{source}={donor.text}" for source in sources if source]

    def _chance(self, what: str) -> random.Random:
        return random.Random(f"{self._pipeline.seed} pairs {what}")  # noqa: S311


def prompts_of(pipeline: Pipeline, manifest: Manifest, tokens: Tokens) -> Prompts:
    """The prompts of a corpus: pairs from its training split only.

    Raises:
        UsageError: pairs are asked for and the manifest has no training split.
        ConfigError: no training sentence is translated into the languages asked for.
    """
    if not pipeline.llm.in_context_languages:
        return Prompts(pipeline, tokens)
    training = [sentence_of(clip, pipeline) for clip in manifest.clips("train")]
    held_out = [
        normalise(clip.text, pipeline.text) for clip in manifest.clips() if clip.split != "train"
    ]
    return Prompts(pipeline, tokens, training, held_out)


def sentence_of(clip: Clip, pipeline: Pipeline) -> Sentence:
    """A clip's sentence in the pipeline's text convention, with the translations to show."""
    columns = {name: clip.extra.get(f"text_{name}") for name in pipeline.llm.in_context_languages}
    translations = {name: " ".join(str(text).split()) for name, text in columns.items() if text}
    text = normalise(clip.text, pipeline.text)
    return Sentence(clip.id, text, _language(clip, pipeline), translations)


def _language(clip: Clip, pipeline: Pipeline) -> str:
    """As the prompt names it: the clip's own where prompts differ, or the clip's corpus does."""
    named = not isinstance(pipeline.llm.prompt, str)
    foreign = corpus_of(clip.id, pipeline.corpus, pipeline.others) != pipeline.corpus
    return clip.language if named or foreign else pipeline.text.language


def check_prompts(pipeline: Pipeline, manifest: Manifest) -> None:
    """See that there is a prompt for every clip.

    Raises:
        ConfigError: prompts are given by language, and a clip's has none.
    """
    for language in {sentence_of(clip, pipeline).language for clip in manifest.clips()}:
        instruction(pipeline.llm, language)
