"""The poses of a corpus: estimated, imported from other estimators, or drawn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spamo_cache import extras, io
from spamo_cache.config.spec import Reader
from spamo_cache.errors import UsageError
from spamo_cache.workflow import DRAWN, EMBEDDED, resolve
from spamo_cache.workflow.resolve import Names
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.extract.executors import Cluster
    from spamo_cache.extract.pose_files import Made, PoseJob, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseSummary:
    """What became of the poses that were asked for."""

    corpus: str
    folder: str
    """Where the files are."""
    clips: int
    made: int
    there: int
    """Made before, or named by the manifest."""
    frames: int = 0
    """Of those made now."""
    seen: Mapping[str, float] = field(default_factory=dict)
    """Share of these frames in which a part was seen, in all or in part."""
    failed: Sequence[tuple[str, str]] = ()
    """Clips and reasons."""
    failed_sources: Mapping[str, str] = field(default_factory=dict)
    """Clip -> its source."""
    seconds: float = 0.0


def pose(
    dataset: str | None = None,
    *,
    root: Path | str | None = None,
    manifest: Path | str | Manifest | None = None,
    size: int | None = None,
    limit: int | None = None,
    split: Names | None = None,
    output: Path | str | None = None,
    openpose: Path | str | None = None,
    wholebody: Path | str | None = None,
    drop_out: float | None = None,
    model: Path | str | None = None,
    reader: Reader | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    slurm: Path | str | None = None,
    executor: Literal["dask", "serial"] = "dask",
    watcher: Watcher = QUIET,
) -> PoseSummary:
    """Make a ``.pose`` file for every clip that has none yet.

    MediaPipe Holistic estimates them from the frames that extraction sees, or another estimator's
    output is taken over. A script that works by ``dask`` starts processes of its own and so needs
    ``if __name__ == "__main__":``.

    Args:
        dataset: corpus by name; with a manifest, the name of its corpus, which a CSV file lacks.
        root: folder of the raw corpus; of a manifest's sources, by default the folder it lies in.
        manifest: table of the clips, as a file or read already, in place of a known corpus.
        size: clips of the bundled corpus to draw.
        limit: at most this many clips of each split.
        split: splits to make poses of; None is all.
        output: folder of the files; None is ``poses`` below the root, where they are found by id.
        openpose: folder that has, by a clip's id, a folder of OpenPose's ``*_keypoints.json``.
        wholebody: folder that has, by a clip's id, a file of COCO-WholeBody's 133 points, as
            RTMPose, DWPose and MMPose give them: .npy, .npz, .json or .pkl.
        drop_out: of a bundled corpus: what its drawing program knows, with hands not found in
            this share of the frames, 0 to 0.9.
        model: the file ``holistic_landmarker.task``, which current versions of MediaPipe need;
            None takes the models that lie in the package of older ones.
        reader: video decoder; all give the same frames.
        workers: processes; None is one for two cores.
        scheduler: address of a running Dask scheduler, which does the work.
        slurm: YAML of a Slurm cluster, which does the work.
        executor: ``serial`` works in this process.
        watcher: is told of progress and notices.

    Returns:
        What became of every clip. Failed clips are listed (``failed``), not raised.

    Raises:
        UsageError: an unknown corpus or split, or a combination of options that cannot be.
        MissingLibraryError: no MediaPipe, and nothing to import.
        PoseError: the model is not MediaPipe's.
        CorpusError: the raw corpus or its manifest cannot be read.
        StoreError: a file cannot be written.
    """
    began = time.perf_counter()
    source, given = _source(openpose, wholebody, drop_out, model)
    models = None if model is None else Path(model).absolute()
    where = None if slurm is None else Path(slurm).absolute()
    if drop_out is not None:
        _check_drawn(dataset or EMBEDDED, manifest, drop_out, output)
    else:
        _check(source, models, executor, scheduler, where)
    if output is not None:
        io.check_folder(Path(output))
    table, base = resolve.load_manifest(
        dataset, manifest, root, size=size, limit=limit, watcher=watcher
    )
    if split is not None:
        table = table.select(resolve.names(split) or ())
    from spamo_cache import poses

    folder = Path(output) if output is not None else base / poses.FOLDER
    if drop_out is not None:
        return _drawn(table, base, folder, drop_out, watcher)
    from spamo_cache.extract import pose_files
    from spamo_cache.extract.executors import Cluster

    job = pose_files.PoseJob(
        root=base.absolute(),
        folder=folder.absolute(),
        source=source,
        given=given,
        model=models,
        reader=reader or "auto",
    )
    cluster = pose_files.default_cluster(workers)
    if scheduler or where:
        cluster = Cluster(scheduler=scheduler, slurm=where)
    # Importing takes no longer than starting processes does.
    results = _made(job, table, "serial" if given else executor, cluster, watcher)
    return _summary(table, folder, results, time.perf_counter() - began)


def _source(
    openpose: Path | str | None,
    wholebody: Path | str | None,
    drop_out: float | None,
    model: Path | str | None,
) -> tuple[Source, Path | None]:
    """Where poses come from, and the folder of another estimator's output."""
    given: dict[Source, Path | str | None] = {"openpose": openpose, "wholebody": wholebody}
    named: list[tuple[Source, Path]] = [
        (source, Path(folder).absolute()) for source, folder in given.items() if folder is not None
    ]
    if len(named) + (drop_out is not None) + (model is not None) > 1:
        raise UsageError(
            "only one of --openpose, --wholebody, --drop-out and --model can be meant",
            remedy="give one of them",
        )
    for _, folder in named:
        resolve.folder(folder)
    return named[0] if named else ("mediapipe", None)


