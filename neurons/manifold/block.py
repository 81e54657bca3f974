"""One layer of NeuroManifold GPT: attention and the modules beside it, then a feed-forward part, between streams."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neurons.manifold.hyper_connections import HyperConnection, StreamSum, spread
from neurons.manifold.layer_aggregation import RunningAggregation
from neurons.model import Attention
from neurons.specs import Context, zero_masked


class Gated(nn.Module):
    """A mixer whose result enters through a gate per channel, 0 at the start: (B, T, D) -> gate * mixer(x)."""

    def __init__(self, mixer: Attention, *, width: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.gate * self.mixer(x, context)


class Streams(nn.Module):
    """How a layer's two halves meet the residual streams: the connections around them, and whether this layer is the
    first that has streams (it makes them) or the last (it sums them up)."""

    def __init__(self, connections: tuple[HyperConnection, HyperConnection], *, first: bool, last: bool) -> None:
        super().__init__()
        self.count, self.first = connections[0].streams, first
        self.connections = nn.ModuleList(connections)
        self.sum = StreamSum(self.count) if last else None


class ManifoldBlock(nn.Module):
    """(B, T, D) -> (B, T, D), or between streams (B, T, S, D), zeros at masked positions.

        x <- x + attention(h) + sum of what stands beside it (h),  h = norm(x)
        x <- x + feed_forward(norm(x))

    Each line goes through a hyper-connection where the layer has ``streams``. ``beside`` are modules of (B, T, D) with
    a gate of their own (FHN propagation, manifold chain, engrams): a layer whose gates are 0 is a transformer's.
    ``aggregation``: the state after this layer also goes straight to the readout. Its sum over the layers rides in x as
    a last stream, which the first such layer adds and the layer ``ends`` takes off again.
    """

    def __init__(
        self,
        attention: Attention,
        feed_forward: nn.Module,
        *,
        width: int,
        dropout: float,
        beside: Mapping[str, nn.Module],
        streams: Streams | None = None,
        aggregation: RunningAggregation | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = attention
        self.beside = nn.ModuleDict(dict(beside))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout)
        self.streams, self.aggregation = streams, aggregation

    def forward(self, x: Tensor, context: Context) -> Tensor:
        kept: Tensor | None = None
        if self.aggregation is not None and not self.aggregation.first:
            x, kept = x[..., :-1, :], x[..., -1, :]
            x = x if self.streams is not None and not self.streams.first else x.squeeze(-2)

        def mix(x: Tensor) -> Tensor:
            h = self.norm(x)
            mixed = self.attention(h, context)
            for module in self.beside.values():
                mixed = mixed + module(h, context)
            return self.dropout(mixed)

        def feed(x: Tensor) -> Tensor:
            return self.dropout(self.feed_forward(self.feed_forward_norm(x)))

        if self.streams is None:
            x = x + mix(x)
            x = zero_masked(x + feed(x), context.mask)
        else:
            x = spread(x, self.streams.count) if self.streams.first else x
            for connection, half in zip(self.streams.connections, (mix, feed), strict=True):
                x = connection(x, half)
            x = zero_masked(x if self.streams.sum is None else self.streams.sum(x), context.mask)
        return x if self.aggregation is None else self.aggregation(x, kept)
