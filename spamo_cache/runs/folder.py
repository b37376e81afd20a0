"""The run folder: what was asked, what was learnt, and where to go on after a kill.

    config.yaml          the resolved pipeline
    manifest.parquet     the sentences it was trained and selected on
    run.json             identity, fingerprints and attributes of the stores, versions
    metrics.jsonl        one line per logged step
    tensorboard/         the same as curves
    model.safetensors    adapter, VT-Align and tuned LLM weights of the best dev BLEU
    resume.safetensors   latest weights and optimiser state, its place in the header; gone when done
    done.json            the summary; a run without it is unfinished
    lock                 held by the process that trains

Every file is written aside and renamed, so a kill leaves the old one or the new one. Every file
has a checksum, which whatever reads it compares: documents and lines of metrics carry their own,
files of tensors have it in their header, and ``run.json`` and ``done.json`` list the others.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import yaml
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from spamo_cache import io
from spamo_cache.config import Pipeline, StrictModel, load
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import DamagedError, UsageError
from spamo_cache.runs.documents import first_fault
from spamo_cache.runs.tensors import REMEDY, check_tensors, read_tensors, write_tensors
from spamo_cache.store.attributes import Attributes, Sha256, validated
from spamo_cache.store.leases import Leases

_PLACE = "place"
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""What file systems without locks answer: some of clusters, and FUSE."""


@dataclass(frozen=True, slots=True)
class MetricsLine:
    """A line of ``metrics.jsonl``: what a training came to by a step of a stage.

    Attributes:
        stage: ``align`` or ``translate``.
        step: of that stage, from 1.
        values: name -> figure; losses are means over the steps since the line before.
    """

    stage: str
    step: int
    values: Mapping[str, float]


class TrainedCorpus(StrictModel):
    """What a run on several corpora takes from one of them."""

    clips: int
    """Training clips."""
    share: float
    """Of all training clips that are drawn."""
    fingerprints: Mapping[str, str]
    """Stream -> fingerprint of its features."""
    places: Mapping[str, str]
    """Stream -> where its store lay when the run was begun."""


class InitialWeights(StrictModel):
    """Whose weights a run began with."""

    path: str
    """Folder of that run, as the pipeline names it."""
    name: str
    """Of its pipeline."""
    corpora: tuple[str, ...]
    """Those it was trained on."""


