"""Figures that papers report on test, and what stands between them and a run's own."""

from __future__ import annotations

from collections.abc import Mapping

from spamo_cache.runs.records import Published

_PAPER = "arXiv 2408.10593"
_RELEASE = "the official release"
_PROTOCOL = (
    "the paper does not say how weights were selected; its release selects them on test and shows "
    "test references in the prompts"
)
_LEAKY = "weights selected on test, test references in the prompts"
_OTHERS = "further streams or other encoders; protocol not checked"
_UNCHECKED = "protocol not checked"
_YOUTUBE = "trained on YouTube-ASL too; other encoders; protocol not checked"
_NYU = "its authors (NYU Abu Dhabi)"
_REPORTED = f"as reported; lower when rerun by others; {_UNCHECKED}"
_RESCORED = "its published hypotheses, scored anew with sacrebleu 2.6"
_POSES = "key points alone, pretrained on a larger corpus"
_NEW_SIGNERS = "Artiaga et al., Findings of EMNLP 2025 (2025.findings-emnlp.997)"


def published(corpus: str) -> list[Published]:
    """What is known of a corpus, SpaMo's own figures first; nothing for corpora of one's own."""
    return _FIGURES.get(corpus, [])


def _paper(
    bleu: tuple[float, float, float, float],
    rouge: float,
    *,
    convention: str = "rouge_l_official",
    note: str = "which ROUGE is not said",
    **others: float,
) -> list[Published]:
    first = {f"bleu{order}": value for order, value in enumerate(bleu[:3], start=1)}
    return [
        Published(
            system="SpaMo (paper)",
            metrics={"bleu4": bleu[3], convention: rouge, **others},
            protocol=f"{_PROTOCOL}; {note}",
            source=_PAPER,
        ),
        Published(
            system="SpaMo (paper), lower orders",
            metrics=first,
            protocol=_PROTOCOL,
            source=_PAPER,
            certain=False,
        ),
    ]


def _one(
    system: str, bleu4: float, protocol: str, source: str = "its paper", *, certain: bool = True
) -> Published:
    return Published(
        system=system,
        metrics={"bleu4": bleu4},
        protocol=protocol,
        source=source,
        certain=certain,
    )


def _ablation(system: str, bleu4: float) -> Published:
    protocol = "an ablation of the paper; protocol as for its main figure"
    return _one(system, bleu4, protocol, _PAPER, certain=False)


def _signers(system: str, shared: float, unseen: float) -> list[Published]:
    """One system on the official split, and on splits without the signers of training."""
    protocol = "signer-fold cross-validation: test signers are not in training, other test clips"
    return [
        _one(system, shared, "signers of test are in training; as quoted there", _NEW_SIGNERS),
        _one(f"{system}, unseen signers", unseen, protocol, _NEW_SIGNERS),
    ]


_FIGURES: Mapping[str, list[Published]] = {
    "phoenix14t": [
        *_paper((49.80, 37.32, 29.50, 24.32), 46.57),
        _one("SpaMo, released weights", 24.71, f"{_LEAKY}, sampled", _RELEASE),
        _one("SpaMo, released weights", 25.03, f"{_LEAKY}, deterministic", _RELEASE),
        _ablation("SpaMo, SE alone", 21.11),
        _ablation("SpaMo, ME alone", 8.36),
        _ablation("SpaMo, SE + ME, no VT-Align", 22.26),
        _ablation("SpaMo with mT0-XL", 24.23),
        _ablation("SpaMo with Llama-2-7B", 13.86),
        _one("SignDINO", 27.17, _OTHERS),
        _one("SignThought", 27.22, f"as reported; a rerun by others gave 20.21; {_OTHERS}"),
        _one(
            "SignThought, one rerun",
            20.21,
            f"rerun by others; {_UNCHECKED}",
            "a rerun",
            certain=False,
        ),
        _one("C2RL", 26.8, _REPORTED, certain=False),
        _one("FEA-SLT", 26.15, _OTHERS),
        *_signers("GFSLT-VLP", 21.44, 3.59),
        *_signers("SignCL", 22.74, 3.66),
        *_signers("GASLT", 15.74, 8.26),
    ],
    "csl-daily": [
        *_paper(
            (48.90, 36.90, 26.78, 20.55),
            47.46,
            convention="rouge_l",
            note="its ROUGE counts characters, for the release's own is 0 on Chinese; with which "
            "beta is not said",
        ),
        _one("FEA-SLT", 22.80, _OTHERS),
        _one("Uni-Sign, pose only", 25.70, f"tokenizer zh; {_POSES}", _RESCORED),
        _one("C2RL", 21.6, _REPORTED, certain=False),
    ],
    "how2sign": [
        *_paper((33.41, 20.28, 13.96, 10.11), 30.56, bleurt=42.23),
        _one("SHuBERT", 16.2, f"more training data; {_OTHERS}"),
        _one("SSVP-SLT", 15.5, f"more training data; {_OTHERS}"),
        _one("SignDino", 17.9, _YOUTUBE, _NYU, certain=False),
        _one("Uni-Sign, pose only", 14.50, f"2,349 clips scored; {_POSES}", _RESCORED),
    ],
    "openasl": [
        _one("SignDino", 24.5, _YOUTUBE, _NYU, certain=False),
        _one("Uni-Sign, pose only", 22.64, _POSES, _RESCORED),
    ],
}
