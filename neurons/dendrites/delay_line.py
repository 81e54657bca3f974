"""Dendritic delay lines: a synapse far out on a dendrite is heard later at the soma than one near it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.ops.delayed_sum import delayed_sum
from neurons.specs import Context, zero_masked


class DelayLine(nn.Module):
    """Each channel hears its own recent past, a depthwise convolution over time: (B, T, width) -> (B, T, width).

        y_t = sum_{i < taps} w_i * x_{t + a - i},    a = 0 if causal, else (taps - 1) // 2 tokens ahead

    The present token starts with weight one, the others with zero, so the line starts as the identity. Tokens
    before the first, after the last, and masked ones count as zero; the output is zero at masked tokens.

    Streaming: a causal line reads the last ``taps - 1`` tokens of what came before from ``context.state[label]`` and
    leaves its own, (B, taps - 1, width), in ``context.next_state[label]``; a masked token takes a place among them.

    Parameters: taps * width; as many multiply-accumulates per token. Sources: Rall 1967 (delays along a cable);
    Agmon-Snir & Segev 1993; Poli et al. 2023 and Arora et al. 2023 (why short convolutions help recall).
    UsageError for fewer than two taps.
    """

    def __init__(self, *, width: int, taps: int, causal: bool, label: str = "delay") -> None:
        super().__init__()
        if taps < 2:
            raise UsageError(f"a delay line has two taps or more, not {taps}. Try: taps=4")
        self.width, self.taps, self.is_causal, self.label = width, taps, causal, label
        self.ahead = 0 if causal else (taps - 1) // 2
        weight = torch.zeros(taps, width)
        weight[self.ahead] = 1.0
        self.weight = nn.Parameter(weight)  # tap i hears the token `ahead - i` places away

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x.to(self.weight.dtype)
        if not self.is_causal:
            return delayed_sum(x, self.weight, self.ahead, context.mask)
        x = zero_masked(x, context.mask)
        before = context.state.get(self.label)
        heard = x if before is None else torch.cat([before.to(x.dtype), x], 1)
        last = heard[:, 1 - self.taps :].detach()
        missing = self.taps - 1 - last.shape[1]
        # a view would keep them all
        context.next_state[self.label] = F.pad(last, (0, 0, missing, 0)) if missing else last.clone()
        if before is None:
            return delayed_sum(x, self.weight, self.ahead, context.mask)
        return zero_masked(delayed_sum(heard, self.weight, self.ahead)[:, self.taps - 1 :], context.mask)

    def extra_repr(self) -> str:
        return f"{self.taps} taps, {'causal' if self.is_causal else 'centred'}"
