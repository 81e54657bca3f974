"""Holographic memory against its analytic crosstalk."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.resonance.holographic import HolographicMemory, bind, clean_up, expected_recall, unbind, unitary_keys


def drawn(pairs: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return unitary_keys(pairs, width, generator=generator), F.normalize(
        torch.randn(pairs, width, generator=generator), dim=-1
    )


def filled(pairs: int, width: int, seed: int = 0) -> tuple[HolographicMemory, torch.Tensor, torch.Tensor]:
    keys, values = drawn(pairs, width, seed)
    memory = HolographicMemory(width)
    memory.write(keys, values)
    return memory, keys, values


@pytest.mark.parametrize("width", [2, 7, 64])
def test_unitary_keys_are_undone_exactly_and_keep_lengths(width: int) -> None:
    keys, values = drawn(5, width)
    torch.testing.assert_close(keys.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(torch.fft.fft(keys).abs(), torch.ones(5, width))
    bound = bind(keys, values)
    torch.testing.assert_close(bound.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(unbind(bound, keys), values)


def test_binding_is_circular_convolution() -> None:
    keys, values = drawn(3, 8)
    for i in range(3):
        direct = [sum(float(keys[i, j] * values[i, (t - j) % 8]) for j in range(8)) for t in range(8)]
        torch.testing.assert_close(bind(keys[i], values[i]), torch.tensor(direct))


@pytest.mark.parametrize(("width", "pairs"), [(256, 2), (256, 16), (1024, 16), (1024, 128)])
def test_crosstalk_is_what_theory_says(width: int, pairs: int) -> None:
    """Signal to noise sqrt(d / (P - 1)), cosine 1 / sqrt(P)."""
    cosines, noise = [], []
    for seed in range(max(2, 400 // pairs)):
        memory, keys, values = filled(pairs, width, seed)
        answer = memory.read(keys, clean=False)
        cosines.append(F.cosine_similarity(answer, values).mean())
        probe = F.normalize(torch.randn(pairs, width, generator=torch.Generator().manual_seed(seed + 999)), dim=-1)
        noise.append(((answer - values) * probe).sum(-1).square().mean())
    assert torch.stack(cosines).mean() == pytest.approx(1 / math.sqrt(pairs), rel=0.1)
    assert torch.stack(noise).mean().rsqrt() == pytest.approx(math.sqrt(width / (pairs - 1)), rel=0.12)


@pytest.mark.parametrize(("width", "pairs"), [(128, 4), (128, 16), (128, 48), (512, 64)])
def test_recall_is_what_theory_says(width: int, pairs: int) -> None:
    hits, count = 0, 0
    for seed in range(600 // pairs):
        memory, keys, values = filled(pairs, width, seed)
        found = (memory.read(keys, clean=False) @ values.T).argmax(-1)
        hits, count = hits + int((found == torch.arange(pairs)).sum()), count + pairs
    expected = expected_recall(width, pairs)
    assert hits / count == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / count) + 0.01)


def test_clean_up_turns_a_poor_answer_into_the_stored_one() -> None:
    memory, keys, values = filled(16, 1024)
    raw, clean = memory.read(keys, clean=False), memory.read(keys)
    assert F.cosine_similarity(raw, values).mean() < 0.3
    assert F.cosine_similarity(clean, values).min() > 0.99
    one = clean_up(values[:1] + 0.1, values, beta=1e4)
    torch.testing.assert_close(one, values[:1])


def test_normal_keys_answer_worse_than_unitary_ones() -> None:
    memory, keys, values = filled(1, 512)
    assert F.cosine_similarity(memory.read(keys, clean=False), values).item() == pytest.approx(1.0, abs=1e-5)
    plain = torch.randn(1, 512, generator=torch.Generator().manual_seed(3)) / math.sqrt(512)
    other = HolographicMemory(512)
    other.write(plain, values)
    assert unbind(other.trace, plain)[0] @ values[0] < 1.2
    assert F.cosine_similarity(unbind(other.trace, plain), values).item() < 0.8


def test_pairs_may_come_one_after_the_other() -> None:
    keys, values = drawn(6, 64)
    whole, parts = HolographicMemory(64), HolographicMemory(64)
    whole.write(keys, values)
    parts.write(keys[:2], values[:2])
    parts.write(keys[2:], values[2:])
    torch.testing.assert_close(parts.trace, whole.trace)
    torch.testing.assert_close(parts.read(keys), whole.read(keys))
    assert not HolographicMemory(64).read(keys).any()


def test_impossible_memories_are_refused() -> None:
    for width, beta in ((1, 16.0), (64, 0.0)):
        with pytest.raises(UsageError, match="holographic"):
            HolographicMemory(width, beta=beta)
