"""Stores in datasets of the Hugging Face Hub; huggingface_hub itself speaks with the server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from werkzeug.wrappers import Response

from spamo_cache.errors import DamagedError, StoreError, UsageError
from spamo_cache.store.copy import copy
from spamo_cache.store.inventory import list_stores
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.remote import location
from spamo_cache.store.roots import locate, pinned
from spamo_cache.store.verify import verify
from spamo_cache.store.writer import StoreWriter
from tests.store.conftest import Material
from tests.support import hub_server
from tests.support.hub_server import HubServer

ROOT = "hf://datasets/lab/features"


def files_of(path: Path) -> dict[str, bytes]:
    found = [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in found}


def put(hub: HubServer, store: Path, prefix: str = "") -> None:
    """A commit with all the files of a store."""
    repository = hub.repositories.get("lab/features") or hub.create("lab/features")
    inside = f"{prefix}weather/{store.name}"
    repository.change(**{f"{inside}/{name}": data for name, data in files_of(store).items()})


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("hf://datasets/lab/features", True),
        ("hf://datasets/lab/features/", True),
        ("hf://datasets/lab/features@v1/shared features/weather", True),
        ("hf://datasets/lab/features@refs/pr/3", True),
        ("hf://datasets/lab/features@a%2Fb/x", True),
        ("hf://lab/model", False),
        ("hf://models/lab/model", False),
        ("hf://buckets/lab/bucket", False),
        ("hf://datasets/features", False),
        ("hf://datasets/lab/features/../other", False),
        ("hf://datasets/../features", False),
        ("hf://datasets/lab/features@/x", False),
        ("hf://datasets/lab/fea\x1btures", False),
        ("hf://datasets/lab/features?x", False),
        ("hf://datasets/lab/features/a//b", False),
    ],
)
def test_addresses_of_datasets(text: str, good: bool) -> None:
    if good:
        assert str(location(text)) == text.rstrip("/")
    else:
        with pytest.raises(UsageError, match="no root can lie there"):
            location(text)


@pytest.mark.slow
def test_a_store_is_listed_read_and_pulled(
    material: Material, sealed: StoreWriter, hub: HubServer, tmp_path: Path
) -> None:
    put(hub, sealed.path, "shared/")
    commit = hub.repositories["lab/features"].branches["main"]
    (entry,) = list_stores([f"{ROOT}/shared"])
    assert (entry.damaged, entry.states["ok"]) == (None, len(material.keys) - 2)
    assert entry.bytes == sum(map(len, files_of(sealed.path).values()))
    store = FeatureStore.open("weather/spatial", roots=[f"{ROOT}/shared"])
    assert str(store.path) == f"{ROOT}@{commit}/shared/weather/{sealed.path.name}"
    hub.requests.clear()
    ids = store.select(state="ok")
    for clip, rows in zip(ids, store.read(ids), strict=True):
        np.testing.assert_array_equal(rows, material.features[clip])
    assert sum("resolve" in asked for asked in hub.requests) == len(material.partitions)
    here = copy(store.path, tmp_path / "b", splits=["test"])
    assert 0 < here.partitions["copied"] < len(material.partitions)
    here = copy(locate(f"{ROOT}/shared/weather/{sealed.path.name}"), tmp_path / "b")
    assert here.partitions["there"] > 0
    assert isinstance(here.path, Path)
    assert verify(here.path, deep=True).sound
    assert files_of(here.path) == files_of(sealed.path)


def test_a_folder_of_many_pages_is_listed_whole(
    sealed: StoreWriter, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_server, "PAGE", 3)
    put(hub, sealed.path)
    assert FeatureStore.open(f"{ROOT}/weather/{sealed.path.name}").counts()["absent"] == 0
    assert sum("/tree/" in asked for asked in hub.requests) > 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (b"x" * (1 << 21), "larger than the 1048576 bytes"),
        (b"[" * 1000, "not the JSON it was"),
        (b'{"attributes":{"spamo_cache":[]}}', "no group of a feature store"),
        (b"\xff\x1b]0;title\x07", "not the JSON it was"),
    ],
)
def test_a_store_of_a_stranger_is_refused(hub: HubServer, change: bytes, words: str) -> None:
    name = "weather/spatial-0123456789ab.zarr"
    hub.create("lab/features").change(**{f"{name}/zarr.json": change})
    with pytest.raises(DamagedError, match=words):
        FeatureStore.open(f"{ROOT}/{name}")
    assert not any("zarr.json" in asked for asked in hub.requests) or len(change) < 1 << 20


def test_names_of_a_stranger_lead_nowhere(sealed: StoreWriter, hub: HubServer) -> None:
    put(hub, sealed.path)
    hub.repositories["lab/features"].change(
        **{
            f"../weather/{sealed.path.name}/zarr.json": b"{}",
            f"we\x1b[2Jather/{sealed.path.name}/zarr.json": b"{}",
            f"weather/../{sealed.path.name}/zarr.json": b"{}",
            f"weather/{sealed.path.name}/../../zarr.json": b"{}",
            "weather/\x1b]0;mine\x07-0123456789ab.zarr/zarr.json": b"{}",
        }
    )
    (entry,) = list_stores([ROOT])
    assert entry.damaged is None


@pytest.mark.slow
def test_other_bytes_than_the_receipt_has_are_not_pulled(
    sealed: StoreWriter, hub: HubServer, tmp_path: Path
) -> None:
    put(hub, sealed.path)
    name = f"weather/{sealed.path.name}"
    shard = bytearray((sealed.path / "features" / "c.0.0").read_bytes())
    shard[5] ^= 1
    hub.repositories["lab/features"].change(**{f"{name}/features/c.0.0": bytes(shard)})
    with pytest.raises(DamagedError, match="disagrees with its receipt"):
        copy(locate(f"{ROOT}/{name}"), tmp_path / "b")
    hub.repositories["lab/features"].change(**{f"{name}/features/c.0.0": bytes(shard) * 2})
    hub.requests.clear()
    with pytest.raises(DamagedError, match="is larger than"):
        copy(locate(f"{ROOT}/{name}"), tmp_path / "b")
    assert not any("features/c.0.0" in asked for asked in hub.requests)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing", "no such dataset, or none that you may see"),
        ("stranger", "or it is private and you are not logged in"),
        ("model", "is a model, and only datasets hold stores"),
        ("revision", "no such revision"),
        ("gated", "the dataset is gated"),
        ("offline", "HF_HUB_OFFLINE is set"),
        ("busy", "no more requests for now(.|\n)*in 0 seconds"),
        ("years", "no more requests for now(.|\n)*in 99999999 seconds"),
        ("down", "answers with 503"),
        ("gone", "does not answer as it should"),
        ("page", "does not answer as it should"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_error(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, case: str, words: str
) -> None:
    store, answer = f"{ROOT}/weather/spatial-0123456789ab.zarr", None
    hub.create("lab/features").change(**{f"{store.removeprefix(ROOT)[1:]}/zarr.json": b"{}"})
    if case in {"missing", "model"}:
        del hub.repositories["lab/features"]
        hub.models |= {"lab/features"} if case == "model" else set()
    elif case == "stranger":
        hub.repositories["lab/features"].private = True
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere")
    elif case == "revision":
        store = store.replace(ROOT, f"{ROOT}@v7")
    elif case == "gated":
        hub.repositories["lab/features"].gated = True
    elif case == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    elif case in {"busy", "years"}:
        wait = "0" if case == "busy" else "99999999"
        answer = Response("slow down", 429, headers={"Retry-After": wait})
    elif case == "down":
        answer = Response("\x1b[2J", 503)
    elif case == "gone":
        hub.before = _hang_up
    else:
        answer = Response("<html>welcome</html>")
    if answer is not None:
        hub.before = lambda _: answer
    with pytest.raises(StoreError, match=words):
        FeatureStore.open(store)


def _hang_up(_: object) -> Response:
    raise ConnectionResetError


def test_the_hub_is_asked_again_after_as_long_as_it_says(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.create("lab/features").branches["main"]
    waits: list[float] = []
    monkeypatch.setattr("spamo_cache.store.hub.time.sleep", waits.append)
    answers = [Response("slow down", 429, headers={"Retry-After": "7"}), Response("", 503)]
    hub.before = lambda _: answers.pop() if answers else None
    assert str(pinned(location(ROOT))) == f"{ROOT}@{commit}"
    assert waits == [0.0, 7.0]


def test_a_hub_without_ranges_says_so(sealed: StoreWriter, hub: HubServer) -> None:
    put(hub, sealed.path)
    hub.ranges = False
    store = FeatureStore.open(f"{ROOT}/weather/{sealed.path.name}")
    with pytest.raises(StoreError, match=r"gives no ranges(.|\n)*pull the store"):
        store.read(store.select(state="ok")[:1])
