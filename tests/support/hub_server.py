"""A Hugging Face Hub on this machine: what huggingface_hub speaks with it about datasets.

Written from the client's own requests. Repositories are kept in memory, commits with their parents,
large files apart by their SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from werkzeug.wrappers import Request, Response

TOKEN = "hf_tests"  # noqa: S105 (a server of the tests)
PAGE = 1000
_LARGE = 512
"""Bytes of a file that is kept as a large one; the Hub's limit is 10 MB."""

Answer = Callable[[Request], Response | None]


@dataclass
class Repository:
    """A dataset, and what its commits hold."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit -> path -> contents, oldest first."""
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        """Of the branch ``main``."""
        return self.commits[self.branches["main"]]

    def add(self, files: dict[str, bytes], branch: str = "main", message: str = "initial") -> str:
        parent = self.branches.get(branch, "")
        text = f"{parent}{sorted((n, hashlib.sha1(d).hexdigest()) for n, d in files.items())}"  # noqa: S324
        commit = hashlib.sha1(text.encode() + bytes(len(self.commits))).hexdigest()  # noqa: S324
        self.commits[commit] = files
        self.branches[branch] = commit
        self.messages.append(message)
        return commit

    def change(self, **files: bytes) -> None:
        """A commit by somebody else."""
        self.add(self.files | files)


