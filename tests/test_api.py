"""The package from Python: what `import spamo_cache` exports, and a notebook that uses it."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spamo_cache as sc
from spamo_cache.errors import UsageError, VideoError
from spamo_cache.workflow.stores import remember
from tests.conftest import Tiny


@pytest.fixture
def lab(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tiny:
    """The tiny corpus with its stores in the roots, and an empty folder to work in."""
    monkeypatch.setenv("SPAMO_CACHE", tiny.roots[0])
    monkeypatch.chdir(tmp_path)
    return tiny


@pytest.mark.slow
def test_stores_are_opened_by_name_and_read(lab: Tiny) -> None:
    store = sc.open_store("frames/spatial")
    assert isinstance(store, sc.FeatureStore)
    (rows,) = store.read(["test-1"])
    assert rows.shape == (13, store.width)
    assert rows.dtype == np.float16
    assert set(store.ids) >= {"test-1", "train-0"}
    assert store.table()["id"] == list(store.ids)
    assert {entry.stream for entry in sc.list_stores()} == {"spatial", "motion"}
    by_path = sc.open_store(lab.stores["spatial"])
    assert np.array_equal(by_path.read(["test-1"])[0], rows)


def test_a_loader_reads_batches_of_clips(lab: Tiny) -> None:
    store = sc.open_store("frames/spatial")
    data = sc.FeatureDataset({"spatial": store}, ids=store.ids)
    loader = torch.utils.data.DataLoader(data, 2, collate_fn=sc.FeatureDataset.collate)
    batches = list(loader)
    assert [clip for batch in batches for clip in batch.ids] == list(store.ids)
    rows = sum(int(batch.streams["spatial"].lengths.sum()) for batch in batches)
    assert rows == sum(store.lengths(store.ids))


@pytest.mark.slow
def test_a_run_is_trained_scored_read_and_shown(lab: Tiny, tmp_path: Path) -> None:
    run = sc.train(
        lab.folder / "pipeline.yaml",
        set={"translate.lr": 1e-5, "log": []},
        manifest=lab.folder / "manifest.csv",
        device="cpu",
    )
    assert run.path == Path("runs/frames/tiny")
    assert "lr: 1.0e-05" in (run.path / "config.yaml").read_text()
    card = sc.evaluate(run, device="cpu")
    assert 0 <= card.metrics["bleu4"] <= 100
    assert sc.evaluate(str(run.path), device="cpu") == card
    loaded = sc.load_run(run, device="cpu")
    video = lab.folder / "frames" / "test-1"
    text = loaded.translate(video)
    assert [one.text for one in sc.translate(run, video, device="cpu")] == [text]
    page = sc.report(run, "page.html")
    assert "<html" in page.read_text()
    assert sc.evaluate(loaded, device="cpu") == card


@pytest.mark.slow
def test_a_video_that_cannot_be_read_says_so(lab: Tiny, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        sc.load_run(lab.run, device="cpu").translate(broken)
    (one,) = sc.translate(lab.run, [broken], device="cpu")
    assert one.text is None
    assert one.reason


@pytest.mark.slow
def test_features_are_named_in_every_way(lab: Tiny, tmp_path: Path) -> None:
    """Opened, by path, or as the option has them: the same run."""
    opened = {name: sc.open_store(path) for name, path in lab.stores.items()}
    listed = [f"{name}={path}" for name, path in lab.stores.items()]
    runs = [
        sc.train(
            lab.folder / "pipeline.yaml",
            set=["log=[]"],
            manifest=lab.folder / "manifest.csv",
            features=features,
            output=tmp_path / "run",
            device="cpu",
        )
        for features in (opened, lab.stores, listed)
    ]
    assert [run.reused for run in runs] == [False, True, True]


def test_what_is_read_by_name(lab: Tiny) -> None:
    corpus = sc.load_corpus("frames", manifest=lab.folder / "manifest.csv", limit=1)
    assert isinstance(corpus, sc.Manifest)
    assert len(corpus) == 3
    assert sc.load_pipeline("phoenix14t", set={"translate.lr": 1e-5}).translate.lr == 1e-5
    assert sc.load_spec("spamo", set={"streams.motion.stride": 4}).streams["motion"].stride == 4


@pytest.mark.slow
def test_a_store_from_python_is_found_by_training(
    lab: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without being told where it is, as after the command."""
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    corpus = sc.load_corpus("frames", manifest=lab.folder / "manifest.csv")
    summary = sc.extract(
        manifest=corpus,
        root=lab.folder,
        spec=lab.folder / "spec.yaml",
        streams="spatial",
        store=tmp_path / "features",
        executor="serial",
        device="cpu",
    )
    assert list(summary.stores) == ["spatial"]
    assert not summary.failed
    run = sc.train(
        lab.folder / "pipeline.yaml",
        set={"streams": ["spatial"], "log": []},
        output=tmp_path / "run",
        device="cpu",
    )
    assert run.steps == 3


GERMAN = ["morgen regnet es im norden", "am tag scheint die sonne"]


