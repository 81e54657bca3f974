"""What rules without a global error share: hidden stages run detached, and the readout learns on their last answer."""

from __future__ import annotations

import torch
from torch import Tensor

from learning.chain import Chain
from neurons.specs import Loss


class LocalReadout:
    """The plain forward pass of a chain, as ``model(batch)`` makes it, with only the readout on a graph.

    ``states[l]`` is what hidden stage l answered, without a graph. ``gradients`` are those of loss / count with respect
    to the readout's parameters, on the detached top state: for a softmax readout the delta rule, ``(p - y) h^T``.
    """

    def __init__(self, chain: Chain) -> None:
        self.states: list[Tensor] = []
        with torch.no_grad():
            x = chain.input
            for index in range(len(chain) - 1):
                x = chain.stage(index, x)
                self.states.append(x)
        parameters = [p for p in chain.stages[-1].parameters() if p.requires_grad]
        with torch.enable_grad():
            seen = chain.loss(x)
            mean = seen.objective / max(seen.count, 1)
        self.loss = Loss(seen.objective.detach(), seen.reported.detach(), seen.count)
        self.gradients: dict[int, Tensor] = {}
        if parameters and mean.requires_grad:
            found = torch.autograd.grad(mean, parameters, allow_unused=True)
            pairs = zip(parameters, found, strict=True)
            self.gradients = {id(p): gradient for p, gradient in pairs if gradient is not None}