class HubServer:
    """The application, its repositories, and what goes wrong.

    Attributes:
        before: asked before every request; what it returns is the answer, ConnectionResetError
            hangs up.
        requests: ``METHOD /path`` as they came.
        received: SHA-256 of every large file that was sent.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.models: set[str] = set()
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.received: list[str] = []
        self.before: Answer = lambda _: None
        self.ranges, self.ignored = True, False
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        with self._lock:
            self.requests.append(f"{request.method} {request.path}")
        try:
            answer = self.before(request) or self._answer(request)
        except ConnectionResetError:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise
        return answer(environ, start)

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def create(self, name: str, *, private: bool = False, gated: bool = False) -> Repository:
        found = self.repositories[name] = Repository(private, gated)
        found.add({".gitattributes": b"*.bin filter=lfs diff=lfs merge=lfs -text\n"})
        return found

    def _answer(self, request: Request) -> Response:  # noqa: PLR0911 (one for each page)
        parts = [unquote(part) for part in _raw_path(request).strip("/").split("/")]
        match parts:
            case ["api", "repos", "create"]:
                return self._create(request)
            case ["api", "validate-yaml"]:
                return _json({"errors": [], "warnings": []})
            case ["api", "models", owner, name] if f"{owner}/{name}" in self.models:
                return _json({"id": f"{owner}/{name}", "sha": "0" * 40, "siblings": []})
            case ["api", "datasets", owner, name, *rest]:
                return self._api(request, f"{owner}/{name}", rest)
            case ["datasets", owner, name, "info", "lfs", "objects", "batch"]:
                return self._batch(request, f"{owner}/{name.removesuffix('.git')}")
            case ["datasets", owner, name, "resolve", revision, *path]:
                return self._resolve(request, f"{owner}/{name}", revision, "/".join(path))
            case ["large", digest]:
                return self._large(request, digest)
            case ["verify"]:
                wanted = request.get_json()
                there = len(self.large.get(wanted["oid"], b"")) == wanted["size"]
                return _json({}, 200 if there else 404)
        return refusal(404, "RepoNotFound", "Repository not found")

    # --- repositories ---------------------------------------------------------------------------

    def _create(self, request: Request) -> Response:
        if not _logged_in(request):
            return refusal(401, "", "Invalid username or password.")
        asked = request.get_json()
        name = f"{asked['organization']}/{asked['name']}"
        assert asked["type"] == "dataset"
        with self._lock:
            known = name in self.repositories
            if not known:
                self.create(name, private=asked.get("visibility") == "private")
        url = f"{request.host_url}datasets/{name}"
        return _json({"url": url, "name": name}, 409 if known else 200)

    def _repository(self, request: Request, name: str) -> Repository | Response:
        found = self.repositories.get(name)
        if found is None or (found.private and not _logged_in(request)):
            status = 404 if _logged_in(request) else 401
            return refusal(status, "RepoNotFound", "Repository not found")
        return found

    def _commit_of(self, repository: Repository, revision: str) -> str | None:
        found = repository.branches.get(revision, revision)
        return found if found in repository.commits else None

    def _api(self, request: Request, name: str, rest: list[str]) -> Response:  # noqa: PLR0911
        repository = self._repository(request, name)
        if isinstance(repository, Response):
            return repository
        revision = rest[1] if len(rest) > 1 else "main"
        commit = self._commit_of(repository, revision)
        if commit is None:
            return refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        match rest:
            case [] | ["revision", _]:
                return _json({"id": name, "sha": commit, "private": repository.private})
            case ["tree", _, *path]:
                return self._tree(request, repository.commits[commit], "/".join(path))
            case ["preupload", _]:
                return self._preupload(request, repository.commits[commit])
            case ["commit", _]:
                return self._commit(request, name, revision)
        return refusal(404, "EntryNotFound", "no such page")

    def _tree(self, request: Request, files: Mapping[str, bytes], folder: str) -> Response:
        start = f"{folder}/" if folder else ""
        inside = {
            path[len(start) :]: data for path, data in files.items() if path.startswith(start)
        }
        if not inside and folder:
            return refusal(404, "EntryNotFound", f"{folder} does not exist")
        deep = request.args.get("recursive") == "true"
        listed: dict[str, dict[str, Any]] = {}
        for name, data in sorted(inside.items()):
            parents = name.split("/")[:-1]
            for depth in range(1, len(parents) + 1 if deep else min(len(parents), 1) + 1):
                above = start + "/".join(parents[:depth])
                listed[above] = {"type": "directory", "path": above, "oid": "0" * 40, "size": 0}
            if deep or not parents:
                listed[start + name] = _entry(start + name, data)
        items, first = list(listed.values()), int(request.args.get("cursor", 0))
        answer = _json(items[first : first + PAGE])
        if first + PAGE < len(items):
            query = f"recursive={str(deep).lower()}&expand=false&cursor={first + PAGE}"
            url = f"{request.host_url.rstrip('/')}{_raw_path(request)}?{query}"
            answer.headers["Link"] = f'<{url}>; rel="next"'
        return answer

    # --- writing --------------------------------------------------------------------------------

    def _preupload(self, request: Request, files: Mapping[str, bytes]) -> Response:
        if not _logged_in(request):
            return refusal(401, "", "Invalid credentials in Authorization header")
        told = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] > _LARGE else "regular",
                "shouldIgnore": self.ignored,
                "oid": _oid(files[file["path"]]) if file["path"] in files else None,
            }
            for file in request.get_json()["files"]
        ]
        return _json({"files": told})

    def _batch(self, request: Request, name: str) -> Response:
        objects = []
        for wanted in request.get_json()["objects"]:
            one = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.large:
                href = f"{request.host_url}large/{wanted['oid']}"
                verify = {"href": f"{request.host_url}verify"}
                one["actions"] = {"upload": {"href": href}, "verify": verify}
            objects.append(one)
        assert name in self.repositories
        return _json({"transfer": "basic", "objects": objects})

    def _large(self, request: Request, digest: str) -> Response:
        if request.method == "PUT":
            data = request.get_data()
            if hashlib.sha256(data).hexdigest() != digest:
                return refusal(400, "", "other contents")
            self.large[digest] = data
            self.received.append(digest)
            return Response(status=200)
        return self._bytes(request, self.large[digest], digest)

    def _commit(self, request: Request, name: str, branch: str) -> Response:
        if not _logged_in(request):
            return refusal(401, "", "Invalid username or password.")
        lines = [json.loads(line) for line in request.get_data().splitlines()]
        header = lines[0]["value"]
        with self._lock:
            repository = self.repositories[name]
            if (
                header.get("parentCommit", repository.branches[branch])
                != (repository.branches[branch])
            ):
                return refusal(
                    412, "", "A commit has happened since. Please refresh and try again."
                )
            files = dict(repository.commits[repository.branches[branch]])
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.large[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            commit = repository.add(files, branch, header["summary"])
        url = f"{request.host_url}datasets/{name}/commit/{commit}"
        return _json({"commitUrl": url, "commitOid": commit, "pullRequestUrl": None})

    # --- reading --------------------------------------------------------------------------------

    def _resolve(self, request: Request, name: str, revision: str, path: str) -> Response:
        repository = self._repository(request, name)
        if isinstance(repository, Response):
            return repository
        if repository.gated:
            return refusal(403, "GatedRepo", "Access to this dataset is restricted.")
        commit = self._commit_of(repository, revision)
        if commit is None:
            return refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        data = repository.commits[commit].get(path)
        if data is None:
            return refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit}
        if len(data) > _LARGE:
            digest = _oid(data)
            self.large[digest] = data
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{digest}"'}
            # Another host, as the Hub's: the client takes what is told of a file from its own.
            elsewhere = request.host_url.replace("127.0.0.1", "localhost")
            headers["Location"] = f"{elsewhere}large/{digest}"
            return Response(status=302, headers=headers)
        return self._bytes(request, data, _oid(data), headers)

    def _bytes(
        self, request: Request, data: bytes, tag: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        answer = Response(data, headers=dict(headers or {}), mimetype="application/octet-stream")
        answer.set_etag(tag)
        if self.ranges:
            answer.make_conditional(request, accept_ranges=True, complete_length=len(data))
        return answer


def _raw_path(request: Request) -> str:
    """Undecoded: a folder of a tree is one part, with its slashes as ``%2F``."""
    return str(request.environ.get("RAW_URI", request.path)).partition("?")[0]


def _logged_in(request: Request) -> bool:
    return request.headers.get("Authorization") == f"Bearer {TOKEN}"


def _oid(data: bytes) -> str:
    if len(data) > _LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}
    if len(data) > _LARGE:
        entry["oid"] = "1" * 40
        entry["lfs"] = {"oid": _oid(data), "size": len(data), "pointerSize": 134}
    return entry


def _json(document: object, status: int = 200) -> Response:
    return Response(json.dumps(document), status, mimetype="application/json")


def refusal(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    told = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    answer = _json({"error": message}, status)
    answer.headers.extend(told | dict(headers or {}))
    return answer
