"""The output error, sent straight to every hidden stage through fixed random matrices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from learning.chain import Chain
from learning.rules.asymmetric import WEIGHT_LAYERS
from learning.rules.cut import Cut
from neurons.errors import UsageError
from neurons.model import Model
from neurons.specs import IGNORE, Batch


class Broadcast:
    """Random matrices B_l (outputs K, width of stage l), N(0, 1 / width), drawn by (seed, l) when a stage is first met.

        signal_l = e B_l,    e = d(loss / count) / d output, (B, K), or a row per counted token

    The output is that of the readout, or of its last Linear or convolutional layer where the readout does not call
    itself. In one of our models the width is the last axis of the stage's state; what lies between it and the batch
    (tokens, streams) shares B_l. An error per token goes to that token; an error per sample is spread evenly over the
    real tokens, as the gradient of a mean over them would be. In a plain model every unit of a stage has its own
    column. Masked tokens get zeros.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.matrices: dict[str, Tensor] = {}

    def matrix(self, index: int, outputs: int, width: int, like: Tensor) -> Tensor:
        known = self.matrices.get(str(index))
        if known is None:
            generator = torch.Generator().manual_seed(self.seed + 7919 * (index + 1))
            known = (torch.randn(outputs, width, generator=generator) / width**0.5).to(like)
            self.matrices[str(index)] = known
        if known.shape != (outputs, width):
            raise UsageError(
                f"the feedback matrix of stage {index + 1} is {tuple(known.shape)}, but this model needs "
                f"{(outputs, width)}: it belongs to another model. Call rule.prepare(model)"
            )
        return known.to(like)

    def signal(self, cut: Cut, index: int, error: Tensor, model: Any, batch: Any) -> Tensor:
        """What reaches ``cut.outputs[index]``."""
        state = cut.outputs[index]
        if not isinstance(model, Model):
            return (error.flatten(1) @ self.matrix(index, error[0].numel(), state[0].numel(), state)).view_as(state)
        found = error @ self.matrix(index, error.shape[-1], state.shape[-1], state)
        signal = torch.zeros_like(state) if state.dim() > 2 else found
        if state.dim() > 2:
            middle = [1] * (state.dim() - 3)
            streams = max(state[0, 0].numel() // state.shape[-1], 1)
            if model.output.kind == "token":
                rows = found.view(len(found), *middle, -1) / streams
                signal[counted(batch)] = rows.expand(-1, *state.shape[2:])
            else:
                real = torch.ones(state.shape[:2], device=state.device) if batch.mask is None else batch.mask
                share = real.to(found) / real.sum(1, keepdim=True).clamp_min(1) / streams
                signal = signal + share.view(*share.shape, *middle, 1) * found.view(len(found), 1, *middle, -1)
        return signal


def counted(batch: Batch) -> Tensor:
    """(B, T) bool: the targets that a token readout counts, in the order of its rows."""
    target = batch.y if batch.mask is None else batch.y.masked_fill(~batch.mask, IGNORE)
    return target != IGNORE


@contextmanager
def output_of(readout: nn.Module) -> Iterator[list[Tensor]]:
    """Fills the list with what the readout answers inside; by rows, if it answers in slices."""
    calls: list[tuple[nn.Module, Tensor]] = []
    outputs: list[Tensor] = []
    watched = {id(m): m for m in readout.modules() if m is readout or isinstance(m, WEIGHT_LAYERS)}
    handles = [
        module.register_forward_hook(lambda module, arguments, output: calls.append((module, output)))
        for module in watched.values()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
    if calls:
        outputs += [output for module, output in calls if module is calls[-1][0]]


def cut_with_output(chain: Chain) -> tuple[Cut, list[Tensor]]:
    """The forward pass, and the readout's output on its graph."""
    with output_of(chain.stages[-1]) as outputs:
        cut = Cut(chain)
    if not outputs or not all(output.requires_grad for output in outputs):
        raise UsageError(
            f"the readout ({type(chain.stages[-1]).__name__}) calls no Linear or convolutional layer that learns, so "
            "there is no output error to send. Try rule feedback-alignment"
        )
    return cut, outputs


def output_error(cut: Cut, outputs: list[Tensor]) -> Tensor:
    """e = d(loss / count) / d output, rows joined."""
    errors = torch.autograd.grad(cut.loss.objective, outputs, retain_graph=True)
    return torch.cat([error.detach() for error in errors]) / cut.count
