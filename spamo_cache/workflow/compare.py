"""Are my features theirs? Features of others against a store, and why they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spamo_cache import devices, extras
from spamo_cache.errors import ConfigError, SpamoError, UsageError, VideoError
from spamo_cache.workflow import resolve, stores
from spamo_cache.workflow.watcher import QUIET, Watcher

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spamo_cache.config import NetworkStream
    from spamo_cache.extract.variants import Trials
    from spamo_cache.store.compare import ClipComparison, Comparison, Rows
    from spamo_cache.store.foreign import Item
    from spamo_cache.store.reader import FeatureStore


def compare(
    features: str | Path,
    store: str | Path,
    *,
    root: Path | str | None = None,
    spec: str | Path | None = None,
    device: str = "auto",
    watcher: Watcher = QUIET,
) -> Comparison:
    """Compare features of others with a store, clip by clip, and look for why they differ.

    Args:
        features: whatever ``store import`` reads: a folder, an archive, HDF5, a pickle, tensors;
            or a store by name, path or address.
        store: by name, path or address.
        root: folder of the raw corpus, so that features can be made in other ways, to see which
            are theirs; None is where it was extracted from last, if it is still there.
        spec: cache spec of the store, which names its weights; None is that of the corpus's
            pipeline.
        device: what computes them.
        watcher: is told of progress.

    Returns:
        Clips that are equal, near or different, with figures; what explains the differences, and
        everything that was tried.

    Raises:
        UsageError: no such features or store, or no clip is in both.
        StoreError: the store, or a file of many clips, cannot be read.
        ConfigError, WeightsError, VideoError: with ``root``, features cannot be made.
    """
    from spamo_cache.store import compare as numbers
    from spamo_cache.store.reader import FeatureStore

    ours = FeatureStore.open(resolve.located(str(store)))
    with _opened(features) as items:
        found = numbers.align(items, ours.select(state="ok"), ours.stream)
        if not found.pairs:
            named = ", ".join(item.id for item in items[:3]) or "nothing"
            raise UsageError(
                f"no clip is in both: {named} ... and {', '.join(list(ours.ids)[:3])} ...",
                where=features,
                remedy="check the stream and the corpus; clips are found by their ids",
            )
        clips = []
        with watcher.task("compare", ours.path.stem, "clips") as advance:
            for item, clip in found.pairs:
                clips.append(numbers.compare_clip(item, clip, ours))
                advance(len(clips), len(found.pairs))
        known = numbers.Comparison(
            features=str(features),
            store=str(ours.path),
            aligned=dict(found.rules),
            clips=clips,
            unknown=[item.id for item in found.unknown],
            missing=len(ours) - len(found.pairs),
            notes=[f"{found.spare:,} further arrays of the same clips were left out"]
            if found.spare
            else [],
        )
        theirs = {clip: item for item, clip in found.pairs}
        return _explained(known, theirs, ours, _Lab(root, spec, device, watcher))


@contextmanager
def _opened(features: str | Path) -> Iterator[Sequence[Item]]:
    """Features of others, from files or a store."""
    from spamo_cache.store import foreign
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.store.roots import stores_in

    path = Path(features)
    is_file = "://" not in str(features) and path.suffix != ".zarr" and path.exists()
    if is_file and not (path.is_dir() and (stores_in(path) or stores_in(path.parent, path.name))):
        with foreign.opened(path) as items:
            yield items
        return
    store = FeatureStore.open(resolve.located(str(features)))
    yield [
        foreign.Item(clip, "", clip, partial(_read, store, clip), partial(_valid, store, clip))
        for clip in store.select(state="ok")
    ]


def _read(store: FeatureStore, clip: str) -> NDArray[Any]:
    return store.read([clip])[0]


def _valid(store: FeatureStore, clip: str) -> NDArray[Any]:
    return store.valid([clip])[0]


@dataclass(frozen=True, slots=True)
class _Lab:
    """Where features can be made, and by what."""

    root: Path | str | None
    spec: str | Path | None
    device: str
    watcher: Watcher


def _explained(
    known: Comparison, items: Mapping[str, Item], store: FeatureStore, lab: _Lab
) -> Comparison:
    """The comparison with the causes of its differences."""
    from spamo_cache.store import compare as numbers

    chosen = numbers.sample(known.clips)
    if not chosen:
        return known
    pairs = _pairs(chosen, items, store)
    tried = numbers.causes(numbers.Sample.of(pairs, store))
    apart = numbers.judge(pairs)[0] if all(a.shape == b.shape for a, b in pairs) else None
    cause = numbers.explanation(tried, apart)
    found = replace(known, tried=tried, cause=cause)
    if cause is not None or (found.same and lab.root is None):
        return found
    found = _tried_on_videos(found, chosen, pairs, store, lab)
    width = pairs[0][0].shape[1]
    if found.cause is None and width != store.width:
        what = f"another model: rows of theirs have {width} values, the store's {store.width}"
        return replace(found, cause=numbers.Cause("weights", what, 1.0, 0.0, 0))
    return found


def _tried_on_videos(
    found: Comparison,
    chosen: Sequence[ClipComparison],
    pairs: Sequence[tuple[Rows, Rows]],
    store: FeatureStore,
    lab: _Lab,
) -> Comparison:
    """The comparison with what features tell that are made in other ways."""
    from spamo_cache.store import compare as numbers

    try:
        trials = _trials(chosen, pairs, store, lab)
    except SpamoError as error:
        if lab.root is not None:
            raise
        return replace(found, notes=[*found.notes, f"nothing was tried on videos: {error.what}"])
    if trials is None:
        note = "other ways to make the features are tried where the videos are named by --root DIR"
        return replace(found, notes=[*found.notes, note])
    if trials.reproduced > numbers.NEAR:
        note = (
            "these videos and weights do not reproduce the store's own features (relative error "
            f"{trials.reproduced:.2g}): check --root and --spec"
        )
        return replace(found, notes=[*found.notes, note])
    tried = numbers.ranked([*found.tried, *trials.tried])
    cause = numbers.explanation(tried, trials.apart)
    if cause is None and not found.same:
        what = "other weights or another model: no other way to make the features explains them"
        cause = numbers.Cause("weights", what, trials.apart, trials.cosine, trials.rows)
    return replace(found, tried=tried, cause=cause)


_CLIPS = 3
_MAX_FRAME_BYTES = 1 << 28
"""Of one clip."""


def _trials(
    chosen: Sequence[ClipComparison],
    pairs: Sequence[tuple[Rows, Rows]],
    store: FeatureStore,
    lab: _Lab,
) -> Trials | None:
    """What features of a few clips tell that are made in other ways; None without videos."""
    root = stores.at_hand(store.corpus, lab.root)
    if root is None:
        return None
    extras.need(*extras.EXTRAS["extract"], use="making features in other ways")
    from spamo_cache.extract.variants import Recipe, Seen, explain

    stream, base = _stream(store, lab.spec)
    made = store.attributes["spec"]
    # Short clips are quickly decoded, but rows have to differ.
    few = sorted(zip(chosen, pairs, strict=True), key=lambda one: (one[0].rows[1] < 4, one[0].rows))
    seen = [
        Seen(*_frames(root, store, one.clip), theirs, ours) for one, (theirs, ours) in few[:_CLIPS]
    ]
    lengths = [
        (store.slot(one.clip).frames, one.rows[0]) for one in chosen if store.slot(one.clip).frames
    ]
    with lab.watcher.task("try", store.stream, "ways") as advance:
        return explain(
            seen,
            Recipe(stream, made["resize"], made["compute"]),
            base,
            lengths=lengths,
            device=devices.resolve(lab.device),
            progress=advance,
        )


def _stream(store: FeatureStore, given: str | Path | None) -> tuple[NetworkStream, Path]:
    """How a store was made, with the weights that a spec names; and the folder of the spec."""
    from spamo_cache.config import PoseStream

    made = store.attributes["spec"]
    if "encoder" not in made:
        raise UsageError(
            "the store was imported: how its features were made is not recorded", where=store.path
        )
    spec, file = resolve.named_spec(given or resolve.spec_of(store.corpus))
    own = spec.streams.get(store.stream)
    if store.about.poses_sha256:
        raise UsageError(
            "what was computed by poses cannot be computed in other ways here",
            where=store.path,
            remedy="leave --root out: rows are compared as they are",
        )
    if own is None or own.encoder != made["encoder"] or isinstance(own, PoseStream):
        raise ConfigError(
            f"has no stream {store.stream!r} of {made['encoder']}",
            where=file,
            remedy="name the spec that the store was made by: --spec FILE",
        )
    kept = {key: value for key, value in made.items() if key in type(own).model_fields}
    weights = {"weights": own.weights, "key_map": own.key_map}
    return type(own).model_validate({**kept, **weights}), file.parent


def _frames(root: Path, store: FeatureStore, clip: str) -> tuple[NDArray[Any], int]:
    """The frames of a clip, the first ones where it is long, and how many it has."""
    from spamo_cache.video import each_frame, probe

    key = store.clip_key(clip)
    probed = probe(root, key)
    if probed.reason is not None or probed.size != key.size:
        raise VideoError(
            probed.reason or "is not the clip that was extracted",
            where=root / key.source,
            remedy="check --root",
        )
    kept: list[NDArray[Any]] = []
    with closing(each_frame(root, key, probed)) as frames:
        for frame in frames:
            kept.append(frame.copy())
            if len(kept) * frame.nbytes > _MAX_FRAME_BYTES:
                break
    return np.stack(kept), probed.frames


def _pairs(
    chosen: Sequence[ClipComparison], items: Mapping[str, Item], store: FeatureStore
) -> list[tuple[Rows, Rows]]:
    from spamo_cache.store.compare import rows_of

    return [(rows_of(items[one.clip].load()), rows_of(store.read([one.clip])[0])) for one in chosen]
