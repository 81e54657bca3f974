"""Attention that emerges from gamma oscillations: heads are rhythms, tokens are phases, no learnable parameter."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.ops.coherence import Trace, check_options, listening_series, point_attention, stream_attention
from neurons.ops.coherence_order import order_parameters
from neurons.ops.cosine_series import cosine_series
from neurons.oscillations.rhythm import CENTRE, gamma_band, rhythm
from neurons.oscillations.turned_disc import turned, turned_disc, turned_disc_reference
from neurons.specs import Context

TINY = 1e-6  # radius below which a hidden state has no phase of its own


@ATTENTIONS.register("gamma")
class GammaAttention(Attention):
    """Coherence of gamma rhythms: ``out_i = sum_j k(q_i, z_j) v_j / sum_j k(q_i, z_j)``, O(T), zero parameters.

    The hidden state (B, T, width) is split in ``heads``. In head h the first two channels (a, b) of token i are read as
    a complex number and turned by the head's rhythm, ``z_i = s(a + ib) e^{2 pi i f_h t_i}`` with ``t_i = i dt``: the
    phase at which the token sends. It receives at the same phase, ``q_i = z_i``, or at one of its own. The values are
    the head's channels themselves. A token hears those whose sending meets its window of excitability (communication
    through coherence). Only phase differences act, so positions are relative, as in RoPE, and a token's index counts
    from the first column (padding on either side changes nothing). What comes before this layer learns to write the
    phases, so that what should hear each other beats together.

    heads: H; width must be a multiple of it, with at least two channels each (four with ``split``).
    split: True reads ``q_i`` from channels (2, 3), so that a token can look for others than its like.
    kernel, kappa: a registered coherence kernel and its concentration.
    form: ``amplitude`` maps smoothly into the unit disc, ``s(w) = gain w / sqrt(1 + gain^2 |w|^2)``, so a small w
    attends uniformly and its gradient is finite; ``phase`` takes ``s(w) = w / |w|`` (phase 0 where |w| < 1e-6).
    order: harmonics of the kernel's series; None chooses them for float32's precision.
    low, high: the heads' frequencies in Hz, in equal ratios from low to 60 Hz and from 60 Hz to high, end points
    included; a single rhythm beats at 60 Hz.
    dt: seconds per token.     content_heads: so many first heads have no rhythm and attend by content alone.
    mode, window: as in :func:`neurons.ops.coherence.coherence_attention`.
    leak: what a membrane keeps from token to token: tokens are weighted by ``leak^|i - j|`` too; None forgets nothing.
    leak_longest: gives the heads memories of their own: the time constants ``1 / (1 - leak)`` go in equal ratios from
    that of leak to that of leak_longest, once over the content heads and once over the rhythmic ones.
    label, orders: observables are left as ``<label>.R`` (B, H), the order parameter ``|mean_i z_i|`` of the senders
    over the real tokens, and ``<label>.R2`` .. up to ``orders``, Daido's ``|mean_i z_i^m|``, which sees m clusters.

    Streaming: a causal layer (of mode series) reads ``context.state[label]`` and leaves a :class:`Stream` of fixed size
    in ``context.next_state[label]``: chunks give what the whole sequence gives; no gradient passes between chunks.

    Sources: Fries 2015 (communication through coherence); Su et al. 2021 (RoPE); Katharopoulos et al. 2020.
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        split: bool = False,
        kernel: str = "von_mises",
        kappa: float = 4.0,
        form: Literal["amplitude", "phase"] = "amplitude",
        order: int | None = None,
        gain: float = 3.0,
        low: float = 30.0,
        high: float = 100.0,
        dt: float = 0.001,
        content_heads: int = 0,
        mode: Literal["series", "window", "dense"] = "series",
        window: int | None = None,
        leak: float | None = None,
        leak_longest: float | None = None,
        orders: int = 1,
        label: str = "gamma",
    ) -> None:
        super().__init__()
        channels = 4 if split else 2
        if heads < 1 or width % heads or width < channels * heads:
            raise UsageError(
                f"width {width} does not split into {heads} heads of {channels} channels or more. "
                f"Try: heads=1{', split=False' if split and width < 4 else ''}"
            )
        if form not in ("amplitude", "phase"):
            raise UsageError(f"unknown form '{form}' of gamma attention. Try: amplitude, phase")
        if not 0 < low <= CENTRE <= high:
            raise UsageError(f"the band must hold {CENTRE:g} Hz, not {low:g} to {high:g}. Try: low=30.0, high=100.0")
        if not 0 <= content_heads <= heads:
            raise UsageError(f"content_heads is 0 to {heads}, the number of heads, not {content_heads}. Try: 0")
        if gain <= 0 or dt <= 0:
            raise UsageError(f"gain and dt are above 0, not {gain} and {dt}. Try: gain=3.0, dt=0.001")
        if leak_longest is not None and not (leak is not None and 0 < leak <= leak_longest < 1):
            raise UsageError(
                f"leak_longest is a factor from leak up to below 1, not {leak_longest} with leak={leak}. "
                "Try: leak=0.75, leak_longest=0.98"
            )
        if orders < 1:
            raise UsageError(f"orders is the number of order parameters, 1 or more, not {orders}. Try: orders=1")
        check_options(mode=mode, window=window, leak=leak, heads=heads)
        self.width, self.is_causal, self.heads, self.kernel, self.kappa = width, causal, heads, kernel, kappa
        self.form, self.order, self.gain, self.low, self.high, self.dt = form, order, gain, low, high, dt
        self.content_heads, self.mode, self.window, self.leak, self.label = content_heads, mode, window, leak, label
        self.leak_longest, self.orders, self.split = leak_longest, orders, split
        self.series = (listening_series if split and form == "phase" else cosine_series)(kernel, kappa, order)
        self.frequencies = (0.0,) * content_heads + gamma_band(heads - content_heads, low, high)
        self.leaks: float | tuple[float, ...] | None = leak
        if leak is not None and leak_longest is not None:
            self.leaks = leak_spread(content_heads, leak, leak_longest) + leak_spread(
                heads - content_heads, leak, leak_longest
            )

    def forward(self, x: Tensor, context: Context) -> Tensor:
        value = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        streams = self.is_causal and self.mode == "series"
        before: Stream | None = context.state.get(self.label) if streams else None
        z, query = self.oscillators(value, None if before is None else before.position)
        if context.observables is not None:
            found = order_parameters(z[..., 0], z[..., 1], context.mask, range(1, self.orders + 1))
            for m in range(self.orders):
                context.observables[f"{self.label}.R{m + 1 if m else ''}"] = found[..., m]
        unit = self.form == "phase"
        if streams:
            trace = None if before is None else before.trace
            out, trace = stream_attention(
                z, value, self.series, trace, unit=unit, query=query, mask=context.mask, leak=self.leaks
            )
            taken = torch.tensor(x.shape[1]) if before is None else before.position + x.shape[1]
            context.next_state[self.label] = Stream(trace, taken)
        else:
            out = point_attention(
                z,
                value,
                self.series,
                unit=unit,
                query=query,
                mode=self.mode,
                causal=self.is_causal,
                mask=context.mask,
                window=self.window,
                leak=self.leaks,
            )
        return out.transpose(1, 2).flatten(2)

    def oscillators(self, value: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The tokens' points of the unit disc as senders and, if these differ, as receivers (B, H, T, 2), from value
        (B, H, T, width / H); the first token is the one at ``start`` of its sequence."""
        count = 2 if self.split else 1
        dtype = torch.promote_types(value.dtype, torch.float32)
        value = value if value.dtype == dtype else value[..., : 2 * count].to(dtype)
        known = start is None and not torch.compiler.is_compiling()
        turns = (_cached_turns if known else _turns)(
            self.frequencies, self.dt, value.shape[2], start, dtype, value.device
        )
        if self.form == "amplitude":
            # the fast form has no second derivative, as mode "series" has none
            plain = self.mode != "series" or torch.compiler.is_compiling()
            made = (turned_disc_reference if plain else turned_disc)(value, count, self.gain, *turns)
        else:
            pair = value[..., : 2 * count].unflatten(-1, (count, 2))
            squared = pair.square().sum(-1, keepdim=True)
            # both branches of `where` are finite, so that no NaN gradient comes from the branch not taken
            silent = squared < TINY**2
            pair = pair * squared.masked_fill(silent, 1.0).rsqrt()
            pair = torch.where(silent, pair.new_tensor([1.0, 0.0]), pair)
            made = turned(pair, *turns)
        return made[0], made[1] if self.split else None


class Stream(NamedTuple):
    """State of a causal layer between two chunks of a sequence: what its tokens have left, and how many there were."""

    trace: Trace
    position: Tensor


def _turns(
    frequencies: tuple[float, ...],
    dt: float,
    steps: int,
    start: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """cos and sin (H, T) of the rhythms of the tokens from ``start`` (0 if None) on, made in double precision."""
    with torch.inference_mode(False):  # what is cached serves training too
        cos, sin = rhythm(frequencies, dt, steps, 0 if start is None else start.cpu())
        return cos.to(device, dtype), sin.to(device, dtype)


_cached_turns = lru_cache(maxsize=8)(_turns)


def leak_spread(count: int, shortest: float, longest: float) -> tuple[float, ...]:
    """``count`` leaks whose time constants 1 / (1 - leak), in tokens, go in equal ratios from shortest to longest."""
    places = [0.0] if count == 1 else [i / (count - 1) for i in range(count)]
    return tuple(1 - (1 - shortest) * ((1 - longest) / (1 - shortest)) ** u for u in places)
