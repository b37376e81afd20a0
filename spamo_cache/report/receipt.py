"""The reproduction receipt: each point where a run departs from the paper or its release.

What the paper (arXiv 2408.10593) and its release do is fact, not judgement: some departures are
improvements, made on purpose; they are listed all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from spamo_cache import config, human
from spamo_cache.config import CacheSpec, Pipeline, TextConfig
from spamo_cache.datasets.registry import CORPORA
from spamo_cache.report.formats import assignments
from spamo_cache.report.runs import RunView, StoreFacts
from spamo_cache.report.templating import template_filter
from spamo_cache.store.attributes import Attributes
from spamo_cache.store.layout import stream_spec

_PAPER_CORPORA = ("phoenix14t", "csl-daily", "how2sign")
_ARITHMETIC = ("frames.resize", "compute", "store.dtype")
_PROMPT = "Translate the given sentence into {language}."


@dataclass(frozen=True)
class Point:
    """One setting; ``same`` is None where this run's own value is out of reach."""

    topic: str
    paper: str
    here: str
    same: bool | None
    why: str = ""


def _switch(topic: str, release: str, ours: str, on: bool, why: str) -> Point:
    """A point that one switch of the protocol decides: the release's way, or ours."""
    return Point(topic, f"{release} (release)", release if on else ours, on, why)


def receipt(run: RunView) -> list[Point]:
    """All points, in the order in which a clip meets them."""
    return [*_features(run), *_model(run), *_training(run), *_scoring(run)]


def departures(points: list[Point]) -> int:
    """Number of points that are known to differ."""
    return sum(point.same is False for point in points)


def _features(run: RunView) -> Iterator[Point]:
    pipeline = run.pipeline
    known = CORPORA.get(pipeline.corpus)
    title = known.title if known else pipeline.corpus
    yield Point(
        "Corpus", "PHOENIX14T, CSL-Daily, How2Sign", title, pipeline.corpus in _PAPER_CORPORA
    )
    stores = {store.stream: store for store in run.stores}
    for stream in pipeline.streams:
        yield from _stream(stream, stores.get(stream))
    streams = " + ".join(pipeline.streams)
    both = set(pipeline.streams) == {"spatial", "motion"}
    cropped = pipeline.protocol.crop_at_random
    yield Point("Streams", "spatial + motion", streams, both)
    yield from _changed(run)
    if pipeline.shuffle_features:
        yield Point("Features", "each clip's own", "another clip's: a floor, not a result", False)
    yield Point(
        "Long clips",
        "512 frames cropped at random, at test time too; motion uncropped (release)",
        f"cropped at random to {pipeline.max_frames} rows, motion left whole"
        if cropped
        else f"thinned evenly to {pipeline.max_frames} rows, motion with them",
        cropped and pipeline.max_frames == 512,
        "the same clip gives the same rows every time",
    )


def _changed(run: RunView) -> Iterator[Point]:
    """What an experiment turned about features and clips; nothing where it left them alone."""
    pipeline = run.pipeline
    # How frames are resized and rows kept stands among the points of the streams.
    turned = {key: value for key, value in pipeline.spec_set.items() if key not in _ARITHMETIC}
    if turned:
        yield Point("Cache spec", f"as in {pipeline.spec}", assignments(turned), False)
    for shown in run.evaluations:
        if shown.changed:
            here, why = assignments(shown.changed), f"in the evaluation {shown.name} alone"
            yield Point("Features at the test", "as in training", here, False, why)
    if run.about.corpora:
        here = ", ".join(
            f"{name}: {human.count(one.clips, 'clip')}, {one.share:.0%} of those drawn"
            for name, one in run.about.corpora.items()
        )
        yield Point("Training corpora", "the corpus alone", here, False)
    if pipeline.train_fraction < 1:
        here = f"a sample of {100 * pipeline.train_fraction:g} %"
        yield Point("Training clips", "all", here, False)
    if pipeline.encoders is not None:
        tuned = pipeline.encoders
        blocks = "the last block" if tuned.blocks == 1 else f"the last {tuned.blocks} blocks"
        here = f"LoRA on {blocks} of each, r {tuned.r}, trained from frames"
        yield Point("Visual encoders", "frozen", here, False)
    if pipeline.init_from is not None:
        before = run.about.init_from
        here = f"those of {run.begun or (before.name if before else 'another run')}"
        if before is not None and before.corpora != (pipeline.corpus,):
            here += f", trained on {' and '.join(before.corpora)}"
        yield Point("First weights", "at random", here, False)


