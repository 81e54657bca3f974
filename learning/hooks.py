"""The contract of a strategy: what may touch a batch, a loss or a gradient during training."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from learning.rule import LossFunction
from neurons.specs import Batch


class Strategy:
    """Base of every continual-learning strategy; as it stands it changes nothing.

    The trainer calls, in this order at every step: ``batch``, ``rule.step(loss=strategy.loss(base))``, all-reduce,
    ``gradient``, clipping, optimiser. ``before_task`` and ``after_task`` bracket each task of a stream.
    ``data`` says which samples the protocol feeds: those of the current task, of all past ones too, or of all.
    ``needs_task``: it must be told at test which task a sample is from. ``stores_samples``: its memory holds samples.

    A ``task`` has an ``index``, a ``count`` of tasks, its ``outputs`` of C, ``active`` (C, C) bool whose row y says
    which outputs compete for label y, an ``input`` spec, ``split("train")`` and ``size("train")``.
    """

    name: ClassVar[str]
    data: ClassVar[Literal["current", "past", "all"]] = "current"
    needs_task: ClassVar[bool] = False
    stores_samples: ClassVar[bool] = False

    def before_task(self, model: nn.Module, task: Any) -> None:
        """Called before the first step on ``task``."""

    def batch(self, batch: Batch) -> Batch:
        return batch

    def loss(self, base: LossFunction) -> LossFunction:
        """The loss the rule will minimise; return ``base`` itself to leave it alone."""
        return base

    def gradient(self, model: nn.Module, batch: Batch) -> None:
        """May add to or project ``.grad``."""

    def after_task(self, model: nn.Module, task: Any) -> None:
        """Called after the last step on ``task``."""

    def select(self, model: nn.Module, task: Any) -> None:
        """Called before ``model`` sees samples of ``task`` outside of training, None where that is not known, and with
        the task in training when it goes on."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            raise ValueError(f"strategy '{self.name}' keeps no state, but the checkpoint holds {sorted(state)}")

    def memory_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())
