"""Every YAML that ships loads, says what it asks, and agrees with what is known of its corpus."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from spamo_cache import config
from spamo_cache.config import CacheSpec, Experiment, Pipeline
from spamo_cache.datasets.registry import CORPORA
from spamo_cache.workflow import resolve
from spamo_cache.workflow.experiments.plan import ORDER, listed, plan_experiments

REPOSITORY = Path(__file__).parents[2]

SCORED = [name for name, known in CORPORA.items() if known.expected or known.synthetic]
"""Others have no published splits to train and score on."""


def yamls(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.yaml"))


SPECS = yamls("cache_specs")
EXPERIMENTS = [path for path in yamls("pipelines") if path.parent.name == "experiments"]
PIPELINES = [path for path in yamls("pipelines") if path not in EXPERIMENTS]


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def test_no_yaml_is_overlooked() -> None:
    """Counted another way, and against what has to be there at least."""
    for folder, found in (("cache_specs", SPECS), ("pipelines", PIPELINES + EXPERIMENTS)):
        walked = [
            name
            for _, _, names in os.walk(REPOSITORY / folder)
            for name in names
            if name.endswith((".yaml", ".yml"))
        ]
        assert len(walked) == len(found)
    assert len(SPECS) >= 2
    assert len(PIPELINES) >= 4
    assert {path.stem for path in EXPERIMENTS} == set(ORDER)
    assert "cache_specs/spamo.yaml" in map(name_of, SPECS)
    defaults = {f"pipelines/{corpus}/default.yaml" for corpus in SCORED}
    assert defaults <= set(map(name_of, PIPELINES))


@pytest.mark.parametrize("path", SPECS, ids=name_of)
def test_a_cache_spec_loads(path: Path) -> None:
    spec = config.load(path, CacheSpec)
    for stream in spec.streams.values():
        # Weights of our own stand beside the spec; others name their revision, tags have none.
        beside = (path.parent / stream.weights).exists()
        assert beside or "@" in stream.weights or "/" not in stream.weights


@pytest.mark.parametrize("path", PIPELINES, ids=name_of)
def test_a_pipeline_loads_and_fits_its_spec_and_corpus(path: Path) -> None:
    pipeline = config.load(path, Pipeline)
    spec, _ = resolve.named_spec(pipeline.spec, path.parent)
    assert set(pipeline.streams) <= set(spec.streams)
    assert pipeline.corpus == path.relative_to(REPOSITORY / "pipelines").parts[0]
    assert pipeline.corpus in CORPORA
    assert pipeline.text.tokenize == CORPORA[pipeline.corpus].text.tokenize
    weights = pipeline.llm.weights
    assert (path.parent / weights).is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+@\w+", weights)


@pytest.mark.slow
@pytest.mark.parametrize("corpus", SCORED)
def test_every_experiment_fits_every_corpus(corpus: str) -> None:
    """No unknown key, stream or change of the spec; what to start from is there."""
    path = REPOSITORY / "pipelines" / corpus / "default.yaml"
    experiments = listed(path.parent)
    names = [one.name for one in experiments]
    assert names == [name for name in ORDER if name in names]
    own = ("pretraining", "regions")  # what these need, not every corpus has
    assert {name for name in ORDER if not name.startswith(own)} <= set(names)

    def load(changes: Sequence[str]) -> Pipeline:
        return config.load(path, Pipeline, changes)

    seeds = {name: [0] for name in names}
    found = plan_experiments(
        experiments, load, lambda one: resolve.spec_used(one, path.parent)[0], seeds
    )
    assert [trial for trial in found.trials if trial.error is not None] == []
    for run in found.runs.values():
        weights = run.pipeline.llm.weights
        assert (path.parent / weights).is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+@\w+", weights)
        assert run.pipeline.llm.tuning.mode != "full" or run.pipeline.llm.dtype == "float32"
        if run.pipeline.encoders is not None and not CORPORA[corpus].synthetic:
            # What a GPU holds of frames at once, and of their activations.
            step = run.pipeline.translate
            assert step.batch // step.grad_accum_steps * run.pipeline.max_frames <= 2048
    for name in names:
        assert found.only([name]).runs


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_an_experiment_opens_with_its_question_and_its_command(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    experiment = config.load(path, Experiment)
    assert lines[0] == f"# {experiment.question}"
    assert experiment.question.endswith("?")
    assert lines[2].startswith("#   spamo-cache reproduce ")
    assert lines[2].endswith(f" --all --only {experiment.name}")
    assert experiment.name == path.stem
    own = path.relative_to(REPOSITORY / "pipelines").parts[0]
    assert own == "experiments" or lines[2].split()[3] == own


def test_points_of_an_axis_are_placed() -> None:
    """An experiment with an axis has at least three points to draw, one without has none."""
    for path in EXPERIMENTS:
        experiment = config.load(path, Experiment)
        placed = [one.x for one in experiment.variants.values() if one.x is not None]
        assert len(set(placed)) >= 3 if experiment.axis else not placed


@pytest.mark.parametrize("path", PIPELINES, ids=name_of)
def test_a_pipeline_opens_with_its_question_and_its_command(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = lines[: next(k for k, line in enumerate(lines) if not line.startswith("#"))]
    assert comment
    assert "?" in comment[0]
    assert any(name_of(path) in line or "reproduce" in line for line in comment)
    assert config.load(path, Pipeline).question.endswith("?")


@pytest.mark.parametrize("corpus", SCORED)
def test_the_default_pipeline_follows_the_convention_of_its_corpus(corpus: str) -> None:
    pipeline, path = resolve.named_pipeline(corpus, [])
    assert path.parent.name == corpus
    assert pipeline.text == CORPORA[corpus].text


def test_the_field_table_names_every_field() -> None:
    table = (REPOSITORY / "cache_specs" / "README.md").read_text(encoding="utf-8")
    streams = (config.SpatialStream, config.MotionStream, config.TransformersStream)
    for model in (CacheSpec, *streams, config.StoreSpec):
        for field in model.model_fields:
            assert re.search(rf"`(\w+\.)*{field}(\.\w+)?[:`]", table), f"{model.__name__}.{field}"


def keys_of(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted key -> field, of a model and the models in it."""
    for name, field in model.model_fields.items():
        inner = [*get_args(field.annotation), field.annotation]
        groups = [one for one in inner if isinstance(one, type) and issubclass(one, BaseModel)]
        if groups:
            yield from keys_of(groups[0], f"{above}{name}.")
        else:
            yield f"{above}{name}", field


def test_the_page_of_pipelines_names_every_key_and_its_default() -> None:
    page = (REPOSITORY / "pipelines" / "README.md").read_text(encoding="utf-8")
    rows = {
        key: cells[1]
        for line in page.splitlines()
        if line.startswith("| `") and len(cells := [c.strip() for c in line.split(" | ")]) > 1
        for key in re.findall(r"`([^`]+)`", cells[0])
    }
    known = dict(keys_of(Pipeline))
    assert len(known) > 70
    assert known.keys() <= rows.keys()
    for key, field in known.items():
        if key.startswith("protocol."):
            assert field.default is False
        elif field.is_required():
            assert rows[key] == "required", key
        elif field.default is None:
            assert rows[key] == "none", key
        else:
            shown = yaml.safe_load(rows[key].strip("`") or "''")
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert shown in (default, f"{default:g}" if isinstance(default, float) else None), key