_GROUPS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "spatial": {
        "network": ("encoder", "model"),
        "scales": ("scales",),
        "frames": ("stride",),
        "output": ("layer", "output"),
    },
    "motion": {
        "network": ("encoder",),
        "windows": ("window", "stride", "phase", "tail"),
        "output": ("layer", "token"),
    },
}
"""Stream -> what of its spec is judged together."""

_RELEASE: Mapping[str, tuple[str, str, str]] = {
    "resizing": ("resize", "pil", "a sixth of the time; at most 2 of 255 levels off"),
    "arithmetic": ("compute", "float32", "float16 on a GPU: cosine 0.999999 to float32"),
    "kept as": ("dtype", "float32", "half the bytes; frame-to-frame differences are 0.4 % off"),
}
"""What the release does to both streams: key of the spec, its value, why the shipped spec's is
another."""

_WEIGHTS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "spatial": (
        ("openai", "timm/vit_large_patch14_clip_224.openai", "openai/clip-vit-large-patch14"),
        2048,
    ),
    "motion": (("MCG-NJU/videomae-large",), 1024),
}
"""Names under which the paper's weights are published, and the width of a row."""


def _stream(stream: str, store: StoreFacts | None) -> Iterator[Point]:
    """Everything that decides a stream's features, the weights first."""
    about = None if store is None else store.about
    if stream not in _GROUPS:
        here = "held in memory" if about is None else f"{encoder_of(about)}, {about.weights}"
        yield Point(f"Stream {stream}", "no such stream", here, False)
        return
    names, width = _WEIGHTS[stream]
    title, paper = stream.capitalize(), _paper(stream)
    if about is None:
        here = "held in memory: nobody says how it was made"
        yield Point(f"{title}: weights", f"{names[0]}, {width} wide", here, None)
        return
    same: bool | None = about.width == width and about.weights.split("@")[0] in names
    if about.width == width and "encoder" not in about.spec:
        same = None  # imported: nobody says what they were made by
    here = f"{about.weights} ({about.weights_sha256[:12]}), {about.width} wide"
    yield Point(f"{title}: weights", f"{names[0]}, {width} wide", here, same)
    # A phase of 0 is left out of specs.
    spec = {"phase": 0, **about.spec}
    for topic, keys in _GROUPS[stream].items():
        theirs, here = _spec_words(paper, keys), _spec_words(spec, keys)
        yield Point(f"{title}: {topic}", theirs, here, _same(paper, spec, keys))
    for topic, (key, value, why) in _RELEASE.items():
        setting = spec.get(key)
        alike = None if setting in {None, "auto"} else setting == value
        here = "float16 on a GPU, float32 on a CPU" if setting == "auto" else _word(setting)
        # The reason is that of the shipped spec, whatever else others have.
        reason = why if setting == paper[key] else ""
        yield Point(f"{title}: {topic}", f"{value} (release)", here, alike, reason)


@template_filter
def encoder_of(about: Attributes) -> str:
    """The network that made a store's features, by name."""
    return str(about.spec.get("model") or about.spec.get("encoder") or about.weights)


@cache
def _paper(stream: str) -> dict[str, Any]:
    spec = config.load(config.shipped("cache_specs") / "spamo.yaml", CacheSpec)
    return {"phase": 0, **stream_spec(spec, stream)}


def _same(paper: Mapping[str, Any], spec: Mapping[str, Any], keys: tuple[str, ...]) -> bool | None:
    """None where the spec does not say it, and the rest of it is the paper's."""
    known = [key for key in keys if spec.get(key) is not None]
    if any(_plain(spec[key]) != _plain(paper[key]) for key in known):
        return False
    return True if len(known) == len(keys) else None


