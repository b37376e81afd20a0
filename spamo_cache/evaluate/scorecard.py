"""What a run scores on a split, with everything needed to judge the number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from spamo_cache.compat import cpu_threads
from spamo_cache.datasets.manifest import Manifest
from spamo_cache.errors import StoreError
from spamo_cache.evaluate.decoding import Decoded, decode
from spamo_cache.evaluate.inference import load_run
from spamo_cache.evaluate.metrics import BOOTSTRAP, score
from spamo_cache.model.text import normalise
from spamo_cache.train.batches import examples
from spamo_cache.train.checkpoint import RunFolder, identity, read_json, write_atomic, write_json
from spamo_cache.train.features import Features


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """One run on one split; ``<run>/evaluation/<split>.json`` holds the same.

    Attributes:
        run: the pipeline's name.
        split: the split decoded.
        protocol: ``default``, ``official``, or the switches of the protocol that are on.
        n: clips scored, the failed ones among them with an empty hypothesis unless the protocol
            drops them.
        metrics: ``bleu1`` .. ``bleu4`` and ``chrf`` in points of 100.
        intervals: 95 % bootstrap intervals of the metrics.
        signatures: sacrebleu's signatures.
        bootstrap: ``resamples`` and ``seed`` behind the intervals.
        failed: clips without features -> reason.
        shuffled: every clip was decoded from another clip's features.
        stores: stream -> fingerprint.
        identity: sha256 over weights, settings, stores and references: equal means same result.
    """

    run: str
    split: str
    protocol: str
    n: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    signatures: Mapping[str, str]
    bootstrap: Mapping[str, int]
    failed: Mapping[str, str]
    shuffled: bool
    stores: Mapping[str, str]
    identity: str


def evaluate(
    run: Path,
    split: str = "test",
    *,
    manifest: Manifest | None = None,
    stores: Mapping[str, Features] | None = None,
    shuffle: bool | None = None,
    bootstrap: int = BOOTSTRAP,
    device: str = "auto",
    progress: Decoded | None = None,
) -> Scorecard:
    """Decode and score a split; an evaluation of the same things is read back, not repeated.

    Writes ``evaluation/<split>.json`` and ``evaluation/<split>.hypotheses.jsonl`` (id,
    hypothesis, reference, failed); with ``shuffle`` below ``<split>-shuffled``.

    Args:
        run: folder of a finished run.
        manifest: None takes the one kept in the run.
        stores: stream -> features; None opens those the run was trained from.
        shuffle: give every clip another's features: how much a run reads from its video. None
            does what the run's pipeline says.
        bootstrap: resamples behind the intervals.

    Raises:
        UsageError: no finished run there, unknown split.
        StoreError: a store is not the one trained from, or lacks clips of the split.
    """
    loaded = load_run(run, device=device)
    manifest = manifest or Manifest.read(loaded.folder.manifest)
    stores = stores or open_stores(loaded.folder)
    check_stores(loaded.folder, stores)
    usual = loaded.pipeline.shuffle_features
    shuffled = usual if shuffle is None else shuffle
    texts = {clip.id: normalise(clip.text, loaded.pipeline.text) for clip in manifest.clips(split)}
    key = identity(
        {
            "run": loaded.folder.read_about()["identity"],
            "weights": hashlib.sha256(loaded.folder.model.read_bytes()).hexdigest(),
            "references": [split, texts],
            "settings": [shuffled, bootstrap, loaded.pipeline.protocol.name],
        }
    )
    card = run / "evaluation" / f"{split if shuffled == usual else f'{split}-shuffled'}.json"
    if card.exists() and (known := read_json(card)).get("identity") == key:
        return Scorecard(**known)
    data = examples(
        loaded.pipeline, manifest, stores, split, loaded.translator.tokens, shuffle=shuffled
    )
    with cpu_threads(loaded.pipeline.threads):
        decoded = decode(loaded.translator, data, loaded.pipeline.decode, progress=progress)
    hypotheses = dict.fromkeys(texts, "") | dict(zip(data.ids, decoded, strict=True))
    if loaded.pipeline.protocol.drop_missing:
        texts = {clip: texts[clip] for clip in data.ids}
    convention = loaded.pipeline.text
    scores = score(
        [normalise(hypotheses[clip], convention) for clip in texts],
        list(texts.values()),
        tokenize=convention.tokenize,
        bootstrap=bootstrap,
    )
    result = Scorecard(
        run=loaded.pipeline.name,
        split=split,
        protocol=loaded.pipeline.protocol.name,
        n=scores.n,
        metrics=scores.values,
        intervals=scores.intervals,
        signatures=scores.signatures,
        bootstrap=scores.bootstrap,
        failed=data.failed,
        shuffled=shuffled,
        stores={name: stores[name].fingerprint for name in loaded.pipeline.streams},
        identity=key,
    )
    _write(result, card, hypotheses, texts)
    return result


def open_stores(folder: RunFolder) -> dict[str, Features]:
    """The stores a run was trained from, where they lay then.

    Raises:
        StoreError: they are no longer there, or never lay on a disk.
    """
    places = folder.read_about()["places"]
    if lost := [name for name, place in places.items() if place is None]:
        raise StoreError(
            f"features of stream {lost[0]!r} were held in memory",
            where=folder.path,
            remedy="hand them to evaluate() again",
        )
    from spamo_cache.store.reader import FeatureStore  # noqa: PLC0415

    return {name: FeatureStore.open(place) for name, place in places.items()}


def check_stores(folder: RunFolder, stores: Mapping[str, Features]) -> None:
    """Raise StoreError unless these are the features the run was trained from."""
    for name, expected in folder.read_about()["parts"]["stores"].items():
        found = stores[name].fingerprint if name in stores else "none"
        if found != expected:
            raise StoreError(
                f"stream {name!r} is {found[:12]}, the run was trained from {expected[:12]}",
                where=folder.path,
                remedy="give the stores the run was trained from, or train on these",
            )


def _write(
    result: Scorecard, card: Path, hypotheses: Mapping[str, str], texts: Mapping[str, str]
) -> None:
    card.parent.mkdir(exist_ok=True)
    lines = [
        {
            "id": clip,
            "hypothesis": hypotheses[clip],
            "reference": reference,
            "failed": result.failed.get(clip),
        }
        for clip, reference in texts.items()
    ]
    table = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomic(card.with_suffix(".hypotheses.jsonl"), table.encode())
    # The card last: where it stands, its hypotheses stand too.
    write_json(card, asdict(result))
