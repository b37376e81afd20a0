"""Experiments become runs: shared where they are equal, kept apart where they are not."""

from __future__ import annotations

from copy import deepcopy

import pytest

from spamo_cache.config import CacheSpec, Experiment, Pipeline, parse
from spamo_cache.config.loading import _override
from spamo_cache.workflow.experiments.plan import extractions, plan_experiments, stream_keys
from tests.support.pipelines import BASE

SPEC = {
    "name": "tiny",
    "streams": {
        "spatial": {"encoder": "open_clip", "weights": "clip"},
        "motion": {"encoder": "videomae", "weights": "videomae"},
    },
}


@pytest.fixture
def load():
    base = parse(BASE, Pipeline, where="test").model_dump(mode="json", exclude={"protocol"})

    def loaded(changes):
        document = deepcopy(base)
        for text in changes:
            _override(document, text)
        return parse(document, Pipeline, where="test")

    return loaded


def load_spec(pipeline):
    document = {**SPEC, "streams": {name: dict(one) for name, one in SPEC["streams"].items()}}
    for key, value in pipeline.spec_set.items():
        _override(document, f"{key}={value}")
    return parse(document, CacheSpec, where="test")


def experiment(name, **variants):
    labelled = {key: {"label": f"the {key} one", **value} for key, value in variants.items()}
    return parse(
        {"name": name, "question": "which?", "variants": labelled}, Experiment, where="test"
    )


STREAMS = experiment(
    "streams",
    both={},
    spatial={"set": {"streams": ["spatial"]}},
    again={"set": {"max_frames": 512}},
)
STRIDE = experiment(
    "stride",
    trained={"set": {"spec_set": {"streams.motion.stride": 4}}},
    tested={"eval_spec_set": {"streams.motion.stride": 4}},
    late={"eval_spec_set": {"streams.motion.phase": 2}},
    plain={},
)


def planned(experiments, load, seeds=(0,)):
    return plan_experiments(experiments, load, load_spec, {one.name: seeds for one in experiments})


def test_equal_settings_are_one_run(load):
    found = planned([STREAMS, STRIDE], load)
    assert [run.name for run in found.runs.values()] == [
        *("toy-0", "streams-spatial-0", "stride-trained-0"),
    ]
    by_name = {(trial.experiment, trial.variant): trial.run for trial in found.trials}
    shared = [("streams", "both"), ("streams", "again"), ("stride", "tested"), ("stride", "plain")]
    assert len({by_name[name] for name in shared}) == 1
    default = found.runs[by_name["stride", "plain"]]
    assert list(default.tests) == [{}, {"streams.motion.stride": 4}, {"streams.motion.phase": 2}]


def test_seeds_are_runs_of_their_own(load):
    found = planned([STREAMS], load, [3, 4])
    assert [run.name for run in found.runs.values()] == [
        *("toy-3", "streams-spatial-3", "toy-4", "streams-spatial-4"),
    ]
    assert {run.pipeline.seed for run in found.runs.values()} == {3, 4}
    assert [trial.seed for trial in found.trials] == [3, 4] * 3


def test_an_experiment_has_its_own_number_of_seeds(load):
    seeds = {"streams": [0, 1], "stride": [0]}
    found = plan_experiments([STREAMS, STRIDE], load, load_spec, seeds)
    assert [run.name for run in found.runs.values()] == [
        *("toy-0", "streams-spatial-0", "stride-trained-0", "toy-1", "streams-spatial-1"),
    ]
    by_seed = {run.pipeline.seed: run for run in found.runs.values() if run.name[:3] == "toy"}
    assert (len(by_seed[0].tests), len(by_seed[1].tests)) == (3, 1)


def test_a_run_says_what_it_is_for(load):
    plan = planned([STREAMS], load, [5])
    spatial = plan.runs[plan.trials[1].run].pipeline
    assert (spatial.name, spatial.seed) == ("streams-spatial", 5)
    assert spatial.question == "which? Here: the spatial one"


