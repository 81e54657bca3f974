"""The trainer: the one loop that every rule, strategy and optimiser runs in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from learning import OPTIMIZERS, SCHEDULES, distributed
from learning.hooks import Strategy
from learning.interrupt import Interrupted
from learning.loop import Loop
from learning.optimizers import Optimizer
from learning.precision import Precision, autocast, resolve_device
from learning.rule import Rule, StepReport
from learning.run import RunDirectory
from learning.schedules import Schedule
from neurons.errors import UsageError
from neurons.specs import Batch

__all__ = ["FitReport", "Interrupted", "Trainer"]


@dataclass(frozen=True)
class FitReport:
    """What a fit did.

    ``seconds`` is training time over all resumes, without evaluation and checkpoints, which have their own.
    ``best_value`` is the best held-out ``primary``, at ``best_step`` (None if it was never finite). ``curve`` holds the
    rows of metrics.jsonl, ``scalars`` the rule's scalars of the last step.
    """

    steps: int
    seconds: float
    evaluation_seconds: float
    checkpoint_seconds: float
    samples: int
    tokens: int
    best_step: int | None
    best_value: float | None
    stopped_by: Literal["steps", "patience"]
    curve: list[dict[str, Any]]
    warnings: list[str]
    scalars: dict[str, float]

    @property
    def samples_per_second(self) -> float:
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class Trainer:
    """Trains a model with a learning rule.

    Step i: seed from (seed, i); ``strategy.batch``; ``rule.step`` fills ``.grad``; ``strategy.gradient``; clip the
    global norm to ``clip``; optimiser at ``lr`` times the schedule; ``model.end_episode()``: a batch is an episode in
    the life of a model with slow state. ``batch_size`` is for whoever makes the batches.
    Under ``torchrun`` every process takes its slice of each batch; see ``learning.distributed``.
    ``eval_every`` None is a tenth of ``steps``; ``checkpoint_every`` None is ``eval_every``; ``patience`` is the number
    of evaluations without improvement after which training stops; ``select`` says which weights the model ends with.
    """

    def __init__(
        self,
        *,
        steps: int = 1000,
        batch_size: int = 64,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        schedule: str = "cosine",
        warmup: float = 0.05,
        clip: float | None = 1.0,
        eval_every: int | None = None,
        patience: int | None = None,
        checkpoint_every: int | None = None,
        select: Literal["best", "last"] = "best",
    ) -> None:
        self.steps, self.batch_size = steps, batch_size
        self.optimizer, self.lr, self.weight_decay = optimizer, lr, weight_decay
        self.schedule, self.warmup, self.clip = schedule, warmup, clip
        self.eval_every, self.patience, self.checkpoint_every = eval_every, patience, checkpoint_every
        self.select = select
        for name in ("steps", "batch_size", "eval_every", "patience", "checkpoint_every"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "above 0")
        _require(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
        _require(0 <= warmup <= 1, "warmup", warmup, "a fraction between 0 and 1")
        _require(select in ("best", "last"), "select", select, "'best' or 'last'")
        OPTIMIZERS.entry(optimizer)
        SCHEDULES.entry(schedule)

    def fit(
        self,
        model: nn.Module,
        rule: Rule,
        batches: Callable[[int], Batch],
        evaluate: Callable[[nn.Module], dict[str, float]],
        *,
        run: RunDirectory | None = None,
        strategy: Strategy | None = None,
        optimizer: Optimizer | None = None,
        schedule: Schedule | None = None,
        seed: int = 0,
        device: str = "cpu",
        precision: Precision = "float32",
        higher_is_better: bool = True,
        resume: bool = False,
        progress: bool = False,
        on_step: Callable[[int, StepReport], None] | None = None,
    ) -> FitReport:
        """Train ``model`` in place, move it to ``device`` and leave it in eval mode.

        ``batches(i)`` is a pure function of i in [0, steps). ``evaluate(model)`` returns held-out metrics, ``primary``
        among them; it runs in eval mode without gradients and does not disturb training. ``optimizer`` and ``schedule``
        replace those named by the options, for parts with options of their own. ``on_step(step, report)`` is called
        after each step, counted from 1. With ``run``, metrics and checkpoints are written there, and ``resume`` goes on
        from its last checkpoint bit by bit; a fit that is already complete returns at once.

        Raises UsageError if the rule does not support the model or the device is missing; RunError on a non-finite loss
        or gradient, a full disk or a damaged checkpoint; Interrupted after Ctrl-C or SIGTERM.
        """
        reason = rule.supports(model)
        if reason is not None:
            raise UsageError(f"rule '{rule.name}' cannot train this model: {reason}. Try: neurons list rules")
        if resume and run is None:
            raise UsageError("resume needs a run directory: pass run=RunDirectory.create(path, config, resume=True)")
        place = resolve_device(device)
        autocast(place, precision)
        distributed.start(place)
        loop = Loop(
            options=self,
            model=model.to(place),
            rule=rule,
            strategy=strategy or Strategy(),
            optimizer=optimizer or OPTIMIZERS.build(self.optimizer),
            schedule=schedule or SCHEDULES.build(self.schedule),
            batches=batches,
            evaluate=evaluate,
            run=run,
            seed=seed,
            device=place,
            precision=precision,
            higher_is_better=higher_is_better,
            on_step=on_step,
        )
        loop.train(resume=resume, progress=progress)
        tracker = loop.tracker
        return FitReport(
            steps=tracker.step,
            seconds=tracker.seconds,
            evaluation_seconds=tracker.evaluation_seconds,
            checkpoint_seconds=tracker.checkpoint_seconds,
            samples=tracker.samples,
            tokens=tracker.tokens,
            best_step=tracker.best_step,
            best_value=tracker.best_value,
            stopped_by="patience" if tracker.step < self.steps else "steps",
            curve=loop.curve,
            warnings=[*tracker.warnings, *(run.warnings if run else [])],
            scalars=tracker.scalars,
        )


def _require(holds: bool, name: str, value: Any, wanted: str) -> None:
    if not holds:
        raise UsageError(f"trainer.{name} must be {wanted}, not {value!r}")
