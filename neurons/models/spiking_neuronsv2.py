"""NEURONSv2 with somas that emit spikes."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from neurons import ATTENTIONS, MODELS
from neurons.dendrites.layer import DendriticLayer
from neurons.errors import UsageError
from neurons.model import Model
from neurons.models.neuronsv2 import Circuit, start_small
from neurons.oscillations.embedding import TemporalEmbedding
from neurons.readouts import build_readout
from neurons.specs import Context, InputSpec, OutputSpec
from neurons.spiking.soma import SpikingSoma


class SpikingProjection(nn.Module):
    """What a circuit of spiking somas sends on: current (B, T, somas) -> (B, T, width), ``W spikes(I)``.

    Dendrites and attention are analogue, as in a neuron; what leaves a soma is a spike or nothing, so W only adds.
    """

    def __init__(self, soma: SpikingSoma, width: int) -> None:
        super().__init__()
        self.soma = soma
        self.slow = nn.Linear(soma.features, width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.slow(self.soma(x, context))


@MODELS.register("spiking_neuronsv2")
class SpikingNeuronsV2(Model):
    """NEURONSv2 whose somas spike: gamma-oscillation attention, dendrites, leaky integrate-and-fire somas.

    Stages: temporal embedding | a spiking circuit per layer | readout (mean pooling for labels, every step for tokens).
    One token is one step of ``dt`` seconds. The stream sums up what the spikes' synapses bring; there are no fast
    weights, so that what a soma drives hears spikes only. Learns through surrogate gradients, by backprop or stage by
    stage. Causal for next-token outputs; for labels the attention sees the whole sequence.

    width: D, channels of the stream.     layers: circuits.     somas: neurons per circuit, None = 2 D.
    branches: dendritic branches per soma and tree. Here they are four and leaky; neuronsv2 has one, with GELU.
    heads, kappa: of gamma attention; half of the heads have no rhythm.     dt: seconds per token.
    tau_mem: membrane time constant in seconds.     threshold: of the somas, in standard deviations of the current at
    the start.     surrogate: gradient of the spike, ``atan`` or ``fast_sigmoid``.
    dropout acts on what the attention brings, on each circuit's output and before the label readout, embedding_dropout
    on the embedding.

    Observables: ``circuit<i>.spikes.rate`` (B, somas) and ``circuit<i>.gamma.R``. Energy: neurons.spiking.energy.
    Parameters per circuit: 2 D S (dendrites) + S D (projection) and vectors; attention and somas have none.
    """

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        width: int = 128,
        layers: int = 2,
        somas: int | None = None,
        branches: int = 4,
        heads: int = 4,
        kappa: float = 4.0,
        dt: float = 0.001,
        tau_mem: float = 0.005,
        threshold: float = 1.0,
        surrogate: Literal["atan", "fast_sigmoid"] = "atan",
        dropout: float = 0.1,
        embedding_dropout: float = 0.1,
    ) -> None:
        super().__init__(input, output)
        self.width, self.layers, self.somas, self.branches = width, layers, somas, branches
        self.heads, self.kappa, self.dt, self.tau_mem, self.threshold = heads, kappa, dt, tau_mem, threshold
        self.surrogate, self.dropout, self.embedding_dropout = surrogate, dropout, embedding_dropout
        if layers < 1:
            raise UsageError(f"spiking_neuronsv2 needs at least one layer, not {layers}. Try: layers=2")
        if somas is not None and somas < 1:
            raise UsageError(
                f"spiking_neuronsv2 needs at least one soma, not {somas}. Try: somas=none, twice the width"
            )
        embedding = TemporalEmbedding(input, width=width, dropout=embedding_dropout, dt=dt)
        circuits = [self._circuit(index) for index in range(layers)]
        self.stages = nn.ModuleList([embedding, *circuits, build_readout(output, width=width, dropout=dropout)])

    def _circuit(self, index: int) -> Circuit:
        width, somas = self.width, self.somas or 2 * self.width
        attention = ATTENTIONS.build(
            "gamma",
            width=width,
            causal=self.is_causal,
            heads=self.heads,
            kappa=self.kappa,
            content_heads=self.heads // 2,
            dt=self.dt,
            label=f"circuit{index}.gamma",
        )
        dendrites = DendriticLayer(
            basal=width, somas=somas, apical=width, branches=self.branches, soma_activation="linear"
        )
        soma = SpikingSoma(
            somas,
            self.tau_mem,
            self.threshold,
            self.surrogate,
            f"circuit{index}.spikes",
            dt=self.dt,
            fan_out=width,
        )
        projection = SpikingProjection(soma, width)
        start_small(projection.slow, layers=self.layers)
        return Circuit(None, attention, dendrites, projection, width=width, dropout=self.dropout)
