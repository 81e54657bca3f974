"""What spikes save: energy of the arithmetic from counted operations, by declared constants.

A synapse that hears an analogue number multiplies and accumulates (MAC). One that hears a spike only accumulates (AC),
and only when the spike comes. Per operation in 32-bit floating point at 45 nm, 0.9 V (Horowitz 2014): 3.7 pJ for the
product and 0.9 pJ for the sum. Arithmetic only: no memory traffic, which decides on real hardware. With it, a spiking
network beats a quantised one only if neurons fire rarely, at 5 to 10 steps below 6.4 % of them: quote ``rate`` and
``steps`` beside every energy.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from neurons.model import Model
from neurons.specs import Batch
from neurons.spiking.soma import SpikingSoma

MAC_JOULE = 4.6e-12
AC_JOULE = 0.9e-12


class SpikeCounts(NamedTuple):
    """Means per sample over all spiking somas of a model.

    spikes; sites: neurons times real steps, the spikes if all fired always; acs: accumulates that the spikes cause,
    spikes times fan-out; dense_macs: the MACs that dense arithmetic spends on the same synapses, padding included, as a
    MAC counter sees it; steps: real steps of a sample.
    """

    spikes: float
    sites: float
    acs: float
    dense_macs: float
    steps: float

    @property
    def rate(self) -> float:
        """Spikes per neuron and step; 1 - rate is the activation sparsity."""
        return self.spikes / self.sites if self.sites else 0.0

    @property
    def spikes_per_neuron(self) -> float:
        """rate times steps."""
        return self.rate * self.steps


def energy_joule(macs: float, acs: float = 0.0) -> float:
    """Joules of ``macs`` multiply-accumulates and ``acs`` accumulates, 45 nm."""
    return MAC_JOULE * macs + AC_JOULE * acs


def effective_macs(macs: float, counts: SpikeCounts) -> float:
    """The multiply-accumulates left when spikes drive their synapses: ``macs`` per sample of the dense computation,
    less what it spends on those synapses. Never below zero."""
    return max(0.0, macs - counts.dense_macs)


@torch.no_grad()
def spike_counts(model: Model, batch: Batch) -> SpikeCounts:
    """Runs ``model`` on ``batch`` in evaluation mode and counts. All zero but ``steps`` for a model without spikes."""
    size, context = len(batch), model.context(batch)
    x = batch.x.flatten(0, 1) if model.input.pair else batch.x
    length, whole = x.shape[1] * len(x) // size, torch.full((len(x), 1), x.shape[1], device=x.device)
    real = whole if context.mask is None else context.mask.sum(1, keepdim=True)
    context.observables = {}
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        model(batch, context)
    finally:
        for module, training in modes.items():
            module.training = training
    spikes = sites = acs = dense = 0.0
    for soma in model.modules():
        if isinstance(soma, SpikingSoma):
            fired = float((context.observables[f"{soma.label}.rate"].double() * real).sum()) / size
            spikes += fired
            sites += soma.features * float(real.sum()) / size
            acs += fired * soma.fan_out
            dense += float(length * soma.features * soma.fan_out)
    return SpikeCounts(spikes, sites, acs, dense, float(real.sum()) / size)
