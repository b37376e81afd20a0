"""Features that are given to a run: checking that they are its own kind, and translating them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from spamo_cache.errors import StoreError, UsageError
from spamo_cache.model.prompts import Sentence
from spamo_cache.runs.folder import RunFolder
from spamo_cache.runs.load import Run, load_run
from spamo_cache.store.attributes import Attributes
from spamo_cache.train.features import Bank, Features, MemoryFeatures, crop_of
from spamo_cache.train.features import about as about_of

_NEW = "new"
"""Id of a clip that is in no corpus."""
_LAYOUT = {"chunk_rows", "shard_rows", "partition_frames"}
"""Where rows lie in a store, which changes none of them."""
_ELSEWHERE = ("streams.", "store.chunk_rows.", "store.shard_rows.")
"""Changes that do not reach the features of a stream of another name."""


def check_stores(
    folder: RunFolder, stores: Mapping[str, Features], changed: Mapping[str, Any] | None = None
) -> None:
    """Raise StoreError unless these are the features the run was trained from.

    Args:
        changed: dotted keys of the cache spec -> the value that these were computed with instead.
    """
    about = folder.read_about()
    for name, expected in about.fingerprints.items():
        own = _of_stream(changed or {}, name)
        found = stores[name].fingerprint if name in stores else "none"
        if own and name in stores:
            _check_changed(name, about.stores.get(name), stores[name], own)
        elif found != expected:
            raise StoreError(
                f"stream {name!r} is {found[:12]}, the run was trained from {expected[:12]}",
                where=folder.path,
                remedy="give the stores the run was trained from, or train on these",
            )


def _of_stream(changed: Mapping[str, Any], stream: str) -> dict[str, Any]:
    """Key within the stream -> value, of the changes that reach it; ``box.scale`` keeps its dot."""
    own = f"streams.{stream}."
    return {
        key.removeprefix(own) if key.startswith(own) else key.rpartition(".")[2]: (
            list(value) if isinstance(value, tuple) else value
        )
        for key, value in changed.items()
        if key.startswith(own) or not key.startswith(_ELSEWHERE)
    }


def _check_changed(
    name: str, trained: Attributes | None, store: Features, changed: Mapping[str, Any]
) -> None:
    present = about_of(store)
    if trained is None or present is None:
        return  # held in memory: nothing says how they were made
    before, after = _made(trained), _made(present)
    for key in sorted((before.keys() | after.keys()) - _LAYOUT - ({"poses"} & changed.keys())):
        expected = changed.get(key, before.get(key))
        inner = {
            k.removeprefix(f"{key}."): v for k, v in changed.items() if k.startswith(f"{key}.")
        }
        if inner and isinstance(expected, dict):
            expected = {**expected, **inner}
        if after.get(key) != expected:
            raise StoreError(
                f"stream {name!r} has {key} {after.get(key)!r}, expected {expected!r}",
                where=store.path,
                remedy="only what the change names may differ from what the run was trained from",
            )


def _made(about: Attributes) -> dict[str, Any]:
    """All that decides a store's features."""
    parts = about.model_dump(include={"corpus_sha256", "weights_sha256", "semantics"})
    # A phase of 0 is left out of specs.
    made = {"phase": 0, **about.model_dump(mode="json")["spec"], **parts}
    return {**made, "poses": about.poses_sha256} if about.poses_sha256 else made


def translate_features(
    run: Path | Run,
    features: Mapping[str, np.ndarray],
    valid: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> str:
    """The sentence for one clip's features, stream -> (rows, width).

    Args:
        valid: stream -> (rows,) bool, of streams whose rows may not be valid.

    Raises:
        UsageError: a stream of the run is missing, empty or of another width.
    """
    loaded = run if isinstance(run, Run) else load_run(run)
    pipeline, translator = loaded.pipeline, loaded.translator
    widths = loaded.folder.read_about().widths
    stores = {
        name: MemoryFeatures(
            {_NEW: _checked(features.get(name), name, widths[name])},
            valid={_NEW: valid[name]} if name in valid else None,
        )
        for name in pipeline.streams
    }
    streams = Bank(
        stores, [_NEW], max_frames=pipeline.max_frames, memory=0, crop=crop_of(pipeline)
    ).packed([0])
    prompts = loaded.prompts.ids([Sentence(_NEW, "", pipeline.text.language)])
    return translator.generate(
        {name: rows.to(translator.device) for name, rows in streams.items()},
        pipeline.decode,
        prompts.to(translator.device),
    )[0]


def _checked(rows: np.ndarray | None, name: str, width: int) -> np.ndarray:
    if rows is None or rows.ndim != 2 or not len(rows) or rows.shape[1] != width:
        raise UsageError(
            f"stream {name!r} must be (rows, {width}), got {None if rows is None else rows.shape}",
            remedy="extract the video with the run's cache spec",
        )
    return rows
