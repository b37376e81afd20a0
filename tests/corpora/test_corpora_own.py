"""A corpus of one's own: a folder of videos and one table, of whatever kind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

from spamo_cache.datasets import registry
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.store.reader import FeatureStore

Call = Callable[..., Result]
Draw = Callable[[Path, int, Fraction], None]

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-corpus.md"
ROWS: list[Mapping[str, Any]] = [
    {"id": "größe:1", "split": "train", "source": "v/lång.mp4", "start": 0.0, "end": 0.95,
     "crop": [0.25, 0.0, 0.75, 1.0], "text": "Ett, två", "language": "Swedish", "scene": "a"},
    {"id": "2", "split": "train", "source": "v/lång.mp4", "start": 1.0, "end": 1.5,
     "crop": None, "text": 'säger "hej"', "language": "Swedish", "scene": None},
    {"id": "3", "split": "test", "source": "v/kort.mp4", "start": None, "end": None,
     "crop": None, "text": "ja", "language": "Swedish", "scene": "b"},
]  # fmt: skip


def written(path: Path) -> None:
    """The rows as ``path``'s suffix says."""
    if path.suffix == ".jsonl":
        kept = [{key: value for key, value in row.items() if value is not None} for row in ROWS]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(ROWS)), path)
    else:
        lines = [list(ROWS[0]), *([_cell(value) for value in row.values()] for row in ROWS)]
        mark = "\t" if path.suffix == ".tsv" else ","
        quoted = ([f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in line] for line in lines)
        path.write_text("".join(mark.join(line) + "\n" for line in quoted), encoding="utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_and_a_folder_of_videos_are_a_corpus(
    suffix: str, lab: Path, call: Call, mp4: Draw
) -> None:
    (lab / "raw").mkdir()
    mp4(lab / "raw/v/lång.mp4", 50, Fraction(25))
    mp4(lab / "raw/v/kort.mp4", 10, Fraction(25))
    mp4(lab / "raw/v/utan.mp4", 1, Fraction(25))
    written(lab / f"raw/table.{suffix}")
    named = f"--manifest raw/table.{suffix} --dataset mitt --json"
    found = json.loads(call(f"doctor {named} --pipeline signed-weather").stdout)
    told = [finding["what"] for finding in found["findings"]]
    # The bundled LLM knows no Swedish.
    assert re.match("7 of 20 target tokens of mitt are unknown to the LLM's tokenizer", told.pop(0))
    assert told == [
        "whether test shares signers with train is not known of all: no signer is given for "
        "1 of 1 clips of test and 2 of 2 clips of train",
        "folders or videos that no clip uses: 1 (v/utan.mp4)",
        "clips shorter than a window of 16 frames: 2 (2, 3)",
    ]
    assert found["facts"]["frame_sizes"] == {"64x48": 3}
    assert json.loads(call(f"manifest {named} -o m.parquet").stdout)["text"] is None
    kept = Manifest.read(lab / "m.parquet")
    assert kept.corpus == "mitt"
    assert [(c.id, c.start, c.end, c.crop, c.text) for c in kept.clips()] == [
        ("größe:1", 0.0, 0.95, (0.25, 0.0, 0.75, 1.0), "Ett, två"),
        ("2", 1.0, 1.5, None, 'säger "hej"'),
        ("3", None, None, None, "ja"),
    ]
    assert [clip.extra.get("scene") for clip in kept.clips()] == ["a", None, "b"]
    if suffix != "csv":
        return
    line = call(f"extract {named} --spec spec.yaml --streams spatial --executor serial").stdout
    stream = json.loads(line.splitlines()[-1])["streams"]["spatial"]
    store = FeatureStore.open(Path(stream["store"]))
    assert [len(rows) for rows in store.read(["größe:1", "2", "3"])] == [24, 13, 10]


def example() -> str:
    """The program that the page shows."""
    return PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


def test_the_page_adds_a_corpus_in_under_thirty_lines(
    lab: Path, call: Call, mp4: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = example()
    assert len(code.splitlines()) < 30
    program: dict[str, Any] = {}
    exec(compile(code, "lab_news.py", "exec"), program)  # noqa: S102 - the page is ours
    known = program["CORPUS"]
    monkeypatch.setitem(registry.CORPORA, known.name, known)
    mp4(lab / "raw/videos/mån:1.mp4", 50, Fraction(25))
    rows = [
        "clip;video;from;to;said;part",
        "m1;mån:1;0;00:01.000;Hej!;train",
        "m2;ti;0;1;Nej.;test",
    ]
    (lab / "raw/labels.txt").write_text("\n".join(rows), encoding="utf-8")
    named = f"--dataset {known.name} --root raw --json"
    found = json.loads(call(f"doctor {named}", 1).stdout)
    assert [f["what"] for f in found["findings"] if f["level"] == "error"] == [
        "test: clips whose video is missing: 1 (m2: videos/ti.mp4)"
    ]
    assert set(found["facts"]["labels"]) == {"labels.txt"}
    made = json.loads(call(f"manifest {named} -o m.parquet").stdout)
    assert made["clips"] == {"train": 1, "test": 1}
    assert made["text"]["language"] == "Swedish"
    assert Manifest.read(lab / "m.parquet").clips()[0].end == 1.0
    call("doctor --dataset lab-new --root raw", 2)


def test_the_page_names_every_column_and_every_corpus() -> None:
    from spamo_cache.datasets.columns import KINDS

    page = PAGE.read_text(encoding="utf-8")
    assert not [name for name in KINDS if f"`{name}`" not in page]
    titles = [known.title for known in registry.CORPORA.values() if not known.synthetic]
    assert not [title for title in titles if title not in page]
