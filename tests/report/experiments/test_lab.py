from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spamo_cache import io
from spamo_cache.errors import SpamoError, UsageError
from spamo_cache.report import write_report
from spamo_cache.report.experiments import read_results

Build = Callable[..., Path]
Show = Callable[..., Any]

HEADLINE = {"rouge": "rouge_l", "tokenize": "13a"}


def change(path: Path, **changes: Any) -> None:
    io.write_json(path, io.read_json(path) | changes)


@pytest.mark.slow
def test_every_experiment_has_its_question_its_paper_and_its_table(
    build_lab: Build, page: Show
) -> None:
    found = page(build_lab())
    assert found.faults == []
    assert "3 experiments · 6 finished runs" in found.text
    for question in ("Are both streams needed?", "How far apart?", "How much data?"):
        assert question in found.text
    assert "The paper: SE+ME 22.26, SE 21.11" in found.text
    assert "translate.steps=300" in found.text
    row = "22.00 ±2.2 −18.0 1.000 30.80 ±3.1 28.60 ±2.9 22.0 0.5 M 3 min 05 s 1.5 GB 6"
    assert f"spatial spatial it is run spatial {row}" in found.text
    assert "both both it is run default 40.00 ±4.0 –" in found.text


@pytest.mark.slow
def test_what_failed_says_why_and_what_is_missing_is_named(build_lab: Build, page: Show) -> None:
    told = page(build_lab()).text
    assert "motion: stopped: no memory" in told
    assert "Not finished yet: floor, not-begun." in told
    assert "2 of 5" in told


@pytest.mark.slow
def test_seeds_become_a_mean_and_a_standard_deviation(build_lab: Build, page: Show) -> None:
    folder = build_lab()
    half = read_results(folder).experiments[2].variants[1]
    assert half.scores("bleu4") == pytest.approx([30.0, 31.0])
    assert half.mean("bleu4") == pytest.approx(30.5)
    assert half.half("bleu4") == pytest.approx(0.5**0.5)
    assert half.bounds("bleu4") == pytest.approx((30.5 - 0.5**0.5, 30.5 + 0.5**0.5))
    told = page(folder).text
    assert "30.50 ±0.7" in told
    assert "Means of up to 2 seeds; ± is their standard deviation" in told


@pytest.mark.slow
def test_an_axis_becomes_a_curve_and_a_changed_test_one_of_its_own(
    build_lab: Build, page: Show
) -> None:
    told = [svg["aria-label"] for svg in page(build_lab()).all("svg")]
    # For a phone, and for a wide screen.
    stride, same = [one for one in told if "against stride in frames (logarithmic)" in one]
    assert stride == same
    assert "8: 40.0, 36.0 to 44.0" in stride
    assert "4: 38.0, 34.2 to 41.8" in stride
    assert "tested-4 at 4: 28.0, 25.2 to 30.8" in stride
    # The curve of tests begins where nothing is changed.
    assert stride.count("stride-8 at 8: 40.0") == 2
    data, _ = [one for one in told if "against share of the training clips" in one]
    assert "1/4: 21.0" in data


@pytest.mark.slow
def test_the_amount_of_data_has_a_fit_and_nothing_else(build_lab: Build, page: Show) -> None:
    found = page(build_lab())
    assert found.text.count("for each doubling; residual standard error") == 1
    assert found.text.count(", 4 runs; x is the share of the training clips.") == 1


@pytest.mark.slow
def test_variants_are_held_against_the_pipeline_as_it_stands(build_lab: Build) -> None:
    streams, stride, _ = read_results(build_lab()).experiments
    assert (streams.base.name, stride.base.name) == ("both", "stride-8")
    assert [streams.gain(v) for v in streams.variants[:3]] == [None, pytest.approx(-18.0), None]


