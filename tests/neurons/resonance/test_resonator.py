"""The bank of resonators: poles where they were asked for, impulse responses as written down, decoding by a state."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from neurons.errors import UsageError
from neurons.resonance.gamma_resonator import GammaResonator
from neurons.resonance.poles import Poles
from neurons.resonance.resonator import Resonator
from neurons.specs import Context

WIDTH, STEPS = 6, 90


def built(causal: bool, **options: object) -> Resonator:
    torch.manual_seed(0)
    return Resonator(width=WIDTH, causal=causal, modes=9, longest=0.05, **options).double()  # type: ignore[arg-type]


def hidden(steps: int = STEPS) -> Tensor:
    return torch.randn(2, steps, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_poles_start_on_all_time_scales_below_nyquist() -> None:
    poles = Poles(64, dt=0.002, longest=2.0, cycles=8.0)
    seconds, hertz = poles.seconds(), poles.hertz()
    ratios = seconds[1:] / seconds[:-1]
    torch.testing.assert_close(ratios, torch.full((63,), (0.002 / 2.0) ** (1 / 63)))
    assert seconds[0] == pytest.approx(2.0)
    assert seconds[-1] == pytest.approx(0.002)
    assert (hertz >= 0).all()
    assert hertz.max() <= 0.5 / 0.002 * 1.0001
    cycles = hertz * seconds
    assert cycles.max() <= 8.0
    assert cycles[:16].mean() == pytest.approx(4.0, rel=0.1)  # slow ones are not limited by the Nyquist frequency
    rate, angle = poles()
    torch.testing.assert_close(rate, 0.002 / seconds)
    torch.testing.assert_close(angle, 2 * math.pi * hertz * 0.002)


def test_poles_stay_stable_whatever_is_learned() -> None:
    poles = Poles(5, dt=0.001, longest=1.0, cycles=4.0)
    with torch.no_grad():
        poles.decay.copy_(torch.tensor([-50.0, -5.0, 0.0, 5.0, 50.0]))
    assert (poles()[0] > 0).all()


@pytest.mark.parametrize("causal", [True, False])
def test_impulse_responses_are_those_written_down(causal: bool) -> None:
    """``K_t = Re sum_k C_k gamma_k B_k exp((-alpha_k + i omega_k) t dt)`` on either side, and the skip."""
    bank, x = built(causal, gated=False), hidden()
    seconds, hertz = bank.poles.seconds(), bank.poles.hertz()
    pole = torch.exp(torch.complex(-1 / seconds, 2 * math.pi * hertz) * 0.001)
    gamma = (1 - pole.abs() ** 2).sqrt()
    lag = torch.arange(STEPS, dtype=torch.float64)
    powers = pole[:, None] ** lag
    sides = []
    for readout in bank.readout.detach().split(18, -1):  # Re(c s) = c_re s_re - c_im s_im
        c = torch.complex(readout[:, :9], -readout[:, 9:])
        sides.append(torch.einsum("dk,k,ke,kt->tde", c, (gamma + 0j), bank.synapses.detach() + 0j, powers).real)
    expected = bank.skip.detach() * x
    for t in range(STEPS):
        for j in range(STEPS):
            if j <= t:
                expected[:, t] += x[:, j] @ sides[0][t - j].T
            if not causal and j >= t:
                expected[:, t] += x[:, j] @ sides[1][j - t].T
    torch.testing.assert_close(bank(x, Context()), expected, rtol=0, atol=1e-6)  # the poles' constants are float32


@pytest.mark.parametrize("sizes", [[1] * STEPS, [7, 1, 50, 32]])
def test_decodes_as_it_reads(sizes: list[int]) -> None:
    bank, x = built(True), hidden()
    state: dict[str, object] = {}
    pieces, bytes_ = [], set()
    for part in x.split(sizes, 1):
        context = Context(state=state)
        pieces.append(bank(part, context))
        state = context.next_state
        bytes_.add(state["resonator"].untyped_storage().nbytes())  # type: ignore[attr-defined]
    torch.testing.assert_close(torch.cat(pieces, 1), bank(x, Context()), rtol=0, atol=1e-11)
    assert bytes_ == {2 * 9 * 2 * 8}


def test_no_state_is_left_where_nobody_reads_it() -> None:
    context = Context(keep_state=False)
    built(True)(hidden(), context)
    assert context.next_state == {}


def test_white_noise_leaves_states_of_unit_variance() -> None:
    torch.manual_seed(0)
    bank = Resonator(width=64, causal=True, modes=64, longest=0.1, gated=False)
    with torch.no_grad():
        bank.skip.zero_()
        out = bank(torch.randn(4, 4000, 64), Context())[:, 1000:]
    assert out.square().mean().sqrt() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("causal", [True, False])
def test_padding_on_either_side_is_silence(causal: bool) -> None:
    bank, x = built(causal), hidden()
    mask = torch.zeros(2, STEPS + 20, dtype=torch.bool)
    mask[:, 5 : 5 + STEPS] = True
    padded = torch.full((2, STEPS + 20, WIDTH), 1e3, dtype=torch.float64)
    padded[mask] = x.flatten(0, 1)
    out = bank(padded, Context(mask=mask))
    torch.testing.assert_close(out[mask].view_as(x), bank(x, Context()), rtol=0, atol=1e-11)
    assert (out[~mask] == 0).all()


def test_without_cycles_nothing_oscillates() -> None:
    bank = built(True, cycles=0.0)
    assert bank.poles.turns is None
    assert not bank.poles.hertz().any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"modes": 0}, "modes"),
        ({"dt": 0.0}, "time constants"),
        ({"longest": 1e-4}, "time constants"),
        ({"cycles": -1.0}, "cycles"),
    ],
)
def test_impossible_banks_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Resonator(width=WIDTH, causal=True, **options)  # type: ignore[arg-type]


def test_gamma_heads_and_resonators_lie_side_by_side() -> None:
    torch.manual_seed(0)
    both = GammaResonator(width=24, causal=True, heads=3, resonating=1, modes=9, content_heads=2)
    x = torch.randn(2, STEPS, 24)
    out = both(x, Context())
    assert both.gamma.content_heads == 1
    torch.testing.assert_close(out[..., :16], both.gamma(x[..., :16], Context()))
    torch.testing.assert_close(out[..., 16:], both.resonator(x[..., 16:], Context()))
    for heads, resonating in ((1, None), (4, 4), (4, 0), (5, None)):
        with pytest.raises(UsageError, match="Try"):
            GammaResonator(width=24, causal=True, heads=heads, resonating=resonating)
