"""Networks with a symmetric energy: layers of an affine drive and a monotone activation, relaxing together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from learning.chain import Chain
from learning.rules.settle import generators, set_generators
from neurons.errors import UsageError
from neurons.specs import Loss

MONOTONE = (nn.Tanh, nn.Sigmoid, nn.Hardsigmoid, nn.Hardtanh)
AFFINE = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
)


class Layer(NamedTuple):
    """Consecutive ``stages`` up to an activation, which is the last thing they do."""

    stages: list[int]
    activation: nn.Module


def layers_of(stages: list[nn.Module]) -> list[Layer] | str:
    """The hidden layers below the readout, or the reason why they have no energy."""
    layers: list[Layer] = []
    open_stages: list[int] = []
    activation: nn.Module | None = None
    for index, stage in enumerate(stages[:-1]):
        open_stages.append(index)
        for name, module in stage.named_modules():
            if any(True for _ in module.children()):
                if next(module.parameters(recurse=False), None) is None:
                    continue
            elif isinstance(module, MONOTONE) and activation is None:
                activation = module
                continue
            elif isinstance(module, AFFINE) and (activation is None or isinstance(module, nn.Identity)):
                continue
            where = f" ('{name}')" if name else ""
            return (
                f"stage {index + 1} holds a {type(module).__name__}{where}: a hidden layer with an energy is a Linear "
                "or convolutional drive, then one Tanh, Sigmoid, Hardsigmoid or Hardtanh"
            )
        if activation is not None:
            layers.append(Layer(open_stages, activation))
            open_stages, activation = [], None
    if open_stages:
        return f"stage {open_stages[-1] + 1} ends without a Tanh, Sigmoid, Hardsigmoid or Hardtanh, so it has no energy"
    return layers


class Relaxation:
    """The states ``s_1 .. s_L`` of one batch; inside ``with`` it hears the drives of the layers. See the rule."""

    def __init__(self, chain: Chain, *, feedback: float) -> None:
        found = layers_of(chain.stages)
        if isinstance(found, str):
            raise UsageError(f"no energy: {found}")
        self.chain, self.layers, self.feedback = chain, found, feedback
        self.passes = 0
        self._heard: dict[int, Tensor] = {}
        self._handles: list[Any] = []
        self._after = generators(chain.input.device)
        self._random: list[list[Tensor]] = []  # before each layer, then before the readout
        self._first: Tensor  # the drive of the first layer, whose input is clamped

    def __enter__(self) -> Relaxation:
        for index, layer in enumerate(self.layers):

            def hear(module: nn.Module, arguments: tuple[Any, ...], index: int = index) -> None:
                self._heard[index] = arguments[0]

            self._handles.append(layer.activation.register_forward_pre_hook(hear))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        set_generators(self.chain.input.device, self._after)

    def start(self) -> tuple[list[Tensor], Loss]:
        """States and loss of the forward pass. UsageError if a layer does more than drive and activate."""
        states: list[Tensor] = []
        with torch.no_grad():
            x = self.chain.input
            for index, layer in enumerate(self.layers):
                self._random.append(generators(x.device))
                x = self._run(index, x)
                if not torch.allclose(layer.activation(self._heard[index]).to(x.dtype), x, equal_nan=True):
                    raise UsageError(
                        f"stage {layer.stages[-1] + 1} does more than drive and activate: what it answers is not its "
                        f"{type(layer.activation).__name__}. A skip has no symmetric energy"
                    )
                states.append(x)
            self._random.append(generators(x.device))
            seen = self.chain.loss(x)
            self._after = generators(x.device)
        self.passes += len(self.chain)
        self._first = self._drive(0, self.chain.input).detach() if self.layers else x
        return states, seen

    def relax(self, states: list[Tensor], beta: float, steps: int) -> tuple[list[Tensor], float]:
        """``steps`` sweeps from the top down, and how far the last one moved, relative to the states."""
        states, moved = list(states), torch.zeros(())
        for _ in range(steps):
            changes = []
            for index in range(len(states) - 1, -1, -1):
                with torch.no_grad():
                    new = self.update(index, states, beta)
                    changes.append((new - states[index]).norm())
                    states[index] = new
            moved = torch.stack(changes).norm() / torch.stack([s.norm() for s in states]).norm().clamp_min(1e-12)
        return states, float(moved)

    def update(self, index: int, states: list[Tensor], beta: float) -> Tensor:
        """The minimum of F in state ``index``, given the states beside it (at the top: one step of its fixed point)."""
        drive = self._first if index == 0 else self._drive(index, states[index - 1])
        if index < len(states) - 1:
            with torch.enable_grad():
                x = states[index].detach().requires_grad_()
                above = self._drive(index + 1, x)
            (pull,) = torch.autograd.grad(above, x, states[index + 1])
            drive = drive + self.feedback * pull
            self.passes += 1
        elif beta:
            with torch.enable_grad():
                x = states[index].detach().requires_grad_()
                objective = self._loss(x).objective
            if objective.requires_grad:
                (pull,) = torch.autograd.grad(objective, x)
                drive = drive - beta * pull
            self.passes += 2
        return self.layers[index].activation(drive)

    def loss(self, states: list[Tensor]) -> Loss:
        with torch.no_grad():
            return self._loss(states[-1] if states else self.chain.input)

    @torch.enable_grad()
    def gradients(self, ends: list[list[Tensor]], beta: float) -> dict[int, Tensor]:
        """(dF_beta - dF_-beta) / (2 beta g^(L-1) count) by id of the parameter, from the states of both phases."""
        totals: dict[int, Tensor] = {}
        top = len(self.layers) - 1
        losses = [self._loss(states[-1] if states else self.chain.input) for states in ends]
        count = max(losses[0].count, 1)
        self._collect(totals, [len(self.chain) - 1], (losses[0].objective + losses[1].objective) / (2 * count))
        for index, layer in enumerate(self.layers):
            scale = -(self.feedback ** (index - top)) / (2 * beta * count)
            if index == 0:  # the same drive in both phases
                energy = (self._drive(0, self.chain.input) * (ends[0][0] - ends[1][0])).sum()
            else:
                products = [(self._drive(index, states[index - 1]) * states[index]).sum() for states in ends]
                energy = products[0] - products[1]
            self._collect(totals, layer.stages, scale * energy)
        return totals

    def _collect(self, totals: dict[int, Tensor], stages: list[int], output: Tensor) -> None:
        modules = [self.chain.stages[index] for index in stages]
        parameters = list({id(p): p for m in modules for p in m.parameters() if p.requires_grad}.values())
        self.passes += 2 * len(stages)
        if not (parameters and output.requires_grad):
            return
        found = torch.autograd.grad(output, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                known = totals.get(id(parameter))
                totals[id(parameter)] = gradient if known is None else known + gradient

    def _run(self, index: int, x: Tensor) -> Tensor:
        for stage in self.layers[index].stages:
            x = self.chain.stage(stage, x)
        return x

    def _drive(self, index: int, x: Tensor) -> Tensor:
        """a of layer ``index``, with the random numbers of the forward pass."""
        set_generators(self.chain.input.device, self._random[index])
        self._run(index, x)
        self.passes += len(self.layers[index].stages)
        return self._heard.pop(index)

    def _loss(self, x: Tensor) -> Loss:
        set_generators(self.chain.input.device, self._random[-1])
        return self.chain.loss(x)
