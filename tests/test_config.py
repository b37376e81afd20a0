"""Configuration: unknown keys, wrong types, overrides, where things lie."""

import os
from pathlib import Path

import pytest

from spamo_cache import config
from spamo_cache.config import CacheSpec, MotionStream, Pipeline, SpatialStream
from spamo_cache.config.strict import StrictModel
from spamo_cache.errors import ConfigError

SPEC = """\
name: tiny
streams:
  spatial: {encoder: open_clip, weights: clip-vision, scales: [1, 2]}
  motion: {encoder: videomae, weights: videomae}
"""

PIPELINE = """\
name: tiny
question: Does it load?
corpus: signed-weather
spec: tiny
text: {language: German}
llm: {weights: t5}
align: {steps: 2, batch: 4, lr: 1e-3}
translate: {steps: 3, batch: 4, lr: 1.0e-4}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "document.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_streams_become_the_models_of_their_encoders(tmp_path: Path) -> None:
    spec = config.load(write(tmp_path, SPEC), CacheSpec)
    assert isinstance(spec.streams["spatial"], SpatialStream)
    assert spec.streams["spatial"].scales == (1, 2)
    assert isinstance(spec.streams["motion"], MotionStream)
    assert (spec.streams["motion"].window, spec.streams["motion"].stride) == (16, 8)


def test_exponents_without_a_dot_are_numbers(tmp_path: Path) -> None:
    pipeline = config.load(write(tmp_path, PIPELINE), Pipeline)
    assert pipeline.align.lr == 0.001
    overridden = config.load(write(tmp_path, PIPELINE), Pipeline, ["translate.lr=5e-5"])
    assert overridden.translate.lr == 5e-5


def test_models_are_frozen(tmp_path: Path) -> None:
    pipeline = config.load(write(tmp_path, PIPELINE), Pipeline)
    with pytest.raises(ValueError, match="frozen"):
        pipeline.seed = 1  # type: ignore[misc]


def test_the_resolved_document_loads_as_the_same_pipeline(tmp_path: Path) -> None:
    pipeline = config.load(write(tmp_path, PIPELINE), Pipeline, ["seed=3"])
    resolved = pipeline.model_dump(mode="json")
    assert config.parse(resolved, Pipeline, where="resolved") == pipeline


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("question:", "qestion:", "unknown key 'qestion'; nearest is 'question'"),
        ("batch: 4, lr: 1e-3", "batchs: 4, lr: 1e-3", "'align.batchs'; nearest is 'batch'"),
        ("name: tiny\n", "", "name: Field required"),
        ("steps: 2", "steps: two", "align.steps: Input should be a valid integer (got 'two')"),
        ("steps: 2", "steps: '2'", "align.steps: Input should be a valid integer (got '2')"),
        ("steps: 2", "steps: true", "align.steps: Input should be a valid integer (got True)"),
        ("lr: 1e-3", "lr: .nan", "align.lr: Input should be a finite number"),
        ("steps: 2", "steps: -1", "align.steps: Input should be greater than or equal to 0"),
        ("name: tiny", "name: ../up", "name: String should match pattern"),
        ("llm: {weights: t5}", "llm: t5", "llm: Input should be"),
        ("spec: tiny", "spec: tiny\nstreams: [motion, motion]", "name one twice"),
        ("spec: tiny", "spec: tiny\nstreams: []", "streams: Tuple should have at least 1 item"),
        ("spec: tiny", "spec: tiny\nspec: other", "'spec' twice"),
        ("spec: tiny", "spec: tiny\nadapter: {tcn: x3}", "adapter.tcn: String should match"),
        ("spec: tiny", "spec: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("spec: tiny", "spec: 2020-13-45", "not valid YAML"),
        ("spec: tiny", "spec: " + "[" * 5000, "not valid YAML"),
        ("name: tiny", "1: tiny", "Keys should be strings"),
        ("spec: tiny", "spec: !!str tiny", "the tag tag:yaml.org,2002:str"),
        ("spec: tiny", "spec: &a [*a]", "*a stands for a part of itself"),
        ("spec: tiny", "spec: &a {<<: *a}", "*a stands for a part of itself"),
        ("steps: 2", "steps: 0x" + "f" * 5000, "a number of 20000 bits"),
        ("steps: 2", "steps: " + "1:" * 500 + "1", "bits"),
        ("spec: tiny", "spec: tiny\n" + "x" * 300 + ": 1", "a key of 300 characters"),
        ("spec: tiny", f"spec: &a {'[' * 20 + ']' * 20}\nx: {'[' * 20}*a{']' * 20}", "deeper than"),
        ("spec: tiny", "#" * (1 << 18), "is larger than 262,144 bytes"),
    ],
)
def test_a_fault_is_one_clear_error(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in PIPELINE
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, PIPELINE.replace(old, new, 1)), Pipeline)
    assert expected in str(caught.value)
    assert "document.yaml" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("scales", "scalse", "unknown key 'streams.spatial.scalse'; nearest is 'scales'"),
        ("encoder: videomae", "encoder: videomea", "streams.motion: Input tag 'videomea'"),
        ("scales: [1, 2]", "scales: [1, '2']", "streams.spatial.scales.1: Input should be"),
        ("scales: [1, 2]", "scales: []", "streams.spatial.scales: Tuple should have at least 1"),
        ("spatial:", "../spatial:", "String should match pattern"),
        # As long as a store can be named, and no longer.
        ("spatial:", "s" * 65 + ":", "String should match pattern"),
        ("name: tiny", "name: tiny\nstore: {shard_rows: {frame: 33, window: 8}}", "multiple of"),
        ("name: tiny", "name: tiny\nstor: {}", "unknown key 'stor'; nearest is 'store'"),
    ],
)
def test_faults_of_a_cache_spec_name_the_users_own_keys(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, SPEC.replace(old, new, 1)), CacheSpec)
    assert expected in str(caught.value)
    assert "open_clip." not in str(caught.value)


def test_every_fault_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    text = PIPELINE.replace("steps: 2", "steps: x").replace("question", "qestion")
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text), Pipeline)
    for fault in ("align.steps", "'qestion'", "question: Field required"):
        assert fault in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"- 1\n", b"text", b"\xff\xfe\x00", b"a: [", b"a: \x00"])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        config.load(path, CacheSpec)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path / "none.yaml", CacheSpec)
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path, CacheSpec)


# --- bases ---------------------------------------------------------------------------------------


def test_a_file_may_change_a_base_beside_it(tmp_path: Path) -> None:
    write(tmp_path, PIPELINE).rename(tmp_path / "default.yaml")
    changes = "base: default.yaml\nname: other\nalign: {steps: 9}\nstreams: [motion]\n"
    path = write(tmp_path, changes)
    pipeline = config.load(path, Pipeline, ["align.batch=5"])
    assert (pipeline.name, pipeline.corpus, pipeline.streams) == (
        "other",
        "signed-weather",
        ("motion",),
    )
    assert (pipeline.align.steps, pipeline.align.batch, pipeline.align.lr) == (9, 5, 0.001)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("none.yaml", "'none.yaml' is no file"),
        ("pipelines/none/default.yaml", "is no file"),
        ("/etc/passwd", "no pipelines entry named '/etc/passwd'"),
        ("phoenix14", "nearest is 'phoenix14t'"),
        ("3", "base: 3 is no name of a file"),
        ("''", "is no name of a file"),
        ("document.yaml", "leads back to where it began: .*document.yaml -> .*document.yaml"),
        ("sub/../document.yaml", "leads back to where it began"),
        ("round.yaml", "document.yaml -> .*round.yaml -> .*document.yaml"),
    ],
)
def test_a_base_that_cannot_be_one(tmp_path: Path, base: str, words: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "round.yaml").write_text("base: document.yaml\n")
    with pytest.raises(ConfigError, match=words):
        config.load(write(tmp_path, f"base: {base}\nname: other\n"), Pipeline)


def test_what_lies_beside_a_base_in_the_same_folder_keeps_its_name() -> None:
    """A store says what its weights are called: no path of the machine that made it."""
    file = config.shipped("cache_specs") / "signed-weather-regions.yaml"
    spec = config.load(file, CacheSpec)
    assert spec.streams["spatial"].weights == "signed-weather/clip-vision"


def test_a_base_may_lie_anywhere_and_have_one_of_its_own(tmp_path: Path) -> None:
    lab, mine = tmp_path / "lab", tmp_path / "mine" / "runs"
    (lab / "llm").mkdir(parents=True)
    mine.mkdir(parents=True)
    (lab / "lab.yaml").write_text("base: phoenix14t\nllm: {weights: llm}\nspec: s.yaml\n")
    (lab / "s.yaml").write_text("")
    (mine.parent / "mine.yaml").write_text("base: ../lab/lab.yaml\nname: mine\n")
    (mine / "seed.yaml").write_text("base: ../mine.yaml\nseed: 3\n")
    pipeline = config.load(mine / "seed.yaml", Pipeline)
    assert (pipeline.name, pipeline.seed, pipeline.corpus) == ("mine", 3, "phoenix14t")
    # What lies beside a base is found from the file that stands on it.
    assert (mine / pipeline.llm.weights).resolve() == lab / "llm"
    assert (mine / pipeline.spec).resolve() == lab / "s.yaml"
    shipped = config.load(write(tmp_path, "base: signed-weather\nseed: 1\n"), Pipeline)
    assert Path(shipped.llm.weights) == config.shipped("pipelines") / "signed-weather" / "llm"
    assert shipped.spec == "signed-weather"
    named = config.load(write(tmp_path, "base: pipelines/csl-daily/default.yaml\n"), Pipeline)
    assert named.llm.weights == "bigscience/mt0-xl@main"
    spec = config.load(write(tmp_path, "base: signed-weather\n"), CacheSpec)
    assert (tmp_path / spec.streams["motion"].weights / "config.json").is_file()


# --- overrides -----------------------------------------------------------------------------------


def test_overrides_are_yaml_values_at_dotted_keys(tmp_path: Path) -> None:
    pipeline = config.load(
        write(tmp_path, PIPELINE),
        Pipeline,
        ["align.steps=7", "streams=[motion]", "llm.tuning.mode=full", "text.language=Klingon"],
    )
    assert pipeline.align.steps == 7
    assert pipeline.streams == ("motion",)
    assert pipeline.llm.tuning.mode == "full"
    assert pipeline.text.language == "Klingon"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("align.steps", "not of the form"),
        ("=3", "not of the form"),
        ("align..steps=3", "not of the form"),
        ("align.stpes=3", "unknown key 'align.stpes'; nearest is 'steps'"),
        ("algin.steps=3", "unknown key 'algin'; nearest is 'align'"),
        ("name.x=3", "'name' holds a value"),
        ("align.steps=[", "not a YAML value"),
        ("align.steps=abc", "align.steps: Input should be a valid integer (got 'abc')"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, PIPELINE), Pipeline, [override])
    assert expected in str(caught.value)


# --- where things lie ----------------------------------------------------------------------------


def test_changes_become_overrides_and_load_as_they_were(tmp_path: Path) -> None:
    changes = {"seed": 3, "streams": ["motion"], "question": "Wie wär's: a=b?", "precision": "auto"}
    told = config.overrides(changes)
    pipeline = config.load(write(tmp_path, PIPELINE), Pipeline, told)
    assert pipeline.model_dump(mode="json", include=set(changes)) == changes


@pytest.mark.parametrize(
    "override",
    [
        "spec_set.streams.motion.stride=4",
        "spec_set={streams.motion.stride: 4}",
        "spec_set={streams: {motion: {stride: 4}}}",
    ],
)
def test_changes_to_the_spec_have_dotted_keys(tmp_path: Path, override: str) -> None:
    pipeline = config.load(write(tmp_path, PIPELINE), Pipeline, [override])
    assert pipeline.spec_set == {"streams.motion.stride": 4}
    spec = config.load(write(tmp_path, SPEC), CacheSpec, config.overrides(pipeline.spec_set))
    assert isinstance(spec.streams["motion"], MotionStream)
    assert spec.streams["motion"].stride == 4


def test_names_resolve_to_shipped_files() -> None:
    specs = config.shipped("cache_specs")
    assert config.named_file("spamo", "cache_specs", "spec.yaml") == specs / "spamo.yaml"
    pipelines = config.shipped("pipelines")
    found = config.named_file("phoenix14t", "pipelines", "default.yaml")
    assert found == pipelines / "phoenix14t" / "default.yaml"


def test_a_shipped_path_means_the_shipped_file_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = config.named_file("pipelines/csl-daily/default.yaml", "pipelines", "default.yaml")
    assert found == config.shipped("pipelines") / "csl-daily" / "default.yaml"


def test_a_file_of_the_users_own_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path("cache_specs/spamo.yaml")
    own.parent.mkdir()
    own.write_text(SPEC, encoding="utf-8")
    assert config.named_file(str(own), "cache_specs", "spec.yaml") == own


@pytest.mark.parametrize("name", ["spmao", "", "../pipelines/phoenix14t/default", "/etc/passwd"])
def test_an_unknown_name_lists_what_there_is(name: str) -> None:
    with pytest.raises(ConfigError, match="spamo"):
        config.named_file(name, "cache_specs", "spec.yaml")


def test_models_are_built_before_threads_use_them() -> None:
    class Fresh(StrictModel):
        count: int

    assert Fresh.__pydantic_complete__


def test_a_name_that_is_offered_is_known() -> None:
    for name in config.shipped_names("pipelines"):
        assert config.named_file(name, "pipelines", "default.yaml").is_file()


def test_home_and_roots_follow_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPAMO_HOME", str(tmp_path))
    monkeypatch.delenv("SPAMO_CACHE", raising=False)
    assert config.home() == tmp_path
    assert config.roots() == [str(tmp_path / "features")]
    expected = ["/scratch/me", "s3://lab/a b", "https://host:8080/x", "http://[::1]:9/y", "s3://b"]
    monkeypatch.setenv("SPAMO_CACHE", "::".join([*expected, "/nfs"]))
    assert config.roots() == [*expected, "/nfs"]
    monkeypatch.setenv("SPAMO_CACHE", ":".join(expected))
    assert config.roots() == expected


ALIASES = "a0: &a0 [x, x]\n" + "".join(
    f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40)
)
MERGES = "a0: &a0 {k0: 1}\n" + "".join(
    f"a{k}: &a{k} {{<<: [*a{k - 1}, *a{k - 1}], k{k}: 1}}\n" for k in range(1, 40)
)


@pytest.mark.parametrize("text", [ALIASES, MERGES], ids=["aliases", "merge keys"])
def test_a_few_bytes_cannot_stand_for_more_values_than_memory_holds(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(ConfigError, match="more than 10,000 values"):
        config.load(write(tmp_path, text), Pipeline)
    with pytest.raises(ConfigError, match="is not a YAML value"):
        config.load(write(tmp_path, PIPELINE), Pipeline, [f"name={text}"])


def test_aliases_of_a_sensible_size_are_read(tmp_path: Path) -> None:
    text = PIPELINE.replace("align: {", "align: &a {").replace(
        "translate: {steps: 3, batch: 4, lr: 1.0e-4}", "translate: {<<: *a, steps: 3}"
    )
    assert config.load(write(tmp_path, text), Pipeline).translate.batch == 4


@pytest.mark.parametrize(
    "change", ["seed=0x" + "f" * 5000, ".".join("a" * 1000) + "=1", "name=" + "[" * 9999]
)
def test_a_change_out_of_bounds_is_one_short_error(tmp_path: Path, change: str) -> None:
    with pytest.raises(ConfigError, match="is not") as caught:
        config.load(write(tmp_path, PIPELINE), Pipeline, [change])
    assert len(str(caught.value)) < 300


def test_a_pipe_is_no_spec_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "spec.yaml")
    for path in (tmp_path / "spec.yaml", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="is not a regular file"):
            config.load(path, CacheSpec)
