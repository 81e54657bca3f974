"""Linear attention and Fourier mixing against their definitions."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.flops import count_macs
from baselines.models.fourier_mixing import FourierMixing, fourier_of_real_tokens
from baselines.models.linear_attention import LinearAttention, Sums, linear_attention
from neurons.specs import Context

STEPS, WIDTH = 150, 8  # more than two chunks, and not a whole number of them


def heads(seed: int = 0, steps: int = STEPS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 3, steps, 4), (2, 3, steps, 4), (2, 3, steps, 5)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def by_definition(query: Tensor, key: Tensor, value: Tensor, causal: bool, mask: Tensor | None = None) -> Tensor:
    """Every weight (phi(q_i) . phi(k_j)) in a matrix."""
    weights = torch.einsum("bhid,bhjd->bhij", F.elu(query) + 1, F.elu(key) + 1)
    if causal:
        weights = weights.tril()
    if mask is not None:
        weights = weights * mask[:, None, None]
    return weights @ value / (weights.sum(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("steps", [1, 63, 64, STEPS])
def test_linear_attention_is_its_weight_matrix(causal: bool, steps: int) -> None:
    inputs = [t.requires_grad_() for t in heads(steps=steps)]
    out, expected = linear_attention(*inputs, causal=causal)[0], by_definition(*inputs, causal)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad((out * weights).sum(), inputs)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("causal", [False, True])
def test_masked_keys_weigh_nothing(causal: bool) -> None:
    mask = torch.rand(2, STEPS, generator=torch.Generator().manual_seed(2)) < 0.6
    out = linear_attention(*heads(), causal=causal, mask=mask)[0]
    torch.testing.assert_close(out, by_definition(*heads(), causal, mask), rtol=0, atol=1e-12)


def test_the_sums_carry_a_sequence_from_piece_to_piece() -> None:
    whole, after = linear_attention(*heads(), causal=True)
    past, pieces = None, []
    for part in (slice(0, 1), slice(1, 70), slice(70, STEPS)):
        out, past = linear_attention(*(t[:, :, part] for t in heads()), causal=True, past=past)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=0, atol=1e-12)
    assert past is not None
    torch.testing.assert_close(tuple(past), tuple(after), rtol=0, atol=1e-12)


def test_a_causal_layer_streams_and_padding_takes_no_time() -> None:
    torch.manual_seed(0)
    layer = LinearAttention(width=WIDTH, causal=True, heads=2, label="here").double()
    x = torch.randn(3, 20, WIDTH, dtype=torch.float64)
    whole = layer(x, Context())
    context = Context()
    first = layer(
        F.pad(x[:, :9], (0, 0, 0, 4)), Context(mask=torch.arange(13).expand(3, 13) < 9, next_state=context.state)
    )
    assert isinstance(context.state["here"], Sums)
    assert not context.state["here"].fields.requires_grad
    second = layer(x[:, 9:], context)
    torch.testing.assert_close(torch.cat([first[:, :9], second], 1), whole, rtol=0, atol=1e-12)
    full = Context()
    LinearAttention(width=WIDTH, causal=False)(x.float(), full)
    assert full.next_state == {}


def test_linear_attention_has_the_parameters_of_softmax_attention_and_linear_cost() -> None:
    layer = LinearAttention(width=WIDTH, causal=True, heads=2)
    assert sum(p.numel() for p in layer.parameters()) == 4 * WIDTH**2 + 4 * WIDTH
    short, long = (count_macs(lambda n=n: layer(torch.randn(1, n, WIDTH), Context())) for n in (640, 6400))
    assert long == 10 * short


def transform(x: Tensor) -> Tensor:
    """Re of the unitary transform over tokens and channels, (T, D), term by term."""
    tokens, channels = x.shape
    out = torch.zeros(tokens, channels, dtype=torch.float64)
    for k in range(tokens):
        for c in range(channels):
            turned = [
                x[t, d].item() * cmath.exp(-2j * math.pi * (k * t / tokens + c * d / channels))
                for t in range(tokens)
                for d in range(channels)
            ]
            out[k, c] = sum(turned).real / math.sqrt(tokens * channels)
    return out


def test_fourier_mixing_is_the_transform_of_the_real_tokens() -> None:
    x = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    layer = FourierMixing(width=4, causal=False)
    torch.testing.assert_close(layer(x, Context())[0], transform(x[0]), rtol=0, atol=1e-12)
    out = layer(x, Context(mask=mask))
    torch.testing.assert_close(out[0], transform(x[0]), rtol=0, atol=1e-12)
    torch.testing.assert_close(out[1][mask[1]], transform(x[1][mask[1]]), rtol=0, atol=1e-12)
    assert not out[~mask].any()
    assert sum(p.numel() for p in layer.parameters()) == 0


def test_fourier_mixing_keeps_the_scale_of_its_input_at_any_length() -> None:
    for steps in (10, 4000):
        x = torch.randn(1, steps, 16, generator=torch.Generator().manual_seed(0))
        # Half of a real signal's energy is in the real part.
        assert FourierMixing(width=16, causal=False)(x, Context()).square().mean().sqrt() == pytest.approx(
            0.5**0.5, rel=0.1
        )


def test_the_chirps_stay_exact_in_long_sequences() -> None:
    steps = 4099
    x = torch.randn(1, steps, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(torch.complex128)
    mask = torch.ones(1, steps, dtype=torch.bool)
    expected = torch.fft.fft(x, dim=1, norm="ortho")
    torch.testing.assert_close(fourier_of_real_tokens(x, mask), expected, rtol=0, atol=1e-10)


def test_both_learn_through_padding() -> None:
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    x = torch.randn(2, 9, WIDTH, requires_grad=True)
    layers: list[nn.Module] = [FourierMixing(width=WIDTH, causal=False), LinearAttention(width=WIDTH, causal=True)]
    for layer in layers:
        (gradient,) = torch.autograd.grad(layer(x, Context(mask=mask)).square().sum(), x)
        assert (gradient[mask].abs().sum(-1) > 0).all()
        assert not gradient[~mask].any()
