"""Holographic memory: pairs bound by circular convolution lie in one trace; unitary keys take them out again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neurons.errors import UsageError
from neurons.ops.long_convolution import circular_convolution, reversed_in_time


def unitary_keys(count: int, width: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Random keys (count, width) of unit length whose spectrum has modulus 1 everywhere: only phases differ.

    Bound with such a key nothing changes its length, and the involution of the key is its exact inverse. Normal keys
    (Plate 1995) have neither, and their own spectrum is noise in every answer.
    """
    return unitary(torch.randn(count, width, generator=generator))


def unitary(x: Tensor) -> Tensor:
    """The nearest unitary keys: x (..., width) with every component of its spectrum divided by its modulus."""
    spectrum = torch.fft.rfft(x)
    modulus = spectrum.abs()
    return torch.fft.irfft(torch.where(modulus > 0, spectrum / modulus.clamp_min(1e-30), 1.0), x.shape[-1])


def bind(key: Tensor, value: Tensor) -> Tensor:
    """``k (*) v``, the circular convolution: two (..., width), broadcast -> (..., width)."""
    key, value = torch.broadcast_tensors(key, value)
    width = key.shape[-1]
    return circular_convolution(value.reshape(1, -1, width), key.reshape(-1, width)).view(key.shape)


def unbind(trace: Tensor, key: Tensor) -> Tensor:
    """``k^-1 (*) M``, the circular correlation; exact for what was bound with a unitary key."""
    return bind(reversed_in_time(key), trace)


def clean_up(answer: Tensor, items: Tensor, *, beta: float = 16.0, steps: int = 1) -> Tensor:
    """``softmax(beta a X^T) X`` on unit vectors, ``steps`` times: the update of a modern Hopfield network.

    answer (..., width), items (n, width) -> (..., width). With n items of random direction, the one at signal 1 wins
    over noise of variance s^2 where ``beta`` exceeds ln n and s is well below 1. Source: Ramsauer et al. 2021.
    """
    items = torch.nn.functional.normalize(items, dim=-1)
    for _ in range(steps):
        answer = torch.softmax(beta * answer @ items.transpose(-1, -2), -1) @ items
    return answer


class HolographicMemory:
    """Pairs in one vector: ``M = sum_i k_i (*) v_i``, read with whatever key is asked, ``k^-1 (*) M``, then cleaned up.

    Width d and P pairs of unitary keys and unit values: the answer is the value plus P - 1 vectors of unit length and
    random direction. Its cosine with the value is 1 / sqrt(P), and against any one item the crosstalk has variance
    (P - 1) / d, a signal-to-noise ratio of ``sqrt(d / (P - 1))``. So the raw answer is poor already at two pairs, and
    the clean-up finds the right one of n items up to P of about d / (2 ln n).

    No parameters; d numbers whatever is stored. ``items`` are the values that the clean-up knows.
    Sources: Plate 1995 (holographic reduced representations); Ramsauer et al. 2021 (modern Hopfield networks).
    """

    def __init__(self, width: int, *, beta: float = 16.0) -> None:
        if width < 2 or beta <= 0:
            raise UsageError(f"a holographic memory needs width >= 2 and beta > 0, not {width} and {beta:g}")
        self.width, self.beta = width, beta
        self.trace = torch.zeros(width)
        self.items = torch.zeros(0, width)

    def write(self, keys: Tensor, values: Tensor) -> None:
        """Adds pairs, (n, width) each; keys as :func:`unitary_keys` makes them."""
        self.trace = self.trace.to(values) + bind(keys, values).sum(0)
        self.items = torch.cat([self.items.to(values), values])

    def read(self, keys: Tensor, *, clean: bool = True) -> Tensor:
        """Answers (n, width) to keys (n, width)."""
        answer = unbind(self.trace, keys)
        return clean_up(answer, self.items, beta=self.beta) if clean and len(self.items) else answer


def expected_recall(width: int, pairs: int) -> float:
    """Share of keys whose answer lies nearest to its own value: ``E[Phi((1 + s z) / r)^(P - 1)]``, z normal. Own scores
    spread by ``s^2 = (P - 1) / d``, those of the others by ``r^2 = P / d``, as random values are not quite orthogonal.
    """
    if pairs < 2:
        return 1.0
    own, others = math.sqrt((pairs - 1) / width), math.sqrt(pairs / width)
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weight = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return float((weight * torch.special.ndtr((1 + own * z) / others) ** (pairs - 1)).sum() * (z[1] - z[0]))
