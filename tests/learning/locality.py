"""Two proofs that a rule is local: a walk of the autograd graph, and NaN in place of other stages' parameters."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from neurons.model import Model


def leaves(output: Tensor) -> set[int]:
    """ids of the tensors that gradients from ``output`` would accumulate in."""
    found, seen = set(), set()
    pending = [output.grad_fn]
    if output.is_leaf and output.requires_grad:
        found.add(id(output))
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        pending += [edge for edge, _ in node.next_functions]
    return found


def recorded(model: Any, loss: Any = None) -> tuple[list[tuple[int, Tensor, Tensor]], Any]:
    """Every evaluation of a stage from now on, as (stage, input, output); and a loss that records the readout's."""
    seen: list[tuple[int, Tensor, Tensor]] = []
    stages = list(model.stages) if isinstance(model, Model) else list(model)
    for index, stage in enumerate(stages[:-1]):
        stage.register_forward_hook(lambda _, args, out, index=index: seen.append((index, args[0], out)))
    top, inputs = len(stages) - 1, []
    stages[-1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    base = loss or model.readout.loss

    def recording(x: Tensor, target: Any) -> Any:
        result = base(x, target)
        objective = result if isinstance(result, Tensor) else result.objective
        seen.append((top, x if isinstance(model, Model) else inputs[-1], objective))
        return result

    return seen, recording


def crossings(rule: Any, model: Any, batch: Any, loss: Any = None) -> tuple[int, set[int]]:
    """Evaluations whose graph leaves their stage; stages whose own parameters a gradient could reach in one of them."""
    stages = list(model.stages) if isinstance(model, Model) else list(model)
    seen, recording = recorded(model, loss)
    rule.step(model, batch, loss=recording)
    crossed, learning = 0, set()
    for index, x, output in seen:
        own = {id(p) for p in stages[index].parameters()}
        found = leaves(output)
        crossed += not found <= own | {id(x)}
        if found & own:
            learning.add(index)
    return crossed, learning


def poison(stage: nn.Module) -> None:
    """NaN in every parameter, behind autograd's back: graphs that were built before it stay usable."""
    for parameter in stage.parameters():
        parameter.data.fill_(float("nan"))


def survivors(rule: Any, model: Any, batch: Any, *, victims: set[int], loss: Any = None) -> set[int]:
    """The stages, ``victims`` aside, whose update stays bit for bit what it was when the parameters of ``victims`` turn
    into NaN right after the forward pass: states and output error are the same, what follows may not read them."""

    def gradients(broken: bool) -> dict[int, list[Tensor]]:
        here = copy.deepcopy(model)
        stages = list(here.stages) if isinstance(here, Model) else list(here)
        base = loss or here.readout.loss

        def poisoning(x: Tensor, target: Any) -> Any:
            result = base(x, target)
            for index in victims if broken else ():
                poison(stages[index])
            return result

        torch.manual_seed(5)
        rule.step(here, batch, loss=poisoning)
        return {i: [p.grad for p in s.parameters() if p.grad is not None] for i, s in enumerate(stages)}

    whole, broken = gradients(False), gradients(True)
    return {
        index
        for index, wanted in whole.items()
        if index not in victims
        and wanted
        and all(torch.equal(a, b) for a, b in zip(wanted, broken[index], strict=True))
    }
