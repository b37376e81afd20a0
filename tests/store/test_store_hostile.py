"""Valid documents changed in every way: one clear error, whatever a stranger wrote."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spamo_cache.errors import StoreError
from spamo_cache.store.inspect import info
from spamo_cache.store.inventory import list_stores
from spamo_cache.store.layout import canonical, sha256
from spamo_cache.store.reader import FeatureStore
from spamo_cache.store.receipts import receipt_path, shard_path
from spamo_cache.store.verify import verify
from spamo_cache.store.writer import StoreWriter

VALUES: list[Any] = [
    None, True, -1, 0, 1, 3, 2**31, 2**60, 10**400, 0.5, 1e308, "", "x", "../../etc/passwd",
    "/etc/passwd", "\0", "\ud800", "float64", "int8", "object", [], [[]], {}, {"a": {}}, [0] * 5,
    [2**40, 2**40], [-1], "0" * 64, "f" * 64,
]  # fmt: skip


def paths(document: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of a document stands."""
    yield above
    if isinstance(document, dict | list):
        keys = document if isinstance(document, dict) else range(len(document))
        for key in keys:
            yield from paths(document[key], (*above, key))


def mutated(document: Any, random: np.random.Generator) -> Any:
    """The document with one value replaced, removed, added or moved."""
    changed = copy.deepcopy(document)
    every = [path for path in paths(changed) if path]
    *above, last = every[random.integers(len(every))]
    inside = changed
    for key in above:
        inside = inside[key]
    kind = random.integers(6)
    if kind == 0:
        del inside[last]
    elif kind == 1 and isinstance(inside, dict):
        inside[f"{last}x"] = inside.pop(last)
    elif kind == 2 and isinstance(inside[last], int):
        inside[last] += int(random.integers(-2, 3))
    else:
        inside[last] = VALUES[random.integers(len(VALUES))]
    return changed


def sealed_again(document: Any) -> Any:
    """With its checksum made right, as somebody would who knows how."""
    if isinstance(document, dict) and "sha256" in document:
        rest = {key: value for key, value in document.items() if key != "sha256"}
        return {**rest, "sha256": sha256(canonical(rest))}
    return document


def read_and_verify(path: Path) -> None:
    """Whatever there is, nothing but a StoreError comes of it."""
    with suppress(StoreError):
        store = FeatureStore.open(path)
        for clip in store.select(state="ok"):
            with suppress(StoreError):
                store.read([clip])
    with suppress(StoreError):
        verify(path, deep=True)


def only_clear_errors(path: Path) -> None:
    """The same for who would write to it."""
    read_and_verify(path)
    with suppress(StoreError):
        StoreWriter.at(path).commit_index()


def changed_attributes(document: Any, random: np.random.Generator) -> Any:
    inner = sealed_again(mutated(document["attributes"]["spamo_cache"], random))
    return {**document, "attributes": {"spamo_cache": inner}}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_attributes_and_receipts_that_were_sealed_again(make, tmp_path, seed):
    writer = make(8, failed=1).write(tmp_path)
    random = np.random.default_rng(seed)
    for file in (writer.path / "zarr.json", receipt_path(writer.path, 0)):
        whole = file.read_bytes()
        document = json.loads(whole)
        for _ in range(40):
            try:
                if file.name == "zarr.json":
                    data = canonical(changed_attributes(document, random))
                else:
                    data = canonical(sealed_again(mutated(document, random)))
            except ValueError:
                continue  # not to be had as JSON: 10**400 is, NaN is not
            file.write_bytes(data)
            only_clear_errors(writer.path)
        file.write_bytes(whole)
        StoreWriter.at(writer.path).commit_index()
    assert verify(writer.path, deep=True).sound


def replace_generation(path: Path, document: Any) -> None:
    """Make a generation document the current one, with a pointer that vouches for it."""
    current = next(folder for folder in (path / "clips").iterdir() if folder.is_dir())
    data = canonical(document)
    digest = sha256(data)
    (current / "zarr.json").write_bytes(data)
    if current.name != digest[:16]:
        current.rename(current.with_name(digest[:16]))
    pointer = json.loads((path / "clips" / "zarr.json").read_bytes())
    pointer["attributes"]["spamo_cache"]["generation"] = digest
    (path / "clips" / "zarr.json").write_bytes(canonical(pointer))


