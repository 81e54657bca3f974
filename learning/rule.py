"""The contract of a learning rule: it fills ``.grad`` and touches nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from neurons.specs import Batch, Loss

LossFunction = Callable[[Any, Batch], Loss]


@dataclass
class StepReport:
    """What one step saw: the batch's Loss (detached sums), the passes it used, and named scalars worth logging."""

    loss: Loss
    passes: int = 1
    scalars: dict[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Reported loss per counted target."""
        return float(self.loss.reported) / max(self.loss.count, 1)


Update = Callable[[StepReport], None]


class Rule:
    """Base of every learning rule.

    ``step`` sets ``.grad`` of every trainable parameter to the rule's gradient of the objective divided by count. It
    never calls an optimiser; a rule that interleaves weight steps calls ``update(report)`` between fills and leaves the
    last one to the trainer. ``loss`` replaces the readout's ``loss(x, batch)`` where a strategy wraps it; for a plain
    torch model it maps (prediction, y) to a mean over the batch or to (sum, count).
    """

    name: ClassVar[str]
    local: ClassVar[bool] = False

    def supports(self, model: nn.Module) -> str | None:
        """None, or the reason why this rule cannot train ``model``."""
        return None

    def prepare(self, model: nn.Module) -> None:
        """Called once before training; anything random here is seeded by the rule, not by the rank."""

    def step(
        self, model: Any, batch: Any, *, loss: Callable[..., Any] | None = None, update: Update | None = None
    ) -> StepReport:
        raise NotImplementedError("abstract: a rule defines step(model, batch, *, loss, update)")

    def control(self) -> dict[str, Any] | None:
        """Options of this rule's exact-gradient control, which ``compare`` prints beside it; None if it has none."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            raise ValueError(f"rule '{self.name}' keeps no state, but the checkpoint holds {sorted(state)}")
