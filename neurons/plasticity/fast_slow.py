"""A linear layer with two timescales: weights that training changes, and weights that the sequence itself changes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from neurons.errors import UsageError, nearest
from neurons.ops.fast_weights import chunked, decay_rate
from neurons.ops.fast_weights_rls import rls_chunked
from neurons.plasticity.consolidation import ConsolidatedMemory
from neurons.specs import Context, zero_masked

RULES = ("hebb", "delta", "rls")
_PERIOD, _WORN = 64, 3.5  # rls: the ridge is renewed after 64 steps, or before it has worn down to exp(-3.5)


class FastSlowLinear(nn.Module):
    """(B, T, in_features) -> (B, T, out_features), causal; zeros at masked positions.

        v_t = W x_t + b,    y_t = v_t + gate * r_t,    r_t = lambda W_fast(t-1)^T q_t    (per head)
        W_fast(t) = lambda W_fast(t-1) + eta k_t e_t^T,    lambda = exp(-dt / tau_fast)

    The slow weights W and b are trained as usual. The fast weights start at zero in every sequence and are written by
    the layer's own activity, presynaptic times postsynaptic. q_t is the input, or a learned projection of it to
    ``keys`` numbers, centred and scaled to unit length. With ``lag`` 0 the key k_t is q_t: what is active together is
    bound together. With ``lag`` 1 it is q_(t-1): what came before is bound to what follows, as where a synapse grows
    when its input leads its output (spike-timing dependent plasticity), and reading answers "what came after this?".

    ``rule``. Hebb writes e_t = v_t; delta e_t = v_t - r_t at k_t, which corrects what the memory already answers, so
    that it stays bounded and can be re-bound; rls fits all pairs so far by least squares, those n steps back with
    weight lambda^n, so that correlated keys do not disturb each other, for a state of d x (d + e) instead of d x e and
    a rule that is not local in the strict sense (``ops.fast_weights_rls``). The read holds the writes of earlier steps
    only. Gradients flow through writes and reads; ``gate``, one number per head, starts at zero.

    ``tau_fast`` and ``dt`` (the time of one token) are in seconds. ``eta`` is the write strength of Hebb and delta,
    0 < eta < 2, None for .5; rls has none. ``heads`` splits inputs and outputs into independent memories; one head
    stores the most pairs. ``consolidate`` adds the medium and the slow memory of ``ConsolidatedMemory``, which
    ``end_episode`` writes from the fast weights of the last batch in training mode; three timescales then answer.

    Streaming: the fast weights after the last real token, (B, heads, d, out / heads) or rls' ``Moments``, are read from
    ``context.state[label]`` and left in ``context.next_state[label]``, with ``lag`` the last key under
    ``label + ".key"``; two such layers need two labels. A masked step takes no time.

    Sources: Ba et al. 2016, Schlag et al. 2021, von Oswald et al. 2023. UsageError for an unknown rule, values out of
    range, or widths that do not split into heads.
    """

    is_causal = True

    def __init__(
        self,
        *,
        in_features: int,
        out_features: int,
        rule: Literal["hebb", "delta", "rls"] = "delta",
        heads: int = 1,
        keys: int | None = None,
        lag: Literal[0, 1] = 0,
        tau_fast: float = 0.1,
        dt: float = 0.001,
        eta: float | None = None,
        consolidate: bool = False,
        label: str = "fast_slow",
    ) -> None:
        super().__init__()
        if rule not in RULES:
            raise UsageError(
                f"fast-slow linear: rule '{rule}' is unknown.{nearest(rule, RULES)} It takes: {', '.join(RULES)}"
            )
        width = in_features if keys is None else keys
        if width % heads or out_features % heads or width < 2 * heads:
            sizes = f"{width} {'inputs' if keys is None else 'keys'} and {out_features} outputs"
            raise UsageError(f"fast-slow linear: {sizes} do not split into {heads} heads of two inputs or more")
        if lag not in (0, 1):
            raise UsageError(f"fast-slow linear: lag is 0 (together) or 1 (one after the other), not {lag}")
        if rule == "rls" and eta is not None:
            raise UsageError("fast-slow linear: rls finds its own write strength: leave eta out")
        if eta is not None and not 0 < eta < 2:
            raise UsageError(f"fast-slow linear: eta must lie between 0 and 2, not {eta}")
        if tau_fast <= 0 or dt <= 0:
            raise UsageError(
                f"fast-slow linear: tau_fast and dt are positive times in seconds, not {tau_fast} and {dt}"
            )
        self.in_features, self.out_features, self.rule, self.heads = in_features, out_features, rule, heads
        self.keys, self.lag, self.tau_fast, self.dt, self.eta, self.label = keys, lag, tau_fast, dt, eta, label
        self.consolidate = consolidate
        self.slow = nn.Linear(in_features, out_features)
        self.key = None if keys is None else nn.Linear(in_features, keys, bias=False)
        self.gate = nn.Parameter(torch.zeros(heads))
        self.memory = (
            ConsolidatedMemory(heads=heads, keys=width // heads, values=out_features // heads) if consolidate else None
        )

    def forward(self, x: Tensor, context: Context) -> Tensor:
        drive = self.slow(x)
        # The memory is kept in the parameters' precision under autocast: its sums run over the whole sequence.
        with torch.autocast(x.device.type, enabled=False):
            recalled = self._recall(x.to(self.gate.dtype), drive.to(self.gate.dtype), context)
            gain = self.gate.repeat_interleave(self.out_features // self.heads)
            y = torch.addcmul(drive, recalled.to(drive.dtype), gain.to(drive.dtype))
        return zero_masked(y, context.mask)

    def extra_repr(self) -> str:
        return f"{self.rule}, tau_fast {self.tau_fast:g} s, {self.heads} heads, lag {self.lag}"

    def end_episode(self) -> None:
        """Consolidates the fast weights of the last batch in training mode; nothing without ``consolidate``."""
        if self.memory is not None:
            self.memory.end_episode()

    def _recall(self, x: Tensor, drive: Tensor, context: Context) -> Tensor:
        """r (B, T, out_features); leaves the fast weights in the context."""
        key = self._split(x if self.key is None else self.key(x))
        width = key.shape[-1]
        # Layer normalisation with a constant weight: centred, unit length, and a finite gradient at a silent input.
        key = nn.functional.layer_norm(key, (width,), weight=x.new_full((width,), width**-0.5))
        query = None
        if self.lag:
            query, key = key, self._previous(key, context)
        value = self._split(drive)
        recalled, weights = self._fast(key, value, query, context)
        if self.memory is not None and weights is not None:
            real = (
                torch.tensor(float(x.shape[1]), dtype=torch.float64)
                if context.mask is None
                else context.mask.sum(1).double().mean()
            )
            self.memory.observe(weights, recalled, value, context.mask, self.dt * real)
            recalled = recalled + (key if query is None else query) @ self.memory.weights().to(key)
        return recalled.transpose(1, 2).flatten(2)

    def _fast(self, key: Tensor, value: Tensor, query: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        """What the fast weights answer, (B, H, T, e), and, if anybody asks, what they are at the end, (B, H, d, e)."""
        rate = decay_rate(self.dt, self.tau_fast).to(key.device)
        carried = context.state.get(self.label)
        if self.rule == "rls":
            period = max(1, min(_PERIOD, int(_WORN * self.tau_fast / self.dt)))
            recalled, moments = rls_chunked(
                key, value, query, rate=rate, period=period, before=True, mask=context.mask, state=carried
            )
            context.next_state[self.label] = moments.detach()
            return recalled, moments.detach().weights() if self.consolidate else moments.cross
        recalled, state = chunked(
            key,
            value,
            query,
            rate=rate.view(1),
            write=key.new_full((1,), 0.5 if self.eta is None else self.eta),
            read=key.new_ones(1),
            rule="hebb" if self.rule == "hebb" else "delta",
            before=True,
            mask=context.mask,
            state=None if carried is None else carried.unsqueeze(0),
            final=context.keep_state or self.consolidate,
        )
        if state is None:
            return recalled, None
        context.next_state[self.label] = state[0].detach()
        return recalled, context.next_state[self.label]

    def _previous(self, key: Tensor, context: Context) -> Tensor:
        """The key of the real step before each step, zeros at the first; leaves the last one in the context."""
        label = f"{self.label}.key"
        carried: Tensor | None = context.state.get(label)
        first = key.new_zeros(*key.shape[:2], 1, key.shape[-1]) if carried is None else carried.unsqueeze(2).to(key)
        line = torch.cat([first, key], 2)
        if context.mask is None:
            context.next_state[label] = line[:, :, -1].detach().clone()  # a view would keep every key
            return line[:, :, :-1]
        places = torch.arange(1, key.shape[2] + 1, device=key.device) * context.mask
        latest = nn.functional.pad(places.cummax(1).values, (1, 0))[:, None, :, None]  # up to each step, in the line
        found = line.gather(2, latest.expand(line.shape))
        context.next_state[label] = found[:, :, -1].detach().clone()
        return found[:, :, :-1]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def macs_per_token(self, length: int) -> int:
        """Multiply-accumulates per token of a sequence of ``length``, in the dense or chunked form."""
        keys = self.in_features if self.keys is None else self.keys
        width, out, span = keys // self.heads, self.out_features, min(length, _PERIOD)
        projected = self.in_features * (out + (0 if self.keys is None else keys))
        pairs = span * keys * (2 if self.lag else 1) + span * out * (1 if self.rule == "hebb" or self.lag else 0)
        solve = {"hebb": 0, "delta": span * out // 2, "rls": span * (out + span * self.heads // 3) // 2}[self.rule]
        state = width * out * (2 if length > _PERIOD else 1)
        if self.rule == "rls":
            state += width * keys * (2 if length > _PERIOD else 1)
        return projected + pairs + solve + state
