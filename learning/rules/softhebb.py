"""SoftHebb: Hebbian plasticity of units that compete for each input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learning import RULES
from learning.chain import Chain, stages_of, unsupported
from learning.rule import Rule, StepReport, Update
from learning.rules.asymmetric import WEIGHT_LAYERS, affine, weight_layers, weight_of
from learning.rules.local_readout import LocalReadout
from neurons.errors import UsageError


@RULES.register("softhebb")
class SoftHebb(Rule):
    """SoftHebb: a Hebbian step in every Linear and convolutional layer of the hidden stages, with soft competition.

    For each input h of a layer (at each place, for a convolution the patch), scaled to unit length, units k compete:

        u = W h,    y = softmax(sharpness u + b),    dW_k = mean y_k (h - u_k W_k),    db_k = mean y_k - exp(b_k) / K

    ``.grad`` is minus that step: an optimiser that descends makes it. There is no loss behind it, but a fixed point:
    W_k is the mean of the inputs weighted by y_k, scaled to unit length (with data in clusters, their centres), and
    ``exp(b_k) / K`` is the share of the inputs that unit k wins, the prior of a mixture whose posterior is y.
    Competition serves plasticity alone: the forward pass, activations included, stays the model's. ``sharpness`` is the
    paper's 1 / temperature, larger here because inputs have unit length: below 1 / (the largest variance of h) all
    units end at the mean input. For the same reason give it centred inputs: where all are positive, they all point one
    way. ``nn.BatchNorm1d(affine=False)`` before a layer serves; Journé et al. do so.

    Read-out: the model's readout learns by its own loss on the detached top state (for a softmax the delta rule).
    Labels reach nothing else. Scalars: ``norm_<layer>``, mean length of W_k, 1 at the fixed point. ``passes``: a
    forward pass and a plasticity step per stage.

    Local: a layer sees its own input and its own units. Trainable parameters of hidden stages other than those of
    Linear and convolutional layers have no such step, and no model with them is supported; nor are groups in a
    convolution. Moraitis et al. 2022; in depth: Journé et al. 2023. UsageError for a sharpness that is not above 0.
    """

    local = True

    def __init__(self, *, sharpness: float = 32.0) -> None:
        if not sharpness > 0:
            raise UsageError(f"softhebb needs sharpness > 0, not {sharpness}. Try: sharpness=32")
        self.sharpness = sharpness

    def supports(self, model: nn.Module) -> str | None:
        reason = unsupported(model)
        if reason is not None:
            return reason
        for index, stage in enumerate(stages_of(model)[:-1]):
            for name, module in stage.named_modules():
                if isinstance(module, WEIGHT_LAYERS):
                    if getattr(module, "groups", 1) > 1:
                        return (
                            f"layer '{index}.{name}' convolves in groups, and units of different inputs cannot compete"
                        )
                    continue
                for own, parameter in module.named_parameters(recurse=False):
                    if parameter.requires_grad:
                        where = f"{name}.{own}".lstrip(".")
                        return (
                            f"stage {index + 1} ({type(stage).__name__}) trains '{where}', and only the units of "
                            "Linear and convolutional layers compete"
                        )
        return None

    def step(
        self, model: Any, batch: Any, *, loss: Callable[..., Any] | None = None, update: Update | None = None
    ) -> StepReport:
        chain = Chain(model, batch, loss)
        layers = weight_layers(chain.stages[:-1])
        with inputs_of(layers) as inputs:
            plain = LocalReadout(chain)
        gradients, scalars = dict(plain.gradients), {}
        for name, layer in layers.items():
            weight = weight_of(layer)
            if name not in inputs or not any(p.requires_grad for p in layer.parameters()):
                continue
            dw, db = self.plasticity(layer, torch.cat(inputs[name]))
            for parameter, step in ((weight, dw), (layer.bias, db)):
                if isinstance(parameter, nn.Parameter) and parameter.requires_grad:
                    known = gradients.get(id(parameter))
                    gradients[id(parameter)] = -step if known is None else known - step
            scalars[f"norm_{name}"] = float(weight.detach().flatten(1).norm(dim=1).mean())
        chain.fill([gradients.get(id(parameter)) for parameter in chain.parameters])
        return StepReport(plain.loss, 2 * len(chain), scalars)

    def plasticity(self, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """The step (dW, db) of one layer at its inputs x, the mean over all places whose input is not zero."""
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            weight = weight_of(layer).detach().requires_grad_()
            drive = affine(layer, x.to(weight), weight)
            axis = -1 if isinstance(layer, nn.Linear) else 1
            with torch.no_grad():
                length = affine(layer, x.to(weight).square(), torch.ones_like(weight[:1])).sqrt()
                scale = torch.where(length > 0, 1 / length.clamp_min(1e-12), 0.0)
                u = (drive * scale).movedim(axis, -1).flatten(0, -2)
                bias = layer.bias.detach() if isinstance(layer.bias, Tensor) else u.new_zeros(u.shape[-1])
                real = (length > 0).movedim(axis, -1).flatten(0, -2).to(u)
                places = real.sum().clamp_min(1)
                y = F.softmax(self.sharpness * u + bias, -1) * real / places
                shape = drive.movedim(axis, -1).shape
                pull = y.view(shape).movedim(-1, axis) * scale
            (gathered,) = torch.autograd.grad(drive, weight, pull)  # sum of y h
        own = (y * u).sum(0).view(-1, *[1] * (weight.dim() - 1))
        return gathered - own * weight.detach(), y.sum(0) - bias.exp() / len(bias)


@contextmanager
def inputs_of(layers: dict[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Fills the lists with what each layer reads inside."""
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for name, layer in layers.items():

        def keep(module: nn.Module, arguments: tuple[Any, ...], name: str = name) -> None:
            seen.setdefault(name, []).append(arguments[0].detach())

        handles.append(layer.register_forward_pre_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
