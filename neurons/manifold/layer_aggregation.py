"""Multi-layer aggregation: the readout, or a late layer, hears earlier layers directly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons.errors import UsageError


class LayerAggregation(nn.Module):
    """``y = x_L + sum_{l < L} gate_l norm(x_l)``: (B, T, L, D), the states after each layer, -> (B, T, D).

    ``norm`` is RMS normalisation, so a gate weighs a layer whatever its scale; gates are one number per earlier layer
    and channel, 0 at the start (the last state passes unchanged). Positions are treated alike: it is as causal as its
    layers. Masked (zero) states stay zero. Parameters: (L - 1) D. Source: Pagliardini et al. 2024 (DenseFormer,
    2402.02622). Not multi-head latent attention, with which it shares its initials.
    """

    def __init__(self, *, width: int, layers: int) -> None:
        super().__init__()
        if layers < 2:
            raise UsageError(f"aggregation needs 2 layers or more, not {layers}")
        self.width, self.layers = width, layers
        self.gate = nn.Parameter(torch.zeros(layers - 1, width))

    def forward(self, states: Tensor) -> Tensor:
        earlier = F.rms_norm(states[..., :-1, :], states.shape[-1:], eps=1e-6)
        return states[..., -1, :] + torch.einsum("btld,ld->btd", earlier, self.gate.to(earlier.dtype))


class RunningAggregation(nn.Module):
    """:class:`LayerAggregation` in a chain of stages: layer l adds its ``gate_l norm(x_l)`` to a sum that rides in x.

    x: the state after the layer, (B, T, D) or streams (B, T, S, D), whose mean is then aggregated; kept: the sum so
    far, (B, T, D), None at the first layer. Result: x with the sum as a last stream, (B, T, S + 1, D); at the last
    layer, which has no gate, x plus the sum (B, T, D). So a stage carries one stream more, however many layers.
    """

    def __init__(self, *, width: int, first: bool, last: bool) -> None:
        super().__init__()
        self.first = first
        self.gate = None if last else nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, kept: Tensor | None) -> Tensor:
        if self.gate is None:
            return x if kept is None else x + kept
        state = x if x.dim() == 3 else x.mean(-2)
        now = self.gate.to(state.dtype) * F.rms_norm(state, state.shape[-1:], eps=1e-6)
        now = now if kept is None else kept + now
        return torch.cat([x if x.dim() == 4 else x[..., None, :], now[..., None, :]], -2)
