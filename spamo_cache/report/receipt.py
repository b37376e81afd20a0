"""The reproduction receipt: each point where a run departs from the paper or its release.

What the paper (arXiv 2408.10593) and its release do is fact, not judgement: some departures are
improvements, made on purpose; they are listed all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spamo_cache.config import Pipeline, TextConfig
from spamo_cache.datasets.registry import CORPORA
from spamo_cache.report.runs import Run, StoreFacts

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


def receipt(run: Run) -> list[Point]:
    """All points, in the order in which a clip meets them."""
    return [*_features(run), *_model(run), *_training(run), *_scoring(run)]


def departures(points: list[Point]) -> int:
    """Number of points that are known to differ."""
    return sum(point.same is False for point in points)


def _features(run: Run) -> Iterator[Point]:
    pipeline = run.pipeline
    known = CORPORA.get(pipeline.corpus)
    title = known.title if known else pipeline.corpus
    yield Point(
        "Corpus", "PHOENIX14T, CSL-Daily, How2Sign", title, pipeline.corpus in _PAPER_CORPORA
    )
    stores = {store.stream: store for store in run.stores}
    for stream in pipeline.streams:
        yield _stream(stream, stores.get(stream))
    yield from _arithmetic(run.stores)
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


def _changed(run: Run) -> Iterator[Point]:
    """What an experiment turned about features and clips; nothing where it left them alone."""
    pipeline = run.pipeline
    # How frames are resized and rows kept is told of the stores themselves.
    turned = {key: value for key, value in pipeline.spec_set.items() if key not in _ARITHMETIC}
    if turned:
        yield Point("Cache spec", f"as in {pipeline.spec}", _told_keys(turned), False)
    for shown in run.evaluations:
        if shown.changed:
            here, why = _told_keys(shown.changed), f"in the evaluation {shown.name} alone"
            yield Point("Features at the test", "as in training", here, False, why)
    if pipeline.train_share < 1:
        here = f"a sample of {100 * pipeline.train_share:g} %"
        yield Point("Training clips", "all", here, False)
    if pipeline.encoders is not None:
        tuned = pipeline.encoders
        blocks = "the last block" if tuned.blocks == 1 else f"the last {tuned.blocks} blocks"
        here = f"LoRA on {blocks} of each, r {tuned.r}, trained from frames"
        yield Point("Visual encoders", "frozen", here, False)
    if pipeline.start is not None:
        here = f"those of {run.begun or 'another run'}"
        yield Point("First weights", "at random", here, False)


def _told_keys(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in changes.items())


def _arithmetic(stores: Iterable[StoreFacts]) -> Iterator[Point]:
    """How frames became features, as far as the stores are within reach."""
    specs = [store.attributes.get("spec", {}) for store in stores]
    resized = sorted({str(spec["resize"]) for spec in specs if "resize" in spec})
    if resized:
        yield Point(
            "Resizing of frames",
            "pil (release)",
            ", ".join(resized),
            resized == ["pil"],
            "several times faster, and at most 2 of 255 levels off",
        )
    kept = sorted({f"{s['dtype']}, computed in {s['compute']}" for s in specs if "dtype" in s})
    if kept:
        yield Point(
            "Precision of features",
            "float32, computed in float32 (release)",
            "; ".join(kept),
            kept == ["float32, computed in float32"],
            "half the size; auto is float16 on a GPU, where cosines of 0.999999 remain",
        )


def _stream(stream: str, store: StoreFacts | None) -> Point:
    paper = {
        "spatial": "CLIP ViT-L/14 on every frame, scales 1 and 2; 2048 wide",
        "motion": "VideoMAE-L/16, windows of 16 frames, stride 8; 1024 wide",
    }.get(stream, "no such stream")
    if store is None or not store.attributes:
        return Point(f"Stream {stream}", paper, "the store is out of reach", None)
    here = _told(store.attributes)
    return Point(f"Stream {stream}", paper, here, _as_in_paper(stream, store.attributes))


def _told(attributes: Mapping[str, Any]) -> str:
    spec = attributes.get("spec", {})
    parts = [str(spec.get("model") or spec.get("encoder", "?")), str(attributes.get("weights", ""))]
    if "scales" in spec:
        parts.append("scales " + " and ".join(str(scale) for scale in spec["scales"]))
    if "window" in spec:
        parts.append(f"windows of {spec['window']}, stride {spec.get('stride', '?')}")
    return f"{', '.join(part for part in parts if part)}; {attributes.get('width', '?')} wide"


def _as_in_paper(stream: str, attributes: Mapping[str, Any]) -> bool:
    spec, width = attributes.get("spec", {}), attributes.get("width")
    if stream == "spatial":
        large = str(spec.get("model")).startswith("ViT-L-14")
        return large and list(spec.get("scales", ())) == [1, 2] and width == 2048
    steps = (spec.get("window"), spec.get("stride"))
    return stream == "motion" and steps == (16, 8) and width == 1024


def _model(run: Run) -> Iterator[Point]:
    pipeline = run.pipeline
    adapter, llm, tuning = pipeline.adapter, pipeline.llm, pipeline.llm.tuning
    same = (adapter.width, adapter.tcn) == (768, "k5 p2 k5 p2")
    yield Point(
        "Sign adapter", "768 wide; k5 p2 k5 p2", f"{adapter.width} wide; {adapter.tcn}", same
    )
    if adapter.fusion != "time":
        here = "side by side, resampled to the first"
        yield Point("Fusion of streams", "one after the other in time", here, False)
    if adapter.scale != "none":
        here = "normalised to the scale of the LLM's embeddings"
        yield Point("Sign rows", "as the adapter gives them", here, False)
    wanted = "mT0-XL" if pipeline.corpus == "csl-daily" else "Flan-T5-XL"
    name = llm.weights.rstrip("/").rsplit("/", 1)[-1].split("@")[0]
    yield Point("LLM", wanted, name, name.lower() == wanted.lower())
    here = {"lora": _lora(tuning.r, tuning.alpha, tuning.dropout, tuning.targets)}.get(
        tuning.mode, {"full": "all weights", "freeze": "none"}.get(tuning.mode, tuning.mode)
    )
    paper = _lora(16, 32, 0.1, ("q", "v"))
    yield Point("LLM tuning", paper, here, here == paper)
    yield _prompt(pipeline)


def _prompt(pipeline: Pipeline) -> Point:
    llm, leaky = pipeline.llm, pipeline.protocol.pairs_from_batch
    place = "the batch" if leaky else "the training split"
    pairs = f"{len(llm.pairs)} pairs from {place}" if llm.pairs else "no pairs"
    return Point(
        "Prompt",
        "the instruction and 3 in-context pairs",
        f"{'the instruction' if llm.prompt == _PROMPT else f'“{llm.prompt}”'}, {pairs}",
        llm.prompt == _PROMPT and leaky and len(llm.pairs) == 3,
        "the release takes pairs from the batch, so test references stand in its test prompts",
    )


def _lora(r: int, alpha: int, dropout: float, targets: tuple[str, ...]) -> str:
    return f"LoRA on {', '.join(targets or ('q', 'v'))}, r {r}, alpha {alpha}, dropout {dropout:g}"


def _training(run: Run) -> Iterator[Point]:
    align, translate, protocol = run.pipeline.align, run.pipeline.translate, run.pipeline.protocol
    steps = 15_000 if run.pipeline.corpus == "how2sign" else 4_000
    here = f"{align.steps:,} steps of {align.batch} clips" if align.steps else "none"
    paper = f"{steps:,} steps (the release ships none)"
    yield Point("VT-Align before translation", paper, here, align.steps in (0, steps))
    joint = f"weight {translate.alpha:g}" if translate.alpha else "none"
    yield Point("VT-Align while translating", "weight 1", joint, translate.alpha == 1)
    if align.center:
        yield Point(
            "VT-Align text side", "as it is", "less the mean over training sentences", False
        )
    yield Point(
        "VT-Align pooling",
        "over the padding too (release)",
        "over the padding too" if protocol.pool_padding else "over true rows only",
        protocol.pool_padding,
        "a clip's score does not hang on its neighbours in the batch",
    )
    yield from _batches(run.pipeline)
    yield from _optimiser(run.pipeline)
    yield Point(
        "Training sentences",
        "whole (release)",
        "whole"
        if protocol.whole_targets
        else f"cut at {run.pipeline.decode.max_tokens} tokens, end token kept",
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
    together, left = divmod(translate.batch, translate.accumulate)
    clips = f"{together} clips" if not left else f"{translate.batch} clips"
    here = f"{translate.accumulate} of {clips} a step" if translate.accumulate > 1 else clips
    yield Point(
        "Batches that VT-Align and batch norm see",
        "2 of 8 clips a step (release)",
        here,
        (translate.batch, translate.accumulate) == (16, 2),
        "16 clips at once tell a sentence apart from more others",
    )
    yield Point(
        "Weight of the batches of a step",
        "alike (release)",
        "alike" if protocol.mean_of_batches or translate.accumulate == 1 else "by their tokens",
        protocol.mean_of_batches,
        "every token of a step counts alike",
    )
    yield Point(
        "Order of the clips",
        "shuffled, those left at an epoch's end in a smaller batch (release)",
        "shuffled, those left at an epoch's end in a smaller batch"
        if protocol.unsorted_batches
        else "shuffled, clips of like length in a batch, those left over in the next epoch",
        protocol.unsorted_batches,
        "less padding, and all batches of one size",
    )


def _optimiser(pipeline: Pipeline) -> Iterator[Point]:
    translate, protocol = pipeline.translate, pipeline.protocol
    betas = " and ".join(f"{beta:g}" for beta in translate.betas)
    here = (
        f"AdamW {translate.lr:g}, betas {betas}, decay {translate.weight_decay:g}, "
        f"clip {translate.clip:g}, {translate.steps:,} steps of {translate.batch} clips"
    )
    paper = (
        "AdamW 1e-4, 40 epochs (release: 6e-4, betas 0.9 and 0.98, decay 0.01, clip 1, up to 500 "
        "epochs in steps of 16 clips)"
    )
    rest = (translate.betas, translate.eps, translate.weight_decay, translate.clip)
    same = translate.batch == 16 and translate.lr in (1e-4, 6e-4)
    yield Point("Optimisation", paper, here, same and rest == ((0.9, 0.98), 1e-8, 0.01, 1.0))
    yield Point(
        "Weight decay",
        "on all that is trained (release)",
        "on all that is trained" if protocol.decay_everything else "on matrices alone",
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


def _scoring(run: Run) -> Iterator[Point]:
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
    yield Point(
        "Clips without features",
        "left out (release)",
        "left out" if protocol.drop_missing else "scored as empty sentences",
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
