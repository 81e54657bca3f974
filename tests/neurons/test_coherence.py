"""Coherence attention against its definition in float64, torch's softmax attention, scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor
from torch.nn import functional as F

from neurons import KERNELS
from neurons.errors import UsageError
from neurons.ops import coherence_scan
from neurons.ops.coherence import coherence_attention, disc_attention
from neurons.ops.cosine_series import cosine_coefficients, cosine_series

KERNEL_FUNCTIONS = {
    "von_mises": lambda d, kappa: torch.exp(kappa * (torch.cos(d) - 1)),
    "sigmoid_cosine": lambda d, kappa: 1 / (1 + torch.exp(-kappa * torch.cos(d))),
    "raised_cosine": lambda d, kappa: torch.cos(d / 2) ** (2 * round(2 * kappa)),
}


def definition(
    phase: Tensor,
    value: Tensor,
    *,
    kernel: str = "von_mises",
    kappa: float = 4.0,
    causal: bool = False,
    mask: Tensor | None = None,
    window: int | None = None,
    leak: float | tuple[float, ...] = 1.0,
) -> Tensor:
    """The double sum as it stands, from phase differences, in float64."""
    phase, value = phase.double(), value.double()
    n = phase.shape[-1]
    weight = KERNEL_FUNCTIONS[kernel](phase[..., :, None] - phase[..., None, :], kappa)
    distance = torch.arange(n, dtype=torch.float64)[:, None] - torch.arange(n, dtype=torch.float64)
    if causal:
        weight = weight * (distance >= 0)
    weight = weight * torch.tensor(leak, dtype=torch.float64).reshape(-1, 1, 1) ** distance.abs()
    if window is not None:
        weight = weight * (distance.abs() < window)
    if mask is not None:
        real = mask[:, None].double()
        weight = weight * real[..., None, :] * real[..., :, None]
    return weight @ value / weight.sum(-1, keepdim=True).clamp_min(1e-300)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def sample(n: int, *, batch: int = 2, heads: int = 2, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    phase = torch.rand(batch, heads, n, generator=generator) * 2 * math.pi
    value = torch.randn(batch, heads, n, width, generator=generator)
    return phase, value, torch.randn(batch, heads, n, width, generator=generator)


def with_gradients(function, phase: Tensor, value: Tensor, cotangent: Tensor) -> list[Tensor]:  # type: ignore[no-untyped-def]
    phase, value = phase.clone().requires_grad_(), value.clone().requires_grad_()
    out = function(phase, value)
    return [out, *torch.autograd.grad((out * cotangent.to(out.dtype)).sum(), [phase, value])]


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-6) -> None:
    """Within ``tolerance`` of the greatest element: phase gradients of first tokens sum large opposite terms."""
    for a, e in zip(actual, expected, strict=True):
        scale = max(1.0, float(e.detach().abs().max()))
        torch.testing.assert_close(a.double(), e.double(), rtol=tolerance, atol=tolerance * scale)


# 9: shorter than the series; 200 and 700: several chunks, the last one not full; both precisions of the layers
@pytest.mark.parametrize("n", [1, 9, 200, 700])
@pytest.mark.parametrize("kappa", [1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("causal", [False, True])
def test_series_is_the_definition_in_values_and_gradients(n: int, kappa: float, causal: bool) -> None:
    phase, value, cotangent = sample(n)
    fast = with_gradients(lambda p, v: coherence_attention(p, v, kappa=kappa, causal=causal), phase, value, cotangent)
    assert [t.dtype for t in fast] == [torch.float32] * 3
    slow = with_gradients(
        lambda p, v: definition(p, v, kappa=kappa, causal=causal), phase.double(), value.double(), cotangent
    )
    assert_close(fast, slow)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("leak", [None, 0.99, (0.5, 0.999)], ids=str)
def test_segments_join_without_a_seam(
    causal: bool, leak: float | tuple[float, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coherence_scan, "UNIT", 100)  # four chunks a segment
    phase, value, cotangent = sample(9 * coherence_scan.CHUNK + 7, batch=1)
    fast = with_gradients(lambda p, v: coherence_attention(p, v, causal=causal, leak=leak), phase, value, cotangent)
    slow = with_gradients(
        lambda p, v: definition(p, v, causal=causal, leak=leak or 1.0), phase.double(), value.double(), cotangent
    )
    assert_close(fast, slow)


@pytest.mark.parametrize("kernel", KERNELS.names())
@pytest.mark.parametrize("kappa", [1.0, 8.0])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", ["series", "dense"])
def test_every_kernel(kernel: str, kappa: float, causal: bool, mode: str) -> None:
    phase, value, cotangent = sample(150)
    fast = with_gradients(
        lambda p, v: coherence_attention(p, v, kernel=kernel, kappa=kappa, causal=causal, mode=mode),  # type: ignore[arg-type]
        phase,
        value,
        cotangent,
    )
    slow = with_gradients(
        lambda p, v: definition(p, v, kernel=kernel, kappa=kappa, causal=causal),
        phase.double(),
        value.double(),
        cotangent,
    )
    assert_close(fast, slow)


@pytest.mark.parametrize("causal", [False, True])
def test_von_mises_is_softmax_attention(causal: bool) -> None:
    phase, value, _ = sample(300)
    unit = 2.0 * torch.stack([torch.cos(phase), torch.sin(phase)], -1)  # sqrt(kappa) u
    softmax = F.scaled_dot_product_attention(unit, unit, value, is_causal=causal, scale=1.0)
    torch.testing.assert_close(coherence_attention(phase, value, kappa=4.0, causal=causal), softmax, rtol=0, atol=2e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 7, 64, 200])
@pytest.mark.parametrize("n", [64, 100])
def test_window_is_a_band_of_the_definition(causal: bool, window: int, n: int) -> None:
    phase, value, cotangent = sample(n)
    leak = 0.9 if causal else None
    fast = with_gradients(
        lambda p, v: coherence_attention(p, v, mode="window", window=window, causal=causal, leak=leak),
        phase,
        value,
        cotangent,
    )
    slow = with_gradients(
        lambda p, v: definition(p, v, causal=causal, window=window, leak=leak or 1.0),
        phase.double(),
        value.double(),
        cotangent,
    )
    assert_close(fast, slow)


@pytest.mark.parametrize("n", [100, 300, 600])
@pytest.mark.parametrize("leak", [0.9, 0.999, 1.0, (0.5, 0.98)], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_leak_forgets_by_distance(n: int, leak: float | tuple[float, ...], causal: bool) -> None:
    phase, value, cotangent = sample(n)
    fast = with_gradients(lambda p, v: coherence_attention(p, v, causal=causal, leak=leak), phase, value, cotangent)
    slow = with_gradients(
        lambda p, v: definition(p, v, causal=causal, leak=leak), phase.double(), value.double(), cotangent
    )
    assert_close(fast, slow)


OPTIONS = [
    {},
    {"mode": "dense"},
    {"mode": "window", "window": 20},
    {"causal": True},
    {"leak": (0.8, 0.98)},
    {"causal": True, "leak": 0.95},
    {"causal": True, "mode": "window", "window": 20},
]


@pytest.mark.parametrize("n", [40, 300])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_masked_tokens_neither_attend_nor_are_attended_to(options: dict, n: int) -> None:
    phase, value, _ = sample(n)
    mask = torch.ones(2, n, dtype=torch.bool)
    mask[0, n - 13 :] = False
    mask[1, ::3] = False
    oracle = {key: option for key, option in options.items() if key != "mode"}
    expected = definition(phase, value, mask=mask, **oracle)
    phase = phase.masked_fill(~mask[:, None], float("nan"))  # whatever stands there
    value = value.masked_fill(~mask[:, None, :, None], float("inf"))
    assert_close([coherence_attention(phase, value, mask=mask, **options)], [expected])


@pytest.mark.parametrize("options", [o for o in OPTIONS if o.get("causal")], ids=str)
def test_no_suffix_reaches_its_past(options: dict) -> None:
    phase, value, _ = sample(200, batch=1)
    before = coherence_attention(phase, value, **options)
    for t in range(1, 200, 7):
        noisy_phase, noisy_value = phase.clone(), value.clone()
        noisy_phase[..., t:] += torch.randn(200 - t)
        noisy_value[..., t:, :] += torch.randn(200 - t, 5)
        after = coherence_attention(noisy_phase, noisy_value, **options)
        torch.testing.assert_close(after[..., :t, :], before[..., :t, :], rtol=0, atol=1e-6)
        assert (after[..., t:, :] - before[..., t:, :]).abs().max() > 0.01


@pytest.mark.parametrize("kappa", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_coefficients_are_bessel_functions(kappa: float) -> None:
    c = cosine_coefficients(KERNELS.build("von_mises", kappa=kappa))[:40]
    m = torch.arange(40)
    expected = torch.from_numpy(special.ive(m.numpy(), kappa)) * torch.where(m == 0, 1.0, 2.0).double()
    torch.testing.assert_close(c, expected, rtol=0, atol=1e-14)


def test_raised_cosine_has_the_binomial_series() -> None:
    series = cosine_series("raised_cosine", 4.0)
    expected = [special.comb(16, 8 + m) / 2**16 * (1 if m == 0 else 2) for m in range(9)]
    assert series.order == 8
    assert series.coefficients == pytest.approx(expected, rel=0, abs=1e-14)


def test_order_matches_the_published_truncation() -> None:
    # a sup error of the scaled von Mises kernel below 6e-8 needs these; ours serves
    # gradients and long sums too, so it is greater, but not by much
    for kappa, enough in {1.0: 8, 2.0: 10, 4.0: 13, 8.0: 17}.items():
        assert enough <= cosine_series("von_mises", kappa).order <= enough + 6
        assert enough <= cosine_series("von_mises", kappa).fast_order <= enough + 2
    assert cosine_series("von_mises", 4.0, 5).order == cosine_series("von_mises", 4.0, 5).fast_order == 5


@pytest.mark.parametrize("causal", [False, True])
def test_isolated_antiphase_query(causal: bool) -> None:
    # 64k oscillators in phase, the last one against them: its weights are 1 and e^-16
    n = 65536
    _, value, _ = sample(n, batch=1, heads=1, width=3)
    phase = torch.zeros(1, 1, n)
    phase[..., -1] = math.pi
    out = coherence_attention(phase, value, kappa=8.0, causal=causal)[0, 0, -1].double()
    far = math.exp(-16)
    v = value[0, 0].double()
    expected = (v[-1] + far * v[:-1].sum(0)) / (1 + far * (n - 1))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [60, 300])
def test_amplitude_one_is_the_phase_form(causal: bool, n: int) -> None:
    phase, value, cotangent = sample(n)
    series = cosine_series("von_mises", 4.0)
    disc = with_gradients(
        lambda p, v: disc_attention(torch.cos(p), torch.sin(p), v, series, unit=False, causal=causal),
        phase.double(),
        value.double(),
        cotangent,
    )
    exact = with_gradients(lambda p, v: definition(p, v, causal=causal), phase.double(), value.double(), cotangent)
    assert_close(disc, exact, 1e-8)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [10, 60, 300, 600])
def test_amplitudes_blur_the_kernel(causal: bool, n: int) -> None:
    # the kernel of amplitudes r, r' is von Mises averaged over a wrapped Cauchy of mean resultant length r r'
    phase, value, _ = sample(n, batch=1)
    amplitude = torch.rand(1, 2, n)
    out = disc_attention(
        amplitude * torch.cos(phase),
        amplitude * torch.sin(phase),
        value,
        cosine_series("von_mises", 4.0),
        unit=False,
        causal=causal,
    )
    d = phase.double()[..., :, None] - phase.double()[..., None, :]
    r = amplitude.double()[..., :, None] * amplitude.double()[..., None, :]
    weight = special.ive(0, 4.0) + sum(2 * special.ive(m, 4.0) * r**m * torch.cos(m * d) for m in range(1, 30))
    if causal:
        weight = weight.tril()
    assert weight.min() >= 0
    assert_close([out], [weight @ value.double() / weight.sum(-1, keepdim=True)], 2e-6)


def test_amplitude_zero_attends_uniformly() -> None:
    _, value, _ = sample(50)
    zero = torch.zeros(2, 2, 50)
    series = cosine_series("von_mises", 4.0)
    out = disc_attention(zero, zero, value, series, unit=False, causal=True)
    assert_close([out], [value.double().cumsum(2) / torch.arange(1, 51)[:, None]])


def test_bfloat16_values_are_averaged_in_float32() -> None:
    phase, value, _ = sample(100)
    low = value.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = coherence_attention(phase, low)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, definition(phase, low).bfloat16(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "sereis"}, "Did you mean 'series'"),
        ({"mode": "window"}, "window=128"),
        ({"window": 4}, "mode='window'"),
        ({"mode": "window", "window": 0}, "at least one token"),
        ({"leak": 1.5}, "factor in"),
        ({"leak": (0.9, 0.0)}, "factor in"),
        ({"leak": (0.9, 0.9, 0.9)}, "3 factors for 2 heads"),
        ({"kappa": 0.0}, "above 0"),
        ({"kappa": math.nan}, "above 0"),
        ({"order": 0}, "out of range"),
        ({"kappa": 1e7}, "out of range"),
        ({"kernel": "von_misses"}, "Did you mean 'von_mises'"),
    ],
)
def test_contradictions_are_usage_errors(options: dict, message: str) -> None:
    phase, value, _ = sample(4)
    with pytest.raises(UsageError, match=message):
        coherence_attention(phase, value, **options)


@pytest.mark.parametrize("kernel", ["von_mises", "sigmoid_cosine", "raised_cosine"])
def test_the_order_does_not_hang_on_the_rounding_of_the_fft(kernel, monkeypatch):
    """Noise of the size that another thread count or memory alignment gives leaves the order as it is."""
    expected = cosine_series.__wrapped__(kernel, 4.0, None).order
    exact = np.fft.rfft
    noise = np.random.default_rng(0)

    def rounded(x):
        c = exact(x)
        return c + 2e-15 * abs(c[0]) * noise.uniform(-2, 2, c.shape)

    monkeypatch.setattr(np.fft, "rfft", rounded)
    assert cosine_series.__wrapped__(kernel, 4.0, None).order == expected
