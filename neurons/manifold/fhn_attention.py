"""Attention whose result is gated by the response of excitable neurons."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurons import ATTENTIONS
from neurons.errors import UsageError
from neurons.manifold.fitzhugh_nagumo import StepSize, response
from neurons.manifold.heads import Heads, remember, start_of
from neurons.manifold.recompute import recomputed
from neurons.model import Attention
from neurons.specs import Context, zero_masked


@ATTENTIONS.register("fhn")
class FHNAttention(Attention):
    """Softmax attention, then pointwise ``y = u (1 + gate h(v_K))``: what is attended to excites FitzHugh-Nagumo cells.

        u = SDPA(q, k, v),   I = W RMSNorm(u),   (v, w) from rest under I for K steps,   h = v_K - v_rest

    The gate is a number per channel, 0 at the start (the layer is then plain attention), and h is not normalised away:
    a softmax row sums to 1 whatever the stimulus, so a gate inside the rows would do nothing. W is one (d, d) map that
    the heads share. dt = sigmoid(theta) / 2 per channel is learned. Of all this only u is kept for backward.

    position: ``rope`` turns queries and keys, ``alibi`` adds slopes, ``none``.     substeps: K.     label: of the cache
    of keys and values through which a causal layer goes on from chunk to chunk.
    Parameters: 4 D^2 + 4 D of the projections, d^2 + 2 d of the cells. Sources: FitzHugh 1961; Vaswani et al. 2017.
    """

    def __init__(
        self,
        *,
        width: int,
        causal: bool,
        heads: int = 4,
        position: Literal["none", "rope", "alibi"] = "none",
        substeps: int = 3,
        label: str = "fhn",
    ) -> None:
        super().__init__()
        if substeps < 1:
            raise UsageError(f"FitzHugh-Nagumo takes 1 step or more, not {substeps}. Try: substeps=3")
        self.width, self.is_causal, self.heads = width, causal, heads
        self.position, self.substeps, self.label = position, substeps, label
        self.projections = Heads("fhn", width=width, heads=heads, causal=causal, position=position)
        size = width // heads
        self.stimulus = nn.Linear(size, size, bias=False)
        self.dt = StepSize(size)
        self.gate = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self.projections.split(x, start_of(context, self.label))
        k, v, mask = remember(context, self.label, k, v) if self.is_causal else (k, v, context.mask)
        mixed = self.projections.attend(q, k, v, mask)
        return zero_masked(self.projections.join(recomputed(self.excite, mixed)), context.mask)

    def excite(self, mixed: Tensor) -> Tensor:
        """mixed (B, H, T, d) times 1 + gate (v_K - v_rest)."""
        drive = self.stimulus(F.rms_norm(mixed, mixed.shape[-1:], eps=1e-5))
        drive = drive.to(torch.promote_types(drive.dtype, torch.float32))
        return mixed * (1 + self.gate * response(drive, dt=self.dt(), steps=self.substeps)).to(mixed.dtype)
