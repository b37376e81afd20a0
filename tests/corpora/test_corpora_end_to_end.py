"""Each corpus through doctor, manifest and extract, as a user types them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import pytest
from typer.testing import Result

from spamo_cache.datasets.manifest import Manifest
from spamo_cache.store.reader import FeatureStore

Call = Callable[..., Result]
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Expected:
    """What must come out of a copy, for its quirks."""

    clips: Mapping[str, int]
    frames: Mapping[str, int]
    """Rows of the spatial stream by the clip's id."""
    told: tuple[str, ...]
    """Parts of findings."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Reasons by the clip's id."""
    unsound: bool = False
    """Whether the doctor says that results would be wrong."""


PHOENIX = Expected(
    clips={"train": 3, "dev": 1, "test": 1},
    frames={
        "01April_2010_Thursday_heute-6694": 18,
        "01December_2011_Thursday_heute-3": 20,
        "25October_2010_Monday_tagesschau-22": 10,
    },
    told=(
        "train has 3 clips; 7,096 are published",
        "train has 51 frames; 827,354 are published",
        "no images: 1 (features/fullFrame-210x260px/train/01April_2010_Thursday_heute-6694/",
        "clips shorter than a window of 16 frames: 1 (25October_2010_Monday_tagesschau-22)",
        "1 of 1 distinct sentences of test stand in train too",
        "in train_info_ml.npy but not in PHOENIX-2014-T.train.corpus.csv: 1 (02April",
        "in PHOENIX-2014-T.train.corpus.csv but not in train_info_ml.npy: 2 (01April",
    ),
)
CSL = Expected(
    clips={"train": 2, "dev": 1, "test": 1},
    frames={"S000020_P0004_T00": 17, "S000021_P0000_T00": 12},
    told=(
        "in split_1.txt but not in csl2020ct_v2.pkl: 1 (S000005_P0004_T00)",
        "in csl2020ct_v2.pkl but not in split_1.txt: 1 (S000007_P0003_T00)",
        "not read, csl2020ct_v2.pkl is newer: 1 (csl2020ct_v1.pkl)",
        "two label versions circulate",
        "1 of 1 distinct sentences of test stand in dev too",
        "clips shorter than a window of 16 frames: 1 (S000021_P0000_T00)",
    ),
)
LATE = "range ends at 9 s, the video at 2.5"
HOW2SIGN = Expected(
    clips={"train": 4, "dev": 1, "test": 2},
    # Of 60 frames at 23.976 a second; both ends of a range count.
    frames={"-a7Rg_0-5-rgb_front": 24, "cW:é9_0-5-rgb_front": 24, "zz01_0-5-rgb_front": 10},
    told=(
        "test: clips whose video is missing, as in every copy of the release: 1",
        "whose time range the video does not have: 1 (-a7Rg_2-5-rgb_front: " + LATE,
        "frames are 64x48 (5); the release's are 1280x720",
        "always report n",
    ),
    failed={"-a7Rg_2-5-rgb_front": LATE, "gone_0-5-rgb_front": "source is missing"},
)
OPENASL = Expected(
    clips={"train": 4, "dev": 2, "test": 2},
    frames={"-AbC_d1-00:00:00.000-00:00:00.800": 21, "Q1w2e3r-00:00:00.840-00:00:01.960": 29},
    told=(
        "train: clips whose video is missing: 1 (gone-1:2: ",
        "rows left out for an empty or broken time range: 1 (ZZtop99-none)",
        "clips without a box: the whole frame is taken: 4",
        "the video does not have: 1 (ZZtop99-late: range ends at 60.5 s",
    ),
    failed={"gone-1:2": "source is missing", "ZZtop99-late": "range ends at 60.5 s"},
    unsound=True,
)
YOUTUBE_ASL = Expected(
    clips={"train": 2},
    frames={"-x_1-0001": 27, "-x_1-0002": 15},
    told=(
        "rows left out for want of a sentence: 1 (-x_1-0003)",
        "in youtube_asl_video_ids.txt but not in the captions: 1 (silent1)",
        "in the captions but not in youtube_asl_video_ids.txt: 1 (other)",
    ),
)
CSL_NEWS = Expected(
    clips={"train": 2},
    frames={"Common-Concerns_20201113_0-287_14330": 20},
    told=(
        "clips whose video is missing: 1 (Common-Concerns_20201113_9-60_450",
        "labels left out for want of a sentence: 1 (Common-Concerns_20201113_61-70_3050)",
        "it has no dev or test split: score on another corpus, such as CSL-Daily",
    ),
    failed={"Common-Concerns_20201113_9-60_450": "source is missing"},
    unsound=True,
)
ALL = {
    "phoenix14t": PHOENIX,
    "csl-daily": CSL,
    "how2sign": HOW2SIGN,
    "openasl": OPENASL,
    "youtube-asl": YOUTUBE_ASL,
    "csl-news": CSL_NEWS,
}


