from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spamo_cache.datasets import csl_daily, how2sign, phoenix14t
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.datasets.registry import CORPORA, corpus
from spamo_cache.errors import CorpusError, UsageError


def test_phoenix_reads_every_split_and_notes_what_is_missing(phoenix: Path) -> None:
    manifest = phoenix14t.read(phoenix)
    first = manifest.clips("train")[0]
    assert first.id == "11August_2010_Wednesday_tagesschau-0"
    assert first.source == f"features/fullFrame-210x260px/train/{first.id}/*.png"
    assert sorted(p.name for p in phoenix.glob(first.source)) == [
        f"images{n:04d}.png" for n in (1, 2, 3)
    ]
    assert (first.text, first.gloss, first.signer) == (
        "am tag regnet es im süden",
        "TAG SUED",
        "Signer01",
    )
    assert (first.start, first.end) == (None, None)
    assert {split: len(manifest.clips(split)) for split in manifest.splits} == {
        "train": 2, "dev": 1, "test": 1,
    }  # fmt: skip
    assert manifest.notes == (
        "clips whose video is missing: 1 (11August_2010_Wednesday_tagesschau-1)",
    )


def test_phoenix_is_found_below_the_archive_and_in_a_256_copy(phoenix: Path) -> None:
    (phoenix / "features/fullFrame-210x260px").rename(phoenix / "features/fullFrame-256x256px")
    release = phoenix.parent / "PHOENIX-2014-T-release-v3"
    release.mkdir()
    phoenix.rename(release / "PHOENIX-2014-T")
    found = phoenix14t.read(phoenix.parent).clips("dev")[0]
    prefix = "PHOENIX-2014-T-release-v3/PHOENIX-2014-T/features/fullFrame-256x256px/dev/"
    assert found.source.startswith(prefix)


def test_phoenix_takes_translations_from_the_official_release(phoenix: Path) -> None:
    name = "11August_2010_Wednesday_tagesschau-0"
    entry = {"fileid": name, "en_text": "rain in the south", "es_text": "lluvia", "num_frames": 3}
    document = np.array({"prefix": "x", 0: entry}, dtype=object)
    np.save(phoenix / "train_info_ml.npy", document, allow_pickle=True)
    extra = phoenix14t.read(phoenix).clips("train")[0].extra
    assert extra == {"text_en": "rain in the south", "text_es": "lluvia"}
    assert phoenix14t.read(phoenix).clips("train")[1].extra == {}


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("sentence/frames_512x512", "sentence/frames_512x512/{}/*.jpg"),
        ("sentences/frames_512x512", "sentences/frames_512x512/{}/*.jpg"),
        (
            "sentence_frames-512x512/frames_512x512",
            "sentence_frames-512x512/frames_512x512/{}/*.jpg",
        ),
        ("sentence-crop", "sentence-crop/{}.mp4"),
    ],
)
def test_csl_daily_is_read_in_every_layout(
    csl: Callable[[str], Path], place: str, source: str
) -> None:
    root = csl(place)
    manifest = csl_daily.read(root)
    first = manifest.clips("train")[0]
    assert first.source == source.format("S000020_P0004_T00")
    assert (first.text, first.gloss, first.signer) == ("你是小张？", "你 小 张", "0")
    assert list(root.glob(first.source))
    assert manifest.notes == (
        "not read, csl2020ct_v2.pkl is newer: 1 (csl2020ct_v1.pkl)",
        "in split_1.txt but not in csl2020ct_v2.pkl: 1 (S000005_P0004_T00)",
        "in csl2020ct_v2.pkl but not in split_1.txt: 1 (S000007_P0003_T00)",
        "clips whose video is missing: 1 (S000022_P0001_T00)",
    )
    assert [path.name for path in csl_daily.labels(root)] == ["csl2020ct_v2.pkl", "split_1.txt"]


def test_csl_daily_clips_that_stand_twice_are_refused(csl: Callable[[str], Path]) -> None:
    root = csl("sentence-crop")
    splits, labels = root / "sentence_label/split_1.txt", root / "sentence_label/csl2020ct_v2.pkl"
    once = splits.read_text()
    splits.write_text(f"{once}S000020_P0004_T00|test\n")
    with pytest.raises(CorpusError, match="column 'id': stands in row 1 too"):
        csl_daily.read(root)
    splits.write_text(once)
    document = pickle.loads(labels.read_bytes())  # noqa: S301 - written by this test
    labels.write_bytes(pickle.dumps({"info": document["info"][:1] * 2}))
    with pytest.raises(CorpusError, match="names a clip twice"):
        csl_daily.read(root)


