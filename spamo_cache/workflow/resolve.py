"""From what a user names to what a stage needs: corpus folder, manifest, spec, stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from spamo_cache import bounded, config
from spamo_cache.errors import ConfigError, UsageError
from spamo_cache.workflow import DRAWN, EMBEDDED
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from spamo_cache.config import CacheSpec, Pipeline
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.runs.folder import RunFolder
    from spamo_cache.store.remote import Location


class HasPath(Protocol):
    """What knows its folder, as the summary that ``train`` returns."""

    @property
    def path(self) -> Path: ...


RunLike = str | Path | HasPath
"""A run: its folder, or what ``train`` or ``load_run`` returned."""
Changes = Mapping[str, Any] | Sequence[str]
"""Dotted keys -> values, or ``key=value`` as ``--set`` has them."""
Names = str | Sequence[str]
"""Names, or one string of them with commas."""
Assignments = Mapping[str, object] | Sequence[str]
"""Streams -> stores (opened, or by name, path or address), or ``stream=store``."""


def run_path(run: RunLike) -> Path:
    """The folder of a run."""
    return Path(run) if isinstance(run, str | Path) else run.path


def runs_here() -> list[Path]:
    """Folders of the runs below ``runs/``, where ``train`` puts them."""
    return sorted(found.parent for found in Path("runs").glob("**/run.json"))


def changes(given: Changes) -> list[str]:
    """Changes as ``key=value``."""
    return config.overrides(given) if isinstance(given, Mapping) else list(given)


def assignments(given: Assignments) -> list[str]:
    """Assignments as ``key=value``."""
    if isinstance(given, Mapping):
        return [f"{name}={getattr(store, 'path', store)}" for name, store in given.items()]
    return list(given)


def check_corpus(name: str) -> None:
    """Raise UsageError, naming the nearest, unless a corpus has this name."""
    from spamo_cache.datasets import registry

    registry.corpus(name)


def corpus_root(
    name: str, root: Path | str | None, size: int | None = None, watcher: Watcher = QUIET
) -> Path:
    """The folder of a corpus; a bundled one is drawn if it is not there yet.

    Raises:
        UsageError: unknown corpus, or a real one without its folder.
    """
    from spamo_cache.datasets import registry

    registry.corpus(name)
    if name in DRAWN:
        return _drawn(name, Path(root or _drawn_root(name, size)), size, watcher)
    if size is not None:
        raise UsageError(
            f"corpus {name} has the size it has", remedy=f"--size is for {' and '.join(DRAWN)}"
        )
    if root is None:
        raise UsageError(f"corpus {name} needs --root", remedy="name its folder by --root DIR")
    return folder(root)


def folder(path: Path | str) -> Path:
    """``path``, which must be a folder.

    Raises:
        UsageError: it is none.
    """
    path = Path(path)
    if not path.is_dir():
        raise UsageError("no such folder", where=path.absolute(), remedy="check the path")
    return path


def is_there(name: str, root: Path | str | None, size: int | None) -> bool:
    """Whether a corpus need not be drawn first."""
    if name not in DRAWN:
        return True
    drawn = Path(root or _drawn_root(name, size))
    return (drawn / "manifest.parquet").is_file()


def _drawn_root(name: str, size: int | None) -> Path:
    return config.home() / "corpora" / (name if size is None else f"{name}-{size}")


def _drawn(name: str, root: Path, size: int | None, watcher: Watcher) -> Path:
    from spamo_cache.datasets import signed_weather

    # A finished corpus is taken as it is, whatever its size.
    if size is None and (root / "manifest.parquet").is_file():
        if signed_weather.lacks_poses(root, name):
            with watcher.task("draw", f"poses of {name}", "clips") as advance:
                signed_weather.add_poses(root, name, advance)
        return root
    with watcher.task("draw", name, "clips") as advance:
        size = size or signed_weather.DEFAULT_SIZE
        signed_weather.make(root, size, progress=advance, name=name)
    return root


def draw_poses(corpus: str, root: Path, folder: str, watcher: Watcher = QUIET) -> None:
    """Draw the poses of a bundled corpus that a spec asks for, where they are missing.

    Args:
        folder: see :func:`signed_weather.drop_out_of`.
    """
    if corpus not in DRAWN:
        return
    from spamo_cache.datasets import signed_weather

    if signed_weather.lacks_poses(root, corpus, folder):
        with watcher.task("draw", f"{folder} of {corpus}", "clips") as advance:
            signed_weather.add_poses(root, corpus, advance, folder)


def load_manifest(
    dataset: str | None,
    manifest: Path | str | Manifest | None,
    root: Path | str | None,
    *,
    size: int | None = None,
    limit: int | None = None,
    watcher: Watcher = QUIET,
) -> tuple[Manifest, Path]:
    """The manifest and the folder its sources lie in, from a table or from a known corpus.

    Args:
        dataset: corpus by name; with a table, the name of its corpus, None where it says its own.

    Raises:
        UsageError: unknown corpus, missing folder, a table of no name or of a name that is taken.
        CorpusError: no such corpus in the folder, faulty table.
    """
    from spamo_cache.datasets import registry
    from spamo_cache.datasets.manifest import Manifest

    if isinstance(manifest, Manifest):
        if root is None:
            raise UsageError("a manifest that is read already needs the folder of its sources")
        base = folder(root)
        table = manifest if dataset is None else replace(manifest, corpus=dataset)
        _check_name(table.corpus, base)
    elif manifest is not None:
        file = Path(manifest)
        table, base = Manifest.read(file, corpus=dataset), folder(root or file.parent)
        _check_name(table.corpus, base, file)
    else:
        name = dataset or EMBEDDED
        base = corpus_root(name, root, size, watcher)
        table = registry.corpus(name).manifest(base)
    return (table if limit is None else table.limit(limit)), base


def _check_name(corpus: str, root: Path, table: Path | None = None) -> None:
    """Keep other clips from being filed as a bundled corpus."""
    if corpus not in DRAWN:
        return
    from spamo_cache.datasets import signed_weather

    if not signed_weather.is_drawn(root, corpus):
        raise UsageError(
            f"{corpus} is a corpus that comes with spamo-cache, and these clips are not its",
            where=table or root,
            remedy="give your corpus another name by --dataset NAME",
        )


def named_pipeline(name: str | Path, overrides: list[str]) -> tuple[Pipeline, Path]:
    """A pipeline and the file it stands in, by path or by name of a folder in ``pipelines/``."""
    path = config.named_file(str(name), *config.Pipeline.shipped_in)
    return config.load(path, config.Pipeline, overrides), path


def named_spec(
    name: str | Path, base: Path | None = None, changes: Sequence[str] = ()
) -> tuple[CacheSpec, Path]:
    """A cache spec and the file it stands in: a path (from here or from ``base``), or a name.

    Args:
        changes: ``key=value``, as ``--set`` has them.
    """
    beside = None if base is None else base / name
    if beside is not None and beside.is_file():
        path = beside
    else:
        path = config.named_file(str(name), *config.CacheSpec.shipped_in)
    return config.load(path, config.CacheSpec, changes), path


def spec_used(pipeline: Pipeline, base: Path) -> tuple[CacheSpec, Path]:
    """The cache spec of a pipeline under the pipeline's changes, and its file."""
    return named_spec(pipeline.spec, base, config.overrides(pipeline.spec_set))