def follows(doctor: Document, manifest: Document, extracted: Document, expected: Expected) -> None:
    """What the three commands said, and what stands in the stores."""
    told = "\n".join(finding["what"] for finding in doctor["findings"])
    for part in expected.told:
        assert part in told, told
    assert doctor["failed"] == expected.unsound
    assert doctor["facts"]["labels"]
    assert doctor["facts"]["decoded"] > 0
    assert manifest["clips"] == expected.clips
    assert manifest["text"]["kept"] == "raw"
    total = sum(expected.clips.values())
    assert (extracted["clips"], extracted["done"]) == (total, total - len(expected.failed))
    reasons = dict(extracted["failed"])
    assert reasons.keys() == expected.failed.keys()
    for clip, reason in expected.failed.items():
        assert reasons[clip].startswith(reason)
    spatial, motion = (
        FeatureStore.open(Path(extracted["streams"][stream]["store"]))
        for stream in ("spatial", "motion")
    )
    for clip, frames in expected.frames.items():
        assert len(spatial.read([clip])[0]) == frames
        assert len(motion.read([clip])[0]) == max(1, (frames - 16) // 8 + 1)


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ALL)
def test_a_corpus_goes_through_doctor_manifest_and_extract(
    corpus: str, drawn: Mapping[str, Path], lab: Path, call: Call
) -> None:
    expected = ALL[corpus]
    named = f"--dataset {corpus} --root {drawn[corpus]} --json"
    doctor = json.loads(call(f"doctor {named} --all", int(expected.unsound)).stdout)
    manifest = json.loads(call(f"manifest {named} -o m.parquet").stdout)
    line = f"extract {named} --spec spec.yaml --executor serial"
    extract = call(line, int(bool(expected.failed))).stdout
    follows(doctor, manifest, json.loads(extract.splitlines()[-1]), expected)
    kept = Manifest.read(lab / "m.parquet")
    assert (kept.corpus, kept.text.tokenize if kept.text else None) == (
        corpus,
        "zh" if corpus.startswith("csl") else "13a",
    )


@pytest.mark.slow
def test_other_copies_and_layouts_of_a_corpus_are_told_apart(
    drawn: Mapping[str, Path], lab: Path, call: Call, mp4: Callable[..., None]
) -> None:
    phoenix = lab / "PHOENIX-2014-T-release-v3" / "PHOENIX-2014-T"
    shutil.copytree(drawn["phoenix14t"], phoenix)
    frames = phoenix / "features/fullFrame-210x260px"
    for file in frames.rglob("*.png"):
        cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), (256, 256)))
    frames.rename(frames.with_name("fullFrame-256x256px"))
    found = json.loads(call("doctor --dataset phoenix14t --root . --json").stdout)
    told = [finding["what"] for finding in found["findings"]]
    assert "frames are 256x256 (5); the release's are 210x260" in told
    csl = lab / "csl"
    shutil.copytree(drawn["csl-daily"] / "sentence_label", csl / "sentence_label")
    for name in ("S000020_P0004_T00", "S000022_P0001_T00", "S000023_P0002_T00"):
        mp4(csl / f"sentence-crop/{name}.mp4", 16, Fraction(30))
    found = json.loads(call("doctor --dataset csl-daily --root csl --json", 1).stdout)
    told = [finding["what"] for finding in found["findings"]]
    missing = "S000021_P0000_T00: sentence-crop/S000021_P0000_T00.mp4"
    assert f"train: clips whose video is missing: 1 ({missing})" in told
    assert found["facts"]["frame_sizes"] == {"64x48": 3}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_python")
def test_the_same_from_a_real_shell(drawn: Mapping[str, Path], lab: Path) -> None:
    program = f"{shlex.quote(sys.executable)} -m spamo_cache"
    named = f"--dataset phoenix14t --root {drawn['phoenix14t']} --json"
    script = f"""set -e
        {program} doctor {named} > doctor.json
        {program} manifest {named} -o m.csv > manifest.json
        {program} extract {named} --spec spec.yaml --workers 1 > extract.json"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, text=True, env=env, check=False
    )
    assert ran.returncode == 0, ran.stderr
    doctor, manifest, extract = (
        (lab / f"{name}.json").read_text() for name in ("doctor", "manifest", "extract")
    )
    summary = json.loads(extract.splitlines()[-1])
    follows(json.loads(doctor), json.loads(manifest), summary, PHOENIX)
    assert len(Manifest.read(lab / "m.csv", "copy")) == 5
