from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from spamo_cache import config, io
from spamo_cache.errors import DamagedError, SpamoError, UsageError
from spamo_cache.report import write_report
from spamo_cache.report.receipt import departures, encoder_of, receipt
from spamo_cache.report.runs import read_run
from spamo_cache.report.templating import render
from spamo_cache.report.translations import marked, spread
from spamo_cache.runs.documents import write_document
from spamo_cache.runs.folder import MetricsLine, RunFolder
from spamo_cache.runs.records import ScoredClip
from spamo_cache.runs.stages import STAGES, StagesDocument, StageTiming
from spamo_cache.store.inventory import by_fingerprint
from spamo_cache.store.layout import stream_spec
from spamo_cache.store.reader import FeatureStore

Build = Callable[..., Path]
Show = Callable[..., Any]


@pytest.mark.slow
def test_one_run_has_every_section(build_run: Build, page: Show) -> None:
    found = page(build_run())
    assert found.faults == []
    assert found.open == []
    for title in ("Scores", "Learning curves", "Translations", "Provenance",
                  "Reproduction receipt", "Configuration"):  # fmt: skip
        assert title in found.text
    assert "Does the whole path work" in found.text
    assert "BLEU-4 40.0 95 %: 36.0 to 44.0" in found.text
    assert "40.00 ±4.0" in found.text
    assert "test-shuffled" in found.text
    assert "recall@1 95 % dev, after VT-Align" in found.text
    assert "nrefs:1|tok:13a|version:2.6.0" in found.text
    assert "tcn: k5 p2 k5 p2" in found.text


@pytest.mark.slow
def test_the_page_is_self_contained_and_accessible(build_run: Build, page: Show) -> None:
    run = build_run(analysed=True)
    frames = [b"\xff\xd8 a picture"]
    found = page(run, frames=lambda _, clips: dict.fromkeys(clips, frames))
    html = (run.parent / "report.html").read_text(encoding="utf-8")
    for _, attributes in found.elements:
        assert not {"srcset", "data", "action"} & attributes.keys()
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg")
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
        assert not [key for key in attributes if key.startswith("on")]
    assert "@import" not in html
    assert "url(" not in html
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in found.all("meta"))
    assert "prefers-color-scheme: dark" in html
    assert found.all("html")[0]["lang"] == "en"
    assert len(found.all("h1")) == 1
    assert found.all("svg")
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in found.all("svg"))
    assert all(heading["scope"] in ("row", "col") for heading in found.all("th"))
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert max(Counter(ids).values()) == 1
    linked = {(a["href"] or "")[1:] for a in found.all("a")}
    assert linked <= set(ids)
    assert len(linked) == 10
    assert found.all("img")
    assert all(image["alt"] for image in found.all("img"))
    assert all(place["aria-label"] for _, place in found.elements if place.get("tabindex"))


def test_texts_of_the_corpus_are_escaped(build_run: Build, page: Show) -> None:
    found = page(build_run(question="Is </title><script>alert(1)</script> a question?"))
    assert found.faults == []
    assert len(found.all("script")) == 1
    marks = ["mark same", "mark unknown"]  # the headline, and a training sentence
    assert sorted(b.get("class", "") for b in found.all("b")) == [""] * 6 + marks
    assert "<script>alert('x')</script> & \"wind\"" in found.text
    assert "wind <b>aus</b> westen" in found.text
    assert "Is </title><script>alert(1)</script> a question?" in found.text


def test_a_template_without_one_of_its_variables_is_an_error_and_no_gap() -> None:
    known = {"place": "run-a", "written": "<b>&"}
    assert "<code>&lt;b&gt;&amp;</code>" in render("configuration.html", **known)
    for name in known:
        rest = {key: value for key, value in known.items() if key != name}
        with pytest.raises(UndefinedError, match=f"'{name}' is undefined"):
            render("configuration.html", **rest)


def test_translations_stand_beside_references_from_best_to_worst(
    build_run: Build, page: Show
) -> None:
    run = build_run()
    text = page(run).text
    assert "100 am montag regen im norden am montag regen im norden clip:0-0" in text
    assert "no translation: the file is cut off" in text
    listed = text[text.index("6 of 6 clips") :]
    assert listed.index("clip:0-0") < listed.index("clip:2-0") < listed.index("clip:4-0")
    assert "6 of 6 clips of test" in text


def test_many_translations_are_sampled_evenly_and_the_rest_folded(
    build_run: Build, page: Show
) -> None:
    found = page(build_run(repeat=10))
    assert "12 of 60 clips of test" in found.text
    assert "48 more, best first" in found.text
    listed = found.text[found.text.index("12 of 60") : found.text.index("One word said")]
    assert len(re.findall(r"clip:\d-\d", listed)) == 60


