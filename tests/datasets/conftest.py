"""Small faithful copies of the corpora's layouts, with the quirks that bite."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEADER = "name|video|start|end|speaker|orth|translation"
NAME = "11August_2010_Wednesday_tagesschau-{}"
SENTENCES = {
    "train": ["am tag regnet es im süden", "morgen scheint die sonne"],
    "dev": ["und nun die wettervorhersage"],
    "test": ["morgen scheint die sonne"],
}


def picture(path: Path, shade: int = 0, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), shade, np.uint8)).save(path)


@pytest.fixture
def phoenix(tmp_path: Path) -> Path:
    """PHOENIX14T: ``/1/*.png`` in the table but not on disk, a stray .lprof, a missing folder."""
    root = tmp_path / "PHOENIX-2014-T"
    frames = root / "features/fullFrame-210x260px"
    (root / "annotations/manual").mkdir(parents=True)
    number = 0
    for split, sentences in SENTENCES.items():
        lines = [HEADER]
        for sentence in sentences:
            name = NAME.format(number)
            number += 1
            lines.append(f"{name}|{name}/1/*.png|-1|-1|Signer0{number}|TAG SUED|{sentence}")
            for frame in range(3):
                picture(frames / split / name / f"images{frame + 1:04d}.png", frame)
        table = root / f"annotations/manual/PHOENIX-2014-T.{split}.corpus.csv"
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (frames / "train" / NAME.format(0) / "images0002.lprof").write_bytes(b"profile")
    for image in (frames / "train" / NAME.format(1)).iterdir():
        image.unlink()
    (frames / "train" / NAME.format(1)).rmdir()
    return root


@pytest.fixture
def csl(tmp_path: Path) -> Callable[[str], Path]:
    """CSL-Daily in one of its layouts; each side names one clip that the other does not."""

    def build(place: str) -> Path:
        root = tmp_path / "CSL-Daily"
        labels = root / "sentence_label"
        labels.mkdir(parents=True)
        names = ["S000020_P0004_T00", "S000021_P0000_T00", "S000022_P0001_T00"]
        info = [
            {
                "name": name,
                "length": np.int64(12),
                "label_gloss": ["你", "小", "张"],
                "label_char": list("你是小张？"),
                "label_word": ["你", "是", "小张", "？"],
                "label_postag": ["r", "v", "nr", "w"],
                "signer": index,
                "time": 0,
            }
            for index, name in enumerate([*names, "S000007_P0003_T00"])
        ]
        for version in (1, 2):
            document = {"info": info, "gloss_map": ["你"], "version": version}
            (labels / f"csl2020ct_v{version}.pkl").write_bytes(pickle.dumps(document, version + 1))
        splits = ["train", "dev", "test"]
        rows = [f"{name}|{split}" for name, split in zip(names, splits, strict=True)]
        rows.append("S000005_P0004_T00|train")
        (labels / "split_1.txt").write_text("name|split\n" + "\n".join(rows) + "\n")
        for name in names[:2]:
            if place == "sentence-crop":
                (root / place).mkdir(exist_ok=True)
                (root / place / f"{name}.mp4").write_bytes(b"video")
            else:
                picture(root / place / name / "000000.jpg")
        return root

    return build


@pytest.fixture
def how2sign(tmp_path: Path) -> Path:
    """How2Sign: tabs in a .csv, quoted sentences, a missing video, a broken range."""
    root = tmp_path / "How2Sign"
    columns = "VIDEO_ID VIDEO_NAME SENTENCE_ID SENTENCE_NAME START_REALIGNED END_REALIGNED SENTENCE"
    rows = {
        "train": [
            ("-a7Rg", "0", "1.5", "4.25", "Hi! I'm Johanna."),
            ("-a7Rg", "1", "4.25", "7.0", '"Say ""hello"" first, then wave."'),
            ("-a7Rg", "2", "8.0", "8.0", "Nothing to see."),
        ],
        "val": [("_bQx1", "0", "0", "3", 'He said "go"')],
        "test": [("cW:é9", "0", "0.0", "2.5", "Good bye.")],
    }
    for split, entries in rows.items():
        folder = root / f"sentence_level/{split}/text/en/raw_text/re_aligned"
        videos = root / f"video_level/{split}/rgb_front/raw_videos"
        folder.mkdir(parents=True)
        videos.mkdir(parents=True)
        lines = ["\t".join(columns.split())]
        for video, number, start, end, sentence in entries:
            name = f"{video}-5-rgb_front"
            sentence_id = f"{video}_{number}"
            clip = f"{sentence_id}-5-rgb_front"
            lines.append("\t".join([video, name, sentence_id, clip, start, end, sentence]))
            if split != "test":
                (videos / f"{name}.mp4").write_bytes(b"video")
        table = folder / f"how2sign_realigned_{split}.csv"
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
