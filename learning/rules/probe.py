"""How close a rule's gradient is to backprop's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from learning.chain import Chain, stages_of, trainable
from learning.rule import Rule
from learning.rules.backprop import Backprop
from learning.rules.settle import generators, set_generators


def gradient_cosine(rule: Rule, model: Any, batch: Any, loss: Callable[..., Any] | None = None) -> dict[str, float]:
    """Cosine between ``rule``'s gradient and backprop's, same batch, same random numbers.

    ``cosine`` over all parameters, ``cosine_1`` .. ``cosine_L`` over those of each stage that has any; 0 where either
    gradient is zero. Parameters, ``.grad``, buffers, random states and the state of the rule are left as found.
    """
    stages = stages_of(model)
    parameters = trainable(stages)
    grads = [parameter.grad for parameter in parameters]
    buffers = [(buffer, buffer.clone()) for stage in stages for buffer in stage.buffers()]
    memory = {key: value.clone() for key, value in rule.state_dict().items()}
    device = Chain(model, batch, loss).input.device
    before = generators(device)

    def gradient(one: Rule) -> dict[int, Tensor]:
        set_generators(device, before)
        one.step(model, batch, loss=loss)
        return {id(p): p.grad.detach().double().flatten() for p in parameters if p.grad is not None}

    try:
        exact = gradient(Backprop())
        _restore(buffers)
        found = gradient(rule)
    finally:
        _restore(buffers)
        set_generators(device, before)
        rule.load_state_dict(memory)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad

    def cosine(members: list[nn.Parameter]) -> float:
        a = torch.cat([exact[id(p)] for p in members])
        b = torch.cat([found[id(p)] for p in members])
        norms = float(a.norm() * b.norm())
        return float(a @ b) / norms if norms else 0.0

    cosines = {"cosine": cosine(parameters)}
    for index, stage in enumerate(stages):
        members = trainable([stage])
        if members:
            cosines[f"cosine_{index + 1}"] = cosine(members)
    return cosines


def _restore(buffers: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
