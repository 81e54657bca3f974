"""Fourier mixing: no attention at all, a fixed transform over tokens and channels."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.specs import Context


@ATTENTIONS.register("fourier")
class FourierMixing(Attention):
    """``Re F_T x F_D``: the real part of the Fourier transform over tokens and channels, O(T log T), no parameters.

    Every output reads every token, with fixed weights: the map is linear in x and content decides nothing, so it is
    the control of what attention adds. Both transforms are unitary (the authors' are not), so that a stream of unit
    scale keeps it at any length. Padding counts for nothing: each sample is transformed over its own real tokens.
    Every frequency needs the whole sequence, so there is no causal form (UsageError).

    Source: Lee-Thorp et al. 2021, "FNet: Mixing Tokens with Fourier Transforms".
    """

    can_be_causal: ClassVar[bool] = False
    reads_content: ClassVar[bool] = False

    def __init__(self, *, width: int, causal: bool) -> None:
        super().__init__()
        if causal:
            raise UsageError("attention 'fourier' cannot be causal: every frequency needs all tokens. Try: linear")
        self.width, self.is_causal = width, causal

    def forward(self, x: Tensor, context: Context) -> Tensor:
        self.whole_sequence(context)
        with torch.autocast(x.device.type, enabled=False):
            channels = torch.fft.fft(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1, norm="ortho")
            if context.mask is None:
                mixed = torch.fft.fft(channels, dim=1, norm="ortho").real
            else:
                mixed = fourier_of_real_tokens(channels, context.mask).real
        return mixed.to(x.dtype)

    def extra_repr(self) -> str:
        return "unitary transform over tokens and channels"


def fourier_of_real_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """Unitary transform over the n real tokens of each sample, wherever they stand: x (B, T, D) complex, mask (B, T)
    bool -> (B, T, D), zeros at masked positions.

    n differs from sample to sample, so by Bluestein's chirps: with ``jk = (j^2 + k^2 - (k - j)^2) / 2`` and
    ``w_j = exp(-i pi j^2 / n)`` the transform is ``w_k sum_j (x_j w_j) conj(w_{k-j})``, a convolution, which one
    transform of a fixed length serves for every n. In double precision: the chirp's angle grows with T^2.
    """
    steps = mask.shape[1]
    order = torch.argsort((~mask).to(torch.int8), dim=1, stable=True)  # real tokens first, in their order
    count = mask.sum(1, keepdim=True).clamp_min(1)
    index = torch.arange(steps, device=x.device)
    real = index < mask.sum(1, keepdim=True)
    angle = (index * index % (2 * count)) * (math.pi / count.double())  # j^2 mod 2n is exact, and the angle small
    chirp = torch.polar(torch.ones_like(angle), -angle)
    places = order.unsqueeze(-1).expand_as(x)
    signal = x.to(chirp.dtype).gather(1, places) * (chirp * real).unsqueeze(-1)
    length = 2 * steps
    kernel = torch.cat(
        [chirp, torch.zeros_like(chirp[:, :1]), chirp[:, 1:].flip(1)], 1
    ).conj()  # w_0 .. w_T-1, w_-T+1 ..
    spectrum = torch.fft.fft(signal, length, dim=1) * torch.fft.fft(kernel, dim=1).unsqueeze(-1)
    mixed = torch.fft.ifft(spectrum, dim=1)[:, :steps] * (chirp * real / count.double().sqrt()).unsqueeze(-1)
    return torch.zeros_like(mixed).scatter(1, places, mixed).to(x.dtype)
