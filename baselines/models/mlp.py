"""A multilayer perceptron over the whole flattened sample."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from neurons import MODELS
from neurons.errors import UsageError, nearest
from neurons.model import Model
from neurons.readouts import LabelReadout
from neurons.specs import Context, InputSpec, OutputSpec, zero_masked

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "hard_sigmoid": nn.Hardsigmoid,
}


def build_activation(name: str) -> nn.Module:
    """The activation of that name; UsageError if there is none."""
    if name not in ACTIVATIONS:
        have = ", ".join(ACTIVATIONS)
        raise UsageError(f"activation is one of {have}, not {name!r}.{nearest(str(name), ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class Flatten(nn.Module):
    """The sample as one vector of ``input.length`` slots, zeros where there is nothing: (B, T, ...) -> (B, D)."""

    def __init__(self, input: InputSpec, *, embedding: int, width: int, activation: str) -> None:
        super().__init__()
        self.length = input.length
        self.embed = nn.Embedding(input.size, embedding) if input.kind == "tokens" else None
        self.linear = nn.Linear(input.length * (embedding if input.kind == "tokens" else input.size), width)
        self.activation = build_activation(activation)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows = x if self.embed is None else self.embed(x)
        missing = self.length - rows.shape[1]
        if missing < 0:
            raise UsageError(f"batch of {rows.shape[1]} steps, but the model holds {self.length}: raise input.length")
        rows = F.pad(zero_masked(rows, context.mask), (0, 0, 0, missing))
        return self.activation(self.linear(rows.flatten(1)))


class Hidden(nn.Module):
    """Dropout, linear, activation: (B, D) -> (B, D)."""

    def __init__(self, *, width: int, dropout: float, activation: str) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, width)
        self.activation = build_activation(activation)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.activation(self.linear(self.dropout(x)))

    def composition(self) -> tuple[nn.Module, ...]:
        """The modules that ``forward`` applies one after another, and nothing else; predictive coding has a fast path
        for these."""
        return self.dropout, self.linear, self.activation


class VectorReadout(LabelReadout):
    """The label readout for a state that has no token axis: dropout, linear, (B, D) -> (B, C).

    No norm: over one small vector its Jacobian is so large that settling would explain the label away in the state.
    """

    def __init__(self, *, width: int, classes: int, dropout: float) -> None:
        super().__init__(width=width, classes=classes, dropout=dropout)
        self.norm = nn.Identity()  # type: ignore[assignment]

    def pooled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x

    def composition(self) -> tuple[nn.Module, ...]:
        """As of ``Hidden``."""
        return self.dropout, self.linear


@MODELS.register("mlp")
class MLP(Model):
    """``layers`` hidden layers over the flattened sample; tokens enter as concatenated ``embedding``-wide vectors.

    Padding and missing steps are zeros in ``input.length`` fixed slots. Labels only: it reads the whole sample at once.
    """

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        width: int = 256,
        layers: int = 2,
        embedding: int = 16,
        dropout: float = 0.1,
        activation: Literal["gelu", "relu", "tanh", "hard_sigmoid"] = "gelu",
    ) -> None:
        super().__init__(input, output)
        if output.kind != "label":
            raise UsageError(f"model 'mlp' is not causal and cannot answer '{output.kind}'. Try: transformer")
        self.width, self.layers, self.embedding, self.dropout = width, layers, embedding, dropout
        self.activation = activation
        if layers < 1:
            raise UsageError(f"mlp needs at least one layer, not {layers}")
        first = Flatten(input, embedding=embedding, width=width, activation=activation)
        hidden = [Hidden(width=width, dropout=dropout, activation=activation) for _ in range(layers - 1)]
        readout = VectorReadout(width=width, classes=output.size, dropout=dropout)
        self.stages = nn.ModuleList([first, *hidden, readout])
