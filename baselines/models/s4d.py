"""S4D: a diagonal state space per channel, trained as a long convolution."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.models.embedding import InputEmbedding
from neurons import MODELS
from neurons.errors import UsageError
from neurons.model import Attention, Model
from neurons.ops.long_convolution import long_convolution
from neurons.readouts import build_readout
from neurons.specs import Context, InputSpec, OutputSpec, zero_masked

FINE = 64  # lags in the finer table; one number for every length, so that a kernel is the same in all


class DiagonalStateSpace(Attention):
    """Every channel through a state space of its own, O(T log T): (B, T, width) -> (B, T, width).

        h' = A h + x,   y = 2 Re C h + D x,    K_t = 2 Re sum_n C_n (exp(delta A_n) - 1) / A_n exp(delta A_n t)

    A_n = -exp(a_n) + i b_n starts as S4D-Lin, -1/2 + i pi n; the step delta of a channel is drawn in equal ratios from
    .001 to .1; B = 1 and C is normal. Not causal: a second C for the kernel that looks ahead. The map is linear in x.

    states: N / 2, conjugate pairs per channel.
    Parameters: width (2 + 4 states), and 2 width states more when not causal. Source: Gu et al. 2022, "On the
    Parameterization and Initialization of Diagonal State Space Models".
    """

    name: ClassVar[str] = "s4d"
    reads_content: ClassVar[bool] = False

    def __init__(self, *, width: int, causal: bool, states: int = 32) -> None:
        super().__init__()
        if states < 1:
            raise UsageError(f"attention 's4d' needs one state or more, not states={states}. Try: states=32")
        self.width, self.is_causal, self.states = width, causal, states
        self.step = nn.Parameter(torch.empty(width).uniform_(math.log(0.001), math.log(0.1)))
        # kept flat, since weights of one dimension never decay, and poles must not
        self.decay = nn.Parameter(torch.full((width * states,), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(states).float().repeat(width))
        self.readout = nn.Parameter(torch.randn(1 if causal else 2, 2, width, states) * 0.5**0.5)
        self.skip = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        self.whole_sequence(context)
        with torch.autocast(x.device.type, enabled=False):
            heard = zero_masked(x, context.mask).to(self.skip.dtype)
            kernels = self.kernels(x.shape[1])
            behind = None if self.is_causal else kernels[1][:, :-1]
            mixed = long_convolution(heard.transpose(1, 2), kernels[0], behind).transpose(1, 2)
            out = torch.addcmul(mixed, heard, self.skip)
        return zero_masked(out.to(x.dtype), context.mask)

    def kernels(self, steps: int) -> Tensor:
        """(directions, width, steps). Lags are a product of two short factors, ``z^(t0 + t1) = z^t0 z^t1``, so that no
        table of width x states x steps is ever made."""
        delta = self.step.exp()[:, None]
        rate, turn = self.decay.exp().view(self.width, -1), self.frequency.view(self.width, -1)
        size = min(steps, FINE)
        fine = _exponential(rate * delta, turn * delta, torch.arange(size, device=delta.device))
        coarse = _exponential(rate * delta, turn * delta, size * torch.arange(-(-steps // size), device=delta.device))
        # (exp(delta A) - 1) / A, what one step of constant input leaves
        re, im = _exponential(rate * delta, turn * delta, torch.ones(1, device=delta.device))
        re, im = re[..., 0] - 1, im[..., 0]
        norm = rate.square() + turn.square()
        held = (turn * im - rate * re) / norm, -(rate * im + turn * re) / norm
        made = []
        for c_re, c_im in self.readout:
            w_re, w_im = c_re * held[0] - c_im * held[1], c_re * held[1] + c_im * held[0]
            left_re = w_re[..., None] * coarse[0] - w_im[..., None] * coarse[1]
            left_im = w_re[..., None] * coarse[1] + w_im[..., None] * coarse[0]
            left = torch.cat([left_re, -left_im], 1).transpose(1, 2)  # (width, coarse, 2 states)
            made.append(2 * torch.bmm(left, torch.cat(fine, 1)).flatten(1)[:, :steps])
        return torch.stack(made)


def _exponential(rate: Tensor, turn: Tensor, lag: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of ``exp((-rate + i turn) lag)``: (width, states) and (L,) -> (width, states, L)."""
    size, angle = torch.exp(-rate[..., None] * lag), turn[..., None] * lag
    return size * angle.cos(), size * angle.sin()


class StateSpaceBlock(nn.Module):
    """``x + GLU(gelu(s4d(norm(x))))``: (B, T, D) -> (B, T, D), zeros at masked positions."""

    def __init__(self, mixer: Attention, *, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mixer = mixer
        self.mixing = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        y = self.dropout(F.gelu(self.mixer(self.norm(x), context)))
        return zero_masked(x + self.dropout(F.glu(self.mixing(y), -1)), context.mask)


@MODELS.register("s4d")
class S4D(Model):
    """Diagonal state spaces, pre-norm, with a gated linear layer in every block.

    Causal for next-token outputs, both directions with mean pooling for labels. ``states`` conjugate pairs per channel;
    ``dropout`` acts within and after each block and before the label readout, ``embedding_dropout`` on the embeddings.
    Parameters per block: 2 width^2 + width (4 states + 6), and 2 width states more for labels.
    Source: Gu et al. 2022 (S4D-Lin).
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"lra": {"width": 128, "layers": 6}}

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        width: int = 128,
        layers: int = 2,
        states: int = 32,
        dropout: float = 0.1,
        embedding_dropout: float = 0.1,
    ) -> None:
        super().__init__(input, output)
        self.width, self.layers, self.states = width, layers, states
        self.dropout, self.embedding_dropout = dropout, embedding_dropout
        if layers < 1:
            raise UsageError(f"s4d needs at least one layer, not {layers}")
        embedding = InputEmbedding(input, width=width, dropout=embedding_dropout)
        blocks = [
            StateSpaceBlock(
                DiagonalStateSpace(width=width, causal=self.is_causal, states=states), width=width, dropout=dropout
            )
            for _ in range(layers)
        ]
        self.stages = nn.ModuleList([embedding, *blocks, build_readout(output, width=width, dropout=dropout)])
