"""What is trained besides the LLM: the sign adapter and VT-Align (paper sections 3.2 and 3.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from spamo_cache.config import AdapterConfig
from spamo_cache.errors import ConfigError
from spamo_cache.model.rows import Packed, Padded, beside, gathered, in_step, join, weighed


def parse_tcn(text: str) -> list[tuple[str, int]]:
    """``"k5 p2"`` -> ``[("k", 5), ("p", 2)]``.

    Raises:
        ConfigError: a word that is neither kN nor pN with N of at least 1.
    """
    steps = []
    for word in text.split():
        match = re.fullmatch(r"([kp])([1-9]\d?)", word)
        if match is None:
            raise ConfigError(
                f"{word!r} is no step of a TCN",
                where=f"adapter.tcn: {text!r}",
                remedy="use kN (convolution of N rows) and pN (max-pool by N), as in 'k5 p2 k5 p2'",
            )
        steps.append((match[1], int(match[2])))
    return steps


class TemporalConv(nn.Module):
    """[convolution, batch norm, ReLU] and max-pools over time, none of them padded.

    With unpadded steps a row inside a clip never sees padding. Batch norm in training does,
    through its statistics: ``norm="batch"`` counts the padding of the batch as the official
    release does, ``norm="masked"`` leaves it out. In evaluation both are the same.

    Rows that are not valid are zeros to every convolution and are passed over by every pool; they
    count in batch norm. What comes out is valid if any row that it was made of is.

    Args:
        given: width of the rows that come in; ``width`` is that of the convolutions.
    """

    def __init__(self, given: int, width: int, tcn: str, norm: str) -> None:
        super().__init__()
        self.steps = parse_tcn(tcn)
        kernels = [size for kind, size in self.steps if kind == "k"]
        widths = [given, *(width for _ in kernels)]
        self.convs = nn.ModuleList(map(nn.Conv1d, widths, widths[1:], kernels))
        for conv in self.convs:
            # Batch norm takes a constant off again, so its true gradient is zero. What is computed
            # is rounding, of which AdamW makes steps as large as any: in training nobody sees them,
            # in evaluation the running mean lags behind.
            conv.get_parameter("bias").register_hook(torch.zeros_like)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in kernels)
        self.out = widths[-1]
        self.masked = norm == "masked"

    @property
    def needs(self) -> int:
        """Fewest input rows that give one output row."""
        rows = 1
        for kind, size in reversed(self.steps):
            rows = rows + size - 1 if kind == "k" else rows * size
        return rows

    def forward(self, clips: Padded) -> Padded:
        """(clips, longest, given) -> (clips, shorter, out); needs at least :attr:`needs` rows."""
        x, lengths, sizes = clips.rows.transpose(1, 2), clips.lengths, clips.sizes
        valid = clips.valid
        layers = iter(zip(self.convs, self.norms, strict=True))
        for kind, size in self.steps:
            if kind == "p":
                x, lengths = F.max_pool1d(_filled(x, valid, -torch.inf), size), lengths // size
                valid = _any(valid, size, stride=size)
                x = _filled(x, valid, 0)
                sizes = tuple(rows // size for rows in sizes)
                continue
            conv, norm = next(layers)
            x, lengths = conv(x), lengths - size + 1
            sizes = tuple(rows - size + 1 for rows in sizes)
            if self.masked and self.training:
                inside = Padded(x.transpose(1, 2), lengths, sizes).packed()
                normal = join([inside.holding(norm(inside.rows))], longest=x.shape[2])
                x = F.relu(normal.rows.transpose(1, 2))
            else:
                x = F.relu(norm(x))
            valid = _any(valid, size, stride=1)
            x = _filled(x, valid, 0)
        return Padded(x.transpose(1, 2), lengths, sizes, valid)


def _any(valid: Tensor | None, size: int, *, stride: int) -> Tensor | None:
    """(clips, steps) whether any of the ``size`` rows of each step is valid."""
    if valid is None:
        return None
    return F.max_pool1d(valid.float()[:, None], size, stride)[:, 0] > 0


def _filled(x: Tensor, valid: Tensor | None, value: float) -> Tensor:
    """(clips, width, rows) with a value in place of rows that are not valid."""
    return x if valid is None else x.masked_fill(~valid[:, None], value)


class SignAdapter(nn.Module):
    """One linear per stream -> joined -> TCN -> MLP to the LLM's width.

    Joined along time, the streams' rows stand one after the other; along features, those of the
    other streams are resampled to the rows of the first and stand beside them; by a gate they are
    resampled too and added up, with weights that each stream's own row decides: a linear to one
    number, and their softmax over the streams that are valid at that row. Rows that are not valid
    are zeros.

    Args:
        streams: name -> width of its rows; rows are joined in this order.
        config: hidden width, fusion, TCN, norm, dropout, scale.
        out: the LLM's embedding width.
        rms: root mean square of the LLM's token embeddings; used when ``config.scale`` asks for
            sign rows of that size.
    """

    rms: Tensor

    def __init__(
        self, streams: Mapping[str, int], config: AdapterConfig, *, out: int, rms: Tensor
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleDict(
            {name: nn.Linear(width, config.width) for name, width in streams.items()}
        )
        self.fusion = config.fusion
        given = config.width * len(streams) if self.fusion == "features" else config.width
        self.tcn = TemporalConv(given, config.width, config.tcn, config.norm)
        self.mlp = nn.Sequential(nn.Linear(self.tcn.out, out), nn.GELU(), nn.Linear(out, out))
        self.dropout = nn.Dropout(config.dropout)
        gated = streams if self.fusion == "gate" else ()
        self.gates = nn.ModuleDict({name: nn.Linear(config.width, 1) for name in gated})
        self.scaled = config.scale == "embeddings"
        self.register_buffer("rms", rms.detach().float().clone())

    def forward(self, streams: Mapping[str, Packed], longest: int = 0) -> Padded:
        """Packed rows of each stream, of any float type -> sign rows (clips, longest, out).

        Args:
            longest: joined rows that clips are padded to at least. Batch norm and, if asked to,
                VT-Align count the padding, which must not hang on how many processes share a batch.
        """
        parts = [
            streams[name].holding(self.dropout(project(streams[name].rows.float())))
            for name, project in self.projections.items()
        ]
        encoded: Padded = self.tcn(join(self._fused(parts), self.tcn.needs, longest))
        rows = self.mlp(encoded.rows)
        if self.scaled:
            rows = F.rms_norm(rows, rows.shape[-1:], eps=1e-6) * self.rms
        return encoded.holding(rows)

    def _fused(self, parts: list[Packed]) -> list[Packed]:
        """What stands one after the other in the TCN."""
        if self.fusion == "time":
            return [part.zeroed() for part in parts]
        if self.fusion == "features":
            return [beside(parts)]
        parts = in_step(parts)
        gates = zip(self.gates.values(), parts, strict=True)
        return [weighed(parts, [gate(part.rows)[:, 0] for gate, part in gates])]


LOG_SCALE = 2.6592
"""Log of the softmax's first inverse temperature, as in CLIP: 1 / 0.07."""


