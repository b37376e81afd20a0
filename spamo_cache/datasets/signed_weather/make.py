"""Draw and encode the corpus on demand: an H.264 mp4 and a pose per clip, and a manifest."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from spamo_cache import bounded, extras, human, poses
from spamo_cache.datasets.layout import names_in
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.signed_weather.animate import FPS, Beat, perform
from spamo_cache.datasets.signed_weather.dialects import DIALECTS, INLAND
from spamo_cache.datasets.signed_weather.estimator import DROP_OUT, estimated
from spamo_cache.datasets.signed_weather.grammar import ClipPlan, clips
from spamo_cache.datasets.signed_weather.signer import GRAINS, SIZE, Signer
from spamo_cache.errors import CorpusError
from spamo_cache.io import make_folders, replace, sweep

NAME = INLAND.name
VERSION = 1
"""Raised whenever the same seed would give other videos or other sentences."""
DEFAULT_SIZE = 1200
MANIFEST = "manifest.parquet"
SPLITS = ("train", "dev", "test")
_CARD = "corpus.json"

Progress = Callable[[int, int], None]


def make(
    root: Path,
    size: int = DEFAULT_SIZE,
    progress: Progress | None = None,
    workers: int | None = None,
    *,
    name: str = NAME,
) -> Path:
    """Make the corpus below ``root``, or what is missing of it.

    Of a finished one that an earlier version made, the poses are added; its videos stay.

    Args:
        root: folder of the corpus, made if need be.
        size: number of clips over all splits, at least 28.
        progress: called with clips done and clips in all.
        workers: processes; None is one per core.
        name: of the corpus: which dialect is signed.

    Returns:
        Path of the manifest.

    Raises:
        CorpusError: ``root`` holds a corpus of another size or version, or cannot be written.
    """
    if size < 28:
        raise CorpusError(
            f"a corpus of {human.count(size, 'clip')}", remedy="ask for 28 clips or more"
        )
    manifest = root / MANIFEST
    _claim(root, {"corpus": name, "version": VERSION, "size": size, "synthetic": True})
    plans = list(clips(size, dialect=DIALECTS[name]))
    if manifest.exists():
        add_poses(root, name)
        return manifest
    missing = [plan for plan in plans if not (root / _source(plan)).exists()]
    try:
        _film_all(missing, root, len(plans) - len(missing), progress, workers)
        write_poses(plans, root / poses.FOLDER)
    except OSError as error:
        raise CorpusError(f"cannot be written: {error}", where=root) from None
    Manifest.from_clips(name, map(_clip, plans)).write(manifest)
    return manifest


def drop_out_of(folder: str) -> float | None:
    """Share of the frames in which a hand is not found, in the poses of a folder of this name.

    ``poses-drop-30`` are poses that lose a hand in 30 % of the frames; None for any other name but
    that of the poses that come with the corpus.
    """
    if folder == poses.FOLDER:
        return DROP_OUT
    match = re.fullmatch(rf"{poses.FOLDER}-drop-([0-9]|[1-8][0-9]|90)", folder)
    return None if match is None else int(match[1]) / 100


def lacks_poses(root: Path, name: str = NAME, folder: str = poses.FOLDER) -> bool:
    """Whether a corpus below ``root`` has clips without a pose, as earlier versions drew them."""
    if drop_out_of(folder) is None:
        return False
    try:
        size = bounded.read_json(root / _CARD)["size"]
        files = [file for file in names_in(root / folder) if file.endswith(poses.SUFFIX)]
        return is_drawn(root, name) and len(files) < size
    except (OSError, ValueError, TypeError, KeyError):
        return False


def add_poses(
    root: Path, name: str = NAME, progress: Progress | None = None, folder: str = poses.FOLDER
) -> None:
    """Write the poses that a finished corpus lacks; one that is for reading only stays so.

    Args:
        folder: see :func:`drop_out_of`.
    """
    drop_out = drop_out_of(folder)
    if drop_out is not None and lacks_poses(root, name, folder):
        with suppress(OSError):
            write_poses(plans(root, name), root / folder, drop_out, progress)


def plans(root: Path, name: str = NAME) -> list[ClipPlan]:
    """The clips of a corpus that was made."""
    return list(clips(bounded.read_json(root / _CARD)["size"], dialect=DIALECTS[name]))


def write_poses(
    wanted: Iterable[ClipPlan],
    folder: Path,
    drop_out: float = DROP_OUT,
    progress: Progress | None = None,
) -> int:
    """Write what an estimator sees of clips to a folder; a file that is there is left alone.

    Args:
        drop_out: share of the frames in which a hand is not found, 0 to 0.9.

    Returns:
        How many were written.
    """
    make_folders(folder)
    sweep(folder)
    present = names_in(folder)
    wanted = list(wanted)
    missing = [plan for plan in wanted if poses.file_name(plan.id) not in present]
    for done, plan in enumerate(missing, start=len(wanted) - len(missing) + 1):
        rng = np.random.default_rng(plan.seed)
        beats = []
        for beat in _performed(plan, rng):
            beats.append(beat)
            rng.integers(GRAINS)  # as drawing does in between
        _write_pose(plan, beats, folder, drop_out)
        if progress:
            progress(done, len(wanted))
    return len(missing)


def manifest(root: Path, name: str = NAME) -> Manifest:
    """The manifest of a corpus that :func:`make` finished.

    Args:
        root: folder of the corpus.
        name: of the corpus.

    Raises:
        CorpusError: none was made here, or it is not what was made.
    """
    path = root / MANIFEST
    if not path.exists():
        raise CorpusError(
            f"{name} has not been made here",
            where=root,
            remedy="run `spamo-cache reproduce` or `spamo-cache manifest`, which make it",
        )
    recorded = Manifest.read(path, name)
    try:
        size = int(json.loads((root / _CARD).read_bytes())["size"])
        plans = clips(size, dialect=DIALECTS[name])
        same = recorded.table.equals(Manifest.from_clips(name, map(_clip, plans)).table)
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise CorpusError(
            "is not the manifest that was made with the corpus",
            where=path,
            remedy="remove it; it is made again, and the videos are kept",
        )
    return recorded


def is_drawn(root: Path, name: str = NAME) -> bool:
    """Whether :func:`make` has drawn this corpus below ``root``, or a part of it."""
    try:
        card = bounded.read_json(root / _CARD)
    except (OSError, ValueError):
        return False
    return isinstance(card, dict) and card.get("corpus") == name


def _claim(root: Path, card: dict[str, object]) -> None:
    """A folder holds one corpus: its card is written first and compared ever after."""
    path = root / _CARD
    try:
        make_folders(root)
        if not path.exists():
            replace(path, json.dumps(card).encode(), root)
        present = bounded.read_json(path)
    except OSError as error:
        raise CorpusError(f"cannot be written: {error}", where=root) from None
    except ValueError:
        raise CorpusError("is not JSON", where=path, remedy="remove the folder") from None
    if present != card:
        raise CorpusError(
            f"holds another corpus: {json.dumps(present)}",
            where=root,
            remedy="choose another --root, or remove this one",
        )


def _film_all(
    plans: list[ClipPlan], root: Path, done: int, progress: Progress | None, workers: int | None
) -> None:
    total = done + len(plans)
    if progress:
        progress(done, total)
    for folder in (root, root / "videos", root / poses.FOLDER):
        make_folders(folder)
        sweep(folder)
    # Not by fork: whoever shows the progress may have threads.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=context) as pool:
        futures = [pool.submit(partial(film, root=root), plan) for plan in plans]
        try:
            for count, future in enumerate(as_completed(futures), start=done + 1):
                future.result()
                if progress:
                    progress(count, total)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def film(plan: ClipPlan, root: Path) -> None:
    """Draw one clip, and publish its pose and its video in one rename each."""
    signer = Signer.from_seed(plan.signer)
    rng = np.random.default_rng(plan.seed)
    beats: list[Beat] = []
    pictures = []
    for beat in _performed(plan, rng):
        beats.append(beat)
        pictures.append(signer.draw(beat.pose, rng))
    _write_pose(plan, beats, root / poses.FOLDER, DROP_OUT)
    replace(root / _source(plan), encode(np.stack(pictures)), root / "videos")


def _performed(plan: ClipPlan, rng: np.random.Generator) -> Iterator[Beat]:
    signs = [DIALECTS[plan.dialect].lexicon[gloss] for gloss in plan.utterance.glosses]
    return perform(signs, Signer.from_seed(plan.signer), rng)


def _write_pose(plan: ClipPlan, beats: list[Beat], folder: Path, drop_out: float) -> None:
    path = folder / poses.file_name(plan.id)
    if path.exists():
        return
    signer = Signer.from_seed(plan.signer)
    pose = estimated(signer, [beat.pose for beat in beats], plan.seed, drop_out)
    replace(path, poses.pack(pose), folder)


def encode(pictures: np.ndarray) -> bytes:
    """(T, H, W, 3) uint8 RGB -> an H.264 mp4, the same bytes for the same pictures."""
    av = extras.load("av", "drawing the corpus")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        # One thread: x264 splits its work, and so its bits, by the number of threads.
        stream.options = {"crf": "20", "preset": "veryfast", "threads": "1"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def _source(plan: ClipPlan) -> str:
    return f"videos/{plan.id}.mp4"


def _clip(plan: ClipPlan) -> Clip:
    return Clip(
        id=plan.id,
        split=plan.split,
        source=_source(plan),
        text=plan.utterance.german,
        language="German",
        gloss=" ".join(plan.utterance.glosses),
        signer=f"signer-{plan.signer}",
        extra={"text_en": plan.utterance.english},
    )
