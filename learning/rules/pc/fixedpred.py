"""Fixed-prediction predictive coding: errors relax while predictions and Jacobians stay those of the forward pass."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learning.chain import Chain
from learning.distributed import reduce_max
from learning.rule import Update
from learning.rules.pc.descend import check_start
from learning.rules.pc.variant import Outcome, Variant, detached
from learning.rules.pc.zil import sweep
from learning.rules.settle import Replay, frozen, still_statistics

if TYPE_CHECKING:
    from learning.rules.predictive_coding import PredictiveCoding

UNSETTLED = 0.01


def relax(
    chain: Chain, *, rate: float, steps: int, tolerance: float = 0.0, wavefront: bool = True
) -> tuple[Outcome, list[Tensor]]:
    """``e_l <- (1 - rate) e_l + rate J_{l+1}^T e_{l+1}`` from e = 0, all stages at once, J_l of the forward pass and
    ``e_L = -1 / count``; then the weight gradient ``-(d f_l / d theta_l)^T e_l``. Returns it with the errors.

    It is linear with the single eigenvalue 1 - rate, so it converges for 0 < rate < 2, to backprop's deltas: late, as
    the error passes every stage by a binomial of its distance and the steps. ``stationarity`` is the norm of the last
    change over ``rate`` times that of the first.
    """
    last, replay = len(chain) - 1, Replay(chain.input.device)
    predictions: list[Tensor] = []
    states: list[Tensor] = []
    with torch.enable_grad(), ExitStack() as frozen_above:
        x = chain.input
        for index in range(last):
            predictions.append(replay.record(index, chain.stage, index, x))
            x = predictions[-1].detach().requires_grad_()
            states.append(x)
            if index == 0:  # nothing is pulled through the first stage: its evaluation serves the weights
                frozen_above.enter_context(frozen(chain.parameters))
        seen = replay.record(last, chain.loss, x)
    outputs = [*predictions, seen.objective]
    check_start(float(seen.objective.detach()) / max(seen.count, 1))
    top = torch.full_like(seen.objective, 1.0 / max(seen.count, 1))  # minus e_L; the minus signs cancel in the end
    passes, made, left, injected = len(chain), 0, 0.0, 0.0
    errors = [torch.zeros_like(state) for state in states]
    above: Tensor | None = None  # what the loss injects: constant
    while states and made < steps:
        first = max(last - made, 1) if wavefront else 1  # the lowest stage whose output may have an error
        reached = range(first, last)
        pulls = dict(zip(reached, _pull(outputs, states, reached, errors), strict=True))
        passes += len(reached)
        if above is None:
            above = _pull(outputs, states, range(last, last + 1), [*errors, top])[0]
            passes += 1
        pulls[last] = above
        with torch.no_grad():
            changes = [pulls[index] - errors[index - 1] for index in range(first, last + 1)]
            torch._foreach_mul_(errors[first - 1 :], 1 - rate)
            torch._foreach_add_(errors[first - 1 :], [pulls[i] for i in range(first, last + 1)], alpha=rate)
        made += 1
        if made == 1 or made == steps or tolerance:
            left = float(torch.stack(torch._foreach_norm(changes)).norm())
            injected = injected or left
            if tolerance and reduce_max(left / injected if injected else 0.0) <= tolerance:
                break
    with torch.enable_grad(), still_statistics(chain.stages):  # anew, with parameters
        for index in range(1, last):
            outputs[index] = replay(index, chain.stage, index, states[index - 1].detach())
        outputs[last] = replay(last, chain.loss, states[-1].detach() if states else chain.input).objective
    gradients = _weights(chain, outputs, [*errors, top])
    passes += max(last, 1) + len(chain)
    scalars = {"energy_start": float(seen.objective.detach()) / max(seen.count, 1)}
    scalars["stationarity"] = left / injected if injected else 0.0
    if tolerance:
        scalars["steps"] = made
    return Outcome(gradients, detached(seen), passes, scalars), errors


def _pull(outputs: list[Tensor], states: list[Tensor], indices: range, errors: list[Tensor]) -> list[Tensor]:
    """``J^T e`` of each stage in ``indices``, by one call; their graphs are kept."""
    wanted = [states[index - 1] for index in indices]
    live = [index for index in indices if outputs[index].requires_grad]
    if not live:
        return [torch.zeros_like(state) for state in wanted]
    return list(
        torch.autograd.grad(
            [outputs[index] for index in live],
            wanted,
            [errors[index] for index in live],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
    )


def _weights(chain: Chain, outputs: list[Tensor], errors: list[Tensor]) -> list[Tensor | None]:
    live = [(output, error) for output, error in zip(outputs, errors, strict=True) if output.requires_grad]
    if not live or not chain.parameters:
        return [None] * len(chain.parameters)
    return list(torch.autograd.grad([o for o, _ in live], chain.parameters, [e for _, e in live], allow_unused=True))


def run(rule: PredictiveCoding, chain: Chain, update: Update | None) -> Outcome:
    """Rate 1 is one reverse sweep that ends after ``steps`` stages; other rates relax, and warn where they have not."""
    if rule.inference_rate == 1:
        found = sweep(chain, reach=rule.steps)
        left = float(len(chain) - 1 > rule.steps)  # the error has not reached every stage
        start = float(found.loss.objective) / max(found.loss.count, 1)
        check_start(start)
        found = found._replace(scalars={"energy_start": start, "stationarity": left})
    else:
        found, _ = relax(
            chain, rate=rule.inference_rate, steps=rule.steps, tolerance=rule.tolerance, wavefront=rule.wavefront
        )
        left = found.scalars["stationarity"]
    if left > max(UNSETTLED, rule.tolerance):
        warnings.warn(
            f"fixedpred has not converged (stationarity above {UNSETTLED}), so its gradient is not backprop's: "
            "give it more steps, or inference_rate=1",
            RuntimeWarning,
            stacklevel=4,
        )
    return found


# Millidge et al. 2020; Rosenbaum 2022. The predictions and Jacobians of the forward pass must be remembered.
FIXEDPRED = Variant(run, in_space=True, in_time=False)
