"""NEURONSv2: oscillating attention, dendritic neurons, weights on several timescales."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from neurons import ATTENTIONS, MODELS
from neurons.dendrites.layer import DendriticLayer
from neurons.errors import UsageError
from neurons.model import Attention, Model
from neurons.oscillations.embedding import TemporalEmbedding
from neurons.plasticity.fast_slow import FastSlowLinear
from neurons.readouts import build_readout
from neurons.specs import Context, InputSpec, OutputSpec, zero_masked


class Circuit(nn.Module):
    """One cortical stage with its skip: (B, T, D) -> (B, T, D), zeros at masked positions.

        h = norm(x),   a = attention(h),   y = dendrites(basal = h, apical = a),   x + W y

    The attention brings what coherent tokens say; it reaches the somas through their apical branches only. W projects
    the somas back to the stream: an ordinary (slow) matrix, plus fast weights written by the sequence itself.
    """

    def __init__(
        self, attention: Attention, dendrites: DendriticLayer, projection: nn.Module, *, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = attention
        self.dendrites = dendrites
        self.projection = projection
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        h = zero_masked(self.norm(x), context.mask)
        y = self.projection(self.dendrites(h, self.attention(h, context)), context)
        return zero_masked(x + self.dropout(y), context.mask)


@MODELS.register("neuronsv2")
class NeuronsV2(Model):
    """Gamma-oscillation attention, dendritic neurons and fast-slow weights, in stages that predictive coding can train.

    Stages: temporal embedding | one circuit per layer | readout (mean pooling for labels, every step for tokens).
    Causal for next-token outputs; for labels the attention sees the whole sequence.

    width: D, channels of the stream.     layers: circuits.     somas: dendritic neurons per circuit, None = 2 D.
    branches: dendritic branches per soma and tree, each with D / branches inputs of its own.
    apical_mode: how the attention acts on the somas, as a multiplicative ``gate`` or by ``add``.
    attention, heads: a registered attention. For ``gamma``: kappa (concentration of the coherence kernel),
    content_heads (heads without rhythm) and dt (seconds per token, of the embedding's clock too); another attention
    takes the defaults only.
    phase_code: a registered phase code through which features in [0, 1] enter; None takes them as numbers.
    fast_rule: how the sequence writes the projection's fast weights: ``hebb``, ``delta`` or ``off``;
    tau_fast: their decay in seconds.
    dropout acts on each circuit's output and before the label readout, embedding_dropout on the embedding.

    Parameters per circuit: 2 D S (dendrites) + S D (projection) and vectors; the attention has none. With S = 2 D
    that is half of a transformer block's 12 D^2. Sources: see the parts.
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
        apical_mode: Literal["gate", "add"] = "gate",
        attention: str = "gamma",
        heads: int = 4,
        kappa: float = 4.0,
        content_heads: int = 2,
        dt: float = 0.001,
        phase_code: str | None = None,
        fast_rule: Literal["hebb", "delta", "off"] = "hebb",
        tau_fast: float = 0.1,
        dropout: float = 0.1,
        embedding_dropout: float = 0.1,
    ) -> None:
        super().__init__(input, output)
        self.width, self.layers, self.somas, self.branches, self.apical_mode = (
            width,
            layers,
            somas,
            branches,
            apical_mode,
        )
        self.attention, self.heads, self.kappa, self.content_heads, self.dt = attention, heads, kappa, content_heads, dt
        self.fast_rule, self.tau_fast, self.dropout, self.embedding_dropout = (
            fast_rule,
            tau_fast,
            dropout,
            embedding_dropout,
        )
        self.phase_code = phase_code
        if layers < 1:
            raise UsageError(f"neuronsv2 needs at least one layer, not {layers}")
        if fast_rule == "off" and tau_fast != MODELS.entry("neuronsv2").defaults()["tau_fast"]:
            raise UsageError("tau_fast is the decay of fast weights, and fast_rule is 'off': leave it at its default")
        embedding = TemporalEmbedding(input, width=width, dropout=embedding_dropout, dt=dt, code=phase_code)
        circuits = [self._circuit(index) for index in range(layers)]
        self.stages = nn.ModuleList([embedding, *circuits, build_readout(output, width=width, dropout=dropout)])

    def _circuit(self, index: int) -> Circuit:
        width, somas = self.width, self.somas or 2 * self.width
        dendrites = DendriticLayer(
            basal=width,
            somas=somas,
            apical=width,
            branches=self.branches,
            apical_mode=self.apical_mode,
            soma_activation="linear",
        )
        projection: FastSlowLinear | SlowLinear
        if self.fast_rule == "off":
            projection = SlowLinear(somas, width)
        else:
            projection = FastSlowLinear(
                in_features=somas,
                out_features=width,
                rule=self.fast_rule,
                tau_fast=self.tau_fast,
                dt=self.dt,
                label=f"circuit{index}.fast",
            )
        # A residual branch starts small: depth does not blow up the stream (as in GPT-2), and the circuit's Jacobian
        # stays near the identity, so that settling converges (largest curvature 5; 24 with branches of unit variance).
        with torch.no_grad():
            projection.slow.weight.normal_(std=0.25 / math.sqrt(2 * self.layers * somas))
            projection.slow.bias.zero_()
        return Circuit(self._attention(index), dendrites, projection, width=width, dropout=self.dropout)

    def _attention(self, index: int) -> Attention:
        known = {option.name for option in ATTENTIONS.entry(self.attention).options}
        asked: dict[str, object] = {
            "heads": self.heads,
            "kappa": self.kappa,
            "content_heads": self.content_heads,
            "dt": self.dt,
        }
        defaults = MODELS.entry("neuronsv2").defaults()
        for key, value in asked.items():
            if key not in known and value != defaults[key] and key != "dt":
                raise UsageError(f"attention '{self.attention}' has no option '{key}': leave it at {defaults[key]}")
        options: dict[str, object] = {key: value for key, value in asked.items() if key in known}
        if "label" in known:
            options["label"] = f"circuit{index}.{self.attention}"
        return ATTENTIONS.build(self.attention, width=self.width, causal=self.is_causal, **options)


class SlowLinear(nn.Module):
    """The projection without fast weights: an ordinary linear map under the same call."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.slow = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.slow(x)
