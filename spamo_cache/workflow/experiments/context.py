"""What all experiments of a corpus share, and the features that their runs need."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamo_cache import config
from spamo_cache.config import CacheSpec, Pipeline
from spamo_cache.errors import SpamoError
from spamo_cache.workflow import resolve, stores
from spamo_cache.workflow.experiments.plan import FOLDER, TEST, Extraction, Plan, extractions
from spamo_cache.workflow.extract import extract
from spamo_cache.workflow.watcher import Watcher

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.store.remote import Location


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentContext:
    """What all experiments of a corpus share.

    Attributes:
        pipeline: file of the base pipeline.
        overrides: what the user sets over it.
        out: folder of the corpus's runs; that of the experiments lies in it.
        table: the clips, as ``manifest`` has or will have them.
        corpus_root: folder of the raw corpus.
        store: root of the feature stores; None is the first of ``SPAMO_CACHE``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        extraction: further options of the extraction.
        size: clips to draw of bundled corpora; None is the usual number.
        watcher: is told of progress and notices.
    """

    pipeline: Path
    overrides: Sequence[str]
    out: Path
    table: Manifest
    corpus_root: Path
    store: str | None
    device: str
    extraction: Mapping[str, Any]
    size: int | None
    watcher: Watcher

    @property
    def folder(self) -> Path:
        return self.out / FOLDER

    @property
    def manifest(self) -> Path:
        return self.out / "manifest.parquet"

    def load(self, changes: Sequence[str] = ()) -> Pipeline:
        """The base pipeline with ``changes`` over what the user set."""
        return config.load(self.pipeline, Pipeline, [*self.overrides, *changes])

    def load_spec(self, pipeline: Pipeline) -> CacheSpec:
        """The cache spec of a pipeline, with the pipeline's changes to it."""
        return resolve.spec_used(pipeline, self.pipeline.parent)[0]

    def corpus(self, name: str) -> tuple[Manifest, Path]:
        """The clips and the folder of the experiments' corpus, or of another to pretrain on.

        Raises:
            UsageError: where the other one lies is not known.
        """
        if name == self.table.corpus:
            return self.table, self.corpus_root
        known = stores.remembered(name)
        root = stores.at_hand(name, None)
        if known is not None and root is not None:
            return known, root
        return resolve.load_manifest(name, None, root, size=self.size, watcher=self.watcher)

    def digest(self, base: Pipeline) -> str:
        """Equal where runs of ``base`` answer the same question of the same clips."""
        from spamo_cache.runs.folder import identity
        from spamo_cache.train.run import settings

        clips = hashlib.sha256(self.table.to_bytes()).hexdigest()
        return identity({"settings": settings(base), "clips": clips})


@dataclass
class ExperimentFeatures:
    """The stores of the streams that runs need, by ``stream_keys``.

    Attributes:
        stores: where each stream lies.
        faults: why a stream is not there.
        failed: clips without features, with the reason.
        extractions: each extraction in words -> clips that it computed or copied, or would, or
            why not.
    """

    stores: dict[str, Location] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    extractions: dict[str, int | str] = field(default_factory=dict)


def extract_features(
    context: ExperimentContext, plan: Plan, *, dry_run: bool = False
) -> ExperimentFeatures:
    """Compute every stream that the runs of a plan need and no root holds."""
    features = ExperimentFeatures()
    for needed in extractions(plan.runs.values(), context.load_spec):
        label = _label(needed)
        context.watcher.notice(f"features: {label}")
        _, spec = resolve.spec_used(needed.pipeline, context.pipeline.parent)
        try:
            table, root = context.corpus(needed.pipeline.corpus)
            summary = extract(
                manifest=table,
                root=root,
                spec=spec,
                store=context.store,
                set=needed.pipeline.spec_set,
                streams=list(needed.streams),
                split=[TEST] if needed.tested else None,
                device=context.device,
                dry_run=dry_run,
                watcher=context.watcher,
                **context.extraction,
            )
        except SpamoError as error:
            reason = f"no features: {error.what}"
            features.faults |= dict.fromkeys(needed.streams.values(), reason)
            features.extractions[label] = error.what
            continue
        features.stores |= {key: summary.stores[name] for name, key in needed.streams.items()}
        features.failed |= dict(summary.failed)
        features.extractions[label] = summary.done + summary.copied
    return features


def _label(needed: Extraction) -> str:
    changes = ", ".join(config.overrides(needed.pipeline.spec_set)) or needed.pipeline.spec
    alone = ", test alone" if needed.tested else ""
    return f"{needed.pipeline.corpus}: {', '.join(needed.streams)} ({changes}){alone}"
