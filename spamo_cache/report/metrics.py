"""Metrics as papers print them."""

from __future__ import annotations

METRICS = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "chrf": "chrF",
    "ter": "TER",
    "rouge_l": "ROUGE-L",
    "rouge_l_official": "ROUGE-L, release",
    "rouge_l_coco": "ROUGE-L, MSCOCO",
    "bleurt": "BLEURT",
}
"""Key of a scorecard -> name, in the order of a table."""

NOTES = {
    "ter": "edits per 100 words of the reference: lower is better",
    "rouge_l": "F1 of the longest common subsequence, words of any script",
    "rouge_l_official": "the release's: a-z and 0-9 alone, English endings taken off",
    "rouge_l_coco": "MSCOCO's: recall weighs 1.2 times as much",
    "bleurt": "a learned metric",
}


def metric_name(key: str) -> str:
    """A metric's name; an unknown one keeps its key."""
    return METRICS.get(key, key)
