"""Context-dependent gating: each task has hidden units of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines import STRATEGIES
from learning.chain import stages_of
from learning.hooks import Strategy
from learning.seeds import step_seed
from neurons.errors import UsageError


@STRATEGIES.register("xdg")
class XDG(Strategy):
    """The output of every stage but the readout is multiplied by a fixed 0/1 gate (D,) of the task.

    ``share`` None deals the units out, D / T to each of T tasks, disjoint; a number opens that share of them at random
    for each task (Masse, Grant & Freedman 2018 took 0.2). Drawn by ``seed``. The task must be known at test, in any
    scenario. Gates follow from the options and are not state.
    """

    needs_task: ClassVar[bool] = True

    def __init__(self, *, share: float | None = None, seed: int = 0) -> None:
        self.share, self.seed = share, seed
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"xdg: share is the open part of the units, above 0 and up to 1, not {share:g}")
        self.task: Any = None
        self.hooked: nn.Module | None = None

    def before_task(self, model: nn.Module, task: Any) -> None:
        if self.hooked is not model:
            for number, stage in enumerate(stages_of(model)[:-1]):
                stage.register_forward_hook(self._gating(number))
            self.hooked = model
        self.task = task

    def select(self, model: nn.Module, task: Any) -> None:
        self.task = task

    def _gating(self, number: int) -> Any:
        gates: dict[tuple[int, int], Tensor] = {}

        def gate(stage: nn.Module, arguments: Any, x: Tensor) -> Tensor:
            if self.task is None:
                raise UsageError("strategy 'xdg' must be told the task of every sample")
            key = (self.task.index, x.shape[-1])
            if key not in gates:
                gates[key] = self.gate(number, x.shape[-1], self.task.index, self.task.count)
            return x * gates[key].to(x)

        return gate

    def gate(self, stage: int, width: int, task: int, tasks: int) -> Tensor:
        """The gate of ``stage`` on ``task`` of ``tasks``: (width,) bool."""
        if self.share is None and width < tasks:
            raise UsageError(
                f"xdg: {width} units cannot be dealt out to {tasks} tasks. Widen the model, or give a share"
            )
        draw = step_seed(self.seed, stage, 0 if self.share is None else 1 + task)
        order = torch.randperm(width, generator=torch.Generator().manual_seed(draw))
        if self.share is None:
            chosen = order[task * width // tasks : (task + 1) * width // tasks]
        else:
            chosen = order[: max(round(self.share * width), 1)]
        return torch.zeros(width, dtype=torch.bool).index_fill(0, chosen, True)
