"""Small faithful copies of the corpora, with real PNG, JPEG and H.264 files and the real quirks."""

from __future__ import annotations

import json
import pickle
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from spamo_cache.cli.main import app

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
SPEC = """\
name: tiny
streams:
  spatial: {encoder: open_clip, weights: clip-vision, scales: [1]}
  motion: {encoder: videomae, weights: videomae}
store: {chunk_rows: {frame: 8, window: 2}, shard_rows: {frame: 64, window: 16}}
"""
PHOENIX_ROWS = {
    "train": [("01April_2010_Thursday_heute-6694", 18, "und nun die wettervorhersage für morgen"),
              ("01April_2010_Thursday_heute-6695", 17, "im süden regnet es"),
              ("11August_2010_Wednesday_tagesschau-2", 16, "guten abend liebe zuschauer")],
    "dev": [("01December_2011_Thursday_heute-3", 20, "tiefer luftdruck bestimmt das wetter")],
    "test": [("25October_2010_Monday_tagesschau-22", 10, "guten abend liebe zuschauer")],
}  # fmt: skip
PHOENIX_HEADER = "name|video|start|end|speaker|orth|translation"
CSL_FRAMES = {
    "S000020_P0004_T00": ("train", 17, "他的同学是警察。"),
    "S000021_P0000_T00": ("train", 12, "今天阴天，我不想骑自行车。"),
    "S000022_P0001_T00": ("dev", 16, "你小张什么时候认识？"),
    "S000023_P0002_T00": ("test", 16, "你小张什么时候认识？"),
}
HOW2SIGN_HEADER = (
    "VIDEO_ID VIDEO_NAME SENTENCE_ID SENTENCE_NAME START_REALIGNED END_REALIGNED SENTENCE"
)

Call = Callable[..., Result]


def picture(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """A frame that differs from its neighbours."""
    frame = np.full((height, width, 3), 90, np.uint8)
    left = index * 7 % (width - 12)
    frame[: height // 2, left : left + 12] = (40, 200, 90)
    return frame


def images(folder: Path, names: Iterable[str], width: int, height: int) -> None:
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), picture(index, width, height))


def mp4(path: Path, frames: int, rate: Fraction, width: int = 64, height: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def table(path: Path, rows: Iterable[Iterable[str]], delimiter: str = "\t") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(delimiter.join(row) + "\n" for row in rows), encoding="utf-8")


def phoenix(root: Path) -> Path:
    """``/1/*.png`` in the tables only, a stray .lprof, a 10-frame clip, the release's pickle."""
    frames = root / "features/fullFrame-210x260px"
    for split, rows in PHOENIX_ROWS.items():
        lines = [PHOENIX_HEADER.split("|")]
        for name, count, sentence in rows:
            images(
                frames / split / name, (f"images{n + 1:04d}.png" for n in range(count)), 210, 260
            )
            lines.append(
                [name, f"{name}/1/*.png", "-1", "-1", "Signer08", "JETZT WETTER", sentence]
            )
        table(root / f"annotations/manual/PHOENIX-2014-T.{split}.corpus.csv", lines, "|")
    stray = frames / "train" / PHOENIX_ROWS["train"][0][0] / "images0003.png.lprof"
    stray.write_bytes(b"profile")
    # Known to the release's pickle under two names, one of which the table lacks.
    first, *_ = PHOENIX_ROWS["train"]
    entries: dict[Any, Any] = {"prefix": "/data/phoenix"}
    for number, name in enumerate((first[0], "02April_2010_Friday_heute-1")):
        entries[number] = {
            "fileid": name, "folder": f"train/{name}", "signer": "Signer08", "gloss": "JETZT",
            "text": f"{first[2]}.", "num_frames": np.int64(first[1]), "original_info": "x|y",
            "en_text": "and now the forecast", "es_text": "y ahora", "fr_text": "et maintenant",
        }  # fmt: skip
    document = np.array(entries, dtype=object)
    np.save(root / "train_info_ml.npy", document, allow_pickle=True)
    return root


def csl(root: Path, place: str = "sentence/frames_512x512") -> Path:
    """An id missing from the pickle and one from the split file; two label versions; no video."""
    labels = root / "sentence_label"
    labels.mkdir(parents=True)
    info = [
        {
            "name": name, "length": count, "label_gloss": ["他", "同学"], "label_char": list(text),
            "label_word": [text], "label_postag": ["r"], "signer": 4, "time": 0,
        }
        for name, (_, count, text) in {**CSL_FRAMES, "S000007_P0003_T00": ("", 9, "好。")}.items()
    ]  # fmt: skip
    for version in (1, 2):
        document = {"info": info, "gloss_map": ["他"], "char_map": ["他"]}
        (labels / f"csl2020ct_v{version}.pkl").write_bytes(pickle.dumps(document, protocol=3))
    rows = [(name, split) for name, (split, _, _) in CSL_FRAMES.items()]
    table(labels / "split_1.txt", [("name", "split"), *rows, ("S000005_P0004_T00", "train")], "|")
    for name, (_, count, _) in CSL_FRAMES.items():
        if place.endswith("crop"):
            mp4(root / place / f"{name}.mp4", count, Fraction(30))
        else:
            images(root / place / name, (f"{n:06d}.jpg" for n in range(count)), 512, 512)
    return root


