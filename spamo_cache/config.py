"""YAML -> frozen pydantic models. An unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spamo_cache.errors import ConfigError


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys, silent type conversions, infinities and NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, data: Any) -> Any:
        """YAML and JSON have lists, the models have tuples: the one conversion that is wanted."""
        if not isinstance(data, Mapping):
            return data
        return {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""Becomes part of a file name."""


# --- cache spec: how a stream is computed -------------------------------------------------------

Unit = Literal["frame", "window"]


class SpatialStream(StrictModel):
    """One row per ``stride`` frames: an image encoder with S2 scaling (paper section 3.1)."""

    encoder: Literal["open_clip"]
    weights: str
    """open_clip pretrained tag, ``org/name[@revision]`` of a hub, or a path beside the spec."""
    model: str | None = None
    """open_clip model name; None where the weights' own shape says it (a folder)."""
    scales: tuple[Annotated[int, Field(ge=1, le=8)], ...] = Field((1, 2), min_length=1)
    """Multiples of the encoder's input size; scale s is cut into s x s crops."""
    stride: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    """Frames between two rows; SpaMo takes every frame."""
    layer: int = -1
    """Transformer block whose output is kept; -1 is the last."""
    output: Literal["cls-pre-norm", "cls", "mean", "embedding"] = "cls-pre-norm"

    @property
    def per(self) -> Unit:
        """What a row stands for."""
        return "frame"


class MotionStream(StrictModel):
    """One row per window of frames: a video encoder (paper section 3.1)."""

    encoder: Literal["videomae"]
    weights: str
    window: Annotated[int, Field(ge=1, le=1 << 12)] = 16
    """Frames per window."""
    stride: Annotated[int, Field(ge=1, le=1 << 20)] = 8
    """Frames between the starts of two windows."""
    layer: int = -1
    """Index into the hidden states; -1 is the last one, before the final layer norm."""
    token: Literal[0, "mean"] = 0
    tail: Literal["drop", "pad"] = "drop"
    """What becomes of frames after the last full window: dropped, or padded with the last frame."""

    @property
    def per(self) -> Unit:
        """What a row stands for."""
        return "window"


class TransformersStream(StrictModel):
    """One row per frame or per window: any vision network of transformers' ``AutoModel``."""

    encoder: Literal["transformers"]
    weights: str
    """``org/name[@revision]`` of a hub, or a folder beside the spec."""
    output: Literal["cls", "mean", "pooler"]
    """Class token, mean of the patch tokens, or what the network's own pooler makes of them."""
    window: Annotated[int, Field(ge=1, le=1 << 12)] | None = None
    """Frames per window of a video network; None for an image network, a row per frame."""
    stride: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    """Frames between two rows."""
    layer: int | None = None
    """Index into the hidden states; None is the network's last, after its final layer norm."""
    tail: Literal["drop", "pad"] = "drop"
    """As in :class:`MotionStream`."""

    @property
    def per(self) -> Unit:
        """What a row stands for."""
        return "frame" if self.window is None else "window"

    @model_validator(mode="after")
    def _pooler_has_one_layer(self) -> TransformersStream:
        if self.output == "pooler" and self.layer is not None:
            raise ValueError("output: pooler is made of the last hidden state; leave `layer` out")
        return self


StreamSpec = Annotated[
    SpatialStream | MotionStream | TransformersStream, Field(discriminator="encoder")
]


class FramesSpec(StrictModel):
    """How a decoded frame becomes the encoder's input."""

    resize: Literal["torchvision-uint8", "pil"] = "torchvision-uint8"


class RowsSpec(StrictModel):
    """Row counts: for streams with a row per frame, and for those with a row per window."""

    frame: Annotated[int, Field(ge=1, le=1 << 28)]
    window: Annotated[int, Field(ge=1, le=1 << 28)]


