"""e-prop: eligibility traces of membranes, met by a learning signal that comes straight from the readout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from learning import RULES
from learning.chain import Chain, stages_of, unsupported
from learning.rule import Rule, StepReport, Update
from learning.rules.broadcast import Broadcast, cut_with_output, output_error
from neurons.errors import UsageError
from neurons.model import Model
from neurons.spiking.soma import SpikingSoma


@RULES.register("e-prop")
class EProp(Rule):
    """e-prop for leaky integrate-and-fire neurons (``SpikingSoma``).

    A soma j with membrane ``U_t = beta U_{t-1} + I_t``, spikes ``S_t = H(U_t - theta)`` and surrogate ``psi_t = dS/dU``
    keeps a trace of what each parameter of its drive I has done to its membrane, and learns when a signal L meets it:

        eps_t = beta eps_{t-1} + dI_t/dtheta,    e_t = psi_t eps_t,    dE/dtheta = sum_t L_t e_t

    For a synapse, ``dI_t/dw`` is the presynaptic activity. L is the direct influence of the spikes on the loss; what
    they do to later layers' spikes is left out, so that nothing is sent back through time or through another layer. The
    reset carries no gradient. With one spiking stage below the readout e-prop is backpropagation through time, exactly.

    ``feedback``, how L reaches a stage:

    - ``symmetric``: the readout's error at its own input, which every stage takes for the error at its own output (the
      stream of ``spiking_neuronsv2`` carries each circuit's answer there by its skips). Equal shapes, else UsageError.
    - ``random``: the output error through a fixed random matrix per stage, drawn by ``seed``, as in rule
      direct-feedback-alignment; the matrices enter the checkpoint.

    Inside a stage autograd is exact, so that whatever lies between input and membrane (norm, dendrites, attention) and
    between spikes and output (projection) learns; stages without a soma have no trace and learn from L at once. The sum
    is formed by one product per stage with ``psi_t L_t`` filtered backwards, ``g_t = psi_t L_t + beta g_{t+1}``: the
    same number in another order, since a batch holds its whole sequences. ``eligibility_reference`` is the online form.

    Local in space, apart from the broadcast signal, and in its online form local in time. Bellec et al. 2020.
    UsageError for an unknown ``feedback``.
    """

    local = True

    def __init__(self, *, feedback: Literal["symmetric", "random"] = "symmetric", seed: int = 0) -> None:
        if feedback not in ("symmetric", "random"):
            raise UsageError(f"e-prop: feedback is 'symmetric' or 'random', not {feedback!r}")
        self.feedback, self.seed = feedback, seed
        self._matrices = Broadcast(seed)

    def supports(self, model: nn.Module) -> str | None:
        reason = unsupported(model)
        if reason is not None:
            return reason
        somas = [sum(isinstance(m, SpikingSoma) for m in stage.modules()) for stage in stages_of(model)]
        if not sum(somas) or not isinstance(model, Model):
            return "it has no spiking soma (neurons.spiking.soma.SpikingSoma), whose traces e-prop needs"
        if somas[-1] or max(somas) > 1:
            index = len(somas) - 1 if somas[-1] else somas.index(max(somas))
            return (
                f"stage {index + 1} has {somas[index]} spiking somas; e-prop brings its signal to one soma per hidden "
                "stage and none in the readout"
            )
        return None

    def prepare(self, model: nn.Module) -> None:
        self._matrices = Broadcast(self.seed)

    def step(
        self, model: Any, batch: Any, *, loss: Callable[..., Any] | None = None, update: Update | None = None
    ) -> StepReport:
        cut, outputs = cut_with_output(Chain(model, batch, loss))
        error = output_error(cut, outputs) if self.feedback == "random" else None
        direct = cut.pull_loss(below=error is None)
        for index, output in enumerate(cut.outputs):
            if error is not None:
                signal = self._matrices.signal(cut, index, error, model, batch)
            else:
                assert direct is not None
                signal = direct
            if signal.shape != output.shape:
                raise UsageError(
                    f"stage {index + 1} answers {tuple(output.shape)}, and the readout's error at its input is "
                    f"{tuple(signal.shape)}: symmetric feedback needs equal shapes. Try: rule.feedback=random"
                )
            cut.pull(index, signal, below=False)
        return cut.fill()

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._matrices.matrices)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._matrices.matrices = dict(state)


def eligibility_reference(
    presynaptic: Tensor, signal: Tensor, surrogate: Tensor, beta: float, mask: Tensor | None = None
) -> Tensor:
    """dE/dW of the synapses ``I_t = W x_t`` online: one trace per presynaptic neuron, nothing from the future.

    presynaptic x (B, T, N); signal L and surrogate psi (B, T, S); mask (B, T): a masked step takes no time -> (S, N).
    """
    trace = torch.zeros_like(presynaptic[:, 0])
    total = presynaptic.new_zeros(signal.shape[-1], presynaptic.shape[-1])
    for t in range(presynaptic.shape[1]):
        new = beta * trace + presynaptic[:, t]
        trace = new if mask is None else torch.where(mask[:, t, None], new, trace)
        arrived = signal[:, t] * surrogate[:, t]
        if mask is not None:
            arrived = arrived * mask[:, t, None]
        total += arrived.T @ trace
    return total