def how2sign(root: Path) -> Path:
    """Tabs in a .csv, quotes, a name with ``:`` and é, a video that is missing, ends too late."""
    videos = {"train": ["-a7Rg", "cW:é9"], "val": ["_bQx1"], "test": ["zz01", "gone"]}
    rows = {
        "train": [("-a7Rg", "0", "0.5", "1.5", "Hi! I'm Johanna."),
                  ("-a7Rg", "1", "1.5", "2.52", '"Say ""hello"" first."'),
                  ("-a7Rg", "2", "2.0", "9.0", "This one ends behind the video."),
                  ("cW:é9", "0", "0", "1", "Take one cup of rice.")],
        "val": [("_bQx1", "0", "0", "1", 'He said "go".')],
        "test": [("zz01", "0", "0.2", "0.6", "Good bye."), ("gone", "0", "0", "1", "Wave.")],
    }  # fmt: skip
    for split, entries in rows.items():
        lines = [HOW2SIGN_HEADER.split()]
        for video, number, start, end, sentence in entries:
            clip = f"{video}_{number}"
            lines.append(
                [video, f"{video}-5-rgb_front", clip, f"{clip}-5-rgb_front", start, end, sentence]
            )
        name = f"how2sign_realigned_{split}.csv"
        table(root / f"sentence_level/{split}/text/en/raw_text/re_aligned/{name}", lines)
        for video in videos[split]:
            if video != "gone":
                place = root / f"video_level/{split}/rgb_front/raw_videos"
                mp4(place / f"{video}-5-rgb_front.mp4", 60, Fraction(24000, 1001))
    return root


def openasl(root: Path) -> Path:
    """Ids with ``:``, boxes as shares, one over the edge, one missing; a split called valid."""
    yids = {"train": "-AbC_d1", "valid": "ZZtop99", "test": "Q1w2e3r"}
    header = ["vid", "yid", "start", "end", "raw-text", "tokenized-text", "gloss", "split"]
    lines, boxes = [header], {}
    for split, yid in yids.items():
        mp4(root / "raw-video" / f"{yid}.mp4", 50, Fraction(25))
        for start, end in (("00:00:00.000", "00:00:00.800"), ("00:00:00.840", "00:00:01.960")):
            vid = f"{yid}-{start}-{end}"
            boxes[vid] = [0.1, -0.02, 0.75, 1.0]
            lines.append([vid, yid, start, end, f'"It\'s ""{split}"""', "it 's", "", split])
    del boxes[lines[1][0]]
    lines.append(["gone-1:2", "gone", "1.5", "2", "Vanished.", "vanished .", "", "train"])
    lines.append(["ZZtop99-late", "ZZtop99", "1", "00:01:00,5", "Late.", "late .", "", "train"])
    lines.append(["ZZtop99-none", "ZZtop99", "", "", "Never.", "never .", "", "train"])
    table(root / "data/openasl-v1.0.tsv", lines)
    (root / "data/bbox-v1.0.json").write_text(json.dumps(boxes), encoding="utf-8")
    return root


def youtube_asl(root: Path) -> Path:
    """Captions in VTT, with tags, entities, two lines and none; an id without any."""
    vtt = (
        "WEBVTT\nKind: captions\nLanguage: en\n\nNOTE made by hand\n\n"
        "00:00:00.000 --> 00:00:00.900 align:start position:0%\n<c>Rock</c> &amp;\nroll.\n\n"
        "intro\n00:01.000 --> 00:01.500\n \nSecond line &#39;counts&#39;.\n\n"
        "00:00:01.600 --> 00:00:01.700\n\n\n"
    )
    (root / "captions").mkdir(parents=True)
    for name in ("-x_1", "other"):
        (root / f"captions/{name}.en.vtt").write_text(vtt.replace("\n", "\r\n"), encoding="utf-8")
    (root / "youtube_asl_video_ids.txt").write_text("-x_1\nsilent1\n", encoding="utf-8")
    mp4(root / "videos/-x_1.mp4", 50, Fraction(30000, 1001))
    return root


def csl_news(root: Path) -> Path:
    """A list of labels in JSON, a video that is missing, a label without a sentence."""
    first, gone, mute = (
        f"Common-Concerns_20201113_{times}" for times in ("0-287_14330", "9-60_450", "61-70_3050")
    )
    sentences = {first: "晚上好。", gone: "看新闻。", mute: " "}
    listed = [
        {"video": f"{name}.mp4", "pose": f"{name}.pkl", "text": text}
        for name, text in sentences.items()
    ]
    mp4(root / "rgb_format" / f"{first}.mp4", 20, Fraction(25))
    (root / "CSL_News_Labels.json").write_text(
        json.dumps(listed, ensure_ascii=False), encoding="utf-8"
    )
    return root


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The root of each corpus; whoever changes one copies it first."""
    folder = tmp_path_factory.mktemp("corpora")
    return {
        "phoenix14t": phoenix(folder / "phoenix14t"),
        "csl-daily": csl(folder / "csl-daily"),
        "how2sign": how2sign(folder / "how2sign"),
        "openasl": openasl(folder / "openasl"),
        "youtube-asl": youtube_asl(folder / "youtube-asl"),
        "csl-news": csl_news(folder / "csl-news"),
    }


@pytest.fixture(scope="session", name="mp4")
def _mp4() -> Callable[[Path, int, Fraction], None]:
    """Encode a video of so many frames at a rate."""
    return mp4


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with tiny networks, their spec, and a home of its own."""
    for network in ("clip-vision", "videomae"):
        shutil.copytree(GOLDEN / network, tmp_path / network)
    (tmp_path / "spec.yaml").write_text(SPEC, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture(scope="session")
def call() -> Call:
    """Run a command in this process; a bug's exception passes through."""

    def run(line: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, shlex.split(line))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run
