"""Tables as spreadsheets, scripts and corpora save them: no cell is lost, none changes its row."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from spamo_cache.datasets.manifest import Clip, Manifest
from spamo_cache.errors import CorpusError

NAMES = ["id", "split", "source", "language", "text"]


def rows(*texts: str) -> list[list[str]]:
    listed = [[f"c{n}", "train", f"v{n}.mp4", "German", text] for n, text in enumerate(texts)]
    return [NAMES, *listed]


def joined(separator: str, table: list[list[str]], end: str = "\n") -> str:
    return "".join(separator.join(row) + end for row in table)


def read(tmp_path: Path, content: str | bytes, name: str = "m.csv") -> Manifest:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Manifest.read(path, "lab")


def texts(manifest: Manifest) -> list[str]:
    return [clip.text for clip in manifest.clips()]


def refused(tmp_path: Path, content: str | bytes, name: str = "m.csv") -> str:
    with pytest.raises(CorpusError) as caught:
        read(tmp_path, content, name)
    return str(caught.value)


# --- quotes ---


def test_a_quote_in_tsv_is_a_character(tmp_path: Path) -> None:
    said = ["hello", '"So we begin', 'it is 5" long', 'he said "no"', 'the end"', "fine"]
    found = read(tmp_path, joined("\t", rows(*said)), "m.tsv")
    assert texts(found) == said
    assert found.notes == ()


def test_quotes_that_a_spreadsheet_put_round_a_cell_of_tsv_are_taken_off_and_counted(
    tmp_path: Path,
) -> None:
    memory = io.StringIO()
    said = ['say "hello"', "plain", '"So" we "begin"', '"']
    csv.writer(memory, delimiter="\t", lineterminator="\n").writerows(rows(*said))
    found = read(tmp_path, memory.getvalue(), "m.tsv")
    assert texts(found) == said
    assert found.notes == ("cells without the quotes that were put round them: 3",)


@pytest.mark.parametrize("separator", [",", ";", "|"])
@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (['"unclosed', "a", "b", "c"], "row 1: a quote is not closed"),
        (["a", '"unclosed', "b"], "row 2: a quote is not closed"),
        (["a", '"So we begin', "b", '"and go on', "c"], "row 2: "),
        (["a", '"So we begin', "b", '"quoted well"', "c"], "row 2: "),
        (["a", '"So we begin', "b", 'c"'], "row 2: a quote opens a cell that holds whole rows"),
        (["a", '"So we begin', 'and end"'], "row 2: a quote opens a cell that holds whole rows"),
        (["a", '"So" we begin', "b"], "row 2: text follows the quote that closes a cell"),
    ],
)
def test_an_open_quote_in_csv_swallows_no_row(
    tmp_path: Path, separator: str, cells: list[str], told: str
) -> None:
    answer = refused(tmp_path, joined(separator, rows(*cells)))
    assert told in answer
    assert "close the quote" in answer


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("column", range(5))
def test_a_quotation_over_two_rows_joins_them_in_no_column(
    tmp_path: Path, column: int, end: str
) -> None:
    table = rows("a", "b", "c")
    table[1][column] = '"' + table[1][column]
    table[2][column] += '"'
    assert "row 1: a quote opens a cell" in refused(tmp_path, joined(",", table, end))


def test_a_header_with_an_open_quote_is_named(tmp_path: Path) -> None:
    assert "the header: a quote is not closed" in refused(tmp_path, '"' + joined(",", rows("a")))


def test_a_first_line_that_is_no_header_is_shown(tmp_path: Path) -> None:
    told = refused(tmp_path, "# my clips\n" + joined(",", rows("a")))
    assert "row 1 has 5 cells where the header has 1 ('# my clips')" in told


def test_quoted_cells_hold_separators_quotes_and_line_breaks(tmp_path: Path) -> None:
    said = ["a, b; c", '"whole"', "two\nlines, of text", "three\r\nshort\r\nlines", '5" long']
    memory = io.StringIO()
    csv.writer(memory).writerows(rows(*said))
    assert texts(read(tmp_path, memory.getvalue())) == said


def test_a_cell_too_many_names_its_row(tmp_path: Path) -> None:
    told = refused(tmp_path, joined(",", rows("a", "b, c", "d")))
    assert "row 2 has 6 cells where the header has 5" in told
    assert "needs quotes" in told
    told = refused(tmp_path, joined("\t", rows("a", "b", "d\te")), "m.tsv")
    assert "row 3 has 6 cells where the header has 5" in told


# --- what spreadsheets do ---


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom", "utf-32"]
)
@pytest.mark.parametrize(("separator", "suffix"), [(",", ".csv"), (";", ".csv"), ("\t", ".tsv")])
def test_encodings_line_ends_and_separators(
    tmp_path: Path, separator: str, suffix: str, encoding: str, end: str
) -> None:
    mark = "\ufeff" if encoding.endswith("-bom") else ""
    content = mark + joined(separator, rows("schöne Grüße", "天气"), end)
    found = read(tmp_path, content.encode(encoding.removesuffix("-bom")), f"m{suffix}")
    assert texts(found) == ["schöne Grüße", "天气"]
    assert found.notes == (("its cells are separated by semicolons",) if separator == ";" else ())


@pytest.mark.parametrize(
    ("separator", "suffix", "told"),
    [
        ("\t", ".csv", "tabs"),
        ("|", ".csv", "bars"),
        (",", ".tsv", "commas"),
        (";", ".tsv", "semicolons"),
    ],
)
def test_the_header_tells_the_separator_whatever_the_name_says(
    tmp_path: Path, separator: str, suffix: str, told: str
) -> None:
    found = read(tmp_path, joined(separator, rows("hallo")), f"m{suffix}")
    assert texts(found) == ["hallo"]
    assert found.notes == (f"its cells are separated by {told}",)


def test_a_german_spreadsheet(tmp_path: Path) -> None:
    content = (
        "sep=;\r\nID;Split;Source;Start;End;Language;Text\r\nc0;train;v.mp4;1,5;2;German;ja, so\r\n"
    )
    (clip,) = read(tmp_path, content).clips()
    wanted = Clip(
        id="c0", split="train", source="v.mp4", start=1.5, end=2.0, text="ja, so", language="German"
    )
    assert clip == wanted


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("cp1252", "is not UTF-8 text: byte 0xF6 in line 3"),
        ("utf-16-le", "looks like UTF-16 without a byte order mark"),
        ("gbk", "is not UTF-8 text"),
    ],
)
def test_an_encoding_that_cannot_be_told_is_refused(
    tmp_path: Path, encoding: str, told: str
) -> None:
    content = joined(",", rows("good", "schöne Grüße" if encoding != "gbk" else "天气")).encode(
        encoding
    )
    answer = refused(tmp_path, content)
    assert told in answer
    assert "save it as UTF-8" in answer


def test_empty_rows_and_columns_are_left_out_and_what_they_held_is_counted(tmp_path: Path) -> None:
    table = [[*row, "", ""] for row in rows("hello", "bye")]
    content = joined(",", [*table[:2], [""] * 7, table[2], [""] * 7])
    found = read(tmp_path, f"\n\n{content}\n\n")
    assert texts(found) == ["hello", "bye"]
    assert found.table.column_names[-1] == "signer"
    assert found.notes == ("empty rows left out: 2",)


def test_row_numbers_without_a_name_are_left_out_and_told(tmp_path: Path) -> None:
    table = [[number, *row] for number, row in zip(["", "0", "1"], rows("a", "b"), strict=True)]
    found = read(tmp_path, joined(",", table))
    assert texts(found) == ["a", "b"]
    assert found.notes == ("columns without a name left out: 1",)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_names_of_columns_are_known_in_any_case(tmp_path: Path, suffix: str) -> None:
    header = ["ID", "Split", " Source", "LANGUAGE ", "Text", "Text_EN"]
    cells = ["c0", "train", "v.mp4", "German", "hallo", "hello"]
    content = joined("," if suffix == ".csv" else "\t", [header, cells])
    if suffix == ".jsonl":
        content = json.dumps(dict(zip(header, cells, strict=True)))
    (clip,) = read(tmp_path, content, f"m{suffix}").clips()
    assert (clip.id, clip.text, clip.extra) == ("c0", "hallo", {"Text_EN": "hello"})


def test_one_column_in_two_cases_is_refused(tmp_path: Path) -> None:
    table = [["ID", *row] for row in rows("a")]
    assert "column 'id' stands twice" in refused(tmp_path, joined(",", table))


def test_headers_that_fit_nothing_are_shown(tmp_path: Path) -> None:
    told = refused(tmp_path, "name:path\na:b\n")
    assert "no column 'id' (columns: name:path)" in told


# --- JSON Lines ---


def test_numbers_in_json_lines_stand_for_texts_and_texts_for_times(tmp_path: Path) -> None:
    one = {
        "id": 7,
        "split": "train",
        "source": "v.mp4",
        "language": "German",
        "text": 12,
        "signer": 3,
    }
    two = one | {"id": "007", "text": "zwölf", "signer": None, "start": "1.5", "end": 2}
    three = one | {"id": 8.5, "crop": [0, 0, 0.5, 1], "start": None, "end": 2.5}
    content = "\ufeff" + "\r\n\n".join(map(json.dumps, [one, two, three]))
    found = read(tmp_path, content, "m.jsonl").clips()
    assert [clip.id for clip in found] == ["7", "007", "8.5"]
    assert [clip.text for clip in found] == ["12", "zwölf", "12"]
    assert [clip.signer for clip in found] == ["3", None, "3"]
    assert [(clip.start, clip.end) for clip in found] == [(None, None), (1.5, 2.0), (None, 2.5)]
    assert found[2].crop == (0.0, 0.0, 0.5, 1.0)


@pytest.mark.slow
def test_a_row_of_megabytes_is_read_and_written(tmp_path: Path) -> None:
    points = [[0.125, 0.25]] * 100_000
    row = {"id": "a", "split": "train", "source": "v.mp4", "language": "German", "text": "t"}
    found = read(tmp_path, json.dumps(row | {"points": points}), "m.jsonl")
    assert found.clips()[0].extra == {"points": points}
    back = Manifest.read(found.write_csv(tmp_path / "back.csv"), "lab")
    assert json.loads(back.clips()[0].extra["points"]) == points


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"text": ["a", "b"]}, 'column \'text\' holds ["a", "b"], neither a text nor a number'),
        ({"id": True}, "column 'id' holds true"),
        ({"start": {"s": 1}}, "column 'start' holds"),
        ({"start": float("nan")}, "not a finite number"),
        ({"id": None}, "column 'id': is empty"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    row = {"id": "a", "split": "train", "source": "v.mp4", "language": "German", "text": "t"}
    assert told in refused(tmp_path, json.dumps(row | changes), "m.jsonl")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"id": "a"}\n{"id" "b"}', "line 2 is no JSON: Expecting ':' delimiter at character 7"),
        ('[\n{"id": "a"}\n]', "line 1 is no JSON: Expecting value at character 2"),
        ('[{"id": "a"}]', "line 1 is no JSON object"),
    ],
)
def test_lines_that_are_no_object_are_named_once(tmp_path: Path, content: str, told: str) -> None:
    answer = refused(tmp_path, content, "m.jsonl")
    assert told in answer
    assert "without a list round them" in answer
