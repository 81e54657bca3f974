"""Elastic weight consolidation: parameters that mattered are held by springs."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn import functional as F

from baselines import STRATEGIES, flat
from baselines.models.mlp import MLP
from baselines.reservoir import rows
from learning.hooks import Strategy
from neurons.errors import UsageError
from neurons.specs import Batch
from tasks.batches import collate

Labels = Literal["model", "data"]
CHUNK = 2**24  # numbers of per-sample gradients held at a time: 64 MB


@STRATEGIES.register("ewc")
class EWC(Strategy):
    """Adds ``strength / 2 sum_k sum_i F_ki (theta_i - theta*_ki)^2`` over past tasks k, by its gradient.

    F_k is the diagonal of the Fisher information at theta*_k, the mean over the task's train rows (``samples`` of them,
    None: all) of exact per-sample squares. ``labels``: "model" takes the expectation over the model's own answers, all
    classes weighted by their probability, which is the Fisher information; "data" takes the true label, the empirical
    one. ``decay`` None keeps one penalty a task (Kirkpatrick et al. 2017); a number g gives the online form, F <- g F +
    F_k about the last theta* (Schwarz et al. 2018). Statistics by backpropagation, whatever the rule.

    State: ``precision`` sum_k F_k and ``pull`` sum_k F_k theta*_k, (P,) each, hold all penalties exactly.
    """

    def __init__(
        self,
        *,
        strength: float = 100.0,
        decay: float | None = None,
        labels: Literal["model", "data"] = "model",
        samples: int | None = 256,
    ) -> None:
        self.strength, self.decay, self.labels, self.samples = strength, decay, labels, samples
        if strength < 0 or (decay is not None and not 0 <= decay <= 1) or (samples is not None and samples < 1):
            raise UsageError("ewc: strength is at least 0, decay between 0 and 1, samples at least 1")
        self.precision: Tensor | None = None
        self.pull: Tensor | None = None

    def gradient(self, model: nn.Module, batch: Batch) -> None:
        if self.precision is not None and self.pull is not None:
            flat.add_to_gradient(model, self.strength * (self.precision * flat.values(model) - self.pull))

    def after_task(self, model: nn.Module, task: Any) -> None:
        split = task.split("train")
        chosen = np.random.default_rng(task.index).permutation(len(split))[: self.samples]
        outputs = torch.from_numpy(np.flatnonzero(task.active[task.outputs[0]]))
        anchor = flat.values(model)
        found = fisher(model, collate(split, chosen, task.input).to(anchor.device), outputs, labels=self.labels)
        if self.precision is None or self.pull is None:
            self.precision, self.pull = found, found * anchor
        elif self.decay is None:
            self.precision, self.pull = self.precision + found, self.pull + found * anchor
        else:
            self.precision = self.decay * self.precision + found
            self.pull = self.precision * anchor

    def state_dict(self) -> dict[str, Tensor]:
        if self.precision is None or self.pull is None:
            return {}
        return {"precision": self.precision, "pull": self.pull}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.precision, self.pull = state.get("precision"), state.get("pull")


def fisher(model: nn.Module, batch: Batch, outputs: Tensor, *, labels: Labels) -> Tensor:
    """Mean over ``batch`` of the diagonal of the Fisher information, (P,); dropout is off.

    With p over ``outputs``, the classes that compete: "model" gives sum_c p_c (d log p_c / d theta)^2, "data"
    (d log p_y / d theta)^2, per sample. In closed form for an mlp over features, else samples side by side by
    ``torch.func``, one by one where a model has no vectorised form (spiking surrogates).
    """
    was_training = model.training
    model.eval()
    try:
        if type(model) is MLP and model.input.kind == "features":
            return _fisher_of_linear_layers(model, batch, outputs.to(batch.y.device), labels)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return _fisher_vectorised(model, batch, outputs.to(batch.y.device), labels)
    except RuntimeError as error:
        if "functorch" not in str(error) and "vmap" not in str(error):
            raise
        return fisher_by_sample(model, batch, outputs, labels=labels)
    finally:
        model.train(was_training)


def fisher_by_sample(model: nn.Module, batch: Batch, outputs: Tensor, *, labels: Labels) -> Tensor:
    """As ``fisher``, for a model in eval mode: one sample, one class, one backward pass at a time."""
    held = flat.parameters(model)
    total = torch.zeros_like(flat.values(model))
    with torch.enable_grad():
        for number in range(len(batch)):
            one = rows(batch, slice(number, number + 1))
            log_p = F.log_softmax(model(one)[0, outputs.to(one.y.device)], dim=-1)
            for place, output in enumerate(outputs.tolist()):
                weight = float(log_p[place].detach().exp()) if labels == "model" else float(output == int(one.y))
                if weight > 0:
                    slopes = torch.autograd.grad(log_p[place], held, retain_graph=True, materialize_grads=True)
                    total += weight * torch.cat([slope.flatten() for slope in slopes]).square()
    return total / len(batch)


def _fisher_of_linear_layers(model: MLP, batch: Batch, outputs: Tensor, labels: Labels) -> Tensor:
    """Where every parameter is in a linear layer that each sample passes once, z = W a + b: the gradient of one sample
    is the outer product of d = d log p / d z and a, so their squares sum to ``(d^2)^T (a^2)``."""
    # a frozen layer needs no gradient of its own, and what lies below the lowest trained one gets none
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and any(parameter.requires_grad for parameter in module.parameters())
    ]
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(layer: nn.Module, given: tuple[Tensor], answer: Tensor) -> None:
        seen[layer] = (given[0].detach().square(), answer)

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.enable_grad():
            log_p = F.log_softmax(model(batch)[:, outputs], dim=-1)
    finally:
        for hook in hooks:
            hook.remove()
    weight = log_p.detach().exp() if labels == "model" else (batch.y[:, None] == outputs).to(log_p)
    found: dict[Tensor, Tensor] = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}
    for place in range(len(outputs)):  # rows do not mix: the gradient of the sum is each row's own
        slopes = torch.autograd.grad(log_p[:, place].sum(), [seen[layer][1] for layer in layers], retain_graph=True)
        for layer, slope in zip(layers, slopes, strict=True):
            square = weight[:, place, None] * slope.square()
            found[layer.weight] += square.T @ seen[layer][0]
            found[layer.bias] += square.sum(0)
    return torch.cat([found[parameter].detach().flatten() for parameter in flat.parameters(model)]) / len(batch)


def _fisher_vectorised(model: nn.Module, batch: Batch, outputs: Tensor, labels: Labels) -> Tensor:
    theta = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    wanted = (batch.y[:, None] == outputs).to(batch.x.dtype if batch.x.is_floating_point() else torch.float32)

    def log_p(theta: dict[str, Tensor], x: Tensor, mask: Tensor | None) -> Tensor:
        one = Batch(x[None], batch.y[:1], None if mask is None else mask[None])
        return F.log_softmax(functional_call(model, theta, (one,))[0, outputs], dim=-1)

    def expected(x: Tensor, mask: Tensor | None, target: Tensor) -> dict[str, Tensor]:
        p = log_p(theta, x, mask).exp()
        return {name: torch.tensordot(p, row.square(), dims=1) for name, row in jacrev(log_p)(theta, x, mask).items()}

    def empirical(x: Tensor, mask: Tensor | None, target: Tensor) -> dict[str, Tensor]:
        slopes = grad(lambda t: (log_p(t, x, mask) * target).sum())(theta)
        return {name: slope.square() for name, slope in slopes.items()}

    of_one, held = (expected, len(outputs)) if labels == "model" else (empirical, 1)
    of_all = vmap(of_one, in_dims=(0, None if batch.mask is None else 0, 0))
    total = torch.zeros_like(flat.values(model))
    step = max(CHUNK // (len(total) * held), 1)
    for start in range(0, len(batch), step):
        chunk = rows(batch, slice(start, start + step))
        squares = of_all(chunk.x, chunk.mask, wanted[start : start + step])
        total += torch.cat([squares[name].sum(0).flatten() for name in theta])
    return total / len(batch)
