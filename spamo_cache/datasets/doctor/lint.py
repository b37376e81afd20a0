"""A corpus from its labels to its pixels, each kind of check in a module of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from spamo_cache import io
from spamo_cache.datasets import registry
from spamo_cache.datasets.corpus import Corpus
from spamo_cache.datasets.doctor import sentences, sources, videos
from spamo_cache.datasets.doctor.findings import Diagnosis, Finding, Level, diagnosis
from spamo_cache.datasets.layout import ABSENT
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import CorpusError

SAMPLE = 64
"""Clips that are decoded when not all are asked for."""

_EXTRA = "pip install 'spamo-cache[extract]'"
_BOM = b"\xef\xbb\xbf"


def lint(
    root: Path,
    load: Callable[[], Manifest],
    *,
    corpus: Corpus | None = None,
    sample: int | None = SAMPLE,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Check a corpus, known by name or given by its manifest.

    Args:
        root: folder that the manifest's sources are relative to.
        load: gives the manifest; a CorpusError it raises is a finding.
        corpus: what is known about it; None takes it from the manifest's name.
        sample: number of clips to decode, spread over the splits; None for all, 0 for none.
        progress: called with the clips decoded so far and their number.

    Returns:
        Findings, and the facts ``corpus``, ``root``, ``clips``, ``conventions``, ``labels``,
        ``terms``, ``sentences``, ``frames`` (of image folders), ``decoded`` and ``frame_sizes``.
    """
    try:
        manifest = load()
    except CorpusError as error:
        broken = Finding("error", error.what, error.where or str(root), error.remedy or "")
        return diagnosis([broken], {"root": str(root), **_known(corpus, root)})
    known = corpus or registry.CORPORA.get(manifest.corpus)
    seen = sources.look(manifest.clips(), root)
    facts = {
        "corpus": manifest.corpus,
        "root": str(root),
        "clips": dict(Counter(manifest.table["split"].to_pylist())),
        **_known(known, root),
        "sentences": sentences.facts(manifest),
        **({"frames": dict(seen.frames)} if seen.frames else {}),
    }
    found = [*_notes(manifest, root), *sentences.check(manifest)]
    found += sources.check(seen, root, missing={} if known is None else known.missing)
    if known is not None:
        found += _published(known, root, facts["clips"], seen.frames)
    if not videos.readable():
        found.append(Finding("warning", "no clip was decoded", "Python", _EXTRA))
    elif sample != 0:
        chosen = _sampled(manifest.keep(seen.present), sample).clips()
        looked = videos.look(chosen, root, progress=progress)
        found += videos.check(looked, root, None if known is None else known.frame_size)
        facts |= looked.facts()
    return diagnosis(found, facts)


def _notes(manifest: Manifest, root: Path) -> Iterator[Finding]:
    for note in manifest.notes:
        # Which videos are missing is looked up, split by split.
        if not note.startswith(ABSENT):
            yield Finding("note", note, str(root))


def _published(
    corpus: Corpus, root: Path, clips: Mapping[str, int], frames: Mapping[str, int]
) -> Iterator[Finding]:
    yield from (Finding("note", caveat, corpus.title) for caveat in corpus.caveats)
    yield from _label_findings(corpus, root)
    yield from _counts("clips", clips, corpus.expected, corpus)
    yield from _counts("frames", frames, corpus.frames, corpus)


def _sampled(manifest: Manifest, sample: int | None) -> Manifest:
    if sample is None or sample >= len(manifest):
        return manifest
    return manifest.limit(max(1, sample // len(manifest.splits)))


def _known(corpus: Corpus | None, root: Path) -> dict[str, Any]:
    if corpus is None:
        return {}
    hashes = {
        path.relative_to(root).as_posix(): io.file_sha256(path) for path in _files(corpus, root)
    }
    conventions = {
        "sign_language": corpus.sign_language,
        "fps": corpus.fps,
        **corpus.text.model_dump(),
    }
    return {"conventions": conventions, "labels": hashes, "terms": corpus.terms}


def _files(corpus: Corpus, root: Path) -> list[Path]:
    try:
        return corpus.labels(root)
    except CorpusError:
        # Reading the corpus tells what is wrong with its labels.
        return []


def _label_findings(corpus: Corpus, root: Path) -> Iterator[Finding]:
    for path in _files(corpus, root):
        with path.open("rb") as file:
            if file.read(len(_BOM)) == _BOM:
                told = "the label file begins with a byte order mark"
                yield Finding("note", told, str(path), "it is left out; other tools may keep it")


def _counts(
    what: str, counts: Mapping[str, int], published: Mapping[str, int], corpus: Corpus
) -> Iterator[Finding]:
    for split, expected in published.items():
        found = counts.get(split, 0)
        if found == expected:
            continue
        # Half a test set gives a score that looks like one of the whole.
        level: Level = "error" if found == 0 else "warning"
        told = f"{split} has {found:,} {what}; {expected:,} are published"
        yield Finding(level, told, corpus.title, "compare with the notes; always report n")
