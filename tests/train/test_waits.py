"""A training step asks the device for nothing: who asks waits until all it was given is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spamo_cache.config import Pipeline
from spamo_cache.runs.folder import RunFolder
from spamo_cache.train.distributed import make_accelerator
from spamo_cache.train.features import MemoryFeatures
from spamo_cache.train.loop import Trainer

_VALUES = {"_local_scalar_dense", "is_nonzero", "equal", "allclose"}
_SHAPES = {"nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive", "bincount"}
_METHODS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__")


class Waits(TorchDispatchMode):
    """Counts what on a GPU would wait for it: values that the host reads, and shapes that depend
    on them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()
        self._patch = patch

    def __enter__(self) -> Any:
        for name in _METHODS:
            self._patch.setattr(torch.Tensor, name, self._counted(name))
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._patch.undo()

    def _counted(self, name: str) -> Any:
        own = getattr(torch.Tensor, name)

        def method(tensor: torch.Tensor, *given: Any) -> Any:
            self.found[name] += 1
            return own(tensor, *given)

        return method

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in {"index", "index_put", "index_put_", "_index_put_impl_"} and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        unsized = name == "repeat_interleave" and not (kwargs or {}).get("output_size")
        if name in _VALUES | _SHAPES or masks or unsized:
            self.found[name] += 1
        return func(*args, **kwargs or {})


def counted(
    toy: ModuleType,
    config: Pipeline,
    folder: Path,
    patch: pytest.MonkeyPatch,
    marked: Sequence[str] = (),
) -> Counter[str]:
    """What the steps of both phases wait for, besides the figures that are logged.

    Args:
        marked: streams of whose rows every third is not valid.
    """
    manifest, stores = toy.corpus()
    for name in marked:
        arrays = stores[name]._arrays
        valid = {clip: np.arange(len(rows)) % 3 > 0 for clip, rows in arrays.items()}
        stores[name] = MemoryFeatures(arrays, valid=valid)
    folder.mkdir()
    trainer = Trainer(
        config,
        make_accelerator(config, "cpu"),
        RunFolder(folder),
        llm=toy.GOLDEN / "llm",
        manifest=manifest,
        stores=stores,
    )
    patch.setattr(Trainer, "_after", lambda *_: False)
    found: Counter[str] = Counter()
    for phase, stage in trainer._phases():
        if phase == "translate":
            trainer._attach()
        trainer.state.step = 0
        with pytest.MonkeyPatch.context() as methods, Waits(methods) as waits:
            trainer._run_phase(phase, stage)
        found += waits.found
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapter": {"width": 16, "norm": "masked", "fusion": "features"}, "precision": "bfloat16"},
        {"protocol": {"pool_padding": True, "unsorted_batches": True}, "max_frames": 20},
        {"adapter": {"width": 16, "norm": "masked", "fusion": "gate"}, "marked": ["spatial"]},
        {"protocol": {"pool_padding": True}, "max_frames": 20, "marked": ["spatial", "motion"]},
    ],
)
def test_no_step_waits_for_the_device(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    stage = {"steps": 3, "batch": 8, "lr": 1e-3, "grad_accum_steps": 2}
    marked = changes.pop("marked", ())
    config = toy.pipeline(align=stage, translate=stage, **changes)
    assert counted(toy, config, tmp_path / "run", monkeypatch, marked) == {}


def test_what_waits_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, lengths = torch.randn(4, 3), torch.tensor([1, 3])
    with Waits(monkeypatch) as waits:
        rows[rows > 0]
        rows.sum().item()
        lengths.tolist()
        lengths.repeat_interleave(lengths)
        lengths.repeat_interleave(lengths, output_size=4)
        rows[lengths]
    assert waits.found.keys() >= {"index", "item", "tolist", "repeat_interleave"}
    assert (waits.found["index"], waits.found["repeat_interleave"]) == (1, 1)
