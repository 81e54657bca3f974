"""Chunked scan, FFT and recurrence are one thing, and scipy's filter; the past never hears the future."""

from __future__ import annotations

import cmath

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor

from neurons.ops.resonance import resonance, resonance_by_fft, resonance_reference

MODES, BATCH, STEPS = 5, 2, 150  # two levels of chunks of 8, and not a whole number of them


def bank(steps: int = STEPS, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(MODES, BATCH, steps, generator=generator, dtype=dtype)
    rate = torch.tensor([1.0, 0.3, 0.05, 0.01, 0.001], dtype=dtype)
    angle = torch.tensor([0.0, 3.0, 1.0, 0.1, 0.01], dtype=dtype)
    return current, rate, angle, torch.randn(2, MODES, BATCH, generator=generator, dtype=dtype)


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 64, STEPS])
@pytest.mark.parametrize("started", [False, True])
def test_scan_and_fft_are_the_recurrence(steps: int, started: bool) -> None:
    current, rate, angle, state = bank(steps)
    first = state if started else None
    expected = resonance_reference(current, rate, angle, first)
    for chunk in (8, 32):
        torch.testing.assert_close(resonance(current, rate, angle, first, chunk=chunk), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(resonance_by_fft(current, rate, angle, first), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("k", range(MODES))
def test_one_resonator_is_scipys_filter_of_the_same_pole(k: int) -> None:
    current, rate, angle, _ = bank()
    pole = cmath.exp(complex(-float(rate[k]), float(angle[k])))
    expected = lfilter([1.0], [1.0, -pole], current[k].numpy().astype(complex))
    for form in (resonance, resonance_by_fft):
        states = form(current, rate, angle)[:, k]
        np.testing.assert_allclose(torch.complex(*states).numpy(), expected, atol=1e-11)
    # the real part is a real filter of second order
    real = [1.0, -pole.real], [1.0, -2 * pole.real, abs(pole) ** 2]
    np.testing.assert_allclose(resonance(current, rate, angle)[0, k], lfilter(*real, current[k]), atol=1e-11)


@pytest.mark.parametrize("form", [resonance, resonance_by_fft])
def test_gradients_are_those_of_the_recurrence(form: type(resonance)) -> None:  # type: ignore[valid-type]
    inputs = [t.requires_grad_() for t in bank(70)]
    weights = torch.randn(2, MODES, BATCH, 70, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = torch.autograd.grad((resonance_reference(*inputs) * weights).sum(), inputs)
    found = torch.autograd.grad((form(*inputs) * weights).sum(), inputs)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_pieces_give_what_the_whole_gives() -> None:
    current, rate, angle, state = bank()
    whole, now, pieces = resonance(current, rate, angle, state), state, []
    for part in current.split([1, 1, 68, 3, 77], -1):
        made = resonance(part, rate, angle, now)
        now = made[..., -1]
        pieces.append(made)
    torch.testing.assert_close(torch.cat(pieces, -1), whole, rtol=0, atol=1e-11)


def test_the_past_is_the_same_bit_for_bit_whatever_comes() -> None:
    current, rate, angle, state = bank(dtype=torch.float32)
    before = resonance(current, rate, angle, state)
    for t in range(1, STEPS):
        changed = current.clone()
        changed[..., t:] = 1e6 * torch.randn(MODES, BATCH, STEPS - t, generator=torch.Generator().manual_seed(t))
        after = resonance(changed, rate, angle, state)
        assert torch.equal(after[..., :t], before[..., :t])
        assert not torch.equal(after[..., t], before[..., t])


def test_float32_keeps_the_phase_of_a_lag_of_thousands() -> None:
    """A pole that turns by almost pi a token and hardly decays: 20,000 tokens later its phase is still right."""
    steps = 20_000
    rate, angle = torch.tensor([1e-5]), torch.tensor([3.1])
    impulse = torch.zeros(1, 1, steps)
    impulse[..., 0] = 1
    lag = torch.arange(steps, dtype=torch.float64)
    exact = torch.exp(-rate.double() * lag) * torch.cos(angle.double() * lag)
    for form in (resonance, resonance_by_fft):
        torch.testing.assert_close(form(impulse, rate, angle)[0, 0, 0].double(), exact, rtol=0, atol=2e-6)


def test_costs_grow_with_the_length_and_not_with_its_square() -> None:
    from baselines.flops import count_macs

    counts = [
        count_macs(lambda n=n: resonance(torch.zeros(64, 1, n), torch.ones(64), torch.ones(64))) for n in (2048, 8192)
    ]
    assert counts[1] / counts[0] < 4.1
    assert counts[1] / 8192 / 64 < 80  # multiply-adds a mode and token
