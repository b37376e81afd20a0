"""Stage 2: features and sentences -> a translator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache import devices, human, io
from spamo_cache.config import Pipeline
from spamo_cache.workflow import EMBEDDED, resolve
from spamo_cache.workflow.frames import input_streams
from spamo_cache.workflow.resolve import Assignments, Changes
from spamo_cache.workflow.stores import pipeline_stores, with_corpora
from spamo_cache.workflow.watcher import QUIET, Advance, Watcher

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.train import RunSummary


def train(
    pipeline: str | Path = EMBEDDED,
    *,
    set: Changes = (),  # noqa: A002 (the option's name)
    manifest: Path | str | None = None,
    features: Assignments = (),
    store: str | Path | None = None,
    root: Path | str | None = None,
    output: Path | str | None = None,
    import_official: Path | str | None = None,
    device: str = "auto",
    watcher: Watcher = QUIET,
) -> RunSummary:
    """Train a translator: VT-Align, then translation. Reruns resume; a finished run is reused.

    Args:
        pipeline: file of the pipeline, or a folder of ``pipelines/`` by name.
        set: changes to the pipeline, as ``{"translate.lr": 1e-4}``.
        manifest: sentences to train on; None takes those that were extracted last.
        features: stream -> store to read it from; the other streams' stores are found.
        store: root to look for feature stores in before those of ``SPAMO_CACHE``.
        root: folder of the raw corpus, for a pipeline that tunes its encoders.
        output: folder of the run; None is ``runs/CORPUS/NAME``.
        import_official: checkpoint of the official release to take the weights of, in place of
            training.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        watcher: is told of progress and notices.

    Returns:
        What training achieved; ``path`` is the run folder. ``evaluate``, ``report`` and
        ``load_run`` take it as it is.

    Raises:
        UsageError: features that do not exist yet, a folder that holds something else, a sweep.
        ConfigError: a pipeline that cannot be used.
        StoreError: a stream is missing, or clips have not been extracted.
        WeightsError: the LLM cannot be found.
        DamagedError: a file of the run is not what it was.
    """
    loaded, path = resolve.named_pipeline(pipeline, resolve.changes(set))
    return train_pipeline(
        loaded,
        path.parent,
        manifest=manifest,
        features=features,
        store=store,
        root=root,
        output=output,
        import_official=import_official,
        device=device,
        watcher=watcher,
    )


def train_pipeline(
    pipeline: Pipeline,
    base: Path,
    *,
    manifest: Path | str | None = None,
    features: Assignments = (),
    store: str | Path | None = None,
    root: Path | str | None = None,
    output: Path | str | None = None,
    import_official: Path | str | None = None,
    device: str = "auto",
    watcher: Watcher = QUIET,
) -> RunSummary:
    """As :func:`train`, of a pipeline that is loaded.

    Args:
        base: folder of the pipeline's file.
    """
    from spamo_cache.train import train as train_run
    from spamo_cache.train.official import import_checkpoint

    devices.check(device)
    out = run_folder(pipeline, output)
    io.check_folder(out)
    # Which may copy stores from a remote root for hours.
    table, stores = pipeline_stores(
        pipeline, base, manifest=manifest, store=store, features=features, watcher=watcher
    )
    if manifest is None:
        report_splits(table, watcher)
    streams = input_streams(pipeline, stores, base, root, watcher)
    table, streams = with_corpora(pipeline, base, table, streams, store=store, watcher=watcher)
    if import_official is not None:
        return import_checkpoint(
            Path(import_official), pipeline, base=base, manifest=table, stores=streams, out=out
        )
    _report_request(pipeline, table, stores, out=out, device=device, watcher=watcher)
    with watcher.task("train", pipeline.name, "steps") as advance:
        return train_run(
            pipeline,
            base=base,
            manifest=table,
            stores=streams,
            out=out,
            progress=_ProgressReport(advance),
            notice=watcher.warning,
            device=device,
        )


def report_splits(manifest: Manifest, watcher: Watcher) -> None:
    """Say that clips which nobody named, because they were extracted last, are split anew."""
    if manifest.resplit:
        watcher.notice(
            f"{manifest.corpus} as it was extracted last: {manifest.resplit} "
            "(--manifest names other splits)"
        )


def _report_request(
    pipeline: Pipeline,
    manifest: Manifest,
    stores: Mapping[str, FeatureStore],
    *,
    out: Path,
    device: str,
    watcher: Watcher,
) -> None:
    from spamo_cache.runs.folder import RunFolder

    if RunFolder(out).state.exists():
        watcher.notice(f"{out} was begun before: resuming")
    corpora = ", ".join([pipeline.corpus, *pipeline.others])
    watcher.detail(f"{human.count(len(manifest), 'clip')} of {corpora}")
    for name, store in stores.items():
        watcher.detail(f"{name}: {store.path}")
    watcher.detail(f"LLM: {pipeline.llm.weights}")
    watcher.detail(f"device: {device}")


class _ProgressReport:
    """Hands on how far a training is, each time with the latest of every figure."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._phase = ""
        self._figures: dict[str, float] = {}

    def __call__(self, phase: str, done: int, total: int, news: Mapping[str, float]) -> None:
        if phase != self._phase:
            self._phase, self._figures = phase, {}
        at_dev = news if "dev_clips" in news else {}
        self._figures |= {} if at_dev else news
        words = [f"{name} {value:.3g}" for name, value in self._figures.items()]
        if at_dev:
            words.append(f"decoding dev, {at_dev['dev_clips']:,} of {at_dev['dev_clips_total']:,}")
        figures = {**self._figures, **at_dev}
        self._advance(done, total, stage=phase, note=", ".join(words), figures=figures)


def run_folder(pipeline: Pipeline, output: Path | str | None = None) -> Path:
    """Where a run of a pipeline is kept: ``output``, else ``runs/CORPUS/NAME``."""
    return Path("runs") / pipeline.corpus / pipeline.name if output is None else Path(output)
