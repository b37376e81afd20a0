"""Sizes, durations and ages as people read them."""

from datetime import UTC, datetime, timedelta

import pytest

from spamo_cache import human


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (475_000, "475.0 kB"),
        (3_900_000_000, "3.9 GB"),
        (2 * 10**12, "2.0 TB"),
    ],
)
def test_bytes(count: int, expected: str) -> None:
    assert human.size(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (60, "1 min 00 s"),
        (754.6, "12 min 35 s"),
        (3725, "1 h 02 min"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert human.duration(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "5.0 s"), (7200, "2 h 00 min"), (3 * 86_400, "3 days")]
)
def test_ages(seconds: float, words: str) -> None:
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    assert human.age(then.isoformat()) == words
    assert human.age("yesterday") == ""
