"""A corpus from its labels to its pixels: what would make results wrong, or is good to know."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from spamo_cache import extras, io, poses
from spamo_cache.datasets import registry
from spamo_cache.datasets.corpus import Corpus
from spamo_cache.datasets.layout import ABSENT, tally
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.overlap import gist, same_signers, same_videos
from spamo_cache.doctor import media
from spamo_cache.doctor.findings import Diagnosis, Finding, Level, diagnosis
from spamo_cache.errors import CorpusError, PoseError

SAMPLE = 64
"""Clips that are decoded by default."""

_BOM = b"\xef\xbb\xbf"
_LAST = {"dev": 1, "train": 2}
_APART = "`spamo-cache manifest --resplit signer` makes splits without shared signers or footage"
_GARBLED = (
    r"\x{fffd}|[ÃÂ][\x{80}-\x{bf}Ÿ]|â\x{20ac}"
    # Chinese; a blank and a quote that do not break lines follow French words rightly.
    r"|[ã-é][\x{80}-\x{9f}\x{a1}-\x{ba}\x{bc}-\x{bf}]{2}"
)
_TROUBLE = {
    "look garbled (UTF-8 that was read as Latin-1)": _GARBLED,
    "hold a byte order mark": r"\x{feff}",
    "hold control characters": r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{80}-\x{9f}]",
}


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
        ``terms``, ``sentences``, ``frames`` (of image folders), ``poses`` (clips that have one, by
        split), ``decoded`` and ``frame_sizes``.
    """
    try:
        manifest = load()
    except CorpusError as error:
        broken = Finding("error", error.what, error.where or str(root), error.remedy or "")
        return diagnosis([broken], {"root": str(root), **_known(corpus, root)})
    known = corpus or registry.CORPORA.get(manifest.corpus)
    seen = media.look_at_sources(manifest.clips(), root)
    facts = {
        "corpus": manifest.corpus,
        "root": str(root),
        "clips": dict(Counter(manifest.table["split"].to_pylist())),
        **_known(known, root),
        "sentences": _sentence_facts(manifest),
        **({"frames": dict(seen.frames)} if seen.frames else {}),
    }
    findings = [*_notes(manifest, root), *_sentence_findings(manifest)]
    with_pose, lacking = _poses(manifest, root)
    facts |= {"poses": with_pose} if with_pose else {}
    findings += lacking
    findings += media.source_findings(seen, root, missing={} if known is None else known.missing)
    if known is not None:
        counts = (facts["clips"], seen.frames) if not manifest.resplit else None
        findings += _published(known, root, counts)
    if not media.can_decode():
        findings.append(
            Finding("warning", "no clip was decoded", "Python", extras.how_to_install("av"))
        )
    elif sample != 0:
        chosen = _sampled(manifest.keep(seen.present), sample).clips()
        decoded = media.decode_sample(chosen, root, progress=progress)
        findings += media.video_findings(decoded, root, None if known is None else known.frame_size)
        facts |= decoded.facts()
    return diagnosis(findings, facts)


def _notes(manifest: Manifest, root: Path) -> Iterator[Finding]:
    if manifest.resplit:
        what = f"the splits are not the corpus's own: {manifest.resplit}"
        yield Finding("note", what, manifest.corpus, "published scores are of other splits")
    for note in manifest.notes:
        # Which videos are missing is looked up, split by split.
        if not note.startswith(ABSENT):
            yield Finding("note", note, str(root))


def _poses(manifest: Manifest, root: Path) -> tuple[dict[str, int], list[Finding]]:
    """Clips with a pose, by split, and who lacks one; nothing of a corpus without poses."""
    if not (root / poses.FOLDER).is_dir() and not manifest.table["pose"].drop_null():
        return {}, []
    found: Counter[str] = Counter()
    without: list[str] = []
    broken: list[str] = []
    for clip in manifest.clips():
        try:
            path = poses.find(clip, root)
        except PoseError:
            broken.append(clip.id)
            continue
        if path is None:
            without.append(clip.id)
        else:
            found[clip.split] += 1
    remedy = "region and pose streams fail these clips; `spamo-cache pose` makes poses"
    findings = [
        Finding("warning", what, str(root), remedy)
        for what in (
            *tally("clips whose pose is missing, or lies outside the corpus", broken),
            *tally("clips without a pose, which others have", without),
        )
    ]
    return dict(found), findings


