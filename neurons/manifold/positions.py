"""How a language model knows where a token stands: added to the embedding, turned into the heads, or as a bias."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neurons import POSITIONS
from neurons.errors import UsageError


class Position(nn.Module):
    """Base. Wiring: ``width`` of the stream, ``heads``, ``length`` of the longest sequence. Three places to act:

    embed(x (B, T, D), start) at the model's entry; turn(projected (B, T, n * D), start) on what a projection has just
    made, queries and keys first; bias(queries, keys, causal) on the logits. ``in_attention`` tells which: a position
    acts at the entry or in every attention. ``start`` counts the tokens of earlier chunks.
    """

    name: ClassVar[str]
    in_attention: ClassVar[bool] = False

    def embed(self, x: Tensor, start: int = 0) -> Tensor:
        return x

    def turn(self, projected: Tensor, start: int = 0) -> Tensor:
        return projected

    def bias(self, queries: int, keys: int, causal: bool, like: Tensor) -> Tensor | None:
        return None


@POSITIONS.register("none")
class NoPosition(Position):
    """No position: order reaches a causal model through its masks alone (Kazemnejad et al. 2023)."""

    in_attention = True

    def __init__(self, *, width: int, heads: int, length: int) -> None:
        super().__init__()


@POSITIONS.register("learned")
class LearnedPosition(Position):
    """A table of ``length`` rows added to the embedding, N(0, 0.02^2) as in GPT-2; longer sequences are refused."""

    def __init__(self, *, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.length, self.table = length, nn.Embedding(length, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def embed(self, x: Tensor, start: int = 0) -> Tensor:
        if start + x.shape[1] > self.length:
            raise UsageError(
                f"learned positions reach to {self.length} tokens, not {start + x.shape[1]}. Try: position='rope'"
            )
        return x + self.table.weight[start : start + x.shape[1]]


@POSITIONS.register("rope")
class Rope(Position):
    """Rotary: channels (2i, 2i + 1) of a head's query and key turn by ``t * base^(-2i / d)``; only distances act.

    The product is done in place on what the projection has just made, as complex numbers: its gradient is the
    conjugate turn, nothing is kept. Source: Su et al. 2021.
    """

    in_attention = True

    def __init__(self, *, width: int, heads: int, length: int) -> None:
        super().__init__()
        if width % (2 * heads):
            raise UsageError(f"rope needs heads of an even size: width {width} and heads {heads}. Try: heads=1")
        self.width, self.heads = width, heads

    def turn(self, projected: Tensor, start: int = 0) -> Tensor:
        if torch.compiler.is_compiling() or projected.dtype != torch.float32:
            half = self.width // self.heads
            turned = rotate(projected[..., : 2 * self.width].unflatten(-1, (-1, half)), start, tokens=-3).flatten(-2)
            return torch.cat([turned, projected[..., 2 * self.width :]], -1)
        turns = _cached_turns(self.width // self.heads, start, projected.shape[1]).to(projected.device)
        return _TurnFresh.apply(projected, turns, 2 * self.heads)


def rotate(x: Tensor, start: int = 0, *, tokens: int = -2) -> Tensor:
    """x (..., d) with its tokens along the axis ``tokens``: channels (2i, 2i + 1) turned by ``t 10000^(-2i / d)``."""
    made = _turns if torch.compiler.is_compiling() else _cached_turns
    turns = torch.view_as_real(made(x.shape[-1], start, x.shape[tokens])).to(x.device)
    turns = turns.reshape(x.shape[tokens], *[1] * (-tokens - 2), -1, 2)
    cos, sin = turns.unbind(-1)
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2).to(x.dtype)


class _TurnFresh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, turns: Tensor, parts: int) -> Tensor:
        ctx.mark_dirty(projected)
        ctx.turns, ctx.parts = turns, parts
        return _turn_(projected, turns, parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _turn_(grad.clone(memory_format=torch.contiguous_format), ctx.turns.conj(), ctx.parts), None, None


def _turn_(projected: Tensor, turns: Tensor, parts: int) -> Tensor:
    """projected (B, T, n), turns (T, d / 2): the first ``parts`` slices of d channels, in place."""
    half = turns.shape[1]
    pairs = projected[..., : 2 * parts * half].unflatten(-1, (parts, half, 2))
    torch.view_as_complex(pairs).mul_(turns[:, None])
    return projected


def _turns(size: int, start: int, steps: int) -> Tensor:
    """e^{i t rate} (steps, size / 2), made in double precision."""
    with torch.inference_mode(False):  # what is cached serves training too
        rate = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angle = torch.arange(start, start + steps, dtype=torch.float64)[:, None] * rate
        return torch.complex(angle.cos().float(), angle.sin().float())


_cached_turns = lru_cache(maxsize=16)(_turns)


@POSITIONS.register("alibi")
class Alibi(Position):
    """Linear biases: ``logits_ij - slope_h |i - j|`` with slopes in equal ratios, ``2^(-8 h / H)`` for h = 1 .. H.

    One cached mask of slopes and causality goes through the fused attention. Source: Press, Smith & Lewis 2022.
    """

    in_attention = True

    def __init__(self, *, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads

    def bias(self, queries: int, keys: int, causal: bool, like: Tensor) -> Tensor:
        made = _slopes if torch.compiler.is_compiling() else _cached_slopes
        return made(self.heads, queries, keys, causal).to(like)


def _slopes(heads: int, queries: int, keys: int, causal: bool) -> Tensor:
    """(1, H, queries, keys), for the fused kernel takes no mask of three axes; the last query stands at the last key.
    Causal: -inf above the diagonal."""
    with torch.inference_mode(False):
        slope = 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1))
        distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
        bias = -slope[None, :, None, None] * distance.abs()
        return bias.masked_fill(distance < 0, -math.inf) if causal else bias


_cached_slopes = lru_cache(maxsize=8)(_slopes)


@POSITIONS.register("ramanujan")
class RamanujanPosition(Position):
    """Ramanujan sums ``c_q(n)`` and their quadratures, rows of unit root mean square times a learned scale from 0.02.

        c_q(n) = sum_{a <= q, gcd(a, q) = 1} cos(2 pi a n / q) = mu(q / g) phi(q) / phi(q / g),   g = gcd(n, q)
        s_q(n) = 2 sum_{a < q / 2, gcd(a, q) = 1} sin(2 pi a n / q)

    q = 2, 3, ... for half of the channels, 3, 4, ... for the quadratures: c_q alone gives one row to all primes beyond
    the largest q, s_q tells them apart. No length is too long. Source: Ramanujan 1918; Planat et al. 2009.
    """

    def __init__(self, *, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.width, self.scale = width, nn.Parameter(torch.tensor(0.02))
        self.register_buffer("table", ramanujan_rows(0, length, width), persistent=False)

    def embed(self, x: Tensor, start: int = 0) -> Tensor:
        table: Tensor = self.table  # type: ignore[assignment]
        if start + x.shape[1] > len(table):
            rows = ramanujan_rows(start, x.shape[1], self.width).to(x)
        else:
            rows = table[start : start + x.shape[1]]
        return x + self.scale * rows


def ramanujan_sum(q: int, n: int) -> int:
    """c_q(n) by von Sterneck's closed form."""
    g = math.gcd(n, q)
    return _moebius(q // g) * _totient(q) // _totient(q // g)


def ramanujan_rows(start: int, count: int, width: int) -> Tensor:
    """Positions start .. start + count - 1 as (count, width) float32 rows of unit root mean square."""
    n = torch.arange(start, start + count)
    even = [_period(q)[n % q] for q in range(2, (width + 1) // 2 + 2)]
    odd = [_quadrature(q)[n % q] for q in range(3, width // 2 + 3)]
    rows = torch.stack(even + odd, 1)
    return (rows * rows.square().mean(1, keepdim=True).rsqrt()).float()


def _period(q: int) -> Tensor:
    """c_q(0 .. q - 1)."""
    return torch.tensor([ramanujan_sum(q, n) for n in range(q)], dtype=torch.float64)


def _quadrature(q: int) -> Tensor:
    """s_q(0 .. q - 1)."""
    coprime = torch.tensor([a for a in range(1, (q + 1) // 2) if math.gcd(a, q) == 1], dtype=torch.float64)
    return 2 * torch.sin(2 * math.pi / q * torch.arange(q)[:, None] * coprime).sum(1)


@lru_cache(maxsize=4096)
def _prime_powers(n: int) -> tuple[tuple[int, int], ...]:
    found, p = [], 2
    while n > 1:
        power = 0
        while n % p == 0:
            n, power = n // p, power + 1
        if power:
            found.append((p, power))
        p = p + 1 if p * p <= n else max(n, p + 1)
    return tuple(found)


def _moebius(n: int) -> int:
    powers = _prime_powers(n)
    return 0 if any(power > 1 for _, power in powers) else (-1) ** len(powers)


def _totient(n: int) -> int:
    return math.prod((p - 1) * p ** (power - 1) for p, power in _prime_powers(n))