def test_translations_of_others_are_scored() -> None:
    card = sc.score(GERMAN, GERMAN, language="German", bootstrap=20)
    assert card.metrics["bleu4"] == pytest.approx(100)
    assert card.metrics["rouge_l"] == pytest.approx(100)
    assert "tok:13a" in card.signatures["bleu4"]
    assert card.n == 2
    assert card.conventions[0].headline
    assert set(card.intervals) == set(card.metrics)


def test_chinese_is_scored_by_characters() -> None:
    card = sc.score(["今天下雨了吗"], ["今天下雨了吗"], language="Chinese")
    assert "tok:zh" in card.signatures["bleu4"]
    assert "tok:zh" in sc.score(["今天下雨了吗"], ["今天下雨了吗"]).signatures["bleu4"]


@pytest.mark.parametrize("sides", [([], []), (GERMAN, GERMAN[:1]), (GERMAN[0], GERMAN[0])])
def test_what_cannot_be_scored_is_refused(sides: tuple[list[str], list[str]]) -> None:
    with pytest.raises(UsageError, match=r"hypotheses for|one string is not"):
        sc.score(*sides)


def test_every_exported_name_works_and_is_documented() -> None:
    assert set(sc.__all__) <= set(dir(sc))
    for name in sc.__all__:
        assert inspect.getdoc(getattr(sc, name)), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        sc.trian  # noqa: B018


@pytest.mark.slow
def test_functions_keep_their_names_beside_the_packages_that_are_called_like_them() -> None:
    """Importing `spamo_cache.train` must not put the package in the function's place."""
    code = (
        "import spamo_cache as sc, spamo_cache.train, spamo_cache.evaluate, spamo_cache.report\n"
        "import spamo_cache.extract\n"
        "from spamo_cache.train import RunSummary\n"
        "assert all(map(callable, (sc.train, sc.evaluate, sc.report, sc.extract)))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _cpu_seconds(code: str) -> Iterator[float]:
    """CPU time of a fresh Python that runs a line, less that of one that runs nothing."""
    line = f"import time; before = time.process_time(); {code}; print(time.process_time() - before)"
    for _ in range(3):
        ran = subprocess.run([sys.executable, "-c", line], check=True, capture_output=True)
        yield float(ran.stdout.split()[-1])


def test_importing_the_package_is_quick_and_imports_nothing_heavy() -> None:
    assert min(_cpu_seconds("import spamo_cache")) < 0.1
    code = (
        "import sys, spamo_cache; dir(spamo_cache); "
        "heavy = {'torch', 'numpy', 'zarr', 'pyarrow', 'typer', 'rich', 'pydantic'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"


TYPED = """
import spamo_cache as sc

store: sc.FeatureStore = sc.open_store("phoenix14t/spatial")
run = sc.train("phoenix14t", set={"translate.lr": 1e-4})
bleu: float = sc.evaluate(run).metrics["bleu4"]
text: str = sc.load_run(run).translate("video.mp4")
sc.report([run])
sc.score(["a"], ["b"], language="German").intervals["bleu4"][0] + 1.0
"""
WRONG = "import spamo_cache as sc\nsc.train('phoenix14t', lr=1e-4)\nsc.evaluate(1).bleu\n"

LIBRARIES = "torch numpy pydantic pydantic_core zarr pyarrow transformers dask distributed yaml cv2"
OPAQUE = f"""\
[mypy]
strict = true
follow_imports = silent
ignore_missing_imports = true
{"".join(f"[mypy-{name}.*]{chr(10)}follow_imports = skip{chr(10)}" for name in LIBRARIES.split())}
"""
"""What this test need not read the types of, which would take a minute."""


@pytest.mark.slow
def test_a_type_checker_knows_the_api(tmp_path: Path) -> None:
    """The wheel carries the marker, so that mypy reads the annotations of an installation."""
    assert (Path(sc.__file__).parent / "py.typed").is_file()
    (tmp_path / "mypy.ini").write_text(OPAQUE)

    (tmp_path / "typed.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "typed.py", "wrong.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    errors = [line for line in ran.stdout.splitlines() if ": error: " in line]
    assert errors, ran.stdout + ran.stderr
    assert all(line.startswith("wrong.py:") for line in errors), ran.stdout
    assert 'Unexpected keyword argument "lr"' in errors[0]


PAGE = Path(__file__).parents[1] / "docs" / "python-api.md"


@pytest.mark.slow
def test_the_page_about_it_runs(lab: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every snippet in order, on the tiny corpus in place of PHOENIX14T."""
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path / "home"))
    table = lab.folder / "manifest.csv"
    remember(sc.load_corpus("frames", manifest=table), lab.stores.values())
    here = {
        "phoenix14t/spatial": "frames/spatial",
        '"phoenix14t", root="/data/PHOENIX-2014-T"': f'"frames", manifest="{table}"',
        '"phoenix14t", set={': f'"{lab.folder}/pipeline.yaml", set={{"log": [], ',
        "clip-1": "test-1",
        "video.mp4": str(lab.folder / "frames" / "test-1"),
    }
    code = "\n".join(re.findall(r"(?ms)^```python\n(.*?)^```", PAGE.read_text("utf-8")))
    for shown, meant in here.items():
        assert shown in code, shown
        code = code.replace(shown, meant)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 (our own page)
    assert names["card"].metrics.keys() >= {"bleu4", "chrf"}
    assert Path("report.html").is_file()
