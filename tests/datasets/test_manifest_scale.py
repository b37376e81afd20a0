"""A million rows: read, checked and given out as clips within seconds and bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import CorpusError

ROWS = 1_000_000
PROGRAM = """
import json, sys, time
from pathlib import Path
from spamo_cache.datasets.manifest import Manifest
begin = time.process_time()
manifest = Manifest.read(Path(sys.argv[1]), "large")
read = time.process_time() - begin
clips = manifest.clips()
# Of this process alone: ru_maxrss begins with what its parent had.
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(json.dumps({
    "rows": len(clips), "last": clips[-1].id, "read": read,
    "clips": time.process_time() - begin - read,
    "bytes": int(peak) * 1024,
}))
"""


def table(rows: int = ROWS) -> pa.Table:
    """Forty clips to a video, with times and boxes, as large corpora have them."""
    number = np.arange(rows)
    text = pa.array(number).cast(pa.string())
    video = pa.array(number // 40).cast(pa.string())
    ids = pc.binary_join_element_wise(video, text, ":")
    box = np.tile([0.1, 0.0, 0.9, 1.0], rows)
    return pa.table(
        {
            "id": ids,
            "split": pa.array(np.where(number % 100 < 98, "train", "test")),
            "source": pc.binary_join_element_wise("videos/", video, ".mp4", ""),
            "start": number % 40 * 3.0,
            "end": number % 40 * 3.0 + 2.5,
            "crop": pa.FixedSizeListArray.from_arrays(box, 4).cast(pa.list_(pa.float64())),
            "text": pc.binary_join_element_wise("This is what was said as number ", text, ""),
            "language": pa.array(np.full(rows, "English")),
        }
    )


@pytest.mark.slow
def test_a_million_rows_are_clips_within_seconds_and_bounded_memory(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "m.parquet")
    line = [sys.executable, "-c", PROGRAM, str(tmp_path / "m.parquet")]
    ran = subprocess.run(line, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    assert (found["rows"], found["last"]) == (ROWS, f"{(ROWS - 1) // 40}:{ROWS - 1}")
    assert found["read"] < 5
    assert found["clips"] < 15
    assert found["bytes"] < 1.5e9


@pytest.mark.slow
def test_a_hundred_thousand_faults_cost_no_more_than_the_few_that_are_told(tmp_path: Path) -> None:
    rows = 100_000
    twice = pa.concat_tables([table(rows), table(rows)])
    pq.write_table(twice, tmp_path / "m.parquet")
    with pytest.raises(CorpusError) as caught:
        Manifest.read(tmp_path / "m.parquet")
    told = str(caught.value)
    assert "100,000 faults" in told
    assert f"row {rows + 1:d} (id '0:0'), column 'id': stands in row 1 too" in told
    assert f"row {rows + 3:d} (id '0:2'), column 'id': stands in row 3 too" in told
    assert "and 99,995 more" in told
