"""Every stage, from the videos of a corpus to a translated test set.

Calls what the single commands call: doing the stages by hand gives the same numbers.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spamo_cache import config, io
from spamo_cache.errors import UsageError
from spamo_cache.workflow import DRAWN, EMBEDDED, resolve
from spamo_cache.workflow.evaluate import evaluate
from spamo_cache.workflow.extract import extract
from spamo_cache.workflow.report import report
from spamo_cache.workflow.resolve import Changes
from spamo_cache.workflow.timings import StageTimings, size_of
from spamo_cache.workflow.train import train
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from spamo_cache.config import Pipeline
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.runs.records import Scorecard

_MANIFEST = "manifest.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A corpus, where it is, and how its features are computed; see ``reproduce``."""

    corpus: str
    root: Path | str | None = None
    manifest: Path | str | None = None
    size: int | None = None
    limit: int | None = None
    pipeline: str | Path | None = None
    set: Changes = ()
    store: str | None = None
    output: Path | str | None = None
    device: str = "auto"
    workers: int | None = None
    executor: Literal["dask", "serial"] = "dask"

    @property
    def out(self) -> Path:
        """The folder of the corpus's runs."""
        sized = self.corpus if self.size is None else f"{self.corpus}-{self.size}"
        return Path("runs") / sized if self.output is None else Path(self.output)

    @property
    def base(self) -> str:
        """The pipeline, by name or path."""
        return str(self.pipeline or self.corpus)

    def load_pipeline(self) -> tuple[Pipeline, Path]:
        """The pipeline and its file.

        Raises:
            UsageError: none comes with the corpus, or it is for another one.
        """
        table = "FILE" if self.manifest is None else self.manifest
        write = shlex.join(["spamo-cache", "init", self.corpus, "--manifest", str(table)])
        if self.pipeline is None and not (config.shipped("pipelines") / self.corpus).is_dir():
            raise UsageError(
                f"no pipeline comes with corpus {self.corpus!r}",
                remedy=f"write one by `{write}`, and name it by --pipeline {self.corpus}.yaml",
            )
        pipeline, path = resolve.named_pipeline(self.base, resolve.changes(self.set))
        if pipeline.corpus != self.corpus:
            raise UsageError(
                f"the pipeline is for corpus {pipeline.corpus!r}, not {self.corpus!r}",
                where=path,
                remedy=f"change that by --set corpus={self.corpus}, or write one by `{write}`",
            )
        return pipeline, path

    def load_manifest(self, watcher: Watcher) -> tuple[Manifest, Path]:
        """The clips, and the folder of the raw corpus."""
        return resolve.load_manifest(
            self.corpus,
            self.manifest,
            self.root,
            size=self.size,
            limit=self.limit,
            watcher=watcher,
        )


