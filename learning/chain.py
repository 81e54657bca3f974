"""One view of a chain of stages, so that no learning rule cares whose model it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from neurons.errors import UsageError
from neurons.model import Model
from neurons.specs import Batch, Loss


def stages_of(model: Any) -> list[nn.Module]:
    """The stages of one of our models, of an nn.Sequential or of a list of modules; UsageError for anything else."""
    if isinstance(model, Model):
        stages = list(model.stages)
    elif isinstance(model, nn.Sequential | nn.ModuleList | list | tuple):
        stages = list(model)
    else:
        raise UsageError(
            f"{type(model).__name__} is not a chain of stages. "
            "Give a neurons Model, an nn.Sequential or a list of modules"
        )
    if not stages:
        raise UsageError("the model has no stages. Give at least one module")
    for stage in stages:
        if not isinstance(stage, nn.Module):
            raise UsageError(f"a stage must be an nn.Module, not {type(stage).__name__}")
    return stages


def unsupported(model: Any) -> str | None:
    """Why ``model`` cannot be trained stage by stage, or None."""
    try:
        stages = stages_of(model)
    except UsageError as error:
        return str(error)
    if isinstance(model, nn.Module):
        reached = {id(p) for stage in stages for p in stage.parameters()}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and id(parameter) not in reached:
                return f"parameter '{name}' belongs to no stage"
    return None


class Chain:
    """A model bound to one batch: ``s_l = f_l(s_{l-1})``, ``s_0`` the input, then the readout's loss.

    Stages are numbered from 0 here; ``0 .. len(chain) - 2`` are hidden, the last one is part of the loss:

    - neurons Model: ``stage(x, context)``, and ``loss(x, batch) -> Loss`` on the input x of the readout;
      ``loss`` defaults to the readout's own.
    - nn.Sequential or list of modules, ``batch = (x, y)``: ``stage(x)``, and ``loss(f_L(x), y)``, which gives a mean
      over the batch or (sum, count). Each item is one stage; nest an nn.Sequential to make several modules one stage.
    """

    def __init__(self, model: Any, batch: Any, loss: Callable[..., Any] | None = None) -> None:
        self.stages = stages_of(model)
        self.model, self.criterion = model, loss  # what was given; None is the readout's own loss
        if isinstance(model, Model):
            if not isinstance(batch, Batch):
                raise UsageError(f"{type(model).__name__} takes a neurons Batch, not {type(batch).__name__}")
            self.input: Tensor = batch.x
            self.target: Any = batch.y
            context = model.context(batch)
            context.keep_state = False
            readout_loss = loss or model.readout.loss
            self._call: Callable[[nn.Module, Tensor], Any] = lambda stage, x: stage(x, context)
            self._loss: Callable[[Tensor], Any] = lambda x: readout_loss(x, batch)
        else:
            self.input, self.target = _pair(batch)
            if loss is None:
                raise UsageError("a plain torch model needs loss=, for example torch.nn.functional.cross_entropy")
            plain, readout, size, target = loss, self.stages[-1], self.input.shape[0], self.target
            self._call = lambda stage, x: stage(x)
            self._loss = lambda x: _summed(plain(readout(x), target), size)
        if self.input.shape[0] == 0:
            raise UsageError("the batch is empty")
        self.parameters = trainable(self.stages)
        self._changes_input: dict[int, bool] = {}

    def __len__(self) -> int:
        return len(self.stages)

    def stage(self, index: int, x: Tensor) -> Tensor:
        """``f_index(x)`` for a hidden stage. x is left as it is; half precision under autocast comes out float32."""
        y = self._call(self.stages[index], self._given(index, x))
        if not isinstance(y, Tensor) or not y.is_floating_point():
            what = f"a {y.dtype} tensor" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            kind = type(self.stages[index]).__name__
            raise UsageError(f"stage {index + 1} ({kind}) returns {what}; a hidden stage returns one float tensor")
        if y.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(y.device.type):
            return y.float()
        return y

    def loss(self, x: Tensor) -> Loss:
        """The loss on the input x of the last stage, as sums."""
        return self._loss(self._given(len(self.stages) - 1, x))

    def _given(self, index: int, x: Tensor) -> Tensor:
        """x, or a copy where the stage would overwrite it."""
        if index not in self._changes_input:
            self._changes_input[index] = _works_in_place(self.stages[index])
        return x.clone() if self._changes_input[index] else x

    def fill(self, gradients: Iterable[Tensor | None]) -> None:
        """Set ``.grad`` of every trainable parameter, in the parameter's memory layout; None stands for zero.

        torch's fused optimisers read the memory of a gradient in order, whatever its strides (seen in 2.13 on CPU): a
        view would move the wrong weights, without a word. ``loss.backward()`` lays gradients out in the same way.
        """
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is None:
                parameter.grad = torch.zeros_like(parameter)
            elif gradient.stride() == parameter.stride():
                parameter.grad = gradient
            else:
                parameter.grad = torch.empty_like(parameter).copy_(gradient)


def trainable(stages: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The parameters of ``stages`` that require grad, each once."""
    return list({id(p): p for stage in stages for p in stage.parameters() if p.requires_grad}.values())


def _pair(batch: Any) -> tuple[Tensor, Any]:
    if isinstance(batch, Batch):
        return batch.x, batch.y
    if isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[0], Tensor):
        return batch[0], batch[1]
    raise UsageError(f"a plain torch model takes batch=(x, y), not {type(batch).__name__}")


def _summed(value: Any, size: int) -> Loss:
    if isinstance(value, Loss):
        return value
    if isinstance(value, tuple) and len(value) == 2:
        total, count = value
        return Loss(total, total.detach(), int(count))
    if isinstance(value, Tensor) and value.dim() == 0:
        return Loss(value * size, value.detach() * size, size)
    what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise UsageError(f"loss= returns {what}; it must return a mean over the batch or (sum, count)")


def _works_in_place(stage: nn.Module) -> bool:
    """nn.ReLU(inplace=True) and its like would overwrite the state they read."""
    return any(getattr(module, "inplace", False) for module in stage.modules())
