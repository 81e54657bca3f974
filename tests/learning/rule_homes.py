"""For each rule a small model that it can train: most take any chain of stages, some need a certain kind."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pc_networks import TinyModel, tiny_batch
from torch import Tensor, nn

from neurons import MODELS
from neurons.model import Model
from neurons.readouts import LabelReadout
from neurons.specs import Batch, Context, InputSpec, OutputSpec


class Layer(nn.Module):
    """Dropout, linear, tanh over the whole sample."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout, self.linear, self.activation = nn.Dropout(dropout), nn.Linear(inputs, outputs), nn.Tanh()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.activation(self.linear(self.dropout(x.flatten(1))))


class VectorReadout(LabelReadout):
    """The label readout of a state that has no token axis."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.linear(self.dropout(self.norm(x)))


class Perceptron(Model):
    """Features (B, 6, 3), two tanh layers, label readout: linear layers and monotone activations only."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(InputSpec("features", 6, 3), OutputSpec("label", 3))
        layers = [Layer(18, 8, dropout), Layer(8, 8, dropout)]
        self.stages = nn.ModuleList([*layers, VectorReadout(width=8, classes=3)])


class Home(NamedTuple):
    model: Model
    batch: Batch  # of five samples
    weight: str  # a parameter that can be frozen


def home(rule: str, dropout: float = 0.0) -> Home:
    """Always the same for the same arguments; leaves the generator seeded."""
    torch.manual_seed(0)
    if rule in ("equilibrium-propagation", "forward-forward", "softhebb"):
        model: Model = Perceptron(dropout)
        batch, weight = Batch(torch.randn(5, 6, 3), torch.randint(0, 3, (5,))), "stages.1.linear.weight"
    elif rule == "e-prop":
        options = {"width": 16, "heads": 2, "dropout": dropout, "embedding_dropout": dropout}
        tokens, label = InputSpec("tokens", 6, 20), OutputSpec("label", 3)
        model = MODELS.build("spiking_neuronsv2", input=tokens, output=label, **options)
        matrices = [name for name, p in model.stages[1].named_parameters() if p.dim() > 1]
        batch, weight = tiny_batch(), f"stages.1.{matrices[0]}"
    else:
        model, batch, weight = TinyModel(dropout=dropout), tiny_batch(), "stages.1.up.weight"
    torch.manual_seed(1)
    return Home(model, batch, weight)
