"""Stage 2 where devices differ: arithmetic, waiting, batches on their way, resuming."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spamo_cache.config import StageConfig
from spamo_cache.evaluate.evaluation import evaluate
from spamo_cache.model.tokens import Tokens
from spamo_cache.runs.folder import RunFolder
from spamo_cache.train import loop
from spamo_cache.train.data import examples, stream_batches
from spamo_cache.train.distributed import make_accelerator
from spamo_cache.train.monitoring import StepTimer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    from tests.support import toy

    return toy


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


@pytest.fixture(scope="module")
def on_cpu(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in float32 on the CPU, which leaves nothing to chance."""
    out = tmp_path_factory.mktemp("cpu") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 1)
        toy.run(out, quiet(toy))
    return out


def quiet(toy: ModuleType, **changes: Any) -> Any:
    return toy.pipeline(**toy.QUIET | {"decode": {"beams": 2, "max_tokens": 12}} | changes)


def losses(run: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    names = ("step", "loss", "lm", "align", "dev_loss")
    return [{name: line[name] for name in names if name in line} for line in lines]


def check_near(run: Path, other: Path, tolerance: float) -> None:
    """A GPU's convolutions round float32 to TF32 on their way, unless told not to."""
    for found, expected in zip(losses(run), losses(other), strict=True):
        assert found == pytest.approx(expected, rel=tolerance)


@pytest.mark.slow
def test_losses_are_those_of_the_cpu(
    toy: ModuleType, on_cpu: Path, tmp_path: Path, device: str
) -> None:
    toy.run(tmp_path / "run", quiet(toy, precision="float32"), device=device)
    check_near(tmp_path / "run", on_cpu, 1e-5 if device == "cpu" else 1e-3)
    card = evaluate(tmp_path / "run", "test", stores=toy.corpus()[1], device=device)
    assert card.n == 6


class Operators(TorchDispatchMode):
    """Notes the names of those that are called in this thread."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


@pytest.mark.slow
def test_half_precision_is_near(toy: ModuleType, on_cpu: Path, tmp_path: Path, device: str) -> None:
    with Operators() as operators:
        toy.run(tmp_path / "run", quiet(toy, precision="bfloat16"), device=device)
    check_near(tmp_path / "run", on_cpu, 0.05)
    attention = {name for name in operators.names if "scaled_dot_product" in name}
    assert attention
    # It would be planned anew for every length, half a second each.
    assert not any("cudnn" in name for name in attention)


class CutError(Exception):
    """The run is cut off here."""


@pytest.mark.slow
def test_goes_on_after_a_cut(toy: ModuleType, on_cpu: Path, tmp_path: Path, device: str) -> None:
    def cut(phase: str, step: int, *_: Any) -> None:
        if (phase, step) == ("translate", 3):
            raise CutError

    config = quiet(toy, precision="float32")
    with pytest.raises(CutError):
        toy.run(tmp_path / "run", config, device=device, progress=cut)
    toy.run(tmp_path / "run", config, device=device)
    check_near(tmp_path / "run", on_cpu, 1e-5 if device == "cpu" else 1e-3)


@pytest.fixture
def waiting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever waits for the GPU from the first step of a phase to its last raises."""

    def mode(name: str) -> None:
        if torch.cuda.is_available():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # "a prototype feature"
                torch.cuda.set_sync_debug_mode(name)

    begin = StepTimer.begin

    def begun(self: StepTimer) -> None:
        begin(self)
        mode("error")

    def after(self: loop.Trainer, phase: str, config: StageConfig, _: Any) -> bool:
        if self.state.step == config.steps:
            mode("default")
        return False

    monkeypatch.setattr(StepTimer, "begin", begun)
    monkeypatch.setattr(loop.Trainer, "_after", after)
    yield
    mode("default")


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_no_step_waits_for_the_device(
    toy: ModuleType, tmp_path: Path, waiting_is_an_error: None, device: str, memory: int
) -> None:
    manifest, stores = toy.corpus()
    config = toy.pipeline(
        align={"steps": 3, "batch": 8, "lr": 1e-3},
        translate={"steps": 3, "batch": 8, "lr": 1e-3, "grad_accum_steps": 2},
    )
    (tmp_path / "run").mkdir()
    trainer = loop.Trainer(
        config,
        make_accelerator(config, device),
        RunFolder(tmp_path / "run"),
        llm=toy.GOLDEN / "llm",
        manifest=manifest,
        stores=stores,
        memory=memory,
    )
    trainer._run_phase("align", config.align)
    trainer._attach()
    trainer.state.step = 0
    trainer._run_phase("translate", config.translate)
    assert trainer.timer.steps == 3
    assert 0 <= (trainer.timer.waiting_share or 0) < 1


def test_batches_arrive_as_they_were_read(toy: ModuleType, device: str) -> None:
    manifest, stores = toy.corpus()
    tokens = Tokens(toy.GOLDEN / "llm")
    data = examples(toy.pipeline(), manifest, stores, "train", tokens, memory=0)
    wanted = [([number % 16, (number * 5 + 1) % 16], number, [0, 1]) for number in range(24)]
    work = torch.randn(256, 256, device=device)
    for asked, found in zip(
        wanted, stream_batches(data, wanted, torch.device(device)), strict=True
    ):
        # The device is busy with something while further batches come.
        work = (work @ work).tanh()
        expected = data.batch(*asked)
        for one, other in zip(found.tensors(), expected.tensors(), strict=True):
            assert one.device.type == device
            assert torch.equal(one.cpu(), other)
        assert found.streams["spatial"].sizes == expected.streams["spatial"].sizes


def test_only_an_idle_device_waits(device: str) -> None:
    # Before the clock runs: the first kernels of a process take their time.
    work = torch.randn(4096, 4096, device=device) if device == "cuda" else None
    if work is not None:
        (work @ work).tanh()
        torch.cuda.synchronize()
    timer = StepTimer(torch.device(device))
    timer.begin()
    with timer.waiting():
        time.sleep(0.02)
    timer.step()
    assert timer.waiting_share == pytest.approx(1, abs=0.2)
    if work is None:
        return
    timer.begin()
    for _ in range(200):
        work = (work @ work).tanh()
    with timer.waiting():
        time.sleep(0.001)
    timer.step()
    assert timer.waiting_share == 0
    torch.cuda.synchronize()
