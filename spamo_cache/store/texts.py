"""Text columns: UTF-8 bytes of one width, so that a million ids open at once and sort as bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import DamagedError, StoreError

MAX_TEXT_BYTES = 1024


def encode(texts: Sequence[str], kind: str) -> NDArray[np.uint8]:
    """Texts as a (N, width) column of UTF-8 bytes.

    Raises:
        StoreError: a text with NUL or half a character in it, or of more than 1024 bytes.
    """
    encoded = [_utf8(text, kind) for text in texts]
    width = max([1, *map(len, encoded)])
    column = np.array(encoded, dtype=f"S{width}")
    return column.view(np.uint8).reshape(len(encoded), width)


def _utf8(text: str, kind: str) -> bytes:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise StoreError(f"the {kind} {text!r} is not valid Unicode") from None
    if b"\0" in data or len(data) > MAX_TEXT_BYTES:
        raise StoreError(f"the {kind} {text[:40]!r} holds NUL or over {MAX_TEXT_BYTES} bytes")
    return data


class Texts(Sequence[str]):
    """A text column, decoded as it is asked for: a million ids cost no million objects."""

    def __init__(self, column: NDArray[np.uint8]) -> None:
        # The view's items drop the padding, and numpy compares them as bytes: code point order.
        self.raw: NDArray[np.bytes_] = column.view(f"S{column.shape[1]}").reshape(len(column))

    def __len__(self) -> int:
        return len(self.raw)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [text(item) for item in self.raw[index]]
        return text(self.raw[index])

    def __iter__(self) -> Iterator[str]:
        return map(text, self.raw)

    def positions(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Where each text stands in this sorted column; -1 where it does not."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        sought = np.array(encoded, dtype=self.raw.dtype)
        found = np.minimum(np.searchsorted(self.raw, sought), len(self.raw) - 1)
        # As bytes: numpy has cut what is too long, and takes a NUL at the end for padding.
        pairs = zip(found.tolist(), self.raw[found].tolist(), encoded, strict=True)
        return np.array([at if there == data else -1 for at, there, data in pairs], np.int64)


def text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise DamagedError(f"a text of the clip index is not UTF-8: {data[:40]!r}") from None
