"""``spamo-cache store`` between a local root and servers, as a user types it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import spamo_cache as sc
from spamo_cache.cli.main import app
from spamo_cache.store.writer import StoreWriter
from tests.conftest import Tiny

Call = Callable[..., Result]
CLIPS = {"train": ["a", "b", "überall 手語"], "test": ["c"]}
EXTRACT = "extract --manifest manifest.csv --dataset frames --spec spec.yaml --executor serial"


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the official layout, and an own root."""
    folder = tmp_path / "features"
    for split, clips in CLIPS.items():
        (folder / split).mkdir(parents=True)
        for number, clip in enumerate(clips):
            rows = np.full((20 + number, 8), number, np.float32)
            np.save(folder / split / f"{clip}_s2wrapping.npy", rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPAMO_CACHE", str(tmp_path / "own"))
    return folder


IMPORT = "store import features -d phoenix14t --stream spatial --official"


@pytest.mark.slow
def test_a_store_travels_by_way_of_a_server(features, call, s3, tmp_path, monkeypatch):
    call(IMPORT)
    refused = call(f"store push phoenix14t/spatial '{s3.root}'", code=2)
    assert "terms of use" in refused.stderr
    assert "--accept-terms" in refused.stderr
    assert not any(asked.startswith("PUT") for asked in s3.requests)
    (tmp_path / "ids").write_text("c\n", encoding="utf-8")
    pushed = call(f"store push phoenix14t/spatial '{s3.root}' --ids ids --accept-terms")
    assert "clips asked for" in pushed.stdout
    assert "partitions copied" in pushed.stdout
    call(f"store push phoenix14t/spatial '{s3.root}' --accept-terms")
    monkeypatch.setenv("SPAMO_CACHE", f"{tmp_path}/mine:{tmp_path}/own:{s3.root}")
    listed = json.loads(call("store ls --json").stdout)
    assert [entry["root"] for entry in listed] == [f"{tmp_path}/own", s3.root]
    assert {entry["states"]["ok"] for entry in listed} == {4}
    assert "4 of 4" in call("store ls").stdout
    assert "no difference" in call(f"store diff phoenix14t/spatial '{listed[1]['path']}'").stdout
    pulled = call(f"store pull phoenix14t/spatial --from '{s3.root}'")
    assert "terms of use" in pulled.stderr
    known = json.loads(call(f"store info '{listed[1]['path']}' --json").stdout)
    assert known["terms"]
    assert known["states"]["ok"] == 4
    assert "sound" in call(f"store verify '{listed[1]['path']}' --deep").stdout
    for command in ("verify --repair", "rm --yes"):
        assert "remote root" in call(f"store {command} '{listed[1]['path']}'", code=2).stderr


@pytest.mark.slow
def test_rm_asks(features, call):
    call(IMPORT)
    asked = CliRunner().invoke(app, ["store", "rm", "phoenix14t/spatial"], input="n\n")
    assert asked.exit_code == 1
    assert "4 of 4" in call("store ls").stdout
    call("store rm phoenix14t/spatial --yes")
    assert call("store ls --json").stdout.strip() == "[]"


@pytest.mark.slow
def test_every_command_takes_the_same_names(features, call, tmp_path):
    call(IMPORT)
    (path,) = (tmp_path / "own").glob("*/*.zarr")
    names = ["phoenix14t", "phoenix14t/spatial", f"phoenix14t/{path.stem}", path, f"{path}/", "own"]
    for name in names:
        for command in ("ls", "info", "verify"):
            assert path.stem in call(f"store {command} {name}").stdout, (command, name)
        assert Path(json.loads(call(f"store ls {name} --json").stdout)[0]["path"]).samefile(path)
    for command in ("ls", "info", "verify", "rm --yes"):
        told = call(f"store {command} phoenix14t/spatail", code=2).stderr
        assert "nearest is 'phoenix14t/spatial'" in told
    call("store rm phoenix14t --yes")
    assert not path.exists()


@pytest.mark.slow
def test_prune_shows_and_asks(tiny: Tiny, call: Call, tmp_path, monkeypatch):
    shutil.copytree(tiny.folder / "features", tmp_path / "own")
    monkeypatch.setenv("SPAMO_CACHE", str(tmp_path / "own"))
    monkeypatch.chdir(tmp_path)
    assert "nothing to remove" in call("store prune").stdout
    path = tmp_path / "own" / tiny.stores["motion"].relative_to(tiny.folder / "features")
    writer = StoreWriter.at(path)
    writer.forget(writer.finished())
    asked = CliRunner().invoke(app, ["store", "prune"], input="n\n")
    assert asked.exit_code == 1
    assert "unfinished: 0 of 10 clips" in asked.stdout
    with writer.presence():
        assert "is at work on it" in call("store prune --yes").stderr
    monkeypatch.chdir(tiny.folder)
    assert "runs/tiny was trained from it" in call("store prune --yes").stderr
    (kept,) = json.loads(call("store prune --json --yes").stdout)
    assert (Path(kept["entry"]["path"]), path.exists()) == (path, True)
    assert "was trained from it" in kept["kept"]
    monkeypatch.chdir(tmp_path)
    (going,) = sc.prune_stores(dry_run=True)
    assert (going.entry.path, going.kept) == (path, None)
    assert json.loads(call("store prune --json").stdout)[0]["kept"] is None
    assert path.exists()
    assert "removed 1 store, " in call("store prune --yes").stdout
    assert not path.exists()


def test_a_list_and_what_is_known_of_a_store_agree(features, call):
    call(IMPORT)
    listed = call("store ls").stdout.splitlines()
    assert [line.split()[0] for line in listed[:2]] == [listed[0], "store"]
    assert "1 store, " in listed[3]
    shown = call("store info phoenix14t").stdout
    assert listed[3].removeprefix("1 store, ") in shown
    assert "{" not in shown
    assert "4 ok, 0 failed" in shown
    (entry,) = json.loads(call("store ls --json").stdout)
    known = json.loads(call("store info phoenix14t --json").stdout)
    assert entry.pop("damaged") is None
    assert {name: known[name] for name in entry} == entry


@pytest.mark.slow
def test_clips_are_listed_a_line_each(features, call):
    (features / "test" / "c_s2wrapping.npy").write_bytes(b"nothing")
    call(IMPORT, code=1)
    heads, *lines = call("store info phoenix14t --clips").stdout.splitlines()
    assert heads.split("\t") == ["id", "split", "rows", "state", "reason"]
    cells = [line.split("\t") for line in lines]
    assert cells[0] == ["a", "train", "20", "ok", ""]
    assert cells[2][0] == "c"
    assert cells[2][3] == "failed"
    assert cells[2][4].startswith("cannot be read")
    documents = call("store info phoenix14t --clips --json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in documents] == [cell[0] for cell in cells]
    one = call("store info phoenix14t --clip c").stdout
    assert "cannot be read" in one
    assert json.loads(call("store info phoenix14t --clip a --json").stdout)["rows"] == 20
    assert "name the clip by --clip" in call("store info phoenix14t --row 1", code=2).stderr
    refused = call("store info phoenix14t --clip a --root .", code=2)
    assert "by --clip ID and --row N" in refused.stderr
    assert "no clip 'A'" in call("store info phoenix14t --clip A", code=2).stderr


def test_import_lists_what_it_cannot_use(features, call, tmp_path):
    (features / "test" / "c_s2wrapping.npy").write_bytes(b"nothing")
    rows = "".join(f"{c},{s},x,wort,German\n" for s in CLIPS for c in [*CLIPS[s], f"{s} more"])
    header = "id,split,source,text,language\n"
    (tmp_path / "clips.csv").write_text(header + rows, encoding="utf-8")
    np.save(features / "train" / "stray_s2wrapping.npy", np.ones((4, 8), np.float32))
    told = call(IMPORT, "--manifest clips.csv", code=1)
    for words in (
        "failed: c: cannot be read",
        "failed: train more: has no file",
        "left out, not in the manifest: train/stray_s2wrapping.npy",
    ):
        assert words in told.stderr
    assert "clips     6" in told.stdout


def test_export_is_what_the_official_code_trains_from(features, call, tmp_path):
    call(IMPORT)
    rows = "".join(f"{c},{s},x,Wort .,German,word\n" for s in CLIPS for c in [*CLIPS[s], f"{s}+"])
    header = "id,split,source,text,language,text_en\n"
    (tmp_path / "clips.csv").write_text(header + rows, encoding="utf-8")
    told = call("store export phoenix14t/spatial out --official --manifest clips.csv")
    assert "4 clips in annotations" in told.stdout
    for split, clips in CLIPS.items():
        # As the release's data set class does.
        loaded = np.load(tmp_path / "out" / f"{split}_info_ml.npy", allow_pickle=True).item()
        assert [loaded[n]["fileid"] for n in range(len(loaded) - 1)] == sorted(clips)
        assert {loaded[n]["en_text"] for n in range(len(loaded) - 1)} == {"word"}
        for entry in (loaded[n] for n in range(len(loaded) - 1)):
            rows = np.load(tmp_path / "features" / split / f"{entry['fileid']}_s2wrapping.npy")
            assert entry["num_frames"] == len(rows)
        for clip in clips:
            name = f"{clip}_s2wrapping.npy"
            given, made = (np.load(tmp_path / f / split / name) for f in ("features", "out"))
            assert made.dtype == given.dtype
            np.testing.assert_array_equal(made, given)


@pytest.mark.slow
def test_a_zip_is_a_zip_and_other_archives_are_not_written(features, call, tmp_path):
    call(IMPORT)
    assert "4 clips" in call("store export phoenix14t out.zip").stdout
    with np.load(tmp_path / "out.zip") as opened:
        np.testing.assert_array_equal(opened["train/überall 手語"], np.full((22, 8), 2))
        assert len(opened.files) == 5
    call("store export phoenix14t folder")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        archive.extractall(tmp_path / "unpacked")  # ours
    for file in (tmp_path / "folder").rglob("*.*"):
        inside = tmp_path / "unpacked" / file.relative_to(tmp_path / "folder")
        assert inside.read_bytes() == file.read_bytes()
    assert "file exists" in call("store export phoenix14t out.zip", code=2).stderr
    assert "no .gz file is written" in call("store export phoenix14t out.tar.gz", code=2).stderr
    assert "reads no .h5" in call("store export phoenix14t a.h5 --official", code=2).stderr
    assert "clips     4" in call("store import out.zip -d phoenix14t --stream spatial").stdout
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
def test_a_store_is_complete_by_itself(lab: Path, call: Call):
    call(EXTRACT, "--streams motion")
    kept = next((lab.parent / "home").glob("features/frames/*.zarr/manifest.parquet"))
    (lab / "manifest.csv").unlink()
    again = call(f"extract --manifest '{kept}' --root . --spec spec.yaml --streams motion")
    assert "there already  10" in again.stdout
    traced = "store info frames/motion --clip train-1 --row 0"
    files = json.loads(call(traced, "--root . --json").stdout)["files"]
    assert files == [f"frames/train-1/{number:04}.png" for number in range(13)]
    assert "the last frame, 3 times more" in call(traced).stdout
    assert (
        "nearest is 'train-1'"
        in call("store info frames/motion --clip tain-1 --row 0", code=2).stderr
    )
    assert json.loads(call("store info frames/motion --json").stdout)["manifest_bytes"]
    kept.unlink()
    assert "manifest.parquet: is missing" in call("store verify frames/motion", code=1).stdout


def test_rows_of_an_import_have_no_frames(features, call):
    call(IMPORT)
    assert "not recorded" in call("store info phoenix14t/spatial --clip a --row 0").stdout


@pytest.mark.slow
def test_train_copies_what_only_a_server_holds(lab: Path, call: Call, s3, monkeypatch):
    call(EXTRACT)
    for stream in ("spatial", "motion"):
        call(f"store push frames/{stream} '{s3.root}'")
    shutil.rmtree(lab.parent / "home" / "features")
    monkeypatch.setenv("SPAMO_CACHE", f"{lab}/new:{s3.root}")
    assert "there already  10" in call(EXTRACT).stdout
    assert not (lab / "new").exists()
    told = call("train pipeline.yaml")
    assert f"copying {s3.root}/frames/spatial-" in told.stderr
    assert len(list((lab / "new" / "frames").glob("*.zarr"))) == 2
    assert "copying" not in call("train pipeline.yaml").stderr


def test_features_of_others_are_compared(features: Path, call: Call) -> None:
    """The same, under other names; then with every other row; then of nobody known."""
    call(IMPORT)
    assert "the same" in call("store compare features phoenix14t/spatial").stdout
    for path in features.rglob("*.npy"):
        rows = np.arange(len(np.load(path)) * 8, dtype=np.float32).reshape(-1, 8)
        np.save(path, rows % 97)
    made = json.loads(call(f"{IMPORT} --json").stdout)["path"]
    for path in features.rglob("*.npy"):
        np.save(path, np.load(path)[::2])
    shown = call(f"store compare features {made}", code=1).stdout
    assert "cause: another stride or frame rate: 1 row of theirs for 2 of the store's" in shown
    known = json.loads(call(f"store compare features {made} --json", code=1).stdout)
    assert known["counts"] == {"equal": 0, "near": 0, "different": 4}
    assert (known["same"], known["cause"]["kind"]) == (False, "stride")
    assert "the same" in call(f"store compare {made} {made}").stdout
    np.savez("other.npz", nobody=np.ones((3, 8)))
    refused = call(f"store compare other.npz {made}", code=2)
    assert "no clip is in both" in refused.stderr


@pytest.mark.slow
def test_videos_tell_what_numbers_do_not(tiny: Tiny, call: Call, tmp_path: Path) -> None:
    """Features of the mean of the patches, against a store of the first token."""
    import cv2

    from spamo_cache.config.spec import MotionStream
    from spamo_cache.encoders.encoder import encode_clip
    from spamo_cache.encoders.registry import build
    from spamo_cache.store.reader import FeatureStore

    stream = MotionStream(encoder="videomae", weights="videomae", token="mean")  # noqa: S106
    encoder = build(stream, tiny.folder, "float32")
    (tmp_path / "theirs").mkdir()
    for clip in FeatureStore.open(tiny.stores["motion"]).ids:
        files = sorted((tiny.folder / "frames" / clip).iterdir())
        frames = np.stack([cv2.imread(str(file))[..., ::-1] for file in files])
        np.save(tmp_path / "theirs" / f"{clip}.npy", encode_clip(encoder, frames))
    line = f"store compare {tmp_path}/theirs {tiny.stores['motion']} --device cpu"
    spec = f"--spec {tiny.folder}/spec.yaml"
    known = json.loads(call(f"{line} --root {tiny.folder} {spec} --json", code=1).stdout)
    assert (known["cause"]["kind"], known["counts"]["different"]) == ("token", 10)
    refused = call(f"{line} --root {tiny.folder} --spec spamo", code=1)
    assert "error" in refused.stderr