def test_even_spread_holds_both_ends() -> None:
    assert spread(5, 12) == [0, 1, 2, 3, 4]
    assert spread(100, 4) == [0, 33, 66, 99]


def test_words_without_partner_are_marked() -> None:
    line = ScoredClip(id="a", hypothesis="am <tag> regen", reference="am tag regen")
    assert marked(line) == "am <mark>&lt;tag&gt;</mark> regen"
    chinese = ScoredClip(id="a", hypothesis="你们好", reference="你好")
    assert marked(chinese) == "你<mark>们</mark>好"


def test_a_synthetic_corpus_is_labelled_and_a_real_one_is_not(build_run: Build, page: Show) -> None:
    synthetic, real = build_run("a"), build_run("b", corpus="phoenix14t")
    assert "Synthetic corpus." in page(synthetic).text
    told = page(real).text
    assert "Synthetic corpus." not in told
    assert "non-commercial research" in told


def test_a_corpus_of_ones_own_needs_no_registration(build_run: Build, page: Show) -> None:
    found = page(build_run(corpus="my-lab"))
    assert "default on my-lab" in found.text
    assert "Terms of use" not in found.text


def test_unfinished_unscored_and_shuffled_runs_say_so(build_run: Build, page: Show) -> None:
    text = page(build_run(finished=False, evaluated=False, shuffle_features=True)).text
    assert "Unfinished." in text
    assert "This run has not been evaluated yet." in text
    assert "A floor, not a result." in text


def test_several_runs_are_compared(build_run: Build, page: Show) -> None:
    found = page(build_run("full"), build_run("spatial", strength=20.0, streams=["spatial"]))
    assert found.faults == []
    assert "2 runs compared" in found.text
    assert "full test 58.00 52.00 46.00 40.00 56.00 52.00 36.0 to 44.0 6" in found.text
    assert "spatial test 29.00 26.00 23.00 20.00 28.00 26.00 18.0 to 22.0 6" in found.text
    curves = [
        svg["aria-label"] or ""
        for svg in found.all("svg")
        if "over steps" in (svg["aria-label"] or "")
    ]
    assert len(curves) == 3
    assert all("full:" in label and "spatial:" in label for label in curves)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert max(Counter(ids).values()) == 1


def test_stage_times_and_sizes_come_from_the_reproduction(build_run: Build, page: Show) -> None:
    run = build_run()
    assert "train 3 min 05 s" in page(run).text
    stages = [StageTiming("extract", seconds=318.0, bytes=41_000_000, reused=True)]
    write_document(run.parent / STAGES, StagesDocument(stages))
    assert "extract 5 min 18 s · 41.0 MB" in page(run).text


@pytest.mark.slow
def test_measures_of_alignment_are_shown_where_they_were_taken(
    build_run: Build, page: Show, analyse: Callable[..., None]
) -> None:
    run = build_run()
    assert "Alignment" not in page(run).text
    analyse(run, 0.5)
    assert "own sentence is the nearest 0.060 0.300 0.025" in page(run).text


def test_the_same_runs_give_the_same_bytes(build_run: Build) -> None:
    run = build_run()
    first = write_report([run], run.parent / "a.html").read_bytes()
    assert write_report([run], run.parent / "b.html").read_bytes() == first
    assert str(run.parent).encode() not in first


def test_the_receipt_lists_departures_with_reasons(build_run: Build, page: Show) -> None:
    found = receipt(read_run(build_run()))
    told = {point.topic: point for point in found}
    assert told["Streams"].same
    assert told["LLM"].same is False
    assert told["LLM tuning"].here == "LoRA on q, k, v, o, r 32, alpha 32, dropout 0.1"
    assert "test references" in told["Prompt"].why
    assert departures(found) == sum(1 for point in found if point.same is False)
    assert f"{departures(found)} of {len(found)} points depart" in page(build_run("again")).text


PAPER = config.load(config.shipped("cache_specs") / "spamo.yaml", config.CacheSpec)
RELEASE = PAPER.model_copy(
    update={
        "compute": "float32",
        "frames": PAPER.frames.model_copy(update={"resize": "pil"}),
        "store": PAPER.store.model_copy(update={"dtype": "float32"}),
    }
)


def stores_of(spec: config.CacheSpec) -> dict[str, dict[str, Any]]:
    """What stores say of themselves that were made by ``spec`` from the published weights."""
    named = {"spatial": ("openai", 2048), "motion": ("MCG-NJU/videomae-large@main", 1024)}
    return {
        stream: {"spec": stream_spec(spec, stream), "weights": weights, "width": width}
        for stream, (weights, width) in named.items()
    }


