"""Phase codes: numbers in [0, 1] as spikes in an oscillation whose cycle has ``slots`` time slots.

Slot s lies at phase ``2 pi s / slots``, so all phases are in [0, 2 pi - delta] with ``delta = 2 pi / slots``: the last
phase never touches the first, and 1 is never mistaken for 0. With one spike per cycle a value comes back to half a
slot, ``1 / (2 (slots - 1))``; a rate with the error of a mean of ``slots`` draws. Spikes carry no gradient.
"""

from __future__ import annotations

import math

import torch
from snntorch import spikegen
from torch import Tensor

from neurons import PHASE_CODES
from neurons.errors import UsageError


class PhaseCode:
    """encode: value (...) in [0, 1] -> spikes (steps, ...) of 0 and 1.     decode: spikes -> value.

    Spikes are float64 for float64 values, else float32: half precision could not tell one slot of 300 from the next.
    """

    slots: int

    @property
    def steps(self) -> int:
        """Length of the spike train."""
        return self.slots

    def phases(self, spikes: Tensor) -> Tensor:
        """Phase of every step of ``spikes`` in radians, (steps,)."""
        slot = torch.arange(spikes.shape[0], device=spikes.device) % self.slots
        return slot * (2 * math.pi / self.slots)

    def encode(self, value: Tensor) -> Tensor:
        raise NotImplementedError("abstract: a phase code defines encode(value)")

    def decode(self, spikes: Tensor) -> Tensor:
        raise NotImplementedError("abstract: a phase code defines decode(spikes)")

    def _set_slots(self, slots: int) -> None:
        if slots < 2:
            raise UsageError(f"a cycle has two slots or more, not {slots}. Try: slots=32")
        self.slots = slots

    def _one_spike(self, place: Tensor) -> Tensor:
        """One spike per cycle at ``place`` (...) in [0, 1] of the cycle: (slots, ...)."""
        slot = (place * (self.slots - 1)).round().long()
        return place.new_zeros(self.slots, *place.shape).scatter_(0, slot.unsqueeze(0), 1.0)


@PHASE_CODES.register("rate")
class Rate(PhaseCode):
    """The value is the probability of a spike in each slot; decoding has standard error sqrt(v (1 - v) / slots).

    snntorch.spikegen.rate; random, so it follows torch's generator.
    """

    def __init__(self, *, slots: int = 32) -> None:
        self._set_slots(slots)

    def encode(self, value: Tensor) -> Tensor:
        return spikegen.rate(checked(value), num_steps=self.slots)

    def decode(self, spikes: Tensor) -> Tensor:
        return spikes.mean(0)


@PHASE_CODES.register("latency")
class Latency(PhaseCode):
    """The stronger, the earlier: one spike, at slot (1 - v)(slots - 1). snntorch.spikegen.latency, linear."""

    def __init__(self, *, slots: int = 32) -> None:
        self._set_slots(slots)

    def encode(self, value: Tensor) -> Tensor:
        value = checked(value)
        spikes: Tensor = spikegen.latency(value, num_steps=self.slots, threshold=1e-6, normalize=True, linear=True)
        return spikes.to(value.dtype)

    def decode(self, spikes: Tensor) -> Tensor:
        return 1 - spikes.argmax(0) / (self.slots - 1)


@PHASE_CODES.register("phase_of_firing")
class PhaseOfFiring(PhaseCode):
    """The value is the phase: one spike at v (2 pi - delta). Montemurro et al. 2008; Kayser et al. 2009."""

    def __init__(self, *, slots: int = 32) -> None:
        self._set_slots(slots)

    def encode(self, value: Tensor) -> Tensor:
        return self._one_spike(checked(value))

    def decode(self, spikes: Tensor) -> Tensor:
        return spikes.argmax(0) / (self.slots - 1)


@PHASE_CODES.register("theta_precession")
class ThetaPrecession(PhaseCode):
    """The value is how far a place field has been crossed: in cycle c of ``cycles`` theta cycles the animal is at
    ``p_c = v (c + 1) / cycles``, and the spike comes at phase (1 - p_c)(2 pi - delta), earlier from cycle to cycle.

    O'Keefe & Recce 1993. Decoding reads the last cycle.
    """

    def __init__(self, *, slots: int = 32, cycles: int = 4) -> None:
        self._set_slots(slots)
        if cycles < 1:
            raise UsageError(f"precession needs one theta cycle or more, not {cycles}. Try: cycles=4")
        self.cycles = cycles

    @property
    def steps(self) -> int:
        return self.cycles * self.slots

    def encode(self, value: Tensor) -> Tensor:
        value = checked(value)
        return torch.cat([self._one_spike(1 - value * ((c + 1) / self.cycles)) for c in range(self.cycles)])

    def decode(self, spikes: Tensor) -> Tensor:
        return 1 - spikes[-self.slots :].argmax(0) / (self.slots - 1)


def checked(value: Tensor) -> Tensor:
    """``value`` in float32 or float64; UsageError unless all of it is in [0, 1]."""
    if not bool(((value >= 0) & (value <= 1)).all()):
        raise UsageError("phase codes encode values in [0, 1]. Try: scale the features first, or code=None")
    return value.to(torch.promote_types(value.dtype, torch.float32))
