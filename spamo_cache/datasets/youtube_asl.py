"""YouTube-ASL: a list of video ids; captions are fetched with the videos, one VTT file for each.

It has no splits and serves to train. A lab's own table of captions (``VIDEO_NAME``,
``SENTENCE_NAME``, ``START_REALIGNED``, ``END_REALIGNED``, ``SENTENCE`` with tabs, as How2Sign's) is
taken in place of VTT files.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from spamo_cache.config import TextConfig
from spamo_cache.datasets import layout
from spamo_cache.datasets.corpus import Corpus
from spamo_cache.datasets.layout import TimedClips, VideoFolder, unquoted
from spamo_cache.datasets.manifest import Manifest

_IDS = ("*youtube_asl_video_ids.txt",)
_TABLES = ("youtube_asl.csv", "youtube_asl.tsv")
_VIDEOS = ("videos", "origin", "downloads", "raw_videos")
_CAPTIONS = ("captions", "transcript", "subtitles", *_VIDEOS)
_COLUMNS = ("VIDEO_NAME", "SENTENCE_NAME", "START_REALIGNED", "END_REALIGNED", "SENTENCE")
# Best first: English as uploaded, that of a country or a named track, a file without a language,
# what YouTube heard. en-de and the like are left out: translated by a machine, from German.
_ENGLISH = tuple(map(re.compile, ("en", r"en-(?!orig$|[a-z]{2}(-|$)).+", "", "en-orig")))
_TAG = re.compile(r"<[^<>]*>")
_TIMES = re.compile(r"^([\d:.]+)[ \t]+-->[ \t]+([\d:.]+)")


class Caption(NamedTuple):
    """A sentence of a video, with its times as they are written."""

    clip: str
    video: str
    start: str
    end: str
    text: str


def read(root: Path) -> Manifest:
    """Manifest of the captions of all listed videos; what is missing is noted, not dropped.

    Raises:
        CorpusError: no list of ids, no captions, no folder of videos, or a broken table.
    """
    listed, *table = labels(layout.require_root(root))
    wanted = dict.fromkeys(layout.read_text(listed).split())
    notes: list[str] = []
    captions = list(_from_table(table[0]) if table else _from_files(root, notes))
    folder = VideoFolder(root, layout.require_folder(root, _VIDEOS))
    timed, captioned = TimedClips(), set()
    for caption in captions:
        captioned.add(caption.video)
        if caption.video in wanted:
            timed.add(**caption._asdict(), folder=folder, split="train", language="English")
    notes += layout.one_sided(listed.name, wanted, "the captions", captioned)
    return Manifest.from_clips("youtube-asl", timed.clips, [*timed.notes(), *notes])


def labels(root: Path) -> list[Path]:
    """The list of ids, and the table of captions if there is one."""
    lists = layout.first_files(root, _IDS)
    if not lists:
        raise layout.no_such_file(root, "youtube_asl_video_ids.txt")
    return [lists[-1], *layout.first_files(root, _TABLES)[:1]]


def _from_table(path: Path) -> Iterator[Caption]:
    for row in layout.rows_of(path, "\t", _COLUMNS):
        video, clip, start, end, sentence = (row[name] for name in _COLUMNS)
        yield Caption(clip, video, start, end, unquoted(sentence))


def _from_files(root: Path, notes: list[str]) -> Iterator[Caption]:
    """Captions of every video in the best English file it has; ``notes`` count the others."""
    files = layout.first_files(root, (f"{place}/*.vtt" for place in _CAPTIONS))
    if not files:
        raise layout.no_such_file(root, "captions/ID.en.vtt")
    best: dict[str, Path] = {}
    for path in sorted(files, key=_preference):
        if _preference(path)[0] < len(_ENGLISH):
            best.setdefault(path.name.split(".")[0], path)
    unused = [path.name for path in files if path not in best.values()]
    notes += layout.tally("caption files passed over, not the best English ones", unused)
    for video, path in sorted(best.items()):
        yield from cues(video, layout.read_text(path))


def _preference(path: Path) -> tuple[int, str]:
    """How good a file of captions is by what yt-dlp calls it, ``ID.en-US.vtt``; 0 is the best."""
    language = path.name.removesuffix(".vtt").partition(".")[2]
    ranks = (rank for rank, known in enumerate(_ENGLISH) if known.fullmatch(language))
    return next(ranks, len(_ENGLISH)), path.name


def cues(video: str, document: str) -> Iterator[Caption]:
    """Captions of a WebVTT document; a cue's id is the video's with its number, from 0001."""
    number = 0
    for block in re.split(r"\n{2,}", document.replace("\r\n", "\n")):
        lines = block.strip("\n").split("\n")
        for index, line in enumerate(lines):
            if times := _TIMES.match(line):
                number += 1
                text = _spoken(" ".join(lines[index + 1 :]))
                yield Caption(f"{video}-{number:04d}", video, times[1], times[2], text)
                break


def _spoken(cue: str) -> str:
    """A cue without tags and line breaks, as it was said."""
    return " ".join(html.unescape(_TAG.sub("", cue)).split())


CORPUS = Corpus(
    name="youtube-asl",
    title="YouTube-ASL",
    language="English",
    sign_language="American Sign Language (ASL)",
    terms=(
        "Only ids are given out; videos and captions are their uploaders' and may vanish. Full "
        "terms: https://github.com/google-research/google-research/tree/master/youtube_asl/"
    ),
    fps=None,
    text=TextConfig(language="English"),
    read=read,
    labels=labels,
    caveats=("it has no dev or test split: score on another corpus, such as How2Sign",),
)