def _published(
    corpus: Corpus, root: Path, counts: tuple[Mapping[str, int], Mapping[str, int]] | None
) -> Iterator[Finding]:
    """``counts``: clips and frames of each split; None where splits are not the published ones."""
    yield from (Finding("note", caveat, corpus.title) for caveat in corpus.caveats)
    yield from _label_findings(corpus, root)
    if counts is not None:
        yield from _counts("clips", counts[0], corpus.expected, corpus)
        yield from _counts("frames", counts[1], corpus.frames, corpus)


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
                mark = "the label file begins with a byte order mark"
                yield Finding("note", mark, str(path), "it is left out; other tools may keep it")


def _counts(
    what: str, counts: Mapping[str, int], published: Mapping[str, int], corpus: Corpus
) -> Iterator[Finding]:
    for split, expected in published.items():
        count = counts.get(split, 0)
        if count == expected:
            continue
        # Half a test set gives a score that looks like one of the whole.
        level: Level = "error" if count == 0 else "warning"
        differs = f"{split} has {count:,} {what}; {expected:,} are published"
        yield Finding(level, differs, corpus.title, "compare with the notes; always report n")


# --- sentences and ids: what stands in two splits, what a wrong encoding left behind --------------


def _sentence_findings(manifest: Manifest) -> Iterator[Finding]:
    """Overlaps of splits and encoding trouble."""
    yield from _overlaps(manifest)
    for column in ("id", "text"):
        yield from _encoding(manifest, column)


def _sentence_facts(manifest: Manifest) -> dict[str, int]:
    """What tells copies of a corpus apart whose texts were prepared differently."""
    text = manifest.table["text"]
    return {
        "distinct": pc.count_distinct(text).as_py(),
        "with capital letters": _count(pc.match_substring_regex(text, r"\p{Lu}")),
        "with final punctuation": _count(pc.match_substring_regex(text, r"\p{P}\s*$")),
    }


def _overlaps(manifest: Manifest) -> Iterator[Finding]:
    """What stands in two splits: a model can know it by heart."""
    # Test against dev, test against train, dev against train.
    splits = sorted(manifest.splits, key=lambda split: _LAST.get(split, 0))
    clips = {split: manifest.clips(split) for split in splits}
    for split, other in combinations(splits, 2):
        yield from _shared_sentences(manifest, clips, split, other)
        if shared := sum(same_videos(clips[other], clips[split])):
            footage = (
                f"{shared:,} of {len(clips[split]):,} clips of {split} show footage of {other}: "
                "the same video at overlapping times"
            )
            yield Finding("warning", footage, manifest.corpus, _APART)
        if other == "train":
            yield from _shared_signers(manifest, clips, split)


def _shared_sentences(
    manifest: Manifest, clips: Mapping[str, Sequence[Clip]], split: str, other: str
) -> Iterator[Finding]:
    own, others = ({gist(clip.text) for clip in clips[name]} for name in (split, other))
    if shared := own & others:
        overlap = (
            f"{len(shared):,} of {len(own):,} distinct sentences of {split} stand in {other} too"
        )
        remedy = "what is chosen on dev is then chosen on test" if other == "dev" else ""
        yield Finding("warning", overlap, manifest.corpus, remedy)


def _shared_signers(
    manifest: Manifest, clips: Mapping[str, Sequence[Clip]], split: str
) -> Iterator[Finding]:
    found = same_signers(clips["train"], clips[split])
    if any(found.known):
        words = found.words(split, "train")
        yield Finding("warning", words, manifest.corpus, _APART if split == "test" else "")
    if gaps := found.gaps(split, "train"):
        what = f"whether {split} shares signers with train is not known of all: {gaps}"
        yield Finding("note", what, manifest.corpus, "fill the manifest's column signer")


def _encoding(manifest: Manifest, column: str) -> Iterator[Finding]:
    values = manifest.table[column]
    kind = "ids" if column == "id" else "sentences"
    masks = {what: pc.match_substring_regex(values, sign) for what, sign in _TROUBLE.items()}
    # pyarrow's utf8_normalize gives NFD for NFC before release 26.
    composed = pa.array([unicodedata.normalize("NFC", text) for text in values.to_pylist()])
    masks["are not in Unicode's composed form (NFC)"] = pc.not_equal(values, composed)
    for what, mask in masks.items():
        names = manifest.table["id"].filter(mask).to_pylist()
        for line in tally(f"{kind} that {what}", map(_shown, names)):
            remedy = "save the table as UTF-8 in NFC; equal words must have equal bytes"
            yield Finding("warning", line, manifest.corpus, remedy)
    if column == "id" and pc.count_distinct(composed).as_py() < len(composed):
        twins = "some ids differ only in their Unicode form: file systems may take them for one"
        yield Finding("warning", twins, manifest.corpus, "rename one of them")


def _shown(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.cast(mask, pa.int64())).as_py())