def _check(
    source: Source,
    model: Path | None,
    executor: Literal["dask", "serial"],
    scheduler: str | None,
    slurm: Path | None,
) -> None:
    """Raise what is missing before the corpus is read."""
    extras.need(*extras.EXTRAS["extract"], use="making poses")
    from spamo_cache.extract import executors, pose_files

    if source == "mediapipe":
        executors.check(executor, scheduler, slurm)
        if scheduler is not None:
            executors.check_scheduler(scheduler)
    pose_files.check(source, model)


def _check_drawn(corpus: str, manifest: object, drop_out: float, output: Path | str | None) -> None:
    if corpus not in DRAWN or manifest is not None:
        raise UsageError(
            "--drop-out is for the corpora that come with spamo-cache", remedy="leave it out"
        )
    if not 0 <= drop_out <= 0.9:
        raise UsageError(f"a drop-out of {drop_out:g}", remedy="give a share from 0 to 0.9")
    if output is None:
        raise UsageError("the corpus has its poses already", remedy="name another folder by -o DIR")


def _drawn(
    table: Manifest, root: Path, folder: Path, drop_out: float, watcher: Watcher
) -> PoseSummary:
    """Write the poses that the program that drew the corpus knows."""
    from spamo_cache.datasets import signed_weather

    began = time.perf_counter()
    wanted = set(table.table["id"].to_pylist())
    plans = [plan for plan in signed_weather.plans(root, table.corpus) if plan.id in wanted]
    with watcher.task("pose", table.corpus, "clips") as advance, io.writing(folder):
        made = signed_weather.write_poses(plans, folder, drop_out, advance)
    return PoseSummary(
        corpus=table.corpus,
        folder=str(folder),
        clips=len(table),
        made=made,
        there=len(table) - made,
        seconds=time.perf_counter() - began,
    )


def _made(
    job: PoseJob,
    table: Manifest,
    executor: Literal["dask", "serial"],
    cluster: Cluster,
    watcher: Watcher,
) -> list[Made]:
    from spamo_cache import poses
    from spamo_cache.extract import pose_files

    with io.writing(job.folder):
        io.make_folders(job.folder)
    clips = table.clips()
    lacking = [
        clip
        for clip in clips
        if not clip.pose and not (job.folder / poses.file_name(clip.id)).exists()
    ]
    there, failures = len(clips) - len(lacking), 0
    results: list[Made] = []
    with watcher.task("pose", table.corpus, "clips") as advance:
        advance(there, len(clips))
        for result in pose_files.make_all(
            job,
            lacking,
            executor=executor,
            cluster=cluster,
            waiting=_Waiting(watcher),
            found=partial(_tell, watcher),
        ):
            results.append(result)
            if result.reason:
                failures += 1
                event = {"event": "failure", "clip": result.clip, "reason": result.reason}
                watcher.detail(f"failed: {result.clip}: {result.reason}", event)
            note = f"{failures:,} failed" if failures else ""
            done = there + len(results)
            advance(done, len(clips), note=note, figures={"failures": failures})
    return results


def _tell(watcher: Watcher, scheduler: str, dashboard: str) -> None:
    for name, address in (("scheduler", scheduler), ("dashboard", dashboard)):
        if address:
            watcher.detail(f"Dask {name}: {address}", {"event": name, "address": address})


class _Waiting:
    """Tells once for whom a command waits."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._told: Sequence[str] = ()

    def __call__(self, others: Sequence[str]) -> None:
        if others and others != self._told:
            self._told = others
            words = f"waiting for {'; '.join(others)}, who makes what is left"
            self._watcher.notice(words, {"event": "waiting", "for": list(others)})


def _summary(table: Manifest, folder: Path, results: Sequence[Made], seconds: float) -> PoseSummary:
    from spamo_cache.extract.pose_files import PARTS

    made = [result for result in results if result.frames]
    failed = {result.clip: result.reason for result in results if result.reason}
    frames = sum(result.frames for result in made)
    columns = zip(*(table.table[name].to_pylist() for name in ("id", "source")), strict=True)
    return PoseSummary(
        corpus=table.corpus,
        folder=str(folder),
        clips=len(table),
        made=len(made),
        there=len(table) - len(made) - len(failed),
        frames=frames,
        seen={
            part: sum(result.seen[k] for result in made) / frames
            for k, part in enumerate(PARTS)
            if frames
        },
        failed=tuple(sorted(failed.items())),
        failed_sources={clip: source for clip, source in columns if clip in failed},
        seconds=seconds,
    )
