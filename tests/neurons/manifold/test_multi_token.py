"""Multi-token prediction token by token against plain cross-entropies; layer aggregation by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neurons.errors import UsageError
from neurons.manifold.layer_aggregation import LayerAggregation
from neurons.manifold.multi_token import MultiTokenReadout, shifted_targets
from neurons.readouts import TokenReadout
from neurons.specs import IGNORE, Batch, Context


def build(**options: object) -> MultiTokenReadout:
    torch.manual_seed(0)
    return MultiTokenReadout(**({"width": 8, "vocabulary": 11, "n_predict": 3} | options))  # type: ignore[arg-type]


def sample(steps: int = 7) -> tuple[torch.Tensor, Batch]:
    random = torch.Generator().manual_seed(1)
    text = torch.randint(0, 11, (2, steps + 1), generator=random)
    y = text[:, 1:].clone()
    y[0, 2] = IGNORE
    mask = torch.arange(steps) < torch.tensor([[steps], [4]])
    return torch.randn(2, steps, 8, generator=random), Batch(text[:, :-1], y, mask)


def test_targets_token_by_token() -> None:
    text = torch.arange(10, 18)[None]  # x is 10 .. 16, the next token's targets are 11 .. 17
    y = text[:, 1:]
    for ahead in range(4):
        found = shifted_targets(y, ahead)[0].tolist()
        for t in range(7):
            beyond = t + 1 + ahead
            assert found[t] == (10 + beyond if beyond <= 7 else IGNORE)
    assert shifted_targets(y, 9).tolist() == [[IGNORE] * 7]


@pytest.mark.parametrize("chunk", [2, 4096])
def test_the_objective_by_hand(chunk: int) -> None:
    readout, (x, batch) = build(chunk=chunk), sample()
    assert batch.mask is not None
    loss = readout.loss(x, batch)
    plain = TokenReadout(width=8, vocabulary=11)
    plain.load_state_dict({key: value for key, value in readout.state_dict().items() if not key.startswith("heads")})
    alone = plain.loss(x, batch)
    torch.testing.assert_close(loss.reported, alone.reported)
    torch.testing.assert_close(readout(x, Context()), plain(x, Context()))
    assert loss.count == alone.count == 10
    total = alone.objective
    for k, head in enumerate(readout.heads, start=1):
        losses = []
        for b in range(2):
            for t in range(7 - k):
                if batch.mask[b, t + k] and batch.y[b, t + k] != IGNORE:
                    hidden = x[b, t] + head(F.silu(readout.norm(x[b, t])))
                    losses.append(F.cross_entropy(readout.linear(readout.norm(hidden)), batch.y[b, t + k]))
        total = total + 0.3 * 10 * torch.stack(losses).mean()
    torch.testing.assert_close(loss.objective, total, rtol=1e-5, atol=1e-5)


def test_every_head_learns_and_keeps_no_logits() -> None:
    readout, (x, batch), large = build(vocabulary=500), sample(), []
    for form in (TokenReadout.loss, MultiTokenReadout.loss):
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            loss = form(readout, x.requires_grad_(), batch)
        large.append(sum(n > 8 * 500 for n in kept))
    assert large[0] == large[1]  # the next token's own alone
    loss.objective.backward()
    assert [name for name, p in readout.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_text_shorter_than_the_reach() -> None:
    readout = build(n_predict=4)
    loss = readout.loss(torch.randn(1, 2, 8), Batch(torch.zeros(1, 2).long(), torch.tensor([[1, 2]])))
    assert torch.isfinite(loss.objective)
    with pytest.raises(UsageError, match="n_predict >= 2"):
        build(n_predict=1)


def test_aggregation_by_hand() -> None:
    states = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(2))
    states[1, 2] = 0.0  # a masked token
    aggregation = LayerAggregation(width=8, layers=4)
    assert torch.equal(aggregation(states), states[:, :, -1])
    nn.init.normal_(aggregation.gate)
    wanted = states[:, :, -1].clone()
    for layer in range(3):
        x = states[:, :, layer]
        wanted += aggregation.gate[layer] * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(aggregation(states), wanted, rtol=1e-5, atol=1e-6)
    assert not aggregation(states)[1, 2].any()
    aggregation(states).square().sum().backward()
    assert aggregation.gate.grad is not None
    assert (aggregation.gate.grad != 0).all()
    with pytest.raises(UsageError, match="2 layers or more"):
        LayerAggregation(width=8, layers=1)
