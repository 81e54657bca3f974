"""Semantic folding: a token and its recent context become a sparse fingerprint on a map of meanings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.dendrites.delay_line import DelayLine
from neurons.errors import UsageError
from neurons.manifold.sdr import Boosting, SDRLinear, chosen, threshold
from neurons.specs import Context, zero_masked


class SemanticRetina(nn.Module):
    """Neighbouring bits of the map excite each other: a learned 3 x 3 kernel over the scores' grid, which wraps around.

    The ``size`` bits lie on a grid as square as divides them (32 x 64 for 2048). The kernel begins as a blur of unit
    gain on white noise. Whatever is chosen after it is chosen in patches, so similar fingerprints share bits. Being
    linear, it may act on the receptive fields (n, size) once instead of on every token's scores.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.shape = grid(size)
        blur = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])
        self.kernel = nn.Parameter(blur / blur.norm())

    def forward(self, scores: Tensor) -> Tensor:
        """scores (..., size) -> (..., size)."""
        rows, columns = self.shape
        image = F.pad(scores.reshape(-1, 1, rows, columns), (1, 1, 1, 1), mode="circular")[:, 0]
        kernel, blurred = self.kernel.to(image.dtype), torch.zeros((), dtype=image.dtype, device=image.device)
        for i in range(3):  # nine shifted pictures: a convolution with one channel is several times as slow on a CPU
            for j in range(3):
                blurred = torch.addcmul(blurred, kernel[i, j], image[:, i : i + rows, j : j + columns])
        return blurred.reshape(scores.shape)


def grid(size: int) -> tuple[int, int]:
    """Rows and columns of a map of ``size`` bits."""
    rows = max((r for r in range(1, math.isqrt(size) + 1) if size % r == 0), default=1)
    if rows < 3:
        raise UsageError(f"{size} bits make no map with 3 rows or more. Try: sdr_size=2048")
    return rows, size // rows


class SemanticFolding(nn.Module):
    """Context to fingerprint and back: (B, T, D) -> an update (B, T, D), zeros at masked positions and at the start.

        c_t = sum_{i < taps} w_i x_{t - i},   s = retina(S c_t / |c_t|),   active = top-k of s + boost
        y_t = gate * sum over active bits b of sigmoid(s_b) R_b

    The context encoder is a delay line over [t - taps + 1, t]: nothing looks ahead. S holds one receptive field per
    bit; the sigmoid grades the chosen bits, so that S, the retina and the taps learn from what the bits are used for.
    Of the scores only the chosen are kept for backward. ``fingerprint`` gives the bare sets.

    size, active: bits of the map and of a fingerprint.     taps: of the context.     smooth: False: without retina.
    boost: see :class:`Boosting`.     causal: False lets the context reach both ways.     label: of the context's state.
    Parameters: 2 size D + (taps + 1) D + 9. Source: Webber 2015 (1511.08855); Ahmad & Scheinkman 2019.
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        size: int = 2048,
        active: int = 40,
        taps: int = 4,
        smooth: bool = True,
        boost: float = 1.0,
        label: str = "folding",
    ) -> None:
        super().__init__()
        if not 1 <= active < size <= 2**15:
            raise UsageError(f"a fingerprint has fewer active bits than size, at most 32768, not {active} of {size}")
        self.width, self.size, self.active, self.taps, self.smooth = width, size, active, taps, smooth
        self.context = DelayLine(width=width, taps=taps, causal=causal, label=f"{label}.context")
        self.receptive = nn.Linear(width, size, bias=False)
        nn.init.normal_(self.receptive.weight, std=width**-0.5)
        self.retina = SemanticRetina(size) if smooth else None
        self.boosting = Boosting(size, active=active, strength=boost)
        self.read = SDRLinear(size, width, active=active)
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        index, grade = self.encode(x, context)
        self.boosting.observe(index, context.mask)
        return zero_masked(self.gate * self.read(index, grade), context.mask)

    def encode(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Active bits int16 and their grades in (0, 1), (B, T, active) each, ascending."""
        heard = F.rms_norm(self.context(x, context), x.shape[-1:], eps=1e-5)
        fields = self.receptive.weight
        if self.retina is not None:
            fields = self.retina(fields.T).T
        scores = F.linear(heard, fields.to(heard.dtype)).to(torch.promote_types(heard.dtype, torch.float32))
        with torch.no_grad():
            index = threshold(self.boosting(scores), self.active)
        return index, torch.sigmoid(chosen(scores, index))

    def fingerprint(self, x: Tensor, context: Context) -> Tensor:
        return self.encode(x, context)[0]

    def end_episode(self) -> None:
        self.boosting.end_episode()


def offline_fingerprints(counts: Tensor, *, size: int = 2048, active: int = 40) -> Tensor:
    """Fingerprints (V, active) of V words from how often each occurs in each of C contexts, counts (V, C) >= 0.

    Contexts are laid on the map by the two leading singular directions of the positive pointwise mutual information
    (rows of the grid by the first, places in a row by the second), so that neighbours are contexts of similar words; a
    word's picture is its information at its contexts' places, blurred once; its highest bits are the fingerprint.
    Source: Webber 2015, with a spectral map in place of the self-organised one.
    """
    counts = counts.double()
    if counts.dim() != 2 or (counts < 0).any() or not counts.any():
        raise UsageError("fingerprints are made from a (words, contexts) matrix of counts >= 0 that is not all zero")
    words, contexts = counts.sum(1, keepdim=True), counts.sum(0, keepdim=True)
    information = torch.log(counts * counts.sum() / (words * contexts).clamp_min(1e-300)).clamp_min(0)
    information = information.nan_to_num(0.0)
    places = torch.linalg.svd(information, full_matrices=False).Vh[:2].T
    rows, count = grid(size)[0], counts.shape[1]
    row = _ranks(places[:, 0]) * rows // count
    within = row * (2 * count) + _ranks(places[:, -1])  # by row, and within it by the second direction
    cell = _ranks(within.double()) * size // count
    picture = information.new_zeros(len(counts), size).index_add(1, cell, information)
    blurred = SemanticRetina(size).double()(picture).detach()
    return blurred.topk(active, -1).indices.sort(-1).values.to(torch.int16)


def _ranks(x: Tensor) -> Tensor:
    return x.argsort(stable=True).argsort(stable=True)
