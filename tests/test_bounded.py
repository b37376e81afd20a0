"""Files and JSON of anybody: read within bounds, or refused at once."""

import os
from pathlib import Path

import pytest

from spamo_cache import bounded


def test_a_regular_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert bounded.read(path, 5) == b"12345"
    with pytest.raises(OSError, match="is larger than 4 bytes"):
        bounded.read(path, 4)


def test_what_is_no_regular_file_is_neither_waited_for_nor_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="is not a regular file"):
            bounded.read(path, 10)
    with pytest.raises(IsADirectoryError, match="Is a directory") as raised:
        bounded.read(tmp_path, 10)
    assert str(raised.value.filename) == str(tmp_path)


@pytest.mark.parametrize(
    "nested", ["[" * 65 + "]" * 65, "[" * 100_000, '{"a":' * 65 + "1" + "}" * 65]
)
def test_json_nested_deeper_than_anybody_needs_is_refused(nested: str) -> None:
    with pytest.raises(ValueError, match="is nested deeper than 64"):
        bounded.parse_json(nested)


def test_json_within_bounds_is_its_value(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"a": [1, {"b": "ü"}]}', encoding="utf-8")
    assert bounded.read_json(path) == {"a": [1, {"b": "ü"}]}
    assert bounded.parse_json("[" * 64 + "]" * 64)
    assert bounded.parse_json("3") == 3
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        bounded.read_json(path)
