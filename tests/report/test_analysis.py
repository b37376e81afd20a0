"""What analyses left behind, as a page shows it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spamo_cache import io
from spamo_cache.errors import SpamoError
from spamo_cache.report.figures.filmstrip import BINS, binned
from spamo_cache.report.receipt import receipt
from spamo_cache.report.runs import read_run
from spamo_cache.runs.analyses import analysis_file, read_analysis
from spamo_cache.runs.attributions import FOLDER, read_attribution
from spamo_cache.runs.records import card_file, read_card, read_lines

Build = Callable[..., Path]
Show = Callable[..., Any]


def test_alignment_stands_before_and_after_beside_chance(build_run: Build, page: Show) -> None:
    found = page(build_run(analysed=True))
    assert "own sentence is the nearest 0.060 0.540 0.025" in found.text
    assert "modality gap: distance of the two means 0.900 0.100" in found.text
    assert "entropy of sign features (nats) 2.00 4.70" in found.text
    assert "KL divergence of sign from text (nats) 4.00 0.30" in found.text
    figures = [svg["aria-label"] for svg in found.all("svg")]
    assert any("recall@1 0.54, before 0.06, by chance 0.03" in told for told in figures)
    assert any("sign features, after 4.70, 95 percent 4.66 to 4.74" in told for told in figures)
    assert "leave-one-out Gaussian kernels" in found.text


def test_an_imported_run_says_why_nothing_is_known_of_before(
    build_run: Build, page: Show, analyse: Callable[..., None]
) -> None:
    run = build_run()
    analyse(run, before=None, before_missing="its first weights are not known", entropy=None)
    told = page(run).text
    assert "Nothing is known of before: its first weights are not known." in told
    assert "own sentence is the nearest 0.540 0.025" in told


def test_visual_tokens_have_chance_and_examples_that_are_escaped(
    build_run: Build, page: Show
) -> None:
    found = page(build_run(analysed=True))
    assert "coverage: words that some row names, the glosses 0.070 0.630 0.120 0.020" in found.text
    assert "(999 times). Nearest by cosine. " in found.text
    assert "MONTAG REGEN am montag <b>regen</b> ✓ montag <i>" in found.text
    assert [item.get("class") for item in found.all("li")].count("hit") == 1


def test_attribution_is_drawn_on_the_clip_s_frames(build_run: Build, page: Show) -> None:
    found = page(build_run(analysed=True))
    assert len(found.all("image")) == 6
    assert all(image["href"].startswith("data:image/jpeg") for image in found.all("image"))
    (strip,) = [svg for svg in found.all("svg") if svg["class"] == "strip"]
    assert "spatial: " in strip["aria-label"]
    assert "most of them from 30 to 40 percent" in strip["aria-label"]
    # The bump is 0.9 at most.
    assert "tallest bar: 0.90 nats" in found.text
    assert "spatial 70 %, motion 30 %; the sum misses 1.3 %" in found.text


def test_bins_divide_a_curve_without_losing_any() -> None:
    curve = [float(n) for n in range(1, 131)]
    assert len(binned(curve)) == BINS
    assert sum(binned(curve)) == sum(curve)
    assert binned([1.0, 2.0]) == [1.0, 2.0]


def test_an_analysis_of_another_shape_is_one_clear_error(build_run: Build) -> None:
    run = build_run(analysed=True)
    file = analysis_file(run, "test")
    known = io.read_json(file)
    known["after"]["alignment"]["cka"] = "much"
    io.write_json(file, known)
    with pytest.raises(SpamoError, match=r"is no analysis: after\.alignment\.cka: "):
        read_run(run)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"length": 7}, r"streams\.spatial\.curve"),
        ({"streams": 3}, "streams"),
        ({"length": 0}, "curve"),
    ],
)
def test_a_damaged_attribution_is_one_clear_error(build_run: Build, changes: Any, key: str) -> None:
    run = build_run(analysed=True)
    file = run / "analysis/attribution/clip.json"
    io.write_json(file, io.read_json(file) | changes)
    with pytest.raises(SpamoError, match=f"is no attribution: .*{key}"):
        read_run(run)


def test_pictures_are_taken_from_the_folder_only(build_run: Build, tmp_path: Path) -> None:
    run = build_run(analysed=True)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    file = run / "analysis/attribution/clip.json"
    whole = io.read_json(file)["shots"][0]
    shots = [whole | {"at": 0, "file": "../../../../secret.jpg"}, whole | {"at": 1}]
    io.write_json(file, io.read_json(file) | {"shots": shots})
    (found,) = read_run(run).attributions
    assert [at for at, _ in found.shots] == [1]


def test_the_receipt_knows_what_experiments_turn(build_run: Build) -> None:
    plain = {point.topic for point in receipt(read_run(build_run("plain")))}
    run = build_run(
        spec_set={"streams.motion.stride": 4},
        train_fraction=0.25,
        encoders={"blocks": 2},
        init_from="runs/plain",
        protocol={"english_rouge": True},
    )
    found = {point.topic: point for point in receipt(read_run(run))}
    assert found["Cache spec"].here == "streams.motion.stride = 4"
    assert found["Training clips"].here == "a sample of 25 %"
    assert (
        found["Visual encoders"].here
        == "LoRA on the last 2 blocks of each, r 8, trained from frames"
    )
    assert found["First weights"].same is False
    assert found["ROUGE"].same is True
    assert not plain & {"Cache spec", "Training clips", "Visual encoders", "First weights"}
    tested = found["Features at the test"]
    assert (tested.here, tested.same) == ("streams.motion.stride = 4", False)
    assert "test@streams.motion.stride=4" in tested.why


def test_what_was_really_measured_is_what_is_shown(tiny: Any, page: Show, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny.run, run)
    found = page(run, roots=tiny.roots)
    measured, card = read_analysis(run, "test"), read_card(card_file(run, "test"))
    assert measured is not None
    assert measured.before is not None
    assert measured.after.tokens.text is not None
    after = measured.after.alignment
    recalls = [measured.before.alignment.recall_at_1, after.recall_at_1, after.chance_at_1]
    assert f"is the nearest {' '.join(f'{one:.3f}' for one in recalls)}" in found.text
    tokens = measured.after.tokens.text.coverage
    assert f"{tokens.value:.3f} {tokens.chance:.3f} {tokens.spread:.3f}" in found.text
    (document,) = map(read_attribution, (run / FOLDER).glob("*.json"))
    shares = ", ".join(
        f"{name} {100 * stream.share:.0f} %" for name, stream in document.streams.items()
    )
    assert f"{tiny.clip} · {shares}; the sum misses" in found.text
    assert len(found.all("image")) == len(document.shots) == 1
    assert f"clips of test {card.n}" in found.text
    for line in read_lines(run, "test"):
        assert f"{line.reference} " in found.text
        assert line.id in found.text
