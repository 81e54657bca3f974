"""Readouts against numpy and torch's cross-entropy in one piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neurons.readouts import LabelReadout, TokenReadout, build_readout
from neurons.specs import IGNORE, Batch, Context, OutputSpec

MASK = torch.tensor([[True] * 5, [True, True, False, False, False]])


def hidden(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mask", [None, MASK])
def test_label_readout_is_mean_norm_linear(mask: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    read, x = LabelReadout(width=8, classes=3), hidden()
    rows = x.numpy()
    kept = np.ones((2, 5), dtype=bool) if mask is None else mask.numpy()
    means = np.stack([rows[i][kept[i]].mean(0) for i in range(2)])
    normal = (means - means.mean(1, keepdims=True)) / np.sqrt(means.var(1, keepdims=True) + 1e-5)
    expected = normal @ read.linear.weight.detach().numpy().T + read.linear.bias.detach().numpy()
    np.testing.assert_allclose(read(x, Context(mask=mask)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_label_loss_is_a_sum_over_samples() -> None:
    read, y = LabelReadout(width=8, classes=3), torch.tensor([2, 0])
    loss = read.loss(hidden(), Batch(hidden(), y, MASK))
    logits = read(hidden(), Context(mask=MASK))
    expected = -logits.log_softmax(1)[torch.arange(2), y].sum()
    torch.testing.assert_close(loss.objective, expected)
    torch.testing.assert_close(loss.reported, expected.detach())
    assert loss.count == 2
    assert loss.objective.requires_grad
    assert not loss.reported.requires_grad


def test_label_readout_of_an_empty_sample_is_finite() -> None:
    empty = torch.zeros(2, 5, dtype=torch.bool)
    assert torch.isfinite(LabelReadout(width=8, classes=3)(hidden(), Context(mask=empty))).all()


def test_label_dropout_acts_in_training_only() -> None:
    read = LabelReadout(width=8, classes=3, dropout=0.5)
    torch.manual_seed(0)
    assert not torch.equal(read(hidden(), Context()), read(hidden(), Context()))
    read.eval()
    assert torch.equal(read(hidden(), Context()), read(hidden(), Context()))


@pytest.mark.parametrize("chunk", [1, 3, 10, 4096])
@pytest.mark.parametrize("mask", [None, MASK])
def test_token_loss_does_not_depend_on_the_chunk(chunk: int, mask: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    read = TokenReadout(width=8, vocabulary=11, chunk=chunk)
    y = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(1))
    y[0, 1] = IGNORE
    target = y if mask is None else torch.where(mask, y, torch.full_like(y, IGNORE))
    x = hidden().requires_grad_()
    whole = F.cross_entropy(
        read.linear(read.norm(x)).reshape(-1, 11), target.reshape(-1), ignore_index=IGNORE, reduction="sum"
    )
    expected = torch.autograd.grad(whole, [x, *read.parameters()])
    loss = read.loss(x, Batch(x, y, mask))
    torch.testing.assert_close(loss.objective, whole)
    assert loss.count == (9 if mask is None else 6)
    for got, want in zip(torch.autograd.grad(loss.objective, [x, *read.parameters()]), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_token_logits_are_zero_under_the_padding() -> None:
    read = TokenReadout(width=8, vocabulary=11)
    logits = read(hidden(), Context(mask=MASK))
    assert logits.shape == (2, 5, 11)
    assert not logits[~MASK].any()
    torch.testing.assert_close(logits[MASK], read.linear(read.norm(hidden()))[MASK])


def test_a_batch_without_targets_counts_none() -> None:
    read = TokenReadout(width=8, vocabulary=11)
    loss = read.loss(hidden(), Batch(hidden(), torch.full((2, 5), IGNORE)))
    assert (loss.count, float(loss.reported)) == (0, 0.0)


@pytest.mark.parametrize(
    ("output", "kind"), [(OutputSpec("label", 4), LabelReadout), (OutputSpec("token", 9), TokenReadout)]
)
def test_build_readout_follows_the_output(output: OutputSpec, kind: type[nn.Module]) -> None:
    read = build_readout(output, width=8, dropout=0.0)
    assert type(read) is kind
    assert read(hidden(), Context()).shape[-1] == output.size