class StoreSpec(StrictModel):
    """How features lie in Zarr."""

    dtype: Literal["float16", "float32"] = "float16"
    chunk_rows: RowsSpec = RowsSpec(frame=32, window=8)
    """Rows of an inner chunk: the unit of checksums; every clip starts on one."""
    shard_rows: RowsSpec = RowsSpec(frame=16_384, window=4_096)
    """Rows of a shard: one partition, one file; a multiple of ``chunk_rows``."""

    @model_validator(mode="after")
    def _shards_are_whole_chunks(self) -> StoreSpec:
        for unit in ("frame", "window"):
            shard, chunk = getattr(self.shard_rows, unit), getattr(self.chunk_rows, unit)
            if shard % chunk:
                raise ValueError(
                    f"shard_rows.{unit} ({shard}) must be a multiple of chunk_rows.{unit} ({chunk})"
                )
        return self


class CacheSpec(StrictModel):
    """Exactly how streams are computed; ``cache_specs/README.md`` has every field and unit."""

    name: Name
    streams: Mapping[Name, StreamSpec] = Field(min_length=1)
    frames: FramesSpec = FramesSpec()
    compute: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    store: StoreSpec = StoreSpec()


# --- pipeline: one experiment -------------------------------------------------------------------


class TextConfig(StrictModel):
    """Text convention, applied at training and scoring; the manifest keeps the raw text."""

    language: str
    """Language name as it stands in the prompt, for example ``German``."""
    lower: bool = False
    final_dot: bool | Literal["attached"] = False
    """Append " ." where the sentence has no final punctuation; ``attached``: "." where no "."."""
    tokenize: Literal["13a", "none", "zh", "char", "intl"] = "13a"
    """sacrebleu's tokenizer of the headline BLEU."""


class AdapterConfig(StrictModel):
    """The sign adapter (paper section 3.2)."""

    width: Annotated[int, Field(ge=1)] = 768
    tcn: Annotated[str, Field(pattern=r"^[kp][1-9][0-9]*( [kp][1-9][0-9]*)*$")] = "k5 p2 k5 p2"
    """kN: convolution of N rows, batch norm, ReLU; pN: max-pool by N."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    scale: Literal["none", "embeddings"] = "none"
    """``embeddings``: sign rows are normalised to the RMS of the LLM's token embeddings."""
    norm: Literal["batch", "masked"] = "batch"
    """``batch``: the TCN's batch norm counts padding in training, as the official release does."""
    fusion: Literal["time", "features"] = "time"
    """Streams one after the other (SpaMo), or side by side, resampled to the rows of the first."""


