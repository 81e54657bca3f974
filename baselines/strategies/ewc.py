"""Elastic weight consolidation: parameters that mattered are held by springs."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn import functional as F

from baselines import STRATEGIES, flat
from learning.hooks import Strategy
from neurons.errors import UsageError
from neurons.specs import Batch
from tasks.batches import collate

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
        rows = np.random.default_rng(task.index).permutation(len(split))[: self.samples]
        outputs = torch.from_numpy(np.flatnonzero(task.active[task.outputs[0]]))
        anchor = flat.values(model)
        found = fisher(model, collate(split, rows, task.input).to(anchor.device), outputs, labels=self.labels)
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


def fisher(model: nn.Module, batch: Batch, outputs: Tensor, *, labels: Literal["model", "data"]) -> Tensor:
    """Mean over ``batch`` of the diagonal of the Fisher information, (P,); dropout is off.

    With p over ``outputs``, the classes that compete: "model" gives sum_c p_c (d log p_c / d theta)^2, "data"
    (d log p_y / d theta)^2, per sample.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    theta = {name: parameter.detach() for name, parameter in model.named_parameters() if name in names}
    places = torch.zeros(int(outputs.max()) + 1, dtype=torch.long)
    places[outputs] = torch.arange(len(outputs))
    places, outputs = places.to(batch.y.device), outputs.to(batch.y.device)

    def log_p(theta: dict[str, Tensor], x: Tensor, mask: Tensor | None) -> Tensor:
        one = Batch(x[None], batch.y[:1], None if mask is None else mask[None])
        return F.log_softmax(functional_call(model, theta, (one,))[0, outputs], dim=-1)

    def expected(x: Tensor, mask: Tensor | None, place: Tensor) -> dict[str, Tensor]:
        p = log_p(theta, x, mask).exp()
        rows = jacrev(log_p)(theta, x, mask)
        return {name: torch.tensordot(p, row.square(), dims=1) for name, row in rows.items()}

    def empirical(x: Tensor, mask: Tensor | None, place: Tensor) -> dict[str, Tensor]:
        slopes = grad(lambda t: log_p(t, x, mask).gather(0, place[None])[0])(theta)
        return {name: slope.square() for name, slope in slopes.items()}

    of_one, held = (expected, len(outputs)) if labels == "model" else (empirical, 1)
    size = sum(values.numel() for values in theta.values())
    step = max(CHUNK // (size * held), 1)
    total = torch.zeros(size, device=batch.x.device)
    was_training = model.training
    model.eval()
    try:
        of_all = vmap(of_one, in_dims=(0, None if batch.mask is None else 0, 0))
        for start in range(0, len(batch), step):
            chunk = slice(start, start + step)
            mask = None if batch.mask is None else batch.mask[chunk]
            squares = of_all(batch.x[chunk], mask, places[batch.y[chunk]])
            total += torch.cat([squares[name].sum(0).flatten() for name in names])
    finally:
        model.train(was_training)
    return total / len(batch)
