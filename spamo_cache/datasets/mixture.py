"""Several corpora in one manifest: to train on all of them, and to score on one.

Ids, files and signers of the other corpora carry the name of their corpus, ``NAME::ID``: what two
corpora call alike stays apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from spamo_cache.datasets.columns import KINDS
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import CorpusError

_MARK = "::"
_NAMED = ("id", "source", "signer")
"""Columns whose values mean something within their corpus alone."""


def mixed(target: Manifest, others: Mapping[str, Manifest], corpora: Collection[str]) -> Manifest:
    """The clips of a target, and those that the other corpora train on.

    Args:
        target: whose dev and test are kept.
        others: by name; of them training clips are taken.
        corpora: that are trained on; where the target is not among them, its training clips are
            left out.

    Raises:
        UsageError: one of the others has no training clips.
        CorpusError: an id of the target looks like that of another corpus.
    """
    for name in others:
        odd = pc.filter(target.table["id"], pc.starts_with(target.table["id"], name + _MARK))
        if len(odd):
            raise CorpusError(
                f"id {odd[0].as_py()!r} looks like one of corpus {name}",
                where=f"manifest of {target.corpus}",
                remedy=f"rename the clip, or train without {name}",
            )
    own = target
    if target.corpus not in corpora:
        own = target.keep(pc.not_equal(target.table["split"], "train"))
    tables = [named_apart(one.select(["train"])).table for one in others.values()]
    return replace(own, table=pa.concat_tables([own.table, *tables], promote_options="permissive"))


def named_apart(manifest: Manifest) -> Manifest:
    """What training needs of another corpus's manifest; ids, files and signers with its name."""
    kept = [c for c in manifest.table.column_names if c in KINDS or c.startswith("text_")]
    table = manifest.table.select(kept)
    for column in _NAMED:
        values = pc.binary_join_element_wise(manifest.corpus + _MARK, table[column], "")
        table = table.set_column(table.column_names.index(column), column, values)
    return replace(manifest, table=table)


def corpus_of(clip: str, target: str, corpora: Iterable[str]) -> str:
    """The corpus of a clip of a mixed manifest, by its id."""
    name, mark, _ = clip.partition(_MARK)
    return name if mark and name in corpora else target


def own_id(clip: str, corpus: str) -> str:
    """The id of a clip within its corpus."""
    return clip.removeprefix(corpus + _MARK)