def test_a_variant_that_does_not_fit_hinders_no_other(load):
    odd = experiment(
        "odd",
        typo={"set": {"translate.rl": 1e-4}},
        stream={"set": {"streams": ["hands"]}},
        spec={"set": {"spec_set": {"streams.motion.strid": 4}}},
        test={"eval_spec_set": {"streams.motion.stride": "x"}},
        sweep={"set": {"sweep": {"seed": [1, 2]}}},
        fine={},
    )
    found = planned([odd], load)
    errors = {trial.variant: trial.error for trial in found.trials}
    assert errors.pop("fine") is None
    words = {"typo": "'lr'", "stream": "hands", "spec": "'stride'", "test": "stride"}
    for variant, word in (words | {"sweep": "sweep"}).items():
        assert word in errors[variant]
    assert len(found.runs) == 1


def test_only_some_experiments_keep_the_names_of_all(load):
    other = experiment("other", small={"set": {"streams": ["spatial"]}})
    found = planned([STREAMS, STRIDE, other], load)
    some = found.only(["other"])
    assert [run.name for run in some.runs.values()] == ["streams-spatial-0"]
    assert {trial.experiment for trial in some.trials} == {"other"}
    assert found.only(["streams"]).runs[found.trials[0].run].tests == ({},)


def test_a_run_can_start_from_another(load):
    more = {"init_from": "default", "align.steps": 0}
    tuned = experiment(
        "encoders",
        plain={"set": more},
        tuned={"set": {**more, "init_from": "plain"}},
        half={"set": {**more, "init_from": "base"}},
        base={"set": {"streams": ["motion"]}},
        lost={"set": {**more, "init_from": "nobody"}},
    )
    found = planned([tuned], load)
    by_name = {trial.variant: trial for trial in found.trials}
    assert [run.name for run in found.runs.values()] == [
        *("toy-0", "encoders-plain-0", "encoders-base-0", "encoders-half-0"),
    ]
    plain, half = (found.runs[by_name[name].run] for name in ("plain", "half"))
    assert plain.init_from is not None
    assert (plain.init_from.name, half.init_from.name) == ("toy-0", "encoders-base-0")
    assert plain.key != half.key
    assert plain.pipeline.init_from is None
    assert "'plain' starts from another run" in by_name["tuned"].error
    assert "no variant 'nobody'" in by_name["lost"].error
    # What only others start from is tested by nobody.
    assert found.runs[plain.init_from.key].tests == ()


def test_every_stream_is_extracted_once_and_for_tests_alone_in_part(load):
    found = extractions(planned([STREAMS, STRIDE], load).runs.values(), load_spec)
    told = [(list(one.streams), dict(one.pipeline.spec_set), one.tested) for one in found]
    assert told == [
        (["spatial", "motion"], {}, False),
        (["motion"], {"streams.motion.stride": 4}, False),
        (["motion"], {"streams.motion.phase": 2}, True),
    ]


def test_a_changed_stride_leaves_the_other_stream_as_it_is(load):
    plain = stream_keys(load([]), load_spec)
    changed = stream_keys(load(["spec_set.streams.motion.stride=4"]), load_spec)
    assert plain["spatial"] == changed["spatial"]
    assert plain["motion"] != changed["motion"]


def test_a_corpus_to_pretrain_on_is_extracted_too(load):
    found = planned(
        [
            experiment(
                "pretraining",
                before={"set": {"corpora": ["coast"]}},
                after={"set": {"init_from": "before"}},
            )
        ],
        load,
    )
    before, after = found.runs.values()
    assert after.init_from is not None
    assert after.init_from.key == before.key
    needed = extractions(found.runs.values(), load_spec)
    assert [(one.pipeline.corpus, list(one.streams)) for one in needed] == [
        (corpus, ["spatial", "motion"]) for corpus in (after.pipeline.corpus, "coast")
    ]
    assert not set(needed[0].streams.values()) & set(needed[1].streams.values())


def test_other_poses_are_other_features_of_the_streams_that_use_them(load, monkeypatch):
    monkeypatch.setitem(SPEC["streams"], "points", {"encoder": "pose"})
    streams = {"streams": ["spatial", "points"]}
    changes = ({}, {"spec_set": {"poses": "poses-drop-30"}})
    variants = {f"v{n}": {"set": {**streams, **change}} for n, change in enumerate(changes)}
    found = plan_experiments([experiment("any", **variants)], load, load_spec, {"any": [0]})
    needed = extractions(found.runs.values(), load_spec)
    assert [sorted(one.streams) for one in needed] == [["points", "spatial"], ["points"]]
