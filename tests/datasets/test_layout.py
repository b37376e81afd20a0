"""Times, captions and boxes as tables and subtitles write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spamo_cache.datasets import openasl, youtube_asl
from spamo_cache.datasets.layout import TimedClips, VideoFolder, seconds, unquoted
from spamo_cache.errors import CorpusError

TABLE = "vid\tyid\tstart\tend\traw-text\tsplit\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12.5", 12.5), (" 3 ", 3.0), ("00:12.500", 12.5), ("1:02:03,25", 3723.25),
        ("00:00:00.000", 0.0), ("", None), ("soon", None), ("nan", None), ("inf", None),
        ("1:2:3:4", None), ("-1", -1.0),
    ],
)  # fmt: skip
def test_times_are_read_as_they_are_written(text: str, found: float | None) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('"Say ""hello"" first."', 'Say "hello" first.'),
        ('He said "go"', 'He said "go"'),
        ('"Go" and "stop"', '"Go" and "stop"'),
        ('"', '"'),
        (" plain ", "plain"),
    ],
)
def test_only_quotes_of_a_spreadsheet_are_taken_off(cell: str, text: str) -> None:
    assert unquoted(cell) == text


def test_a_video_is_found_by_its_name_whatever_its_suffix(tmp_path: Path) -> None:
    for name in ("a.webm", "a.mp4", "b.MKV", "c.txt", "d.x.mp4"):
        (tmp_path / name).touch()
    folder = VideoFolder(tmp_path, ".")
    assert [folder.source(name) for name in ("a", "b", "c", "d.x")] == [
        "./a.mp4", "./b.MKV", "./c.mp4", "./d.x.mp4",
    ]  # fmt: skip
    assert ("a" in folder, "c" in folder) == (True, False)


def test_rows_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").touch()
    found, folder = TimedClips(), VideoFolder(tmp_path, ".")
    rows = {
        "ok": ("0", "1", "t"),
        "late": ("2", "1", "t"),
        "none": ("", "", "t"),
        "mute": ("0", "1", ""),
    }
    for clip, (start, end, text) in rows.items():
        found.add(
            clip, folder=folder, video="v", start=start, end=end, text=text, split="x", language="y"
        )
    found.add(
        "gone", folder=folder, video="w", start="0", end="1", text="t", split="x", language="y"
    )
    found.add(
        "early", folder=folder, video="v", start="-1", end="1", text="t", split="x", language="y"
    )
    assert [clip.id for clip in found.clips] == ["ok", "gone"]
    assert found.notes() == [
        "clips whose video is missing: 1 (gone)",
        "rows left out for an empty or broken time range: 3 (early, late, none)",
        "rows left out for want of a sentence: 1 (mute)",
    ]


def openasl_root(root: Path, boxes: str) -> Path:
    (root / "raw-video").mkdir()
    (root / "openasl-v1.0.tsv").write_text(f"{TABLE}a:1\ty\t0\t1\tHi.\tvalid\n", encoding="utf-8")
    (root / "bbox-v1.0.json").write_text(boxes, encoding="utf-8")
    return root


def test_openasl_boxes_are_cut_to_the_frame(tmp_path: Path) -> None:
    root = openasl_root(tmp_path, json.dumps({"a:1": [-0.1, 0.2, 0.9, 1.3]}))
    only = openasl.read(root).clips("dev")[0]
    assert (only.id, only.crop, only.source) == ("a:1", (0.0, 0.2, 0.9, 1.0), "raw-video/y.mp4")


@pytest.mark.parametrize(
    "boxes", ["[]", "{", '{"a:1": [0, 1]}', '{"a:1": "0,0,1,1"}', '{"a:1": 3}']
)
def test_openasl_boxes_that_are_none_are_one_clear_error(tmp_path: Path, boxes: str) -> None:
    with pytest.raises(CorpusError, match="no table of boxes") as caught:
        openasl.read(openasl_root(tmp_path, boxes))
    assert "bbox-v1.0.json" in str(caught.value)


def test_a_corpus_without_a_clip_says_what_was_passed_over(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "captions").mkdir()
    (tmp_path / "youtube_asl_video_ids.txt").write_text("abc\n")
    (tmp_path / "captions" / "abc.de.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nHallo\n")
    with pytest.raises(CorpusError, match=r"no clip was found\n.*passed over.*abc\.de\.vtt"):
        youtube_asl.read(tmp_path)


def test_youtube_asl_takes_a_table_in_place_of_subtitles(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/abc.mp4").touch()
    (tmp_path / "youtube-asl_youtube_asl_video_ids.txt").write_text("abc\n")
    header = "VIDEO_NAME\tSENTENCE_NAME\tSTART_REALIGNED\tEND_REALIGNED\tSENTENCE\n"
    (tmp_path / "youtube_asl.csv").write_text(f"{header}abc\tabc-000\t1.0\t2.5\tHello.\n")
    only = youtube_asl.read(tmp_path).clips()[0]
    assert (only.id, only.start, only.end, only.text) == ("abc-000", 1.0, 2.5, "Hello.")


def test_cues_keep_their_number_when_one_is_empty() -> None:
    document = (
        "WEBVTT\n\nSTYLE\n::cue {}\n\n00:01.000 --> 00:02.000\n\n\n00:03.000 --> 00:04.000\na\nb\n"
    )
    assert [(c.clip, c.start, c.text) for c in youtube_asl.cues("v", document)] == [
        ("v-0001", "00:01.000", ""),
        ("v-0002", "00:03.000", "a b"),
    ]
