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
