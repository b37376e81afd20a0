"""Stage 1: the videos of a corpus -> feature stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spamo_cache import config, extras, human, io
from spamo_cache.config.spec import Reader
from spamo_cache.errors import StoreError
from spamo_cache.workflow import DRAWN, EMBEDDED, resolve, stores
from spamo_cache.workflow.resolve import Changes, Names
from spamo_cache.workflow.watcher import QUIET, Advance, Watcher

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.extract.progress import Progress
    from spamo_cache.extract.summary import Summary


def extract(
    dataset: str | None = None,
    *,
    root: Path | str | None = None,
    manifest: Path | str | Manifest | None = None,
    size: int | None = None,
    limit: int | None = None,
    spec: str | Path | None = None,
    streams: Names | None = None,
    split: Names | None = None,
    poses: Path | str | None = None,
    set: Changes = (),  # noqa: A002 (the option's name)
    reader: Reader | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    compile: Literal["auto", "on", "off"] = "auto",  # noqa: A002 (the option's name)
    workers: int | None = None,
    scheduler: str | None = None,
    slurm: Path | str | None = None,
    executor: Literal["dask", "serial"] = "dask",
    retry_failed: bool = False,
    dry_run: bool = False,
    calibrate: bool = False,
    watcher: Watcher = QUIET,
) -> Summary:
    """Compute the features of every clip that no store holds yet.

    ``train`` finds what was extracted last without being told. A script that extracts by ``dask``
    starts processes of its own and so needs ``if __name__ == "__main__":``.

    Args:
        dataset: corpus by name; with a manifest, the name of its corpus, which a CSV file lacks.
            None is the bundled one, or the one that the manifest says.
        root: folder of the raw corpus; of a manifest's sources, by default the folder it lies in.
        manifest: table of the clips, as a file or read already, in place of a known corpus.
        size: clips of the bundled corpus to draw.
        limit: at most this many clips of each split.
        spec: cache spec, by name or path; None is the corpus's own.
        streams: streams of the spec to compute; None is all.
        split: splits to compute; None is all.
        poses: folder of the clips' ``.pose`` files by id, for streams of regions and poses; None is
            the spec's ``poses``. A manifest's column ``pose`` goes before it.
        set: changes to the spec, as ``{"streams.motion.stride": 4}``.
        reader: video decoder; all give the same frames.
        store: root to write to; None is the first of ``SPAMO_CACHE``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        compile: ``auto`` compiles on a GPU, where that pays; ``on`` compiles all networks.
        workers: processes; None is one per GPU, or one with all cores.
        scheduler: address of a running Dask scheduler, which does the work.
        slurm: YAML of a Slurm cluster, which does the work.
        executor: ``serial`` computes in this process.
        retry_failed: try failed clips again.
        dry_run: decide everything, write nothing.
        calibrate: in a dry run, benchmark for 20 s to calibrate the estimate.
        watcher: is told of progress and notices.

    Returns:
        What became of every clip, and where each stream's store is (``stores``). Failed clips are
        listed in it (``failed``), not raised.

    Raises:
        UsageError: an unknown corpus, stream, split, device, or combination of options.
        ConfigError: a spec that cannot be used.
        CorpusError: the raw corpus or its manifest cannot be read.
        WeightsError: weights that cannot be used.
        StoreError: a store, or the note of it for ``train``, cannot be written.
    """
    extras.need(*extras.EXTRAS["extract"], use="extracting features")
    from spamo_cache.extract.extraction import extract as compute

    changes = [*resolve.changes(set), *([f"frames.reader={reader}"] if reader else ())]
    if poses is not None:
        changes += config.overrides({"poses": str(resolve.folder(poses).absolute())})
    splits = resolve.names(split)
    request: dict[str, Any] = {
        "streams": resolve.names(streams),
        "executor": executor,
        "workers": workers,
        "scheduler": scheduler,
        "slurm": None if slurm is None else Path(slurm),
        "device": device,
        "compile": compile,
        "dry_run": dry_run,
        "calibrate": calibrate,
    }
    root_of_stores = resolve.store_root(store)
    if not dry_run:
        io.check_folder(root_of_stores)
    if manifest is None:
        _check(dataset or EMBEDDED, spec, changes, splits, request)
    table, base = resolve.load_manifest(
        dataset, manifest, root, size=size, limit=limit, watcher=watcher
    )
    loaded, path = resolve.named_spec(spec or resolve.spec_of(table.corpus), changes=changes)
    asked = request["streams"] or loaded.streams
    if any(stream.uses_poses for name, stream in loaded.streams.items() if name in asked):
        resolve.draw_poses(table.corpus, base, loaded.poses, watcher)
    stores.report_changes(table, watcher)
    if not dry_run:
        stores.check_room(table)
    _report_request(table, base, path, device, watcher)
    with watcher.task("extract", table.corpus, "frames") as advance:
        summary = compute(
            table,
            base,
            loaded,
            path.parent,
            store_root=root_of_stores,
            splits=splits,
            retry_failed=retry_failed,
            progress=_ProgressReport(watcher, advance),
            **request,
        )
    if not dry_run:
        file = str(Path(manifest).absolute()) if isinstance(manifest, str | Path) else ""
        _remember(table, summary, file, str(base.absolute()))
    return summary


def _check(
    corpus: str,
    spec: str | Path | None,
    changes: Sequence[str],
    splits: Sequence[str] | None,
    request: Mapping[str, Any],
) -> None:
    """Raise what is wrong with a request before its corpus is read, or even drawn."""
    from spamo_cache.datasets import signed_weather
    from spamo_cache.encoders import weights
    from spamo_cache.extract.extraction import check
    from spamo_cache.extract.planning import check_names

    resolve.check_corpus(corpus)
    loaded, path = resolve.named_spec(spec or resolve.spec_of(corpus), changes=changes)
    check(loaded, **request)
    for name in request["streams"] or loaded.streams:
        if loaded.streams[name].weights:
            weights.local(loaded.streams[name].weights, path.parent)
    if corpus in DRAWN:
        check_names(splits, signed_weather.SPLITS, "split")


def _remember(manifest: Manifest, summary: Summary, table: str, root: str) -> None:
    try:
        stores.remember(manifest, summary.stores.values(), table=table, root=root)
    except OSError as error:
        raise StoreError(
            "the features are complete, but the note of them that `train` reads cannot be "
            f"written: {error.strerror}",
            where=error.filename,
            remedy="make room below SPAMO_HOME, then rerun the command: nothing is computed twice",
        ) from error


def _report_request(
    manifest: Manifest, root: Path, spec: Path, device: str, watcher: Watcher
) -> None:
    watcher.detail(f"{human.count(len(manifest), 'clip')} of {manifest.corpus} in {root}")
    watcher.detail(f"cache spec: {spec}")
    watcher.detail(f"device: {device}")


class _ProgressReport:
    """Hands progress to a watcher, and each failure, address and wait once."""

    def __init__(self, watcher: Watcher, advance: Advance) -> None:
        self._watcher, self._advance = watcher, advance
        self._addresses: dict[str, str] = {}
        self._waiting: Sequence[str] = ()

    def __call__(self, now: Progress) -> None:
        for name, address in (("scheduler", now.scheduler), ("dashboard", now.dashboard)):
            if address != self._addresses.get(name, ""):
                self._addresses[name] = address
                event = {"event": name, "address": address}
                self._watcher.notice(f"Dask {name}: {address}", event)
        if now.waiting_for != self._waiting:
            self._waiting = now.waiting_for
            waiting = {"event": "waiting", "for": list(self._waiting)}
            others = "; ".join(self._waiting)
            words = f"waiting for {others}, who computes what is left" if others else "going on"
            self._watcher.notice(words, waiting)
        for clip, reason in now.failed.items():
            event = {"event": "failure", "clip": clip, "reason": reason}
            self._watcher.detail(f"failed: {clip}: {reason}", event)
        self._count(now)

    def _count(self, now: Progress) -> None:
        if now.stage == "probe":
            self._advance(now.clips, now.clips_total, stage="probe", unit="clips")
            return
        note = f"{now.clips:,} of {now.clips_total:,} clips"
        note += f", {now.failures:,} failed" if now.failures else ""
        note += f", waiting for {'; '.join(now.waiting_for)}" if now.waiting_for else ""
        self._advance(
            now.frames,
            now.frames_total,
            stage="extract",
            unit="frames",
            note=note,
            figures={
                "clips": now.clips,
                "clips_total": now.clips_total,
                "failures": now.failures,
            },
        )
