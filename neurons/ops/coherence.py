"""Attention by phase coherence: ``out_i = sum_j k(phi_i - phi_j) v_j / sum_j k(phi_i - phi_j)``, without parameters.

An even 2*pi-periodic kernel has a cosine series, ``k(d) = sum_m c_m cos(m d)``, and ``cos m(a - b)`` is the scalar
product of ``(cos ma, sin ma)`` and ``(cos mb, sin mb)``. So the average over all tokens passes through 2M + 1 sums
``sum_j e^{i m phi_j} v_j``, the mean fields (Kuramoto-Daido order parameters) of the oscillators, and costs O(n).

A token is a point z of the unit disc. On the circle (``unit``) the interaction is k itself; inside it is
``k(z, z') = sum_m c_m Re (z conj(z'))^m``, the kernel blurred by the tokens' amplitudes: at amplitude 0 a token attends
uniformly. It stays nonnegative because ``rho^m`` are the coefficients of a nonnegative (Poisson) kernel.

Sources: Katharopoulos et al. 2020 (linear attention); Daido 1992 (order parameters); Fries 2015 (coherence).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from neurons.errors import UsageError, nearest
from neurons.ops.coherence_causal import SEGMENT, causal_sums
from neurons.ops.coherence_parts import Tokens, band, pairwise, powers, tokens_of
from neurons.ops.cosine_series import CosineSeries, cosine_series

Mode = Literal["series", "window", "dense"]
MODES = ("series", "window", "dense")
FLOAT32_BELOW = 512  # longer sums cancel too much in float32: an isolated antiphase query is 7e-4 off at 64k tokens
CAUSAL_DENSE_BELOW = 128


def coherence_attention(
    phase: Tensor,
    value: Tensor,
    *,
    kernel: str = "von_mises",
    kappa: float = 4.0,
    mode: Mode = "series",
    causal: bool = False,
    mask: Tensor | None = None,
    window: int | None = None,
    order: int | None = None,
    leak: float | None = None,
) -> Tensor:
    """Kernel average of ``value`` (B, H, N, D) by coherence of ``phase`` (B, H, N) in radians; returns (B, H, N, D).

    mask: (B, N) bool, True = real; masked tokens neither attend nor are attended to, and their output is zero.
    mode: ``series`` is O(n) with 2M + 1 features; ``window`` is exact over |i - j| < ``window``, O(n window);
    ``dense`` is exact over all pairs, O(n^2), the reference of the other two.
    order: M of the series; None chooses it so that values and gradients keep float32's precision.
    leak: weight ``leak^(i - j)``, the membrane's forgetting per token; needs ``causal``.

    Raises UsageError for an unknown kernel or mode, a kappa <= 0, a window without the window mode or the reverse, and
    a leak outside (0, 1] or without ``causal``.
    """
    angle = phase.to(torch.float32 if phase.device.type == "mps" else torch.float64)
    return disc_attention(
        torch.cos(angle),
        torch.sin(angle),
        value,
        cosine_series(kernel, kappa, order),
        unit=True,
        mode=mode,
        causal=causal,
        mask=mask,
        window=window,
        leak=leak,
    )


def disc_attention(
    x: Tensor,
    y: Tensor,
    value: Tensor,
    series: CosineSeries,
    *,
    unit: bool,
    mode: Mode = "series",
    causal: bool = False,
    mask: Tensor | None = None,
    window: int | None = None,
    leak: float | None = None,
) -> Tensor:
    """:func:`coherence_attention` for tokens ``z = x + iy`` of the unit disc, x and y (B, H, N).

    ``unit`` says that all |z| = 1. Then the pairwise forms use the kernel in closed form; inside the disc they use the
    series, which is the definition there.
    """
    check_options(mode=mode, causal=causal, window=window, leak=leak)
    n = value.shape[2]
    dtype = torch.promote_types(x.dtype, working_dtype(value))
    # Every real query attends to itself, so its denominator is at least k(z, z) >= c_0 > 0.
    floor = series.peak if unit else series.coefficients[0]
    with torch.autocast(value.device.type, enabled=False):
        tokens = _segments(x, y, value, mask, dtype, SEGMENT if mode == "series" else n)
        if mode == "series" and not causal and n > series.order:
            sums = _series(tokens, series)
        elif mode == "series" and causal and n > CAUSAL_DENSE_BELOW:
            sums = causal_sums(tokens, series, unit, leak)
        elif window is not None and window < n:
            sums = (_window(part, series, unit, causal, window, leak) for part in tokens)
        else:
            sums = (_dense(part, series, unit, causal, leak) for part in tokens)
        out = [(part[..., :-1] / part[..., -1:].clamp_min(floor)).to(value.dtype) for part in sums]
        joined = out[0] if len(out) == 1 else torch.cat(out, 2)
        return joined if mask is None else joined.masked_fill(~mask[:, None, :, None], 0)


def check_options(*, mode: str, causal: bool, window: int | None, leak: float | None) -> None:
    """UsageError for options that contradict each other."""
    if mode not in MODES:
        raise UsageError(f"unknown coherence mode '{mode}'.{nearest(mode, MODES)} Try: {', '.join(MODES)}")
    if (mode == "window") != (window is not None):
        raise UsageError("mode 'window' and option 'window' go together. Try: mode='window', window=128")
    if window is not None and window < 1:
        raise UsageError(f"a window holds at least one token, not {window}. Try: window=128")
    if leak is not None and not (causal and 0 < leak <= 1):
        raise UsageError(f"leak is a factor in (0, 1] per token and needs causal=True, not {leak}. Try: leak=0.99")


def working_dtype(like: Tensor) -> torch.dtype:
    """float64 for long float32 sums (where the device has it), at least float32 otherwise. ``like``: (B, H, N, ...)."""
    short = like.shape[2] <= FLOAT32_BELOW or like.device.type == "mps"
    return torch.promote_types(like.dtype, torch.float32 if short else torch.float64)


def _segments(
    x: Tensor, y: Tensor, value: Tensor, mask: Tensor | None, dtype: torch.dtype, size: int
) -> Iterator[Tokens]:
    """Stretches of ``size`` tokens. What is made of one stays in cache, so that time grows no faster than n."""
    for start in range(0, value.shape[2], size):
        part = slice(start, start + size)
        seen = None if mask is None else mask[:, part]
        yield tokens_of(x[:, :, part], y[:, :, part], value[:, :, part], seen, dtype)


def _series(segments: Iterable[Tokens], series: CosineSeries) -> Iterator[Tensor]:
    features, field = [], None
    for tokens in segments:
        features.append(powers(tokens.z, series.order))
        added = features[-1].transpose(-1, -2) @ tokens.v
        field = added if field is None else field + added
    if field is not None:
        weighted = field * series.weights(field)[:, None]
        yield from (f @ weighted for f in features)


def _dense(tokens: Tokens, series: CosineSeries, unit: bool, causal: bool, leak: float | None) -> Tensor:
    k = pairwise(tokens.z, tokens.z, series, unit)
    n = k.shape[-1]
    if causal:
        k = k * band(n, n, 0, causal=True, window=None, leak=leak, like=k)
    return k @ tokens.v


def _window(tokens: Tokens, series: CosineSeries, unit: bool, causal: bool, window: int, leak: float | None) -> Tensor:
    """Blocks of ``window`` queries against their own block and the one before (and, if not causal, the one after)."""
    n = tokens.z.shape[2]
    blocks = tokens.chunk(window)
    z, v = blocks.z, blocks.v
    before, after = 1, 0 if causal else 1
    keys = [torch.roll(z, shift, 2) for shift in range(before, -after - 1, -1)]
    values = [torch.roll(v, shift, 2) for shift in range(before, -after - 1, -1)]
    k = pairwise(z, torch.cat(keys, -2), series, unit)
    k = k * band(window, k.shape[-1], window, causal=causal, window=window, leak=leak, like=k)
    count = z.shape[2]
    edge = torch.ones(count, k.shape[-1], dtype=k.dtype, device=k.device)
    edge[0, :window] = 0
    if after:
        edge[-1, -window:] = 0
    sums = (k * edge[:, None]) @ torch.cat(values, -2)
    return sums.flatten(2, 3)[:, :, :n]
