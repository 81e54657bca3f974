"""What a learning step does: how close its gradient is to backprop's, how its states settle, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from learning.chain import Chain, stages_of, trainable
from learning.rule import Rule, StepReport
from learning.rules.backprop import Backprop
from learning.rules.pc.trace import Trace
from learning.rules.settle import generators, set_generators


@dataclass(frozen=True)
class Probe:
    """One batch under a rule.

    cosines: ``cosine`` to backprop's gradient over all parameters, ``cosine_1`` .. ``cosine_L`` over each stage's.
    passes: of the rule's step.     seconds, backprop_seconds: wall time of one step, each after one to warm up.
    Where states settle, otherwise None or empty: energies, a row before each settling step and one after the last, of
    each hidden stage and then the loss's, per counted target; stationarity after each step; lambda_max, the largest
    curvature of the energy at the forward pass; rate, the inference rate used; and drive, ``rate * steps *
    lambda_max``: far below 1 the states have hardly moved, and the rule is backprop in disguise.
    """

    cosines: dict[str, float]
    passes: int
    seconds: float
    backprop_seconds: float
    energies: list[list[float]]
    stationarity: list[float]
    lambda_max: float | None
    rate: float | None
    drive: float | None

    def document(self) -> dict[str, Any]:
        """As plain data for a JSON file."""
        return asdict(self)


def probe(rule: Rule, model: Any, batch: Any, loss: Callable[..., Any] | None = None) -> Probe:
    """Measure ``rule`` on one batch; parameters, ``.grad``, buffers, random states and the rule's state are left as
    found. A rule that steps the weights while it settles is measured with the weights held."""
    cosines = gradient_cosine(rule, model, batch, loss)
    with _untouched(rule, model, batch, loss) as start:
        _, backprop_seconds = _timed(Backprop(), model, batch, loss, start)
        report, seconds = _timed(rule, model, batch, loss, start)
        trace = Trace()
        if hasattr(rule, "trace"):
            start()
            rule.trace = trace
            try:
                rule.step(model, batch, loss=loss, update=_hold)
            finally:
                rule.trace = None
    count, steps = max(report.loss.count, 1), len(trace.stationarity)
    known = trace.rate is not None and trace.lambda_max is not None
    return Probe(
        cosines=cosines,
        passes=report.passes,
        seconds=seconds,
        backprop_seconds=backprop_seconds,
        energies=[[value / count for value in row] for row in trace.energies],
        stationarity=trace.stationarity,
        lambda_max=trace.lambda_max,
        rate=trace.rate,
        drive=trace.rate * steps * trace.lambda_max if known else None,  # type: ignore[operator]
    )


def gradient_cosine(rule: Rule, model: Any, batch: Any, loss: Callable[..., Any] | None = None) -> dict[str, float]:
    """Cosine between ``rule``'s gradient and backprop's, same batch, same random numbers.

    ``cosine`` over all parameters, ``cosine_1`` .. ``cosine_L`` over those of each stage that has any; 0 where either
    gradient is zero. Parameters, ``.grad``, buffers, random states and the state of the rule are left as found. Of a
    rule that steps the weights while it settles it is the last gradient, with the weights held.
    """
    stages = stages_of(model)
    parameters = trainable(stages)

    with _untouched(rule, model, batch, loss) as start:

        def gradient(one: Rule) -> dict[int, Tensor]:
            start()
            one.step(model, batch, loss=loss, update=_hold)
            return {id(p): p.grad.detach().double().flatten() for p in parameters if p.grad is not None}

        exact, found = gradient(Backprop()), gradient(rule)

    def cosine(members: list[nn.Parameter]) -> float:
        a = torch.cat([exact[id(p)] for p in members])
        b = torch.cat([found[id(p)] for p in members])
        norms = float(a.norm() * b.norm())
        return float(a @ b) / norms if norms else 0.0

    cosines = {"cosine": cosine(parameters)}
    for index, stage in enumerate(stages):
        members = trainable([stage])
        if members:
            cosines[f"cosine_{index + 1}"] = cosine(members)
    return cosines


def _hold(report: StepReport) -> None:
    """The update that leaves the weights as they are."""


def _timed(
    rule: Rule, model: Any, batch: Any, loss: Callable[..., Any] | None, start: Callable[[], None]
) -> tuple[StepReport, float]:
    seconds = 0.0
    for _ in range(2):  # the first warms up
        start()
        before = time.perf_counter()
        report = rule.step(model, batch, loss=loss, update=_hold)
        float(report.loss.objective)  # waits for the device
        seconds = time.perf_counter() - before
    return report, seconds


@contextmanager
def _untouched(rule: Rule, model: Any, batch: Any, loss: Callable[..., Any] | None) -> Iterator[Callable[[], None]]:
    """Gives a function that goes back to the beginning (buffers, random numbers, the rule's state); in the end all of
    it is as it was, and ``.grad`` too."""
    stages = stages_of(model)
    grads = [(parameter, parameter.grad) for parameter in trainable(stages)]
    buffers = [(buffer, buffer.clone()) for stage in stages for buffer in stage.buffers()]
    memory = {key: value.clone() for key, value in rule.state_dict().items()}
    device = Chain(model, batch, loss).input.device
    before = generators(device)

    def start() -> None:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        set_generators(device, before)
        rule.load_state_dict(memory)

    try:
        yield start
    finally:
        start()
        for parameter, grad in grads:
            parameter.grad = grad
