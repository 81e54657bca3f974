"""The learner of a stream that is a model, a learning rule, a strategy and the trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from baselines.active import Active
from learning import OPTIMIZERS
from learning.hooks import Strategy
from learning.optimizers import Optimizer
from learning.precision import resolve_device
from learning.rule import Rule
from learning.seeds import step_seed
from learning.trainer import Trainer
from neurons.errors import UsageError
from neurons.model import Model
from neurons.specs import Batch
from tasks.batches import BatchStream
from tasks.continual.learner import Learner, OnStep
from tasks.continual.stream import StreamTask
from tasks.task import Split


class _Kept(Optimizer):
    """An optimiser that is built once and goes on with its moments from task to task."""

    def __init__(self, chosen: Optimizer) -> None:
        self.chosen = chosen
        self.built: torch.optim.Optimizer | None = None

    def build(self, model: Any, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        if self.built is None:
            self.built = self.chosen.build(model, lr=lr, weight_decay=weight_decay)
        return self.built


class GradientLearner(Learner):
    """Trains ``model`` on task after task with ``rule`` and ``strategy``.

    ``reset`` starts the optimiser afresh with each task; else its moments go on, as in van de Ven & Tolias 2019. Fresh
    moments make Adam's first steps equally long for every parameter, whether it mattered or not; moments that go on
    move parameters that get no gradient any more, such as those behind a closed gate.

    Every task takes the same steps under every strategy: ``epochs`` of its own train rows in batches of ``batch_size``,
    or ``steps``; joint and cumulative training draw those batches from more rows. Only outputs that are active on a
    task enter its loss. Learning rate constant, no weight decay, the last weights are kept: nothing is selected here.
    """

    def __init__(
        self,
        model: Model,
        rule: Rule,
        strategy: Strategy,
        *,
        epochs: int = 10,
        steps: int | None = None,
        batch_size: int = 64,
        optimizer: str = "adam",
        lr: float = 1e-3,
        reset: bool = True,
        clip: float | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.model, self.rule, self.strategy = model, rule, strategy
        self.epochs, self.steps, self.batch_size = epochs, steps, batch_size
        self.optimizer, self.lr, self.reset, self.clip = optimizer, lr, reset, clip
        self.seed, self.device = seed, resolve_device(device)
        self.data, self.needs_task = strategy.data, strategy.needs_task
        self.current: StreamTask | None = None
        if epochs < 1:
            raise UsageError(f"epochs is at least 1, not {epochs}")
        if model.output.kind != "label":
            raise UsageError(f"a stream needs a model that answers with labels, not '{model.output.kind}'")
        model.to(self.device)
        self.kept = None if reset else _Kept(OPTIMIZERS.build(optimizer))

    def steps_on(self, task: StreamTask) -> int:
        """Training steps on ``task``."""
        return self.steps or self.epochs * -(-task.size("train") // self.batch_size)

    def fit(self, data: Split, task: StreamTask, on_step: OnStep) -> None:
        steps = self.steps_on(task)
        trainer = Trainer(
            steps=steps,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            lr=self.lr,
            weight_decay=0.0,
            schedule="constant",
            warmup=0.0,
            clip=self.clip,
            eval_every=steps,
            select="last",
        )
        seed = step_seed(self.seed, task.index)  # no task repeats another's draws
        batches = BatchStream(data, task.input, batch_size=self.batch_size, seed=seed)
        self.current = task
        self.strategy.before_task(self.model, task)
        trainer.fit(
            self.model,
            self.rule,
            batches.batch,
            lambda _: {"primary": 0.0},  # evaluation is the protocol's
            optimizer=self.kept,
            strategy=Active(self.strategy, self.model, task),
            seed=seed,
            device=str(self.device),
            on_step=lambda step, _: on_step(step),
        )
        self.strategy.after_task(self.model, task)

    def predict(self, batch: Batch, task: StreamTask | None) -> Tensor:
        was_training = self.model.training
        self.model.eval()
        self.strategy.select(self.model, task)
        try:
            with torch.no_grad():
                scores: Tensor = self.model(batch.to(self.device)).float()
        finally:
            self.strategy.select(self.model, self.current)
            self.model.train(was_training)
        return scores

    def memory(self) -> dict[str, int]:
        counted: dict[str, Any] = {
            "parameters": sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters()),
            "state": sum(buffer.numel() * buffer.element_size() for buffer in self.model.buffers()),
            "buffer": 0,
        }
        counted["buffer" if self.strategy.stores_samples else "state"] += self.strategy.memory_bytes()
        return counted
