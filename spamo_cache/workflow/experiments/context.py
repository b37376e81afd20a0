"""What all experiments of a corpus share, and the features that their runs need."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamo_cache import config
from spamo_cache.cli import display
from spamo_cache.config import CacheSpec, Pipeline
from spamo_cache.errors import SpamoError
from spamo_cache.workflow import resolve
from spamo_cache.workflow.extract import extract as run_extract

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.extract.summary import Summary
    from spamo_cache.store.remote import Location
    from spamo_cache.workflow.experiments.plan import Extraction, Plan

FOLDER = "experiments"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentContext:
    """What all experiments of a corpus share.

    Attributes:
        pipeline: file of the base pipeline.
        overrides: what the user sets over it.
        out: folder of the corpus's runs; that of the experiments lies in it.
        corpus_root: of the raw corpus.
        work: options of the extraction.
    """

    pipeline: Path
    overrides: Sequence[str]
    out: Path
    table: Manifest
    corpus_root: Path
    store: str | None
    device: str
    work: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return self.out / FOLDER

    @property
    def manifest(self) -> Path:
        return self.out / "manifest.parquet"

    def load(self, changes: Sequence[str] = ()) -> Pipeline:
        """The base pipeline with ``changes`` over what the user set."""
        return config.load(self.pipeline, Pipeline, [*self.overrides, *changes])

    def digest(self, base: Pipeline) -> str:
        """Equal where runs of ``base`` answer the same question of the same clips."""
        from spamo_cache.runs.folder import identity
        from spamo_cache.train.run import settings

        clips = hashlib.sha256(self.table.to_bytes()).hexdigest()
        return identity({"settings": settings(base), "clips": clips})

    def load_spec(self, pipeline: Pipeline) -> CacheSpec:
        return resolve.spec_used(pipeline, self.pipeline.parent)[0]


@dataclass
class Features:
    """Where the streams lie that runs need, by ``stream_keys``, or why they are not there."""

    stores: dict[str, Location] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Clips without features, with the reason."""
    told: dict[str, int | str] = field(default_factory=dict)
    """Each extraction in words -> clips that it computed or copied, or would, or why not."""


def extract(setting: ExperimentContext, plan: Plan, *, dry_run: bool = False) -> Features:
    """Compute every stream that the runs of a plan need and no root holds."""
    from spamo_cache.workflow.experiments.plan import extractions

    found = Features()
    for needed in extractions(plan.runs.values(), setting.load_spec):
        told = _told(needed)
        display.say(f"features: {told}")
        try:
            summary = _extract(setting, needed, dry_run=dry_run)
        except SpamoError as error:
            found.faults |= dict.fromkeys(needed.streams.values(), f"no features: {error.what}")
            found.told[told] = error.what
            continue
        found.stores |= {key: summary.stores[name] for name, key in needed.streams.items()}
        found.failed |= dict(summary.failed)
        found.told[told] = summary.done + summary.copied
    return found


def _extract(setting: ExperimentContext, needed: Extraction, *, dry_run: bool) -> Summary:
    from spamo_cache.workflow.experiments.plan import TEST

    _, spec = resolve.spec_used(needed.pipeline, setting.pipeline.parent)
    return run_extract(
        manifest=setting.table,
        root=setting.corpus_root,
        spec=spec,
        store=setting.store,
        set=needed.pipeline.spec_set,
        streams=list(needed.streams),
        split=[TEST] if needed.tested else None,
        device=setting.device,
        dry_run=dry_run,
        watcher=display.TERMINAL,
        **setting.work,
    )


def _told(needed: Extraction) -> str:
    changes = ", ".join(config.overrides(needed.pipeline.spec_set)) or needed.pipeline.spec
    return f"{', '.join(needed.streams)} ({changes})" + (", test alone" if needed.tested else "")
