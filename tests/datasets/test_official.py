"""Annotations as the official release's scripts and data set class read them."""

from __future__ import annotations

import pytest

from spamo_cache import restricted
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.datasets.official import write_annotations


def written(folder, clips, frames):
    manifest = Manifest.from_clips("corpus", clips)
    count = write_annotations(manifest, folder, frames=frames, file_name=str)
    found = {}
    for split in manifest.splits:
        document = restricted.load_npy(folder / f"{split}_info_ml.npy")
        found[split] = document.pop("prefix"), list(document.values())
    assert count == sum(len(entries) for _, entries in found.values())
    return found


def clip(name, split, source, **more):
    return Clip(id=name, split=split, source=source, text="Text", language="German", **more)


@pytest.mark.parametrize("splits", [("train", "dev"), ("dev",)])
def test_phoenix_folders_are_as_in_the_files_that_the_release_ships(tmp_path, splits):
    """``fullFrame-256x256px`` is joined to them by its scripts: no folder above may stand there."""
    base = "PHOENIX-2014-T/features/fullFrame-210x260px"
    clips = [
        clip(f"{split}-{n}", split, f"{base}/{split}/11August_2010-{n}/*.png")
        for split in splits
        for n in range(2)
    ]
    found = written(tmp_path, clips, {one.id: 42 + n for n, one in enumerate(clips)})
    prefix, entries = found["dev"]
    assert prefix == base
    assert [entry["folder"] for entry in entries] == [
        "dev/11August_2010-0/*.png",
        "dev/11August_2010-1/*.png",
    ]
    assert [entry["num_frames"] for entry in entries] == [42 + clips.index(c) for c in clips[-2:]]
    assert entries[0]["original_info"] == "dev-0"


@pytest.mark.parametrize("ending", ["/*.jpg", ""])
def test_csl_daily_folders_are_those_of_the_clips(tmp_path, ending):
    base = "sentence/frames_512x512"
    clips = [clip(name, "test", f"{base}/{name}{ending}") for name in ("S1_P0", "S2_P0")]
    prefix, entries = written(tmp_path, clips, dict.fromkeys(("S1_P0", "S2_P0"), 9))["test"]
    assert prefix == base
    assert [entry["folder"] for entry in entries] == [
        f"{name}{ending or '/*'}" for name in ("S1_P0", "S2_P0")
    ]


def test_how2sign_videos_come_with_their_times(tmp_path):
    """Its scripts open ``folder`` as it is, and look the times up in ``original_info``."""
    source = "test/raw_videos/v-1.mp4"
    clips = [clip("v-1", "test", source, start=1.5, end=4.0), clip("v-2", "test", source)]
    prefix, (entry,) = written(tmp_path, clips, {"v-1": 60})["test"]
    assert (prefix, entry["folder"], entry["num_frames"]) == ("", source, 60)
    assert entry["original_info"] == {"START_REALIGNED": 1.5, "END_REALIGNED": 4.0}
