from __future__ import annotations

import errno
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamo_cache.datasets import columns, manifest
from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import CorpusError, UsageError

HEADER = "id,split,source,text,language"


def clip(identity: str, **changes: Any) -> Clip:
    known: dict[str, Any] = {
        "id": identity,
        "split": "train",
        "source": f"videos/{identity}.mp4",
        "text": "ein Satz",
        "language": "German",
        "extra": {},
    }
    return Clip(**(known | changes))


def csv(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def refused(path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        Manifest.read(path, "lab")
    return str(caught.value)


FULL = [
    clip("é:1", start=0.5, end=2.0, crop=(0.1, 0.0, 0.9, 1.0), gloss="TAG", signer="S1"),
    clip("007", split="test", text='mit "Zitat", Komma\nund Zeile', extra={"text_en": "a day"}),
    clip("null", split="dev", source="frames/null/*.png"),
]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_survives_writing_and_reading(tmp_path: Path, suffix: str) -> None:
    written = Manifest.from_clips("lab", FULL, ["one video is missing"])
    path = tmp_path / f"m.{suffix}"
    (written.write if suffix == "parquet" else written.write_csv)(path)
    back = Manifest.read(path, "lab" if suffix == "csv" else None)
    assert back.corpus == "lab"
    assert back.clips() == FULL
    assert back.table.equals(written.table)
    assert back.notes == (() if suffix == "csv" else ("one video is missing",))
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_json_lines_and_tsv_are_read(tmp_path: Path) -> None:
    row = {
        "id": "a:1", "split": "train", "source": "a.mp4", "start": 1, "end": 2.5,
        "crop": [0, 0, 0.5, 1], "text": "hallo", "language": "German", "text_en": "hello",
    }  # fmt: skip
    lines = tmp_path / "m.jsonl"
    lines.write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "b"}) + "\n")
    found = Manifest.read(lines, "m")
    assert found.corpus == "m"
    assert [c.id for c in found.clips()] == ["a:1", "b"]
    assert found.clips()[0].crop == (0.0, 0.0, 0.5, 1.0)
    assert (found.clips()[0].start, found.clips()[0].end) == (1.0, 2.5)
    assert found.clips()[0].extra == {"text_en": "hello"}
    table = tmp_path / "m.tsv"
    header = "\t".join(["id", "split", "source", "start", "end", "crop", "text", "language"])
    cells = "\t".join(["007", "train", "a.mp4", "1", "2.5", "0 0 0.5 1", "a, b", "English"])
    table.write_text(f"\ufeff{header}\n{cells}\n", encoding="utf-8")
    only = Manifest.read(table, "m").clips()[0]
    assert (only.id, only.text, only.crop) == ("007", "a, b", (0.0, 0.0, 0.5, 1.0))


@pytest.mark.parametrize(
    "written", ["0.1,0,0.9,1", "[0.1, 0, 0.9, 1]", " 0.1;0;0.9;1 ", "(.1 0 .9 1)"]
)
def test_a_crop_box_may_be_written_in_many_ways(tmp_path: Path, written: str) -> None:
    path = csv(tmp_path / "m.csv", f'a,train,a.mp4,t,de,"{written}"', header=f"{HEADER},crop")
    assert Manifest.read(path, "m").clips()[0].crop == (0.1, 0.0, 0.9, 1.0)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("start", "soon", "'soon' is not a finite number"),
        ("start", "nan", "not a finite number"),
        ("start", "-1", "-1.0 is not a finite number of seconds"),
        ("end", "inf", "not a finite number"),
        ("end", "0.5", "0.5 is not after start"),
        ("crop", "0,0,1", "is not x0,y0,x1,y1"),
        ("crop", "0,0,one,1", "is not x0,y0,x1,y1"),
        ("crop", "0,0,1.5,1", "within 0..1"),
        ("crop", "0.5,0,0.5,1", "x0 < x1"),
        ("source", "/data/a.mp4", "leaves the corpus root"),
        ("source", "a/../../b.mp4", "leaves the corpus root"),
        ("source", "C:/a.mp4", "leaves the corpus root"),
        ("source", "s3://bucket/a.mp4", "leaves the corpus root"),
        ("pose", "../a.pose", "leaves the corpus root"),
        ("source", "a\\b.mp4", "forward slashes"),
        ("text", "  ", "is empty"),
        ("split", "../x", "is not a plain name"),
        ("id", "first", "stands in row 1 too"),
    ],
)
def test_a_fault_is_named_with_row_column_and_value(
    tmp_path: Path, column: str, value: str, told: str
) -> None:
    good = {
        "id": "first", "split": "train", "source": "a.mp4", "text": "t", "language": "de",
        "start": "0.5", "end": "2", "crop": "", "pose": "",
    }  # fmt: skip
    bad = {**good, "id": "second", column: value}
    rows = [",".join(f'"{cell}"' for cell in row.values()) for row in (good, bad)]
    message = refused(csv(tmp_path / "m.csv", *rows, header=",".join(good)))
    name = "first" if column == "id" else "second"
    assert f"row 2 (id '{name}'), column '{column}'" in message
    assert told in message
    assert "m.csv" in message


def test_many_faults_are_counted_after_the_first_few(tmp_path: Path) -> None:
    rows = [f"c{n},train,/abs/{n}.mp4,t,de" for n in range(1200)]
    message = refused(csv(tmp_path / "m.csv", *rows))
    assert message.count("column 'source'") == columns.SHOWN
    assert "1,200 faults" in message
    assert "and 1,195 more" in message


