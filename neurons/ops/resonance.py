"""States of a bank of damped resonators over a sequence: ``s_t = exp(-rate + i angle) s_{t-1} + u_t``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from neurons.ops.long_convolution import long_convolution

CHUNK = 32  # the fastest of 16 to 128 at 512 to 8,192 tokens, forward and backward


def resonance_reference(current: Tensor, rate: Tensor, angle: Tensor, state: Tensor | None = None) -> Tensor:
    """The oracle of :func:`resonance`: the recurrence, token after token, as one decodes."""
    now = current.new_zeros(2, *current.shape[:2]) if state is None else state
    keep = torch.exp(-rate)
    cos, sin = ((keep * turn)[:, None] for turn in (angle.cos(), angle.sin()))
    states = []
    for t in range(current.shape[-1]):
        now = torch.stack([cos * now[0] - sin * now[1] + current[..., t], sin * now[0] + cos * now[1]])
        states.append(now)
    return torch.stack(states, -1)


def resonance_by_fft(current: Tensor, rate: Tensor, angle: Tensor, state: Tensor | None = None) -> Tensor:
    """The same as a causal long convolution with the impulse responses, O(n log n)."""
    steps = current.shape[-1]
    powers = _powers(rate, angle, steps + 1, current.dtype)
    made = [long_convolution(current.transpose(0, 1), part[:, :steps]).transpose(0, 1) for part in powers]
    out = torch.stack(made)
    if state is None:
        return out
    cos, sin = (part[:, None, 1:] for part in powers)
    re, im = state[..., None]
    return out + torch.stack([cos * re - sin * im, sin * re + cos * im])


def resonance(
    current: Tensor, rate: Tensor, angle: Tensor, state: Tensor | None = None, *, chunk: int = CHUNK
) -> Tensor:
    """All states, real and imaginary parts: current (K, B, n) real, rate (K,) > 0 and angle (K,) per token -> (2, K, B,
    n). ``state`` (2, K, B) is that before the first token, 0 if None.

    Modes come first: then the products with the weights before and after read and write whole rows, and nothing is
    ever copied into another order. Chunks of 32 tokens are a product with a triangular Toeplitz matrix per mode, the
    states between them are the same problem over n / 32 steps of the pole to the power of 32: O(n) work, O(log n)
    deep, 2 x 32 multiply-adds a mode and token. What comes later is multiplied by exact zeros, so the past is the same
    bit for bit. Powers of the poles are made in double precision, since the phase grows with the lag.
    """
    steps = current.shape[-1]
    size = min(chunk, steps)
    parts = F.pad(current, (0, -steps % size)) if steps % size else current
    re, im = _powers(rate, angle, size + 1, current.dtype)
    modes, batch, chunks = parts.shape[0], parts.shape[1], parts.shape[2] // size
    rows = parts.reshape(modes, batch * chunks, size)
    inside = [torch.bmm(rows, _toeplitz(part[:, :size])) for part in (re, im)]
    if chunks > 1 or state is not None:
        before = _between(inside, rate * size, angle * size, state, batch, chunk)
        cos, sin = re[:, None, 1:], im[:, None, 1:]
        after = torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)
        inside = [torch.baddbmm(own, before, turn) for own, turn in zip(inside, after, strict=True)]
    out = torch.stack(inside).view(2, modes, batch, -1)
    return out[..., :steps] if steps % size else out


def _between(inside: list[Tensor], rate: Tensor, angle: Tensor, state: Tensor | None, batch: int, chunk: int) -> Tensor:
    """States before each chunk, (K, B * chunks, 2), from what every chunk leaves by itself."""
    modes = len(rate)
    left = torch.stack([part[:, :, -1].view(modes, batch, -1) for part in inside])  # (2, K, B, chunks)
    first = left.new_zeros(2, modes, batch) if state is None else state
    if left.shape[-1] == 1:
        before = first[..., None]
    else:
        # a complex input is two real ones, side by side: the second turned by i
        start = torch.cat([first, torch.zeros_like(first)], -1)
        one, two = resonance(torch.cat(list(left[..., :-1]), 1), rate, angle, start, chunk=chunk).split(batch, 2)
        before = torch.cat([first[..., None], one + torch.stack([-two[1], two[0]])], -1)
    return before.permute(1, 2, 3, 0).reshape(modes, -1, 2)


def _powers(rate: Tensor, angle: Tensor, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the poles to the powers 0 .. count - 1, each (K, count)."""
    wide = torch.float32 if rate.device.type == "mps" else torch.float64  # Apple's GPUs have no doubles
    lag = torch.arange(count, device=rate.device, dtype=wide)
    size, turn = torch.exp(-rate.to(wide)[:, None] * lag), angle.to(wide)[:, None] * lag
    return (size * turn.cos()).to(dtype), (size * turn.sin()).to(dtype)


def _toeplitz(powers: Tensor) -> Tensor:
    """(K, L) -> (K, L, L): row j is what token j adds to the tokens from j on, 0 before."""
    size = powers.shape[-1]
    return F.pad(powers, (size - 1, 0)).unfold(-1, size, 1).flip(-2)