def test_how2sign_reads_tabs_times_and_quotes(how2sign_root: Path) -> None:
    manifest = how2sign.read(how2sign_root)
    first, second = manifest.clips("train")
    assert first.id == "-a7Rg_0-5-rgb_front"
    assert first.source == "video_level/train/rgb_front/raw_videos/-a7Rg-5-rgb_front.mp4"
    assert (first.start, first.end, first.text) == (1.5, 4.25, "Hi! I'm Johanna.")
    assert second.text == 'Say "hello" first, then wave.'
    assert manifest.clips("dev")[0].text == 'He said "go"'
    assert manifest.clips("test")[0].id == "cW:é9_0-5-rgb_front"
    assert manifest.notes == (
        "clips whose video is missing: 1 (cW:é9_0-5-rgb_front)",
        "rows left out for an empty or broken time range: 1 (-a7Rg_2-5-rgb_front)",
    )


@pytest.fixture
def how2sign_root(how2sign: Path) -> Path:
    return how2sign


@pytest.mark.parametrize("name", ["phoenix14t", "csl-daily", "how2sign"])
def test_a_root_without_the_corpus_is_one_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError) as empty:
        corpus(name).read(tmp_path)
    assert str(tmp_path) in str(empty.value)
    assert empty.value.remedy
    with pytest.raises(CorpusError, match="root cannot be read"):
        corpus(name).read(tmp_path / "absent")


def test_a_torn_label_file_names_its_line(phoenix: Path) -> None:
    path = phoenix14t.labels(phoenix)[0]
    path.write_text(path.read_text("utf-8")[:-20], encoding="utf-8")
    assert len(phoenix14t.read(phoenix)) == 4
    path.write_text(path.read_text("utf-8") + "half|a|row\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"line \d has \d+ cells"):
        phoenix14t.read(phoenix)


def test_labels_in_another_encoding_are_refused(phoenix: Path) -> None:
    path = phoenix14t.labels(phoenix)[0]
    path.write_bytes(path.read_text("utf-8").encode("latin-1"))
    with pytest.raises(CorpusError, match="not UTF-8"):
        phoenix14t.read(phoenix)


def test_manifests_of_corpora_survive_parquet(phoenix: Path, tmp_path: Path) -> None:
    manifest = phoenix14t.read(phoenix)
    back = Manifest.read(manifest.write(tmp_path / "out/manifest.parquet"))
    assert back == manifest


def test_the_registry_knows_each_corpus_by_its_own_name() -> None:
    real = {"phoenix14t", "csl-daily", "csl-news", "how2sign", "openasl", "youtube-asl"}
    drawn = {"signed-weather", "signed-weather-coast"}
    assert set(CORPORA) == {*drawn, *real}
    for name, known in CORPORA.items():
        assert known.name == name
        assert known.text.language == known.language
        assert known.terms.endswith((".", "/"))
        assert set(known.expected) in (set(), {"train", "dev", "test"})
    assert {name for name, known in CORPORA.items() if known.synthetic} == drawn


@pytest.mark.parametrize(
    ("name", "clips", "missing", "tokenizer", "fps"),
    [
        ("phoenix14t", (7_096, 519, 642), (), "13a", 25),
        ("csl-daily", (18_401, 1_077, 1_176), (), "zh", 30),
        ("how2sign", (31_165, 1_741, 2_357), (31_048, 1_739, 2_343), "13a", 24),
    ],
)
def test_published_numbers_and_conventions_are_those_of_the_papers(
    name: str, clips: tuple[int, ...], missing: tuple[int, ...], tokenizer: str, fps: float
) -> None:
    known = corpus(name)
    assert tuple(known.expected.values()) == clips
    found = tuple(known.expected[split] - count for split, count in known.missing.items())
    assert found == missing
    assert (known.text.tokenize, known.fps) == (tokenizer, fps)


def test_the_text_convention_is_recorded_with_the_raw_text(phoenix: Path, tmp_path: Path) -> None:
    made = corpus("phoenix14t").manifest(phoenix)
    back = Manifest.read(made.write(tmp_path / "m.parquet"))
    assert back.text == corpus("phoenix14t").text
    assert back.select(["dev"]).text == back.limit(1).text == back.text
    assert back.clips("dev")[0].text == "und nun die wettervorhersage"


def test_an_unknown_corpus_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="nearest is 'phoenix14t'"):
        corpus("Phoenix-14T")