def test_the_paper_s_own_settings_leave_only_the_deliberate_departures(build_run: Build) -> None:
    stage = {"batch": 16, "lr": 6e-4}
    run = build_run(
        corpus="phoenix14t",
        llm={"weights": "google/flan-t5-xl@main"},
        adapter={},
        align=stage | {"steps": 4000},
        translate=stage | {"steps": 17_740},
        stores=stores_of(PAPER),
    )
    (run / "evaluation/test@streams.motion.stride=4.json").unlink()
    found = receipt(read_run(run))
    departing = [point for point in found if point.same is False]
    assert [point.topic for point in departing] == [
        "Spatial: resizing", "Spatial: kept as", "Motion: resizing", "Motion: kept as",
        "Long clips", "Prompt", "VT-Align pooling",
        "Batches that VT-Align and batch norm see", "Weight of the batches of a step",
        "Order of the clips", "Weight decay", "Learning rate", "Training sentences",
        "Weights kept", "Decoding", "Longest translation", "References", "Hypotheses",
        "ROUGE", "Clips without features",
    ]  # fmt: skip
    assert all(point.why for point in departing)
    # What was computed on which device no spec says.
    unknown = [point.topic for point in found if point.same is None]
    assert unknown == ["Spatial: arithmetic", "Motion: arithmetic"]


@pytest.mark.parametrize(
    ("stream", "change", "topic"),
    [
        ("spatial", {"weights": "laion2b_s32b_b82k"}, "weights"),
        ("spatial", {"weights": "tiny", "width": 64}, "weights"),
        ("spatial", {"spec": {"model": "ViT-L-14"}}, "network"),
        ("spatial", {"spec": {"scales": [1]}}, "scales"),
        ("spatial", {"spec": {"stride": 4}}, "frames"),
        ("spatial", {"spec": {"layer": -2}}, "output"),
        ("spatial", {"spec": {"output": "cls"}}, "output"),
        ("motion", {"weights": "MCG-NJU/videomae-base@main", "width": 768}, "weights"),
        ("motion", {"spec": {"encoder": "transformers"}}, "network"),
        ("motion", {"spec": {"window": 8}}, "windows"),
        ("motion", {"spec": {"stride": 4}}, "windows"),
        ("motion", {"spec": {"phase": 3}}, "windows"),
        ("motion", {"spec": {"tail": "pad"}}, "windows"),
        ("motion", {"spec": {"token": "mean"}}, "output"),
        ("motion", {"spec": {"compute": "bfloat16"}}, "arithmetic"),
    ],
)
def test_one_change_of_a_stream_departs_in_one_point(
    build_run: Build, stream: str, change: Any, topic: str
) -> None:
    spec = config.load(config.shipped("cache_specs") / "spamo.yaml", config.CacheSpec)
    release = {"resize": "pil", "compute": "float32", "dtype": "float32"}
    named = {"spatial": ("openai", 2048), "motion": ("MCG-NJU/videomae-large@main", 1024)}
    plain = {
        name: {"spec": stream_spec(spec, name) | release, "weights": weights, "width": width}
        for name, (weights, width) in named.items()
    }
    changed = plain[stream] | change
    changed["spec"] = plain[stream]["spec"] | change.get("spec", {})
    run = build_run(corpus="phoenix14t", stores=plain | {stream: changed})
    points = [p for p in receipt(read_run(run)) if p.topic.startswith(("Spatial:", "Motion:"))]
    assert [p.topic for p in points if not p.same] == [f"{stream.capitalize()}: {topic}"]


@pytest.mark.slow
def test_the_real_run_s_stores_are_told_wherever_they_lie(
    tiny: Any, page: Show, tmp_path: Path
) -> None:
    run, moved = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(tiny.run, run)
    shutil.copytree(tiny.folder / "features", moved)
    document = io.read_json(run / "run.json")
    document["places"] = dict.fromkeys(document["places"], str(tmp_path / "gone"))
    io.write_json(run / "run.json", document)
    for roots, held in (([str(moved)], {"ok": 10, "failed": 0, "absent": 0}), ([], None)):
        found = read_run(run, roots)
        assert [store.stream for store in found.stores] == ["spatial", "motion"]
        for store in found.stores:
            real = FeatureStore.open(tiny.stores[store.stream])
            assert store.about == real.about
            assert store.counts == held
            made_by = f"{encoder_of(real.about)} {real.about.weights}"
            row = f"{made_by} {real.about.weights_sha256[:12]} {real.width} 10"
            assert row in page(run, roots=roots).text
    points = {point.topic: point for point in receipt(found)}
    assert points["Spatial: weights"].same is False
    assert points["Motion: windows"].same is True
    assert points["Motion: output"].same is True


def test_stores_are_found_in_a_remote_root(tiny: Any, serve: Callable[..., Any]) -> None:
    server = serve(tiny.folder / "features")
    for name, path in tiny.stores.items():
        fingerprint = FeatureStore.open(path).fingerprint
        found = by_fingerprint([server.root], fingerprint)
        assert (found.stream, str(found.path).startswith("http://")) == (name, True)


