"""What every test gets: one thread, no network, a home of its own; for those that ask, servers, a
tiny corpus with its networks, and one real run made from it."""

import csv
import gc
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from spamo_cache import io
from tests.support.hub_server import TOKEN, HubServer
from tests.support.launcher import Launch, launcher

# Before any library reads them: the suite shares its cores, and equal bytes want equal threads.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["NO_PROXY"] = "127.0.0.1"


_SYNCS: dict[str, Callable[..., None]] = {"sync": io.sync, "sync_tree": io.sync_tree}
_modules = 0


def pytest_runtest_teardown() -> None:
    """Libraries and tests stay: a full collection that goes through them takes a second."""
    global _modules  # noqa: PLW0603
    if len(sys.modules) > _modules + 50:
        _modules = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _home_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing the user keeps is read or written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPAMO_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("SPAMO_CACHE", raising=False)
        patch.delenv("SPAMO_TRACEBACK", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_disk() -> Iterator[None]:
    """No test cuts the power: waiting for the disk would be much of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        for name in _SYNCS:
            patch.setattr(io, name, lambda _: None)
        yield


@pytest.fixture
def real_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the order in which things become durable."""
    for name, real in _SYNCS.items():
        monkeypatch.setattr(io, name, real)


@pytest.fixture(scope="session")
def launch() -> Iterator[Launch]:
    """Start ``python -m module`` as a process of its own, cheaply: see :mod:`support.launcher`."""
    with launcher() as start:
        yield start


@pytest.fixture
def quick_python(launch: Launch) -> Iterator[None]:
    """Interpreters that the test starts, and multiprocessing by ``spawn``, are as cheap."""
    with launch.as_python():
        yield


@pytest.fixture(scope="module", autouse=True)
def _networks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Networks are built once for equal files, except where building them is what is tested."""
    if request.path.parent.name in {"encoders", "golden"}:
        yield
        return
    from spamo_cache.encoders import registry
    from tests.support import networks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "build", networks.build)
        yield


# --- servers on this machine --------------------------------------------------------------------

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class Server:
    """A running server and what it was asked."""

    root: str
    """The root of stores that it serves."""
    requests: list[str] = field(default_factory=list)
    """``GET /path?query``, in order."""


@contextmanager
def _running(application: Application) -> Iterator[Server]:
    from werkzeug.serving import make_server

    def noted(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        asked = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        found.requests.append(asked)
        return application(environ, start)

    server = make_server("127.0.0.1", 0, noted, threaded=True)
    found = Server(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def _s3() -> Iterator[Server]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    started = _running(DomainDispatcherApplication(create_backend_app))
    with started as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.root)
        patch.setenv("AWS_ACCESS_KEY_ID", "tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
        patch.setenv("AWS_REGION", "us-east-1")
        yield server


@pytest.fixture
def s3(_s3: Server, number: Iterator[int] = count()) -> Server:  # noqa: B008 (one count for all)
    """An S3-compatible server, with an empty bucket for the test."""
    bucket = f"lab{next(number)}"
    connection = HTTPConnection(_s3.root.removeprefix("http://"))
    connection.request("PUT", f"/{bucket}")
    assert connection.getresponse().status == 200
    connection.close()
    _s3.requests.clear()
    return Server(f"s3://{bucket}/shared features", _s3.requests)


@pytest.fixture(scope="session")
def _hub() -> Iterator[tuple[HubServer, str]]:
    hub = HubServer()
    with _running(hub) as server:
        yield hub, server.root


@pytest.fixture
def hub(_hub: tuple[HubServer, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """An empty Hugging Face Hub on this machine, and somebody who is logged in there.

    huggingface_hub is the real one: it reads the variables that are set here when it is imported,
    which was long ago.
    """
    from huggingface_hub import constants

    server, address = _hub
    server.clear()
    for name, value in {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_HUB_CACHE": str(tmp_path / "hub cache"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("spamo_cache.store.hub._PAUSES", (0.0, 0.0))
    return server


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Serve a folder by HTTP, with ranges and pages that list folders unless told otherwise."""
    with ExitStack() as stack:

        def start(folder: Path, *, ranges: bool = True, pages: bool = True) -> Server:
            return stack.enter_context(_running(_files(folder, ranges, pages)))

        yield start


def _files(folder: Path, ranges: bool, pages: bool) -> Application:
    from werkzeug.exceptions import HTTPException
    from werkzeug.utils import send_from_directory
    from werkzeug.wrappers import Response

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        name = environ["PATH_INFO"].strip("/").encode("latin-1").decode()
        if not ranges:
            environ.pop("HTTP_RANGE", None)
        try:
            if (folder / name).is_dir() and pages:
                inside = "".join(
                    f'<a href="{path.name}/">{path.name}</a>' if path.is_dir() else path.name
                    for path in [folder / "..", *sorted((folder / name).iterdir())]
                )
                return Response(inside, mimetype="text/html")(environ, start)
            response = send_from_directory(folder, name, environ)
            # Read here: a client that hangs up leaves the file open otherwise.
            response.direct_passthrough = False
            response.get_data()
            response.close()
            return response(environ, start)
        except HTTPException as error:
            return error(environ, start)

    return answer


# --- a tiny corpus and a run --------------------------------------------------------------------

_GOLDEN = Path(__file__).parent / "golden"
_SPLITS = {"train": 6, "dev": 2, "test": 2}
_SPEC = """\
name: tiny
streams:
  spatial: {encoder: open_clip, weights: clip-vision, scales: [1]}
  motion: {encoder: videomae, weights: videomae}
store: {chunk_rows: {frame: 8, window: 2}, shard_rows: {frame: 64, window: 16}}
"""
_PIPELINE = """\
name: tiny
question: Do the stages fit together?
corpus: frames
spec: spec.yaml
text: {language: German, tokenize: none}
adapter: {width: 8}
llm: {weights: llm, tuning: {r: 2, alpha: 4}}
align: {steps: 2, batch: 2, lr: 1e-3}
translate: {steps: 3, batch: 2, lr: 1e-3, eval_every: 3}
decode: {beams: 2, max_tokens: 6}
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus and networks, made once."""
    import cv2
    import numpy as np

    folder = tmp_path_factory.mktemp("lab")
    rng = np.random.default_rng(0)
    rows = []
    for split, clips in _SPLITS.items():
        for number in range(clips):
            name = f"{split}-{number}"
            frames = folder / "frames" / name
            frames.mkdir(parents=True)
            for index in range(9 + 4 * number):
                picture = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
                assert cv2.imwrite(str(frames / f"{index:04}.png"), picture)
            rows.append([name, split, f"frames/{name}", f"wort {number} im satz", "German"])
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "split", "source", "text", "language"], *rows])
    for network in ("clip-vision", "videomae"):
        shutil.copytree(_GOLDEN / "encoders" / network, folder / network)
    shutil.copytree(_GOLDEN / "translator" / "llm", folder / "llm")
    (folder / "spec.yaml").write_text(_SPEC, encoding="utf-8")
    (folder / "pipeline.yaml").write_text(_PIPELINE, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Tiny:
    """A corpus that was extracted, and a run that was trained, tested and analysed on it."""

    folder: Path
    """Corpus, networks, spec and pipeline; ``features`` and ``runs/tiny`` lie in it."""
    stores: dict[str, Path]
    clip: str
    """The one whose translation was attributed to its frames."""

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "tiny"

    @property
    def roots(self) -> list[str]:
        return [str(self.folder / "features")]


@pytest.fixture(scope="session")
def tiny(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """One real run, which tests only read or copy."""
    from spamo_cache import config
    from spamo_cache.analysis import analyze, attribution_docs
    from spamo_cache.datasets.manifest import Manifest
    from spamo_cache.evaluate import evaluate
    from spamo_cache.extract.extraction import extract
    from spamo_cache.store.reader import FeatureStore
    from spamo_cache.train import train

    folder = tmp_path_factory.mktemp("tiny") / "lab"
    shutil.copytree(made, folder)
    manifest = Manifest.read(folder / "manifest.csv", corpus="frames")
    spec = config.load(folder / "spec.yaml", config.CacheSpec)
    done = extract(
        manifest, folder, spec, folder, store_root=folder / "features", executor="serial",
        device="cpu",
    )  # fmt: skip
    stores = {name: Path(str(path)) for name, path in done.stores.items()}
    found = Tiny(folder, stores, "test-1")
    train(
        config.load(folder / "pipeline.yaml", config.Pipeline, ["log=[]"]),
        base=folder,
        manifest=manifest,
        stores={name: FeatureStore.open(path) for name, path in stores.items()},
        out=found.run,
        device="cpu",
    )
    opened = {name: FeatureStore.open(path) for name, path in stores.items()}
    evaluate(found.run, "test", stores=opened, device="cpu")
    analyze(found.run, "test", stores=opened, device="cpu")
    attribution_docs.attribute(
        found.run, [found.clip], stores=opened, film=lambda _: [(0, b"\xff\xd8 a picture")],
        device="cpu",
    )  # fmt: skip
    return found
