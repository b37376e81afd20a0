"""CSL-News: Chinese Sign Language of news programmes, one mp4 per clip and one list of labels.

The labels are a JSON list of objects with ``video``, ``text`` and ``pose`` (the file of its key
points, a release of its own that is not read here). There are no splits: it serves to train.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from spamo_cache import bounded
from spamo_cache.config import TextConfig
from spamo_cache.datasets import layout
from spamo_cache.datasets.corpus import Corpus
from spamo_cache.datasets.layout import VideoFolder
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import CorpusError

_FILE = "CSL_News_Labels.json"
_LABELS = (_FILE, f"data/train/{_FILE}", f"**/{_FILE}")
_VIDEOS = ("rgb_format", "CSL_News/rgb_format", "videos", "**/rgb_format")


class Label(NamedTuple):
    """A clip's video, by the name without suffix, and its sentence."""

    video: str
    text: str


def read(root: Path) -> Manifest:
    """Manifest of all labels with a sentence; missing videos are noted, not dropped.

    Raises:
        CorpusError: no labels or no folder of videos, or a broken label.
    """
    (file,) = labels(layout.require_root(root))
    folder = VideoFolder(root, layout.require_folder(root, _VIDEOS))
    clips, mute, absent = [], [], []
    for video, text in _labels(file):
        if not text:
            mute.append(video)
            continue
        if video not in folder:
            absent.append(video)
        clips.append(
            Clip(
                id=video, split="train", source=folder.source(video), text=text, language="Chinese"
            )
        )
    notes = [
        *layout.tally(layout.ABSENT, absent),
        *layout.tally("labels left out for want of a sentence", mute),
    ]
    return Manifest.from_clips("csl-news", clips, notes)


def labels(root: Path) -> list[Path]:
    """The list of labels."""
    files = layout.first_files(root, _LABELS)
    if not files:
        raise layout.no_such_file(root, _FILE)
    return files[:1]


def _labels(path: Path) -> Iterator[Label]:
    try:
        document = bounded.parse_json(layout.read_text(path))
    except ValueError as error:
        raise CorpusError(f"is no JSON: {error}", where=path, remedy="fetch it again") from None
    if not isinstance(document, list):
        raise CorpusError("is no list of labels", where=path, remedy="fetch the file again")
    for number, label in enumerate(document, start=1):
        fields = label if isinstance(label, dict) else {}
        video, text = fields.get("video"), fields.get("text")
        if not isinstance(video, str) or not isinstance(text, str):
            raise CorpusError(
                f"label {number:,} lacks its 'video' or its 'text'",
                where=path,
                remedy="fetch the file again",
            )
        yield Label(PurePosixPath(video).stem, text.strip())


CORPUS = Corpus(
    name="csl-news",
    title="CSL-News",
    language="Chinese",
    sign_language="Chinese Sign Language (CSL)",
    terms=(
        "Licensed CC BY-NC 4.0: research without commercial use, with attribution. Full terms: "
        "https://huggingface.co/datasets/ZechengLi19/CSL-News/"
    ),
    fps=None,
    text=TextConfig(language="Chinese", tokenize="zh"),
    read=read,
    labels=labels,
    caveats=(
        "it has no dev or test split: score on another corpus, such as CSL-Daily",
        "Uni-Sign keeps the last 1 % of the labels for validation; here all of them are training",
    ),
)
