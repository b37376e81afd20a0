"""Runs, or a corpus's experiments -> one HTML page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spamo_cache import io
from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.workflow import resolve, stores
from spamo_cache.workflow.frames import stills
from spamo_cache.workflow.resolve import RunLike
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from spamo_cache.datasets.manifest import Clip

FRAMES = 8
"""Frames shown of a clip."""


def report(
    runs: RunLike | Sequence[RunLike],
    output: Path | str = Path("report.html"),
    *,
    root: Path | str | None = None,
    store: str | Path | None = None,
    watcher: Watcher = QUIET,
) -> Path:
    """Write one self-contained page: scores, curves, translations, provenance.

    Args:
        runs: folders of runs, what ``train`` returned, or the folder of a corpus's experiments.
        output: the page to write.
        root: folder of the raw corpus: clips are shown with frames. The bundled one is known.
        store: root to look for feature stores in before those of ``SPAMO_CACHE``.
        watcher: follows the work.

    Returns:
        The path of the page.

    Raises:
        UsageError: a folder that holds no run; no such ``root``; a page that is not to be HTML.
        DamagedError: a file of a run is not what it was.
    """
    from spamo_cache.report import write_report

    listed = [runs] if isinstance(runs, str) or not isinstance(runs, Sequence) else runs
    raw = None if root is None else resolve.folder(root)
    folders = [resolve.run_path(run) for run in listed]
    io.check_output(Path(output))
    if Path(output).suffix.lower() not in {".html", ".htm"}:
        raise UsageError(
            f"cannot write {Path(output).name!r}",
            remedy="end its name in .html; a browser prints the page as PDF",
        )
    with watcher.task("report", str(output)):
        return write_report(
            folders, Path(output), frames=_Frames(raw), roots=resolve.store_roots(store)
        )


class _Frames:
    """Frames of runs' clips, each read once; none where the raw corpus is not at hand."""

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._known: dict[tuple[Path, str], list[bytes]] = {}

    def __call__(self, run: Path, ids: Sequence[str]) -> Mapping[str, Sequence[bytes]]:
        missing = {clip for clip in ids if (run, clip) not in self._known}
        found = self._read(run, missing) if missing else {}
        self._known |= {(run, clip): found.get(clip, []) for clip in missing}
        return {clip: self._known[run, clip] for clip in ids}

    def _read(self, run: Path, ids: Collection[str]) -> Mapping[str, list[bytes]]:
        from spamo_cache.runs.folder import RunFolder

        manifest = RunFolder(run).sentences()
        raw = stores.at_hand(manifest.corpus, self._root)
        if raw is None:
            return {}
        wanted = [clip for clip in manifest.clips() if clip.id in ids]
        known = _clips_of(raw)
        # A corpus that brings its manifest may have another clip of the same name.
        same = wanted if known is None else [clip for clip in wanted if clip in known]
        shown = stills(raw, same, FRAMES)
        return {clip: [jpeg for _, jpeg in shots] for clip, shots in shown.items()}


def _clips_of(corpus: Path) -> Collection[Clip] | None:
    """The clips of the manifest that a corpus's folder may hold; None where it holds none."""
    from spamo_cache.datasets.manifest import Manifest

    own = corpus / "manifest.parquet"
    if not own.is_file():
        return None
    try:
        return Manifest.read(own).clips()
    except SpamoError:
        # It is nothing of the run's, but nothing to go by either.
        return ()
