"""Any annotation file replaced by a pickle that would run something: it is named, nothing runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

Call = Callable[..., Result]

FILES = {
    "phoenix14t": ["annotations/manual/PHOENIX-2014-T.dev.corpus.csv", "train_info_ml.npy"],
    "csl-daily": ["sentence_label/csl2020ct_v2.pkl", "sentence_label/split_1.txt"],
    "how2sign": ["sentence_level/val/text/en/raw_text/re_aligned/how2sign_realigned_val.csv"],
    "openasl": ["data/openasl-v1.0.tsv", "data/bbox-v1.0.json"],
    "csl-news": ["CSL_News_Labels.json"],
    "youtube-asl": ["youtube_asl_video_ids.txt", "captions/-x_1.en.vtt"],
}


class Runs:
    """Pickles into a command."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> Any:
        return os.system, (self._command,)


def hostile(sentinel: Path, name: str) -> bytes:
    """A pickle that makes ``sentinel`` when it is loaded, in the wrapping that ``name`` wants."""
    attack = pickle.dumps({"info": [Runs(f"touch {sentinel}")]})
    if not name.endswith(".npy"):
        return attack
    header = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    return (
        header
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117)
        + b"\n"
        + attack
    )


@pytest.mark.parametrize(
    ("corpus", "name"), [(corpus, name) for corpus, names in FILES.items() for name in names]
)
def test_a_hostile_annotation_file_runs_nothing_and_is_named(
    corpus: str, name: str, drawn: Mapping[str, Path], lab: Path, call: Call
) -> None:
    root, sentinel = lab / "raw", lab / "it-ran"
    shutil.copytree(drawn[corpus], root)
    (root / name).write_bytes(hostile(sentinel, name))
    told = call(f"manifest --dataset {corpus} --root raw -o m.parquet", 1).stderr
    assert Path(name).name in told
    assert "Traceback" not in told
    document = json.loads(call(f"doctor --dataset {corpus} --root raw --json", 1).stdout)
    assert Path(name).name in document["findings"][0]["where"]
    if name.endswith((".pkl", ".npy")):
        assert "nothing was run" in told
        assert "system" in told
    assert not sentinel.exists()
    assert not (lab / "m.parquet").exists()


def test_the_attack_of_this_test_would_work(tmp_path: Path) -> None:
    sentinel = tmp_path / "it-ran"
    (tmp_path / "a.npy").write_bytes(hostile(sentinel, "a.npy"))
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert sentinel.exists()
