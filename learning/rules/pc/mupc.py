"""muPC: unit-variance weights behind fixed forward scales, so that settling stays well-conditioned with depth."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from learning.chain import stages_of
from neurons.errors import UsageError
from neurons.model import Model
from neurons.specs import Context

SCALE = "mupc_scale"


def unsuited(model: Any) -> str | None:
    """Why muPC says nothing about ``model``, or None: it knows nn.Linear weights (and embeddings, which it leaves)."""
    stages = stages_of(model)
    if len(stages) < 3:
        return f"mupc scales hidden stages, and the model has {len(stages)} stages only"
    seen: set[int] = set()
    for index, stage in enumerate(stages):
        known = {id(m.weight) for m in stage.modules() if isinstance(m, nn.Linear | nn.Embedding)}
        for name, parameter in stage.named_parameters():
            if parameter.dim() > 1 and id(parameter) not in known:
                return f"mupc is about nn.Linear weights, and stage {index + 1} has '{name}' {tuple(parameter.shape)}"
        if seen & known:
            return f"mupc gives each stage scales of its own, and stage {index + 1} shares its weights with another"
        seen |= known
    return None


@torch.no_grad()
def parametrise(model: Any) -> None:
    """``W x`` becomes ``a W x`` with W of unit variance, in every nn.Linear of ``model``:

        a = 1 / sqrt(D)      in the first stage, D its inputs
        a = 1 / sqrt(N L)    in a hidden stage with an identity skip, N its inputs, L the number of stages
        a = 1 / sqrt(N)      in one without
        a = 1 / N            in the readout

    Of several in one hidden stage with a skip, the last takes the factor ``1 / sqrt(L)``, which belongs to the branch
    as a whole. W is the present weight over its root mean square (a weight of zeros stays zero), biases are set to
    zero. A stage has a skip if it hands its input on when its weights and biases are zero.

    The scale is a buffer ``mupc_scale`` beside the weight, so it is saved with the model, and a model that hasn't been
    parametrised refuses such a checkpoint. Done once: a model that has scales is left as it is.

    Source: Innocenti et al. 2025. Raises UsageError where ``unsuited`` has a reason.
    """
    reason = unsuited(model)
    if reason is not None:
        raise UsageError(reason)
    stages = stages_of(model)
    with_context = isinstance(model, Model)
    for index, stage in enumerate(stages):
        linears = [m for m in stage.modules() if isinstance(m, nn.Linear)]
        if any(hasattr(linear, SCALE) for linear in linears):
            continue
        hidden = 0 < index < len(stages) - 1
        skip = hidden and bool(linears) and _hands_on(stage, linears, with_context)
        for linear in linears:
            fan_in = linear.in_features
            scale = 1.0 / fan_in if index == len(stages) - 1 else 1.0 / math.sqrt(fan_in)
            if skip and linear is linears[-1]:
                scale /= math.sqrt(len(stages))
            size = linear.weight.square().mean().sqrt()
            linear.weight.div_(size.clamp_min(torch.finfo(size.dtype).tiny))
            if linear.bias is not None:
                linear.bias.zero_()
            linear.register_buffer(SCALE, linear.weight.new_tensor(scale))
            linear.register_forward_pre_hook(_scaled)


def _scaled(linear: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    scale: Any = getattr(linear, SCALE)
    return (inputs[0] * scale, *inputs[1:])


def _hands_on(stage: nn.Module, linears: list[nn.Linear], with_context: bool) -> bool:
    """Whether ``stage`` gives back its input once every nn.Linear in it gives zero."""
    weight = linears[0].weight
    widths = dict.fromkeys((linears[-1].out_features, linears[0].in_features))  # of the stream, as a rule the first
    generator = torch.Generator().manual_seed(0)
    training = stage.training
    handles = [linear.register_forward_hook(lambda _, __, output: torch.zeros_like(output)) for linear in linears]
    stage.eval()
    try:
        for shape in [shape for width in widths for shape in ((2, width), (2, 3, width))]:
            x = torch.randn(shape, generator=generator).to(weight)
            try:
                y = stage(x, Context()) if with_context else stage(x)
            except (RuntimeError, ValueError, IndexError):
                continue  # this stage takes another shape
            return isinstance(y, Tensor) and y.shape == x.shape and torch.equal(y, x)
    finally:
        stage.train(training)
        for handle in handles:
            handle.remove()
    return False
