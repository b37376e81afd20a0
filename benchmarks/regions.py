"""What regions and poses add on signed-weather: the table of docs/poses.md.

Usage: python benchmarks/regions.py [runs/signed-weather/experiments]

Prints what `spamo-cache reproduce signed-weather --all --only regions` has found so far, as a table
in Markdown: BLEU-4 on test, mean and standard deviation over the seeds, by the share of frames in
which the poses lose a hand; how that differs from whole frames, paired by seeds and clips; the
parameters of the adapter; and the share of valid rows. It trains nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from spamo_cache.report.experiments import Experiment, Variant, read_results

DROP_OUTS = (0, 10, 30)
"""Per cent of the frames; variants by poses that lose so many are called `NAME-0` and so on."""
USUAL = 10
"""What the poses that come with the corpus lose."""
ROWS = {
    "both": "spatial, motion",
    "face": "spatial, motion, face",
    "hands": "spatial, motion, both hands",
    "hands-features": "the same, side by side",
    "hands-gate": "the same, by a gate",
    "pose": "poses alone",
    "all": "all of these",
    "all-features": "the same, side by side",
    "all-gate": "the same, by a gate",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default="runs/signed-weather/experiments")
    found = read_results(parser.parse_args().folder).experiments
    experiment = next(one for one in found if one.name == "regions")
    shares = [f"{share} % lost" for share in DROP_OUTS]
    print(table(["streams", "parameters of the adapter", *shares], rows(experiment)))
    print(f"\n{table(['valid rows of', *shares], valid_rows(experiment))}")


def rows(experiment: Experiment) -> Iterator[list[str]]:
    """A line for each choice of streams and each way to join them."""
    known = {variant.name: variant for variant in experiment.variants}
    for name, label in ROWS.items():
        by_share = {share: known.get(f"{name}-{share}") for share in DROP_OUTS}
        by_share[USUAL] = by_share[USUAL] or known.get(name)
        scored = [variant for variant in by_share.values() if variant and variant.scored]
        size = scored[0].training("adapter") if scored else None
        cells = [_score(experiment, by_share[share]) for share in DROP_OUTS]
        yield [label, "" if size is None else f"{size:,.0f}", *cells]


def _score(experiment: Experiment, variant: Variant | None) -> str:
    if variant is None or (mean := variant.mean("bleu4")) is None:
        return ""
    spread, test = variant.half("bleu4"), experiment.tests.get(variant.name)
    cell = f"{mean:.1f}" if spread is None else f"{mean:.1f} ± {spread:.1f}"
    return cell if test is None else f"{cell} ({test.difference:+.1f}, p {test.p:.2f})"


def valid_rows(experiment: Experiment) -> Iterator[list[str]]:
    """What share of each stream's rows is valid on test."""
    shares: dict[str, dict[int, str]] = {}
    for variant in experiment.variants:
        drop_out = variant.name.rpartition("-")[2]
        for run, _ in variant.scored if drop_out in map(str, DROP_OUTS) else ():
            for store in run.stores:
                if "test" in store.valid:
                    shares.setdefault(store.stream, {})[int(drop_out)] = (
                        f"{store.valid['test']:.1%}"
                    )
    for stream, known in shares.items():
        yield [stream, *(known.get(drop_out, "") for drop_out in DROP_OUTS)]


def table(heads: list[str], lines: Iterable[list[str]]) -> str:
    """A table in Markdown."""
    listed = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in listed)


if __name__ == "__main__":
    main()
