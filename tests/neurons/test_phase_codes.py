"""Phase codes: exact round-trip bounds, where in the cycle spikes may fall, and that snntorch makes its codes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from snntorch import spikegen

from neurons import PHASE_CODES

ONE_SPIKE = sorted(set(PHASE_CODES.names()) - {"rate"})


@pytest.mark.parametrize("name", ONE_SPIKE)
@pytest.mark.parametrize("slots", [2, 5, 32, 301])
def test_round_trip_error_is_half_a_slot_and_no_less(name: str, slots: int) -> None:
    code = PHASE_CODES.build(name, slots=slots)
    value = torch.linspace(0, 1, 20 * (slots - 1) + 1, dtype=torch.float64)  # holds the points midway between slots
    error = (code.decode(code.encode(value)) - value).abs()
    assert error.max().item() == pytest.approx(0.5 / (slots - 1), abs=1e-6)
    places = torch.arange(slots, dtype=torch.float64) / (slots - 1)
    assert (code.decode(code.encode(places)) - places).abs().max() < 1e-6  # what a slot stands for comes back as it was


def test_a_rate_decodes_as_the_mean_of_independent_draws() -> None:
    torch.manual_seed(0)
    code, draws = PHASE_CODES.build("rate", slots=16), 20000
    for value in (0.0, 0.1, 0.5, 1.0):
        spikes = code.decode(code.encode(torch.full((draws,), value))) * 16
        counts = np.bincount(spikes.round().long().numpy(), minlength=17)
        expected = stats.binom.pmf(np.arange(17), 16, value) * draws
        common = expected > 5
        assert counts[expected == 0].sum() == 0
        rest = np.append(counts[common], counts[~common].sum()), np.append(expected[common], expected[~common].sum())
        if common.sum() > 1:
            assert stats.chisquare(*rest).pvalue > 1e-3


@pytest.mark.parametrize("name", PHASE_CODES.names())
@pytest.mark.parametrize("slots", [2, 16])
def test_spikes_fall_between_zero_and_a_slot_short_of_the_cycle(name: str, slots: int) -> None:
    torch.manual_seed(0)
    code = PHASE_CODES.build(name, slots=slots)
    spikes = code.encode(torch.linspace(0, 1, 401))
    fired = code.phases(spikes)[:, None].expand_as(spikes)[spikes == 1]
    delta = 2 * math.pi / slots
    assert fired.min().item() == 0.0  # both ends are used
    assert fired.max().item() == pytest.approx(2 * math.pi - delta, abs=1e-6)


@pytest.mark.parametrize("name", ONE_SPIKE)
def test_one_and_zero_never_share_a_phase(name: str) -> None:
    code = PHASE_CODES.build(name, slots=12)
    spikes = code.encode(torch.tensor([0.0, 1.0]))[-12:]
    low, high = (code.phases(spikes)[spikes[:, i].argmax()].item() for i in (0, 1))
    apart = abs(math.remainder(low - high, 2 * math.pi))
    assert apart == pytest.approx(2 * math.pi / 12, abs=1e-6)  # neighbours on the circle, one slot apart


def test_rate_and_latency_are_snntorchs() -> None:
    value = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    ours = PHASE_CODES.build("rate", slots=20).encode(value)
    torch.manual_seed(0)
    assert torch.equal(ours, spikegen.rate(value, num_steps=20))
    theirs = spikegen.latency(value, num_steps=20, threshold=1e-6, normalize=True, linear=True)
    assert torch.equal(PHASE_CODES.build("latency", slots=20).encode(value), theirs)


def test_the_spike_precesses_through_the_field() -> None:
    """O'Keefe & Recce 1993: from cycle to cycle earlier, and the phase falls in proportion to the distance covered."""
    code = PHASE_CODES.build("theta_precession", slots=101, cycles=5)
    spikes = code.encode(torch.tensor([0.4, 1.0])).view(5, 101, 2)
    phases = code.phases(spikes.flatten(0, 1)).view(5, 101)[0][spikes.argmax(1)]
    assert (phases.diff(dim=0) < 0).all()
    covered = torch.arange(1, 6)[:, None] / 5 * torch.tensor([0.4, 1.0])
    torch.testing.assert_close(phases, (1 - covered) * 2 * math.pi * 100 / 101, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PHASE_CODES.names())
@pytest.mark.parametrize(
    ("given", "spoken"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_any_shape_and_precision(name: str, given: torch.dtype, spoken: torch.dtype) -> None:
    code = PHASE_CODES.build(name, slots=300)
    value = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)).to(given)
    spikes = code.encode(value)
    assert spikes.dtype == spoken
    assert spikes.shape == (code.steps, 2, 3, 4)
    bound = 5 * 0.5 / math.sqrt(300) if name == "rate" else 0.5 / 299 + 1e-6
    assert ((code.decode(spikes) - value.double()).abs() <= bound).all()
    assert ((spikes == 0) | (spikes == 1)).all()
    if name != "rate":
        assert (spikes.sum(0) == code.steps / 300).all()  # one per cycle
