"""The slower timescales of fast weights: what survives the end of a sequence, and for how long.

W_total = W_slow + a_m W_medium + a_f W_fast,    tau = .1 s (fast), 1000 s (medium), 100000 s (consolidated)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from neurons.errors import UsageError
from neurons.plasticity.recall_gate import open_gate, recall_strength


class ConsolidatedMemory(nn.Module):
    """Medium and slow weights per head, (heads, keys, values), that only ``end_episode`` changes.

        at an episode's end, both decayed to now:    M += c_m mean_b(g_b (F_b - M)),    S += c_s (M - S)
        weights    a_m M + a_s S

    F_b are the fast weights at the end of sequence b of the last batch. The gate g_b is 1 where the sequence was
    recalled, that is where the cosine of what the fast weights answered and what was written exceeds ``threshold``:
    what a sequence repeats is worth keeping (Lindsey and Litwin-Kumar 2024).

    An episode is what was observed since the last one ended; a later batch overwrites an earlier one. Like the running
    statistics of a batch normalisation, it is gathered in training mode only (``memory.train()`` for this module
    alone), so that evaluation leaves no trace, and it lives in buffers, so that a checkpoint carries it.

    A state is stored as it was last written, with that time, and decays by exp(-elapsed / tau) when it is read: exact,
    with one rounding, however long the wait. States are float64 and stay so whatever dtype the model is cast to: a
    decay of 1 - 1e-8 per step is 1 in float32, and one of 1 - 1e-6 is 1 in bfloat16.

    ``tau_medium``, ``tau_slow`` in seconds; ``medium_gain``, ``slow_gain``: a_m, a_s; ``medium_rate``, ``slow_rate``:
    c_m, c_s in [0, 1].
    """

    medium: Tensor
    slow: Tensor
    clock: Tensor
    written: Tensor
    episode_fast: Tensor
    episode_share: Tensor
    episode_seconds: Tensor

    def __init__(
        self,
        *,
        heads: int = 1,
        keys: int = 64,
        values: int = 64,
        tau_medium: float = 1000.0,
        tau_slow: float = 100_000.0,
        medium_gain: float = 1.0,
        slow_gain: float = 1.0,
        medium_rate: float = 0.5,
        slow_rate: float = 0.05,
        threshold: float = 0.1,
    ) -> None:
        super().__init__()
        if not (0 <= medium_rate <= 1 and 0 <= slow_rate <= 1):
            raise UsageError(f"consolidation rates lie between 0 and 1, not {medium_rate} and {slow_rate}")
        if tau_medium <= 0 or tau_slow <= 0:
            raise UsageError(f"consolidation: taus are positive times in seconds, not {tau_medium} and {tau_slow}")
        self.heads, self.keys, self.values = heads, keys, values
        self.tau_medium, self.tau_slow, self.threshold = tau_medium, tau_slow, threshold
        self.medium_gain, self.slow_gain = medium_gain, slow_gain
        self.medium_rate, self.slow_rate = medium_rate, slow_rate
        # An episode: mean_b(g_b F_b), mean_b(g_b) and its seconds, 0 where nothing was observed.
        for name in ("medium", "slow", "episode_fast"):
            self.register_buffer(name, torch.zeros(heads, keys, values, dtype=torch.float64))
        for name in ("clock", "written"):  # seconds: now, and when M and S were last written
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        for name in ("episode_share", "episode_seconds"):  # (1,): a compiled graph loses what a float64 () is given
            self.register_buffer(name, torch.zeros(1, dtype=torch.float64))

    def weights(self) -> Tensor:
        """a_m M + a_s S as of now, (heads, keys, values) float64."""
        medium, slow = self._now()
        return self.medium_gain * medium + self.slow_gain * slow

    def observe(self, fast: Tensor, recalled: Tensor, value: Tensor, mask: Tensor | None, seconds: Tensor) -> None:
        """Remembers, until ``end_episode``, a batch's final fast weights (B, heads, keys, values), what they answered
        and what was written, (B, heads, T, values), and how long its sequences lasted. Answers stay as they are;
        nothing in eval mode."""
        if not self.training:
            return
        with torch.no_grad():
            real = value if mask is None else value * mask[:, None, :, None]
            gate = open_gate(recall_strength(recalled, real, batched=True), self.threshold).double()
            self.episode_fast.copy_((gate.view(-1, 1, 1, 1) * fast.double()).mean(0))
            self.episode_share.copy_(gate.mean())
            self.episode_seconds.copy_(seconds)

    def end_episode(self) -> None:
        """Time passes, then the last batch observed is written; nothing without one."""
        if not self.episode_seconds:
            return
        self.wait(self.episode_seconds[0])
        medium, slow = self._now()
        medium = medium + self.medium_rate * (self.episode_fast - self.episode_share * medium)
        self.medium.copy_(medium)
        self.slow.copy_(slow + self.slow_rate * (medium - slow))
        self.written.copy_(self.clock)
        for state in (self.episode_fast, self.episode_share, self.episode_seconds):
            state.zero_()

    def wait(self, seconds: Tensor | float) -> None:
        """``seconds`` pass without an episode."""
        self.clock += seconds

    def _now(self) -> tuple[Tensor, Tensor]:
        elapsed = self.clock - self.written
        return self.medium * torch.exp(-elapsed / self.tau_medium), self.slow * torch.exp(-elapsed / self.tau_slow)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConsolidatedMemory:
        """A cast moves the states to their device and leaves them float64."""
        kept = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, state in kept.items():
            setattr(self, name, state.to(getattr(self, name).device))
        return self
