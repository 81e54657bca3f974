"""Receptive-field ablation: a model that sees its sequence in windows, and nothing beyond one.

"Long range" may be claimed where a model loses by this, and only there: a convolution over five tokens reaches 98 % of
the best published accuracy on the text tasks of Long Range Arena.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.model import Model
from neurons.pairs import FoldedPairs, PairReadout
from neurons.readouts import LabelReadout
from neurons.specs import Batch, Context, Loss


@dataclass
class Windows(Context):
    """The context of windows: ``mask`` (B W, K) is theirs, ``whole`` (B, W K) that of the tokens they were cut from."""

    whole: Tensor | None = None


class Blind(Model):
    """``inner`` on windows of ``beyond`` tokens that do not know of each other: (B, T) -> (B ceil(T / K), K).

    Windows are folded into the batch before the first stage and laid side by side again before the readout, which
    pools over all tokens as ever. Positions start anew in every window. So whatever the answer rests on lies within
    K tokens of each other, but for the mean over the windows and, of pairs, the comparison of two such means. Labels
    only: UsageError for models that predict tokens.
    """

    def __init__(self, inner: Model, *, beyond: int) -> None:
        super().__init__(inner.input, inner.output)
        if inner.output.kind != "label":
            raise UsageError("a model that predicts tokens cannot be blinded: its context is the task's. Leave it out")
        if beyond < 1:
            raise UsageError(f"a window holds at least one token, not {beyond}")
        first, *middle, last = inner.stages
        if not isinstance(last, LabelReadout | PairReadout) or not _takes_any_length(inner, beyond):
            raise UsageError(f"model '{inner.name}' reads whole sequences of one length, so it cannot be blinded")
        self.beyond, self.name, self.width_option = beyond, inner.name, inner.width_option  # type: ignore[misc]
        setattr(self, inner.width_option, getattr(inner, inner.width_option))
        self._inner = [inner]  # in a list, so that its stages are registered once
        cut = FoldedPairs(_Cut(first.stage, beyond)) if isinstance(first, FoldedPairs) else _Cut(first, beyond)
        # past the model, which would make the chain one for pairs again
        nn.Module.__setattr__(self, "stages", nn.ModuleList([cut, *middle, _Joined(last)]))

    def end_episode(self) -> None:
        """What the inner model does at an episode's end."""
        self._inner[0].end_episode()

    def context(self, batch: Batch) -> Context:
        whole = _filled(_real(batch, self.input.pair), self.beyond, False)
        return Windows(mask=whole.view(-1, self.beyond), whole=whole)


class _Cut(nn.Module):
    """A first stage whose input is cut into windows."""

    def __init__(self, stage: nn.Module, size: int) -> None:
        super().__init__()
        self.stage, self.size = stage, size

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = _filled(x, self.size, 0)  # masked, so any symbol will do
        return self.stage(x.reshape(-1, self.size, *x.shape[2:]), context)


class _Joined(nn.Module):
    """A readout of whole sequences."""

    def __init__(self, readout: LabelReadout | PairReadout) -> None:
        super().__init__()
        self.readout = readout

    def forward(self, x: Tensor, context: Context) -> Tensor:
        assert isinstance(context, Windows)
        assert context.whole is not None
        return self.readout(x.reshape(len(context.whole), -1, x.shape[-1]), Context(mask=context.whole))

    def loss(self, x: Tensor, batch: Batch) -> Loss:
        pair = isinstance(self.readout, PairReadout)
        mask = _real(batch, pair)
        joined = x.reshape(len(mask), -1, x.shape[-1])
        whole = F.pad(mask, (0, joined.shape[1] - mask.shape[1]), value=False)
        return self.readout.loss(joined, Batch(batch.x, batch.y, whole.unflatten(0, (-1, 2)) if pair else whole))


def _real(batch: Batch, pair: bool) -> Tensor:
    """(B, T) bool, True where a token is real; of pairs (2B, T), as the first stage folds them."""
    shape = batch.x.shape[: 3 if pair else 2]
    mask = torch.ones(shape, dtype=torch.bool, device=batch.x.device) if batch.mask is None else batch.mask
    return mask.flatten(0, 1) if pair else mask


def _takes_any_length(model: Model, length: int) -> bool:
    """Whether the stages before the readout turn ``length`` tokens into as many states."""
    spec = model.input
    sequences = (1, 2) if spec.pair else (1,)
    x = torch.zeros(*sequences, length, dtype=torch.int64)
    x = x if spec.kind == "tokens" else x[..., None].expand(*x.shape, spec.size).float()
    context = Context()
    try:
        with torch.no_grad():
            for stage in list(model.stages)[:-1]:
                x = stage(x, context)
    except RuntimeError:
        return False
    return x.shape[:2] == (sequences[-1], length)


def _filled(x: Tensor, size: int, value: int | bool) -> Tensor:
    """x (B, T, ...) with whole windows: T is filled up to a multiple of ``size``."""
    missing = -x.shape[1] % size
    return F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing), value=value) if missing else x
