"""A linear layer with two timescales: weights that training changes, and weights that the sequence itself changes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from neurons.errors import UsageError, nearest
from neurons.ops.fast_weights import chunked, decay_rate
from neurons.specs import Context, zero_masked


class FastSlowLinear(nn.Module):
    """(B, T, in_features) -> (B, T, out_features), causal; zeros at masked positions.

        v_t = W x_t + b,    y_t = v_t + gate * r_t,    r_t = lambda W_fast(t-1)^T k_t    (per head)
        W_fast(t) = lambda W_fast(t-1) + eta k_t e_t^T,    lambda = exp(-dt / tau_fast)

    The slow weights W and b are trained as usual. The fast weights start at zero in every sequence and are written by
    the layer's own activity, presynaptic times postsynaptic: the key k_t is the input centred and scaled to unit
    length, and Hebb writes ``e_t = v_t``, delta ``e_t = v_t - r_t``, which corrects what the memory already answers, so
    that it stays bounded and can be re-bound (one-pass recall with eta = 0.5 of 64 random pairs in 64 dimensions: Hebb
    .99, delta .98; of 32 re-bound pairs: .50 and .99). The read r_t holds the writes of earlier steps only. Gradients
    flow through writes and reads; the one extra parameter per head is ``gate``, zero at the start.

    ``tau_fast`` and ``dt`` (the time of one token) are in seconds, ``eta`` is the write strength, 0 < eta < 2.
    ``heads`` splits inputs and outputs into independent memories; one head stores the most pairs.

    Streaming: the fast weights after the last real token, (B, heads, in / heads, out / heads), are read from
    ``context.state[label]`` and left in ``context.next_state[label]``, so two such layers need two labels. A masked
    step takes no time.

    Sources: Ba et al. 2016, Schlag et al. 2021. UsageError for an unknown rule, eta out of range, or widths that do not
    split into heads.
    """

    is_causal = True

    def __init__(
        self,
        *,
        in_features: int,
        out_features: int,
        rule: Literal["hebb", "delta"] = "delta",
        heads: int = 1,
        tau_fast: float = 0.1,
        dt: float = 0.001,
        eta: float = 0.5,
        label: str = "fast_slow",
    ) -> None:
        super().__init__()
        if rule not in ("hebb", "delta"):
            near = nearest(rule, ("hebb", "delta"))
            raise UsageError(f"fast-slow linear: rule '{rule}' is unknown.{near} It takes: hebb, delta")
        if in_features % heads or out_features % heads or in_features < 2 * heads:
            sizes = f"{in_features} inputs and {out_features} outputs"
            raise UsageError(f"fast-slow linear: {sizes} do not split into {heads} heads of two inputs or more")
        if not 0 < eta < 2:
            raise UsageError(f"fast-slow linear: eta must lie between 0 and 2, not {eta}")
        if tau_fast <= 0 or dt <= 0:
            raise UsageError(
                f"fast-slow linear: tau_fast and dt are positive times in seconds, not {tau_fast} and {dt}"
            )
        self.in_features, self.out_features, self.rule, self.heads = in_features, out_features, rule, heads
        self.tau_fast, self.dt, self.eta, self.label = tau_fast, dt, eta, label
        self.slow = nn.Linear(in_features, out_features)
        self.gate = nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        drive = self.slow(x)
        # The memory is kept in the parameters' precision under autocast: its sums run over the whole sequence.
        with torch.autocast(x.device.type, enabled=False):
            recalled = self._recall(x.to(self.gate.dtype), drive.to(self.gate.dtype), context)
            gain = self.gate.repeat_interleave(self.out_features // self.heads)
            y = torch.addcmul(drive, recalled.to(drive.dtype), gain.to(drive.dtype))
        return zero_masked(y, context.mask)

    def _recall(self, x: Tensor, drive: Tensor, context: Context) -> Tensor:
        """r (B, T, out_features); leaves the fast weights in the context."""
        width = self.in_features // self.heads
        # Layer normalisation with a constant weight: centred, unit length, and a finite gradient at a silent input.
        key = nn.functional.layer_norm(self._split(x), (width,), weight=x.new_full((width,), width**-0.5))
        carried = context.state.get(self.label)
        recalled, state = chunked(
            key,
            self._split(drive),
            rate=decay_rate(self.dt, self.tau_fast).to(x.device).view(1),
            write=x.new_full((1,), self.eta),
            read=x.new_ones(1),
            rule=self.rule,
            before=True,
            mask=context.mask,
            state=None if carried is None else carried.unsqueeze(0),
        )
        context.next_state[self.label] = state[0].detach()
        return recalled.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def macs_per_token(self, length: int) -> int:
        """Multiply-accumulates per token of a sequence of ``length``, in the dense or chunked form."""
        span = min(length, 64)
        solve = span * self.out_features // 2 if self.rule == "delta" else 0
        state = self.in_features * self.out_features // self.heads
        carried = state * (2 if length > 64 else 1)
        return self.in_features * self.out_features + span * (self.in_features + self.out_features) + solve + carried
