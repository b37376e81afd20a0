from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spamo_cache import doctor
from spamo_cache.datasets.corpus import Corpus
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.registry import corpus
from spamo_cache.doctor import environment
from spamo_cache.errors import StoreError

NAME = "11August_2010_Wednesday_tagesschau-{}"


def picture(path: Path, shade: int, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), shade, np.uint8)).save(path)


def told(found: doctor.Diagnosis, level: str | None = None) -> str:
    return "\n".join(f.what for f in found.findings if level in (None, f.level))


def lint(root: Path, known: Corpus, sample: int | None = 0) -> doctor.Diagnosis:
    return doctor.lint(root, lambda: known.manifest(root), corpus=known, sample=sample)


def lint_lab(
    root: Path, manifest: Manifest, known: Corpus | None = None, sample: int | None = 0
) -> doctor.Diagnosis:
    return doctor.lint(root, lambda: manifest, corpus=known, sample=sample)


def lab(root: Path, *sources: str, text: str = "a sentence") -> Manifest:
    clips = [
        Clip(
            id=f"c{n}", split=split, source=source, text=f"{text} {n // 2}", language="x", extra={}
        )
        for n, source in enumerate(sources)
        for split in [["train", "test"][n % 2]]
    ]
    root.mkdir(exist_ok=True)
    return Manifest.from_clips("lab", clips)


def test_a_real_layout_is_linted_with_counts_overlaps_and_hashes(phoenix: Path) -> None:
    found = lint(phoenix, corpus("phoenix14t"))
    assert found.failed
    assert "train has 2 clips; 7,096 are published" in told(found, "warning")
    assert "1 of 1 distinct sentences of test stand in train too" in told(found, "warning")
    missing = "train: clips whose video is missing: 1 (11August_2010_Wednesday_tagesschau-1: "
    assert missing in told(found, "error")
    labels = found.facts["labels"]
    table = phoenix / "annotations/manual/PHOENIX-2014-T.dev.corpus.csv"
    assert (
        labels[table.relative_to(phoenix).as_posix()]
        == hashlib.sha256(table.read_bytes()).hexdigest()
    )
    assert found.facts["clips"] == {"train": 2, "dev": 1, "test": 1}
    assert found.findings[0].level == "error"
    assert json.loads(json.dumps(found.as_dict()))["failed"] is True


def test_the_two_csl_label_versions_are_told_apart(csl: Callable[[str], Path]) -> None:
    root = csl("sentence-crop")
    known = corpus("csl-daily")
    first = lint(root, known)
    (root / "sentence_label/csl2020ct_v2.pkl").unlink()
    second = lint(root, known)
    assert set(first.facts["labels"]) == {
        "sentence_label/csl2020ct_v2.pkl",
        "sentence_label/split_1.txt",
    }
    assert "sentence_label/csl2020ct_v1.pkl" in second.facts["labels"]
    assert "S000005_P0004_T00" in told(first, "note")


def test_what_a_split_shares_with_another_is_counted(tmp_path: Path) -> None:
    """Signers, footage of one video at overlapping times, sentences but for case and dots."""
    said = [("train", "Regen.", "ann"), ("train", "schnee", "ben"), ("train", "sonne", None)]
    said += [("test", "regen", "ann"), ("test", "wind", "cleo"), ("test", "nebel", "")]
    times = [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0), (1.5, 2.0), (6.0, 7.0), (7.0, None)]
    rows = [(*one, *span) for one, span in zip(said, times, strict=True)]
    clips = [
        Clip(id=f"c{number}", split=split, source="long.mp4", start=start, end=end, text=text,
             language="German", signer=signer)
        for number, (split, text, signer, start, end) in enumerate(rows)
    ]  # fmt: skip
    found = lint_lab(tmp_path, Manifest.from_clips("lab", clips), sample=0)
    warned = told(found, "warning")
    assert "1 of 3 clips of test are by signers of train (1 of 2 signers)" in warned
    assert "1 of 3 clips of test show footage of train: the same video at" in warned
    assert "1 of 3 distinct sentences of test stand in train too" in warned
    gaps = "no signer is given for 1 of 3 clips of test and 1 of 3 clips of train"
    assert gaps in told(found, "note")


