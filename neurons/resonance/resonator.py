"""A mixer made of resonate-and-fire neurons without reset: damped resonators that tokens drive and read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurons import ATTENTIONS
from neurons.model import Attention
from neurons.ops.resonance import resonance
from neurons.resonance.poles import Poles
from neurons.specs import Context, zero_masked


@ATTENTIONS.register("resonator")
class Resonator(Attention):
    """A bank of K damped resonators shared by all channels, O(T): (B, T, width) -> (B, T, width).

        u = B x * 2 sigmoid(G x),   s_k,t = exp((-alpha_k + i omega_k) dt) s_k,t-1 + gamma_k u_k,t,   y = Re C s + d * x

    so that token j reaches token t by ``K_t-j = Re sum_k C_k gamma_k B_k exp((-alpha_k + i omega_k) (t - j) dt)``: a
    diagonal state space, or subthreshold resonate-and-fire neurons with synapses B and axons C. The gate decides which
    tokens drive which resonator. ``gamma_k = sqrt(1 - exp(-2 alpha_k dt))`` gives states of unit variance from white
    noise. Not causal: a second readout hears the same resonators run backwards.

    modes: K, the number of resonators.     dt: seconds per token.     longest, cycles: the slowest time constant in
    seconds, and the cycles within a time constant; see :class:`neurons.resonance.poles.Poles`. Frequencies and time
    constants are physical: what is learned at one length holds at any other.
    gated: False leaves the currents as they are; the mixer is then linear in x.
    label: a causal layer reads ``context.state[label]`` and leaves (2, K, B), whatever it has heard; no gradient passes
    between chunks.
    Parameters: K (4 width + 3) + width, gated and causal; 2 K width more when not causal.
    Sources: Izhikevich 2001 (resonate-and-fire); Gu et al. 2022 (S4D); Orvieto et al. 2023 (LRU).
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        modes: int = 64,
        dt: float = 0.001,
        longest: float = 1.0,
        cycles: float = 4.0,
        gated: bool = True,
        label: str = "resonator",
    ) -> None:
        super().__init__()
        self.width, self.is_causal, self.modes, self.dt = width, causal, modes, dt
        self.longest, self.cycles, self.gated, self.label = longest, cycles, gated, label
        self.poles = Poles(modes, dt=dt, longest=longest, cycles=cycles)
        self.synapses = nn.Parameter(torch.randn(modes, width) * width**-0.5)
        self.selection = nn.Linear(width, modes) if gated else None
        directions = 1 if causal else 2
        self.readout = nn.Parameter(torch.randn(width, directions * 2 * modes) * (directions * modes) ** -0.5)
        self.skip = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        batch, steps, width = x.shape
        rate, angle = self.poles()
        heard = zero_masked(x, context.mask).reshape(-1, width).t()
        current = (self.synapses * (-torch.expm1(-2 * rate)).sqrt()[:, None]) @ heard  # (K, B T): rows for the scan
        if self.selection is not None:
            chosen = torch.addmm(self.selection.bias[:, None], self.selection.weight, heard)
            current = current * (2 * chosen.sigmoid())
        # sums over thousands of tokens are kept in the parameters' precision under autocast
        with torch.autocast(x.device.type, enabled=False):
            current = current.to(rate.dtype).view(self.modes, batch, steps)
            if self.is_causal:
                states = resonance(current, rate, angle, context.state.get(self.label))
                if context.keep_state:
                    context.next_state[self.label] = states[..., -1].detach().clone()
            else:
                ahead, back = resonance(torch.cat([current, current.flip(-1)], 1), rate, angle).split(batch, 2)
                states = torch.cat([ahead, back.flip(-1)])
        out = states.flatten(2).flatten(0, 1).t() @ self.readout.t()
        return zero_masked(torch.addcmul(out.view(batch, steps, width), x, self.skip), context.mask)

    def extra_repr(self) -> str:
        kind = "causal" if self.is_causal else "both directions"
        return f"{self.modes} resonators, up to {self.longest:g} s, {kind}"
