"""Active dendrites: a context chooses which units may answer.

y_u = (w_u . x + b_u) sigmoid(d_u),    d_u = the response v_us . c of largest magnitude, with its sign, over segments s

Iyer, Grewal, Velu, Souza, Forest & Ahmad 2022, Avoiding catastrophe: active dendrites enable multi-task learning in
dynamic environments. There the context c is a task's prototype, the mean of its inputs, and of the y only the 5 % that
win go on. Inputs are standardised and prototypes have norm 1; without that a plain network does better.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.ops.sparse import random_index


def segment_gate(context: Tensor, segments: Tensor) -> Tensor:
    """sigmoid of the strongest response: context (N, C), segments (units, segments, C) -> (N, units).

    In the segments' precision, under autocast too: half precision would let another segment win, of the other sign."""
    with torch.autocast(context.device.type, enabled=False):
        responses = (context.to(segments.dtype) @ segments.flatten(0, 1).t()).unflatten(-1, segments.shape[:2])
        strongest = responses.abs().argmax(-1, keepdim=True)
        return torch.sigmoid(responses.gather(-1, strongest).squeeze(-1))


def winners(x: Tensor, count: int) -> Tensor:
    """k-winners-take-all: the ``count`` largest of the last axis stay as they are, the others are 0."""
    top = x.topk(count, dim=-1)
    return torch.zeros_like(x).scatter(-1, top.indices, top.values)


class ActiveDendrites(nn.Module):
    """Linear units gated by their dendritic segments: x (N, inputs), context (N, context) or (context,) -> (N, units).

    A context of one row, (context,) or (1, context), holds for the whole batch, and the segments are computed once.

    units_won: units that keep their value, None for all; the rest are 0 (kWTA).
    weight_sparsity: part of the feedforward weights that does not exist, the same number in every unit, chosen when the
    layer is built. What does not exist is no parameter; but the product is a dense one, which is faster here than a
    sparse one down to a density of about an eighth, and it costs the multiplications of a dense one.

    Parameters: units * synapses + units (feedforward), units * segments * context (segments), with synapses =
    inputs (1 - weight_sparsity). UsageError for counts that cannot be.
    """

    index: Tensor

    def __init__(
        self,
        *,
        inputs: int,
        units: int,
        context: int,
        segments: int,
        units_won: int | None = None,
        weight_sparsity: float = 0.0,
    ) -> None:
        super().__init__()
        synapses = round(inputs * (1 - weight_sparsity))
        if not 1 <= synapses <= inputs:
            raise UsageError(
                f"a weight sparsity of {weight_sparsity} leaves {synapses} of {inputs} inputs; choose one in [0, 1)"
            )
        if segments < 1:
            raise UsageError(f"active dendrites need at least one segment per unit, not {segments}")
        if units_won is not None and not 1 <= units_won <= units:
            raise UsageError(f"{units_won} of {units} units cannot win; choose units_won from 1 to {units}")
        self.inputs, self.units, self.context, self.segments = inputs, units, context, segments
        self.units_won, self.weight_sparsity = units_won, weight_sparsity
        self.synapses = synapses
        self.weight = nn.Parameter(_uniform(units, synapses, fan_in=synapses))
        self.bias = nn.Parameter(_uniform(units, fan_in=synapses))
        self.segment_weight = nn.Parameter(_uniform(units, segments, context, fan_in=context))
        wired = random_index(units, inputs, synapses) if synapses < inputs else torch.empty(0, dtype=torch.int64)
        self.register_buffer("index", wired)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        rows = context.shape[0] if context.dim() == 2 else 1
        if context.shape[-1] != self.context or rows not in (1, x.shape[0]):
            raise UsageError(
                f"a context of shape {tuple(context.shape)} does not fit: give ({self.context},) for the whole batch, "
                f"or ({x.shape[0]}, {self.context}), one row per sample"
            )
        gate = segment_gate(context.view(rows, -1), self.segment_weight)
        if self.units_won is None:
            return F.linear(x, self._dense_weight(), self.bias) * gate
        # Who wins is decided in the weights' precision, under autocast too, as the segments are.
        with torch.autocast(x.device.type, enabled=False):
            drive = F.linear(x.to(self.weight.dtype), self._dense_weight(), self.bias)
        return winners(drive * gate, self.units_won)

    def _dense_weight(self) -> Tensor:
        """(units, inputs)."""
        if self.synapses == self.inputs:
            return self.weight
        return self.weight.new_zeros(self.units, self.inputs).scatter(1, self.index, self.weight)


def _uniform(*shape: int, fan_in: int) -> Tensor:
    """As torch's linear layer starts: uniform within 1 / sqrt(fan_in)."""
    return (torch.rand(shape) * 2 - 1) / math.sqrt(fan_in)
