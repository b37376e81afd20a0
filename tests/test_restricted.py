from __future__ import annotations

import io
import os
import pickle
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy._core.multiarray import _reconstruct

from spamo_cache import bounded, restricted
from spamo_cache.errors import CorpusError

PLAIN: dict[str, Any] = {
    "info": [{"name": "S1", "length": 12, "label_char": ["你", "好"], "score": 0.5, "none": None}],
    "raw": b"\x00\xff",
    "set": {1, 2},
    "frozen": frozenset({"a"}),
    "tuple": (1, (2, [3])),
    "complex": 1 + 2j,
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_at_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "labels.pkl"
    path.write_bytes(pickle.dumps(PLAIN, protocol))
    assert restricted.load_pickle(path) == PLAIN


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)),
        np.array(["ja", "nein"]),
        np.array([True, False]),
        np.array(3.5),
    ],
    ids=["int", "fortran-big-endian", "text", "bool", "scalar-array"],
)
def test_arrays_and_numpy_scalars_reconstruct(
    tmp_path: Path, array: np.ndarray[Any, Any], protocol: int
) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": array, "n": np.float32(0.25)}, protocol))
    found = restricted.load_pickle(path)
    np.testing.assert_array_equal(found["a"], array)
    assert found["a"].dtype == array.dtype
    assert found["n"] == np.float32(0.25)


def test_the_release_npy_gives_its_dict(tmp_path: Path) -> None:
    document = {"prefix": "p", 0: {"fileid": "a", "num_frames": np.int64(7)}}
    np.save(tmp_path / "train_info.npy", np.array(document, dtype=object), allow_pickle=True)
    assert restricted.load_npy(tmp_path / "train_info.npy") == document
    np.save(tmp_path / "numbers.npy", np.arange(3))
    np.testing.assert_array_equal(restricted.load_npy(tmp_path / "numbers.npy"), [0, 1, 2])


class Runs:
    """Pickles into a call of ``function(*arguments)``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def hostile(sentinel: Path) -> dict[str, Any]:
    return {
        "os.system": Runs(os.system, f"touch {sentinel}"),
        "eval": Runs(eval, f"open({str(sentinel)!r}, 'w')"),
        "exec": Runs(exec, f"open({str(sentinel)!r}, 'w')"),
        "getattr": Runs(getattr, Path, "touch"),
        "open": Runs(open, str(sentinel), "w"),
        "touch": Runs(Path.touch, sentinel),
        "numpy": Runs(np.load, str(sentinel)),
        "memory": Runs(np.ndarray, (1 << 40,)),
    }


@pytest.mark.parametrize("kind", hostile(Path("x")))
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("wrapped", ["pkl", "npy"])
def test_a_hostile_pickle_runs_nothing_and_is_named(
    tmp_path: Path, kind: str, protocol: int, wrapped: str
) -> None:
    sentinel = tmp_path / "sentinel"
    attack = pickle.dumps({"info": [hostile(sentinel)[kind]]}, protocol)
    path = tmp_path / f"csl2020ct_v2.{wrapped}"
    if wrapped == "npy":
        with path.open("wb") as file:
            header = {"descr": "|O", "fortran_order": False, "shape": ()}
            np.lib.format.write_array_header_1_0(file, header)
            file.write(attack)
        load = restricted.load_npy
    else:
        path.write_bytes(attack)
        load = restricted.load_pickle
    with pytest.raises(CorpusError) as caught:
        load(path)
    assert "nothing was run" in str(caught.value)
    assert path.name in str(caught.value)
    assert not sentinel.exists()


def test_the_attacks_of_this_test_would_work_on_plain_pickle(tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    pickle.loads(pickle.dumps(hostile(sentinel)["os.system"]))  # noqa: S301
    assert sentinel.exists()


def test_object_arrays_cannot_smuggle_pointers(tmp_path: Path) -> None:
    # numpy takes the flags of a pickled dtype as given: flags 0 on an object dtype would make
    # it read the bytes as pointers.
    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    raw = b"A" * 8
    dtype = (
        b"cnumpy\ndtype\n" + text("O8") + b"K\x00K\x01\x87R"
        b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    attack = (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01K\x01\x85" + dtype + b"\x89C\x08" + raw + b"tb."
    )
    path = tmp_path / "a.pkl"
    path.write_bytes(attack)
    with pytest.raises(CorpusError, match="shape and content disagree"):
        restricted.load_pickle(path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(PLAIN)[:-9], b"\x80\x04]"])
def test_damaged_files_are_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match="is no readable pickle"):
        restricted.load_pickle(path)
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match="is no NumPy file"):
        restricted.load_npy(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be read"):
        restricted.load_pickle(tmp_path / "absent.pkl")


# --- small files that ask for a lot ---------------------------------------------------------------


def shared(levels: int, last: bytes) -> bytes:
    """A pickle whose every level stands twice in the next one: 2**levels values written out."""
    made = [last + b"q\x00"]
    for level in range(levels):
        twice = bytes([ord("h"), level]) * 2
        made.append(b"](" + twice + b"e" if last == b"]" else twice + b"\x86")
        made.append(bytes([ord("q"), level + 1]))
    return b"".join(made)


TUPLES = shared(40, b")")
DEEP = b")" + b"\x85" * 100_000
TEXT = b"X" + (1 << 16).to_bytes(4, "little") + b"a" * (1 << 16)
ASKING = {
    "shared lists": b"\x80\x03" + shared(40, b"]") + b".",
    "shared tuples": b"\x80\x03" + TUPLES + b".",
    "a key that takes for ever to hash": b"\x80\x03}" + TUPLES + b"Ns.",
    "a member that takes for ever to hash": b"\x80\x04\x8f(" + TUPLES + b"\x90.",
    "a key too deep for the stack": b"\x80\x03}" + DEEP + b"Ns.",
    "tuples in each other": b"\x80\x03" + DEEP + b".",
    "a list in itself": b"\x80\x03]q\x00h\x00a.",
    "a buffer of 64 GiB": b"\x80\x05\x96" + (1 << 36).to_bytes(8, "little") + b".",
    "a long text made bytes many times": b"\x80\x02c_codecs\nencode\nq\x00"
    + TEXT
    + b"X\x06\x00\x00\x00latin1\x86q\x01"
    + b"h\x00h\x01R" * 5000
    + b".",
    "a list made a set many times": b"\x80\x02c__builtin__\nset\nq\x00]("
    + b"K\x01" * 10_000
    + b"e\x85q\x01"
    + b"h\x00h\x01R" * 5000
    + b".",
    "a number of 100,000 bits": pickle.dumps(1 << 100_000),
    "an extension": b"\x80\x02\x82\x01.",
}


def peak() -> int:
    """Bytes of memory that this process has ever held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("kind", ASKING)
