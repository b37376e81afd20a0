"""Stores in datasets of the Hugging Face Hub; huggingface_hub itself speaks with the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import DatasetCard
from typing_extensions import Buffer
from werkzeug.wrappers import Request, Response

from spamo_cache.errors import DamagedError, SpamoError, StoreError, UsageError
from spamo_cache.store import card
from spamo_cache.store.addresses import Place
from spamo_cache.store.attributes import Attributes
from spamo_cache.store.copy import copy
from spamo_cache.store.index import FAILED, OK
from spamo_cache.store.inspect import info
from spamo_cache.store.inventory import list_stores
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.remote import RemotePath, location
from spamo_cache.store.roots import locate, pinned
from spamo_cache.store.verify import verify
from spamo_cache.store.writer import StoreWriter
from tests.store.conftest import Material
from tests.support import hub_server
from tests.support.hub_server import HubServer

ROOT = "hf://datasets/lab/features"


def files_of(path: Path) -> dict[str, bytes]:
    found = [file for file in path.rglob("*") if file.is_file()]
    files = {file.relative_to(path).as_posix(): file.read_bytes() for file in found}
    files.pop("origin.json", None)
    return files


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
        ("signed", r"answers with 503(.|\n)*/large/weights'"),
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
    elif case == "signed":
        hub.before = _sign
    elif case == "gone":
        hub.before = _hang_up
    else:
        answer = Response("<html>welcome</html>")
    if answer is not None:
        hub.before = lambda _: answer
    with pytest.raises(StoreError, match=words) as raised:
        FeatureStore.open(store)
    assert "secret" not in str(raised.value)


def _sign(request: Request) -> Response:
    if request.path == "/large/weights":
        return Response("", 503)
    signed = f"{request.host_url}large/weights?X-Amz-Expires=60&X-Amz-Signature=secret"
    return Response(status=302, headers={"Location": signed})


def _hang_up(_: object) -> Response:
    raise ConnectionResetError


def test_the_hub_is_asked_again_after_as_long_as_it_says(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commit = hub.create("lab/features").branches["main"]
    waits: list[float] = []
    monkeypatch.setattr("spamo_cache.store.hub.time.sleep", waits.append)
    answers = [Response("slow down", 429, headers={"Retry-After": "7"}), Response("", 503)]
    # Once in a process, the library asks for another page first.
    hub.before = lambda asked: answers.pop() if answers and "datasets" in asked.path else None
    assert str(pinned(location(ROOT))) == f"{ROOT}@{commit}"
    assert waits == [0.0, 7.0]
    assert f"{ROOT}: the Hub asks to wait 7 seconds" in caplog.messages


def test_a_hub_without_ranges_says_so(sealed: StoreWriter, hub: HubServer) -> None:
    put(hub, sealed.path)
    hub.ranges = False
    store = FeatureStore.open(f"{ROOT}/weather/{sealed.path.name}")
    with pytest.raises(StoreError, match=r"gives no ranges(.|\n)*pull the store"):
        store.read(store.select(state="ok")[:1])


# --- pushing ------------------------------------------------------------------------------------


def stored(hub: HubServer, store: Path) -> dict[str, bytes]:
    """The files of a store in the dataset."""
    start = f"weather/{store.name}/"
    files = hub.repositories["lab/features"].files
    return {name.removeprefix(start): data for name, data in files.items() if start in name}


@pytest.mark.slow
def test_a_push_makes_the_dataset_and_the_same_store_by_few_commits(
    material: Material, sealed: StoreWriter, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spamo_cache.store.upload._COMMIT_PARTITIONS", 2)
    with pytest.raises(StoreError, match="no such dataset"):
        copy(sealed.path, ROOT)
    there = copy(sealed.path, ROOT, create=True, private=True)
    assert there.partitions == {"copied": len(material.partitions)}
    repository = hub.repositories["lab/features"]
    assert repository.private
    assert stored(hub, sealed.path) == files_of(sealed.path)
    own = f"weather/{sealed.path.name}/zarr.json"
    assert [own in files for files in repository.commits.values()] == [
        *[False] * (len(repository.commits) - 1),
        True,
    ]
    for files in repository.commits.values():
        for name in files:
            if "/receipts/" in name and not name.endswith("zarr.json"):
                number = name.rpartition("/")[2].removesuffix(".json")
                assert (
                    name.replace("receipts", "features").replace(f"{number}.json", "")
                    + (f"c.{number}.0")
                    in files
                )
    hub.requests.clear()
    again = copy(sealed.path, ROOT)
    assert (again.partitions, again.bytes) == ({"there": len(material.partitions)}, 0)
    assert not [asked for asked in hub.requests if not asked.startswith(("GET", "HEAD"))]


@pytest.mark.slow
def test_part_of_a_store_on_the_hub_grows(
    sealed: StoreWriter, hub: HubServer, tmp_path: Path
) -> None:
    hub.create("lab/features")
    first = copy(sealed.path, ROOT, splits=["test"]).partitions["copied"]
    store = FeatureStore.open("weather/spatial", roots=[ROOT])
    assert store.select(state="absent") == store.select(split="train")
    assert copy(sealed.path, ROOT).partitions["there"] == first
    assert stored(hub, sealed.path) == files_of(sealed.path)
    assert len(store.select(state="ok")) > 0, "the commit that was opened stays what it was"
    assert store.select(state="absent") == store.select(split="train")


@pytest.mark.slow
def test_two_who_push_at_once_tangle_nothing(
    make: Callable[..., Material], hub: HubServer, tmp_path: Path
) -> None:
    first = make().write(tmp_path / "a").path
    second = make(30, seed=1).write(tmp_path / "b").path
    hub.create("lab/features")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda store: copy(store, ROOT), (first, second, first)))
    assert stored(hub, first) == files_of(first)
    assert stored(hub, second) == files_of(second)
    card = hub.repositories["lab/features"].files["README.md"].decode()
    assert card.count("spamo-cache begin") == 2


@pytest.mark.slow
def test_who_is_overtaken_looks_again_and_goes_on(sealed: StoreWriter, hub: HubServer) -> None:
    repository = hub.create("lab/features")
    times = iter(range(2))

    def overtake(request: Request) -> None:
        if "/commit/" in request.path and next(times, None) is not None:
            repository.change(**{f"by {len(repository.commits)}": b"somebody else"})

    hub.before = overtake
    copy(sealed.path, ROOT)
    assert stored(hub, sealed.path) == files_of(sealed.path)
    assert sum(name.startswith("by ") for name in repository.files) == 2


@pytest.mark.slow
def test_other_features_on_the_hub_are_never_overwritten(
    material: Material, sealed: StoreWriter, hub: HubServer, tmp_path: Path
) -> None:
    hub.create("lab/features")
    copy(sealed.path, ROOT)
    before = stored(hub, sealed.path)
    material.features["手語"] = material.features["手語"] * 2
    other = material.write(tmp_path / "other").path
    with pytest.raises(StoreError, match="holds other features under the same name"):
        copy(other, ROOT)
    assert stored(hub, sealed.path) == before
    # As seen by somebody who looked before the first push.
    del hub.repositories["lab/features"]
    hub.create("lab/features")

    def late(request: Request) -> None:
        if "/commit/" in request.path:
            hub.before = lambda _: None
            copy(sealed.path, ROOT)

    hub.before = late
    with pytest.raises(StoreError, match="holds other features under the same name"):
        copy(other, ROOT)
    assert stored(hub, sealed.path) == before


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("stranger", "does not know this login"),
        ("reader", "refuses: your token may not write here"),
        ("full", "no room for it: Private repository storage limit reached"),
        ("ignored", "did not keep what it was given"),
        ("commit", "nothing can be pushed to a commit"),
        ("card", "metadata of the dataset's card cannot be read"),
    ],
)
def test_what_keeps_a_push_from_the_hub_is_one_clear_error(
    sealed: StoreWriter, hub: HubServer, monkeypatch: pytest.MonkeyPatch, case: str, words: str
) -> None:
    repository, root = hub.create("lab/features"), ROOT
    answers = {
        "reader": (403, "your token may not write here"),
        "full": (403, "Private repository storage limit reached"),
    }
    if case == "stranger":
        monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    elif case in answers:
        refusal = hub_server.refusal(answers[case][0], "", answers[case][1])
        hub.before = lambda request: refusal if request.method == "POST" else None
    elif case == "ignored":
        hub.ignored = True
    elif case == "commit":
        root = f"{ROOT}@{repository.branches['main']}"
    elif case == "card":
        repository.change(**{"README.md": b"---\n- no\n- mapping\n---\nwords"})
    before = repository.files
    with pytest.raises(SpamoError, match=words):
        copy(sealed.path, root)
    assert repository.files.keys() <= before.keys() | {".gitignore"}


def test_only_datasets_are_created(sealed: StoreWriter, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only a dataset of the Hub can be created"):
        copy(sealed.path, tmp_path / "b", create=True)


# --- the card -----------------------------------------------------------------------------------

PLACE = Place("lab/features", None, "shared/weather/spatial-0123456789ab.zarr")
EVIL = "x` <b>| --> ![a](http://b) \x1b[2J\n# head\n---\n``` <!-- spamo-cache end: "


def about(**changes: object) -> Attributes:
    values: dict[str, object] = {
        "format": 2,
        "corpus": "weather",
        "stream": "spatial",
        "fingerprint": "ab" * 32,
        "spec": {"encoder": "open_clip", "scales": [1, 2]},
        "weights": "openai",
        "weights_sha256": "cd" * 32,
        "semantics": 1,
        "corpus_sha256": "ef" * 32,
        "clips": 8257,
        "partitions": 4,
        "width": 12,
        "dtype": "float16",
        "chunk_rows": 4,
        "shard_rows": 64,
        "terms": "research only, see https://lab.example/terms.",
        "created": "2026-01-01T00:00:00+00:00",
        "created_by": "somebody",
    }
    return Attributes.model_validate(values | changes)


def test_the_hub_reads_the_card_as_it_is_meant() -> None:
    columns: dict[str, np.ndarray] = {
        "id": np.zeros((3, 1), np.uint8),
        "split": np.array([0, 1, 1], np.int16),
        "state": np.array([OK, OK, FAILED], np.uint8),
        "rows": np.array([5, 7, 9], np.int32),
    }
    block = card.block(PLACE, about(), columns, ("test", "train"))
    text = card.updated("", PLACE, about(), block, ["de"])
    read = DatasetCard(text)
    known = read.data.to_dict()  # type: ignore[no-untyped-call]
    assert known["language"] == ["de"]
    assert known["license"] == "other"
    assert known["license_link"] == "https://lab.example/terms"
    assert known["size_categories"] == ["1K<n<10K"]
    assert {"sign-language", "weather"} <= set(known["tags"])
    for words in (
        "| fingerprint | " + "ab" * 32,
        "| weights | openai",
        "cd" * 32,
        "| test | 1 | 0 | 1 | 0 | 5 |",
        "| train | 2 | 0 | 1 | 1 | 7 |",
        '--from "hf://datasets/lab/features/shared"',
        "@inproceedings{hwang2025spamo",
    ):
        assert words in read.text, words
    assert card.updated(text, PLACE, about(), block, ["de"]) == text


def test_the_words_of_others_stay_in_the_card() -> None:
    mine = "---\nlicense: mit # ours\ntags: [dgs]\n---\n# Our features\r\n\nWords.\n"
    text = card.updated(mine, PLACE, about(), "first", ["de"])
    known = DatasetCard(text).data.to_dict()  # type: ignore[no-untyped-call]
    assert known["license"] == "mit"
    assert known["tags"][0] == "dgs"
    text += "More words.\n"
    other = PLACE._replace(path="weather/motion-0123456789ab.zarr")
    both = card.updated(text, other, about(), "of motion", ["de"])
    changed = card.updated(both, PLACE, about(), "second", ["de"])
    assert changed == both.replace("\nfirst\n", "\nsecond\n")
    assert "# Our features\r\n\nWords.\n" in changed
    assert "More words.\n" in changed
    torn = text.replace("spamo-cache end", "lost")
    assert card.updated(torn, PLACE, about(), "second", ["de"]).startswith(torn)


def test_nothing_of_a_stranger_breaks_out_of_the_card() -> None:
    evil = about(weights=EVIL, terms=EVIL, created_by=EVIL, spec={EVIL: [EVIL]})
    columns: dict[str, np.ndarray] = {
        name: np.zeros(1, int) for name in ("id", "split", "state", "rows")
    }
    block = card.block(PLACE, evil, columns, (EVIL,))
    text = card.updated("", PLACE, evil, block, [])
    assert DatasetCard(text).data.to_dict().keys() == (  # type: ignore[no-untyped-call]
        DatasetCard(card.updated("", PLACE, about(), "", []))
        .data.to_dict()  # type: ignore[no-untyped-call]
        .keys()
        - {"license_link"}
    )
    assert text.count("-->") == text.count("<!--") == 2
    assert text.count("```") == 8
    assert "\x1b" not in text
    assert not {"<b>", "](", "# head"} & set(text.split())
    assert len([line for line in text.splitlines() if line.startswith("#")]) == 1


# --- verifying, and where a copy is from ----------------------------------------------------------


@pytest.mark.slow
def test_a_store_on_the_hub_is_verified_by_what_the_hub_lists(
    sealed: StoreWriter, hub: HubServer
) -> None:
    put(hub, sealed.path)
    store = locate(f"{ROOT}/weather/{sealed.path.name}")
    hub.requests.clear()
    found = verify(store)
    assert found.sound
    assert found.clips["absent"] == 0
    assert not any("features/c." in asked for asked in hub.requests)
    assert verify(store, deep=True).sound
    shard = bytearray((sealed.path / "features" / "c.0.0").read_bytes())
    shard[5] ^= 1
    name = f"weather/{sealed.path.name}/features/c.0.0"
    hub.repositories["lab/features"].change(**{name: bytes(shard)})
    found = verify(locate(f"{ROOT}/weather/{sealed.path.name}"))
    assert list(found.partitions) == [0]
    assert "disagrees with its receipt" in found.partitions[0]
    assert found.damaged


def test_a_shard_without_end_is_not_read_to_its_end(
    sealed: StoreWriter, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, sealed.path)
    blocks = RemotePath.blocks

    def longer(file: RemotePath, limit: int) -> Iterator[Buffer]:
        yield from blocks(file, limit)
        yield from [b"x"] * (2 if file.parent.name == "features" else 0)

    monkeypatch.setattr(RemotePath, "blocks", longer)
    found = verify(locate(f"{ROOT}/weather/{sealed.path.name}"), deep=True)
    assert "sends more than the" in found.partitions[0]


def test_a_pulled_store_knows_the_commit_that_it_is_from(
    sealed: StoreWriter, hub: HubServer, tmp_path: Path
) -> None:
    put(hub, sealed.path)
    store = locate(f"{ROOT}/weather/{sealed.path.name}")
    commit = hub.repositories["lab/features"].branches["main"]
    pulled = copy(store, tmp_path / "b").path
    assert info(pulled)["origin"] == str(store)
    assert f"@{commit}/" in str(store)
    assert isinstance(pulled, Path)
    assert verify(pulled).sound
    (pulled / "origin.json").write_bytes(b'{"address": "\\x1b"}')
    assert info(pulled)["origin"] is None
    assert info(sealed.path)["origin"] is None
