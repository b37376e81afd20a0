"""The pipeline: the YAML of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from spamo_cache.config.loading import merged
from spamo_cache.config.strict import Name, StrictModel


class TextConfig(StrictModel):
    """Text convention, applied at training and scoring; the manifest keeps the raw text."""

    language: str
    """Language name as it stands in the prompt, for example ``German``."""
    lower: bool = False
    final_dot: bool | Literal["attached"] = False
    """Append " ." where the sentence has no final punctuation; ``attached``: "." where no "."."""
    tokenize: Literal["13a", "none", "zh", "char", "intl"] = "13a"
    """sacrebleu's tokenizer of the headline BLEU."""
    hypotheses: Literal["as-said", "lower", "convention"] = "as-said"
    """What is done to hypotheses before they are scored: nothing; lower case, as in the official
    release; ``convention``: all that is done to references, a final dot included."""


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
    fusion: Literal["time", "features", "gate"] = "time"
    """Streams one after the other (SpaMo); or resampled to the rows of the first, and there side by
    side, or added up with weights that a learnt gate gives to each stream's row."""


class TuningConfig(StrictModel):
    """How the LLM is tuned."""

    mode: Literal["lora", "full", "freeze"] = "lora"
    r: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[int, Field(ge=1)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get a LoRA; none given: the attention's query and value."""


class EncodersConfig(StrictModel):
    """A LoRA on the last transformer blocks of every stream's encoder, trained from frames."""

    blocks: Annotated[int, Field(ge=1)]
    """How many, counted from the last one that the stream computes."""
    r: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[int, Field(ge=1)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: tuple[str, ...] = ()
    """Names of the blocks' linear layers that get a LoRA; none given: those of the attention."""


class LLMConfig(StrictModel):
    """The language model that writes the translation."""

    weights: str
    """``org/name[@revision]`` of a hub, or a path beside the pipeline's file."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantise: Literal["none", "8bit", "4bit"] = "none"
    """Bits of the frozen weights; needs bitsandbytes and a GPU."""
    prompt: str | Mapping[str, str] = "Translate the given sentence into {language}."
    """What stands behind the sign rows; where languages differ, language of the clip -> prompt."""
    in_context_languages: tuple[str, ...] = ()
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
    """One phase of training: AdamW, linear warm-up, cosine decay."""

    steps: Annotated[int, Field(ge=0)]
    batch: Annotated[int, Field(ge=1)]
    """Clips per optimiser step."""
    lr: Annotated[float, Field(gt=0)]
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps with a rising learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradient norm above which gradients are scaled down."""
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    """AdamW's decay rates of the means of gradients and of their squares."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    grad_accum_steps: Annotated[int, Field(ge=1)] = 1
    """Microbatches that each process computes its share of ``batch`` in, one after the other, to
    save memory. The translation loss stays that of the whole batch (``protocol.mean_of_batches``:
    the mean of the microbatches'); VT-Align contrasts a clip with those of its own microbatch only,
    and batch norm sees one microbatch at a time."""


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
    checkpointing: bool | Literal["auto"] = "auto"
    """Compute the LLM's activations anew on the way back: less memory, about a third more time, the
    same weights. ``auto``: from where a GPU's memory is full, in one process."""


class DecodeConfig(StrictModel):
    """Beam search; deterministic."""

    beams: Annotated[int, Field(ge=1)] = 5
    max_tokens: Annotated[int, Field(ge=1)] = 64
    length_penalty: float = 1.0
    batch: Annotated[int, Field(ge=1)] = 16


class ResplitConfig(StrictModel):
    """Splits drawn anew, as by ``spamo-cache manifest --resplit``; features stay as they are."""

    by: Annotated[str, Field(min_length=1)]
    """``signer`` or another column of the manifest, or ``sentence``: no two splits share one."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Of how many folds this is one; None: a single split, about as large as the present one."""
    fold: Annotated[int, Field(ge=1)] | None = None
    """Which of the folds, from 1 on."""
    hold_out: Annotated[int, Field(ge=1)] | None = None
    """How many signers (sentences, ...) are test; with folds, how many are in none of them."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draw; that of the training is another."""
    gaps: Literal["refuse", "train"] = "refuse"
    """Clips without a signer: an error, or kept in training."""

    @model_validator(mode="after")
    def _one_of_the_folds(self) -> ResplitConfig:
        if (self.folds is None) != (self.fold is None):
            raise ValueError("folds and fold go together, as in {by: signer, folds: 5, fold: 1}")
        if self.folds is not None and self.fold is not None and self.fold > self.folds:
            raise ValueError(f"there is no fold {self.fold} of {self.folds}")
        return self


class ProtocolConfig(StrictModel):
    """What the official release does otherwise, a switch for each so that it can be measured.

    ``protocol: official`` turns all of them on, ``{official: true, pairs_from_batch: false}`` all
    but one.
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
    batches_of_eight: bool = False
    """A step is two batches of 8 clips, one after the other; batch norm and VT-Align see 8: sets
    ``batch`` to 16 and ``grad_accum_steps`` to 2."""
    mean_of_batches: bool = False
    """The microbatches of a step count alike, however many tokens they hold."""
    unsorted_batches: bool = False
    """Clips are shuffled and cut into batches whatever their length; the clips left at the end of
    an epoch are a smaller batch."""
    decay_everything: bool = False
    """Weight decay on biases, norms and VT-Align's temperature too."""
    lr_from_zero: bool = False
    """The learning rate of the first update is 0, and every one of the warm-up a step later."""
    whole_targets: bool = False
    """Training sentences longer than ``decode.max_tokens`` are not cut."""
    tokens_63: bool = False
    """The release's limit of 64 counts the start token: sets ``decode.max_tokens`` to 63."""
    pil_resize: bool = False
    """Frames are resized by PIL: sets ``frames.resize`` of the cache spec."""
    float32_features: bool = False
    """Features are computed and kept in float32: sets ``compute`` and ``store.dtype`` of the
    cache spec."""
    lower_and_dot: bool = False
    """References in lower case with a final ".", hypotheses in lower case: sets ``text.lower``,
    ``text.final_dot`` and ``text.hypotheses``."""
    english_rouge: bool = False
    """The headline ROUGE keeps a-z and 0-9 alone and takes English endings off."""

    @property
    def name(self) -> str:
        """``default``, ``official``, the switches that are on, or those that official lacks."""
        on = [switch for switch, value in self if value]
        off = [switch for switch, value in self if not value]
        if len(on) > len(off):
            return "official" + (f" without {', '.join(off)}" if off else "")
        return ", ".join(on) or "default"


_IMPLIED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "bleu_13a": {"text": {"tokenize": "13a"}},
    "no_warm_up": {"align": {"steps": 0}},
    "batches_of_eight": {
        key: {"batch": 16, "grad_accum_steps": 2} for key in ("align", "translate")
    },
    "tokens_63": {"decode": {"max_tokens": 63}},
    "pil_resize": {"spec_set": {"frames.resize": "pil"}},
    "float32_features": {"spec_set": {"compute": "float32", "store.dtype": "float32"}},
    "lower_and_dot": {"text": {"lower": True, "final_dot": "attached", "hypotheses": "lower"}},
}
"""Switches of the protocol that are values of other keys."""


def dotted(groups: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values in a mapping of mappings, each with its dotted key."""
    for name, value in groups.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


Weight = Annotated[float, Field(gt=0)]
Values = Annotated[tuple[Any, ...], Field(strict=False, min_length=1)]


class Pipeline(StrictModel):
    """One run: its data, its model, how it is trained, decoded and scored."""

    shipped_in = "pipelines", "default.yaml"

    name: Name
    question: Annotated[str, Field(min_length=1)]
    """What this run is to find out."""
    corpus: Name
    """Whose dev split selects the weights, and whose test split they are scored on."""
    corpora: Mapping[Name, Weight] | tuple[Name, ...] = ()
    """The corpora that are trained on; none given: ``corpus`` alone. A mapping says how many of the
    training clips come from each, as in ``{youtube-asl: 3, how2sign: 1}``."""
    corpora_temperature: Annotated[float, Field(ge=1)] = 1.0
    """Of a list of corpora: each is drawn in proportion to its clips ** (1 / temperature); 1 takes
    all clips equally often."""
    spec: str
    """Name of a file in ``cache_specs/``, or a path."""
    spec_set: Mapping[str, Any] = {}
    """Changes to the spec, dotted key -> value, as in ``streams.motion.stride: 4``."""
    streams: tuple[Name, ...] = Field(("spatial", "motion"), min_length=1)
    """Streams of the spec, in the order in which they are joined."""
    max_frames: Annotated[int, Field(ge=1)] = 512
    """Longer clips are subsampled evenly, motion rows with them."""
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training clips that is used: a sample by ``seed``; smaller ones lie in larger
    ones."""
    resplit: ResplitConfig | None = None
    """None: the splits of the manifest; otherwise its clips are split anew."""
    shuffle_features: bool = False
    """Give every clip the features of another one: the floor of any comparison."""
    encoders: EncodersConfig | None = None
    """None: frozen, their features come from the stores; otherwise they are tuned, from frames."""
    init_from: str | None = None
    """Folder of a finished run whose weights training begins with; a path from where it is run."""
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
    log: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
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
            protocol = {"official": True}
        if isinstance(protocol, Mapping):
            if protocol.get("official") is True:
                named = {name: value for name, value in protocol.items() if name != "official"}
                protocol = dict.fromkeys(ProtocolConfig.model_fields, True) | named
                data = {**data, "protocol": protocol}
            for switch, values in _IMPLIED.items():
                data = merged(data, values) if protocol.get(switch) is True else data
        return data

    @field_validator("spec_set", mode="before")
    @classmethod
    def _changes_have_dotted_keys(cls, changes: Any) -> Any:
        # --set spec_set.frames.resize=pil makes groups of its keys.
        return dict(dotted(changes)) if isinstance(changes, Mapping) else changes

    @model_validator(mode="after")
    def _pairs_of_the_batch_are_of_some_language(self) -> Pipeline:
        if self.protocol.pairs_from_batch and not self.llm.in_context_languages:
            raise ValueError(
                "protocol.pairs_from_batch shows no pair without llm.in_context_languages: set "
                "llm.in_context_languages=[en, fr, es], or "
                "protocol={official: true, pairs_from_batch: false}"
            )
        return self

    @model_validator(mode="after")
    def _corpora_can_be_mixed(self) -> Pipeline:
        if len(set(self.corpora)) < len(self.corpora):
            raise ValueError(f"corpora {', '.join(self.corpora)} name one twice")
        if isinstance(self.corpora, Mapping) and self.corpora_temperature != 1:
            raise ValueError(
                "corpora have weights, so corpora_temperature has nothing to say: name the corpora "
                "in a list, or leave the temperature out"
            )
        if self.resplit is not None and self.corpora and self.corpus not in self.corpora:
            raise ValueError(
                f"resplit divides the clips of {self.corpus}, of which nothing is trained on: add "
                "it to corpora"
            )
        if self.others and self.encoders is not None:
            raise ValueError("encoders are tuned on one corpus: leave out corpora, or encoders")
        if self.resplit is not None and self.others and self.corpus not in self.corpora:
            raise ValueError(
                f"resplit draws the splits of {self.corpus}, which is not trained on: name it in "
                "corpora, or leave resplit out"
            )
        return self

    @property
    def others(self) -> tuple[str, ...]:
        """The corpora beside ``corpus`` that are trained on."""
        return tuple(name for name in self.corpora if name != self.corpus)

    def shares(self, clips: Mapping[str, int]) -> dict[str, float]:
        """Corpus -> share of the training clips that are drawn from it; they add up to 1.

        Args:
            clips: corpus -> how many training clips it has.
        """
        given = self.corpora if isinstance(self.corpora, Mapping) else {}
        exponent = 1 / self.corpora_temperature
        weights = {name: given.get(name, count**exponent) for name, count in clips.items()}
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    @model_validator(mode="after")
    def _streams_differ(self) -> Pipeline:
        if len(set(self.streams)) < len(self.streams):
            raise ValueError(f"streams {', '.join(self.streams)} name one twice")
        return self