class VTAlign(nn.Module):
    """Symmetric softmax contrastive loss between pooled sign rows and pooled input embeddings.

    In training on several devices every clip is told apart from the clips of all of them: loss
    and gradients are those of one batch on one device.

    Args:
        width: the LLM's embedding width.
        padded: means run over the batch's padding too, as the official release has them.
    """

    center: Tensor

    def __init__(self, width: int, *, padded: bool = False) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(LOG_SCALE))
        self.padded = padded
        # Zero until the mean of the training sentences is known, and for good without centring.
        self.register_buffer("center", torch.zeros(width))

    def pool(self, rows: Padded) -> Tensor:
        """(clips, width) means in float32."""
        whole = rows.holding(rows.rows.float())
        return whole.mean_with_padding() if self.padded else whole.mean()

    def pool_sign(self, rows: Padded) -> Tensor:
        """(clips, width) unit vectors."""
        return F.normalize(self.pool(rows), dim=-1)

    def pool_text(self, rows: Padded) -> Tensor:
        """(clips, width) unit vectors, of embeddings less the centre."""
        return F.normalize(self.pool(rows) - self.center, dim=-1)

    def forward(self, sign: Padded, text: Padded) -> Tensor:
        """Scalar loss; clip i of ``sign`` belongs to sentence i of ``text``."""
        signs, texts = self.pool_sign(sign), self.pool_text(text)
        if self.training:
            signs, texts = gathered(signs), gathered(texts)
        # In half precision a cosine is off by 0.004, and its logit by 14 times as much and more.
        with torch.autocast(signs.device.type, enabled=False):
            logits = self.log_scale.exp() * signs @ texts.T
            target = torch.arange(len(logits), device=logits.device)
            return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