class TuningConfig(StrictModel):
    """How the LLM is tuned."""

    mode: Literal["lora", "full", "freeze"] = "lora"
    r: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[int, Field(ge=1)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get a LoRA; none given: the attention's query and value."""


class LLMConfig(StrictModel):
    """The language model that writes the translation."""

    weights: str
    """``org/name[@revision]`` of a hub, or a path beside the pipeline's file."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantise: Literal["none", "8bit", "4bit"] = "none"
    """Bits of the frozen weights; needs bitsandbytes and a GPU."""
    prompt: str | Mapping[str, str] = "Translate the given sentence into {language}."
    """What stands behind the sign rows; where languages differ, language of the clip -> prompt."""
    pairs: tuple[str, ...] = ()
    """Languages of the in-context pairs: every prompt shows another training sentence in each of
    them (columns ``text_<language>`` of the manifest) with its translation; none: no pairs."""
    tuning: TuningConfig = TuningConfig()

    @model_validator(mode="after")
    def _quantised_weights_are_frozen(self) -> LLMConfig:
        if self.quantise != "none" and self.tuning.mode == "full":
            raise ValueError(f"{self.quantise} weights cannot be trained: set tuning.mode to lora")
        return self


Decay = Annotated[float, Field(ge=0, lt=1)]


class StageConfig(StrictModel):
    """One optimisation stage: AdamW, linear warm-up, cosine decay."""

    steps: Annotated[int, Field(ge=0)]
    batch: Annotated[int, Field(ge=1)]
    """Clips per optimiser step."""
    lr: Annotated[float, Field(gt=0)]
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps with a rising learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Gradient norm above which gradients are scaled down."""
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    """AdamW's decay rates of the means of gradients and of their squares."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Equal parts that each process computes its share of ``batch`` in, one after the other, to
    save memory. The translation loss stays that of the whole batch; VT-Align tells a clip apart
    from those of its own part only, and batch norm sees one part at a time."""


class AlignConfig(StageConfig):
    """VT-Align as a warm-up before translation (paper section 3.3)."""

    center: bool = False
    """Subtract the mean over the training sentences from the text side before the cosine."""


class TranslateConfig(StageConfig):
    """Training to translate: cross-entropy + ``alpha`` x VT-Align."""

    alpha: Annotated[float, Field(ge=0)] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    eval_every: Annotated[int, Field(ge=1)] = 500
    """Steps between two scorings of dev; the best dev BLEU is what is kept."""
    patience: Annotated[int, Field(ge=1)] = 50
    """Scorings without a better dev BLEU after which training stops."""
    checkpointing: bool = False
    """Compute the LLM's activations anew on the way back: less memory, about a third more time."""


class DecodeConfig(StrictModel):
    """Beam search; deterministic."""

    beams: Annotated[int, Field(ge=1)] = 5
    max_tokens: Annotated[int, Field(ge=1)] = 64
    length_penalty: float = 1.0
    batch: Annotated[int, Field(ge=1)] = 16


class ProtocolConfig(StrictModel):
    """What the official release does otherwise, a switch for each so that it can be measured.

    ``protocol: official`` turns all of them on.
    """

    select_on_test: bool = False
    """Weights are kept by their BLEU on test, not on dev."""
    pairs_from_batch: bool = False
    """In-context pairs come from the other clips of the batch, so test references stand in the
    prompts of the test split; a clip alone gets none."""
    sampled_beams: bool = False
    """Beam search draws its tokens at random (top-p 0.9); here seeded by ``seed``."""
    bleu_13a: bool = False
    """BLEU's tokenizer is 13a whatever the language: sets ``text.tokenize``."""
    drop_missing: bool = False
    """Clips without features are left out of the score, not scored as empty sentences."""
    pool_padding: bool = False
    """VT-Align's means run over the batch's padding too, on both sides."""
    crop_at_random: bool = False
    """A stream with more than ``max_frames`` rows is cropped to a random range of them, the
    others left whole; otherwise all are thinned out together."""
    no_warm_up: bool = False
    """No VT-Align stage before translation: sets ``align.steps`` to 0."""
    lower_and_dot: bool = False
    """Text in lower case with a final ".": sets ``text.lower`` and ``text.final_dot``."""

    @property
    def name(self) -> str:
        """``default``, ``official``, or the switches that are on."""
        on = [switch for switch, value in self if value]
        if len(on) == len(type(self).model_fields):
            return "official"
        return ", ".join(on) or "default"


_IMPLIED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "bleu_13a": {"text": {"tokenize": "13a"}},
    "no_warm_up": {"align": {"steps": 0}},
    "lower_and_dot": {"text": {"lower": True, "final_dot": "attached"}},
}
"""Switches of the protocol that are values of other keys."""


Values = Annotated[tuple[Any, ...], Field(strict=False, min_length=1)]