def test_a_corpus_that_is_not_there_is_a_finding(tmp_path: Path) -> None:
    found = lint(tmp_path, corpus("how2sign"))
    assert found.failed
    assert "how2sign_realigned" in told(found, "error")


def test_a_hostile_label_file_is_a_finding(csl: Callable[[str], Path]) -> None:
    root = csl("sentence-crop")
    (root / "sentence_label/csl2020ct_v2.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    found = lint(root, corpus("csl-daily"))
    assert "nothing was run" in told(found, "error")


def test_missing_and_empty_sources_of_every_kind(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    sources = ["ok.mp4", "zero.mp4", "gone.mp4", "f/ok", "f/empty"]
    sources += ["f/ok/*.png", "f/empty/*.png", "no/*.png", "f/o*/*.png"]
    manifest = lab(root, *sources)
    (root / "ok.mp4").write_bytes(b"x")
    (root / "zero.mp4").touch()
    (root / "f/ok").mkdir(parents=True)
    (root / "f/ok/1.png").write_bytes(b"x")
    (root / "f/empty").mkdir()
    (root / "f/empty/x.lprof").write_bytes(b"x")
    errors = told(lint_lab(root, manifest), "error")
    # What is missing or empty is not decoded, and so not told twice.
    assert lint_lab(root, manifest, sample=None).facts["decoded"] == 3
    assert "train: clips whose video is missing: 2 (c2: gone.mp4, c8: f/o*/*.png)" in errors
    assert "test: clips whose video is missing: 1 (c7: no/*.png)" in errors
    assert "train: clips whose video is empty: 2 (c4: f/empty, c6: f/empty/*.png)" in errors
    assert "test: clips whose video is empty: 1 (c1: zero.mp4)" in errors
    assert errors.count("\n") == 3


def images_of(folder: Path, count: int, size: tuple[int, int] = (8, 8)) -> None:
    for number in range(count):
        picture(folder / f"{number}.png", number, size)


def test_clips_are_decoded_from_the_first_to_the_last_frame(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    manifest = lab(root, *(f"{n}" for n in range(8)))
    for number in range(8):
        images_of(root / f"{number}", 10 if number == 5 else 16)
    torn = root / "3/9.png"
    torn.write_bytes(torn.read_bytes()[:-8])
    found = lint_lab(root, manifest, sample=None)
    assert re.fullmatch(r"unreadable clips: 1 \(c3: frame .*is cut off\)", told(found, "error"))
    assert "clips shorter than a window of 16 frames: 1 (c5)" in told(found, "note")
    assert (found.facts["decoded"], found.facts["frame_sizes"]) == (8, {"8x8": 7})
    assert found.facts["frames"] == {"train": 64, "test": 58}
    assert lint_lab(root, manifest, sample=4).facts["decoded"] == 4
    assert "decoded" not in lint_lab(root, manifest, sample=0).facts


def test_sizes_that_are_mixed_or_unexpected_are_told(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    manifest = lab(root, "a", "b")
    images_of(root / "a", 2)
    images_of(root / "b", 2, (6, 4))
    mixed = told(lint_lab(root, manifest, sample=None), "warning")
    assert "clips differ in the size of their frames: 8x8 (1), 6x4 (1)" in mixed
    images_of(root / "b", 2)
    known = replace(corpus("signed-weather"), frame_size=(210, 260))
    other = told(lint_lab(root, manifest, known, sample=None), "warning")
    assert "frames are 8x8 (2); the release's are 210x260" in other
    same = replace(known, frame_size=(8, 8))
    assert "frames are" not in told(lint_lab(root, manifest, same, sample=None))


def test_without_the_libraries_that_decode_the_rest_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.media, "can_decode", lambda: False)
    found = lint_lab(tmp_path / "lab", lab(tmp_path / "lab", "a.mp4"), sample=None)
    assert "no clip was decoded" in told(found, "warning")
    assert "clips whose video is missing: 1" in told(found, "error")


def test_strays_and_folders_that_no_clip_uses_are_notes(phoenix: Path) -> None:
    extra = phoenix / "features/fullFrame-210x260px/test/copy"
    images_of(extra, 1)
    (extra.parent / "readme.txt").touch()
    notes = told(lint(phoenix, corpus("phoenix14t")), "note")
    assert f"no images: 1 (features/fullFrame-210x260px/train/{NAME.format(0)}/images" in notes
    unused = "folders or videos that no clip uses: 1 (features/fullFrame-210x260px/test/copy)"
    assert unused in notes


def test_frames_twice_are_a_warning_and_gaps_in_their_numbers_a_note(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    manifest = lab(root, "twice", "gaps", "sparse", "times")
    numbered = {
        "twice": range(20),
        "gaps": [*range(1, 11), *range(21, 41)],
        "sparse": range(0, 60, 3),  # every third frame was kept
        "times": [number**2 for number in range(20)],
    }
    for name, numbers in numbered.items():
        for number in numbers:
            picture(root / name / f"frame_{number}.png", number % 200, (8, 8))
    for number in range(20):
        picture(root / f"twice/frame_{number}.jpg", number, (8, 8))
    found = lint_lab(root, manifest)
    assert "frames twice, as PNG and as JPEG: 1 (twice)" in told(found, "warning")
    assert "gaps in the numbers of their frames: 1 (gaps: 11-20)" in told(found, "note")
    assert found.facts["frames"] == {"train": 20 + 20, "test": 30 + 20}


def test_a_video_that_is_not_there_is_missing_whatever_its_name(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    manifest = lab(root, "clip[2].mp4", "u\u0308ber.mp4", "\xfcber.mp4")
    (root / "\xfcber.mp4").write_bytes(b"x")
    assert "missing: 1 (c0: clip[2].mp4)" in told(lint_lab(root, manifest, sample=0), "error")


def test_clips_that_no_copy_of_the_release_has_are_no_error(tmp_path: Path) -> None:
    manifest = lab(tmp_path / "lab", "a.mp4", "b.mp4")
    known = replace(corpus("signed-weather"), missing={"train": 1, "test": 1})
    found = lint_lab(tmp_path / "lab", manifest, known)
    assert not found.failed
    assert "train: clips whose video is missing, as in every copy of the release: 1" in told(found)
    assert lint_lab(tmp_path / "lab", manifest, replace(known, missing={"train": 1})).failed


def test_published_numbers_of_frames_are_compared(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    manifest = lab(root, "a")
    images_of(root / "a", 3)
    known = replace(corpus("signed-weather"), frames={"train": 4})
    assert "train has 3 frames; 4 are published" in told(lint_lab(root, manifest, known), "warning")


def test_counts_that_agree_say_nothing(tmp_path: Path) -> None:
    manifest = lab(tmp_path / "lab", "a.mp4", "b.mp4")
    for source in ("a.mp4", "b.mp4"):
        (tmp_path / "lab" / source).write_bytes(b"x")
    known = replace(corpus("signed-weather"), expected={"train": 1, "test": 1})
    found = lint_lab(tmp_path / "lab", manifest, known)
    assert not found.failed
    assert "published" not in told(found)
    short = replace(known, expected={"train": 1, "test": 1, "dev": 5})
    assert "dev has 0 clips" in told(lint_lab(tmp_path, manifest, short), "error")


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("sÃ¼den", "look garbled"),
        ("s\ufffdden", "look garbled"),
        ("WeiÃŸ", "look garbled"),
        ("itâ€™s", "look garbled"),
        ("你好".encode().decode("latin-1"), "look garbled"),
        ("\ufeffmorgen", "byte order mark"),
        ("mor\x07gen", "control characters"),
        ("su\u0308den", "not in Unicode's composed form"),
    ],
)
def test_encoding_trouble_is_told_with_its_clips(tmp_path: Path, text: str, trouble: str) -> None:
    found = lint_lab(tmp_path / "lab", lab(tmp_path / "lab", "a.mp4", text=text))
    lines = [line for line in told(found, "warning").split("\n") if "sentences that" in line]
    assert any(trouble in line and line.endswith("1 (c0)") for line in lines)


@pytest.mark.parametrize(
    "text", ["süden weiß Ärger", "été\u00a0», là", "Âge", "你好，世界", "Łódź", "naïve façade — ok"]
)
def test_sound_text_is_not_complained_about(tmp_path: Path, text: str) -> None:
    found = lint_lab(tmp_path / "lab", lab(tmp_path / "lab", "a.mp4", text=text))
    assert "sentences that" not in told(found)


def test_ids_that_a_file_system_may_take_for_one_are_told(tmp_path: Path) -> None:
    clips = [
        Clip(id=name, split="train", source="a.mp4", text="t", language="x", extra={})
        for name in ("\u00e9", "e\u0301")
    ]
    found = lint_lab(tmp_path, Manifest.from_clips("lab", clips))
    assert "differ only in their Unicode form" in told(found, "warning")


def test_a_byte_order_mark_of_a_label_file_is_a_note(phoenix: Path) -> None:
    path = phoenix / "annotations/manual/PHOENIX-2014-T.dev.corpus.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert "begins with a byte order mark" in told(lint(phoenix, corpus("phoenix14t")), "note")


def test_what_tells_prepared_copies_apart_is_counted(tmp_path: Path) -> None:
    clips = [
        Clip(id=text, split="train", source="a.mp4", text=text, language="x", extra={})
        for text in ("klein", "Gross.", "klein .")
    ]
    facts = lint_lab(tmp_path, Manifest.from_clips("lab", clips)).facts["sentences"]
    assert facts == {"distinct": 3, "with capital letters": 1, "with final punctuation": 2}


def test_clips_with_a_pose_are_counted_and_those_without_told(tmp_path: Path) -> None:
    manifest = lab(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    assert "poses" not in lint_lab(tmp_path, manifest).facts
    (tmp_path / "poses").mkdir()
    (tmp_path / "poses" / "c0.pose").touch()
    named = [replace(clip, pose="p.pose" if clip.id == "c1" else None) for clip in manifest.clips()]
    found = lint_lab(tmp_path, Manifest.from_clips("lab", named))
    assert found.facts["poses"] == {"train": 1}
    assert "without a pose, which others have: 1 (c2)" in told(found, "warning")
    assert "pose is missing, or lies outside the corpus: 1 (c1)" in told(found, "warning")


def test_the_machine_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    snapshot = tmp_path / "hf/hub/models--org--net/snapshots/0123456789abcdef"
    blob = tmp_path / "hf/hub/models--org--net/blobs/feed"
    for folder in (snapshot, blob.parent):
        folder.mkdir(parents=True)
    blob.write_bytes(b"w")
    (snapshot / "model.safetensors").symlink_to(blob)
    found = environment.examine([str(tmp_path / "new/root")])
    assert not found.failed, told(found, "error")
    assert found.facts["packages"]["torch"]
    assert found.facts["weights"]["org/net@0123456789ab/model.safetensors"] == "feed"
    place = found.facts["roots"][str(tmp_path / "new/root")]
    assert (place["exists"], place["writable"]) == (False, True)
    assert place["free_bytes"] > 0
    assert not (tmp_path / "new").exists()
    json.dumps(found.as_dict())


def test_a_harmful_transformers_release_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = environment._version
    monkeypatch.setattr(
        environment, "_version", lambda p: "5.17.1" if p == "transformers" else real(p)
    )
    assert "may drop the biases" in told(environment.examine([]), "error")


def test_remote_roots_are_listed_or_told_to_be_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stores(root: str) -> list[str]:
        if root == "s3://gone":
            raise StoreError("no such bucket")
        return ["one", "two"]

    monkeypatch.setattr(environment, "stores_in", stores)
    found = environment.examine(["s3://lab/features", "s3://gone", str(tmp_path)])
    assert found.facts["roots"]["s3://lab/features"] == {
        "kind": "remote", "reachable": True, "stores": 2,
    }  # fmt: skip
    assert "cannot be reached: no such bucket" in told(found, "warning")
    assert not found.failed