def test_the_official_protocol_departs_in_nothing_that_was_run(build_run: Build) -> None:
    run = build_run(
        corpus="phoenix14t",
        llm={"weights": "google/flan-t5-xl@main", "in_context_languages": ["en", "fr", "es"]},
        adapter={},
        align={"batch": 16, "lr": 6e-4, "steps": 4000},
        translate={"batch": 32, "lr": 6e-4, "steps": 222_000},
        decode={"beams": 5},
        protocol="official",
        stores=stores_of(RELEASE),
    )
    found = {point.topic: point for point in receipt(read_run(run))}
    # Not of the protocol: one evaluation was made over another spec.
    departing = {name for name, point in found.items() if point.same is False}
    assert departing <= {"Cache spec", "Features at the test"}
    assert found["Batches that VT-Align and batch norm see"].here == "2 of 8 clips a step"
    # What was run decides, not what a switch is called.
    changed = {"batches_of_eight": False, "tokens_63": False, "lower_and_dot": False}
    run = build_run(
        "changed",
        translate={"batch": 32, "lr": 6e-4, "steps": 222_000},
        llm={"weights": "google/flan-t5-xl@main", "in_context_languages": ["en", "fr", "es"]},
        protocol={"official": True, **changed},
    )
    found = {point.topic: point for point in receipt(read_run(run))}
    for topic in ("Batches that VT-Align and batch norm see", "Longest translation", "Hypotheses"):
        assert found[topic].same is False, topic


def test_a_line_cut_off_by_a_kill_is_left_out(build_run: Build) -> None:
    run = build_run(finished=False)
    whole = len(read_run(run).metrics)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "translate", "st')
    assert len(read_run(run).metrics) == whole
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n{}\n")
    with pytest.raises(SpamoError, match="is not the JSON it was"):
        read_run(run)


def test_a_line_of_metrics_of_another_shape_is_one_clear_error(build_run: Build) -> None:
    run = build_run(finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(io.to_json({"stage": "align", "loss": 1.0}) + "\n")
    with pytest.raises(DamagedError, match=r"is no line of metrics: step: .*valid integer"):
        read_run(run)


def test_numbers_that_are_not_finite_are_left_out_of_curves(build_run: Build) -> None:
    run = build_run(finished=False)
    before = read_run(run).curve("lm", "translate")
    RunFolder(run).log(MetricsLine("translate", 410, {"lm": math.nan}))
    assert read_run(run).curve("lm", "translate") == before


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("evaluation/test.json", "{", "is not the JSON it was"),
        ("evaluation/test.json", '{"n": 3}', "disagrees with its own checksum"),
        ("done.json", "[1]", "holds no JSON object"),
        ("config.yaml", "name: another", "is not what the run wrote"),
        ("../stages.json", '[{"name": "x"}]', "holds no JSON object"),
    ],
)
def test_damaged_files_are_one_clear_error(
    build_run: Build, name: str, content: str, told: str
) -> None:
    run = build_run()
    (run / name).write_text(content)
    with pytest.raises(SpamoError, match=told) as caught:
        write_report([run], run.parent / "r.html")
    assert Path(name).name in str(caught.value)
    assert not (run.parent / "r.html").exists()


def test_no_run_and_no_place_are_told(build_run: Build, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run was given"):
        write_report([], tmp_path / "r.html")
    with pytest.raises(UsageError, match="holds no run"):
        write_report([tmp_path], tmp_path / "r.html")
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(SpamoError, match="report cannot be written") as caught:
        write_report([build_run()], blocked / "r.html")
    assert "part of this path is a file" in str(caught.value)
    with pytest.raises(SpamoError, match="Is a directory") as caught:
        write_report([build_run()], tmp_path)
    assert "a folder has this name" in str(caught.value)


def test_a_full_disk_is_no_reason_to_choose_another_name(
    build_run: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    run = build_run()
    monkeypatch.setattr(io, "write_atomic", full)
    with pytest.raises(SpamoError, match="No space left on device") as caught:
        write_report([run], tmp_path / "r.html")
    assert "free some space" in str(caught.value)


def test_every_colour_of_the_figures_has_a_style(build_run: Build) -> None:
    html = write_report([build_run()], build_run("b").parent / "r.html").read_text("utf-8")
    style = html[html.index("<style>") : html.index("</style>")]
    used = {name for svg in re.findall(r"<svg.*?</svg>", html, re.S)
            for value in re.findall(r'class="([^"]+)"', svg) for name in value.split()}  # fmt: skip
    assert used - {"tick"} <= set(re.findall(r"\.([a-z][\w-]*)", style))
