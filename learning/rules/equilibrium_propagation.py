"""Equilibrium propagation: relax freely, relax nudged to either side, and learn from the difference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from learning import RULES
from learning.chain import Chain, stages_of, unsupported
from learning.rule import Rule, StepReport, Update
from learning.rules.cut import detached
from learning.rules.energy import Relaxation, layers_of
from neurons.errors import DivergedError, UsageError


@RULES.register("equilibrium-propagation")
class EquilibriumPropagation(Rule):
    """Equilibrium propagation on layers of a drive and a monotone activation, with symmetric feedback.

    Hidden layers have drives ``a_l(s_{l-1})``, affine, and activations rho; G' is the inverse of rho, g = ``feedback``:

        F_beta(s) = sum_l g^(l-1) (G(s_l) - s_l . a_l(s_{l-1})) + beta g^(L-1) loss(readout(s_L), y),    s_0 = x

    Each state has one minimum given its neighbours, ``s_l = rho(a_l(s_{l-1}) + g W_{l+1}^T s_{l+1})`` (at the top
    ``rho(a_L - beta dloss/ds_L)``), and the network takes ``steps`` sweeps of these from the top down: free (beta = 0)
    from the forward pass, then nudged by +beta and by -beta from the free states. With dF/dtheta at fixed states:

        .grad = (dF_beta/dtheta - dF_-beta/dtheta) / (2 beta g^(L-1) count)

    for beta -> 0 the gradient of the loss at the free fixed point (that of recurrent backpropagation), with an error of
    beta^2. A weight's update is the difference of one product, of the activities at its two ends. The readout is no
    part of the relaxation: it reads s_L, and its error nudges it (Laborieux et al. 2021).

    What is evaluated: ``model(batch)`` is the forward pass, the fixed point for g -> 0; the states relax with feedback.
    g = 1 is the Hopfield energy of the paper; the gradient is exact at any g (Xie & Seung 2003), but of the loss at
    the free states, and the forward pass need not follow: a net that learns exclusive-or to a free loss of .16 at
    g = .3 answers by chance in its forward pass, and rightly at g = .03. In float32 the lowest layer's difference
    shrinks as beta g^(L-1), so deep networks want a larger g or float64. The report's loss is the forward pass's, as
    everywhere; scalars: ``free_loss`` at the free states, ``feedback_gap`` (distance of the top free state from the
    forward pass, relative) and ``stationarity`` (what the last sweep moved, relative; of the worst phase). Where they
    are not small, lower ``feedback`` or raise ``steps``.

    Supported: hidden layers of Linear, convolution, flattening, average pooling and dropout (one mask for all phases)
    that end in Tanh, Sigmoid, Hardsigmoid or Hardtanh. Other activations are not monotone, or not bounded, and have no
    such energy; skips and norms are no affine drives. In a plain model consecutive items make up a layer. Any readout.

    Local: a state sees the layers beside it. Scellier & Bengio 2017. UsageError for beta, steps or feedback that are
    not above 0, DivergedError if states or loss are not finite.
    """

    local = True

    def __init__(self, *, beta: float = 0.1, steps: int = 10, feedback: float = 0.03) -> None:
        for name, value in (("beta", beta), ("steps", steps), ("feedback", feedback)):
            if not (value > 0 and math.isfinite(value)):
                raise UsageError(f"equilibrium propagation needs {name} > 0, not {value}")
        self.beta, self.steps, self.feedback = beta, steps, feedback

    def supports(self, model: nn.Module) -> str | None:
        reason = unsupported(model)
        if reason is not None:
            return reason
        found = layers_of(stages_of(model))
        return found if isinstance(found, str) else None

    def step(
        self, model: Any, batch: Any, *, loss: Callable[..., Any] | None = None, update: Update | None = None
    ) -> StepReport:
        chain = Chain(model, batch, loss)
        relaxation = Relaxation(chain, feedback=self.feedback)
        with relaxation:
            forward, seen = relaxation.start()
            free, moved = relaxation.relax(forward, 0.0, self.steps)
            ends = [relaxation.relax(free, sign * self.beta, self.steps) for sign in (1, -1)]
            gradients = relaxation.gradients([state for state, _ in ends], self.beta)
            free_loss = relaxation.loss(free)
        scalars = {"free_loss": float(free_loss.objective.detach()) / max(seen.count, 1)}
        if free:
            gap = (free[-1] - forward[-1]).norm() / forward[-1].norm().clamp_min(1e-12)
            scalars |= {"feedback_gap": float(gap), "stationarity": max(moved, *(end for _, end in ends))}
        if not all(math.isfinite(value) for value in scalars.values()):
            raise DivergedError(
                f"equilibrium propagation does not settle: {scalars}. Look for NaN in the input, or lower rule.feedback"
            )
        chain.fill([gradients.get(id(parameter)) for parameter in chain.parameters])
        return StepReport(detached(seen), relaxation.passes, scalars)