class RunRecord(StrictModel):
    """What ``run.json`` says of a run."""

    identity: Sha256
    """Of ``parts``: equal means the same experiment."""
    parts: Mapping[str, Any]
    """Pipeline, fingerprints of the stores, sentences, LLM, and weights it began with."""
    base: str
    """Folder of the pipeline's file when it was begun."""
    widths: Mapping[str, int]
    """Stream -> values per row."""
    places: Mapping[str, str | None]
    """Stream -> where its store lay when it was begun; None for features held in memory."""
    origins: Mapping[str, str] = {}
    """Stream -> address, with the commit, of the store on the Hub that its store is or was pulled
    from."""
    stores: Mapping[str, Attributes]
    """Stream -> what its store says about itself; none for features held in memory."""
    corpora: Mapping[str, TrainedCorpus] = {}
    """By name, where several are trained on. The other fields are of the one that is scored."""
    init_from: InitialWeights | None = None
    versions: Mapping[str, str]
    imported: Mapping[str, str] | None = None
    """Name and sha256 of the official checkpoint that the weights came from."""
    files: Mapping[str, Sha256] = {}
    """sha256 of what was written before this."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Stream -> fingerprint of its features."""
        found: dict[str, str] = self.parts["stores"]
        return found

    @property
    def llm(self) -> str:
        """Digest of the LLM's folder."""
        return str(self.parts["llm"])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What training achieved; ``done.json`` holds the same.

    Attributes:
        path: the run folder.
        reused: nothing was trained, the run was there already.
        best_bleu: BLEU-4 on dev of the weights kept; None without a translation stage.
        best_step: step of the translation stage they are from.
        recall: share of dev clips whose own sentence was the nearest after the align stage.
        seconds: wall time of this call.
        trained: number of trained parameters.
        failed: split -> clips left out for want of features -> reason.
        steps: of the last stage, taken by this call.
        step_seconds: mean wall time of these, reading included, scorings of dev left out.
        waiting: share (0..1) of that time in which the device waited for features, at most.
        peak_bytes: most memory of this call: on a GPU what torch allocated, on a CPU what the
            process held.
        checkpointing: the LLM's activations were computed anew on the way back, to save memory.
        adapter: number of parameters of the sign adapter, which hangs on streams and fusion; None
            where an earlier version did not count them.
    """

    path: Path
    reused: bool
    best_bleu: float | None
    best_step: int
    recall: float | None
    seconds: float
    trained: int
    failed: Mapping[str, Mapping[str, str]]
    steps: int = 0
    step_seconds: float | None = None
    waiting: float | None = None
    peak_bytes: int | None = None
    checkpointing: bool = False
    adapter: int | None = None


_SUMMARY = TypeAdapter(RunSummary)
_METRICS_LINE = TypeAdapter(MetricsLine)


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
                    io.make_folders(self.path)
                    stack.enter_context(exclusive(self.lock))
                    _leases(self.lock).sweep()
            yield

    def _foreign(self) -> bool:
        """Whether what lies here is no run, nor the beginning of one that a kill cut short."""
        if self.about.exists() or not self.path.exists():
            return False
        if not self.path.is_dir():
            return True
        names = {path.name for path in self.path.iterdir()}
        own = {self.lock.name, self.config.name, self.manifest.name, _leases(self.lock).folder.name}
        left = {name for name in names - own if not io.is_temporary(name)}
        return bool(names) and (self.lock.name not in names or bool(left))

    def begin(self, pipeline: Pipeline, about: RunRecord, manifest: Manifest) -> bool:
        """Claim the folder for this experiment; True if there is a state to go on from.

        Raises:
            UsageError: the folder holds another experiment, or another kind of thing.
            DamagedError: a file of the run is not what was written.
        """
        if not self.about.exists():
            self._claim(pipeline, about, manifest)
            return False
        known = self.read_about()
        if known.identity != about.identity:
            raise UsageError(
                f"holds a run of something else: {_difference(known.parts, about.parts)} differs",
                where=self.path,
                remedy="choose another folder with -o, or remove this one",
            )
        for name in known.files:
            self._check(self.path / name, known.files)
        hints = ("base", "places", "corpora", "init_from")
        moved = known.model_copy(update={name: getattr(about, name) for name in hints})
        if moved != known:
            with suppress(OSError):  # only hints: a run that may only be read keeps the old ones
                io.write_json(self.about, moved.model_dump(mode="json"))
        return self.state.exists()

    def _claim(self, pipeline: Pipeline, about: RunRecord, manifest: Manifest) -> None:
        if self._foreign():
            raise UsageError(
                "is not empty and holds no run", where=self.path, remedy="choose another folder"
            )
        text = yaml.safe_dump(pipeline.model_dump(mode="json"), sort_keys=False)
        contents = {self.config: text.encode(), self.manifest: manifest.to_bytes()}
        listed = {path.name: hashlib.sha256(data).hexdigest() for path, data in contents.items()}
        record = about.model_copy(update={"files": listed})
        try:
            for path, data in contents.items():
                io.write_atomic(path, data)
            io.write_json(self.about, record.model_dump(mode="json"))
        except OSError as error:
            raise UsageError(f"cannot be written: {error}", where=self.path) from error

    def finish(self, summary: RunSummary) -> None:
        """Write the summary, by which the run is finished.

        Raises:
            DamagedError: the weights are not those that were written.
        """
        check_tensors(self.model)
        final = {path.name: io.file_sha256(path) for path in (self.model, self.metrics)}
        io.write_json(self.done, asdict(summary) | {"path": str(self.path), "files": final})

    # --- reading, every checksum compared ---------------------------------------------------------

    def read_about(self) -> RunRecord:
        """What ``run.json`` says.

        Raises:
            UsageError: no run lies here.
            DamagedError: it is not what was written.
        """
        if not self.about.exists():
            raise UsageError("holds no run", where=self.path, remedy="train one with -o")
        return validated(io.read_json(self.about), RunRecord, self.about)

    def pipeline(self) -> Pipeline:
        """The resolved pipeline of this run; raises as :meth:`read_about`."""
        self._check(self.config, self.read_about().files)
        return load(self.config, Pipeline)

    def sentences(self) -> Manifest:
        """The clips it was trained and selected on; raises as :meth:`read_about`."""
        self._check(self.manifest, self.read_about().files)
        return Manifest.read(self.manifest)

    def summary(self) -> RunSummary | None:
        """What training came to; None while it is unfinished.

        Raises:
            DamagedError: ``done.json`` is not what was written.
        """
        return self._done()[0] if self.done.exists() else None

    def weights(self) -> Path:
        """The file of the best weights.

        Raises:
            UsageError: no finished run lies here.
            DamagedError: they are not those that were written.
        """
        self._check(self.model, self._done()[1])
        return self.model

    def weights_sha256(self) -> str:
        """sha256 of the file of the best weights, as it was written; raises as :meth:`weights`."""
        return self._done()[1][self.model.name]

    def read_metrics(self) -> list[MetricsLine]:
        """The lines that were logged; one that a kill cut off is left out.

        Raises:
            DamagedError: they are not what was written.
        """
        if not self.metrics.exists():
            return []
        if self.done.exists():
            self._check(self.metrics, self._done()[1])
        return self._lines(self.metrics.read_bytes())

    def log(self, line: MetricsLine) -> int:
        """Add a line of metrics; the size of the file, in bytes."""
        document = {"stage": line.stage, "step": line.step, **line.values}
        with io.appending(self.metrics) as file:
            file.write(io.to_json(document).encode() + b"\n")
            return file.tell()

    def cut_metrics(self, size: int) -> None:
        """Keep the first ``size`` bytes: the lines after belong to steps to be repeated.

        Raises:
            DamagedError: these are not what was written.
        """
        with io.appending(self.metrics):
            pass
        with self.metrics.open("r+b") as file:
            kept = file.read(size)
            if len(kept) < size or (kept and not kept.endswith(b"\n")):
                self._damaged(self.metrics)
            self._lines(kept)
            file.truncate(size)

    def _lines(self, data: bytes) -> list[MetricsLine]:
        whole = data.split(b"\n")[:-1]
        return [
            _metrics_line(line, f"{self.metrics}, line {number}")
            for number, line in enumerate(whole, start=1)
        ]

    def _done(self) -> tuple[RunSummary, Mapping[str, str]]:
        """The summary, and the checksums of what is final."""
        if not self.done.exists():
            raise UsageError(
                "holds no finished run", where=self.path, remedy="train it first, or to its end"
            )
        document = io.read_json(self.done)
        try:
            return _SUMMARY.validate_python(document), document["files"]
        except (ValidationError, KeyError) as error:
            why = " ".join(str(error).split())
            raise DamagedError(f"is no summary: {why}", where=self.done, remedy=REMEDY) from None

    def _check(self, path: Path, listed: Mapping[str, str]) -> None:
        """Raise DamagedError unless a file is what the run lists."""
        try:
            same = io.file_sha256(path) == listed[path.name]
        except OSError as error:
            why = error.strerror or str(error)
            raise DamagedError(f"cannot be read: {why}", where=path, remedy=REMEDY) from None
        except KeyError:
            same = False
        if not same:
            self._damaged(path)

    @staticmethod
    def _damaged(path: Path) -> NoReturn:
        raise DamagedError("is not what the run wrote", where=path, remedy=REMEDY)

    @property
    def imported(self) -> bool:
        """Whether its first weights came from elsewhere, whole."""
        return self.read_about().imported is not None

    def save_state(self, tensors: Mapping[str, Tensor], place: Mapping[str, Any]) -> None:
        """Make weights, optimiser and place durable as one file: they can never disagree."""
        write_tensors(self.state, tensors, {_PLACE: json.dumps(place)})

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, header = read_tensors(self.state)
        return tensors, json.loads(header[_PLACE])


def _metrics_line(line: bytes, where: str) -> MetricsLine:
    document = io.from_json(line, where, REMEDY)
    known = {key: document.pop(key, None) for key in ("stage", "step")}
    try:
        return _METRICS_LINE.validate_python({**known, "values": document})
    except ValidationError as error:
        raise DamagedError(
            f"is no line of metrics: {first_fault(error)}", where=where, remedy=REMEDY
        ) from None


def identity(parts: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of what makes two runs the same experiment."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Keep other processes out of the folder of a lock file for the block; a kill lets them in.

    On a disk without locks, a lease with a heartbeat takes the lock's place.

    Raises:
        UsageError: another process is there.
    """
    with ExitStack() as stack:
        held = stack.enter_context(_opened(lock))
        try:
            free = _locked(held.fileno())
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            free = stack.enter_context(_leases(lock).hold(lock.name))
        if not free:
            raise UsageError(
                "is in use by another process", where=lock.parent, remedy="wait until it is done"
            )
        yield


def _opened(lock: Path) -> IO[bytes]:
    try:
        return io.appending(lock)
    except PermissionError:
        # Of somebody who shares the folder and not its files: to lock it, reading will do.
        if not os.access(lock.parent, os.W_OK):
            raise
        return lock.open("rb")


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leases(lock: Path) -> Leases:
    return Leases(lock.with_name("claims"))


def _difference(known: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The first part of the identity that two runs do not share, with its dotted key."""
    return _first_difference(known, asked) or "its identity"


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
