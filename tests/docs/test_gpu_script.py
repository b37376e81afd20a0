"""benchmarks/gpu.py gets few minutes on a GPU: no line of it is run there for the first time."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SECTIONS = ("tests", "extract", "train", "chain")


@pytest.mark.slow
@pytest.mark.usefixtures("quick_python")
def test_every_section_is_rehearsed(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--rehearse", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in SECTIONS:
        found = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert found["figures"]
        for figure in found["figures"]:
            assert figure["what"] in done.stdout


def test_what_is_carried_is_what_is_locked() -> None:
    carried = (REPOSITORY / "benchmarks" / "gpu.txt").read_text(encoding="utf-8").splitlines()
    names = [line for line in carried if not line.startswith("#")]
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    locked = {re.sub("[-_.]+", "-", name.lower()) for name in re.findall(r"(?m)^(.+)==", lock)}
    assert names == sorted(names)
    assert set(names) <= locked


def test_the_page_states_the_limits_of_the_script() -> None:
    script = (REPOSITORY / "benchmarks" / "gpu.py").read_text(encoding="utf-8")
    limits = dict(re.findall(r'"(\w+)": Section\(\w+, (\d+)\)', script))
    assert tuple(limits) == SECTIONS
    assert sum(map(int, limits.values())) < 8 * 60
    page = (REPOSITORY / "benchmarks" / "gpu.md").read_text(encoding="utf-8")
    for name, seconds in limits.items():
        assert re.search(rf"`{name}`\s{seconds} s", page)
