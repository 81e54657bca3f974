"""NeuroManifold GPT: a transformer with excitable attention, sparse codes, streams and projections, each removable."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from torch import nn

from neurons import ATTENTIONS, MODELS, POSITIONS
from neurons.errors import UsageError
from neurons.manifold.block import Gated, ManifoldBlock, Streams
from neurons.manifold.engram import SDREngramMemory
from neurons.manifold.feed_forward import KINDS, feed_forward
from neurons.manifold.fhn_propagation import FHNPropagation
from neurons.manifold.hyper_connections import HyperConnection
from neurons.manifold.layer_aggregation import RunningAggregation
from neurons.manifold.metric import ManifoldChain, MetricAttention
from neurons.manifold.plan import per_layer, some_layers
from neurons.manifold.semantic_folding import SemanticFolding
from neurons.manifold.token_embedding import STD, PositionedEmbedding, language_readout
from neurons.model import Attention, Model
from neurons.specs import InputSpec, OutputSpec

VARIANTS: dict[str, Literal["plain", "sinkhorn", "permutations"]] = {
    "hc": "plain", "mhc": "sinkhorn", "mhc-lite": "permutations",
}  # fmt: skip
PROJECTIONS = ("project", "query", "compress", "key", "value")  # maps of an attention that start as GPT-2's do


@MODELS.register("neuromanifold_gpt")
class NeuroManifoldGPT(Model):
    """A pre-norm transformer with the NeuroManifold modules in and beside its blocks, each with a gate that is 0 at the
    start: until training opens them it computes what ``gpt`` computes.

    Stages: embedding | one block per layer | readout. Causal for next-token outputs; for labels every token sees all.

    width: D.     layers.     heads.     ratio: of the feed-forward part's hidden size to D.
    attention: a registered attention for each layer, as a pattern: ``fhn``, ``fhn*3,knot``, ``softmax,fhn``; repeated
    to the end. substeps (of FHN dynamics), candidates (of knots), rank (of metrics, which layers share) and latent
    (size, None = D / 2) go to the attentions that have them.
    position: a registered position; ``rope`` and ``alibi`` act in the attentions, which must know them.
    feed_forward: ``mlp``, ``wavekan``, ``fasterkan``, ``chebykan``, a pattern too; kan_wavelet and kan_centres are
    WaveKAN's wavelet and every KAN's functions per edge.
    hyper_connections: ``hc``, ``mhc`` (Sinkhorn) or ``mhc-lite`` (permutations) with ``streams`` residual streams in
    the last stream_layers layers (None = all).
    propagation, manifold, engram: layers in which FHN propagation (a row of cells along the tokens), the E7-sized chain
    of projections, and the memory of the sequence's own past stand beside the attention: ``none``, ``all``, ``0,-1``.
    folding: tokens with their recent context also enter as sparse fingerprints. sdr_size and sdr_active are the bits of
    engrams and fingerprints.     aggregation: the readout hears every layer.
    n_predict, predict_weight: tokens predicted ahead while training, and the weight of those beyond the next.
    tied: logits by the embedding's table.     embedding_scale: root mean square at which tokens enter the stream; 0.02
    (GPT-2's) learns fastest by backpropagation, predictive coding needs about 1 to settle.
    dropout: on the embedding, both halves of a block and before a label readout.

    Presets: nano, shakespeare_char, small, medium, of nanoGPT's sizes (contexts 256, 256, 1024, 1024).
    Sources: see the parts.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "nano": {
            "width": 128, "layers": 4, "heads": 4, "stream_layers": 1, "dropout": 0.0,
            "hyper_connections": "mhc-lite", "aggregation": True,
        },
        "shakespeare_char": {
            "width": 384, "layers": 6, "heads": 6, "stream_layers": 2, "dropout": 0.2,
            "hyper_connections": "mhc-lite", "aggregation": True,
        },
        "small": {
            "width": 768, "layers": 12, "heads": 12, "attention": "fhn*11,knot", "feed_forward": "mlp*5,wavekan",
            "hyper_connections": "mhc-lite", "stream_layers": 4, "propagation": 0, "engram": 6,
            "aggregation": True, "n_predict": 2, "dropout": 0.1,
        },
        "medium": {
            "width": 1024, "layers": 24, "heads": 16, "attention": "fhn*23,knot", "feed_forward": "mlp*11,wavekan",
            "hyper_connections": "mhc-lite", "stream_layers": 8, "propagation": 0, "engram": 12,
            "aggregation": True, "n_predict": 2, "dropout": 0.1,
        },
    }  # fmt: skip
    ABLATIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "excitable attention": {"attention": "softmax", "substeps": 2, "candidates": 16, "rank": 4, "latent": None},
        "knots": {"attention": "fhn", "candidates": 16, "rank": 4, "latent": None},
        "KAN": {"feed_forward": "mlp", "kan_wavelet": "mexican_hat", "kan_centres": 4},
        "hyper-connections": {"hyper_connections": "none", "streams": 2, "stream_layers": None},
        "propagation": {"propagation": "none"},
        "manifold": {"manifold": "none"},
        "engrams": {"engram": "none"},
        "semantic folding": {"folding": False},
        "layer aggregation": {"aggregation": False},
        "multi-token prediction": {"n_predict": 1, "predict_weight": 0.3},
    }

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        ratio: float = 4.0,
        attention: str = "fhn",
        substeps: int = 2,
        candidates: int = 16,
        rank: int = 4,
        latent: int | None = None,
        position: str = "learned",
        feed_forward: str = "mlp",
        kan_wavelet: Literal["mexican_hat", "dog"] = "mexican_hat",
        kan_centres: int = 4,
        hyper_connections: Literal["none", "hc", "mhc", "mhc-lite"] = "none",
        streams: int = 2,
        stream_layers: int | None = None,
        propagation: int | str = "none",
        manifold: int | str = -1,
        engram: int | str = "none",
        folding: bool = True,
        sdr_size: int = 256,
        sdr_active: int = 8,
        aggregation: bool = False,
        n_predict: int = 1,
        predict_weight: float = 0.3,
        tied: bool = True,
        embedding_scale: float = 0.02,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(input, output)
        self.width, self.layers, self.heads, self.ratio, self.attention = width, layers, heads, ratio, attention
        self.substeps, self.candidates, self.rank, self.latent, self.position = (
            substeps,
            candidates,
            rank,
            latent,
            position,
        )
        self.feed_forward, self.kan_wavelet, self.kan_centres = feed_forward, kan_wavelet, kan_centres
        self.hyper_connections, self.streams, self.stream_layers = hyper_connections, streams, stream_layers
        self.propagation, self.manifold, self.engram, self.folding = propagation, manifold, engram, folding
        self.sdr_size, self.sdr_active, self.aggregation = sdr_size, sdr_active, aggregation
        self.n_predict, self.predict_weight, self.tied = n_predict, predict_weight, tied
        self.embedding_scale, self.dropout = embedding_scale, dropout
        if layers < 1:
            raise UsageError(f"neuromanifold_gpt needs at least one layer, not {layers}")
        self._check_unused()
        fingerprints = None
        if folding:
            fingerprints = SemanticFolding(width=width, causal=self.is_causal, size=sdr_size, active=sdr_active)
        embedding = PositionedEmbedding(
            input,
            width=width,
            heads=heads,
            position=position,
            scale=embedding_scale,
            dropout=dropout,
            folding=fingerprints,
        )
        readout = language_readout(
            input, output, embedding, width=width, tied=tied, dropout=dropout, n_predict=n_predict,
            predict_weight=predict_weight,
        )  # fmt: skip
        self.stages = nn.ModuleList([embedding, *self._blocks(), readout])

    def end_episode(self) -> None:
        """The fingerprints' duty cycles move."""
        for module in self.modules():
            if isinstance(module, SemanticFolding):
                module.end_episode()

    def _blocks(self) -> list[ManifoldBlock]:
        layers, width = self.layers, self.width
        names = per_layer("attention", self.attention, layers, ATTENTIONS.names())
        kinds = per_layer("feed_forward", self.feed_forward, layers, KINDS)
        streaming = self._stream_layers()
        places = {
            key: some_layers(key, str(getattr(self, key)), layers) for key in ("propagation", "manifold", "engram")
        }
        blocks: list[ManifoldBlock] = []
        metric: MetricAttention | None = None
        for index in range(layers):
            attention = self._attention(names[index], index)
            if isinstance(attention, MetricAttention):
                metric = metric or attention
                attention.metric = metric.metric
            half = feed_forward(
                kinds[index], width=width, hidden=round(self.ratio * width), wavelet=self.kan_wavelet,
                centres=self.kan_centres,
            )  # fmt: skip
            first, last = index == 0, index == layers - 1
            block = ManifoldBlock(
                attention,
                half,
                width=width,
                dropout=self.dropout,
                beside={key: self._beside(key, index) for key, chosen in places.items() if index in chosen},
                streams=self._streams(index) if index in streaming else None,
                aggregation=RunningAggregation(width=width, first=first, last=last) if self.aggregation else None,
            )
            start_as_gpt2(block, layers=layers)
            blocks.append(block)
        return blocks

    def _attention(self, name: str, index: int) -> Attention:
        """The registered attention with those of the model's options that it has."""
        known = {option.name for option in ATTENTIONS.entry(name).options}
        acting = self.position if getattr(POSITIONS.get(self.position), "in_attention", False) else "none"
        asked: dict[str, Any] = {
            "heads": self.heads,
            "substeps": self.substeps,
            "candidates": self.candidates,
            "rank": self.rank,
            "latent": self.latent,
            "label": f"block{index}.{name}",
            "position": acting,
            "positions": "rotary" if acting == "rope" else acting,
        }
        if "rotary" in known:  # latent attention has channels of its own that turn
            if acting == "alibi":
                raise UsageError(f"attention '{name}' turns channels of its own, not by alibi. Try: position='rope'")
            asked["rotary"] = 8 if acting == "rope" else 0
        elif acting != "none" and not known & {"position", "positions"}:
            raise UsageError(f"attention '{name}' knows no position '{acting}'. Try: position='learned'")
        options = {key: value for key, value in asked.items() if key in known}
        found: Attention = ATTENTIONS.build(name, width=self.width, causal=self.is_causal, **options)
        return found

    def _beside(self, key: str, index: int) -> nn.Module:
        if key == "manifold":
            return ManifoldChain(width=self.width)
        if key == "engram":
            return SDREngramMemory(
                width=self.width, size=self.sdr_size, active=self.sdr_active, label=f"block{index}.engrams"
            )
        cells = FHNPropagation(width=self.width, causal=self.is_causal, label=f"block{index}.propagation")
        return Gated(cells, width=self.width)

    def _stream_layers(self) -> range:
        if self.hyper_connections == "none":
            return range(0)
        count = self.layers if self.stream_layers is None else self.stream_layers
        if not 1 <= count <= self.layers:
            raise UsageError(
                f"stream_layers is 1 to {self.layers} layers, not {count}. Try: stream_layers={self.layers}"
            )
        return range(self.layers - count, self.layers)

    def _streams(self, index: int) -> Streams:
        variant, first = VARIANTS[self.hyper_connections], self._stream_layers().start
        before, after = (
            HyperConnection(width=self.width, streams=self.streams, index=place, variant=variant)
            for place in (2 * index, 2 * index + 1)
        )
        return Streams((before, after), first=index == first, last=index == self.layers - 1)

    def _check_unused(self) -> None:
        """An option that nothing would read is refused."""
        defaults = MODELS.entry("neuromanifold_gpt").defaults()
        names = set(per_layer("attention", self.attention, self.layers, ATTENTIONS.names()))
        known = {option.name for name in names for option in ATTENTIONS.entry(name).options}
        kinds = set(per_layer("feed_forward", self.feed_forward, self.layers, KINDS))
        read = {
            "substeps": "substeps" in known,
            "candidates": "candidates" in known,
            "rank": "rank" in known,
            "latent": "latent" in known,
            "kan_wavelet": "wavekan" in kinds,
            "kan_centres": kinds != {"mlp"},
            "streams": self.hyper_connections != "none",
            "stream_layers": self.hyper_connections != "none",
            "sdr_size": self.folding or self.engram != "none",
            "sdr_active": self.folding or self.engram != "none",
            "predict_weight": self.n_predict > 1,
        }
        for option, used in read.items():
            if not used and getattr(self, option) != defaults[option]:
                raise UsageError(f"nothing here reads {option}: leave it at {defaults[option]}")
        if self.aggregation and self.layers < 2:
            raise UsageError("layer aggregation needs 2 layers or more. Try: aggregation=false")


def start_as_gpt2(block: ManifoldBlock, *, layers: int) -> None:
    """Projections of attention and MLP from N(0, 0.02^2), those back to the stream over sqrt(2 layers), biases 0."""
    for owner in (*block.attention.modules(), block.feed_forward):
        for name, module in owner.named_children():
            back = name in ("merge", "contract")
            if isinstance(module, nn.Linear) and (back or name == "expand" or name in PROJECTIONS):
                nn.init.normal_(module.weight, std=STD / math.sqrt(2 * layers) if back else STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
