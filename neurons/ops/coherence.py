"""Attention by phase coherence: ``out_i = sum_j k(phi_i - phi_j) v_j / sum_j k(phi_i - phi_j)``, without parameters.

An even 2*pi-periodic kernel has a cosine series, ``k(d) = sum_m c_m cos(m d)``, and ``cos m(a - b)`` is the scalar
product of ``(cos ma, sin ma)`` and ``(cos mb, sin mb)``. So the average over all tokens passes through 2M + 1 sums
``sum_j e^{i m phi_j} v_j``, the mean fields (Kuramoto-Daido order parameters) of the oscillators, and costs O(n).

A token is a point z of the unit disc. On the circle (``unit``) the interaction is k itself; inside it is
``k(z, z') = sum_m c_m Re (z conj(z'))^m``, the kernel blurred by the tokens' amplitudes: at amplitude 0 a token attends
uniformly. It stays nonnegative because ``rho^m`` are the coefficients of a nonnegative (Poisson) kernel.

A token may listen with another point than it sends with: ``out_i = sum_j k(q_i, z_j) v_j / sum_j k(q_i, z_j)``. Then
nothing keeps a denominator away from 0, not even a causal query's own key. All forms keep the relative precision of
float32 down to ``n k(pi)``, in float64 where they must; a query that hears nothing gets zero.

Sources: Katharopoulos et al. 2020 (linear attention); Daido 1992 (order parameters); Fries 2015 (coherence).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from neurons.errors import UsageError, nearest
from neurons.ops.coherence_chunks import LEAST, Plan
from neurons.ops.coherence_op import average, last_field
from neurons.ops.coherence_parts import Leak, Tokens, band, pairwise, tokens_of
from neurons.ops.cosine_series import SAMPLES, CosineSeries, cosine_coefficients, cosine_series

Mode = Literal["series", "window", "dense"]
MODES = ("series", "window", "dense")


def coherence_attention(
    phase: Tensor,
    value: Tensor,
    *,
    query_phase: Tensor | None = None,
    kernel: str = "von_mises",
    kappa: float = 4.0,
    mode: Mode = "series",
    causal: bool = False,
    mask: Tensor | None = None,
    window: int | None = None,
    order: int | None = None,
    leak: Leak | None = None,
) -> Tensor:
    """Kernel average of ``value`` (B, H, N, D) by coherence of ``phase`` (B, H, N) in radians; returns (B, H, N, D).

    query_phase: of the tokens as queries, (B, H, N), if they differ from ``phase``, those as keys.
    mask: (B, N) bool, True = real; masked tokens neither attend nor are attended to, and their output is zero.
    mode: ``series`` is O(n) with 2M + 1 features (by the matrix of all pairs where so few tokens are faster that way);
    ``window`` is exact over |i - j| < ``window``, O(n window);
    ``dense`` is exact over all pairs, O(n^2), the reference of the other two.
    order: M of the series; None chooses it so that values and gradients keep float32's precision.
    leak: weight ``leak^|i - j|``, the membrane's forgetting per token, in (0, 1]: a float, or a tuple with one per
    head. Causal it is a trace of the past, else a neighbourhood on both sides.

    Raises UsageError for an unknown kernel or mode, a kappa <= 0, a window without the window mode or the reverse, and
    a leak outside (0, 1] or not one per head.
    """
    series = cosine_series(kernel, kappa, order) if query_phase is None else listening_series(kernel, kappa, order)
    return point_attention(
        _on_circle(phase),
        value,
        series,
        query=None if query_phase is None else _on_circle(query_phase),
        unit=True,
        mode=mode,
        causal=causal,
        mask=mask,
        window=window,
        leak=leak,
    )


def _on_circle(phase: Tensor) -> Tensor:
    angle = phase.to(torch.float32 if phase.device.type == "mps" else torch.float64)
    return torch.stack([torch.cos(angle), torch.sin(angle)], -1)


def listening_series(kernel: str, kappa: float, order: int | None = None) -> CosineSeries:
    """The series for queries on the circle with points of their own: they may hear nothing but ``k(pi)``, so ``order``
    None takes all harmonics that rounding has left. Where sums do not cancel, as few as for others serve."""
    if order is not None:
        return cosine_series(kernel, kappa, order)
    short = cosine_series(kernel, kappa)
    last = int(cosine_coefficients(short.kernel).nonzero().max())
    return replace(cosine_series(kernel, kappa, min(max(last, short.order), SAMPLES // 4)), fast_order=short.fast_order)


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
    leak: Leak | None = None,
) -> Tensor:
    """:func:`coherence_attention` for tokens ``z = x + iy`` of the unit disc, x and y (B, H, N).

    ``unit`` says that all |z| = 1. Then the pairwise forms use the kernel in closed form; inside the disc they use the
    series, which is the definition there.
    """
    points = torch.stack([x, y], -1)
    return point_attention(
        points, value, series, unit=unit, mode=mode, causal=causal, mask=mask, window=window, leak=leak
    )


def point_attention(
    z: Tensor,
    value: Tensor,
    series: CosineSeries,
    *,
    unit: bool,
    query: Tensor | None = None,
    mode: Mode = "series",
    causal: bool = False,
    mask: Tensor | None = None,
    window: int | None = None,
    leak: Leak | None = None,
) -> Tensor:
    """:func:`disc_attention` for points z (B, H, N, 2), seen from ``query`` (B, H, N, 2) if that is not z itself."""
    check_options(mode=mode, window=window, leak=leak, heads=value.shape[1])
    split = query is not None
    z, query = _exact_points(z, query, unit)
    if mode == "series":
        plan = plan_of(series, unit, causal, leak, value.shape[1], split)
        return average(z, _precise(value, plan, unit), query, mask, None, plan).to(value.dtype)
    n = value.shape[2]
    dtype = torch.promote_types(z.dtype, torch.promote_types(value.dtype, torch.float32))
    if split and not unit and value.device.type != "mps":
        dtype = torch.float64  # the kernel is a series here, and has terms as small as its rounding
    with torch.autocast(value.device.type, enabled=False):
        tokens = tokens_of(z, query, value, mask, dtype)
        if window is not None and window < n:
            sums = _window(tokens, series, unit, causal, window, leak)
        else:
            sums = _dense(tokens, series, unit, causal, leak)
        den = sums[..., -1:]
        den = den.masked_fill(den <= LEAST, torch.inf) if split else den.clamp_min(_floor(series, unit))
        out = (sums[..., :-1] / den).to(value.dtype)
        return out if mask is None else out.masked_fill(~mask[:, None, :, None], 0)


class Trace:
    """What a causal stream of tokens has left: the mean field (B, H, 2M + 1, D + 1) of their features and values,
    float64, decayed by the leak to the next token. Of fixed size.

    While training it is computed when it is read, because most training reads none; until then it holds the tokens,
    which the gradient holds too (and which autograd therefore forbids to change).
    """

    def __init__(self, compute: Callable[[], Tensor]) -> None:
        lazy = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        self._compute: Callable[[], Tensor] | None = compute if lazy else None
        self._field: Tensor | None = None if lazy else compute()

    @property
    def field(self) -> Tensor:
        if self._compute is not None:
            self._field, self._compute = self._compute(), None
        assert self._field is not None
        return self._field


def stream_attention(
    z: Tensor,
    value: Tensor,
    series: CosineSeries,
    trace: Trace | None,
    *,
    unit: bool,
    query: Tensor | None = None,
    mask: Tensor | None = None,
    leak: Leak | None = None,
) -> tuple[Tensor, Trace]:
    """The next tokens of a stream, one or many: causal :func:`point_attention` after the tokens behind ``trace``.

    Equal to one call with all tokens. ``trace`` None starts a stream. No gradient passes through a trace.
    """
    check_options(mode="series", window=None, leak=leak, heads=value.shape[1])
    plan = plan_of(series, unit, True, leak, value.shape[1], query is not None)
    z, query = _exact_points(z, query, unit)
    field = None if trace is None else trace.field
    out = average(z, _precise(value, plan, unit), query, mask, field, plan).to(value.dtype)
    return out, Trace(partial(last_field, z.detach(), value.detach(), mask, field, plan))


def _exact_points(z: Tensor, query: Tensor | None, unit: bool) -> tuple[Tensor, Tensor | None]:
    """Points on the circle to float64: 1e-7 inside, as float32 rounds them, the blur is 1e-5 of k(pi) at kappa = 4."""
    if query is None or not unit or z.device.type == "mps":
        return z, query
    return F.normalize(z.double(), dim=-1), F.normalize(query.double(), dim=-1)


def _precise(value: Tensor, plan: Plan, unit: bool) -> Tensor:
    """On the circle a kernel without a closed form of ours goes in float64: its series cancels where it is small."""
    return value if plan.kappa or not unit or value.device.type == "mps" else value.double()


def plan_of(series: CosineSeries, unit: bool, causal: bool, leak: Leak | None, heads: int, split: bool = False) -> Plan:
    """What the fast form computes; ``split``: queries have points of their own."""
    closed = unit and series.kernel.name == "von_mises"
    leaks = () if leak is None else leak if isinstance(leak, tuple) else (leak,) * heads
    kappa = float(series.kernel.kappa) if closed else 0.0
    floor = 0.0 if split else _floor(series, unit)
    return Plan(series.coefficients, series.fast_order, kappa, leaks, causal, floor)


def _floor(series: CosineSeries, unit: bool) -> float:
    """Every real query attends to itself, so its denominator is at least k(z, z) >= c_0 > 0."""
    return series.peak if unit else series.coefficients[0]


def check_options(*, mode: str, window: int | None, leak: Leak | None, heads: int) -> None:
    """UsageError for options that contradict each other."""
    if mode not in MODES:
        raise UsageError(f"unknown coherence mode '{mode}'.{nearest(mode, MODES)} Try: {', '.join(MODES)}")
    if (mode == "window") != (window is not None):
        raise UsageError("mode 'window' and option 'window' go together. Try: mode='window', window=128")
    if window is not None and window < 1:
        raise UsageError(f"a window holds at least one token, not {window}. Try: window=128")
    if leak is not None and not all(0 < each <= 1 for each in (leak if isinstance(leak, tuple) else (leak,))):
        raise UsageError(f"leak is a factor in (0, 1] per token, not {leak}. Try: leak=0.99")
    if isinstance(leak, tuple) and len(leak) != heads:
        raise UsageError(f"leak has {len(leak)} factors for {heads} heads. Try: one float, or one per head")


def _dense(tokens: Tokens, series: CosineSeries, unit: bool, causal: bool, leak: Leak | None) -> Tensor:
    k = pairwise(tokens.q, tokens.z, series, unit)
    n = k.shape[-1]
    if causal or leak is not None:
        k = k * band(n, n, 0, causal=causal, window=None, leak=leak, like=k)
    return k @ tokens.v


def _window(tokens: Tokens, series: CosineSeries, unit: bool, causal: bool, window: int, leak: Leak | None) -> Tensor:
    """Blocks of ``window`` queries against their own block and the one before (and, if not causal, the one after)."""
    n = tokens.z.shape[2]
    blocks = tokens.chunk(window)
    z, q, v = blocks
    before, after = 1, 0 if causal else 1
    keys = [torch.roll(z, shift, 2) for shift in range(before, -after - 1, -1)]
    values = [torch.roll(v, shift, 2) for shift in range(before, -after - 1, -1)]
    k = pairwise(q, torch.cat(keys, -2), series, unit)
    k = k * band(window, k.shape[-1], window, causal=causal, window=window, leak=leak, like=k)
    count = z.shape[2]
    edge = torch.ones(count, k.shape[-1], dtype=k.dtype, device=k.device)
    edge[0, :window] = 0
    if after:
        edge[-1, -window:] = 0
    sums = (k * edge[:, None]) @ torch.cat(values, -2)
    return sums.flatten(2, 3)[:, :, :n]