def test_a_missing_column_names_its_likeness(tmp_path: Path) -> None:
    message = refused(
        csv(tmp_path / "m.csv", "a,train,a.mp4,t,de", header="id,split,sorce,text,language")
    )
    assert "no column 'source'; is it 'sorce'?" in message


def test_a_repeated_column_is_refused(tmp_path: Path) -> None:
    path = csv(tmp_path / "m.csv", "a,train,a.mp4,t,de,x", header=f"{HEADER},text")
    assert "'text' stands twice" in refused(path)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("m.csv", b"", "cannot be read"),
        ("m.csv", HEADER.encode() + b"\n", "has no rows"),
        ("m.csv", HEADER.encode() + b"\na,train,a.mp4,\xff\xfe,de\n", "byte 0xFF in line 2"),
        ("m.csv", HEADER.encode() + b"\na,train\n", "row 1 has 2 cells where the header has 5"),
        ("m.jsonl", b"{not json}\n", "line 1 is no JSON"),
        ("m.jsonl", b"[1, 2]\n", "line 1 is no JSON object"),
        ("m.jsonl", b'{"id": 7, "split": "train"}\n', "has no column 'source'"),
        ("m.parquet", b"PAR1 but not really", "cannot be read"),
        ("m.xlsx", b"x", "is no kind of manifest"),
    ],
)
def test_unreadable_files_are_one_clear_error(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert told in refused(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such manifest"):
        Manifest.read(tmp_path / "absent.csv", "lab")


def test_who_may_not_read_is_told_whom_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setitem(vars(manifest)["_READERS"], ".csv", refuse)
    with pytest.raises(UsageError, match="no permission to read the manifest") as caught:
        Manifest.read(Path("theirs.csv"), "lab")
    assert caught.value.remedy == "ask its owner for access, or choose another place"


def test_wrong_kinds_in_parquet_are_refused() -> None:
    table = pa.table({"id": ["a"], "split": ["x"], "source": ["a"], "text": ["t"],
                      "language": ["de"], "start": [[1.0]]})  # fmt: skip
    with pytest.raises(CorpusError, match="column 'start': holds list"):
        columns.checked(table, where="here")


def test_samples_are_deterministic_nested_and_per_split() -> None:
    clips = [clip(f"c{n}", split="train" if n % 3 else "test") for n in range(60)]
    whole = Manifest.from_clips("lab", clips)
    small, large = whole.limit(4), whole.limit(9)
    assert {c.id for c in small.clips()} < {c.id for c in large.clips()}
    assert len(small.clips("train")) == len(small.clips("test")) == 4
    shuffled = Manifest.from_clips("lab", reversed(clips)).limit(4)
    assert {c.id for c in shuffled.clips()} == {c.id for c in small.clips()}
    assert [c.id for c in small.clips()] != [f"c{n}" for n in range(4)]
    assert len(whole.limit(1000)) == 60
    assert small.corpus == "lab"


def test_splits_keep_their_order_and_unknown_ones_are_refused() -> None:
    manifest = Manifest.from_clips("lab", FULL)
    assert manifest.splits == ["train", "test", "dev"]
    assert [c.id for c in manifest.clips("dev")] == ["null"]
    assert len(manifest.select(["dev", "test"])) == 2
    with pytest.raises(UsageError, match="no split 'tset'"):
        manifest.clips("tset")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "ögs"])
def test_a_corpus_name_is_safe_as_a_folder(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        Manifest.from_clips(name, FULL)


def test_no_rows_and_repeated_ids_are_refused_from_clips_too() -> None:
    with pytest.raises(CorpusError, match="no clip was found"):
        Manifest.from_clips("lab", [])
    with pytest.raises(CorpusError, match=re.escape("row 2 (id 'a')")):
        Manifest.from_clips("lab", [clip("a"), clip("a")])


@pytest.mark.usefixtures("real_sync")
def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.parquet"
    Manifest.from_clips("lab", FULL[:1]).write(path)
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(f"disk full {descriptor}")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CorpusError, match="cannot be written: disk full"):
        Manifest.from_clips("lab", FULL).write(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.text(min_size=1).filter(lambda t: t.strip() and "\r" not in t), min_size=1, unique=True
    )
)
def test_any_unicode_id_survives(identities: list[str]) -> None:
    sound = [i for i in identities if not any(0xD800 <= ord(c) < 0xE000 for c in i)]
    clips = [clip(i, source="a.mp4") for i in sound] or [clip("x")]
    found = Manifest.from_clips("lab", clips).clips()
    assert [c.id for c in found] == [c.id for c in clips]


def test_composed_and_decomposed_ids_stay_two_clips() -> None:
    manifest = Manifest.from_clips("lab", [clip("\u00e9", source="a"), clip("e\u0301", source="b")])
    assert len(manifest) == 2


@pytest.mark.slow
def test_two_hundred_thousand_rows_load_in_seconds(tmp_path: Path) -> None:
    count = 200_000
    path = tmp_path / "m.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{HEADER},start,end,crop\n")
        file.writelines(
            f'c:{n},train,v/{n}.mp4,Satz {n},German,{n}.5,{n + 3},"0,0,1,1"\n' for n in range(count)
        )
    begin = time.process_time()
    manifest = Manifest.read(path, "m")
    assert len(manifest) == count
    assert time.process_time() - begin < 5
