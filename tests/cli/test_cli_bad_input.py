"""Bad input at every command: one clear error, exit 2 or 1, never a traceback."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from spamo_cache.datasets.manifest import Manifest

BAD = [
    # what is wrong, arguments, exit code, what the error names
    ("unknown command", "extrac", 2, "extrac"),
    ("unknown option", "extract --limt 3", 2, "--limt"),
    ("wrong type", "extract --limit many", 2, "--limit"),
    ("out of range", "manifest --limit 0", 2, "--limit"),
    # doctor
    ("unknown corpus", "doctor --dataset phoenix14", 2, "nearest is 'phoenix14t'"),
    ("no root", "doctor --dataset phoenix14t", 2, "--root"),
    ("missing folder", "doctor --dataset phoenix14t --root none", 2, "none"),
    ("missing manifest", "doctor --manifest none.csv", 2, "none.csv"),
    # manifest
    ("unknown corpus", "manifest --dataset how2sing", 2, "nearest is 'how2sign'"),
    ("no root", "manifest --dataset how2sign", 2, "--root"),
    ("missing folder", "manifest --dataset csl-daily --root none", 2, "none"),
    ("empty folder", "manifest --dataset phoenix14t --root empty", 1, "empty"),
    ("a file for a folder", "manifest --dataset phoenix14t --root spec.yaml", 2, "spec.yaml"),
    ("unknown suffix", "manifest -d x --manifest manifest.csv -o m.doc", 2, "m.doc"),
    ("unwritable", "manifest -d x --manifest manifest.csv -o spec.yaml/m.parquet", 2, "spec.yaml"),
    ("broken table", "manifest -d x --manifest pipeline.yaml", 1, "pipeline.yaml"),
    ("no name", "manifest --manifest manifest.csv", 2, "--dataset NAME"),
    ("no name", "doctor --manifest manifest.csv", 2, "--dataset NAME"),
    ("a name that is taken", "doctor -d signed-weather --manifest manifest.csv", 2, "--dataset"),
    ("missing column", "manifest -d x --manifest short.csv", 1, "text"),
    ("size of a real corpus", "manifest --dataset how2sign --root empty --size 30", 2, "--size"),
    # extract
    ("unknown corpus", "extract --dataset csl-dail", 2, "nearest is 'csl-daily'"),
    ("missing manifest", "extract --manifest none.csv", 2, "none.csv"),
    ("no name", "extract --manifest manifest.csv --spec spec.yaml", 2, "--dataset NAME"),
    ("a name that is taken", "extract -d signed-weather --manifest manifest.csv", 2, "--dataset"),
    ("empty folder", "extract --dataset csl-daily --root empty", 1, "empty"),
    ("missing spec", "extract -d x --manifest manifest.csv --spec none.yaml", 2, "none.yaml"),
    ("unknown spec", "extract -d x --manifest manifest.csv --spec spmao", 2, "'spamo'"),
    (
        "unknown key",
        "extract -d x --manifest manifest.csv --spec key.yaml",
        2,
        "nearest is 'scales'",
    ),
    (
        "wrong type",
        "extract -d x --manifest manifest.csv --spec type.yaml",
        2,
        "streams.motion.stride",
    ),
    ("missing weights", "extract -d x --manifest manifest.csv --spec lost.yaml", 2, "lost-weights"),
    (
        "unknown stream",
        "extract -d x --manifest manifest.csv --spec spec.yaml --streams sound",
        2,
        "sound",
    ),
    (
        "empty list",
        "extract -d x --manifest manifest.csv --spec spec.yaml --streams a,,b",
        2,
        "a,,b",
    ),
    (
        "unknown split",
        "extract -d x --manifest manifest.csv --spec spec.yaml --split tset",
        2,
        "tset",
    ),
    (
        "unknown device",
        "extract -d x --manifest manifest.csv --spec spec.yaml --device tpu",
        2,
        "tpu",
    ),
    ("unknown device", "train pipeline.yaml --device gpu", 2, "use auto, cpu, cuda or cuda:N"),
    ("unknown device", "evaluate empty --device gpu", 2, "use auto, cpu, cuda or cuda:N"),
    ("unknown device", "translate empty frames/test-0 --device gpu", 2, "use auto, cpu, cuda"),
    ("unknown device", "analyze empty --device gpu", 2, "use auto, cpu, cuda or cuda:N"),
    ("unknown device", "reproduce --device gpu", 2, "use auto, cpu, cuda or cuda:N"),
    ("unknown device", "reproduce --all --device GPU", 2, "use auto, cpu, cuda or cuda:N"),
    ("unknown executor", "extract --executor ray", 2, "ray"),
    (
        "unwritable store",
        "extract -d x --manifest manifest.csv --spec spec.yaml --executor serial --store spec.yaml",
        2,
        "spec.yaml",
    ),
    (
        "remote store",
        "extract -d x --manifest manifest.csv --spec spec.yaml --store s3://b/x",
        2,
        "s3:",
    ),
    # store
    ("missing store", "store info phoenix14t/spatial", 2, "phoenix14t/spatial"),
    ("missing store", "store verify none.zarr", 2, "none.zarr"),
    ("missing store", "store diff a/b c/d", 2, "a/b"),
    ("missing store", "store push a/b empty", 2, "a/b"),
    ("missing store", "store pull a/b --from empty", 2, "a/b"),
    ("missing store", "store rm a/b --yes", 2, "a/b"),
    ("unknown option", "store ls --jsn", 2, "--jsn"),
    ("missing store", "store export a/b x.h5", 2, "a/b"),
    ("missing folder", "store import none -d frames --stream spatial", 2, "none"),
    ("empty folder", "store import empty -d frames --stream spatial", 2, "features"),
    ("no file of features", "store import spec.yaml -d frames --stream spatial", 2, "spec.yaml"),
    ("foreign files", "store import frames -d ../up --stream spatial", 2, "no features"),
    # train
    ("missing pipeline", "train none.yaml", 2, "none.yaml"),
    ("unknown pipeline", "train phoenix", 2, "nearest is 'phoenix14t'"),
    ("unknown key", "train pipeline.yaml --set algin.lr=1", 2, "nearest is 'align'"),
    ("wrong type", "train pipeline.yaml --set align.lr=fast", 2, "align.lr"),
    ("malformed override", "train pipeline.yaml --set align.lr", 2, "align.lr"),
    ("unknown stream", "train pipeline.yaml --manifest manifest.csv --features a=b", 2, "a=b"),
    ("no features", "train pipeline.yaml --manifest manifest.csv", 2, "spamo-cache extract"),
    ("no pipeline", "train --manifest manifest.csv", 2, "spamo-cache init NAME --manifest"),
    ("another corpus", "train pipeline.yaml --manifest other.parquet", 2, "--set corpus=other"),
    ("nothing extracted", "train pipeline.yaml", 2, "spamo-cache extract"),
    # evaluate, translate, analyze, report
    ("missing run", "evaluate none", 2, "none"),
    ("empty run", "evaluate empty", 2, "empty"),
    ("missing run", "translate none frames/test-0", 2, "none"),
    ("missing video", "translate empty none.mp4", 2, "none.mp4"),
    ("backslash", r"translate empty 'back\slash.mp4'", 2, "a name with a backslash"),
    ("control character", "translate empty 'new\nline.mp4'", 2, "a control character"),
    ("missing run", "analyze none", 2, "none"),
    ("empty run", "analyze empty", 2, "empty"),
    ("missing run", "report none", 2, "none"),
    ("empty run", "report empty", 2, "empty"),
    ("unknown pipeline", "doctor -d frames --manifest manifest.csv --pipeline phx", 2, "phx"),
    # nothing is drawn, and no file is looked into, before a slip is told
    ("unknown stream", "extract --streams sound", 2, "sound"),
    ("unknown split", "extract --split tset", 2, "tset"),
    ("missing weights", "extract --set streams.motion.weights=./none", 1, "none"),
    ("unwritable store", "extract --store spec.yaml/store", 2, "spec.yaml"),
    ("unknown suffix", "manifest -o m.doc", 2, "m.doc"),
    ("unwritable", "manifest -o spec.yaml/m.csv", 2, "spec.yaml"),
    ("unknown pipeline", "doctor -d signed-weather --pipeline phx", 2, "phx"),
    ("unknown stream", "reproduce --set streams=[sound]", 2, "sound"),
    ("missing LLM", "reproduce --set llm.weights=./none", 1, "none"),
    ("unwritable run", "reproduce -o spec.yaml/run", 2, "spec.yaml"),
    ("unwritable store", "reproduce --store spec.yaml/x", 2, "spec.yaml"),
    ("unknown experiment", "reproduce --all --only nothing", 2, "nothing"),
    ("unknown experiment", "reproduce --all --dry-run --only nothing", 2, "nothing"),
    ("unwritable report", "report empty -o frames", 2, "frames"),
    ("no page", "report empty -o report.pdf", 2, "report.pdf"),
    # reproduce
    ("unknown corpus", "reproduce phenix14t", 2, "nearest is 'phoenix14t'"),
    ("no root", "reproduce phoenix14t", 2, "--root"),
    ("empty folder", "reproduce phoenix14t --root empty", 1, "empty"),
    ("missing pipeline", "reproduce phoenix14t --root empty --pipeline none.yaml", 2, "none.yaml"),
    ("no name", "reproduce --manifest manifest.csv", 2, "--dataset NAME"),
    ("named twice", "reproduce frames -d frames", 2, "--dataset"),
    ("no pipeline", "reproduce frames --manifest manifest.csv", 2, "spamo-cache init frames"),
    (
        "another corpus's",
        "reproduce x --manifest manifest.csv --pipeline pipeline.yaml",
        2,
        "not 'x'",
    ),
    ("unwritable run", "reproduce phoenix14t --root empty -o spec.yaml/run", 2, "spec.yaml"),
]


@pytest.fixture
def messy(lab: Path) -> None:
    """Besides the good files, bad ones."""
    (lab / "empty").mkdir()
    spec = (lab / "spec.yaml").read_text(encoding="utf-8")
    (lab / "key.yaml").write_text(spec.replace("scales", "scalse"), encoding="utf-8")
    wrong = spec.replace("weights: videomae", "weights: videomae, stride: often")
    (lab / "type.yaml").write_text(wrong, encoding="utf-8")
    lost = spec.replace("weights: clip-vision", "weights: lost-weights")
    (lab / "lost.yaml").write_text(lost, encoding="utf-8")
    for name in ("back\\slash.mp4", "new\nline.mp4"):
        (lab / name).write_bytes(b"")
    Manifest.read(lab / "manifest.csv", "other").write(lab / "other.parquet")
    (lab / "short.csv").write_text("id,split\na,test\n", encoding="utf-8")


def _drawn(*_: object, **__: object) -> None:
    pytest.fail("the bundled corpus was drawn first")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code", "named"),
    [case[1:] for case in BAD],
    ids=[f"{case[1].split()[0]}: {case[0]}" for case in BAD],
)
@pytest.mark.usefixtures("messy")
def test_bad_input_is_one_clear_error(
    call: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    code: int,
    named: str,
) -> None:
    monkeypatch.setattr("spamo_cache.datasets.signed_weather.make", _drawn)
    result = call(line, code=code)
    # Boxes around usage errors break long words.
    told = result.stderr.replace("\n", " ")
    assert named in told
    assert told.count("error: ") + told.count(" Error ") == 1
    assert "Traceback" not in told
    assert result.stdout == ""


@pytest.mark.slow
@pytest.mark.usefixtures("messy")
def test_a_corpus_that_would_give_wrong_results_fails_the_doctor(
    call: Callable[..., Result],
) -> None:
    result = call("doctor --dataset phoenix14t --root empty", code=1)
    assert "not the PHOENIX14T release" in result.stdout


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spamo_cache", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_a_process_exits_with_the_code_of_its_error() -> None:
    ran = run("manifest", "--dataset", "nope")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: no corpus is called 'nope'")
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_the_traceback_can_be_asked_for() -> None:
    ran = run("manifest", "--dataset", "nope", SPAMO_TRACEBACK="1")
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr


def test_an_interrupted_command_says_how_to_go_on(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spamo_cache.workflow.resolve.load_manifest", interrupted)
    result = call("manifest", code=130)
    assert "run the same command again" in result.stderr
