"""Learning without forgetting: the old network's answers to new samples are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from baselines import STRATEGIES
from baselines.active import taken_apart
from learning.hooks import Strategy
from learning.rule import LossFunction
from neurons.errors import UsageError
from neurons.specs import Batch, Loss


@STRATEGIES.register("lwf")
class LwF(Strategy):
    """Adds ``strength T^2 KL(softmax(z_old / T) || softmax(z / T))`` per sample of the current task.

    z_old are the logits of the model as the last task left it, T the ``temperature``. Outputs that competed with each
    other form one softmax: all (domain), those of the past tasks (class), each past head with the mean over heads
    (task). Li & Hoiem 2016. The old model is kept whole.
    """

    def __init__(self, *, strength: float = 1.0, temperature: float = 2.0) -> None:
        self.strength, self.temperature = strength, temperature
        if strength < 0 or temperature <= 0:
            raise UsageError("lwf: strength is at least 0 and temperature above 0")
        self.teacher: dict[str, Tensor] = {}
        self.heads = torch.zeros(0, 0, dtype=torch.bool)  # (heads, C)
        self.model: Any = None
        self.old: Tensor | None = None  # the teacher's logits on the current batch

    def before_task(self, model: nn.Module, task: Any) -> None:
        self.model = model

    def batch(self, batch: Batch) -> Batch:
        if self.teacher:
            was_training = self.model.training
            self.model.eval()
            with torch.no_grad():
                there = batch.to(next(self.model.parameters()).device)
                self.old = functional_call(self.model, self.teacher, (there,))
            self.model.train(was_training)
        return batch

    def loss(self, base: LossFunction) -> LossFunction:
        if not self.teacher:
            return base
        ce = taken_apart(base, strategy="lwf")

        def with_distillation(x: Tensor, batch: Batch) -> Loss:
            assert self.old is not None
            logits = ce.logits(x, batch)
            seen = ce.of(logits, batch)
            kept = distillation(self.old, logits, self.heads.to(logits.device), self.temperature)
            return Loss(seen.objective + self.strength * kept, seen.reported, seen.count)

        return with_distillation

    def after_task(self, model: nn.Module, task: Any) -> None:
        self.teacher = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        past = range(max(task.outputs) + 1)
        self.heads = torch.from_numpy(task.active)[list(past)].unique(dim=0)

    def state_dict(self) -> dict[str, Tensor]:
        held = {f"teacher.{name}": tensor for name, tensor in self.teacher.items()}
        return held | {"heads": self.heads} if held else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.teacher = {name[len("teacher.") :]: state[name] for name in state if name.startswith("teacher.")}
        self.heads = state.get("heads", self.heads)


def distillation(old: Tensor, new: Tensor, heads: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(old / T) || softmax(new / T))`` summed over the batch, mean over ``heads`` (G, C)."""
    kept = new.new_zeros(())
    for head in heads:
        target = F.log_softmax(old[:, head] / temperature, dim=-1)
        answer = F.log_softmax(new[:, head] / temperature, dim=-1)
        kept = kept + F.kl_div(answer, target, reduction="sum", log_target=True)
    return temperature**2 * kept / len(heads)
