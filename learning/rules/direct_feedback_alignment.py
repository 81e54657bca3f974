"""Direct feedback alignment: every stage hears the output error itself, through a random matrix of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from learning import RULES
from learning.chain import Chain, unsupported
from learning.rule import Rule, StepReport, Update
from learning.rules.broadcast import Broadcast, cut_with_output, output_error


@RULES.register("direct-feedback-alignment")
class DirectFeedbackAlignment(Rule):
    """Direct feedback alignment: ``e B_l`` in place of the gradient at the output of stage l, B_l random and fixed.

    With e the error at the model's output and stages ``s_l = f_l(s_{l-1}; theta_l)``:

        dtheta_l = (d f_l / d theta_l)^T (e B_l)    for hidden l;    the readout learns from its own loss

    No error passes from stage to stage: all learn at once. Inside a stage autograd is exact, so every differentiable
    stage will do. In a linear network with ``B_l = W_L .. W_{l+1}`` it is backpropagation. Shapes, scale and what
    happens to tokens: ``learning.rules.broadcast``. B enters the checkpoint; it is drawn by ``seed`` and the stage's
    number. ``passes``: a forward and a weight gradient per stage.

    Local in that a stage reads its own states and parameters and one error that is broadcast to all; no stage reads
    another's weights or hands anything down. Nøkland 2016; its limits with convolutions: Launay et al. 2020.
    """

    local = True

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self._feedback = Broadcast(seed)

    def supports(self, model: nn.Module) -> str | None:
        return unsupported(model)

    def prepare(self, model: nn.Module) -> None:
        self._feedback = Broadcast(self.seed)

    def step(
        self, model: Any, batch: Any, *, loss: Callable[..., Any] | None = None, update: Update | None = None
    ) -> StepReport:
        cut, outputs = cut_with_output(Chain(model, batch, loss))
        error = output_error(cut, outputs)
        cut.pull_loss(below=False)
        for index in range(len(cut.outputs)):
            cut.pull(index, self._feedback.signal(cut, index, error, model, batch), below=False)
        return cut.fill()

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._feedback.matrices)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._feedback.matrices = dict(state)
