"""S4D against its definition in complex numbers, and windows of attention against a masked matrix."""

from __future__ import annotations

import math

import pytest
import torch

from baselines.flops import count_macs
from baselines.models.attention import SoftmaxAttention
from baselines.models.local_attention import LocalAttention
from baselines.models.s4d import S4D, DiagonalStateSpace
from neurons.errors import UsageError
from neurons.specs import Context, InputSpec, OutputSpec

WIDTH, STEPS = 4, 60


def hidden(steps: int = STEPS, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(2, steps, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("causal", [True, False])
def test_s4d_is_the_discretised_state_space_it_names(causal: bool) -> None:
    torch.manual_seed(0)
    layer, x = DiagonalStateSpace(width=WIDTH, causal=causal, states=3).double(), hidden()
    a = torch.complex(-layer.decay.exp(), layer.frequency).view(WIDTH, 3).detach()
    delta = layer.step.exp()[:, None].detach()
    keep, held = (delta * a).exp(), ((delta * a).exp() - 1) / a
    expected = layer.skip.detach() * x
    for direction, (re, im) in enumerate(layer.readout.detach()):
        c, h = torch.complex(re, im), torch.zeros(2, WIDTH, 3, dtype=torch.complex128)
        for t in range(STEPS):
            if direction:  # what comes later, and not the token itself
                at = STEPS - 1 - t
                expected[:, at] += 2 * (c * h).sum(-1).real
                h = keep * h + held * x[:, at, :, None]
            else:
                h = keep * h + held * x[:, t, :, None]
                expected[:, t] += 2 * (c * h).sum(-1).real
    torch.testing.assert_close(layer(x, Context()), expected, rtol=0, atol=1e-10)


def test_s4d_starts_as_s4d_lin() -> None:
    layer = DiagonalStateSpace(width=5, causal=True, states=4)
    torch.testing.assert_close(layer.decay.exp(), torch.full((20,), 0.5))
    torch.testing.assert_close(layer.frequency.view(5, 4)[3], torch.tensor([0, math.pi, 2 * math.pi, 3 * math.pi]))
    assert (layer.step.exp() >= 0.001).all()
    assert (layer.step.exp() <= 0.1).all()


@pytest.mark.parametrize("causal", [True, False])
def test_s4d_compiles_in_one_graph_and_no_suffix_reaches_its_past(causal: bool) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer, x = DiagonalStateSpace(width=WIDTH, causal=causal, states=3), hidden().float().requires_grad_()
    mask = torch.arange(STEPS) < torch.tensor([[STEPS], [STEPS - 25]])
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)
    out, expected = compiled(x, Context(mask=mask)), layer(x, Context(mask=mask))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    leaves = [x, *layer.parameters()]
    wanted, found = (torch.autograd.grad(y.square().sum(), leaves) for y in (expected, out))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    if causal:
        changed = torch.cat([x[:, :30], x[:, 30:].flip(1)], 1)
        torch.testing.assert_close(layer(changed, Context())[:, :30], layer(x, Context())[:, :30], rtol=0, atol=5e-6)


def test_the_model_declares_its_size() -> None:
    model = S4D(input=InputSpec("tokens", 30, 9), output=OutputSpec("token", 9), width=8, layers=2, states=4)
    block = 2 * 8 + 8 * (2 + 4 * 4) + 2 * 8 * 8 + 2 * 8
    assert model.parameter_counts()["non_embedding"] == 2 * block + 2 * 8 + 9 * 8 + 9
    assert model.parameter_counts()["attention"] == 2 * 8 * (2 + 4 * 4)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 7, 20, 60, 100])
@pytest.mark.parametrize("padded", [True, False])
def test_local_attention_is_softmax_attention_within_its_window(causal: bool, window: int, padded: bool) -> None:
    torch.manual_seed(0)
    layer, x = LocalAttention(width=WIDTH, causal=causal, heads=2, window=window).double(), hidden()
    mask = torch.arange(STEPS) < torch.tensor([[STEPS], [STEPS - 25]]) if padded else None
    q, k, v = layer.project(x).view(2, STEPS, 3, 2, 2).permute(2, 0, 3, 1, 4)
    apart = torch.arange(STEPS)[:, None] - torch.arange(STEPS)
    may = (apart.abs() < window) & (apart >= 0) if causal else apart.abs() < window
    may = may if mask is None else may & mask[:, None, None, :] | (apart == 0)
    weights = (q @ k.transpose(-1, -2) / 2**0.5).masked_fill(~may, -torch.inf).softmax(-1)
    expected = layer.merge((weights @ v).transpose(1, 2).flatten(2))
    expected = expected if mask is None else expected.masked_fill(~mask[..., None], 0.0)
    torch.testing.assert_close(layer(x, Context(mask=mask)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_over_everything_is_softmax_attention(causal: bool) -> None:
    whole = SoftmaxAttention(width=WIDTH, causal=causal, heads=2).double()
    layer = LocalAttention(width=WIDTH, causal=causal, heads=2, window=STEPS).double()
    layer.load_state_dict(whole.state_dict())
    torch.testing.assert_close(layer(hidden(), Context()), whole(hidden(), Context()), rtol=0, atol=1e-12)


def test_local_attention_costs_grow_with_the_length() -> None:
    layer = LocalAttention(width=WIDTH, causal=False, window=16)
    macs = [count_macs(lambda n=n: layer(hidden(n).float(), Context())) for n in (256, 1024)]
    assert macs[1] == 4 * macs[0]


def test_what_cannot_be_built_is_refused() -> None:
    for build in (
        lambda: DiagonalStateSpace(width=4, causal=True, states=0),
        lambda: LocalAttention(width=4, causal=True, window=0),
        lambda: S4D(input=InputSpec(), output=OutputSpec(), layers=0),
    ):
        with pytest.raises(UsageError):
            build()
