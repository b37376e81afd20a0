"""Translations of any system, from files or lists, scored as runs are and held to a corpus."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache import human, io
from spamo_cache.errors import CorpusError, UsageError
from spamo_cache.workflow import resolve

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.runs.records import ScoreWarning, SystemScores

HYPOTHESES = ("hypothesis", "prediction", "translation", "text")
"""Columns that hold translations; the first that is there counts."""
REFERENCES = ("reference", "text", "translation")
_IDS = ("id", "name")

_NAMED_LINES = (
    re.compile(r"sample: (?P<id>.+?)(?:\.mp4)?, (?:prediction|ground-truth): (?P<text>.*)"),
    re.compile(r"(?P<id>[^|\s]+)\|(?P<text>.*)"),
    re.compile(r"[DHT]-(?P<id>\d+)\t(?:-?\d[\d.e-]*\t)?(?P<text>.*)"),
    re.compile(r"(?P<id>\S+)\t(?P<text>[^\t]*)"),
)
"""Lines of text that name their clip: as Uni-Sign, SignJoey and fairseq write them, or by a tab."""
_FIRST_WORD = re.compile(r"(?P<id>\S+)(?: (?P<text>.*))?")
_NO_TEXT = re.compile(
    r"&(?:#\w+|[A-Za-z]+);|</?s>|<(?:pad|unk|bos|eos)>|@@(?= |$)|\u2581|^[\[{][\"']"
)
"""Escapes of HTML, what tokenizers add, and dumped lists: no system means to say it."""

Side = Sequence[str] | Mapping[str, str] | Path
"""Sentences in order, sentences by clip, or a file of either."""


def score(
    hypotheses: Side,
    references: Side,
    *,
    language: str = "",
    tokenize: str | None = None,
    corpus: str | None = None,
    split: str = "test",
    manifest: Path | str | None = None,
    root: Path | str | None = None,
    content_words: Path | str | None = None,
    bootstrap: int = 1000,
) -> SystemScores:
    """Score translations from anywhere as runs are scored; the texts are not changed.

    BLEU, chrF and TER are those of sacrebleu's command line. BLEURT is left out. Where both sides
    name their clips, they are paired by name, and a clip without a hypothesis counts as an empty
    one. With a manifest or ``root``, clips of the split that the references lack are told.

    Args:
        hypotheses: one per sentence, a mapping from clip to sentence, or the path of a file: JSON
            Lines, CSV or TSV with the column ``hypothesis``, ``prediction``, ``translation`` or
            ``text`` and perhaps ``id`` or ``name``; any other is text with a sentence per line,
            which may begin with its clip as Uni-Sign, SignJoey (``id|text``) and fairseq (``H-7``)
            write it, or with a blank or tab between them.
        references: likewise, with the column ``reference``, ``text`` or ``translation``; of a
            table with the column ``split``, the rows of ``split`` alone.
        language: of the references, in English (``German``); it only chooses the tokenizer. Empty
            is that of ``corpus``.
        tokenize: sacrebleu's tokenizer for BLEU; None: ``zh`` for texts without spaces between
            words, else ``13a``.
        corpus: name of the corpus, for its published figures and numbers of clips.
        split: the references' split.
        manifest: table of the corpus's clips.
        root: folder of the raw corpus, in place of a manifest.
        content_words: list of words and phrases that have to be right, one per line; None is
            that of the corpus, and without one numbers in digits.
        bootstrap: resamples behind the intervals; 0 leaves them out.

    Raises:
        ConfigError: the list of content words cannot be read.
        UsageError: no references, another number of hypotheses where clips are not named, clips
            that the references or the corpus do not have, an unknown tokenizer or corpus; a string
            in place of a list.
        CorpusError: a file that cannot be read, or lacks a column.
    """
    from spamo_cache.datasets import registry
    from spamo_cache.evaluate import content, conventions
    from spamo_cache.evaluate.published import published
    from spamo_cache.runs.records import SystemScores

    known = registry.CORPORA.get(corpus or "")
    if corpus is not None and known is None and manifest is None:
        registry.corpus(corpus)  # an error that names the nearest
    listed = None
    if manifest is not None or root is not None:
        listed = resolve.load_manifest(corpus, manifest, root)[0].select([split])
    words = content.content_list(corpus, None if content_words is None else Path(content_words))
    said, expected = _read(hypotheses, HYPOTHESES, None), _read(references, REFERENCES, split)
    pairs = _paired(_named_like(said, expected), _named_like(expected, said))
    scores = conventions.score(
        pairs.hypotheses,
        pairs.references,
        language=language or (known.text.language if known else ""),
        tokenize=tokenize or (known.text.tokenize if known and not language else None),
        bootstrap=bootstrap,
    )
    told = [
        *_odd(pairs),
        *_missing(pairs),
        *_against_corpus(pairs, corpus, split, listed),
        *scores.warnings,
    ]
    own = {field.name: getattr(scores, field.name) for field in fields(scores)}
    own["content"] = content.content_words(
        pairs.hypotheses, pairs.references, words, bootstrap=bootstrap
    )
    own["warnings"] = sorted(told, key=lambda warning: warning.severity == "note")
    return SystemScores(
        **own,
        corpus=corpus if listed is None else listed.corpus,
        split=split,
        published=published(corpus) if corpus and split == "test" else [],
        missing=pairs.missing,
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """Sentences, the clips that they are of if these are named, and where all that stands."""

    texts: Sequence[str]
    ids: Sequence[str] | None
    where: object


@dataclass(frozen=True, slots=True)
class _Pairs:
    hypotheses: Sequence[str]
    references: Sequence[str]
    ids: Sequence[str] | None
    missing: Sequence[str] = ()
    """Clips without a hypothesis."""
    by_order: bool = False
    """One side alone names its clips."""


def _read(side: Side, columns: Sequence[str], split: str | None) -> _Side:
    what = columns[0]
    if isinstance(side, str):
        raise UsageError(
            "one string is not a list of sentences",
            remedy="put it in a list, or give the path of a file as a pathlib.Path",
        )
    if isinstance(side, Mapping):
        return _checked(_Side(list(side.values()), list(side), f"the {what} side"))
    if not isinstance(side, Path):
        return _Side(list(side), None, f"the {what} side")
    with io.reading(side):
        return _checked(_from_file(side, columns, split))


def _from_file(path: Path, columns: Sequence[str], split: str | None) -> _Side:
    from spamo_cache.datasets import tables
    from spamo_cache.datasets.manifest import Manifest

    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        table = tables.read_json_lines(path)[0]
        # It has the columns of a manifest, whether the file does or not.
        held = [name for name in table.column_names if table[name].null_count < table.num_rows]
        table = table.select(held)
    elif kind in (".csv", ".tsv"):
        table = tables.read_separated(path)[0]
    elif kind == ".parquet":
        table = Manifest.read(path, "any").table
    elif kind == ".json":
        raise CorpusError(
            "is JSON, of which nothing says what holds the translations",
            where=path,
            remedy="write JSON Lines, CSV, TSV, or text with a sentence per line",
        )
    else:
        lines = tables.decoded(path).replace("\r\n", "\n").split("\n")
        return _of_lines(lines[:-1] if not lines[-1] else lines, path)
    found = {str(name).strip().lower(): table[name] for name in table.column_names}
    name = next((name for name in columns if name in found), None)
    if name is None:
        raise CorpusError(
            f"has no column {', '.join(map(repr, columns[:-1]))} or {columns[-1]!r} "
            f"(columns: {', '.join(table.column_names) or 'none'})",
            where=path,
            remedy=f"call the column of the sentences {columns[0]!r}",
        )
    kept = [True] * table.num_rows
    if split is not None and "split" in found:
        kept = [own == split for own in found["split"].to_pylist()]
        if not any(kept):
            raise UsageError(f"has no clip of split {split!r}", where=path)

    def column(key: str) -> list[str | None]:
        values = compress(found[key].to_pylist(), kept)
        return [None if value is None else str(value) for value in values]

    texts = [text or "" for text in column(name)]
    key = next((name for name in _IDS if name in found), None)
    if key is None:
        return _Side(texts, None, path)
    ids = [clip for clip in column(key) if clip is not None]
    if nameless := len(texts) - len(ids):
        words = f"{human.count(nameless, 'row has', 'rows have')} no {key}"
        raise CorpusError(words, where=path, remedy="name every clip")
    return _Side(texts, ids, path)


def _of_lines(lines: Sequence[str], path: Path) -> _Side:
    """Sentences, and their clips where lines name their own as a toolkit writes it.

    Raises:
        CorpusError: most lines do, and one does not.
    """
    told = {number: line for number, line in enumerate(lines, start=1) if line.strip()}
    for form in _NAMED_LINES:
        found = {number: form.fullmatch(line) for number, line in told.items()}
        named = [match for match in found.values() if match]
        if 2 * len(named) > len(told):
            if odd := [number for number, match in found.items() if match is None]:
                raise CorpusError(
                    f"{human.count(len(odd), 'line')} of {len(told):,} without a clip's name, the "
                    f"first is line {odd[0]:,}",
                    where=path,
                    remedy="write every sentence in one line that begins with its clip",
                )
            return _Side([match["text"] for match in named], [match["id"] for match in named], path)
    return _Side(lines, None, path)


def _named_like(side: _Side, other: _Side) -> _Side:
    """A side whose lines begin with the clips of the other one, as in ``clip-1 good evening``."""
    told = [line for line in side.texts if line.strip()] if side.ids is None else []
    found = [_FIRST_WORD.fullmatch(line) for line in told]
    firsts = [match["id"] for match in found if match]
    if not firsts or len(firsts) < len(found) or len(set(firsts)) < len(firsts):
        return side
    if other.ids is None:
        # Words that both sides begin with are names if there is a digit in all.
        known = {line.partition(" ")[0] for line in other.texts}
        names = all(any(map(str.isdigit, first)) for first in firsts) and len(firsts) > 1
        if not names or known != set(firsts):
            return side
    elif not set(firsts) <= set(other.ids):
        return side
    return replace(side, texts=[match["text"] or "" for match in found if match], ids=firsts)


def _checked(side: _Side) -> _Side:
    """The side, whose clips are all different."""
    twice = [clip for clip, count in Counter(side.ids or ()).items() if count > 1]
    if twice:
        raise UsageError(
            f"{human.count(len(twice), 'clip stands', 'clips stand')} there more than once, "
            f"first {twice[0]!r}",
            where=side.where,
            remedy="keep one sentence of each clip",
        )
    return side


def _paired(said: _Side, expected: _Side) -> _Pairs:
    """Hypothesis and reference of each clip, in the order of the references.

    Raises:
        UsageError: they cannot be paired.
    """
    if said.ids is None or expected.ids is None:
        if len(said.texts) != len(expected.texts):
            raise UsageError(
                f"{human.count(len(said.texts), 'hypothesis', 'hypotheses')} for "
                f"{human.count(len(expected.texts), 'reference')}",
                where=said.where,
                remedy="give one hypothesis per reference, an empty one where there is none, or "
                "name the clips of both in a column id",
            )
        ids = expected.ids or said.ids
        return _Pairs(said.texts, expected.texts, ids, by_order=ids is not None)
    known = dict(zip(said.ids, said.texts, strict=True))
    if unknown := sorted(known.keys() - set(expected.ids)):
        raise UsageError(
            f"{len(unknown)} of {len(known)} clips are not among the references, "
            f"first {unknown[0]!r}",
            where=said.where,
            remedy="check the split, and how both sides write their ids",
        )
    missing = [clip for clip in expected.ids if clip not in known]
    return _Pairs(
        [known.get(clip, "") for clip in expected.ids], expected.texts, expected.ids, missing
    )


def _odd(pairs: _Pairs) -> Iterator[ScoreWarning]:
    """What is probably not meant."""
    from spamo_cache.runs.records import ScoreWarning

    if pairs.by_order:
        yield ScoreWarning(
            kind="paired-by-order",
            words="One side alone names its clips, so sentences are paired in the order in which "
            "they stand.",
        )
    found = [match for text in pairs.hypotheses if (match := _NO_TEXT.search(text))]
    if found:
        yield ScoreWarning(
            kind="no-text",
            words=f"{len(found)} of {len(pairs.hypotheses)} hypotheses hold what nobody says, "
            f"first {found[0][0]!r}, and are scored as they stand.",
            clips=len(found),
            severity="warning",
        )


def _missing(pairs: _Pairs) -> Iterator[ScoreWarning]:
    from spamo_cache.runs.records import ScoreWarning

    if pairs.missing:
        yield ScoreWarning(
            kind="missing",
            words=f"{len(pairs.missing)} of {len(pairs.references)} clips have no hypothesis and "
            f"are scored as empty sentences; the first is {pairs.missing[0]}.",
            clips=len(pairs.missing),
        )


def _against_corpus(
    pairs: _Pairs, corpus: str | None, split: str, listed: Manifest | None
) -> Iterator[ScoreWarning]:
    """Whether the references are the clips that the corpus has.

    Raises:
        UsageError: they have clips that the corpus has not.
    """
    from spamo_cache.datasets.registry import CORPORA
    from spamo_cache.runs.records import ScoreWarning

    known = CORPORA.get(corpus or "")
    own = None if listed is None else [clip.id for clip in listed.clips()]
    expected = len(own) if own is not None else known.expected.get(split) if known else None
    dropped: list[str] = []
    if own is not None and pairs.ids is not None:
        if unknown := sorted(set(pairs.ids) - set(own)):
            raise UsageError(
                f"{len(unknown)} of {len(pairs.ids)} clips are not of split {split!r} of the "
                f"corpus, first {unknown[0]!r}",
                remedy="check --corpus and --split",
            )
        dropped = [clip for clip in own if clip not in set(pairs.ids)]
    if expected is None or expected == len(pairs.references):
        return
    first = f"; the first that is missing is {dropped[0]}" if dropped else ""
    scored = human.count(len(pairs.references), "clip is", "clips are")
    has = "has" if own is not None else "has, as published,"
    yield ScoreWarning(
        kind="other-clips",
        words=f"{scored} scored, {split} {has} {expected:,}{first}: "
        "scores of other clips cannot be compared.",
        clips=len(pairs.references),
        severity="warning",
    )
