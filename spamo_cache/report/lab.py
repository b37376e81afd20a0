"""The page of a corpus's experiments: a question each, and what the runs answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spamo_cache.report import scores
from spamo_cache.report.confusions import Frames
from spamo_cache.report.contributions import shapley
from spamo_cache.report.experiments import Results
from spamo_cache.report.learning import learning
from spamo_cache.report.markup import Child, Markup, join, tag
from spamo_cache.report.outcomes import answer, place_of
from spamo_cache.report.overview import overview
from spamo_cache.report.parts import banner, section, table
from spamo_cache.report.receipt import receipt
from spamo_cache.report.runs import Run
from spamo_cache.report.single import banners, contents, folded, page_header, run_parts


def experiments_page(results: Results, title: str, frames: Frames | None) -> Markup:
    """Overview, a section for each experiment, then the runs behind them."""
    main = _main_run(results)
    runs = [run for run in results.runs if run is not main]
    told = f"{len(results.experiments)} experiments · {len(results.runs)} finished runs"
    split = shapley(results.shapley, "page")
    links = {"Overview": "page.overview"}
    links |= {one.name: place_of(one) for one in results.experiments}
    links |= {"Shapley values": "page.contribution-of-streams-and-vt-align"} if split else {}
    links |= {"Runs": "page.runs"} if main else {}
    return join(
        page_header(told, title, None, banners(results.runs), _once(results), _settings(results)),
        contents(links),
        tag(
            "main",
            overview(results.experiments),
            *(answer(one) for one in results.experiments),
            split,
            _runs(main, runs, frames, _served(results)),
        ),
    )


def _main_run(results: Results) -> Run | None:
    """The run shown in full: ``default``, else what the first experiment is held against."""
    named = [run for run in results.runs if run.pipeline.name == "default"]
    held = [run for one in results.experiments for run, _ in one.base.scored]
    return next(iter((*named, *held, *results.runs)), None)


def _once(results: Results) -> Markup | None:
    if len(results.seeds) != 1:
        return None
    words = (
        "Every run was trained once. Intervals are over test clips and know nothing of what "
        "another seed would give: of two variants near to each other either may be the better."
    )
    return banner("One seed.", words, grave=False)


def _settings(results: Results) -> Markup | None:
    seeds = ", ".join(map(str, results.seeds))
    facts = {"settings changed for all runs": ", ".join(results.set), "seeds": seeds}
    items = [join(tag("dt", k), tag("dd", tag("code", v))) for k, v in facts.items() if v]
    return tag("dl", *items, class_="facts") if items else None


def _served(results: Results) -> dict[str, str]:
    """Run -> the variants that it stands behind, in words."""
    found: dict[str, list[str]] = {}
    for one in results.experiments:
        for variant in one.variants:
            for run, _ in variant.scored:
                found.setdefault(run.name, []).append(f"{one.name}/{variant.name}")
    return {name: f"Stands behind {', '.join(places)}." for name, places in found.items()}


def _runs(
    main: Run | None, runs: Sequence[Run], frames: Frames | None, served: Mapping[str, str]
) -> Markup | None:
    if main is None:
        return None
    lead = (
        f"First {main.name} with everything known of it; the others in short. Each stands here "
        "once, however many experiments it answers."
    )
    tops = {
        run.name: [tag("p", served.get(run.name), class_="aside"), scores.cards(run)]
        for run in (main, *runs)
    }
    return join(
        section("page", "Runs", lead),
        folded(main, [*tops[main.name], *run_parts(main, frames).values()], open_=True),
        *(folded(run, [*tops[run.name], _short(run, main)]) for run in runs),
    )


def _short(run: Run, main: Run) -> Markup:
    """Scores, curves, and where the run's receipt differs from that of the run shown in full."""
    usual = {point.topic: point.here for point in receipt(main)}
    differing = [point for point in receipt(run) if usual.get(point.topic) != point.here]
    rows: list[list[Child]] = [
        [point.topic, point.here, usual.get(point.topic, "–")] for point in differing
    ]
    head = ["setting", run.name, main.name]
    listed = table(f"{run.name} against {main.name}", head, rows, numeric=9) if rows else None
    lead = f"Where it differs from {main.name}." if rows else f"It has the settings of {main.name}."
    return join(
        section(run.anchor, "Differences", lead, listed),
        scores.table_of(run),
        learning([run], run.anchor) if run.learnt else None,
    )