def run_spec(run: RunFolder, given: str | Path | None = None) -> tuple[CacheSpec, Path]:
    """The cache spec that a run's features were computed by, and its file, wherever it lies now.

    Args:
        given: the spec by name or path; None looks where it lay, then among the shipped ones.

    Raises:
        ConfigError: there is none that computes these features.
    """
    from spamo_cache.store.layout import stream_spec

    about, pipeline = run.read_about(), run.pipeline()
    bases = (Path(about.base), config.shipped("pipelines") / pipeline.corpus)
    for base in bases if given is None else (None,):
        try:
            spec, path = named_spec(
                given or pipeline.spec, base, config.overrides(pipeline.spec_set)
            )
        except ConfigError:
            if given is not None:
                raise
            continue
        made = {name: stream_spec(spec, name) for name in about.stores if name in spec.streams}
        if made == {
            name: one.model_dump(mode="json")["spec"] for name, one in about.stores.items()
        }:
            return spec, path
    name = str(given or pipeline.spec)
    raise ConfigError(
        f"cache spec {name!r}, as the run's features were computed by it, was not found",
        where=run.path,
        remedy="name its file by --spec FILE",
    )


def spec_of(corpus: str) -> str:
    """The spec that the corpus's default pipeline uses; SpaMo's where there is none."""
    try:
        return named_pipeline(corpus, [])[0].spec
    except ConfigError:
        return "spamo"


def store_root(given: str | Path | None) -> Path:
    """Where features are written: ``--store``, else the first root.

    Raises:
        UsageError: that root is not on a local disk.
    """
    root = str(given or config.roots()[0])
    if "://" in root:
        raise UsageError(
            "features are written to a local folder", where=root, remedy="name one by --store ROOT"
        )
    return config.expanded(root)


def store_roots(given: str | Path | None) -> list[str]:
    """Roots in which stores are looked for: ``--store`` first, then SPAMO_CACHE's."""
    return list(dict.fromkeys([*([] if given is None else [str(given)]), *config.roots()]))


def located(name: str, roots: Sequence[str] | None = None) -> Location:
    """The store that a user means, in SPAMO_CACHE's roots by default; see ``roots.locate``."""
    from spamo_cache.store.roots import locate

    return locate(name, roots)


def lines(file: Path) -> list[str]:
    """The lines of a text file, without empty ones.

    Raises:
        UsageError: no such file, or one that is not text.
    """
    try:
        found = bounded.read_text(file, bounded.MAX_JSON_BYTES).splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read: {error}", where=file) from None
    return [line for line in found if line]


def names(given: Names | None) -> list[str] | None:
    """Names, of a string those between its commas; None stays None.

    Raises:
        UsageError: an empty name.
    """
    if given is None:
        return None
    listed = given.split(",") if isinstance(given, str) else given
    stripped = [name.strip() for name in listed]
    if not all(stripped):
        raise UsageError(f"{given!r} is no list of names", remedy="separate them by single commas")
    return stripped
