"""Resonance network: banks of damped resonators between token-wise layers, O(n) in the length."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from neurons import ATTENTIONS, MODELS
from neurons.dendrites.layer import DendriticLayer
from neurons.errors import UsageError
from neurons.model import Attention, Model
from neurons.models.neuronsv2 import start_small
from neurons.oscillations.embedding import TemporalEmbedding
from neurons.readouts import build_readout
from neurons.specs import Context, InputSpec, OutputSpec, zero_masked


class GatedUnits(nn.Module):
    """``a(x) * silu(b(x))``, two linear maps in one: (..., width) -> (..., hidden). Source: Shazeer 2020."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.expand(x).chunk(2, -1)
        return value * F.silu(gate)


class ResonanceBlock(nn.Module):
    """``x + W units(mixer(norm(x)))``: (B, T, D) -> (B, T, D), zeros at masked positions.

    One residual for both: the resonators bring what was, the units join it with what is (the mixer's direct path).
    """

    def __init__(self, mixer: Attention, units: nn.Module, *, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mixer = mixer
        self.units = units
        self.contract = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        y = self.contract(self.units(self.mixer(self.norm(x), context)))
        return zero_masked(x + self.dropout(y), context.mask)


@MODELS.register("resonance_net")
class ResonanceNet(Model):
    """Damped resonator banks as the only way across time, gated or dendritic units across channels.

    Stages: embedding | one block per layer | readout (mean pooling for labels, every step for tokens). Causal for
    next-token outputs, where it decodes with a state of fixed size; both directions for labels. Frequencies are in Hz
    and time constants in seconds, so that a model trained at n tokens runs at 4n and at any other length.

    width: D, channels of the stream.     layers: blocks.
    mixer: ``resonator``, or ``spectral``, a global filter over physical frequencies (labels only).
    modes: resonators, or knots of the filter's spectrum, per block.     dt: seconds per token.
    longest: slowest time constant (s), None = the input's length; time constants start in equal ratios from dt to it.
    cycles: oscillations within a time constant, 0 .. cycles at the start; 0 = leaky integrators.
    gated: the tokens choose which resonators they drive.
    mixing: ``glu`` or ``dendrites`` (four branches a soma).     hidden: units per block, None = D.
    dropout acts on each block's output and before the label readout, embedding_dropout on the embedding; token_dropout
    is the share of tokens lost while training.

    Presets: ``original``, 768 x 6 with 64 frequencies (4.8 M parameters per-token, without the table); ``tiny``;
    ``long`` for thousands of tokens.
    Parameters per block: of the mixer, 3 D hidden (glu) or 2 D hidden (dendrites), and vectors.
    Sources: Izhikevich 2001; Gu et al. 2022 (S4D); Orvieto et al. 2023 (LRU); Rao et al. 2021 (GFNet).
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "original": {"width": 768, "layers": 6, "modes": 64, "hidden": 256},
        "tiny": {"width": 32, "layers": 1, "modes": 16},
        "long": {"width": 128, "layers": 6, "modes": 128, "dropout": 0.05},
    }
    ABLATIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "oscillation": {"cycles": 0.0},
        "selection": {"gated": False},
        "long memory": {"longest": 0.004},
    }

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        width: int = 128,
        layers: int = 2,
        mixer: Literal["resonator", "spectral"] = "resonator",
        modes: int = 64,
        dt: float = 0.001,
        longest: float | None = None,
        cycles: float = 4.0,
        gated: bool = True,
        mixing: Literal["glu", "dendrites"] = "glu",
        hidden: int | None = None,
        dropout: float = 0.1,
        embedding_dropout: float = 0.1,
        token_dropout: float = 0.0,
    ) -> None:
        super().__init__(input, output)
        self.width, self.layers, self.mixer, self.modes, self.dt = width, layers, mixer, modes, dt
        self.longest, self.cycles, self.gated, self.mixing, self.hidden = longest, cycles, gated, mixing, hidden
        self.dropout, self.embedding_dropout, self.token_dropout = dropout, embedding_dropout, token_dropout
        if layers < 1:
            raise UsageError(f"resonance_net needs at least one layer, not {layers}")
        if hidden is not None and hidden < 1:
            raise UsageError(f"resonance_net needs at least one hidden unit, not {hidden}. Try: hidden=none, the width")
        if mixer not in ("resonator", "spectral"):
            raise UsageError(f"resonance_net has no mixer '{mixer}'. Try: resonator, spectral")
        if mixing not in ("glu", "dendrites"):
            raise UsageError(f"resonance_net has no mixing '{mixing}'. Try: glu, dendrites")
        embedding = TemporalEmbedding(input, width=width, dropout=embedding_dropout, token_dropout=token_dropout, dt=dt)
        blocks = [self._block(index) for index in range(layers)]
        self.stages = nn.ModuleList([embedding, *blocks, build_readout(output, width=width, dropout=dropout)])

    def _block(self, index: int) -> ResonanceBlock:
        width, hidden = self.width, self.hidden or self.width
        units: nn.Module
        if self.mixing == "glu":
            units = GatedUnits(width, hidden)
        else:
            units = DendriticLayer(basal=width, somas=hidden, soma_activation="linear")
        block = ResonanceBlock(self._mixer(index), units, width=width, hidden=hidden, dropout=self.dropout)
        start_small(block.contract, layers=self.layers)
        return block

    def _mixer(self, index: int) -> Attention:
        longest = self.input.length * self.dt if self.longest is None else self.longest
        options: dict[str, object] = {"modes": self.modes, "dt": self.dt, "longest": longest}
        if self.mixer == "resonator":
            options |= {"cycles": self.cycles, "gated": self.gated, "label": f"block{index}.resonator"}
        else:
            defaults = MODELS.entry("resonance_net").defaults()
            for option in ("cycles", "gated"):
                if getattr(self, option) != defaults[option]:
                    raise UsageError(f"{option} is about resonators: leave it at its default, or mixer='resonator'")
        return ATTENTIONS.build(self.mixer, width=self.width, causal=self.is_causal, **options)