@pytest.mark.slow
def test_the_overview_names_both_ends_and_calls_none_of_them_the_best(
    build_lab: Build, page: Show
) -> None:
    told, chance = page(build_lab()).text, " may be chance"
    assert f"streams Are both streams needed? 40.0 both – −18.0 spatial{chance} 2 of 5" in told
    assert (
        f"stride How far apart? 40.0 stride-8 −12.0 tested-4{chance} −2.0 stride-4{chance} 3 of 3"
    ) in told


@pytest.mark.slow
def test_a_single_seed_is_told_before_any_number(build_lab: Build, page: Show) -> None:
    folder = build_lab()
    assert "One seed." not in page(folder).text
    change(folder / "results.json", seeds=[0])
    told = page(folder).text
    assert told.index("One seed. Every run was trained once.") < told.index("Overview BLEU-4")


@pytest.mark.slow
def test_a_figure_says_by_itself_what_its_bands_and_lines_are(build_lab: Build, page: Show) -> None:
    told = page(build_lab()).text
    assert "Bands: 95 % interval over clips of one seed. Dashed: “both”." in told
    assert "Bars: standard deviation over up to 2 seeds. Dashed: y = " in told


@pytest.mark.slow
def test_weights_of_another_run_are_told_and_their_training_is_not_counted_again(
    build_lab: Build, build_run: Build, add: Build, page: Show
) -> None:
    folder = build_lab()
    nothing = {"batch": 16, "lr": 1e-3, "steps": 0}
    elsewhere = "/before/it/was/moved/spatial"
    build_run("sampled", init_from=elsewhere, align=nothing, translate=nothing)
    build_run("more", init_from=elsewhere)
    for name in ("sampled", "more"):
        add(folder, name, set={"init_from": "spatial"})
    found = page(folder)
    assert "sampled sampled it is weights of run spatial 40.00 ±4.0 +0.0" in found.text
    assert "52.00 ±5.2 – – – – 6 more more it is goes on from run spatial 40.00" in found.text
    assert "First weights those of spatial –" in found.text
    assert "Nothing was logged" not in found.text


@pytest.mark.slow
def test_folds_are_summed_up_in_a_line_of_their_own(
    build_lab: Build, build_run: Build, add: Build, page: Show
) -> None:
    folder = build_lab()
    for number, strength in enumerate((10.0, 16.0), start=1):
        name = f"fold-{number}"
        build_run(name, strength=strength, resplit={"by": "signer", "folds": 2, "fold": number})
        card = folder.parent / name / "evaluation/test.json"
        change(card, resplit=f"fold {number} of 2 by signer, seed 0")
        add(folder, name, set={"resplit": {"by": "signer"}}, group="new signers")
    told = page(folder).text
    line = "new signers mean and standard deviation of 2 variants 13.00 ±4.2 −27.0"
    assert line in told
    assert "Tested on splits drawn anew: fold-1, fold-2." in told
    assert "Of “new signers”: standard deviation over its variants." in told


@pytest.mark.slow
def test_variants_that_change_nothing_are_named(
    build_lab: Build, build_run: Build, add: Build, page: Show
) -> None:
    folder = build_lab()
    told = "Equal to “both” in every score, so that these runs tell nothing of them: cropped."
    assert "Equal to" not in page(folder).text
    build_run("cropped", protocol={"crop_at_random": True})
    add(folder, "cropped", set={"protocol.crop_at_random": True})
    assert page(folder).text.count(told) == 1
    change(
        folder.parent / "cropped/evaluation/test.json",
        headline={**HEADLINE, "rouge": "rouge_l_official"},
    )
    assert "Equal to" not in page(folder).text


@pytest.mark.slow
def test_scores_of_the_split_that_chose_the_weights_are_not_called_dev(
    build_lab: Build, build_run: Build, add: Build, page: Show
) -> None:
    folder = build_lab()
    build_run("peeked", protocol={"select_on_test": True})
    add(folder, "peeked", set={"protocol.select_on_test": True})
    told = page(folder).text
    assert (
        "peeked peeked it is run peeked 40.00 ±4.0 +0.0 1.000 56.00 ±5.6 52.00 ±5.2 – 0.5 M" in told
    )
    assert "Translating: BLEU-4 on test" in told
    assert "recall@1 95 % test, after VT-Align" in told


