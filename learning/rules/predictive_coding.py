"""Predictive coding: every stage predicts the next state, and learns from its own prediction error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from learning import RULES
from learning.chain import Chain, unsupported
from learning.distributed import reduce_max
from learning.rule import Rule, StepReport, Update
from learning.rules.pc.mupc import parametrise, unsuited
from learning.rules.pc.trace import Trace
from learning.rules.pc.variants import VARIANTS
from neurons.errors import UsageError, nearest

CLAMP_EVERY = 50  # batches between two estimates of the largest curvature


@RULES.register("predictive-coding")
class PredictiveCoding(Rule):
    """Predictive coding over a chain of stages, local in space.

    Stages f_l with parameters theta_l, states s_l (s_0 = x is clamped), errors ``eps_l = s_l - f_l(s_{l-1})``:

        E = sum_{l<L} pi_l/2 |eps_l|^2 + loss(f_L(s_{L-1}), y),      pi_{L-1} = 1,  pi_l = precision * pi_{l+1}

    ``variant`` (all start from the forward pass; S, T: local in space, in time):

    - ``spc`` S T: ``steps`` times, all states at once, ``s_l <- s_l - inference_rate (eps_l - J_{l+1}^T eps_{l+1} /
      precision)``; then the gradient of E at the settled states, ``dE/d theta_l = -pi_l (d f_l / d theta_l)^T eps_l``,
      which is not backprop's. Rao & Ballard 1999; Whittington & Bogacz 2017.
    - ``ipc`` S T: the same with a weight step after every state step; needs ``update``. Salvatori et al. 2024.
    - ``epc``: the errors are the free variables, ``s_l = f_l(s_{l-1}) + eps_l``; one reverse pass of the whole chain a
      step, the same equilibrium. ``local`` is False. Goemaere et al. 2025. The loss's curvature grows with depth
      (lambda_max 1,500 in 128 residual blocks) and bounds the rate; with ``nudge`` 1 / lambda_max, the gradient
      divided by it, a few steps settle.
    - ``fixedpred`` S: predictions and Jacobians stay those of the forward pass, ``e_l <- (1 - inference_rate) e_l +
      inference_rate J^T e_{l+1}``; converges to backprop, and warns where it has not. Millidge et al. 2020.
    - ``zil`` S: inference_rate 1, and stage l takes its weight gradient at the one moment t = L - l, when its error is
      backprop's delta. Equal to backprop, so it is the exact-gradient control of the others. Computed as one reverse
      sweep of stage-local products, on a schedule that all stages must share; the options of settling have no part in
      it. Song et al. 2020.
    - ``pn``, ``nn`` S T and ``cn`` S: output energy ``nudge * loss``, the gradient divided by nudge; positive,
      negative, or the mean of both phases. ``nudge`` is .1 unless given; the smaller, the closer to backprop's.
      Pinchetti et al. 2024.
    - ``pcalm`` S T: multipliers integrate the errors, ``m_l <- m_l + multiplier_rate eps_l``, and pull beside them;
      once settled it is backprop. ``penalty`` (1 unless given) weighs the errors; multiplier_rate is the penalty
      unless given. Seely & Gould 2026.

    Local: an update of stage l uses s_{l-1}, s_l, eps_l and eps_{l+1} alone; autograd runs inside a stage, never across
    stages (a parameter that two stages share gets the sum of their gradients). Energies are summed over the batch for
    states, so that a sample settles as it would alone; ``.grad`` is divided by count, as backprop's is.

    Scalars (energies per counted target): ``energy`` after settling, ``energy_1`` .. ``energy_{L-1}`` of each hidden
    stage, ``energy_start`` (the loss after the forward pass), and ``stationarity``, the norm of dE/ds at the last
    settling step divided by the norm of the error that the loss injects at the first: 0 is settled, 1 is not.
    ``passes`` counts stage passes, each evaluation, input gradient and weight gradient of a stage as one.

    ``precision``: how much more a stage trusts its prediction than the stage above it does. 1 is the usual energy.
    Where stages amplify (|J| = 7 after a few epochs on SST-2) it is ill-conditioned: 400 steps leave 40 % of the
    residual. A ratio far above |J|^2 lets every state settle one step after the state above it, so that L + 1 steps at
    rates near 1 do; the equilibrium is then backprop's gradient but for the loss's curvature along the top state, which
    a small ``nudge`` takes away too. Quote the cosine beside the result. Where a ratio would cost the lowest error its
    digits, spc, pn, nn and cn settle deviations from the forward pass, in units of the loss's gradient
    (``learning.rules.pc.deviations``), which float32 does not lose (tried up to a ratio of 1e6). Precision-weighted
    errors: Rao & Ballard 1999; Friston 2005.
    ``precision_schedule`` ``spiking``: each error counts 1 / inference_rate times at the one step after it arose, so
    the first wave reaches every stage at one strength. Qi et al. 2025.

    ``state_optimizer``: ``sgd``, ``momentum`` (with ``momentum``, .9 unless given) or ``adam`` on the states.
    ``clamp``: keeps the rate at or below ``clamp / lambda_max``, lambda_max being the largest curvature of E, estimated
    by power iteration on every 50th batch; 2 is the limit of stability, 1 is safe. ``tolerance``: settling ends when
    the stationarity is no larger, and after ``steps`` at the latest; ``steps`` is then a scalar too.
    A batch whose energy rises is settled again at a quarter of the rate, three times at most; ``retries`` counts them.
    ``wavefront``: skip stages that the error has not reached yet; exact.

    Where every hidden stage above the first is a Linear with an elementwise activation (``learning.rules.pc.layers``
    says which), spc, pn, nn and cn settle by hand-written products without autograd, the lowest such stage in Gram form
    where that saves products: the same numbers to rounding, at two thirds of the time. The attribute ``specialised``
    False keeps to the generic path.

    ``parametrisation`` ``mupc``: ``prepare`` gives every nn.Linear unit-variance weights behind a fixed forward scale,
    for chains of a hundred stages. Innocenti et al. 2025. Adam's step does not shrink with that scale, so it wants a
    learning rate about sqrt(width) times the usual one: at 2e-3 a net of width 64 is near chance after 30 steps on
    digits (23 %), at 1e-1 it reads 80 %.

    Raises UsageError for options that contradict each other, DivergedError if settling diverges or the loss is not
    finite.
    """

    trace: Trace | None = None  # an observer's; see learning.rules.probe
    specialised = True  # False keeps to the generic path, the oracle of the other

    def __init__(
        self,
        *,
        variant: Literal["spc", "ipc", "epc", "fixedpred", "zil", "pn", "nn", "cn", "pcalm"] = "spc",
        steps: int = 20,
        inference_rate: float = 0.1,
        precision: float = 1.0,
        precision_schedule: Literal["fixed", "spiking"] = "fixed",
        state_optimizer: Literal["sgd", "momentum", "adam"] = "sgd",
        momentum: float | None = None,
        clamp: float | None = None,
        tolerance: float = 0.0,
        wavefront: bool = True,
        nudge: float | None = None,
        penalty: float | None = None,
        multiplier_rate: float | None = None,
        parametrisation: Literal["standard", "mupc"] = "standard",
    ) -> None:
        self.variant = variant
        self.steps = steps
        self.inference_rate = inference_rate
        self.precision = precision
        self.precision_schedule = precision_schedule
        self.state_optimizer = state_optimizer
        self.momentum = momentum
        self.clamp = clamp
        self.tolerance = tolerance
        self.wavefront = wavefront
        self.nudge = nudge
        self.penalty = penalty
        self.multiplier_rate = multiplier_rate
        self.parametrisation = parametrisation
        self._check_values()
        self._check_company()
        self._lambda_max, self._batches = 0.0, 0

    def _check_values(self) -> None:
        if self.variant not in VARIANTS:
            have = ", ".join(VARIANTS)
            raise UsageError(f"variant is one of {have}, not {self.variant!r}.{nearest(str(self.variant), VARIANTS)}")
        if self.steps < 1:
            raise UsageError(f"predictive coding needs steps >= 1, not {self.steps}. Try: steps=20")
        for option, suggestion in (
            ("inference_rate", "0.1"),
            ("precision", "1.0"),
            ("clamp", "1.0"),
            ("nudge", "0.1"),
            ("penalty", "1.0"),
            ("multiplier_rate", "1.0"),
        ):
            value = getattr(self, option)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UsageError(f"predictive coding needs {option} > 0, not {value}. Try: {option}={suggestion}")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise UsageError(f"momentum is at least 0 and below 1, not {self.momentum}. Try: momentum=0.9")
        if not self.tolerance >= 0:
            raise UsageError(f"tolerance is a stationarity, at least 0, not {self.tolerance}. Try: tolerance=0.01")
        choices = {
            "precision_schedule": ("fixed", "spiking"),
            "state_optimizer": ("sgd", "momentum", "adam"),
            "parametrisation": ("standard", "mupc"),
        }
        for option, known in choices.items():
            value = getattr(self, option)
            if value not in known:
                raise UsageError(f"{option} is one of {', '.join(known)}, not {value!r}.{nearest(str(value), known)}")

    def _check_company(self) -> None:
        """Options that say something together only. What settling never sees, ``zil`` leaves unread."""
        about = {"nudge": ("pn", "nn", "cn", "epc"), "penalty": ("pcalm",), "multiplier_rate": ("pcalm",)}
        for option, variants in about.items():
            if getattr(self, option) is not None and self.variant not in variants:
                told = f"{option} is about {', '.join(variants)}, and variant is '{self.variant}'"
                raise UsageError(f"{told}. Try: {option}=none")
        if self.momentum is not None and self.state_optimizer != "momentum":
            raise UsageError(f"momentum is about state_optimizer='momentum', and it is '{self.state_optimizer}'")
        if self.clamp is not None and self.state_optimizer == "adam":
            raise UsageError("clamp bounds the rate by the curvature, which adam's steps don't follow. Leave one out")
        if self.precision_schedule == "spiking":
            if self.variant not in ("spc", "pn", "nn", "cn", "zil"):
                raise UsageError(f"precision_schedule='spiking' is about spc, pn, nn and cn, not '{self.variant}'")
            if self.state_optimizer != "sgd":
                raise UsageError("precision_schedule='spiking' needs state_optimizer='sgd'")
        if self.variant == "fixedpred":
            if self.precision != 1 or self.state_optimizer != "sgd" or self.clamp is not None:
                raise UsageError(
                    "fixedpred relaxes errors: precision, state_optimizer and clamp have no part in it. "
                    "Try: precision=1.0, state_optimizer='sgd', clamp=None"
                )
            if self.inference_rate >= 2:
                raise UsageError(
                    f"fixedpred diverges at inference_rate >= 2, and it is {self.inference_rate}. Try: inference_rate=1"
                )

    @property
    def local(self) -> bool:  # type: ignore[override]  # a matter of the variant
        """Whether every update uses quantities of its own stage and its neighbours alone."""
        return VARIANTS[self.variant].in_space

    @property
    def local_in_time(self) -> bool:
        """Whether all stages do the same at every step, and nothing is remembered from an earlier phase."""
        return VARIANTS[self.variant].in_time

    def supports(self, model: nn.Module) -> str | None:
        reason = unsupported(model)
        if reason is None and self.parametrisation == "mupc":
            reason = unsuited(model)
        return reason

    def prepare(self, model: nn.Module) -> None:
        if self.parametrisation == "mupc":
            parametrise(model)

    def control(self) -> dict[str, Any] | None:
        if self.variant == "zil":
            return None
        told = [name for name in ("nudge", "penalty", "multiplier_rate") if getattr(self, name) is not None]
        return {"variant": "zil"} | dict.fromkeys(told)

    def step(
        self, model: Any, batch: Any, *, loss: Callable[..., Any] | None = None, update: Update | None = None
    ) -> StepReport:
        chain = Chain(model, batch, loss)
        found = VARIANTS[self.variant].run(self, chain, update)
        chain.fill(found.gradients)
        return StepReport(found.loss, found.passes, found.scalars)

    def limited_rate(self, curvature: Callable[[], float]) -> tuple[float, dict[str, float]]:
        """The inference rate that ``clamp`` allows, and the scalars that tell of it."""
        if self.trace is not None:
            self.trace.lambda_max = curvature()
        if self.clamp is None:
            return self.inference_rate, {}
        if self._batches % CLAMP_EVERY == 0:
            self._lambda_max = reduce_max(curvature())
        self._batches += 1
        rate = self.inference_rate
        if 0 < self._lambda_max < math.inf:
            rate = min(rate, self.clamp / self._lambda_max)
        return rate, {"rate": rate, "lambda_max": self._lambda_max}

    def state_dict(self) -> dict[str, Tensor]:
        if not self._batches:
            return {}
        return {"clamp": torch.tensor([self._lambda_max, self._batches], dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        unknown = set(state) - {"clamp"}
        if unknown:
            raise ValueError(f"rule '{self.name}' keeps no state called {sorted(unknown)}")
        self._lambda_max, self._batches = 0.0, 0
        if "clamp" in state:
            self._lambda_max, self._batches = float(state["clamp"][0]), int(state["clamp"][1])
