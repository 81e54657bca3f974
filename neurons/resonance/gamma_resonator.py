"""Two ways of listening side by side: some heads bind by gamma coherence, the others resonate."""

from __future__ import annotations

import torch
from torch import Tensor

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.model import Attention
from neurons.oscillations.gamma import GammaAttention
from neurons.resonance.resonator import Resonator
from neurons.specs import Context


@ATTENTIONS.register("gamma_resonator")
class GammaResonator(Attention):
    """The first heads are those of :class:`GammaAttention`, the channels of the rest go through a resonator bank:
    (B, T, width) -> (B, T, width).

        y = [gamma(x_1 .. x_h), resonator(x_h+1 .. x_H)]

    Coherence finds the tokens that matter wherever they are, but its leak is one exponential per head; resonators keep
    time, order and rhythm on all scales, whatever matters. What follows (in ``neuronsv2`` the dendrites) joins them.

    heads: H, all heads; width must be a multiple of it.     resonating: how many of them resonate, None = half.
    content_heads: of all H, scaled to the gamma heads.     The other options are those of the two parts.
    Parameters: those of a resonator of width (width / H) resonating; the gamma heads have none.
    Sources: Fries 2015; Izhikevich 2001.
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        resonating: int | None = None,
        split: bool = False,
        kappa: float = 4.0,
        content_heads: int = 0,
        leak: float | None = None,
        leak_longest: float | None = None,
        modes: int = 64,
        dt: float = 0.001,
        longest: float = 1.0,
        cycles: float = 4.0,
        gated: bool = True,
        label: str = "gamma_resonator",
    ) -> None:
        super().__init__()
        self.width, self.is_causal, self.heads, self.resonating, self.split = width, causal, heads, resonating, split
        self.kappa, self.content_heads, self.leak, self.leak_longest = kappa, content_heads, leak, leak_longest
        self.modes, self.dt, self.longest, self.cycles, self.gated = modes, dt, longest, cycles, gated
        self.label = label
        if heads < 2 or width % heads:
            raise UsageError(
                f"attention 'gamma_resonator': width {width} does not split into {heads} heads. Try: heads=2"
            )
        taken = heads // 2 if resonating is None else resonating
        if not 0 < taken < heads:
            raise UsageError(f"resonating is 1 to {heads - 1} of {heads} heads, not {taken}. Try: resonating=None")
        binding, size = heads - taken, width // heads
        self.gamma = GammaAttention(
            width=binding * size,
            causal=causal,
            heads=binding,
            split=split,
            kappa=kappa,
            content_heads=round(content_heads * binding / heads),
            leak=leak,
            leak_longest=leak_longest,
            dt=dt,
            label=f"{label}.gamma",
        )
        self.resonator = Resonator(
            width=taken * size,
            causal=causal,
            modes=modes,
            dt=dt,
            longest=longest,
            cycles=cycles,
            gated=gated,
            label=f"{label}.resonator",
        )

    def forward(self, x: Tensor, context: Context) -> Tensor:
        bound, rung = x.split([self.gamma.width, self.resonator.width], -1)
        return torch.cat([self.gamma(bound, context), self.resonator(rung, context)], -1)
