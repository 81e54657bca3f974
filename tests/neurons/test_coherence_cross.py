"""Coherence between different tokens against torch's softmax attention and the definition in float64."""

from __future__ import annotations

import math

import pytest
import torch
from test_coherence import KERNEL_FUNCTIONS
from torch import Tensor
from torch.nn import functional as F

from neurons import KERNELS
from neurons.errors import UsageError
from neurons.ops.coherence_cross import cross_attention


def sample(queries: int = 7, keys: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.rand(2, 3, n, generator=generator) * 2 * math.pi for n in (queries, keys))
    return query, key, torch.randn(2, 3, keys, 5, generator=generator)


def definition(query: Tensor, key: Tensor, value: Tensor, kernel: str, kappa: float) -> Tensor:
    weight = KERNEL_FUNCTIONS[kernel](query.double()[..., :, None] - key.double()[..., None, :], kappa)
    return weight @ value.double() / weight.sum(-1, keepdim=True)


@pytest.mark.parametrize("kernel", KERNELS.names())
@pytest.mark.parametrize("kappa", [1.0, 4.0, 8.0, 20.0])
def test_cross_attention_is_the_definition_in_values_and_gradients(kernel: str, kappa: float) -> None:
    query, key, value = (t.requires_grad_() for t in sample())
    out, exact = cross_attention(query, key, value, kernel=kernel, kappa=kappa), definition(
        query, key, value, kernel, kappa
    )  # fmt: skip
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-6)
    got, wanted = (torch.autograd.grad(t.square().sum(), [query, key, value]) for t in (out, exact))
    for a, e in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=2e-6 * float(e.abs().max()))


@pytest.mark.parametrize("kappa", [1.0, 8.0, 20.0, 30.0])
def test_a_query_in_antiphase_to_all_keys_still_averages_them(kappa: float) -> None:
    # in float32 the denominator n e^(-2 kappa) is lost in rounding, and comes out negative at kappa = 8
    _, key, value = sample(keys=4096)
    key = 0.01 * key
    query = torch.full((2, 3, 1), math.pi)
    out = cross_attention(query, key, value, kappa=kappa)
    torch.testing.assert_close(out.double(), definition(query, key, value, "von_mises", kappa), rtol=0, atol=1e-6)


def test_von_mises_is_softmax_attention() -> None:
    query, key, value = sample()
    q, k = (2.0 * torch.stack([torch.cos(t), torch.sin(t)], -1) for t in (query, key))
    softmax = F.scaled_dot_product_attention(q, k, value, scale=1.0)
    torch.testing.assert_close(cross_attention(query, key, value), softmax, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("kernel", "kappa"), [("von_mises", 4.0), ("von_mises", 20.0), ("raised_cosine", 4.0)])
def test_masked_keys_do_not_exist(kernel: str, kappa: float) -> None:
    query, key, value = sample()
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[0, 10:] = False
    mask[1] = False
    key, value = key.masked_fill(~mask[:, None], math.nan), value.masked_fill(~mask[:, None, :, None], math.inf)
    out = cross_attention(query, key, value, kernel=kernel, kappa=kappa, mask=mask)
    expected = definition(query[:1], key[:1, :, :10], value[:1, :, :10], kernel, kappa)
    torch.testing.assert_close(out[:1].double(), expected, rtol=0, atol=1e-6)
    assert (out[1] == 0).all()


def test_shapes_that_do_not_fit_are_usage_errors() -> None:
    query, key, value = sample()
    with pytest.raises(UsageError, match="one value per key"):
        cross_attention(query, key[..., 1:], value)
