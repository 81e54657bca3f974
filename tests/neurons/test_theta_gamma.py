"""Two rhythms per head: fast forms against all pairs, softmax attention and loops; capacity against closed forms."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neurons import ATTENTIONS, KERNELS
from neurons.errors import UsageError
from neurons.ops import coherence_product
from neurons.ops.coherence_product import disc_points, product_attention, product_attention_reference, short_series
from neurons.ops.cosine_series import cosine_series
from neurons.oscillations.rhythm import equal_ratios, gamma_band
from neurons.oscillations.theta_gamma import ThetaGammaAttention, capacity, own_share
from neurons.specs import Context

both = pytest.mark.parametrize("causal", [False, True])
COMBINED = [("product", None), ("mixture", None), ("mixture", (0.2, 1.3))]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def circle(phase: Tensor) -> Tensor:
    return torch.stack([phase.cos(), phase.sin()], -1)


def right_padding(n: int) -> Tensor:
    return torch.arange(n) < torch.tensor([[n], [max(1, n // 3)]])


@both
@pytest.mark.parametrize(("combine", "weights"), COMBINED)
@pytest.mark.parametrize("n", [1, 7, 64, 150])
def test_features_give_the_sum_over_all_pairs(causal: bool, combine: str, weights: object, n: int) -> None:
    series = (short_series("von_mises", 2.0), short_series("raised_cosine", 3.0))
    leaves = [disc_points(draw(2, 2, n, 2, seed=seed), 1.0).requires_grad_() for seed in (0, 1)]
    value = draw(2, 2, n, 3, seed=2).requires_grad_()
    mask, probe = right_padding(n), draw(2, 2, n, 3, seed=3)
    results = []
    for form in (product_attention, product_attention_reference):
        out = form(leaves, value, series, combine=combine, weights=weights, causal=causal, mask=mask)  # type: ignore[arg-type, operator]
        results.append([out, *torch.autograd.grad((out * probe).sum(), [*leaves, value])])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)
    assert not results[0][0][1, :, max(1, n // 3) :].any()


@both
def test_segments_and_float64_carry_long_sequences(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coherence_product, "SEGMENT", 128)
    n = 600
    points = [disc_points(3 * draw(1, 1, n, 2, seed=seed), 3.0) for seed in (0, 1)]
    value, series = draw(1, 1, n, 2, seed=2), (short_series(),) * 2
    exact = product_attention_reference(points, value, series, causal=causal)
    torch.testing.assert_close(product_attention(points, value, series, causal=causal), exact, rtol=0, atol=1e-11)
    low = product_attention([point.float() for point in points], value.float(), series, causal=causal)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), exact, rtol=0, atol=2e-6)


@both
def test_a_token_against_a_crowd_in_antiphase_hears_itself(causal: bool) -> None:
    """Its weight of 1 is the difference of feature sums as large as the crowd: float32 would lose it."""
    n = 3000
    phase = torch.zeros(1, 1, n).index_fill(2, torch.tensor([n - 1]), math.pi)
    value = torch.full((1, 1, n, 1), 5.0).index_fill(2, torch.tensor([n - 1]), -1.0)
    out = product_attention([circle(phase)] * 2, value, (cosine_series("raised_cosine", 4.0),) * 2, causal=causal)
    assert out[0, 0, -1].item() == pytest.approx(-1.0, abs=1e-6)


@both
@pytest.mark.parametrize("n", [20, 200])
def test_product_of_von_mises_is_softmax_attention_on_both_circles(causal: bool, n: int) -> None:
    phases, value = [4 * draw(2, 1, n, seed=seed) for seed in (0, 1)], draw(2, 1, n, 3, seed=2)
    query = torch.cat([math.sqrt(kappa) * circle(phase) for kappa, phase in zip((1.5, 0.7), phases, strict=True)], -1)
    expected = F.scaled_dot_product_attention(query, query, value, is_causal=causal, scale=1.0)
    series = (cosine_series("von_mises", 1.5), cosine_series("von_mises", 0.7))
    out = product_attention([circle(phase) for phase in phases], value, series, causal=causal)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
    short = tuple(short_series("von_mises", kappa) for kappa in (1.5, 0.7))
    out = product_attention([circle(phase) for phase in phases], value, short, causal=causal)
    torch.testing.assert_close(out, expected, rtol=0, atol=5e-3)


def test_mixture_of_raised_cosines_is_its_formula() -> None:
    gamma, theta, value = 4 * draw(1, 1, 30, seed=0), 4 * draw(1, 1, 30, seed=1), draw(1, 1, 30, 3, seed=2)
    k = sum(w * ((1 + torch.cos(p[..., :, None] - p[..., None, :])) / 2) ** 4 for w, p in ((0.3, gamma), (0.7, theta)))
    out = product_attention(
        [circle(gamma), circle(theta)], value, (short_series(), short_series()), combine="mixture", weights=(0.3, 0.7)
    )
    torch.testing.assert_close(out, k @ value / k.sum(-1, keepdim=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS.names())
@pytest.mark.parametrize("kappa", [1.0, 2.0, 4.0, 8.0])
def test_short_series_keeps_kernel_and_derivative(kernel: str, kappa: float) -> None:
    d = np.linspace(0, 2 * math.pi, 2001)
    k = KERNELS.build(kernel, kappa=kappa)
    exact = k(torch.from_numpy(np.cos(d))).numpy()
    peak, step = exact.max(), d[1]

    def errors(coefficients: tuple[float, ...]) -> float:
        m = np.arange(len(coefficients))[:, None]
        values = np.asarray(coefficients) @ np.cos(m * d)
        slopes = np.gradient(exact - values, step)
        return max(np.abs(values - exact).max(), np.abs(slopes).max()) / peak

    series = short_series(kernel, kappa)
    assert errors(series.coefficients) <= 1e-3
    assert series.order <= cosine_series(kernel, kappa).order
    if series.order > 1:  # and no longer than that: the tail with one more term dropped is above the tolerance
        full = cosine_series(kernel, kappa).coefficients
        assert sum(m * abs(c) for m, c in enumerate(full) if m >= series.order) > 1e-3 * peak


def test_disc_points_are_smooth_at_zero_and_stay_inside() -> None:
    pairs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3e4, -4e4]], dtype=torch.float64, requires_grad=True)
    points = disc_points(pairs, 3.0)
    assert points[1, 0].item() == pytest.approx(3 / math.sqrt(10))
    assert points[2].tolist() == pytest.approx([0.6, -0.8])
    assert torch.autograd.grad(points[0].sum(), pairs)[0][0].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("kernel", ["von_mises", "raised_cosine"])
@pytest.mark.parametrize(("gamma", "theta"), [(5, 1), (5, 4), (3, 3), (1, 1)])
def test_recall_is_what_the_kernel_sums_say(kernel: str, gamma: int, theta: int) -> None:
    """On a grid the share of the right item is k(0)^2 / (sum_a k(2 pi a / n) sum_b k(2 pi b / m))."""
    k = KERNELS.build(kernel, kappa=4.0)
    sums = [float(k(torch.cos(2 * math.pi * torch.arange(n, dtype=torch.float64) / n)).sum()) for n in (gamma, theta)]
    assert own_share(gamma, theta, kernel=kernel, kappa=4.0) == pytest.approx(1 / (sums[0] * sums[1]), abs=2e-3)
    mixed = 2 / (sums[0] * theta + sums[1] * gamma)
    assert own_share(gamma, theta, combine="mixture", kernel=kernel, kappa=4.0) == pytest.approx(mixed, abs=2e-3)


def test_a_product_holds_more_than_one_gamma_frequency() -> None:
    assert capacity(rhythms=1) == (5, 1)  # about 5 at kappa 4 and 7 to 8 at kappa 8
    assert capacity() == (5, 4)
    assert capacity(rhythms=1, kappa=8.0)[0] in (7, 8)
    assert (
        math.prod(capacity(kernel="raised_cosine", kappa=2.0))
        >= 3 * capacity(rhythms=1, kernel="raised_cosine", kappa=2.0)[0]
    )
    assert math.prod(capacity(combine="mixture")) <= capacity(rhythms=1)[0]


def layer(causal: bool = False, width: int = 16, **options: object) -> ThetaGammaAttention:
    return ATTENTIONS.build("theta_gamma", width=width, causal=causal, **{"heads": 2, **options})


def by_hand(attention: ThetaGammaAttention, x: Tensor) -> Tensor:
    """One sample (T, D) in complex numbers, pair by pair."""
    steps, size = x.shape[0], x.shape[1] // attention.heads
    bands = (gamma_band(attention.heads, attention.low, attention.high),
             equal_ratios(attention.heads, attention.theta_high, attention.theta_low))  # fmt: skip
    coefficients = short_series(attention.kernel, attention.kappa).coefficients
    out = torch.empty_like(x)
    for h in range(attention.heads):
        v = x[:, h * size : (h + 1) * size]
        z = []
        for rhythm, hertz in enumerate(bands):
            w = [complex(*v[t, 2 * rhythm : 2 * rhythm + 2].tolist()) for t in range(steps)]
            z.append([
                attention.gain * one / math.sqrt(1 + attention.gain**2 * abs(one) ** 2)
                * cmath.exp(2j * math.pi * hertz[h] * attention.dt * t)
                for t, one in enumerate(w)
            ])  # fmt: skip
        for i in range(steps):
            total, weight = torch.zeros(size, dtype=x.dtype), 0.0
            for j in range(i + 1 if attention.is_causal else steps):
                fast, slow = (
                    sum(c * ((one[i] * one[j].conjugate()) ** m).real for m, c in enumerate(coefficients)) for one in z
                )
                share = attention.gamma_share
                k = fast * slow if attention.combine == "product" else share * fast + (1 - share) * slow
                total, weight = total + k * v[j], weight + k
            out[i, h * size : (h + 1) * size] = total / weight
    return out


@both
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel": "von_mises", "kappa": 3.0, "gain": 1.0, "dt": 0.004},
        {"combine": "mixture", "gamma_share": 0.3, "theta_low": 2.0, "theta_high": 12.0, "low": 40.0, "high": 80.0},
    ],
)
def test_layer_is_the_formula(causal: bool, options: dict[str, object]) -> None:
    attention, x = layer(causal, **options), draw(9, 16)
    torch.testing.assert_close(attention(x[None], Context())[0], by_hand(attention, x), rtol=0, atol=1e-9)


def test_no_parameter_and_both_order_parameters() -> None:
    attention, mask = layer(), right_padding(12)
    context = Context(mask=mask, observables={})
    x = draw(2, 12, 16)
    attention(x, context)
    assert list(attention.parameters()) == []
    assert set(context.observables) == {"theta_gamma.R", "theta_gamma.R_theta"}  # type: ignore[arg-type]
    bare = Context(observables={})
    attention(x[1:, :4], bare)
    for name, value in bare.observables.items():  # type: ignore[union-attr]
        assert value.shape == (1, 2)
        torch.testing.assert_close(context.observables[name][1:], value)  # type: ignore[index]
    gamma = x[1, :4, :2].numpy() @ [1, 1j]  # head 0
    z = 3 * gamma / np.sqrt(1 + 9 * np.abs(gamma) ** 2) * np.exp(2j * math.pi * 30.0 * 0.001 * np.arange(4))
    assert bare.observables["theta_gamma.R"][0, 0].item() == pytest.approx(abs(z.mean()), abs=1e-6)  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 8}, "width 16 does not split into 8 heads"),
        ({"combine": "sum"}, "combine"),
        ({"gamma_share": 0.3}, "gamma_share"),
        ({"combine": "mixture", "gamma_share": 1.0}, "gamma_share"),
        ({"low": 70.0}, "60 Hz"),
        ({"theta_low": 9.0}, "theta"),
        ({"dt": 0.0}, "gain and dt"),
    ],
)
def test_wrong_options_are_usage_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        layer(**options)


def test_features_are_bounded_and_weights_belong_to_a_mixture() -> None:
    points, value = [circle(draw(1, 1, 4, seed=seed)) for seed in (0, 1)], draw(1, 1, 4, 2)
    sharp, short = short_series("sigmoid_cosine", 8.0), short_series()
    with pytest.raises(UsageError, match="a product of 2601 features"):
        product_attention(points, value, (sharp, sharp))
    product_attention(points, value, (sharp, sharp), combine="mixture")
    with pytest.raises(UsageError, match="no weights"):
        product_attention(points, value, (short, short), weights=(0.5, 0.5))
    with pytest.raises(UsageError, match="as many weights"):
        product_attention(points, value, (short, short), combine="mixture", weights=(0.5,))
    with pytest.raises(UsageError, match="Did you mean 'product'"):
        product_attention(points, value, (short, short), combine="produkt")  # type: ignore[arg-type]
