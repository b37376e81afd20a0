"""Sentences and ids: what stands in two splits, what a wrong encoding left behind."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pyarrow as pa
import pyarrow.compute as pc

from spamo_cache.datasets.doctor.findings import Finding
from spamo_cache.datasets.layout import tally
from spamo_cache.datasets.manifest import Manifest

_LAST = {"dev": 1, "train": 2}
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


def check(manifest: Manifest) -> Iterator[Finding]:
    """Overlaps of splits and encoding trouble."""
    yield from _overlaps(manifest)
    for column in ("id", "text"):
        yield from _encoding(manifest, column)


def facts(manifest: Manifest) -> dict[str, int]:
    """What tells copies of a corpus apart whose texts were prepared differently."""
    text = manifest.table["text"]
    return {
        "distinct": pc.count_distinct(text).as_py(),
        "with capital letters": _count(pc.match_substring_regex(text, r"\p{Lu}")),
        "with final punctuation": _count(pc.match_substring_regex(text, r"\p{P}\s*$")),
    }


def _overlaps(manifest: Manifest) -> Iterator[Finding]:
    """Sentences that stand in two splits: a model can know them by heart."""
    # Test against dev, test against train, dev against train.
    splits = sorted(manifest.splits, key=lambda split: _LAST.get(split, 0))
    texts = {
        split: {text.strip() for text in manifest.select([split]).table["text"].to_pylist()}
        for split in splits
    }
    for split, other in combinations(splits, 2):
        if shared := texts[split] & texts[other]:
            told = (
                f"{len(shared):,} of {len(texts[split]):,} distinct sentences of {split} "
                f"stand in {other} too"
            )
            remedy = "what is chosen on dev is then chosen on test" if other == "dev" else ""
            yield Finding("warning", told, manifest.corpus, remedy)


def _encoding(manifest: Manifest, column: str) -> Iterator[Finding]:
    values = manifest.table[column]
    what = "ids" if column == "id" else "sentences"
    masks = {told: pc.match_substring_regex(values, sign) for told, sign in _TROUBLE.items()}
    composed = pc.utf8_normalize(values, form="NFC")
    masks["are not in Unicode's composed form (NFC)"] = pc.not_equal(values, composed)
    for told, mask in masks.items():
        names = manifest.table["id"].filter(mask).to_pylist()
        for line in tally(f"{what} that {told}", map(_shown, names)):
            remedy = "save the table as UTF-8 in NFC; equal words must have equal bytes"
            yield Finding("warning", line, manifest.corpus, remedy)
    if column == "id" and pc.count_distinct(composed).as_py() < len(composed):
        told = "some ids differ only in their Unicode form: file systems may take them for one"
        yield Finding("warning", told, manifest.corpus, "rename one of them")


def _shown(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.cast(mask, pa.int64())).as_py())
