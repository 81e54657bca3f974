"""The global filter answers a sine as its spectrum says, at every length."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from neurons import MODELS
from neurons.errors import UsageError
from neurons.resonance.spectral_filter import SpectralFilter, knots
from neurons.specs import Batch, Context, InputSpec, OutputSpec


def built(width: int = 3, modes: int = 12, longest: float = 0.1) -> SpectralFilter:
    torch.manual_seed(0)
    return SpectralFilter(width=width, causal=False, modes=modes, longest=longest).double()


def sine(hertz: float, steps: int, dt: float = 0.001) -> Tensor:
    return torch.exp(2j * math.pi * hertz * dt * torch.arange(steps, dtype=torch.float64))


@pytest.mark.parametrize("m", [2, 5, 8, 10])
def test_a_sine_at_a_knot_is_multiplied_by_its_weight(m: int) -> None:
    layer = built()
    wave = sine(knots(12, 0.001, 0.1)[m], 4000)
    x = torch.stack([wave.real, wave.imag])[..., None].expand(2, 4000, 3)
    out = layer(x, Context())[:, 2000]  # far from both ends
    weight = torch.complex(layer.spectrum[:, m], layer.spectrum[:, 12 + m]).detach()
    expected = weight * wave[2000]
    torch.testing.assert_close(torch.complex(out[0], out[1]), expected, rtol=0, atol=0.1)  # its end blunts the hats


def test_a_constant_is_multiplied_by_the_real_part_of_the_lowest_knot() -> None:
    layer = built()
    out = layer(torch.ones(1, 4000, 3, dtype=torch.float64), Context())[0, 2000]
    torch.testing.assert_close(out, layer.spectrum[:, 0], rtol=0, atol=0.02)


@pytest.mark.parametrize("steps", [50, 900])  # within the reach of the response, and beyond
def test_the_response_is_the_same_in_a_longer_sequence(steps: int) -> None:
    layer = built()
    x = torch.randn(2, steps, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    longer = torch.cat([torch.zeros(2, 30, 3), x, torch.zeros(2, 3 * steps - 30, 3)], 1)
    torch.testing.assert_close(layer(longer, Context())[:, 30 : 30 + steps], layer(x, Context()), rtol=0, atol=1e-11)


def test_the_network_takes_it_for_labels_and_not_for_tokens() -> None:
    specs = {"input": InputSpec("tokens", 40, 20), "mixer": "spectral", "width": 16, "modes": 8}
    model = MODELS.build("resonance_net", output=OutputSpec("label", 3), **specs)
    x = torch.randint(1, 20, (2, 160))
    loss = model.loss(Batch(x, x[:, 0] % 3))
    loss.objective.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    with pytest.raises(UsageError, match="cannot be causal"):
        MODELS.build("resonance_net", output=OutputSpec("token", 20), **specs)


def test_impossible_spectra_are_refused() -> None:
    for options in ({"modes": 1}, {"dt": 0.0}, {"longest": 0.001}):
        with pytest.raises(UsageError, match=r"modes|knot"):
            SpectralFilter(width=3, causal=False, **options)
