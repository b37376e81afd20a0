"""The files in examples/ do what they say, as far as that shows without a Slurm cluster."""

import json
import os
import re
import stat
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from spamo_cache.extract.executors import slurm_options

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"


def test_the_slurm_cluster_becomes_a_job_script() -> None:
    slurm = pytest.importorskip("dask_jobqueue.slurm")
    jobs, options = slurm_options(EXAMPLES / "slurm.yaml")
    options.pop("shared_temp_directory")  # ours; the others are those of dask_jobqueue
    options.pop("scheduler_options")
    script = slurm.SLURMJob(scheduler="tls://host:1", name="extract", **options).job_script()
    assert jobs == 8
    for line in ("-p gpu", "-A my-lab", "--cpus-per-task=8", "--gres=gpu:1", "-t 08:00:00"):
        assert f"#SBATCH {line}" in script
    assert "source /nfs/lab/spamo-cache/.venv/bin/activate" in script


@pytest.fixture
def array_task(tmp_path: Path) -> Callable[..., list[str]]:
    """Run task 2 of train.sbatch with programs that only write down how they were called."""
    programs = {
        "spamo-cache": 'case "$1" in train) eval "${AT_TRAINING:-}";; esac',
        "scontrol": "",
    }
    for name, then in programs.items():
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\necho "${{0##*/}} $*" >> "$CALLS"\n{then}\n', encoding="utf-8")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    def run(*, at_training: str = "") -> list[str]:
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "SLURM_ARRAY_JOB_ID": "7",
            "SLURM_ARRAY_TASK_ID": "2",
            "AT_TRAINING": at_training,
        }
        subprocess.run(
            [EXAMPLES / "train.sbatch", "pipelines/phoenix14t/default.yaml"],
            check=not at_training, env=environment, cwd=tmp_path,
        )  # fmt: skip
        return (tmp_path / "calls").read_text(encoding="utf-8").splitlines()

    return run


TRAINED = "spamo-cache train pipelines/phoenix14t/default.yaml --set seed=2 -o "
RUN = "runs/phoenix14t/default-seed2"


def test_an_array_task_trains_and_tests_its_own_seed(
    array_task: Callable[..., list[str]],
) -> None:
    assert array_task() == [TRAINED + RUN, f"spamo-cache evaluate {RUN}"]


def test_an_array_task_goes_back_into_the_queue_before_its_time_limit(
    array_task: Callable[..., list[str]],
) -> None:
    """Slurm itself requeues after preemption and lost nodes alone."""
    assert "#SBATCH --signal=B:USR1@" in (EXAMPLES / "train.sbatch").read_text(encoding="utf-8")
    ended = array_task(
        at_training='kill -USR1 "$PPID"; until grep -q requeue "$CALLS"; do sleep 0.01; done'
    )
    assert ended == [TRAINED + RUN, "scontrol requeue 7_2"]


def test_the_container_is_built_from_what_there_is() -> None:
    """Read as Docker reads it: known instructions, files that exist, shell that parses."""
    text = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"(?m)^#.*\n|\\\n", "", text).strip().splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line]
    assert {step for step, _ in steps} <= {
        "FROM",
        "ARG",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "ENTRYPOINT",
    }
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for step, rest in steps:
        match step:
            case "FROM":
                version = rest.removeprefix("python:").removesuffix("-slim")
                assert f"Programming Language :: Python :: {version}" in project["classifiers"]
            case "COPY":
                *sources, _ = rest.split()
                assert all((REPOSITORY / source).exists() for source in sources), rest
            case "RUN":
                subprocess.run(["bash", "-n", "-c", rest], check=True)  # noqa: S607
                (extras,) = re.findall(r"'\.\[([a-z,]+)\]'", rest)
                assert set(extras.split(",")) <= project["optional-dependencies"].keys()
            case "ENTRYPOINT":
                assert set(json.loads(rest)) <= project["scripts"].keys()
