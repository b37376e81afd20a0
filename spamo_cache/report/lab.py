"""The page of a corpus's experiments: a question each, and what the runs answer."""

from __future__ import annotations

from collections.abc import Sequence

from spamo_cache.report import scores
from spamo_cache.report.confusions import Frames
from spamo_cache.report.contributions import shapley
from spamo_cache.report.experiments import Experiment, Results
from spamo_cache.report.learning import learning
from spamo_cache.report.markup import Child, Markup, join, signed, tag
from spamo_cache.report.outcomes import answer, place_of
from spamo_cache.report.parts import cell, section, table
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
        page_header(told, title, None, banners(results.runs), _settings(results)),
        contents(links),
        tag(
            "main",
            _overview(results),
            *(answer(one) for one in results.experiments),
            split,
            _runs(main, runs, frames),
        ),
    )


def _main_run(results: Results) -> Run | None:
    """The run shown in full: ``default``, else what the first experiment is held against."""
    named = [run for run in results.runs if run.pipeline.name == "default"]
    held = [run for one in results.experiments for run, _ in one.first.scored]
    return next(iter((*named, *held, *results.runs)), None)


def _settings(results: Results) -> Markup | None:
    seeds = ", ".join(map(str, results.seeds))
    facts = {"settings changed for all runs": ", ".join(results.set), "seeds": seeds}
    items = [join(tag("dt", k), tag("dd", tag("code", v))) for k, v in facts.items() if v]
    return tag("dl", *items, class_="facts") if items else None


def _overview(results: Results) -> Markup:
    rows = [_overview_row(one) for one in results.experiments]
    head = ["experiment", "question", "held against", "best variant", "BLEU-4", "gain", "runs"]
    lead = (
        "BLEU-4 of each experiment's best variant, and what it has more than the variant that all "
        "are held against. The best of several is chosen by the very score that is shown: it "
        "flatters. The tables below have every variant with its interval."
    )
    listed = table("Experiments", head, rows, numeric=4, class_="overview")
    return section("page", "Overview", lead, listed)


def _overview_row(one: Experiment) -> list[Child]:
    scored = [variant for variant in one.variants if variant.mean("bleu4") is not None]
    link = tag("a", one.name, href=f"#{place_of(one)}")
    done = sum(len(variant.scored) for variant in one.variants)
    wanted = done + sum(variant.waiting + len(variant.errors) for variant in one.variants)
    count = cell(done, f"{done} of {wanted}")
    if not scored:
        return [link, one.question, one.first.name, "–", cell(None), cell(None), count]
    best = max(scored, key=lambda variant: variant.mean("bleu4") or 0.0)
    value, held = best.mean("bleu4") or 0.0, one.first.mean("bleu4")
    gain = (
        cell(None)
        if held is None or best is one.first
        else cell(value - held, signed(value - held))
    )
    return [link, one.question, one.first.name, best.name, cell(value, digits=1), gain, count]


def _runs(main: Run | None, runs: Sequence[Run], frames: Frames | None) -> Markup | None:
    if main is None:
        return None
    lead = (
        f"First {main.name} with everything known of it; the others in short. Each stands here "
        "once, however many experiments it answers."
    )
    full = [scores.cards(main), *run_parts(main, frames).values()]
    return join(
        section("page", "Runs", lead),
        folded(main, full, open_=True),
        *(folded(run, [scores.cards(run), _short(run, main)]) for run in runs),
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
        learning([run], run.anchor),
    )
