"""One fit in progress: the step, the evaluation, the checkpoint, and what is kept between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from learning import distributed
from learning.checkpoint import (
    load_weights,
    model_tensors,
    optimizer_tensors,
    restore_model,
    restore_optimizer,
    save_checkpoint,
)
from learning.hooks import Strategy
from learning.interrupt import Interrupted, deferred_signals
from learning.optimizers import Optimizer
from learning.precision import Precision, autocast
from learning.progress import Progress
from learning.rule import LossFunction, Rule, StepReport
from learning.rules.probe import probe
from learning.run import RunDirectory
from learning.schedules import Schedule, multiplier
from learning.seeds import seed_step
from learning.tracker import Tracker
from neurons.errors import DivergedError, RunError
from neurons.specs import Batch

if TYPE_CHECKING:
    from learning.trainer import Trainer


@dataclass
class Loop:
    """``Trainer.fit`` with its arguments resolved."""

    options: Trainer
    model: Any
    rule: Rule
    strategy: Strategy
    optimizer: Optimizer
    schedule: Schedule
    batches: Callable[[int], Batch]
    evaluate: Callable[[Any], dict[str, float]]
    run: RunDirectory | None
    seed: int
    device: torch.device
    precision: Precision
    higher_is_better: bool
    on_step: Callable[[int, StepReport], None] | None

    def __post_init__(self) -> None:
        options = self.options
        self.eval_every = options.eval_every or max(options.steps // 10, 1)
        self.checkpoint_every = options.checkpoint_every or self.eval_every
        self.log_every = max(self.eval_every // 10, 1)  # ten points of the training curve per held-out one
        self.rule.prepare(self.model)
        distributed.agreed("trainer.steps", options.steps)
        distributed.spread_model(self.model)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.stepper = self.optimizer.build(self.model, lr=options.lr, weight_decay=options.weight_decay)
        self.wraps_loss = type(self.strategy).loss is not Strategy.loss
        self.tracker = Tracker()
        self.curve: list[dict[str, Any]] = []
        self.best_weights: dict[str, Tensor] = {}  # only without a run directory
        self.probing = self.run is not None and bool(self.run.config.get("probe"))
        self.weight = 1.0  # of what this process learned from the last batch
        self.seen: tuple[Batch, LossFunction | None] | None = None  # what the last step learned from

    @property
    def finished(self) -> bool:
        patience = self.options.patience
        return self.tracker.step >= self.options.steps or (patience is not None and self.tracker.stale >= patience)

    def train(self, *, resume: bool, progress: bool) -> None:
        """Run to the end, then leave the selected weights in the model."""
        if self.run is None:
            self._train(progress)
        else:
            with self.run.lock():
                self._restore(resume)
                try:
                    self._train(progress)
                except Interrupted:
                    raise
                except Exception as error:
                    self.run.fail(str(error) or type(error).__name__)
                    raise
        if self.options.select == "best" and self.tracker.best_step is not None:
            if self.run is None:
                restore_model(self.model, self.best_weights, Path("best"))
            elif distributed.rank() == 0:
                load_weights(self.run.best, self.model)
            distributed.spread_model(self.model)
        self.model.eval()

    def _train(self, progress: bool) -> None:
        bar = Progress(enabled=progress and distributed.rank() == 0, steps=self.options.steps, start=self.tracker.step)
        self.model.train()
        try:
            with deferred_signals() as stop:
                while not self.finished:
                    self._step(bar)
                    step, last = self.tracker.step, self.tracker.step == self.options.steps
                    evaluating = last or step % self.eval_every == 0
                    if evaluating or step % self.log_every == 0:
                        self._log_training()
                    if evaluating:
                        self._evaluate(bar)
                        if self.probing:
                            self._probe()
                    stopping = distributed.reduce_max(float(bool(stop))) > 0  # a signal may reach one process only
                    if stopping or self.finished or step % self.checkpoint_every == 0:
                        self._save()
                    if stopping:  # also after the last step: what follows training can wait for the resume
                        raise Interrupted(f"interrupted at step {step}; {self._how_to_resume()}")
        except KeyboardInterrupt as error:
            raise Interrupted(f"stopped during step {self.tracker.step + 1}; {self._how_to_resume()}") from error
        finally:
            bar.close()

    def _how_to_resume(self) -> str:
        if self.run is None or not self.run.last.exists():
            return "no checkpoint was written"
        return f"checkpoint written to {self.run.last}. Resume: the same command with --resume auto"

    def _step(self, bar: Progress) -> None:
        start, tracker = time.perf_counter(), self.tracker
        i = tracker.step
        seed_step(self.seed, i, self.device)
        tracker.lr = self.options.lr * multiplier(
            self.schedule, i, steps=self.options.steps, warmup=self.options.warmup
        )
        for group in self.stepper.param_groups:
            group["lr"] = tracker.lr
        given = self.strategy.batch(self.batches(i))
        tracker.samples += len(given)
        tracker.tokens += given.x.shape[0] * given.x.shape[1] if given.mask is None else int(given.mask.sum())
        share, self.weight = distributed.share(given)
        if distributed.rank():  # dropout of its own, behind a batch that all processes have drawn alike
            seed_step(self.seed, i, self.device, distributed.rank())
        batch = share.to(self.device)
        loss = self.strategy.loss(self.model.readout.loss) if self.wraps_loss else None
        self.seen = (batch, loss)

        def update(report: StepReport) -> None:
            self._apply(report, batch)
            self.stepper.zero_grad(set_to_none=True)
            torch.clear_autocast_cache()  # it holds low-precision copies of the weights that have just changed

        self.stepper.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            report = self.rule.step(self.model, batch, loss=loss, update=update)
            value = self._apply(report, batch)
        self.model.end_episode()  # after the weights: this batch's sequences are over, and slow state may change
        distributed.spread_untrained(self.model)
        tracker.step += 1
        tracker.loss_sum += value
        tracker.loss_count += report.loss.count
        tracker.scalars = report.scalars
        tracker.seconds += time.perf_counter() - start
        bar.step(value / max(report.loss.count, 1), tracker.lr)
        if self.on_step is not None:
            self.on_step(tracker.step, report)

    def _apply(self, report: StepReport, batch: Batch) -> float:
        """One weight update from ``.grad``; returns the reported loss sum. Nothing non-finite reaches the weights. Of
        several processes, the gradient and the loss become those of the global batch."""
        report.loss = distributed.reduce_step(self.parameters, report.loss, self.weight)
        self.strategy.gradient(self.model, batch)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = get_total_norm(gradients)
        size, value, clip = float(norm), float(report.loss.reported), self.options.clip
        if not (math.isfinite(size) and math.isfinite(value)):
            mean = value / max(report.loss.count, 1)
            raise DivergedError(
                f"non-finite loss at step {self.tracker.step + 1} (loss {mean:g}, gradient norm {size:g}). "
                f"Lower trainer.lr (now {self.options.lr:g}), lengthen trainer.warmup or tighten trainer.clip"
            )
        if clip is not None and size + 1e-6 > clip:  # torch clips by clip / (norm + 1e-6) where that is below 1
            clip_grads_with_norm_(self.parameters, clip, norm)
        self.stepper.step()
        return value

    def _log_training(self) -> None:
        tracker = self.tracker
        self._append("train", tracker.loss_sum / max(tracker.loss_count, 1), tracker.scalars)
        tracker.loss_sum, tracker.loss_count = 0.0, 0

    def _append(self, split: str, loss: float | None, values: Mapping[str, Any]) -> None:
        tracker = self.tracker
        row = {"step": tracker.step, "split": split, "loss": loss, "lr": tracker.lr, "seconds": tracker.seconds}
        row = {**row, **{key: value for key, value in values.items() if key not in row}}
        self.curve.append(row)
        if self.run is not None:
            self.run.append(row)

    def _evaluate(self, bar: Progress) -> None:
        start, tracker = time.perf_counter(), self.tracker
        metrics = self._metrics()
        tracker.evaluation_seconds += time.perf_counter() - start
        train_loss = self.curve[-1]["loss"]
        self._append("held_out", metrics.get("loss"), metrics)
        value = metrics["primary"]
        bar.evaluated(tracker.step, train_loss, tracker.lr, value)
        if not math.isfinite(value):
            tracker.warnings.append(f"the held-out metric was {value} at step {tracker.step}")
        best = tracker.best_value
        better = best is None or (value > best if self.higher_is_better else value < best)
        if not (math.isfinite(value) and better):
            tracker.stale += 1
            return
        tracker.best_step, tracker.best_value, tracker.stale = tracker.step, value, 0
        if self.options.select == "best":
            self._keep_best()

    def _metrics(self) -> dict[str, float]:
        """The held-out metrics; of several processes rank 0 measures, and all go on from what it finds."""
        found: dict[str, float] = {}
        if distributed.rank() == 0:
            self.model.eval()
            with torch.no_grad(), autocast(self.device, self.precision):
                found = {key: float(value) for key, value in self.evaluate(self.model).items()}
            self.model.train()
        return distributed.spread_numbers(found)

    def _probe(self) -> None:
        """A row of instruments on the batch that was just learned from; training goes on as if nobody had looked."""
        start, tracker = time.perf_counter(), self.tracker
        assert self.seen is not None
        with autocast(self.device, self.precision):
            found = probe(self.rule, self.model, *self.seen).document()
        cosines = found.pop("cosines")
        found["step_seconds"] = found.pop("seconds")  # ``seconds`` of a row is the time trained
        self._append("probe", None, {**cosines, **found})
        tracker.evaluation_seconds += time.perf_counter() - start

    def _keep_best(self) -> None:
        start = time.perf_counter()
        weights = model_tensors(self.model)
        if self.run is None:
            self.best_weights = {name: tensor.clone() for name, tensor in weights.items()}
        elif distributed.rank() == 0:
            state = {"step": self.tracker.step, "value": self.tracker.best_value, "config": self.run.config_hash}
            save_checkpoint(self.run.best, {"model": weights}, state)
        self.tracker.checkpoint_seconds += time.perf_counter() - start

    def _save(self) -> None:
        if self.run is None or distributed.rank():
            return
        start = time.perf_counter()
        parts = {
            "model": model_tensors(self.model),
            "optimizer": optimizer_tensors(self.stepper, self.model),
            "rule": self.rule.state_dict(),
            "strategy": self.strategy.state_dict(),
        }
        state = {"step": self.tracker.step, "config": self.run.config_hash, "tracker": asdict(self.tracker)}
        save_checkpoint(self.run.last, parts, state)
        self.tracker.checkpoint_seconds += time.perf_counter() - start

    def _restore(self, resume: bool) -> None:
        """Take up the run's last checkpoint, if any, and drop what metrics.jsonl holds beyond it."""
        assert self.run is not None
        path = self.run.last
        if not resume and path.exists() and distributed.rank() == 0:
            raise RunError(
                f"{self.run.path} already holds a checkpoint. Add --resume auto, or choose another --out DIR"
            )
        checkpoint = distributed.checkpoint_at(path)
        if checkpoint is not None:
            if distributed.rank() == 0 and checkpoint.state["config"] != self.run.config_hash:
                raise RunError(f"checkpoint {path} belongs to another configuration. Choose another --out DIR")
            restore_model(self.model, checkpoint.part("model"), path)
            restore_optimizer(self.stepper, self.model, checkpoint.part("optimizer"), path)
            self.rule.load_state_dict(checkpoint.part("rule"))
            self.strategy.load_state_dict(checkpoint.part("strategy"))
            self.tracker = Tracker(**checkpoint.state["tracker"])
        self.curve = self.run.rewind(self.tracker.step)
