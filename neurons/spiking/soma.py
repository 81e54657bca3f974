"""A spiking soma: dendrites deliver a current, the membrane integrates it along the sequence, and spikes leave."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import snntorch
import torch
from snntorch import surrogate as surrogates
from torch import Tensor, nn

from neurons.errors import UsageError, nearest
from neurons.specs import Context, zero_masked
from neurons.spiking.membrane import membrane

# snntorch's sigmoid is missing: its gradient is NaN at U - theta = -5.
SURROGATES: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "atan": surrogates.atan,
    "fast_sigmoid": surrogates.fast_sigmoid,
}


class SpikingSoma(nn.Module):
    """Leaky integrate-and-fire neurons: current (B, T, features) -> spikes of 0 and 1, (B, T, features). No parameters.

        U_t = beta U_{t-1} + I_t - theta H(U_{t-1} - theta),    S_t = H(U_t - theta),    beta = exp(-dt / tau_mem)

    The token axis is time, so the layer is causal. Usually I is the drive of a ``DendriticLayer`` with the soma
    activation ``linear``. These are the neurons of snntorch's ``Leaky`` (:meth:`snntorch_neuron`), run in a loop
    of their own (forward and backward of 1600 steps: over 20 times as fast), with snntorch's surrogate gradient of H:

    - ``atan``: ``1 / (1 + (pi (U - theta))^2)``, broad, also silent neurons learn.  Fang et al. 2021.
    - ``fast_sigmoid``: ``1 / (1 + 25 |U - theta|)^2``, narrow.  Zenke & Ganguli 2018.

    tau_mem, dt: membrane time constant and duration of a token, seconds.     threshold: theta, in units of the current.
    fan_out: synapses that a spike drives; only the energy estimate reads it.
    label: the spike rate is left in observables as ``<label>.rate`` (B, features), spikes per real step. Streaming: the
    membrane (B, features) after the last real step is read from ``context.state[label]`` and left in
    ``context.next_state[label]``. A masked step takes no time and fires no spike.

    UsageError for an unknown surrogate, or times or a threshold that are not above zero.
    """

    is_causal = True

    def __init__(
        self,
        features: int,
        tau_mem: float = 0.005,
        threshold: float = 1.0,
        surrogate: Literal["atan", "fast_sigmoid"] = "atan",
        label: str = "soma",
        *,
        dt: float = 0.001,
        fan_out: int = 1,
    ) -> None:
        super().__init__()
        if surrogate not in SURROGATES:
            near = nearest(surrogate, SURROGATES)
            raise UsageError(
                f"spiking soma: surrogate '{surrogate}' is unknown.{near} It takes: {', '.join(SURROGATES)}"
            )
        if not (tau_mem > 0 and dt > 0 and threshold > 0):
            given = f"{tau_mem}, {dt} and {threshold}"
            raise UsageError(
                f"spiking soma: tau_mem, dt and threshold are above 0, not {given}. Try: 0.005, 0.001 and 1.0"
            )
        self.features, self.tau_mem, self.threshold, self.surrogate = features, tau_mem, threshold, surrogate
        self.label, self.dt, self.fan_out = label, dt, fan_out
        self.beta = math.exp(-dt / tau_mem)
        self._fire = SURROGATES[surrogate]()

    def forward(self, current: Tensor, context: Context) -> Tensor:
        # A threshold is crossed or not: half precision would move spikes.
        with torch.autocast(current.device.type, enabled=False):
            wide = current.to(torch.promote_types(current.dtype, torch.float32))
            potential = membrane(wide, self.beta, self.threshold, context.state.get(self.label), context.mask)
            context.next_state[self.label] = potential[:, -1].detach().clone()  # a view would keep every step
            spikes = zero_masked(self._fire(potential - self.threshold).to(current.dtype), context.mask)
        if context.observables is not None:
            fired = spikes.detach().float().sum(1)
            steps = context.mask.sum(1, keepdim=True).clamp_min(1) if context.mask is not None else spikes.shape[1]
            context.observables[f"{self.label}.rate"] = fired / steps
        return spikes

    def snntorch_neuron(self) -> snntorch.Leaky:
        """The same neuron for snntorch's tools, one step per call: ``spikes, membrane = neuron(current, membrane)``.

        snntorch keeps every neuron alive in ``SpikingNeuron.instances``; ``SpikingNeuron.init()`` lets go of them.
        """
        return snntorch.Leaky(
            beta=self.beta,
            threshold=self.threshold,
            spike_grad=self._fire,
            init_hidden=False,
            reset_mechanism="subtract",
        )
