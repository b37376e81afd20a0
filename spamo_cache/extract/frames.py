"""Streams whose rows are frames, for encoders that are tuned: the clips of a store, decoded for
every batch and prepared as in extraction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from spamo_cache.encoders.encoder import window
from spamo_cache.encoders.preprocess import Resize
from spamo_cache.encoders.tunable import TunableEncoder
from spamo_cache.errors import VideoError, WeightsError
from spamo_cache.extract.decoding import FrameBuffer
from spamo_cache.extract.regions import View
from spamo_cache.store.layout import ClipKey
from spamo_cache.store.reader import FeatureStore
from spamo_cache.video import decode, probe

Prepared = Mapping[View, torch.Tensor]


def frame_streams(
    stores: Mapping[str, FeatureStore],
    encoders: Mapping[str, TunableEncoder],
    root: Path,
    *,
    resize: Resize,
    threads: int,
) -> dict[str, FrameStream]:
    """The same clips as in ``stores``, from the corpus in ``root``.

    Raises:
        WeightsError: a store was computed with other weights than its encoder has.
    """
    views = {View(one.encoder.preprocess.resize_spec) for one in encoders.values()}
    keys = next(iter(stores.values())).clip_keys()
    decoder = ClipDecoder(root, keys, views, resize, threads)
    return {name: FrameStream(store, encoders[name], decoder) for name, store in stores.items()}


class ClipDecoder:
    """Decodes and prepares clips once for the encoders of all streams.

    The last clips are kept: streams ask for the same ones, one after the other.
    """

    def __init__(
        self,
        root: Path,
        clips: Sequence[ClipKey],
        views: set[View],
        resize: Resize,
        threads: int,
    ) -> None:
        self._root, self._views, self._resize = root, views, resize
        self._clips = {clip.id: clip for clip in clips}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        # Two: while training reads ahead, dev is decoded.
        self.clips = lru_cache(maxsize=2)(self._read)

    def _read(self, ids: tuple[str, ...]) -> list[Prepared]:
        """The frames of clips; raises VideoError for one that is not what it was."""
        return list(self._pool.map(self._prepared, ids))

    def _prepared(self, clip: str) -> Prepared:
        key = self._clips[clip]
        probed = probe(self._root, key)
        if probed.reason is None and probed.size != key.size:
            raise VideoError("is not the clip that was extracted", where=key.source)
        buffer = FrameBuffer(self._resize, probed.frames, self._views)
        decode(self._root, key, probed, buffer.take)
        return buffer.prepared()


class FrameStream:
    """A stream of a store in which a row is the pixels it was computed from, flat, uint8.

    Attributes:
        encoder: makes of such rows what the store holds, before it is trained.
        values: pixel values per row.
        width: values per row of features, as in the store; so are state, rows and fingerprint.
    """

    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(self, store: FeatureStore, encoder: TunableEncoder, decoder: ClipDecoder) -> None:
        if encoder.encoder.weights_sha256 != store.attributes["weights_sha256"]:
            raise WeightsError(
                f"are not those that stream {store.stream!r} was extracted with",
                where=store.path,
                remedy="extract it again with the spec's weights",
            )
        self.encoder, self._store, self._decoder = encoder, store, decoder
        self.width, self.fingerprint, self.path = store.width, store.fingerprint, store.path
        self.about = store.about
        self.values = int(np.prod(encoder.shape))

    def state(self, clip: str) -> Literal["ok", "failed", "absent"]:
        return self._store.state(clip)

    def reason(self, clip: str) -> str | None:
        return self._store.reason(clip)

    def rows(self, clip: str) -> int:
        return self._store.rows(clip)

    def read_into(self, ids: Sequence[str], buffer: NDArray[Any]) -> NDArray[np.int64]:
        """Fill ``buffer`` (rows, values) with the clips' rows; their offsets (clips + 1,).

        Raises:
            VideoError: a clip is not what it was when it was extracted.
        """
        offsets = np.cumsum([0, *map(self.rows, ids)])
        for first, prepared in zip(offsets, self._decoder.clips(tuple(ids)), strict=False):
            for row, pixels in enumerate(self._windows(prepared), first):
                buffer[row] = pixels.flatten().numpy()
        return offsets

    def _windows(self, prepared: Prepared) -> Iterator[torch.Tensor]:
        """The frames under each row, colours last."""
        network = self.encoder.encoder
        frames = prepared[View(network.preprocess.resize_spec)].permute(0, 2, 3, 1)
        for start in network.starts(len(frames)):
            yield window(frames, start, network.span)
