"""Queries with points of their own, against the double sum in float64: values, all three gradients, what is unheard."""

from __future__ import annotations

import math

import pytest
import torch
from test_coherence import KERNEL_FUNCTIONS, assert_close
from torch import Tensor

from neurons import KERNELS
from neurons.ops import coherence_full, coherence_op, coherence_scan
from neurons.ops.coherence import coherence_attention, listening_series, point_attention, stream_attention
from neurons.ops.coherence_cross import cross_attention
from neurons.ops.cosine_series import cosine_coefficients, cosine_series

FORMS: list[dict] = [
    {},
    {"causal": True},
    {"leak": (0.6, 0.97)},
    {"causal": True, "leak": (0.6, 0.97)},
    {"mode": "window", "window": 20},
    {"mode": "window", "window": 20, "causal": True},
    {"mode": "dense", "causal": True},
]
SERIES = FORMS[:4]


def sample(n: int, *, batch: int = 2, width: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Phases of senders and receivers (B, 2, N), values and a cotangent (B, 2, N, D)."""
    generator = torch.Generator().manual_seed(0)
    phase, query = (torch.rand(batch, 2, n, generator=generator) * 2 * math.pi for _ in range(2))
    value, cotangent = (torch.randn(batch, 2, n, width, generator=generator) for _ in range(2))
    return phase, query, value, cotangent


def disc(phase: Tensor, seed: int) -> Tensor:
    amplitude = 0.2 + 0.79 * torch.rand(phase.shape, generator=torch.Generator().manual_seed(seed))
    return torch.stack([amplitude * phase.cos(), amplitude * phase.sin()], -1)


def weighted(weight: Tensor, value: Tensor, mask: Tensor | None, options: dict) -> Tensor:
    """The average by weights (B, H, N, N) in float64, as it stands."""
    n = weight.shape[-1]
    distance = torch.arange(n, dtype=torch.float64)[:, None] - torch.arange(n, dtype=torch.float64)
    if options.get("causal"):
        weight = weight * (distance >= 0)
    leak = torch.tensor(options.get("leak", 1.0), dtype=torch.float64).reshape(-1, 1, 1)
    weight = weight * leak ** distance.abs() * (distance.abs() < options.get("window", n))
    if mask is not None:
        weight = weight * mask[:, None, :, None] * mask[:, None, None, :]
    return weight @ value.double() / weight.sum(-1, keepdim=True).clamp_min(1e-300)


def definition(kernel: str, phase: Tensor, query: Tensor, value: Tensor, mask: Tensor | None, options: dict) -> Tensor:
    difference = query.double()[..., :, None] - phase.double()[..., None, :]
    return weighted(KERNEL_FUNCTIONS[kernel](difference, 4.0), value, mask, options)


def blurred(kernel: str, z: Tensor, query: Tensor, value: Tensor, mask: Tensor | None, options: dict) -> Tensor:
    """Inside the disc: ``sum_m c_m Re (q conj z)^m``."""
    m = torch.arange(60)
    q, k = (torch.complex(t[..., :1].double(), t[..., 1:].double()) ** m for t in (query, z))
    weight = (q * cosine_coefficients(KERNELS.build(kernel, kappa=4.0))[:60]) @ k.mH
    return weighted(weight.real, value, mask, options)


def gradients(function, cotangent: Tensor, *inputs: Tensor) -> list[Tensor]:  # type: ignore[no-untyped-def]
    leaves = [t.clone().requires_grad_() for t in inputs]
    out = function(*leaves)
    return [out, *torch.autograd.grad((out * cotangent.to(out.dtype)).sum(), leaves)]


def double(*tensors: Tensor) -> list[Tensor]:
    return [t.double() for t in tensors]


# 9: first tokens, that hear few; 150: one chunk; 700: several, the last not full
@pytest.mark.parametrize("n", [1, 9, 150, 700])
@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_on_the_circle_it_is_the_definition(n: int, options: dict, masked: bool) -> None:
    phase, query, value, cotangent = sample(n)
    mask = torch.rand(2, n, generator=torch.Generator().manual_seed(1)) > 0.2 if masked else None

    def fast(p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        return coherence_attention(p, v, query_phase=q, mask=mask, **options)

    def slow(p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        return definition("von_mises", p, q, v, mask, options)

    got = gradients(fast, cotangent, phase, query, value)
    assert [t.dtype for t in got] == [torch.float32] * 4
    assert_close(got, gradients(slow, cotangent, *double(phase, query, value)))


@pytest.mark.parametrize("n", [9, 150, 300])
@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("kernel", KERNELS.names())
def test_inside_the_disc_it_is_the_blurred_kernel(n: int, options: dict, kernel: str) -> None:
    phase, query, value, cotangent = sample(n, batch=1)
    z, q, series = disc(phase, 1), disc(query, 2), cosine_series(kernel, 4.0)
    mask = torch.rand(1, n, generator=torch.Generator().manual_seed(1)) > 0.2

    def fast(z: Tensor, q: Tensor, v: Tensor) -> Tensor:
        return point_attention(z, v, series, query=q, unit=False, mask=mask, **options)

    def slow(z: Tensor, q: Tensor, v: Tensor) -> Tensor:
        return blurred(kernel, z, q, v, mask, options)

    assert_close(gradients(fast, cotangent, z, q, value), gradients(slow, cotangent, *double(z, q, value)))


@pytest.mark.parametrize("options", SERIES, ids=str)
@pytest.mark.parametrize("n", [60, 300])
def test_a_kernel_without_a_closed_form_here(options: dict, n: int) -> None:
    phase, query, value, cotangent = sample(n)
    fast = gradients(
        lambda p, q, v: coherence_attention(p, v, query_phase=q, kernel="sigmoid_cosine", **options),
        cotangent,
        phase,
        query,
        value,
    )
    slow = gradients(
        lambda p, q, v: definition("sigmoid_cosine", p, q, v, None, options), cotangent, *double(phase, query, value)
    )
    assert_close(fast, slow)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 4 tokens, four of them a segment, so that a few tokens have everything."""
    monkeypatch.setattr(coherence_scan, "CHUNK", 4)
    monkeypatch.setattr(coherence_scan, "UNIT", 1)
    for name in ("DENSE_UP_TO", "DENSE_UP_TO_BOTH_WAYS"):
        monkeypatch.setattr(coherence_scan, name, 4)
    for name in ("FULL_ABOVE", "FULL_ABOVE_BY_FEATURES"):
        monkeypatch.setattr(coherence_op, name, 4)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("options", SERIES, ids=str)
@pytest.mark.parametrize("kernel", ["von_mises", "sigmoid_cosine"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_finite_differences(options: dict, kernel: str, masked: bool) -> None:
    phase, query, value, _ = sample(22, batch=1, width=2)
    mask = (torch.arange(22)[None] % 5 != 2) if masked else None
    series = cosine_series(kernel, 1.5, 6)
    leaves = [t.double().requires_grad_() for t in (disc(phase, 1), disc(query, 2), value)]
    assert torch.autograd.gradcheck(
        lambda z, q, v: point_attention(z, v, series, query=q, unit=False, mask=mask, **options), leaves, fast_mode=True
    )
    leaves = [t.double().requires_grad_() for t in (phase, query, value)]
    assert torch.autograd.gradcheck(
        lambda p, q, v: coherence_attention(p, v, query_phase=q, kernel=kernel, kappa=1.5, mask=mask, **options),
        leaves,
        fast_mode=True,
    )


@pytest.mark.parametrize("kappa", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [50, 700])
def test_receivers_in_antiphase_to_all_senders(kappa: float, causal: bool, n: int) -> None:
    # nobody hears more than e^(-2 kappa) of the weight at hand; in float32 the sum of the field is noise
    _, _, value, cotangent = sample(n)
    phase = 0.2 * torch.randn(2, 2, n, generator=torch.Generator().manual_seed(3))
    query = phase.flip(-1) + math.pi

    def slow(p: Tensor, q: Tensor, v: Tensor) -> Tensor:
        weight = torch.exp(kappa * (torch.cos(q[..., :, None] - p[..., None, :]) - 1))
        return weighted(weight, v, None, {"causal": causal})

    fast = gradients(
        lambda p, q, v: coherence_attention(p, v, query_phase=q, kappa=kappa, causal=causal),
        cotangent,
        phase,
        query,
        value,
    )
    assert_close(fast, gradients(slow, cotangent, *double(phase, query, value)), 2e-6)


def test_ordinary_activity_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    original = coherence_scan.cancels

    def note(*arguments: object) -> bool:
        found.append(original(*arguments))  # type: ignore[arg-type]
        return found[-1]

    for module in (coherence_scan, coherence_full):
        monkeypatch.setattr(module, "cancels", note)
    phase, query, value, _ = sample(2000, batch=1)
    series = cosine_series("von_mises", 4.0)
    point_attention(disc(phase, 1), value, series, query=disc(query, 2), unit=False)
    coherence_attention(phase, value, query_phase=query, causal=True)
    # late in a chunk little is left of the chunks before: who hears a fiftieth of every key hears enough of those near
    phase, late = 0.1 * phase, torch.arange(2000) % coherence_scan.CHUNK >= 16
    coherence_attention(phase, value, query_phase=phase + 1.5 * late, causal=True, leak=0.9)
    assert len(found) > 2
    assert not any(found)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", ["series", "dense"])
@pytest.mark.parametrize("n", [20, 300])
def test_who_hears_nothing_gets_zero(causal: bool, mode: str, n: int) -> None:
    # the raised cosine is 0 in antiphase
    _, _, value, cotangent = sample(n, batch=1)
    phase = torch.zeros(1, 2, n)
    query = phase.clone()
    query[..., 1::2] = math.pi
    out, *found = gradients(
        lambda p, q, v: coherence_attention(p, v, query_phase=q, kernel="raised_cosine", mode=mode, causal=causal),  # type: ignore[arg-type]
        cotangent,
        phase.double(),
        query.double(),
        value.double(),
    )
    assert (out[:, :, 1::2].abs() < 1e-12).all()
    weight = torch.ones(n, n).tril() if causal else torch.ones(n, n)
    expected = weight.double() @ value.double() / weight.sum(-1, keepdim=True)
    assert_close([out[:, :, ::2]], [expected[:, :, ::2]])
    assert all(torch.isfinite(t).all() for t in found)


def test_all_pairs_are_the_cross_attention_of_other_tokens() -> None:
    phase, query, value, _ = sample(300)
    expected = cross_attention(query, phase, value)
    torch.testing.assert_close(coherence_attention(phase, value, query_phase=query), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", SERIES, ids=str)
@pytest.mark.parametrize("unit", [True, False])
def test_a_query_like_its_key_is_the_form_without(options: dict, unit: bool) -> None:
    phase, _, value, cotangent = sample(400)
    z = torch.stack([phase.cos(), phase.sin()], -1) if unit else disc(phase, 1)
    series = cosine_series("von_mises", 4.0)
    out, of_z, of_q, of_v = gradients(
        lambda z, q, v: point_attention(z, v, series, query=q, unit=unit, **options), cotangent, z, z, value
    )
    plain = gradients(lambda z, v: point_attention(z, v, series, unit=unit, **options), cotangent, z, value)
    together = of_z + of_q
    if unit:  # on the circle only the part along it has a meaning
        across = torch.stack([-z[..., 1], z[..., 0]], -1)
        together, plain[1] = ((t * across).sum(-1) for t in (together, plain[1]))
    assert_close([out, together, of_v], plain, 2e-6)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("leak", [None, (0.9, 0.999)], ids=str)
@pytest.mark.parametrize("sizes", [(1,), (1, 63, 2, 300)], ids=str)
def test_a_stream_is_the_whole_sequence(unit: bool, leak: tuple[float, ...] | None, sizes: tuple[int, ...]) -> None:
    n = 60 if sizes == (1,) else 1200
    phase, query, value, _ = sample(n)
    z, q = (torch.stack([t.cos(), t.sin()], -1) if unit else disc(t, 1) for t in (phase, query))
    mask = torch.ones(2, n, dtype=torch.bool)
    mask[1, 5:9] = mask[1, -20:] = False
    series = cosine_series("von_mises", 4.0)
    whole = point_attention(z, value, series, query=q, unit=unit, causal=True, leak=leak, mask=mask)
    trace, parts, start = None, [], 0
    while start < n:
        part = slice(start, start + sizes[len(parts) % len(sizes)])
        out, trace = stream_attention(
            z[:, :, part],
            value[:, :, part],
            series,
            trace,
            query=q[:, :, part],
            unit=unit,
            leak=leak,
            mask=mask[:, part],
        )
        parts.append(out)
        start = part.stop
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=0, atol=2e-6)


@pytest.mark.parametrize("options", [*SERIES, {"mode": "dense"}, {"mode": "window", "window": 9}], ids=str)
def test_the_compiler_takes_it_whole(options: dict) -> None:
    torch._dynamo.reset()
    phase, query, value, _ = sample(300, batch=1)
    leaves = [t.clone().requires_grad_() for t in (disc(phase, 1), disc(query, 2), value)]
    series = cosine_series("von_mises", 4.0)

    def run(z: Tensor, q: Tensor, v: Tensor) -> Tensor:
        return point_attention(z, v, series, query=q, unit=False, **options)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=False)
    wanted, got = run(*leaves), compiled(*leaves)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    expected = torch.autograd.grad(wanted.square().sum(), leaves)
    for a, e in zip(torch.autograd.grad(got.square().sum(), leaves), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"causal": True}, {"mode": "dense"}, {"leak": (0.6, 0.97)}], ids=str)
