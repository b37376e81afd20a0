"""A sheet of pictures with labels, such as what the encoders see of a clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
"""(height, width, 3) RGB."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

_WIDTH, _MARGIN, _GAP = 1600, 32, 14
_COLOURS = ("#ffd166", "#5ad1ff", "#ff6b6b", "#8ce99a", "#e599f7")
_PAPER, _INK, _SOFT, _ACCENT = "#fbfaf7", "#1d2329", "#59636e", "#0f6b62"


@dataclass(frozen=True)
class Picture:
    """A picture and the words above it."""

    image: Image.Image
    label: str


@dataclass(frozen=True)
class Block:
    """Pictures under a heading, left to right in as many lines as they need."""

    title: str
    note: str
    lines: Sequence[Sequence[Picture]]
    """Each begins on a line of its own."""


def draw(title: str, note: str, blocks: Sequence[Block]) -> Image.Image:
    """The blocks one below the other, under a title."""
    sheet = _Sheet()
    sheet.words(title, 30, _INK)
    sheet.words(note, 17, _SOFT)
    for block in blocks:
        sheet.gap(22)
        sheet.words(block.title, 22, _ACCENT)
        sheet.words(block.note, 17, _SOFT)
        for line in block.lines:
            sheet.pictures(line)
    return sheet.image()


class _Sheet:
    """Collects what is drawn, and how far down it reaches."""

    def __init__(self) -> None:
        self._drawn: list[tuple[int, int, Image.Image | str, int, str]] = []
        self._y = _MARGIN

    def gap(self, pixels: int) -> None:
        self._y += pixels

    def words(self, words: str, size: int, colour: str) -> None:
        for line in _wrapped(words, size, _WIDTH - 2 * _MARGIN):
            self._drawn.append((_MARGIN, self._y, line, size, colour))
            self._y += round(size * 1.4)

    def pictures(self, line: Sequence[Picture]) -> None:
        self._y += _GAP
        x, below = _MARGIN, self._y
        for picture in line:
            image, size = picture.image, 15
            labels = picture.label.split("\n")
            wide = max(image.width, *(round(_text_width(words, size)) for words in labels))
            if x > _MARGIN and x + wide > _WIDTH - _MARGIN:
                x, self._y = _MARGIN, below + _GAP
            for row, words in enumerate(labels):
                self._drawn.append((x, self._y + 20 * row, words, size, _SOFT))
            top = self._y + 20 * len(labels) + 2
            self._drawn.append((x, top, image, 0, ""))
            x, below = x + wide + _GAP, max(below, top + image.height)
        self._y = below

    def image(self) -> Image.Image:
        sheet = Image.new("RGB", (_WIDTH, self._y + _MARGIN), _PAPER)
        pen = ImageDraw.Draw(sheet)
        for x, y, what, size, colour in self._drawn:
            if isinstance(what, str):
                pen.text((x, y), what, fill=colour, font=ImageFont.load_default(size))
            else:
                sheet.paste(what, (x, y))
        return sheet


def _text_width(words: str, size: int) -> float:
    return ImageFont.load_default(size).getlength(words)


def _wrapped(words: str, size: int, room: int) -> Iterator[str]:
    line = ""
    for word in words.split():
        longer = f"{line} {word}".strip()
        if line and _text_width(longer, size) > room:
            yield line
            line = word
        else:
            line = longer
    yield line


def fitted(pixels: Pixels, height: int) -> Image.Image:
    """A picture at a height; enlarged without smoothing, so that its pixels are seen."""
    image = Image.fromarray(pixels)
    width = max(1, round(image.width * height / image.height))
    way = Image.Resampling.NEAREST if height >= image.height else Image.Resampling.LANCZOS
    return image.resize((width, height), way)


def outlined(pixels: Pixels, box: Box, height: int) -> Image.Image:
    """A picture at a height, with a box of its own pixels outlined and the rest dimmed."""
    dimmed = (pixels // 2 + 112).astype(np.uint8)
    left, top, right, bottom = box
    inside = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
    dimmed[inside] = pixels[inside]
    image = fitted(dimmed, height)
    _rectangle(image, box, height / pixels.shape[0], _ACCENT)
    return image


def boxes_on(pixels: Pixels, boxes: Mapping[str, Box], height: int) -> Image.Image:
    """A picture at a height, with boxes of its own pixels, each in a colour with its name."""
    image = fitted(pixels, height)
    share, pen = height / pixels.shape[0], ImageDraw.Draw(image)
    for (name, box), colour in zip(boxes.items(), cycle(_COLOURS), strict=False):
        _rectangle(image, box, share, colour)
        x, y = (round(edge * share) + 4 for edge in box[:2])
        pen.text(
            (min(max(x, 2), image.width - 14), min(max(y, 2), image.height - 16)),
            name,
            fill=colour,
            font=ImageFont.load_default(13),
            stroke_width=2,
            stroke_fill="black",
        )
    return image


def dotted(pixels: Pixels, points: NDArray[np.floating], height: int) -> Image.Image:
    """A picture at a height, with points (n, 2) of its own pixels on it."""
    image = fitted(pixels, height)
    pen = ImageDraw.Draw(image)
    for x, y in (points * (height / pixels.shape[0])).tolist():
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_COLOURS[0], outline="black")
    return image


def _rectangle(image: Image.Image, box: Box, share: float, colour: str) -> None:
    left, top, right, bottom = (round(edge * share) for edge in box)
    edges = (left, top, max(right - 1, left), max(bottom - 1, top))
    ImageDraw.Draw(image).rectangle(edges, outline=colour, width=2)


def tiled(tiles: Sequence[Pixels], columns: int, height: int, gap: int = 4) -> Image.Image:
    """Square tiles as a square grid of a height, apart from one another."""
    side = (height - gap * (columns - 1)) // columns
    grid = Image.new("RGB", (height, height), _PAPER)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        grid.paste(fitted(tile, side), (column * (side + gap), row * (side + gap)))
    return grid


def strip(frames: NDArray[np.uint8], height: int, gap: int = 4) -> Image.Image:
    """Square frames (frames, size, size, 3) side by side, in lines that fit the sheet."""
    columns = (_WIDTH - 2 * _MARGIN + gap) // (height + gap)
    lines = -(-len(frames) // columns)
    size = min(len(frames), columns), lines
    wide, high = (count * (height + gap) - gap for count in size)
    image = Image.new("RGB", (wide, high), _PAPER)
    for index, frame in enumerate(frames):
        line, column = divmod(index, columns)
        image.paste(fitted(frame, height), (column * (height + gap), line * (height + gap)))
    return image
