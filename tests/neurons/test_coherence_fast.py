"""The fast forms of coherence attention: gradients by finite differences, memory, streams, compiler, precision."""

from __future__ import annotations

import math

import pytest
import torch
from test_coherence import assert_close, definition, sample, with_gradients
from torch import Tensor
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.ops import coherence_op, coherence_scan
from neurons.ops.coherence import (
    coherence_attention,
    disc_attention,
    plan_of,
    point_attention,
    stream_attention,
)
from neurons.ops.coherence_order import order_parameters
from neurons.ops.cosine_series import cosine_series

FORMS: list[dict] = [
    {"causal": True},
    {"causal": True, "leak": (0.6, 0.97)},
    {"leak": (0.6, 0.97)},
    {},
]


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 4 tokens, four of them a segment, so that a few tokens have everything."""
    monkeypatch.setattr(coherence_scan, "CHUNK", 4)
    monkeypatch.setattr(coherence_scan, "DENSE_UP_TO", 4)
    monkeypatch.setattr(coherence_scan, "DENSE_UP_TO_BOTH_WAYS", 4)
    monkeypatch.setattr(coherence_scan, "UNIT", 1)
    monkeypatch.setattr(coherence_op, "FULL_ABOVE", 4)
    monkeypatch.setattr(coherence_op, "FULL_ABOVE_BY_FEATURES", 4)


def disc(n: int, *, batch: int = 2, width: int = 2) -> tuple[Tensor, Tensor]:
    phase, value, _ = sample(n, batch=batch, width=width)
    amplitude = 0.2 + 0.7 * torch.rand(phase.shape, generator=torch.Generator().manual_seed(1))
    z = torch.stack([amplitude * phase.cos(), amplitude * phase.sin()], -1)
    return z.double(), value.double()


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("kernel", ["von_mises", "sigmoid_cosine"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_finite_differences(options: dict, kernel: str, masked: bool) -> None:
    z, value = disc(22, batch=1)
    mask = (torch.arange(22)[None] % 5 != 2) if masked else None
    series = cosine_series(kernel, 1.5, 6)
    assert torch.autograd.gradcheck(
        lambda z, v: point_attention(z, v, series, unit=False, mask=mask, **options),
        [z.requires_grad_(), value.requires_grad_()],
        fast_mode=True,
    )
    phase = torch.atan2(z[..., 1], z[..., 0]).detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p, v: coherence_attention(p, v, kernel=kernel, kappa=1.5, order=20, mask=mask, **options),
        [phase, value],
        fast_mode=True,
    )


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("n", [3, 16, 33, 35])
def test_disc_segments_are_the_dense_form(options: dict, n: int) -> None:
    z, value = disc(n, batch=3)
    cotangent = torch.randn(value.shape, generator=torch.Generator().manual_seed(2))
    mask = torch.rand(3, n, generator=torch.Generator().manual_seed(3)) > 0.2
    series = cosine_series("von_mises", 3.0, 12)
    fast, slow = (
        with_gradients(
            lambda z, v, m=mode: point_attention(z, v, series, unit=False, mode=m, mask=mask, **options),
            z,
            value,
            cotangent,
        )
        for mode in ("series", "dense")
    )
    assert_close(fast, slow, 1e-11)


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_saved_memory_is_tokens_and_few_fields(options: dict) -> None:
    def saved(n: int) -> int:
        phase, value, _ = sample(n, batch=1, heads=2, width=16)
        sizes: dict[int, int] = {}

        def note(t: Tensor) -> Tensor:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            out = coherence_attention(phase.requires_grad_(), value.requires_grad_(), **options)
        assert out.requires_grad
        return sum(sizes.values())

    small, large = saved(2048), saved(8192)
    assert large <= 4.1 * small
    assert large < 8192 * 2 * 4 * (16 + 16 + 1 + 16 + 8)  # values, output, denominators, angles, a share of fields


@pytest.mark.parametrize("leak", [(), (0.9, 0.99)], ids=str)
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("n", [50, 300])  # with and without a field
def test_blocks_that_were_kept_are_those_made_again(leak: tuple[float, ...], split: bool, unit: bool, n: int) -> None:
    z, value = disc(n, batch=1)
    z = F.normalize(z, dim=-1) if unit else z
    query = z.flip(2) if split else None
    mask = torch.arange(n)[None] % 7 != 3
    plan = plan_of(cosine_series("von_mises", 2.0), unit, True, leak or None, 2, split)
    results, kept = coherence_scan.forward(z, value.float(), query, mask, None, plan)
    assert kept
    grad = torch.randn(value.shape, generator=torch.Generator().manual_seed(4))
    first, second, again = (
        [
            t
            for t in coherence_scan.backward(grad, z, value.float(), query, mask, *results, blocks, plan)
            if t is not None
        ]
        for blocks in (kept, kept, ())
    )
    for a, b, c in zip(first, second, again, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=0, atol=1e-6)


def test_only_few_tokens_keep_their_blocks() -> None:
    z, value = disc(300, batch=64, width=16)
    plan = plan_of(cosine_series(), False, True, None, 2)
    assert not coherence_scan.forward(z, value, None, None, None, plan)[1]


@pytest.mark.parametrize("kappa", [1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("causal", [False, True])
def test_one_opposed_query_is_as_exact_as_the_others(kappa: float, causal: bool) -> None:
    # phases in a narrow cluster, every 50th opposed: float32 fields would be 1e-4 off there at kappa = 8
    n = 1300
    phase, value, cotangent = sample(n, batch=1, heads=1, width=2)
    phase = 0.3 * phase / math.pi
    phase[..., 49::50] += math.pi
    run = {"kappa": kappa, "causal": causal}
    fast = with_gradients(lambda p, v: coherence_attention(p, v, **run), phase, value, cotangent)
    slow = with_gradients(lambda p, v: definition(p, v, **run), phase.double(), value.double(), cotangent)
    assert_close(fast, slow, 2e-6)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("leak", [None, (0.9, 0.999)], ids=str)
@pytest.mark.parametrize("sizes", [(1,), (1, 63, 2, 300)], ids=str)
def test_a_stream_is_the_whole_sequence(unit: bool, leak: tuple[float, ...] | None, sizes: tuple[int, ...]) -> None:
    n = 60 if sizes == (1,) else 1200
    z, value = disc(n)
    if unit:
        z = z / z.norm(dim=-1, keepdim=True)
    z, value = z.float(), value.float()
    mask = torch.ones(2, n, dtype=torch.bool)
    mask[1, 5:9] = mask[1, -20:] = False
    series = cosine_series("von_mises", 4.0)
    whole = point_attention(z, value, series, unit=unit, causal=True, leak=leak, mask=mask)
    trace, parts, start = None, [], 0
    while start < n:
        part = slice(start, start + sizes[len(parts) % len(sizes)])
        out, trace = stream_attention(
            z[:, :, part], value[:, :, part], series, trace, unit=unit, leak=leak, mask=mask[:, part]
        )
        parts.append(out)
        start = part.stop
        assert trace.field.shape == (2, 2, 2 * series.order + 1, 3)
        assert trace.field.dtype == torch.float64
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=0, atol=1e-6)


def test_a_stream_of_16k_tokens_does_not_drift() -> None:
    n = 16384
    phase, value, _ = sample(n, batch=1, heads=1, width=2)
    z = torch.stack([phase.cos(), phase.sin()], -1)
    series = cosine_series("von_mises", 4.0)
    whole = point_attention(z, value, series, unit=True, causal=True)
    _, trace = stream_attention(z[:, :, : n - 50], value[:, :, : n - 50], series, None, unit=True)
    for t in range(n - 50, n):
        out, trace = stream_attention(z[:, :, t : t + 1], value[:, :, t : t + 1], series, trace, unit=True)
        torch.testing.assert_close(out, whole[:, :, t : t + 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [*FORMS, {"mode": "dense"}, {"mode": "window", "window": 9}], ids=str)
def test_the_compiler_takes_it_whole(options: dict) -> None:
    torch._dynamo.reset()
    z, value = disc(300, batch=1)
    z, value, series = z.float().requires_grad_(), value.float().requires_grad_(), cosine_series("von_mises", 4.0)

    def run(z: Tensor, v: Tensor) -> Tensor:
        return point_attention(z, v, series, unit=False, **options)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=False)
    wanted, got = run(z, value), compiled(z, value)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    expected = torch.autograd.grad(wanted.square().sum(), [z, value])
    for a, e in zip(torch.autograd.grad(got.square().sum(), [z, value]), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)


def test_autocast_leaves_the_arithmetic_in_float32() -> None:
    phase, value, cotangent = sample(400)
    for options in FORMS:
        plain = with_gradients(lambda p, v, o=options: coherence_attention(p, v, **o), phase, value, cotangent)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = with_gradients(lambda p, v, o=options: coherence_attention(p, v, **o), phase, value, cotangent)
        assert all(torch.equal(a, b) for a, b in zip(low, plain, strict=True))


def test_a_second_derivative_is_refused_not_wrong() -> None:
    phase, value, _ = sample(20)
    phase.requires_grad_()
    out = coherence_attention(phase, value).sum()
    with pytest.raises(UsageError, match="mode='dense'"):
        torch.autograd.grad(out, phase, create_graph=True)


def test_empty_amplitudes_attend_uniformly_both_ways_under_a_leak() -> None:
    _, value, _ = sample(500, batch=1)
    zero = torch.zeros(1, 2, 500)
    out = disc_attention(zero, zero, value, cosine_series("von_mises", 4.0), unit=False, leak=0.9)
    weight = 0.9 ** (torch.arange(500)[:, None] - torch.arange(500)).abs().double()
    assert_close([out], [weight @ value.double() / weight.sum(-1, keepdim=True)])


@pytest.mark.parametrize("clusters", [1, 2, 3, 5])
def test_order_parameters_count_clusters(clusters: int) -> None:
    phase = (torch.arange(60) % clusters) * (2 * math.pi / clusters) + 0.4
    x, y = phase.cos().expand(2, 1, -1).clone(), phase.sin().expand(2, 1, -1).clone()
    mask = torch.ones(2, 60, dtype=torch.bool)
    mask[1] = False
    x[1] = math.nan
    found = order_parameters(x, y, mask, range(1, 7))
    expected = torch.tensor([float(m % clusters == 0) for m in range(1, 7)])
    torch.testing.assert_close(found[0, 0], expected, rtol=0, atol=1e-5)
    assert (found[1] == 0).all()