EXPECTED_BLEU4 = 57.16, 63.24
"""Lowest and highest BLEU-4 on test that were measured of the bundled corpus as it is shipped:
seeds 0 to 2 on one machine (58.74 to 63.24, ``benchmarks/ablations.py``) and seed 0 on two other
kinds of CPU (57.16 and 58.17); see docs/log.md. None of them is a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """What came out of all stages.

    Attributes:
        path: folder of the run.
        report: the page.
        card: scores on test.
        failed: clips without features, with the reason.
        failed_sources: of these clips their files or folders, below the corpus's root.
        stages: what each stage took and left on disk, by name.
        expected: lowest and highest BLEU-4 that were measured of the same; None of other corpora
            and settings.
    """

    path: Path
    report: Path
    card: Scorecard
    failed: Sequence[tuple[str, str]]
    failed_sources: Mapping[str, str]
    stages: StageTimings
    expected: tuple[float, float] | None = None


def corpus_of(
    corpus: str | None,
    manifest: Path | str | None,
    pipeline: str | Path | None,
    changes: Changes = (),
) -> str:
    """The corpus that is meant: as it is named, else as the table or the pipeline says.

    Args:
        changes: to the pipeline.

    Raises:
        UsageError: a table of no name, and no pipeline that has one.
        CorpusError: the table cannot be read.
    """
    from spamo_cache.datasets.manifest import Manifest

    if corpus is not None:
        return corpus
    listed = resolve.changes(changes)
    named = None if pipeline is None else resolve.named_pipeline(pipeline, listed)[0].corpus
    if manifest is None:
        return named or EMBEDDED
    try:
        return Manifest.read(Path(manifest)).corpus
    except UsageError:
        if named is None:
            raise
        return named


def reproduce(
    corpus: str | None = None,
    *,
    root: Path | str | None = None,
    manifest: Path | str | None = None,
    size: int | None = None,
    limit: int | None = None,
    pipeline: str | Path | None = None,
    set: Changes = (),  # noqa: A002 (the option's name)
    store: str | None = None,
    output: Path | str | None = None,
    device: str = "auto",
    workers: int | None = None,
    executor: Literal["dask", "serial"] = "dask",
    watcher: Watcher = QUIET,
) -> Reproduction:
    """Run all stages: corpus, manifest, extract, train, evaluate, report.

    Finished work is reused; rerun it after an interruption, and it resumes.

    Args:
        corpus: corpus by name; of a manifest, the name that you give it. None is what the manifest
            or the pipeline says, else the bundled one.
        root: folder of the raw corpus; of a manifest's sources, by default the folder it lies in.
        manifest: table of the clips, in place of a known corpus.
        size: clips of the bundled corpus to draw.
        limit: at most this many clips of each split.
        pipeline: by name or path; None is the corpus's default.
        set: changes to the pipeline, as ``{"translate.lr": 1e-4}``.
        store: root to write features to; None is the first of ``SPAMO_CACHE``.
        output: folder of the run and the page; None is ``runs/CORPUS``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: processes that extract; None is one per GPU, or one with all cores.
        executor: ``serial`` extracts in this process.
        watcher: is told of progress and notices.

    Raises:
        SpamoError: what stops a stage, as that stage raises it. Failed clips stop none.
    """
    source = Source(
        corpus=corpus_of(corpus, manifest, pipeline, set),
        root=root,
        manifest=manifest,
        size=size,
        limit=limit,
        pipeline=pipeline,
        set=set,
        store=store,
        output=output,
        device=device,
        workers=workers,
        executor=executor,
    )
    return reproduce_source(source, watcher)


def reproduce_source(source: Source, watcher: Watcher = QUIET) -> Reproduction:
    """As ``reproduce``, of a source."""
    from spamo_cache.model.llm import check_llm
    from spamo_cache.model.weights import locate
    from spamo_cache.train.data import check_pairs, selection_split
    from spamo_cache.train.monitoring import check_curves

    out = source.out
    pipeline, path = source.load_pipeline()
    check_source(source, pipeline, path.parent)
    check_curves(pipeline)
    drawn = resolve.is_there(source.corpus, source.root, source.size)
    if source.manifest is None and not drawn:
        # Drawing takes minutes.
        check_llm(locate(pipeline.llm.weights, path.parent), pipeline.llm)
    stages = StageTimings(out / "stages.json", watcher)
    table, root = prepare(source, stages, watcher)
    # Extraction may take days: what would stop training after it is raised now.
    check_llm(locate(pipeline.llm.weights, path.parent), pipeline.llm)
    for split in ("train", selection_split(pipeline, table)):
        table.select([split])
        check_pairs(pipeline, table, split)
    table.select(["test"])
    with stages.stage("extract") as stage:
        extracted = extract(
            manifest=table,
            root=root,
            spec=resolve.spec_used(pipeline, path.parent)[1],
            store=source.store,
            set=pipeline.spec_set,
            streams=pipeline.streams,
            device=source.device,
            workers=source.workers,
            executor=source.executor,
            watcher=watcher,
        )
        stage.reused = extracted.done == 0
        local = (path for path in extracted.stores.values() if isinstance(path, Path))
        stage.bytes = sum(map(size_of, local))
    with stages.stage("train") as stage:
        trained = train(
            source.base,
            set=source.set,
            manifest=out / _MANIFEST,
            features={name: str(path) for name, path in extracted.stores.items()},
            store=source.store,
            output=out / pipeline.name,
            device=source.device,
            watcher=watcher,
        )
        run = trained.path
        stage.reused, stage.bytes = trained.reused, size_of(run / "model.safetensors")
    with stages.stage("evaluate") as stage:
        before = _written(run / "evaluation" / "test.json")
        card = evaluate(run, store=source.store, device=source.device, watcher=watcher)
        stage.reused = before == _written(run / "evaluation" / "test.json")
        stage.bytes = size_of(run / "evaluation")
    with stages.stage("report") as stage:
        page = report(run, out / "report.html", root=root)
        stage.bytes = size_of(page)
    changed = (source.manifest, source.size, source.limit, source.pipeline, *source.set)
    as_shipped = source.corpus == EMBEDDED and not any(changed)
    return Reproduction(
        path=run,
        report=page,
        card=card,
        failed=extracted.failed,
        failed_sources=extracted.failed_sources,
        stages=stages,
        expected=EXPECTED_BLEU4 if as_shipped else None,
    )


def check_source(source: Source, pipeline: Pipeline, base: Path) -> None:
    """Raise whatever is wrong and can be seen before the corpus is read, or even drawn.

    Args:
        base: folder of the pipeline's file.
    """
    from spamo_cache.extract.extraction import check

    spec, _ = resolve.spec_used(pipeline, base)
    check(
        spec,
        streams=pipeline.streams,
        executor=source.executor,
        workers=source.workers,
        scheduler=None,
        slurm=None,
        device=source.device,
        dry_run=False,
        calibrate=False,
    )
    io.check_folder(source.out)
    io.check_folder(resolve.store_root(source.store))


def prepare(source: Source, stages: StageTimings, watcher: Watcher) -> tuple[Manifest, Path]:
    """The manifest, kept beside the runs, and the folder of the raw corpus."""
    with stages.stage("corpus") as stage:
        given = source.manifest is not None
        stage.reused = given or resolve.is_there(source.corpus, source.root, source.size)
        table, root = source.load_manifest(watcher)
        # Only what this project draws: walking through a real one takes longer than reading it.
        stage.bytes = size_of(root) if source.corpus in DRAWN else 0
    with stages.stage("manifest") as stage:
        stage.bytes = size_of(table.write(source.out / _MANIFEST))
    return table, root


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None
