"""The command finds the frames of clips, where the raw corpus is at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.report.translations import SHOTS
from spamo_cache.workflow.frames import HEIGHT, stills
from spamo_cache.workflow.report import FRAMES, report

Build = Callable[..., Path]


def clip(name: str, source: str) -> Clip:
    return Clip(
        id=name, split="test", source=source, start=None, end=None, crop=None,
        text="am montag regen", language="German", gloss=None, signer=None, extra={},
    )  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    (root / "frames").mkdir(parents=True)
    for n in range(10):
        Image.new("RGB", (300, 200), (25 * n, 0, 0)).save(root / f"frames/{n:04}.png")
    return root


def test_frames_are_small_and_evenly_far_apart(corpus: Path) -> None:
    found = stills(corpus, [clip("a", "frames"), clip("gone", "nowhere")], 5)
    assert list(found) == ["a"]
    assert [place for place, _ in found["a"]] == [1, 3, 5, 7, 9]
    (corpus / "one.jpg").write_bytes(found["a"][4][1])
    with Image.open(corpus / "one.jpg") as image:
        assert image.size == (144, HEIGHT)
        assert abs(image.convert("RGB").getpixel((70, 40))[0] - 225) < 8


def test_a_clip_shorter_than_that_shows_each_frame_once(corpus: Path) -> None:
    assert len(stills(corpus, [clip("a", "frames")], 40)["a"]) == 10


def test_the_page_shows_them_if_it_is_told_where_they_lie(
    build_run: Build, corpus: Path, tmp_path: Path
) -> None:
    known = Manifest.from_clips("my-lab", [clip("clip:1-0", "frames")])
    run = build_run(corpus="my-lab", manifest=known)
    out = tmp_path / "r.html"
    report(run, out)
    assert "<img" not in out.read_text()
    report(run, out, root=corpus)
    # The clip's confusion, and its translation.
    assert out.read_text().count("<img") == FRAMES + SHOTS


@pytest.mark.slow
def test_another_clip_of_the_same_name_is_not_shown(
    build_run: Build, corpus: Path, tmp_path: Path
) -> None:
    meant = clip("clip:1-0", "frames")
    run = build_run(corpus="my-lab", manifest=Manifest.from_clips("my-lab", [meant]))
    other = dataclasses.replace(meant, text="am freitag schnee")
    for there, seen in ((other, 0), (meant, FRAMES + SHOTS)):
        Manifest.from_clips("my-lab", [there]).write(corpus / "manifest.parquet")
        report(run, tmp_path / "r.html", root=corpus)
        assert (tmp_path / "r.html").read_text().count("<img") == seen
    (corpus / "manifest.parquet").write_bytes(b"no manifest")
    report(run, tmp_path / "r.html", root=corpus)
    assert "<img" not in (tmp_path / "r.html").read_text()