@pytest.mark.slow
def test_the_rouge_that_a_card_quotes_is_shown_and_named(build_lab: Build, page: Show) -> None:
    folder = build_lab()
    change(
        folder.parent / "spatial/evaluation/test.json",
        headline={**HEADLINE, "rouge": "rouge_l_official"},
    )
    told = page(folder).text
    assert "30.80 ±3.1 26.40 ±2.6 release 22.0" in told
    assert "56.00 ±5.6 52.00 ±5.2 40.0" in told


@pytest.mark.slow
def test_alignment_is_compared_where_several_variants_were_looked_into(
    build_lab: Build, page: Show, analyse: Callable[..., None]
) -> None:
    folder = build_lab()
    assert "Where clips and their sentences lie" not in page(folder).text
    analyse(folder.parent / "spatial", 0.5)
    told = page(folder).text
    assert told.count("Where clips and their sentences lie after training") == 1
    assert "measure spatial both by chance recall@1" in told
    assert "own sentence is the nearest 0.300 0.540 0.025" in told


@pytest.mark.slow
def test_runs_stand_once_and_links_lead_to_them(build_lab: Build, page: Show) -> None:
    found = page(build_lab())
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert max(Counter(ids).values()) == 1
    linked = {a["href"][1:] for a in found.all("a")}
    assert linked <= set(ids)
    assert {"run-default", "run-spatial", "run-data-half-1", "experiment-data"} <= linked
    # The default in full, the others by what they have otherwise.
    assert found.text.count("Configuration") == 1
    assert "Streams spatial spatial + motion" in found.text
    assert "Stands behind streams/both, stride/stride-8, stride/tested-4, data/all." in found.text
    assert "Training clips a sample of 25 %" in found.text


@pytest.mark.slow
def test_shapley_values_and_their_coalitions(build_lab: Build, page: Show) -> None:
    found = page(build_lab())
    told = [svg["aria-label"] for svg in found.all("svg")]
    assert any("SE +20.0 plus or minus 2.0; ME +18.5" in one for one in told)
    assert "nothing (3.0 BLEU-4) to everything (40.0)" in found.text
    assert "nobody the floor 3.00" in found.text


@pytest.mark.slow
def test_a_page_can_be_made_before_anything_is_finished(build_lab: Build, page: Show) -> None:
    folder = build_lab()
    file = folder / "results.json"
    known = io.read_json(file)
    for experiment in known["experiments"]:
        for variant in experiment["variants"]:
            for run in variant["runs"]:
                run["path"] = "../nowhere"
    io.write_json(file, known)
    found = page(folder)
    assert found.faults == []
    assert "3 experiments · 0 finished runs" in found.text
    assert "Not finished yet" in found.text


@pytest.mark.slow
def test_forty_runs_take_seconds_and_megabytes(build_lab: Build) -> None:
    folder = build_lab(extra=34)
    started = time.process_time()
    out = write_report([folder], folder / "r.html")
    assert time.process_time() - started < 5
    assert len(read_results(folder).runs) == 40
    assert out.stat().st_size < 5e6


@pytest.mark.slow
def test_experiments_and_runs_are_not_mixed(build_lab: Build) -> None:
    folder = build_lab()
    with pytest.raises(UsageError, match="a page of their own"):
        write_report([folder, folder.parent / "default"], folder / "r.html")


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [{}, {"corpus": "x", "experiments": [{"name": "a", "variants": []}]}]
)
def test_results_of_another_kind_are_one_clear_error(build_lab: Build, damage: Any) -> None:
    folder = build_lab()
    io.write_json(folder / "results.json", damage)
    with pytest.raises(SpamoError, match="holds no") as caught:
        write_report([folder], folder / "r.html")
    assert "results.json" in str(caught.value)
