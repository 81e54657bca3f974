"""What a benchmark is asked to measure. Imports no torch, so that the command line can check it first."""

from __future__ import annotations

from dataclasses import dataclass

from neurons import ATTENTIONS
from neurons.errors import UsageError, nearest

SUITES = {
    "speed": "time per call of every mixer and of the operations beneath, and per decoded token",
    "memory": "bytes kept for the backward pass, and the peak of a training call",
    "scaling": "exponents of time and memory over the length, with 95 % intervals",
    "model": "latency of the whole neuronsv2 and of a transformer of as many parameters",
    "decode": "whole language models token by token: tokens per second and bytes of context",
    "resonance": "resonance_net and a transformer of equal width, 768 x 6, with achieved FLOP and bytes",
    "dendrites": "sparse branches against a masked dense layer, forward and backward",
    "fast-weights": "the chunked form against the recurrence",
    "peers": "the series against other libraries' linear-time attention",
}
OPS = ("coherence", "sdpa", "naive", "linear", "fourier")  # what a mixer computes, on heads that are already there
MIXERS = (*OPS, "gamma", "softmax")
PHASES = ("forward", "train", "decode")
RIVALS = {
    "attention": "the series against another library's linear-time attention",
    "predictive-coding": "training steps against predictive-coding libraries, each as a ratio to its own backprop",
}
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)


@dataclass(frozen=True)
class Setting:
    """Shapes are (batch, heads, length, width / heads).

    mixers: which of the operations and registered attentions to measure (a name may be both); their references, torch's
    fused operation and softmax attention on it, are always among them. ``all`` is every one.
    rivals: what the suite ``peers`` compares.
    threads: of the processor. With one, seconds are the processor's, so that a busy machine does not count as work;
    otherwise (and on a GPU) the wall's.     repeats: rounds at most.     minutes: budget of each suite.
    """

    lengths: tuple[int, ...] = LENGTHS
    mixers: tuple[str, ...] = MIXERS
    phases: tuple[str, ...] = PHASES
    batch: int = 1
    heads: int = 1
    width: int = 64
    threads: int = 1
    repeats: int = 9
    minutes: float = 2.5
    device: str = "cpu"
    rivals: str = "attention"

    def __post_init__(self) -> None:
        known = ["all", *dict.fromkeys([*OPS, *ATTENTIONS.names()])]
        for name in self.mixers:
            if name not in known:
                raise UsageError(f"unknown mixer '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
        for phase in self.phases:
            if phase not in PHASES:
                raise UsageError(f"unknown phase '{phase}'.{nearest(phase, PHASES)} Known: {', '.join(PHASES)}")
        if self.rivals not in RIVALS:
            have = ", ".join(RIVALS)
            raise UsageError(f"unknown suite of peers '{self.rivals}'.{nearest(self.rivals, RIVALS)} Known: {have}")
        if not self.lengths or min(self.lengths) < 1:
            raise UsageError("lengths are at least 1, such as --lengths 512,4096")
        if not self.mixers or not self.phases:
            raise UsageError("name one mixer and one phase at least, such as --mixers gamma --phase forward")
        if self.width % self.heads or self.width < 2 * self.heads:
            raise UsageError(f"width {self.width} does not split into {self.heads} heads of two channels or more")

    def wants(self, name: str) -> bool:
        return name in self.mixers or "all" in self.mixers
