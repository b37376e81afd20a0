"""A run's scores on a split, from the stores it was trained from or others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamo_cache import config
from spamo_cache.workflow import resolve
from spamo_cache.workflow.frames import input_streams
from spamo_cache.workflow.resolve import Changes, Names, RunLike
from spamo_cache.workflow.stores import missing_explained, pipeline_stores
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from spamo_cache.runs.records import Scorecard
    from spamo_cache.train import Features


def evaluate(
    run: RunLike,
    *,
    split: str = "test",
    by: Names | None = None,
    shuffle: bool = False,
    spec_set: Changes = (),
    store: str | Path | None = None,
    root: Path | str | None = None,
    llm: Path | str | None = None,
    spec: str | Path | None = None,
    content_words: Path | str | None = None,
    device: str = "auto",
    watcher: Watcher = QUIET,
) -> Scorecard:
    """Decode a split and score it; what is evaluated already is read back.

    Every clip counts, the failed ones with an empty sentence.

    Args:
        run: a run's folder, or what ``train`` returned.
        split: split to decode.
        by: columns to score the groups of, as ``"signer,topic"``: of the manifest, or ``length``
            (words of the reference), ``seen-sentence``, ``seen-signer`` (whether training has it).
            Of what is evaluated already, nothing is decoded again.
        shuffle: give every clip another's features: the floor of the scores.
        spec_set: read stores of another cache spec, as ``{"streams.motion.stride": 4}``.
        store: root to look for feature stores in before those of ``SPAMO_CACHE``.
        root: folder of the raw corpus, for a run that tuned its encoders.
        llm: folder of the run's LLM, where that has moved.
        spec: the run's cache spec, where that has moved.
        content_words: list of words and phrases that have to be right, one per line; None is
            that of the corpus, and without one numbers in digits.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        watcher: is told of progress and notices.

    Returns:
        The scorecard; ``metrics`` are in points of 100. The run keeps it as
        ``evaluation/<name>.json``.

    Raises:
        UsageError: no finished run there, an unknown split, column or device.
        DamagedError: a file of the run is not what it was.
        StoreError: a store is missing, lacks clips, or is not one that the run can read.
        WeightsError: the run's LLM is not where it was.
    """
    from spamo_cache.evaluate import evaluate as score

    folder = resolve.run_path(run)
    check_run(folder, split)
    changed = dict(config.assignment(text, "--spec-set") for text in resolve.changes(spec_set))
    with missing_explained(folder):
        streams = _streams(
            folder, split, changed, store=store, root=root, spec=spec, watcher=watcher
        )
    for name, one in streams.items():
        watcher.detail(f"{name}: {one.path}")
    watcher.detail(f"device: {device}")
    with watcher.task("evaluate", f"{folder.name} on {split}", "clips") as advance:
        return score(
            folder,
            split,
            stores=streams,
            shuffle=shuffle or None,
            changed=changed,
            by=resolve.names(by) or (),
            device=device,
            llm=None if llm is None else Path(llm),
            content=None if content_words is None else Path(content_words),
            progress=advance,
        )


def check_run(folder: Path, split: str) -> None:
    """See that a run is finished and has a split, which takes no time.

    Raises:
        UsageError: no finished run there, or no such split.
        DamagedError: a file of the run is not what it was.
    """
    from spamo_cache.runs.folder import RunFolder

    run = RunFolder(folder)
    run.pipeline()
    run.weights()
    run.sentences().select([split])


def _streams(
    folder: Path,
    split: str,
    changed: Mapping[str, Any],
    *,
    store: str | Path | None,
    root: Path | str | None,
    spec: str | Path | None,
    watcher: Watcher,
) -> Mapping[str, Features]:
    """What the run was trained from or, of a changed cache spec, what fits that."""
    from spamo_cache.runs.folder import RunFolder
    from spamo_cache.runs.load import open_stores

    run = RunFolder(folder)
    pipeline = run.pipeline()
    if not changed and pipeline.encoders is None:
        return open_stores(run, resolve.store_roots(store), split=split)
    # With the path of its spec, wherever that lies now.
    _, path = resolve.run_spec(run, spec)
    pipeline = pipeline.model_copy(update={"spec": str(path.resolve())})
    if not changed:
        own = open_stores(run, resolve.store_roots(store), split=split)
        return input_streams(pipeline, own, path.parent, root, watcher)
    other = pipeline.model_copy(update={"spec_set": {**pipeline.spec_set, **changed}})
    run.sentences()  # read from the file below, or an error that says what is wrong with it
    keys = next(iter(run.read_about().stores.values())).corpus_sha256
    _, stores = pipeline_stores(
        other,
        path.parent,
        manifest=run.manifest,
        store=store,
        corpus_sha256=keys,
        watcher=watcher,
    )
    return input_streams(other, stores, path.parent, root, watcher)