class Pipeline(StrictModel):
    """One experiment on one corpus."""

    name: Name
    question: Annotated[str, Field(min_length=1)]
    """What this run is to find out."""
    corpus: Name
    spec: str
    """Name of a file in ``cache_specs/``, or a path."""
    streams: tuple[Name, ...] = Field(("spatial", "motion"), min_length=1)
    """Streams of the spec, in the order in which they are joined."""
    max_frames: Annotated[int, Field(ge=1)] = 512
    """Longer clips are subsampled evenly, motion rows with them."""
    shuffle_features: bool = False
    """Give every clip the features of another one: the floor of any comparison."""
    text: TextConfig
    adapter: AdapterConfig = AdapterConfig()
    llm: LLMConfig
    align: AlignConfig
    translate: TranslateConfig
    decode: DecodeConfig = DecodeConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    """``official``, or switches of :class:`ProtocolConfig`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the products in training; auto: bfloat16 on a GPU and for an LLM kept in bfloat16."""
    log: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Where curves go besides ``metrics.jsonl``."""
    sweep: Mapping[str, Values] = {}
    """Dotted key -> values: a run for each combination, as in ``translate.lr: [1e-4, 3e-4]``."""
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1)] | None = None
    """Cores to train and decode with on a CPU, which change the last bits; None is all of them."""

    @model_validator(mode="before")
    @classmethod
    def _protocol_has_the_last_word(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        protocol = data.get("protocol")
        if protocol == "official":
            protocol = dict.fromkeys(ProtocolConfig.model_fields, True)
            data = {**data, "protocol": protocol}
        if isinstance(protocol, Mapping):
            for switch, values in _IMPLIED.items():
                data = _merged(data, values) if protocol.get(switch) is True else data
        return data

    @model_validator(mode="after")
    def _streams_differ(self) -> Pipeline:
        if len(set(self.streams)) < len(self.streams):
            raise ValueError(f"streams {', '.join(self.streams)} name one twice")
        return self


# --- loading ------------------------------------------------------------------------------------

Model = TypeVar("Model", bound=StrictModel)


def load(path: Path, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read a YAML file into ``model``, with ``a.b=c`` overrides (values are YAML too).

    A file may begin with ``base: other.yaml``, a file beside it whose keys it takes over and
    changes; a base has none of its own.

    Raises:
        ConfigError: missing or broken file, unknown key, wrong type, malformed override.
    """
    document = read_yaml(path)
    if (base := document.pop("base", None)) is not None:
        document = _merged(read_yaml(_beside(path, base)), document)
    for override in overrides:
        _override(document, override)
    return parse(document, model, where=path)


