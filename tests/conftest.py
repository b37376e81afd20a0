"""What every test gets: one thread, no network, a home of its own; servers for those that ask."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any

import pytest

# Before any library reads them: the suite shares its cores, and equal bytes want equal threads.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["NO_PROXY"] = "127.0.0.1"


@pytest.fixture(scope="session", autouse=True)
def _home_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing the user keeps is read or written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPAMO_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("SPAMO_CACHE", raising=False)
        patch.delenv("SPAMO_TRACEBACK", raising=False)
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
    from moto.server import DomainDispatcherApplication, create_backend_app

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
            return send_from_directory(folder, name, environ)(environ, start)
        except HTTPException as error:
            return error(environ, start)

    return answer