@pytest.mark.slow
def test_generations_that_are_vouched_for(make, tmp_path):
    path = make(8, failed=1).write(tmp_path).path
    current = next(folder for folder in (path / "clips").iterdir() if folder.is_dir())
    document = json.loads((current / "zarr.json").read_bytes())
    random = np.random.default_rng(0)
    for _ in range(150):
        inner = mutated(document["attributes"]["spamo_cache"], random)
        try:
            replace_generation(path, {**document, "attributes": {"spamo_cache": inner}})
        except ValueError:
            continue
        read_and_verify(path)


@pytest.mark.slow
def test_columns_that_are_vouched_for(make, tmp_path):
    """Rows and partitions that point anywhere, in an index whose checksums are right."""
    path = make(8, failed=1).write(tmp_path).path
    random = np.random.default_rng(0)
    for _ in range(200):
        current = next(folder for folder in (path / "clips").iterdir() if folder.is_dir())
        document = json.loads((current / "zarr.json").read_bytes())
        columns = document["attributes"]["spamo_cache"]["columns"]
        name = str(random.choice(sorted(columns)))
        chunk = next(file for file in (current / name).iterdir() if file.name != "zarr.json")
        whole = chunk.read_bytes()
        data = bytearray(whole)
        data[random.integers(len(data))] = random.integers(256)
        chunk.write_bytes(data)
        columns[name]["sha256"] = sha256(bytes(data))
        replace_generation(path, document)
        read_and_verify(path)
        next(path.glob(f"clips/*/{name}/{chunk.name}")).write_bytes(whole)


def test_sparse_files_of_a_huge_size_cost_no_memory(make, tmp_path):
    path = make(8).write(tmp_path).path
    for file in (shard_path(path, 0), receipt_path(path, 0)):
        whole = file.read_bytes()
        with file.open("r+b") as opened:
            opened.truncate(1 << 40)
        only_clear_errors(path)
        file.write_bytes(whole)


@pytest.mark.slow
def test_links_out_of_the_store_are_refused(sealed, tmp_path):
    """Each file of the store in turn, replaced by a link to itself elsewhere."""
    for file in sorted(path for path in sealed.path.rglob("*") if path.is_file()):
        outside = tmp_path / "outside"
        file.rename(outside)
        file.symlink_to(outside)
        try:
            sound = verify(sealed.path, deep=True).sound
        except StoreError:
            sound = False
        assert not sound, file
        file.unlink()
        outside.rename(file)
    assert verify(sealed.path, deep=True).sound


def nested(depth: int) -> Any:
    document: Any = 1
    for _ in range(depth):
        document = {"a": document}
    return document


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"spec": nested(900)}, "nested too deeply"),
        ({"spec": nested(40)}, "nested too deeply"),
        ({"spec": {"a": [[[]] * 3] * 3}, "created_by": "\ud800"}, "not the JSON it was"),
        ({"created_by": "x" * 100_000}, "created_by"),
        ({"created": "long ago" * 100}, "created"),
    ],
)
def test_one_hostile_store_does_not_end_a_list(changes, why, make, tmp_path):
    good, bad = make(8).write(tmp_path).path, make(9).write(tmp_path).path
    document = json.loads((bad / "zarr.json").read_bytes())
    about = {**document["attributes"]["spamo_cache"], **changes}
    document["attributes"]["spamo_cache"] = sealed_again(about)
    (bad / "zarr.json").write_bytes(canonical(document))
    entries = {entry.path: entry for entry in list_stores([str(tmp_path)])}
    assert why in (entries[bad].damaged or "")
    assert entries[good].damaged is None
    assert entries[good].states["ok"] == 6
    with pytest.raises(StoreError, match=why):
        info(bad)


def test_a_receipt_nested_beyond_reason_is_damage_of_its_partition(sealed):
    receipt_path(sealed.path, 0).write_bytes(canonical(nested(900)))
    assert list(verify(sealed.path).partitions) == [0]
    assert info(sealed.path)["partitions_done"] == len(sealed.finished())


def test_files_that_vanish_while_a_store_is_measured(sealed, monkeypatch):
    """A writer beside it moves on to the next index."""
    listed = Path.rglob

    def and_one_more(path: Path, pattern: str) -> Iterator[Path]:
        yield from listed(path, pattern)
        yield path / "clips" / "gone"

    monkeypatch.setattr(Path, "rglob", and_one_more)
    assert [entry.damaged for entry in list_stores([str(sealed.path.parents[1])])] == [None]
