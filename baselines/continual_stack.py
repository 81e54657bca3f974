"""Seeds of one learner, trained side by side: one batched product per layer instead of one product per seed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.active import ActiveLoss, masked
from baselines.continual import GradientLearner
from baselines.models.mlp import MLP
from learning import OPTIMIZERS
from learning.hooks import Strategy
from learning.rule import LossFunction
from learning.rules.backprop import Backprop
from learning.seeds import seed_step, step_seed
from neurons.errors import DivergedError
from neurons.specs import Batch, Context, Loss
from tasks.batches import BatchStream
from tasks.continual.learner import OnStep
from tasks.continual.stream import StreamTask
from tasks.task import Split


def unstackable(learner: GradientLearner) -> str | None:
    """Why a learner's seeds must be trained one after the other, or None.

    Each row of an MLP goes its own way, all its weights are in linear layers, and backpropagation sums what it is
    given: rows of several seeds can share a batch.
    """
    if type(learner.model) is not MLP or learner.model.input.kind != "features":
        return "only an mlp over features is stacked"
    if type(learner.rule) is not Backprop:
        return "only backprop is stacked"
    return None if learner.device.type == "cpu" else "stacking is for the CPU"


class Stack:
    """S learners that differ in their seed alone. ``fit`` does to each what its own ``fit`` would, to float precision.

    Seed s keeps its model, strategy, batches and random numbers; its weights are views of the stacked ones (S, ...), so
    strategies and ``predict`` see an ordinary model. Rows (S B, ...) of all seeds pass through one chain whose linear
    layers multiply by seed; batches of unequal size are padded with zero rows that no loss reads. Gradients are clipped
    seed by seed; the optimiser is elementwise, hence the same as S of them.
    """

    def __init__(self, learners: Sequence[GradientLearner]) -> None:
        self.learners = list(learners)
        self.first = self.learners[0]
        self.model: Any = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.draws = _Draws(len(self.learners))

    def fit(self, data: Split, task: StreamTask, on_step: OnStep) -> None:
        first, steps = self.first, self.first.steps_on(task)
        seeds = [step_seed(learner.seed, task.index) for learner in self.learners]
        batches = [BatchStream(data, task.input, batch_size=first.batch_size, seed=seed) for seed in seeds]
        active = torch.from_numpy(task.active)
        bases = [ActiveLoss(_Readout(learner.model.readout), active) for learner in self.learners]
        for learner in self.learners:
            learner.current = task
            learner.strategy.before_task(learner.model, task)
            learner.model.train()
        if self.model is None:  # after the strategies have hooked themselves into the stages
            self.model = _stacked([learner.model for learner in self.learners], self.draws)
        self.model.train()
        if self.optimizer is None or first.reset:
            self.optimizer = OPTIMIZERS.build(first.optimizer).build(self.model, lr=first.lr, weight_decay=0.0)
        for i in range(steps):
            self._step(i, seeds, batches, bases)
            on_step(i + 1)
        for number, learner in enumerate(self.learners):
            learner.model.eval()
            with self.draws.of(number):
                learner.strategy.after_task(learner.model, task)

    def _step(self, i: int, seeds: list[int], batches: list[BatchStream], bases: list[ActiveLoss]) -> None:
        assert self.optimizer is not None
        given: list[Batch] = []
        for number, learner in enumerate(self.learners):
            seed_step(seeds[number], i, learner.device)
            given.append(learner.strategy.batch(batches[number].batch(i)))
            self.draws.keep(number)
        self.draws.rows = [len(batch) for batch in given]
        self.optimizer.zero_grad(set_to_none=True)
        losses = [learner.strategy.loss(base) for learner, base in zip(self.learners, bases, strict=True)]
        report = Backprop().step(self.model, _side_by_side(given), loss=_Sum(self.model, given, bases, losses))
        for (
            parameter
        ) in self.model.parameters():  # torch's fused optimisers read a transposed gradient as if it were not
            parameter.grad = parameter.grad.contiguous()
        if type(self.first.strategy).gradient is not Strategy.gradient:
            self._by_seed(given)
        norms = self._norms()
        if not (torch.isfinite(norms).all() and torch.isfinite(report.loss.reported)):
            lost = ~torch.isfinite(norms)
            number = int(lost.int().argmax()) if lost.any() else 0
            raise DivergedError(
                f"non-finite loss at step {i + 1}, seed {self.learners[number].seed}. Lower trainer.lr "
                f"(now {self.first.lr:g}) or set trainer.clip"
            )
        if self.first.clip is not None:
            scale = (self.first.clip / (norms + 1e-6)).clamp(max=1.0)
            for parameter in self.model.parameters():
                parameter.grad.mul_(scale.view(-1, *[1] * (parameter.dim() - 1)))
        self.optimizer.step()

    def _by_seed(self, given: list[Batch]) -> None:
        """Each seed's strategy on its own gradient."""
        whole = list(self.model.parameters())
        for number, learner in enumerate(self.learners):
            own = list(learner.model.parameters())
            for parameter, stacked in zip(own, whole, strict=True):
                parameter.grad = stacked.grad[number]
            with self.draws.of(number):
                learner.strategy.gradient(learner.model, given[number])
            for parameter, stacked in zip(own, whole, strict=True):
                stacked.grad[number] = parameter.grad
                parameter.grad = None

    def _norms(self) -> Tensor:
        """(S,) norm of each seed's gradient."""
        slopes = [parameter.grad.flatten(1) for parameter in self.model.parameters()]
        return torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(slope, dim=1) for slope in slopes]), dim=0
        )


