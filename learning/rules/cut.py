"""One forward pass whose graph is cut at every stage boundary, for rules that bring each stage its own error signal."""

from __future__ import annotations

import torch
from torch import Tensor

from learning.chain import Chain
from learning.rule import StepReport
from neurons.specs import Loss


class Cut:
    """Forward pass of a chain in which every stage reads a detached copy of the state below.

    ``inputs[l]`` is what stage l (from 0) read, ``outputs[l]`` what hidden stage l answered, on a graph that ends at
    ``inputs[l]``; ``loss`` is the readout's, on a graph that ends at ``inputs[-1]``. ``pull`` is the one way in which a
    signal enters a stage. The gradient of a parameter is the sum over its stages; ``fill`` writes it to ``.grad``.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.passes = len(chain)
        self._totals: dict[int, Tensor] = {}
        with torch.enable_grad():
            x = chain.input
            for index in range(len(chain) - 1):
                self.inputs.append(x)
                self.outputs.append(chain.stage(index, x))
                x = self.outputs[-1].detach().requires_grad_()
            self.inputs.append(x)
            self.loss: Loss = chain.loss(x)
        self.count = max(self.loss.count, 1)

    def pull_loss(self, *, below: bool = True) -> Tensor | None:
        """The readout's parameters learn from its loss / count; returns d(loss / count) / d ``inputs[-1]``."""
        signal = torch.full_like(self.loss.objective, 1.0 / self.count)
        return self._pull(len(self.chain) - 1, self.loss.objective, signal, below)

    def pull(self, index: int, signal: Tensor, *, below: bool = True) -> Tensor | None:
        """``signal`` stands for the gradient at ``outputs[index]``: the stage's parameters learn from it.

        Returns what it makes of the signal at its own input, or None for stage 0 or without ``below``.
        """
        return self._pull(index, self.outputs[index], signal.to(self.outputs[index].dtype), below)

    def _pull(self, index: int, output: Tensor, signal: Tensor, below: bool) -> Tensor | None:
        parameters = [p for p in self.chain.stages[index].parameters() if p.requires_grad]
        sources: list[Tensor] = [*parameters, *([self.inputs[index]] if below and index else [])]
        found: list[Tensor | None] = [None] * len(sources)
        if output.requires_grad and sources:
            found = list(torch.autograd.grad(output, sources, signal, allow_unused=True))
            self.passes += bool(parameters) + (len(sources) > len(parameters))
        for parameter, gradient in zip(parameters, found, strict=False):
            self.add(parameter, gradient)
        if len(sources) == len(parameters):
            return None
        return torch.zeros_like(self.inputs[index]) if found[-1] is None else found[-1]

    def add(self, parameter: Tensor, gradient: Tensor | None) -> None:
        """One more summand of a parameter's gradient."""
        if gradient is not None:
            known = self._totals.get(id(parameter))
            self._totals[id(parameter)] = gradient if known is None else known + gradient

    def fill(self, scalars: dict[str, float] | None = None) -> StepReport:
        """Write ``.grad``, zero where no signal came, and report the loss of the forward pass."""
        self.chain.fill([self._totals.get(id(parameter)) for parameter in self.chain.parameters])
        return StepReport(detached(self.loss), self.passes, scalars or {})


def detached(loss: Loss) -> Loss:
    return Loss(loss.objective.detach(), loss.reported.detach(), loss.count)