def test_what_a_small_pickle_may_cost_is_bounded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "labels.pkl"
    path.write_bytes(ASKING[kind])
    started, before = time.process_time(), peak()
    with pytest.raises(CorpusError, match="nothing was run"):
        restricted.load_pickle(path)
    assert time.process_time() - started < 5
    assert peak() - before < 1 << 30


class Made:
    """Pickles as what ``__reduce__`` of something else would return."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def of_text(text: str) -> Made:
    """An array as Python 2 wrote it."""
    return Made(_reconstruct, (np.ndarray, (0,), b"b"), (1, (3,), np.dtype("u1"), False, text))


def of_storage(stored: bytes) -> Made:
    """A tensor as it is pickled by itself."""
    kept = Made(torch.storage._load_from_bytes, (stored,))
    return Made(torch._utils._rebuild_tensor_v2, (kept, 0, (3,), (1,), False, {}))


def saved(content: Any) -> bytes:
    """As torch wrote files before 1.6."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


HALVES = torch.ones(4, dtype=torch.bfloat16)
TWICE = {
    "text": pickle.dumps([of_text(text) for text in ["abc"] * 2]),
    "a storage in bytes": pickle.dumps(
        [of_storage(stored) for stored in [saved(torch.ones(3)._typed_storage())] * 2]
    ),
    "a storage of bfloat16": saved([HALVES[:3], HALVES[1:]]),
}


@pytest.mark.parametrize("kind", TWICE)
def test_what_a_file_holds_once_is_in_memory_once(kind: str) -> None:
    file = bounded.Limited(io.BytesIO(TWICE[kind]), 1 << 20)
    first, second = restricted.load_features(file, kind)
    assert len(first) == len(second) == 3
    assert np.shares_memory(first, second)


def test_a_memo_as_large_as_memory_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "labels.pkl"
    path.write_bytes(b"Np2147483647\n.")
    before = peak()
    assert restricted.load_pickle(path) is None
    assert peak() - before < 1 << 30


def test_lists_that_are_shared_now_and_then_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.pkl"
    gloss = ["NORD", "REGEN"]
    document = {k: {"gloss": gloss, "word": (gloss, gloss)} for k in range(100)}
    path.write_bytes(pickle.dumps(document))
    assert restricted.load_pickle(path) == document


def test_an_array_that_claims_more_than_its_file_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train_info.npy"
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(CorpusError, match="is no NumPy file: it ends before its content"):
        restricted.load_npy(path)
