"""The network of the floor ``convolution``."""

from __future__ import annotations

from torch import Tensor, nn

from baselines.models.embedding import InputEmbedding
from neurons.model import Model
from neurons.readouts import build_readout
from neurons.specs import Context, InputSpec, OutputSpec, zero_masked


class Local(nn.Module):
    """GELU of a convolution over ``kernel`` steps, centred, zeros beyond the ends: (B, T, D) -> (B, T, D)."""

    def __init__(self, *, width: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, kernel, padding="same")
        self.activation = nn.GELU()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return zero_masked(self.activation(self.convolution(x.mT)).mT, context.mask)


class Convolution(Model):
    """Embedding, one convolution, mean, linear."""

    def __init__(self, *, input: InputSpec, output: OutputSpec, width: int, kernel: int) -> None:
        super().__init__(input, output)
        embedding = InputEmbedding(input, width=width)
        self.stages = nn.ModuleList([embedding, Local(width=width, kernel=kernel), build_readout(output, width=width)])
