"""Runs, or a corpus's experiments -> one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from spamo_cache.workflow import resolve
from spamo_cache.workflow.frames import stills
from spamo_cache.workflow.resolve import RunLike

FRAMES = 8
"""Frames shown of a clip."""


def report(
    runs: RunLike | Sequence[RunLike],
    output: Path | str = Path("report.html"),
    *,
    root: Path | str | None = None,
    store: str | Path | None = None,
) -> Path:
    """Write one self-contained page: scores, curves, translations, provenance.

    Args:
        runs: folders of runs, what ``train`` returned, or the folder of a corpus's experiments.
        output: the page to write.
        root: folder of the raw corpus: clips are shown with frames. The embedded one is known.
        store: root to look for feature stores in before those of ``SPAMO_CACHE``.

    Returns:
        The path of the page.

    Raises:
        UsageError: a folder that holds no run; no such ``root``.
        DamagedError: a file of a run is not what it was.
    """
    from spamo_cache.report import write_report

    listed = [runs] if isinstance(runs, str) or not isinstance(runs, Sequence) else runs
    raw = None if root is None else resolve.folder(root)
    return write_report(
        [resolve.run_path(run) for run in listed],
        Path(output),
        frames=partial(_frames, raw),
        roots=resolve.store_roots(store),
    )


def _frames(root: Path | None, run: Path, ids: Sequence[str]) -> Mapping[str, Sequence[bytes]]:
    """Frames of a run's clips; none where the raw corpus is not at hand."""
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.runs.folder import RunFolder

    manifest = RunFolder(run).sentences()
    raw = resolve.at_hand(manifest.corpus, root)
    if raw is None:
        return {}
    wanted = [clip for clip in manifest.clips() if clip.id in set(ids)]
    own = raw / "manifest.parquet"
    # A corpus that brings its manifest may have another clip of the same name.
    known = Manifest.read(own).clips() if own.is_file() else wanted
    shown = stills(raw, [clip for clip in wanted if clip in known], FRAMES)
    return {clip: [jpeg for _, jpeg in shots] for clip, shots in shown.items()}
