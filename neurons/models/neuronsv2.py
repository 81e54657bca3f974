"""NEURONSv2: oscillating attention, dendritic neurons, weights on several timescales."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from neurons import ATTENTIONS, MODELS
from neurons.dendrites.delay_line import DelayLine
from neurons.dendrites.layer import DendriticLayer
from neurons.errors import UsageError
from neurons.model import Attention, Model
from neurons.oscillations.embedding import TemporalEmbedding
from neurons.plasticity.fast_slow import FastSlowLinear
from neurons.readouts import build_readout
from neurons.specs import Context, InputSpec, OutputSpec, zero_masked


class Circuit(nn.Module):
    """One cortical stage with its skip: (B, T, D) -> (B, T, D), zeros at masked positions.

        h = delay(norm(x)),   a = attention(h),   y = dendrites(basal = h, apical = a),   x + W y

    The delay line lets a dendrite hear the last few tokens. The attention brings what coherent tokens say; it reaches
    the somas through their apical synapses only. W projects the somas back to the stream: an ordinary (slow) matrix,
    plus, if asked, fast weights written by the sequence itself.
    """

    def __init__(
        self,
        delay: DelayLine | None,
        attention: Attention | None,
        dendrites: DendriticLayer,
        projection: nn.Module,
        *,
        width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.delay = delay
        self.attention = attention
        self.dendrites = dendrites
        self.projection = projection
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        h = self.norm(x)
        h = zero_masked(h, context.mask) if self.delay is None else self.delay(h, context)
        apical = None if self.attention is None else self.dropout(self.attention(h, context))
        y = self.projection(self.dendrites(h, apical), context)
        return zero_masked(x + self.dropout(y), context.mask)


@MODELS.register("neuronsv2")
class NeuronsV2(Model):
    """Gamma-oscillation attention, dendritic neurons and fast-slow weights, in stages that predictive coding can train.

    Stages: temporal embedding | one circuit per layer | readout (mean pooling for labels, every step for tokens).
    Causal for next-token outputs; for labels the attention sees the whole sequence.

    width: D, channels of the stream.     layers: circuits.     somas: dendritic neurons per circuit, None = 2 D.
    delay: taps of the dendritic delay line before each circuit, 0 = none.
    branches: dendritic branches per soma and tree, each with D / branches inputs of its own; activation: their
    nonlinearity (``linear`` leaves it to the apical gate: a product of what is here and what is elsewhere).
    apical_mode: where the attention's result acts: on the basal ``branch`` (both kinds of synapses share a branch and
    its nonlinearity), or through a tree of its own as a multiplicative ``gate`` of the soma or by ``add``.
    attention, heads: a registered attention, None for neither attention nor apical synapses. For ``gamma``: kappa
    (concentration of the coherence kernel), content_heads (heads without rhythm), split (queries and keys have phases
    of their own), leak and leak_longest (how far the heads look), and dt (seconds per token, of the embedding's clock
    too); another attention takes the defaults only, and resonators the input's length as their longest memory.
    phase_code: a registered phase code through which features in [0, 1] enter; None takes them as numbers.
    fast_rule: how the sequence writes the projection's fast weights: ``hebb``, ``delta``, ``rls`` or ``off``. tau_fast:
    their decay in seconds; fast_lag: 1 binds each token to the one before it, 0 what is active together; fast_keys:
    size of learned keys, None takes the somas; consolidate: adds the medium and slow timescales, which ``end_episode``
    writes.
    dropout acts on what the attention brings, on each circuit's output and before the label readout, embedding_dropout
    on the embedding; token_dropout is the share of tokens lost while training.

    Presets: ``tiny``; ``text`` (8 M parameters at a vocabulary of 16,384); ``language`` (10 M at 8,192); ``long`` for
    thousands of tokens; ``resonant``, in which half of the heads are damped resonators.

    Parameters per circuit: 2 D S (dendrites) + S D (projection) and vectors; the attention has none. With S = 2 D
    that is half of a transformer block's 12 D^2. Sources: see the parts.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"width": 32, "layers": 1, "heads": 2, "content_heads": 1},
        "text": {"width": 384, "layers": 4, "somas": 384, "dropout": 0.2, "embedding_dropout": 0.3},
        "language": {"width": 384, "layers": 6, "somas": 512, "fast_rule": "delta", "fast_keys": 64, "fast_lag": 1},
        "long": {"width": 128, "layers": 4, "heads": 8, "content_heads": 4},
        "resonant": {"attention": "gamma_resonator"},
    }
    ABLATIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "attention": {
            "attention": None, "heads": 4, "kappa": 4.0, "content_heads": 2, "split": False, "leak": None,
            "leak_longest": None, "apical_mode": "gate",
        },
        "rhythm": {"content_heads": "=heads"},
        "delay line": {"delay": 0},
        "apical gate": {"apical_mode": "add"},
        "fast weights": {"fast_rule": "off", "tau_fast": 0.1, "fast_lag": 0, "fast_keys": None, "consolidate": False},
    }  # fmt: skip

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        width: int = 128,
        layers: int = 2,
        somas: int | None = None,
        delay: int = 4,
        branches: int = 1,
        activation: Literal["leaky_relu", "gelu", "tanh", "linear"] = "gelu",
        apical_mode: Literal["branch", "gate", "add"] = "gate",
        attention: str | None = "gamma",
        heads: int = 4,
        kappa: float = 4.0,
        content_heads: int = 2,
        split: bool = False,
        leak: float | None = None,
        leak_longest: float | None = None,
        dt: float = 0.001,
        phase_code: str | None = None,
        fast_rule: Literal["hebb", "delta", "rls", "off"] = "off",
        tau_fast: float = 0.1,
        fast_lag: Literal[0, 1] = 0,
        fast_keys: int | None = None,
        consolidate: bool = False,
        dropout: float = 0.1,
        embedding_dropout: float = 0.1,
        token_dropout: float = 0.0,
    ) -> None:
        super().__init__(input, output)
        self.width, self.layers, self.somas, self.delay, self.branches = width, layers, somas, delay, branches
        self.activation, self.apical_mode, self.attention = activation, apical_mode, attention
        self.heads, self.kappa = heads, kappa
        self.content_heads, self.split, self.leak, self.leak_longest = content_heads, split, leak, leak_longest
        self.dt, self.phase_code, self.fast_rule, self.tau_fast = dt, phase_code, fast_rule, tau_fast
        self.fast_lag, self.fast_keys, self.consolidate = fast_lag, fast_keys, consolidate
        self.dropout, self.embedding_dropout, self.token_dropout = dropout, embedding_dropout, token_dropout
        if layers < 1:
            raise UsageError(f"neuronsv2 needs at least one layer, not {layers}")
        if somas is not None and somas < 1:
            raise UsageError(f"neuronsv2 needs at least one soma, not {somas}. Try: somas=none, twice the width")
        if fast_rule == "off":
            defaults = MODELS.entry("neuronsv2").defaults()
            for option in ("tau_fast", "fast_lag", "fast_keys", "consolidate"):
                if getattr(self, option) != defaults[option]:
                    raise UsageError(f"{option} is about fast weights, and fast_rule is 'off'. Try: fast_rule='delta'")
        embedding = TemporalEmbedding(
            input, width=width, dropout=embedding_dropout, token_dropout=token_dropout, dt=dt, code=phase_code
        )
        circuits = [self._circuit(index) for index in range(layers)]
        self.stages = nn.ModuleList([embedding, *circuits, build_readout(output, width=width, dropout=dropout)])

    def _circuit(self, index: int) -> Circuit:
        width, somas = self.width, self.somas or 2 * self.width
        dendrites = DendriticLayer(
            basal=width,
            somas=somas,
            apical=0 if self.attention is None else width,
            branches=self.branches,
            apical_mode=self.apical_mode,
            activation=self.activation,
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
                lag=self.fast_lag,
                keys=self.fast_keys,
                consolidate=self.consolidate,
                dt=self.dt,
                label=f"circuit{index}.fast",
            )
        start_small(projection.slow, layers=self.layers)
        delay = None
        if self.delay:
            delay = DelayLine(width=width, taps=self.delay, causal=self.is_causal, label=f"circuit{index}.delay")
        attention = self._attention(index)
        return Circuit(delay, attention, dendrites, projection, width=width, dropout=self.dropout)

    def end_episode(self) -> None:
        """Consolidates the fast weights of every circuit; see ``FastSlowLinear.end_episode``."""
        for module in self.modules():
            if isinstance(module, FastSlowLinear):
                module.end_episode()

    def _attention(self, index: int) -> Attention | None:
        if self.attention is None:
            defaults = MODELS.entry("neuronsv2").defaults()
            for option in ("heads", "kappa", "content_heads", "split", "leak", "leak_longest", "apical_mode"):
                if getattr(self, option) != defaults[option]:
                    raise UsageError(f"{option} is about the attention, and there is none: leave it at its default")
            return None
        known = {option.name for option in ATTENTIONS.entry(self.attention).options}
        asked: dict[str, object] = {
            "heads": self.heads,
            "kappa": self.kappa,
            "content_heads": self.content_heads,
            "split": self.split,
            "leak": self.leak,
            "leak_longest": self.leak_longest,
            "dt": self.dt,
        }
        defaults = MODELS.entry("neuronsv2").defaults()
        for key, value in asked.items():
            if key not in known and value != defaults[key] and key != "dt":
                raise UsageError(f"attention '{self.attention}' has no option '{key}': leave it at {defaults[key]}")
        options: dict[str, object] = {key: value for key, value in asked.items() if key in known}
        if "longest" in known:  # with memories that outlast the input, resonators all start alike
            options["longest"] = self.input.length * self.dt
        if "label" in known:
            options["label"] = f"circuit{index}.{self.attention}"
        return ATTENTIONS.build(self.attention, width=self.width, causal=self.is_causal, **options)


def start_small(branch: nn.Linear, *, layers: int) -> None:
    """A residual branch starts small: depth does not blow up the stream (as in GPT-2), and the circuit's Jacobian
    stays near the identity, so that settling converges (largest curvature 5; 24 with branches of unit variance)."""
    nn.init.normal_(branch.weight, std=0.25 / math.sqrt(2 * layers * branch.in_features))
    nn.init.zeros_(branch.bias)


class SlowLinear(nn.Module):
    """The projection without fast weights: an ordinary linear map under the same call."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.slow = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.slow(x)
