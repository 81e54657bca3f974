"""The learner of a stream that is a model, a learning rule, a strategy and the trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from baselines.active import Active
from learning.hooks import Strategy
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


class GradientLearner(Learner):
    """Trains ``model`` on task after task with ``rule`` and ``strategy``; the optimiser starts afresh with each.

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
        clip: float | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.model, self.rule, self.strategy = model, rule, strategy
        self.epochs, self.steps, self.batch_size = epochs, steps, batch_size
        self.optimizer, self.lr, self.clip = optimizer, lr, clip
        self.seed, self.device = seed, resolve_device(device)
        self.data, self.needs_task = strategy.data, strategy.needs_task
        self.current: StreamTask | None = None
        if epochs < 1:
            raise UsageError(f"epochs is at least 1, not {epochs}")
        if model.output.kind != "label":
            raise UsageError(f"a stream needs a model that answers with labels, not '{model.output.kind}'")
        model.to(self.device)

    def fit(self, data: Split, task: StreamTask, on_step: OnStep) -> None:
        steps = self.steps or self.epochs * -(-task.size("train") // self.batch_size)
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