def _spec_words(spec: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    if len(keys) == 1:
        return _word(spec.get(keys[0]))
    return ", ".join(f"{key} {_word(spec.get(key))}" for key in keys)


def _word(value: Any) -> str:
    if value is None:
        return "not said"
    plain = _plain(value)
    return " and ".join(map(str, plain)) if isinstance(plain, list) else str(plain)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _model(run: RunView) -> Iterator[Point]:
    pipeline = run.pipeline
    adapter, llm, tuning = pipeline.adapter, pipeline.llm, pipeline.llm.tuning
    same = (adapter.width, adapter.tcn) == (768, "k5 p2 k5 p2")
    yield Point(
        "Sign adapter", "768 wide; k5 p2 k5 p2", f"{adapter.width} wide; {adapter.tcn}", same
    )
    if adapter.fusion != "time":
        how = {"features": "side by side", "gate": "added up by a learnt gate"}[adapter.fusion]
        here = f"{how}, resampled to the first"
        yield Point("Fusion of streams", "one after the other in time", here, False)
    if adapter.scale != "none":
        here = "normalised to the scale of the LLM's embeddings"
        yield Point("Sign rows", "as the adapter gives them", here, False)
    wanted = "mT0-XL" if pipeline.corpus == "csl-daily" else "Flan-T5-XL"
    name = llm.weights.rstrip("/").rsplit("/", 1)[-1].split("@")[0]
    yield Point("LLM", wanted, name, name.lower() == wanted.lower())
    modes = {
        "lora": _lora(tuning.r, tuning.alpha, tuning.dropout, tuning.targets),
        "full": "all weights",
        "freeze": "none",
    }
    here = modes.get(tuning.mode, tuning.mode)
    paper = _lora(16, 32, 0.1, ("q", "v"))
    yield Point("LLM tuning", paper, here, here == paper)
    yield _prompt(pipeline)


def _prompt(pipeline: Pipeline) -> Point:
    llm, leaky = pipeline.llm, pipeline.protocol.pairs_from_batch
    place = "the batch" if leaky else "the training split"
    languages = llm.in_context_languages
    pairs = f"{human.count(len(languages), 'pair')} from {place}" if languages else "no pairs"
    return Point(
        "Prompt",
        "the instruction and 3 in-context pairs",
        f"{'the instruction' if llm.prompt == _PROMPT else f'“{llm.prompt}”'}, {pairs}",
        llm.prompt == _PROMPT and leaky and len(languages) == 3,
        "the release takes pairs from the batch, so test references stand in its test prompts",
    )


def _lora(r: int, alpha: int, dropout: float, targets: tuple[str, ...]) -> str:
    return f"LoRA on {', '.join(targets or ('q', 'v'))}, r {r}, alpha {alpha}, dropout {dropout:g}"


def _training(run: RunView) -> Iterator[Point]:
    align, translate, protocol = run.pipeline.align, run.pipeline.translate, run.pipeline.protocol
    steps = 15_000 if run.pipeline.corpus == "how2sign" else 4_000
    here = f"{align.steps:,} steps of {human.count(align.batch, 'clip')}" if align.steps else "none"
    paper = f"{steps:,} steps (the release ships none)"
    yield Point("VT-Align before translation", paper, here, align.steps in (0, steps))
    joint = f"weight {translate.alpha:g}" if translate.alpha else "none"
    yield Point("VT-Align while translating", "weight 1", joint, translate.alpha == 1)
    if align.center:
        yield Point(
            "VT-Align text side", "as it is", "less the mean over training sentences", False
        )
    yield _switch(
        "VT-Align pooling",
        "over the padding too",
        "over true rows only",
        protocol.pool_padding,
        "a clip's score does not hang on its neighbours in the batch",
    )
    yield from _batches(run.pipeline)
    yield from _optimiser(run.pipeline)
    yield _switch(
        "Training sentences",
        "whole",
        f"cut at {run.pipeline.decode.max_tokens} tokens, end token kept",
        protocol.whole_targets,
        "none is learnt that cannot be said",
    )
    yield Point(
        "Weights kept",
        "best on test (release)",
        f"best BLEU-4 on {'test' if protocol.select_on_test else 'dev'}",
        protocol.select_on_test,
        "test is looked at once, at the end",
    )


def _batches(pipeline: Pipeline) -> Iterator[Point]:
    translate, protocol = pipeline.translate, pipeline.protocol
    accumulated = translate.grad_accum_steps
    together, left = divmod(translate.batch, accumulated)
    clips = human.count(translate.batch if left else together, "clip")
    here = f"{accumulated} of {clips} a step" if accumulated > 1 else clips
    yield Point(
        "Batches that VT-Align and batch norm see",
        "2 of 8 clips a step (release)",
        here,
        (translate.batch, accumulated) == (16, 2),
        "16 clips at once tell a sentence apart from more others",
    )
    yield Point(
        "Weight of the batches of a step",
        "alike (release)",
        "alike" if protocol.mean_of_batches or accumulated == 1 else "by their tokens",
        protocol.mean_of_batches,
        "every token of a step counts alike",
    )
    yield _switch(
        "Order of the clips",
        "shuffled, those left at an epoch's end in a smaller batch",
        "shuffled, clips of like length in a batch, those left over in the next epoch",
        protocol.unsorted_batches,
        "less padding, and all batches of one size",
    )


def _optimiser(pipeline: Pipeline) -> Iterator[Point]:
    translate, protocol = pipeline.translate, pipeline.protocol
    betas = " and ".join(f"{beta:g}" for beta in translate.betas)
    here = (
        f"AdamW {translate.lr:g}, betas {betas}, decay {translate.weight_decay:g}, "
        f"clip {translate.max_grad_norm:g}, {translate.steps:,} steps of {translate.batch} clips"
    )
    paper = (
        "AdamW 1e-4, 40 epochs (release: 6e-4, betas 0.9 and 0.98, decay 0.01, clip 1, up to 500 "
        "epochs in steps of 16 clips)"
    )
    rest = (translate.betas, translate.eps, translate.weight_decay, translate.max_grad_norm)
    same = translate.batch == 16 and translate.lr in (1e-4, 6e-4)
    yield Point("Optimisation", paper, here, same and rest == ((0.9, 0.98), 1e-8, 0.01, 1.0))
    yield _switch(
        "Weight decay",
        "on all that is trained",
        "on matrices alone",
        protocol.decay_everything,
        "biases, norms and the temperature have no reason to shrink",
    )
    first = "0" if protocol.lr_from_zero else "one step of it"
    yield Point(
        "Learning rate",
        "warm-up over 10 % of the steps that begins with 0, then a cosine (release)",
        f"warm-up over {100 * translate.warmup:g} % of the steps that begins with {first}, then a "
        "cosine",
        protocol.lr_from_zero and translate.warmup == 0.1,
        "a first update of rate 0 changes nothing",
    )


def _scoring(run: RunView) -> Iterator[Point]:
    decode, text, protocol = run.pipeline.decode, run.pipeline.text, run.pipeline.protocol
    yield Point(
        "Decoding",
        "5 beams with sampling, top-p 0.9 (release)",
        f"{decode.beams} beams, {'sampled' if protocol.sampled_beams else 'deterministic'}",
        decode.beams == 5 and protocol.sampled_beams,
        "the same run gives the same sentences",
    )
    yield Point(
        "Longest translation",
        "63 tokens and the start token (release)",
        f"{decode.max_tokens} tokens",
        decode.max_tokens == 63,
        "64 tokens are meant",
    )
    yield Point("BLEU tokenizer", "13a, always (release)", text.tokenize, text.tokenize == "13a")
    yield from _texts(text)
    english = protocol.english_rouge
    yield Point(
        "ROUGE",
        "a-z and 0-9 alone, English endings taken off (release)",
        "as the release's" if english else "words of any script, none of their endings taken off",
        english,
        "other words are split or lost: umlauts, and all of Chinese",
    )
    yield _switch(
        "Clips without features",
        "left out",
        "scored as empty sentences",
        protocol.drop_missing,
        "n stays the published one",
    )


def _texts(text: TextConfig) -> Iterator[Point]:
    case = "lower case" if text.lower else "cased"
    dots: dict[object, str] = {
        False: "as they stand",
        True: 'with a final " ."',
        "attached": 'with a final "."',
    }
    yield Point(
        "References",
        'lower case, with a final "." (release)',
        f"{case}, {dots[text.final_dot]}",
        text.lower and text.final_dot == "attached",
        "the convention of this corpus's papers",
    )
    hypotheses = {
        "as-said": "scored as they were said",
        "lower": "scored in lower case",
        "convention": "put under the references' convention, final dot included",
    }
    yield Point(
        "Hypotheses",
        "scored in lower case (release)",
        hypotheses[text.hypotheses],
        text.hypotheses == "lower",
        "nothing is scored that was not said" if text.hypotheses == "as-said" else "",
    )
