"""A corpus has the name that it is given, and its clips are never mixed with another's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import spamo_cache as sc
from spamo_cache import io
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import UsageError
from spamo_cache.workflow.reproduce import corpus_of
from tests.conftest import Tiny

Call = Callable[..., Result]
EXTRACT = "extract --spec spec.yaml --executor serial --streams spatial"


@pytest.mark.slow
def test_two_tables_of_one_name_are_two_corpora(lab: Path, call: Call) -> None:
    """A second laboratory's clips are called like the first one's."""
    other = lab / "other"
    shutil.copytree(lab / "frames", other / "pictures")
    table = (lab / "manifest.csv").read_text(encoding="utf-8")
    (other / "manifest.csv").write_text(table.replace("frames/", "pictures/"), encoding="utf-8")
    call(f"{EXTRACT} -d frames --manifest manifest.csv")
    call(f"{EXTRACT} -d others --manifest other/manifest.csv")
    assert sorted(path.name for path in (lab.parent / "home/extracted").iterdir()) == [
        "frames",
        "others",
    ]
    trained = "train pipeline.yaml --set streams=[spatial] --set log=[]"
    told = call(f"{trained} --manifest other/manifest.csv", code=2)
    assert "is another one than in the store of stream 'spatial'" in told.stderr
    told = call(f"{trained} --set corpus=others --set spec_set.frames.resize=pil", code=2)
    assert (
        f"spamo-cache extract --dataset others --manifest {other}/manifest.csv "
        "--spec spec.yaml --streams spatial --set 'frames.resize=\"pil\"'"
    ) in told.stderr.replace("\n", "")


@pytest.mark.slow
def test_what_has_changed_under_a_name_is_told(lab: Path, call: Call) -> None:
    named = f"{EXTRACT} --manifest manifest.csv -d frames"
    first = call(named)
    assert "since the last extraction" not in first.stderr
    table = lab / "manifest.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    lines[1] = lines[1].replace("im satz", "anders")
    table.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    told = call(f"{named} --dry-run").stderr
    assert "frames, clips since the last extraction: 1 left out, 1 changed" in told
    renamed = [lines[0], *(f"x{line}" for line in lines[1:])]
    table.write_text("\n".join(renamed) + "\n", encoding="utf-8")
    told = call(f"{named} --dry-run").stderr
    assert "none of these 10 clips is among the 10 that were extracted under this name" in told


@pytest.mark.slow
def test_a_name_is_the_given_one_or_the_tables_or_the_pipelines(tiny: Tiny, tmp_path: Path) -> None:
    table, pipeline = tiny.folder / "manifest.csv", tiny.folder / "pipeline.yaml"
    stamped = Manifest.read(table, "stamped").write(tmp_path / "m.parquet")
    assert corpus_of(None, None, None) == "signed-weather"
    assert corpus_of("mine", table, pipeline) == "mine"
    assert corpus_of(None, table, pipeline) == "frames"
    assert corpus_of(None, None, pipeline) == "frames"
    assert corpus_of(None, table, pipeline, {"corpus": "mine"}) == "mine"
    assert corpus_of(None, stamped, None) == "stamped"
    with pytest.raises(UsageError, match="--dataset NAME"):
        corpus_of(None, table, None)
    assert sc.load_corpus(manifest=stamped).corpus == "stamped"
    assert sc.load_corpus("mine", manifest=stamped).corpus == "mine"


def test_other_clips_are_never_the_embedded_corpus(tiny: Tiny, tmp_path: Path) -> None:
    table = tiny.folder / "manifest.csv"
    with pytest.raises(UsageError, match="comes with spamo-cache"):
        sc.load_corpus("signed-weather", manifest=table)
    with pytest.raises(UsageError, match="spamo-cache init NAME"):
        sc.train(manifest=table)
    with pytest.raises(UsageError, match="spamo-cache init mine --manifest"):
        sc.reproduce("mine", manifest=table)
    with pytest.raises(UsageError, match="for corpus 'signed-weather', not 'mine'"):
        sc.reproduce("mine", manifest=table, pipeline="signed-weather")
    (tmp_path / "corpus.json").write_text('{"corpus": "signed-weather"}')
    drawn = sc.load_corpus("signed-weather", manifest=table, root=tmp_path)
    assert drawn.corpus == "signed-weather"


def test_a_place_is_looked_at_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished in a folder that may only be read is still of use."""
    monkeypatch.setattr("os.access", lambda path, _: Path(path).name != "shared")
    shared = tmp_path / "shared"
    shared.mkdir()
    io.check_folder(shared)
    io.check_folder(tmp_path / "new" / "run")
    io.check_output(tmp_path / "new" / "page.html")
    with pytest.raises(UsageError, match="no permission to write"):
        io.check_output(shared / "page.html")
    with pytest.raises(UsageError, match="no permission to write"):
        io.check_folder(shared / "runs" / "run")
    with pytest.raises(UsageError, match="is a folder"):
        io.check_output(shared)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is no folder"):
        io.check_folder(tmp_path / "file" / "run")
