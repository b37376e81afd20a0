"""What a careful colleague would check before work begins: the corpus, and this machine.

Both checks return a :class:`Diagnosis`. Only an ``error`` makes results wrong; a ``warning`` is
to be known, a ``note`` is good to know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow.compute as pc

from spamo_cache.datasets.layout import tally
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.registry import Corpus
from spamo_cache.errors import CorpusError, VideoError

Level = Literal["error", "warning", "note"]
Probe = Callable[[Path, Clip], int]
"""Corpus root and clip -> number of frames; raises VideoError."""

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
_OVERLAPS = (("test", "dev"), ("test", "train"), ("dev", "train"))

SAMPLE = 64
"""Clips whose frames are counted when not all are asked for."""


@dataclass(frozen=True)
class Finding:
    """One thing to know, with what to do about it."""

    level: Level
    what: str
    where: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Findings, worst first, and the facts they rest on (JSON-ready)."""

    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether something found would make results wrong."""
        return any(finding.level == "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "failed": self.failed,
            "findings": [asdict(finding) for finding in self.findings],
            "facts": dict(self.facts),
        }


def diagnosis(findings: Iterable[Finding], facts: Mapping[str, Any]) -> Diagnosis:
    """Put findings in order: errors, warnings, notes; each kind as found."""
    rank = {"error": 0, "warning": 1, "note": 2}
    return Diagnosis(tuple(sorted(findings, key=lambda found: rank[found.level])), facts)


def lint(
    root: Path,
    *,
    corpus: Corpus | None = None,
    manifest: Manifest | None = None,
    probe: Probe | None = None,
    sample: int | None = SAMPLE,
    window: int = 16,
) -> Diagnosis:
    """Check a corpus, known by name or given by its manifest.

    Args:
        root: folder that the manifest's sources are relative to.
        corpus: what is known about it; needed where no manifest is given.
        manifest: its clips; read from ``root`` if not given.
        probe: counts the frames of a clip; without one, no video is opened.
        sample: number of clips probed, spread over the splits; None for all.
        window: frames of a motion window; shorter clips are padded with their last frame.

    Returns:
        Findings, and the facts ``clips``, ``labels``, ``terms`` and ``probed``.
    """
    if manifest is None:
        if corpus is None:
            raise CorpusError("neither a corpus nor a manifest was given", where=root)
        try:
            manifest = corpus.read(root)
        except CorpusError as error:
            broken = Finding("error", error.what, error.where or str(root), error.remedy or "")
            return diagnosis([broken], _label_facts(corpus, root))
    counts = {split: len(manifest.select([split])) for split in manifest.splits}
    facts: dict[str, Any] = {"corpus": manifest.corpus, "root": str(root), "clips": counts}
    findings = [Finding("note", note, str(root)) for note in manifest.notes]
    findings += _presence(manifest.clips(), root)
    findings += _sentences(manifest)
    if corpus is not None:
        findings += _counts(counts, corpus)
        facts |= _label_facts(corpus, root)
    if probe is not None:
        chosen = _sampled(manifest, sample)
        findings += _frames(chosen, root, probe, window)
        facts["probed"] = len(chosen)
    return diagnosis(findings, facts)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _label_facts(corpus: Corpus, root: Path) -> dict[str, Any]:
    try:
        files = corpus.labels(root)
    except CorpusError:
        files = []
    hashes = {path.relative_to(root).as_posix(): file_sha256(path) for path in files}
    return {"terms": corpus.terms, "labels": hashes}


def _counts(counts: Mapping[str, int], corpus: Corpus) -> Iterator[Finding]:
    for split, published in corpus.expected.items():
        found = counts.get(split, 0)
        if found == published:
            continue
        # Half a test set gives a score that looks like one of the whole.
        level: Level = "error" if found == 0 else "warning"
        told = f"{split} has {found:,} clips; {published:,} are published"
        yield Finding(level, told, corpus.name, "compare with the notes above; always report n")


def _presence(clips: Iterable[Clip], root: Path) -> Iterator[Finding]:
    """Sources that are missing or empty; every distinct source is looked at once."""
    missing: dict[str, list[str]] = {}
    empty: dict[str, list[str]] = {}
    states: dict[str, str] = {}
    for clip in clips:
        state = states.get(clip.source)
        if state is None:
            state = states[clip.source] = _state(root, clip.source)
        if state != "ok":
            group = missing if state == "missing" else empty
            group.setdefault(clip.split, []).append(clip.id)
    for word, groups in (("missing", missing), ("empty", empty)):
        for split, names in groups.items():
            for told in tally(f"{split}: clips whose video is {word}", names):
                remedy = "fetch them, or report scores with the n that is left"
                yield Finding("error", told, str(root), remedy)


def _state(root: Path, source: str) -> str:
    folder, pattern = root / PurePosixPath(source).parent, PurePosixPath(source).name
    path = root / source
    try:
        if _is_glob(str(PurePosixPath(source).parent)):
            return "ok" if next(root.glob(source), None) else "missing"
        if _is_glob(pattern):
            if not folder.is_dir():
                return "missing"
            return "ok" if next(folder.glob(pattern), None) else "empty"
        if path.is_dir():
            pictures = (item for item in path.iterdir() if item.suffix.lower() in PICTURES)
            return "ok" if next(pictures, None) else "empty"
        return "ok" if path.stat().st_size else "empty"
    except OSError:
        return "missing"


def _is_glob(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _sentences(manifest: Manifest) -> Iterator[Finding]:
    """Sentences that stand in two splits: a model can know them by heart."""
    texts = {
        split: {text.strip() for text in manifest.select([split]).table["text"].to_pylist()}
        for split in manifest.splits
    }
    for split, other in _OVERLAPS:
        if split not in texts or other not in texts:
            continue
        shared = texts[split] & texts[other]
        if shared:
            told = (
                f"{len(shared):,} of {len(texts[split]):,} distinct sentences of {split} "
                f"stand in {other} too"
            )
            remedy = "what is chosen on dev is then chosen on test" if other == "dev" else ""
            yield Finding("warning", told, manifest.corpus, remedy)
    garbled = pc.match_substring_regex(manifest.table["text"], "\ufffd|Ã[¤¶¼Ÿ©]")
    count = pc.sum(pc.cast(garbled, "int64")).as_py()
    if count:
        told = f"{count:,} sentences look garbled (a wrong text encoding)"
        yield Finding("warning", told, manifest.corpus, "save the table as UTF-8")


def _sampled(manifest: Manifest, sample: int | None) -> list[Clip]:
    if sample is None or sample >= len(manifest):
        return manifest.clips()
    return manifest.limit(max(1, sample // len(manifest.splits))).clips()


def _frames(clips: list[Clip], root: Path, probe: Probe, window: int) -> Iterator[Finding]:
    unreadable: list[str] = []
    short: list[str] = []
    for clip in clips:
        try:
            if probe(root, clip) < window:
                short.append(clip.id)
        except VideoError as error:
            unreadable.append(f"{clip.id}: {error.what}")
    for told in tally("unreadable clips", unreadable):
        yield Finding("error", told, str(root), "fetch these videos again")
    for told in tally(f"clips shorter than a window of {window} frames", short):
        yield Finding("note", told, str(root), "their last frame is repeated")
