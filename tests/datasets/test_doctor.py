from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spamo_cache.datasets import doctor, environment
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.registry import corpus
from spamo_cache.errors import CorpusError, VideoError


def told(found: doctor.Diagnosis, level: str | None = None) -> str:
    return "\n".join(f.what for f in found.findings if level in (None, f.level))


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
    found = doctor.lint(phoenix, corpus=corpus("phoenix14t"))
    assert found.failed
    assert "train has 2 clips; 7,096 are published" in told(found, "warning")
    assert "1 of 1 distinct sentences of test stand in train too" in told(found, "warning")
    missing = "train: clips whose video is missing: 1 (11August_2010_Wednesday_tagesschau-1)"
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
    first = doctor.lint(root, corpus=known)
    (root / "sentence_label/csl2020ct_v2.pkl").unlink()
    second = doctor.lint(root, corpus=known)
    assert set(first.facts["labels"]) == {
        "sentence_label/csl2020ct_v2.pkl",
        "sentence_label/split_1.txt",
    }
    assert "sentence_label/csl2020ct_v1.pkl" in second.facts["labels"]
    assert "S000005_P0004_T00" in told(first, "note")


def test_a_corpus_that_is_not_there_is_a_finding(tmp_path: Path) -> None:
    found = doctor.lint(tmp_path, corpus=corpus("how2sign"))
    assert found.failed
    assert "how2sign_realigned" in told(found, "error")
    with pytest.raises(CorpusError, match="neither a corpus nor a manifest"):
        doctor.lint(tmp_path)


def test_a_hostile_label_file_is_a_finding(csl: Callable[[str], Path]) -> None:
    root = csl("sentence-crop")
    (root / "sentence_label/csl2020ct_v2.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    found = doctor.lint(root, corpus=corpus("csl-daily"))
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
    errors = told(doctor.lint(root, manifest=manifest), "error")
    assert "train: clips whose video is missing: 1 (c2)" in errors
    assert "test: clips whose video is missing: 1 (c7)" in errors
    assert "train: clips whose video is empty: 2 (c4, c6)" in errors
    assert "test: clips whose video is empty: 1 (c1)" in errors
    assert errors.count("\n") == 3


def test_short_and_unreadable_clips_are_found_by_the_probe(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    sources = [f"{n}.mp4" for n in range(8)]
    manifest = lab(root, *sources)
    for source in sources:
        (root / source).write_bytes(b"x")

    def probe(base: Path, clip: Clip) -> int:
        assert base == root
        if clip.id == "c3":
            raise VideoError("the file is cut off")
        return 10 if clip.id == "c5" else 16

    found = doctor.lint(root, manifest=manifest, probe=probe, sample=None)
    assert told(found, "error") == "unreadable clips: 1 (c3: the file is cut off)"
    assert "clips shorter than a window of 16 frames: 1 (c5)" in told(found, "note")
    assert found.facts["probed"] == 8
    assert doctor.lint(root, manifest=manifest, probe=lambda *_: 99, sample=4).facts["probed"] == 4


def test_counts_that_agree_say_nothing(tmp_path: Path) -> None:
    manifest = lab(tmp_path / "lab", "a.mp4", "b.mp4")
    for source in ("a.mp4", "b.mp4"):
        (tmp_path / "lab" / source).write_bytes(b"x")
    known = replace(corpus("signed-weather"), expected={"train": 1, "test": 1})
    found = doctor.lint(tmp_path / "lab", corpus=known, manifest=manifest)
    assert not found.failed
    assert "published" not in told(found)
    short = replace(known, expected={"train": 1, "test": 1, "dev": 5})
    assert "dev has 0 clips" in told(
        doctor.lint(tmp_path, corpus=short, manifest=manifest), "error"
    )


def test_garbled_text_is_noticed(tmp_path: Path) -> None:
    manifest = lab(tmp_path / "lab", "a.mp4", text="sÃ¼den")
    assert "1 sentences look garbled" in told(doctor.lint(tmp_path / "lab", manifest=manifest))


def test_the_machine_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    snapshot = tmp_path / "hf/hub/models--org--net/snapshots/0123456789abcdef"
    blob = tmp_path / "hf/hub/models--org--net/blobs/feed"
    for folder in (snapshot, blob.parent):
        folder.mkdir(parents=True)
    blob.write_bytes(b"w")
    (snapshot / "model.safetensors").symlink_to(blob)
    found = environment.examine([str(tmp_path / "new/root"), "s3://lab/features"])
    assert not found.failed, told(found, "error")
    assert found.facts["packages"]["torch"]
    assert found.facts["weights"]["org/net@0123456789ab/model.safetensors"] == "feed"
    place = found.facts["roots"][str(tmp_path / "new/root")]
    assert (place["exists"], place["writable"]) == (False, True)
    assert place["free_bytes"] > 0
    assert found.facts["roots"]["s3://lab/features"] == {"kind": "remote"}
    assert not (tmp_path / "new").exists()
    json.dumps(found.as_dict())


def test_a_harmful_transformers_release_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = environment._version
    monkeypatch.setattr(
        environment, "_version", lambda p: "5.17.1" if p == "transformers" else real(p)
    )
    assert "may drop the biases" in told(environment.examine([]), "error")
