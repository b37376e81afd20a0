"""The run folder: what was asked, what was learnt, and where to go on after a kill.

    config.yaml          the resolved pipeline
    run.json             identity, fingerprints and paths of the stores, versions
    manifest.parquet     the sentences it was trained and selected on
    metrics.jsonl        one line per logged step
    tensorboard/         the same as curves
    model.safetensors    adapter, VT-Align and tuned LLM weights of the best dev BLEU
    resume.safetensors   latest weights and optimiser state, its place in the header; gone when done
    done.json            the summary; a run without it is unfinished
    lock                 held by the process that trains

Every file is written aside and renamed, so a kill leaves the old one or the new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from spamo_cache import bounded
from spamo_cache.config import Pipeline, load
from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.store import files

_PLACE = "place"


class RunFolder:
    """Reads and writes one run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.about = path / "run.json"
        self.manifest = path / "manifest.parquet"
        self.metrics = path / "metrics.jsonl"
        self.curves = path / "tensorboard"
        self.model = path / "model.safetensors"
        self.state = path / "resume.safetensors"
        self.done = path / "done.json"
        self.lock = path / "lock"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out of the folder for the block; a kill lets them in again.

        Raises:
            UsageError: another process trains into it.
        """
        with ExitStack() as stack:
            # What cannot be written to is for `begin` to judge: a finished run can be read.
            with suppress(OSError):
                if not self._foreign():
                    self.path.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(exclusive(self.lock))
            yield

    def _foreign(self) -> bool:
        """Whether what lies here is no run, nor the beginning of one that a kill cut short."""
        if self.about.exists() or not self.path.exists():
            return False
        if not self.path.is_dir():
            return True
        names = {path.name.removeprefix(".") for path in self.path.iterdir()}
        own = (self.lock.name, self.config.name, self.about.name)
        begun = self.lock.name in names and all(name.startswith(own) for name in names)
        return bool(names) and not begun

    def begin(self, pipeline: Pipeline, about: Mapping[str, Any], *, resume: bool) -> bool:
        """Claim the folder for this experiment; True if there is a state to go on from.

        Raises:
            UsageError: the folder holds another experiment, another kind of thing, or this one
                half done while ``resume`` is off.
        """
        if not self.about.exists():
            self._claim(pipeline, about)
            return False
        known = self.read_about()
        if known["identity"] != about["identity"]:
            raise UsageError(
                f"holds a run of something else: {_difference(known, about)} differs",
                where=self.path,
                remedy="choose another folder with -o, or remove this one",
            )
        if self.state.exists() and not (resume or self.done.exists()):
            raise UsageError(
                "holds this run, unfinished", where=self.path, remedy="go on with --resume"
            )
        return self.state.exists()

    def _claim(self, pipeline: Pipeline, about: Mapping[str, Any]) -> None:
        if self._foreign():
            raise UsageError(
                "is not empty and holds no run", where=self.path, remedy="choose another folder"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(pipeline.model_dump(mode="json"), sort_keys=False)
            write_atomic(self.config, text.encode())
            write_json(self.about, about)
        except OSError as error:
            raise UsageError(f"cannot be written: {error}", where=self.path) from error

    def pipeline(self) -> Pipeline:
        """The resolved pipeline of this run.

        Raises:
            UsageError: no run lies here.
        """
        if not self.config.exists():
            raise UsageError("holds no run", where=self.path, remedy="train one with -o")
        return load(self.config, Pipeline)

    def weights(self) -> Path:
        """The file of the best weights.

        Raises:
            UsageError: no finished run lies here.
        """
        if not self.done.exists():
            raise UsageError(
                "holds no finished run", where=self.path, remedy="train it first, or to its end"
            )
        return self.model

    @property
    def imported(self) -> bool:
        """Whether its first weights came from elsewhere, whole."""
        return "imported" in self.read_about()

    def read_about(self) -> dict[str, Any]:
        return read_json(self.about)

    def save_state(self, tensors: Mapping[str, Tensor], place: Mapping[str, Any]) -> None:
        """Make weights, optimiser and place durable as one file: they can never disagree."""
        write_tensors(self.state, tensors, {_PLACE: json.dumps(place)})

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, header = read_tensors(self.state)
        return tensors, json.loads(header[_PLACE])


def identity(parts: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of what makes two runs the same experiment."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` so that a reader or a kill sees the old or the new content, whole."""
    files.replace(path, content, path.parent)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Raises SpamoError for a file that is missing or no JSON object."""
    try:
        value = bounded.read_json(path)
    except (OSError, ValueError) as error:
        raise SpamoError(f"cannot be read: {error}", where=path) from error
    if not isinstance(value, dict):
        raise SpamoError("holds no JSON object", where=path)
    return value


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None
) -> None:
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(held, metadata=dict(header or {})))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file.

    Raises:
        SpamoError: missing or broken file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SpamoError(f"cannot be read: {error}", where=path) from error


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Keep other processes out of the folder of a lock file for the block; a kill lets them in.

    Raises:
        UsageError: another process is there.
    """
    with lock.open("ab") as held:
        # Some file systems of clusters have no locks.
        with suppress(OSError):
            _claimed(held.fileno(), lock.parent)
        yield


def _claimed(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            "is in use by another process", where=folder, remedy="wait until it is done"
        ) from None


def _difference(known: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The first part of the identity that two runs do not share, with its dotted key."""
    return _first_difference(known["parts"], asked["parts"]) or "its identity"


def _first_difference(known: Any, asked: Any, key: str = "") -> str:
    if known == asked:
        return ""
    if not (isinstance(known, dict) and isinstance(asked, dict)):
        return f"{key} ({_short(known)} there, {_short(asked)} asked)"
    found = (
        _first_difference(known.get(name), asked.get(name), f"{key}.{name}" if key else name)
        for name in sorted(known.keys() | asked.keys())
    )
    return next(filter(None, found), "")


def _short(value: Any) -> str:
    return str(value)[:40]
