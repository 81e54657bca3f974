"""A deep residual multilayer perceptron over the whole flattened sample, one stage per block."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from baselines.models.mlp import Flatten, VectorReadout, build_activation
from neurons import MODELS
from neurons.errors import UsageError
from neurons.model import Model
from neurons.specs import Context, InputSpec, OutputSpec


class ResidualBlock(nn.Module):
    """``x + W activation(x) + b``: (B, D) -> (B, D)."""

    def __init__(self, *, width: int, activation: str) -> None:
        super().__init__()
        self.activation = build_activation(activation)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return x + self.linear(self.activation(x))


@MODELS.register("residual_mlp")
class ResidualMLP(Model):
    """A linear map of the flattened sample, ``layers`` blocks ``x + W activation(x)``, a linear readout.

    For learning rules that must carry an error through many stages. Every block's weights start small, at
    1 / sqrt(``layers``) of torch's own, so that the stream keeps its variance at any depth; under
    ``rule.parametrisation=mupc`` the rule replaces that by its own scales, and wants a learning rate about
    sqrt(``width``) times larger with Adam, whose step does not shrink with the scale. Labels only; padding and missing
    steps are zeros.
    """

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        width: int = 128,
        layers: int = 32,
        embedding: int = 16,
        activation: Literal["gelu", "relu", "tanh", "hard_sigmoid"] = "relu",
    ) -> None:
        super().__init__(input, output)
        if output.kind != "label":
            raise UsageError(f"model 'residual_mlp' is not causal and cannot answer '{output.kind}'. Try: transformer")
        self.width, self.layers, self.embedding, self.activation = width, layers, embedding, activation
        if layers < 1:
            raise UsageError(f"residual_mlp needs at least one layer, not {layers}")
        first = Flatten(input, embedding=embedding, width=width, activation=activation)
        first.activation = nn.Identity()  # the blocks begin with theirs
        blocks = [ResidualBlock(width=width, activation=activation) for _ in range(layers)]
        for block in blocks:
            block.linear.weight.data.div_(layers**0.5)
            nn.init.zeros_(block.linear.bias)
        readout = VectorReadout(width=width, classes=output.size, dropout=0.0)
        self.stages = nn.ModuleList([first, *blocks, readout])
