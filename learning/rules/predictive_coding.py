"""Predictive coding: every stage predicts the next state, and learns from its own prediction error."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from learning import RULES
from learning.chain import Chain, unsupported
from learning.rule import Rule, StepReport, Update
from learning.rules.settle import Settling, generators, set_generators, still_statistics
from neurons.errors import DivergedError, UsageError
from neurons.specs import Loss

RETRIES = 3


@RULES.register("predictive-coding")
class PredictiveCoding(Rule):
    """Predictive coding over a chain of stages, local in space.

    Stages f_l with parameters theta_l, states s_l (s_0 = x is clamped), errors ``eps_l = s_l - f_l(s_{l-1})``:

        E = sum_{l<L} pi_l/2 |eps_l|^2 + loss(f_L(s_{L-1}), y),      pi_{L-1} = 1,  pi_l = precision * pi_{l+1}

    ``variant``:

    - ``spc``: start from the forward pass; ``steps`` times, all states at once,
      ``s_l <- s_l - inference_rate (eps_l - J_{l+1}^T eps_{l+1} / precision)``; then the gradient of E at the settled
      states, ``dE/d theta_l = -pi_l (d f_l / d theta_l)^T eps_l``, which is not backprop's.
      Rao & Ballard 1999; Whittington & Bogacz 2017.
    - ``zil``: start from the forward pass, inference_rate 1, and stage l takes its weight gradient at the one moment
      t = L - l, when its error is backprop's delta. Equal to backprop, so it is the exact-gradient control of ``spc``.
      Computed as one reverse sweep of stage-local products. Each update uses local quantities, but on a schedule that
      all stages must share; ``steps`` and ``inference_rate`` have no part in it. Song et al. 2020.

    Local: an update of stage l uses s_{l-1}, s_l, eps_l and eps_{l+1} alone; autograd runs inside a stage, never across
    stages (a parameter that two stages share gets the sum of their gradients). Energies are summed over the batch for
    states, so that a sample settles as it would alone; ``.grad`` is divided by count, as backprop's is.

    Scalars of ``spc`` (energies per counted target): ``energy`` after settling, ``energy_1`` .. ``energy_{L-1}`` of
    each hidden stage, ``energy_start`` (the loss after the forward pass), and ``stationarity``, the norm of dE/ds at
    the last settling step divided by the norm of the error that the loss injects at the first: 0 is settled, 1 is not.
    ``passes`` counts stage passes, each evaluation, input gradient and weight gradient of a stage as one.

    ``precision``: how much more a stage trusts its prediction than the stage above it does. 1 is the usual energy.
    Where stages amplify (|J| = 7 after a few epochs on SST-2) it is ill-conditioned: 400 steps leave 40 % of the
    residual. A ratio near |J|^2 lets all states settle in about 8 steps at rate .5; the equilibrium then lies closer to
    backprop's gradient, so quote the cosine beside the result. Precision-weighted errors: Rao & Ballard 1999;
    Friston 2005.

    A batch whose energy rises is settled again at a quarter of the rate, three times at most; ``retries`` counts them.

    ``wavefront``: skip stages that the error has not reached yet; exact.

    Raises UsageError for steps < 1 or inference_rate <= 0, DivergedError if settling diverges or the loss is not
    finite.
    """

    local = True

    def __init__(
        self,
        *,
        variant: Literal["spc", "zil"] = "spc",
        steps: int = 20,
        inference_rate: float = 0.1,
        precision: float = 1.0,
        wavefront: bool = True,
    ) -> None:
        if variant not in ("spc", "zil"):
            raise UsageError(f"variant is 'spc' or 'zil', not {variant!r}")
        if steps < 1:
            raise UsageError(f"predictive coding needs steps >= 1, not {steps}. Try: steps=20")
        if not (inference_rate > 0 and math.isfinite(inference_rate)):
            raise UsageError(
                f"predictive coding needs inference_rate > 0, not {inference_rate}. Try: inference_rate=0.1"
            )
        if not (precision > 0 and math.isfinite(precision)):
            raise UsageError(f"predictive coding needs precision > 0, not {precision}. Try: precision=1.0")
        self.variant = variant
        self.steps = steps
        self.inference_rate = inference_rate
        self.precision = precision
        self.wavefront = wavefront

    def supports(self, model: nn.Module) -> str | None:
        return unsupported(model)

    def control(self) -> dict[str, Any] | None:
        return None if self.variant == "zil" else {"variant": "zil"}

    def step(
        self, model: Any, batch: Any, *, loss: Callable[..., Any] | None = None, update: Update | None = None
    ) -> StepReport:
        chain = Chain(model, batch, loss)
        return sweep(chain) if self.variant == "zil" else self._settle(chain)

    def _settle(self, chain: Chain) -> StepReport:
        before, passes = generators(chain.input.device), 0
        for retries in range(RETRIES + 1):
            rate = self.inference_rate / 4**retries
            settling = Settling(chain, rate=rate, precision=self.precision, wavefront=self.wavefront)
            with still_statistics(chain.stages) if retries else nullcontext():  # one batch counts once
                gradients = settling.run(self.steps)
            passes += settling.passes
            scalars = self._scalars(settling)
            start, end = scalars["energy_start"], scalars["energy"]
            if not math.isfinite(start):
                raise DivergedError(
                    f"the loss is {start} before settling: look for NaN in the input, or lower the learning rate"
                )
            if end <= start + 1e-3 * abs(start) + 1e-6:  # False for NaN
                chain.fill(gradients)
                return StepReport(_detached(settling.forward_loss), passes, scalars | {"retries": retries})
            set_generators(chain.input.device, before)
        raise DivergedError(
            f"predictive coding diverges: in {self.steps} steps the energy rose from {start:.4g} to {end:.4g}, even at "
            f"inference rate {rate:.2g}. Lower it. Try: rule.inference_rate={rate / 4:.2g}, or a larger rule.precision"
        )

    @torch.no_grad()
    def _scalars(self, settling: Settling) -> dict[str, float]:
        """Energies per counted target and the stationarity, in one transfer from the device."""
        ends = [settling.forward_loss.objective.detach(), settling.loss.objective.detach()]
        norms: list[Tensor] = []
        if settling.injected is not None:
            norms = [settling.residual(), settling.injected]
            norms += torch._foreach_norm(settling.errors)
        start, end, *rest = torch.stack([*ends, *norms]).tolist()
        residual, injected = rest[:2] if norms else (0.0, 0.0)
        energies = [0.5 * pi * norm * norm for pi, norm in zip(settling.precisions, rest[2:], strict=False)]
        count = max(settling.loss.count, 1)
        energy = (end + sum(energies)) / count
        start /= count
        scalars = {"energy": energy, "energy_start": start, "stationarity": residual / injected if injected else 0.0}
        scalars.update({f"energy_{index + 1}": value / count for index, value in enumerate(energies)})
        return scalars


def sweep(chain: Chain) -> StepReport:
    """Z-IL as one reverse sweep: each stage, on its own graph, turns the error above it into the one below."""
    predictions: list[Tensor] = []
    states: list[Tensor] = []
    totals: dict[int, Tensor] = {}
    last = len(chain) - 1

    with torch.enable_grad():
        x = chain.input
        for index in range(last):
            predictions.append(chain.stage(index, x))
            x = predictions[-1].detach().requires_grad_()
            states.append(x)
        seen = chain.loss(x)
    pull: Tensor = torch.full_like(seen.objective, 1.0 / max(seen.count, 1))
    for index in range(last, -1, -1):
        output = predictions.pop() if index < last else seen.objective
        parameters = [p for p in chain.stages[index].parameters() if p.requires_grad]
        inputs: list[Tensor] = [*states[index - 1 : index], *parameters]
        gradients: list[Tensor | None] = [None] * len(inputs)
        if output.requires_grad and inputs:
            gradients = list(torch.autograd.grad(output, inputs, pull, allow_unused=True))
        for parameter, gradient in zip(parameters, gradients[len(inputs) - len(parameters) :], strict=True):
            if gradient is not None:
                known = totals.get(id(parameter))
                totals[id(parameter)] = gradient if known is None else known + gradient
        if index:
            below = gradients[0]
            pull = torch.zeros_like(states[index - 1]) if below is None else below
    chain.fill([totals.get(id(parameter)) for parameter in chain.parameters])
    return StepReport(_detached(seen), passes=3 * len(chain) - 1)


def _detached(loss: Loss) -> Loss:
    return Loss(loss.objective.detach(), loss.reported.detach(), loss.count)