def _beside(path: Path, base: object) -> Path:
    if not isinstance(base, str) or Path(base).name != base:
        raise ConfigError(f"base: {base!r} is not the name of a file beside this one", where=path)
    return path.with_name(base)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` put over it, group by group; lists are replaced whole."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        groups = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(merged[key], value) if groups else value
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse a YAML mapping; no tag can construct an object, and no key may stand twice."""
    try:
        document = _from_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such file", where=path, remedy="check the name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=path) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"is not valid YAML: {_flat(error)}", where=path) from None
    if not isinstance(document, dict):
        raise ConfigError("holds no YAML mapping", where=path, remedy="start with `name: ...`")
    return document


def parse(document: Mapping[str, Any], model: type[Model], *, where: object) -> Model:
    """Validate a mapping; every fault found is named with its dotted key."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        faults = [_fault(document, model, item) for item in error.errors(include_url=False)]
        raise ConfigError("; ".join(faults), where=where) from None


def _override(document: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    if not sign or not all(key.split(".")):
        raise ConfigError(f"--set {text!r} is not of the form key=value or a.b=value")
    *parents, leaf = key.split(".")
    node = document
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: {parent!r} holds a value, not a group of keys")
        node = child
    try:
        node[leaf] = _from_yaml(value)
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ConfigError(f"--set {key}: {value!r} is not a YAML value") from None


class _Loader(yaml.SafeLoader):
    """The safe loader, with numbers as YAML 1.2 has them and duplicate keys refused."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for index, key in enumerate(keys) if key in keys[:index]]
        if twice:
            raise yaml.composer.ComposerError(None, None, f"{twice[0]!r} twice", node.start_mark)
        return node


# SafeLoader takes 1e-3 for text, because it lacks the dot that YAML 1.1 asks for.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _from_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader's subclass)


def _flat(error: object) -> str:
    return " ".join(str(error).split())


def _fault(document: Mapping[str, Any], model: type[StrictModel], item: Any) -> str:
    # Discriminated unions put the tag into the location; users know only their own keys.
    location = _user_location(document, item["loc"])
    key = ".".join(str(part) for part in location)
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] != "extra_forbidden":
        given = item.get("input")
        shown = "" if isinstance(given, Mapping | tuple) else f" (got {reprlib.repr(given)})"
        return f"{key}: {item['msg']}{shown}"
    known = _known_keys(model, item["loc"][:-1])
    nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.0)
    hint = f"; nearest is {nearest[0]!r}" if nearest else ""
    return f"unknown key {key!r}{hint}"


def _user_location(document: Any, location: Sequence[str | int]) -> list[str | int]:
    kept: list[str | int] = []
    node = document
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(node, Mapping) and part not in node and not last:
            continue
        kept.append(part)
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
    return kept


def _known_keys(model: type[StrictModel], location: Sequence[str | int]) -> list[str]:
    """Keys of the (nested) model at ``location``; tags of unions pick their member."""
    candidates: list[type[StrictModel]] = [model]
    for part in location:
        step: list[type[StrictModel]] = []
        for candidate in candidates:
            field = candidate.model_fields.get(str(part))
            if field is not None:
                step += _models_in(field.annotation)
            elif part in _tags(candidate):
                step.append(candidate)
        candidates = step or candidates
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def _tags(model: type[StrictModel]) -> tuple[Any, ...]:
    encoder = model.model_fields.get("encoder")
    return () if encoder is None else get_args(encoder.annotation)


def _models_in(annotation: Any) -> list[type[StrictModel]]:
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]


# --- where things lie ---------------------------------------------------------------------------


def shipped(folder: str) -> Path:
    """A data folder of the project (``cache_specs``, ``pipelines``): checkout or wheel."""
    package = Path(__file__).parent
    for candidate in (package.parent / folder, package / "_data" / folder):
        if candidate.is_dir():
            return candidate
    raise ConfigError(f"the project's {folder} folder is missing", remedy="reinstall spamo-cache")


def named_file(name: str, folder: str, default: str) -> Path:
    """Resolve a YAML given as a path or as a name in a shipped folder.

    ``named_file("spamo", "cache_specs", ...)`` is ``cache_specs/spamo.yaml``; a name that is a
    folder there means ``<folder>/<default>``.
    """
    given = Path(name)
    if given.suffix in {".yaml", ".yml"}:
        return given if given.exists() else _shipped_or_given(given, folder)
    base = shipped(folder)
    for candidate in (base / f"{name}.yaml", base / name / default):
        if candidate.is_file() and candidate.resolve().is_relative_to(base.resolve()):
            return candidate
    known = sorted({path.stem for path in base.glob("*.yaml")} | _folders(base))
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    hint = f"nearest is {nearest[0]!r}; " if nearest else ""
    raise ConfigError(
        f"no {folder} entry named {name!r}", remedy=f"{hint}known: {', '.join(known)}, or a path"
    )


def _shipped_or_given(given: Path, folder: str) -> Path:
    # `pipelines/csl-daily/default.yaml` means the shipped file outside a checkout too.
    if given.parts and given.parts[0] == folder and ".." not in given.parts:
        inside = shipped(folder).joinpath(*given.parts[1:])
        if inside.is_file():
            return inside
    return given


def _folders(base: Path) -> set[str]:
    return {path.name for path in base.iterdir() if any(path.glob("*.yaml"))}


def home() -> Path:
    """Everything this user keeps between runs: ``SPAMO_HOME``, else ``~/.cache/spamo-cache``."""
    return Path(os.environ.get("SPAMO_HOME") or "~/.cache/spamo-cache").expanduser()


# Roots are separated by ":", which stands in addresses too: after the scheme and before the port.
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^:/]*)(?::[0-9]+)?"
_ROOT = re.compile(rf"[a-z][a-z0-9+.-]*://{_HOST}[^:]*|[^:]+")


def roots() -> list[str]:
    """Roots of feature stores in search order: ``SPAMO_CACHE``, else one below :func:`home`."""
    return _ROOT.findall(os.environ.get("SPAMO_CACHE", "")) or [str(home() / "features")]