class _Draws:
    """The random state of each seed, and the rows of its batch: what one seed draws moves no other."""

    def __init__(self, seeds: int) -> None:
        self.states: list[Tensor] = [torch.default_generator.get_state()] * seeds
        self.rows: list[int] = [0] * seeds

    def keep(self, number: int) -> None:
        self.states[number] = torch.default_generator.get_state()

    def of(self, number: int) -> _Drawing:
        return _Drawing(self, number)


class _Drawing:
    """Inside, torch draws what seed ``number`` would."""

    def __init__(self, draws: _Draws, number: int) -> None:
        self.draws, self.number = draws, number

    def __enter__(self) -> None:
        torch.default_generator.set_state(self.draws.states[self.number])

    def __exit__(self, *_: Any) -> None:
        self.draws.keep(self.number)


class _Linear(nn.Module):
    """y = x W_s^T + b_s for the rows of seed s: (S B, in) -> (S B, out), weights (S, out, in)."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))
        for number, layer in enumerate(layers):
            layer.weight.data, layer.bias.data = self.weight.data[number], self.bias.data[number]

    def forward(self, x: Tensor) -> Tensor:
        by_seed = x.view(len(self.weight), -1, x.shape[-1])
        return torch.baddbmm(self.bias[:, None], by_seed, self.weight.transpose(1, 2)).flatten(0, 1)


class _Dropout(nn.Module):
    """Dropout whose mask for the rows of seed s is the one that seed s would draw."""

    def __init__(self, p: float, draws: _Draws) -> None:
        super().__init__()
        self.p, self.draws = p, draws

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        by_seed = x.view(len(self.draws.rows), -1, *x.shape[1:])
        factors = torch.zeros_like(by_seed)
        for number, rows in enumerate(self.draws.rows):
            with self.draws.of(number):
                factors[number, :rows] = F.dropout(torch.ones_like(by_seed[number, :rows]), self.p)
        return (by_seed * factors).flatten(0, 1)


def _stacked(models: Sequence[nn.Module], draws: _Draws) -> Any:
    """A copy of the first model with the layers of all in it, whose weights the models share from now on."""
    whole = copy.deepcopy(models[0])
    for name, module in list(whole.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if isinstance(module, nn.Linear):
            layers: list[Any] = [model.get_submodule(name) for model in models]
            setattr(whole.get_submodule(parent), leaf, _Linear(layers))
        elif isinstance(module, nn.Dropout):
            setattr(whole.get_submodule(parent), leaf, _Dropout(module.p, draws))
    return whole


def _side_by_side(given: Sequence[Batch]) -> Batch:
    """Batches of all seeds as one of (S B, ...), the shorter ones padded with zero rows."""
    most = max(len(batch) for batch in given)
    x = given[0].x.new_zeros((len(given), most, *given[0].x.shape[1:]))
    y = given[0].y.new_zeros((len(given), most))
    for number, batch in enumerate(given):
        x[number, : len(batch)], y[number, : len(batch)] = batch.x, batch.y
    return Batch(x.flatten(0, 1), y.flatten())


class _Readout:
    """A seed's readout, or the logits that the stack has computed for it already."""

    def __init__(self, readout: Any) -> None:
        self.readout = readout
        self.known: Tensor | None = None

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        logits: Tensor = self.readout(x, context) if self.known is None else self.known
        return logits


class _Sum:
    """Sum over the seeds of each one's mean loss, as a loss of the stacked model."""

    def __init__(
        self, model: Any, given: Sequence[Batch], bases: Sequence[ActiveLoss], losses: Sequence[LossFunction]
    ) -> None:
        self.model, self.given, self.bases, self.losses = model, given, bases, losses

    def __call__(self, x: Tensor, batch: Batch) -> Loss:
        logits = self.model.readout(x, Context()).view(len(self.given), -1, self.model.output.size)
        if all(loss is base for loss, base in zip(self.losses, self.bases, strict=True)):
            return self._plain(logits, batch)
        total, reported = logits.new_zeros(()), logits.new_zeros(())
        for own, base, loss, rows in zip(logits, self.bases, self.losses, self.given, strict=True):
            readout: Any = base.readout
            readout.known = own[: len(rows)]
            seen = loss(readout.known, rows)
            readout.known = None
            total, reported = total + seen.objective / seen.count, reported + seen.reported / seen.count
        return Loss(total, reported, 1)

    def _plain(self, logits: Tensor, batch: Batch) -> Loss:
        """No strategy changes the loss: one cross-entropy for the rows of all seeds."""
        rows = torch.tensor([len(one) for one in self.given])
        weight = (torch.arange(logits.shape[1]) < rows[:, None]) / rows[:, None]
        told = F.cross_entropy(masked(logits.flatten(0, 1), batch.y, self.bases[0].active), batch.y, reduction="none")
        total = (told.where(weight.flatten() > 0, 0.0) * weight.flatten()).sum()
        return Loss(total, total.detach(), 1)