def test_few_faint_senders_inside_the_disc_keep_their_precision(options: dict) -> None:
    # k is 1e-2 of k(0) here: the features' rounding in float32 would be 1e-5 of the average
    _, _, value, _ = sample(40)
    phase = 0.2 * torch.randn(2, 2, 40, generator=torch.Generator().manual_seed(3))
    z, q = (0.998 * torch.stack([t.cos(), t.sin()], -1) for t in (phase, phase.flip(-1) + math.pi))
    series = cosine_series("von_mises", 4.0)
    fast = point_attention(z, value, series, query=q, unit=False, **options)
    assert_close([fast], [blurred("von_mises", z, q, value, None, options)], 5e-7)


def test_a_stream_of_points_that_float32_rounds_is_on_the_circle() -> None:
    # a radius of 1 - 6e-8 would blur the kernel of the field by 2e-5 of k(pi)
    _, _, value, _ = sample(40)
    phase = 0.2 * torch.randn(2, 2, 40, generator=torch.Generator().manual_seed(3))
    query = phase.flip(-1) + math.pi
    z, q = (torch.stack([t.cos(), t.sin()], -1) for t in (phase, query))
    trace, parts, series = None, [], listening_series("von_mises", 4.0)
    for t in range(40):
        now = slice(t, t + 1)
        out, trace = stream_attention(z[:, :, now], value[:, :, now], series, trace, query=q[:, :, now], unit=True)
        parts.append(out)
    expected = definition("von_mises", phase, query, value, None, {"causal": True})
    assert_close([torch.cat(parts, 2)], [expected], 1e-6)
