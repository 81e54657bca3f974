"""SoftHebb: the plasticity of competing units, where it comes to rest, and what a readout makes of it."""

from __future__ import annotations

import pytest
import torch
from locality import crossings, survivors
from pc_networks import TinyModel, case
from rule_homes import home
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from learning.rules.softhebb import SoftHebb
from neurons.errors import UsageError


def by_hand(layer: nn.Module, rows: torch.Tensor, sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Moraitis et al. 2022 on unit-length inputs, one input after the other."""
    weight, bias = layer.weight.detach().flatten(1), layer.bias.detach()
    dw, db = torch.zeros_like(weight), torch.zeros_like(bias)
    for row in rows:
        h = row / row.norm()
        u = weight @ h
        y = torch.exp(sharpness * u + bias)
        y = y / y.sum()
        for k in range(len(y)):
            dw[k] += y[k] * (h - u[k] * weight[k]) / len(rows)
        db += y / len(rows)
    return dw, db - bias.exp() / len(bias)


def test_linear_layers_follow_the_papers_equation():
    torch.manual_seed(0)
    first, second = nn.Linear(5, 7), nn.Linear(7, 6)
    stages = nn.Sequential(nn.Sequential(first, nn.Tanh()), nn.Sequential(second, nn.ReLU()), nn.Linear(6, 3)).double()
    x, y = torch.randn(8, 5).double(), torch.randint(0, 3, (8,))
    SoftHebb(sharpness=3.0).step(stages, (x, y), loss=F.cross_entropy)
    for layer, rows in ((first, x), (second, stages[0](x).detach())):
        dw, db = by_hand(layer, rows, 3.0)
        torch.testing.assert_close(layer.weight.grad, -dw, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(layer.bias.grad, -db, rtol=1e-12, atol=1e-14)
    state = stages[:2](x).detach()
    error = stages[2](state).softmax(1) - F.one_hot(y, 3)
    torch.testing.assert_close(stages[2].weight.grad, error.T @ state / 8)  # the delta rule


def test_a_convolution_is_a_linear_layer_over_its_patches():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, stride=2, padding=1).double()
    stages = nn.Sequential(layer, nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double())
    x = torch.randn(3, 2, 6, 6).double()
    SoftHebb(sharpness=5.0).step(stages, (x, torch.arange(3)), loss=F.cross_entropy)
    patches = F.unfold(x, 3, stride=2, padding=1).transpose(1, 2).flatten(0, 1)
    dw, db = by_hand(layer, patches, 5.0)
    torch.testing.assert_close(layer.weight.grad.flatten(1), -dw, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(layer.bias.grad, -db, rtol=1e-12, atol=1e-14)


def test_weights_come_to_rest_at_cluster_centres_of_unit_length_and_biases_at_the_priors():
    torch.manual_seed(1)
    shares = torch.tensor([0.5, 0.3, 0.2])
    centres = F.normalize(torch.randn(3, 12), dim=1)
    which = torch.repeat_interleave(torch.arange(3), torch.tensor([500, 300, 200]))
    x = F.normalize(centres[which] + 0.1 * torch.randn(1000, 12), dim=1)
    means = F.normalize(torch.stack([x[which == k].mean(0) for k in range(3)]), dim=1)
    stages = nn.Sequential(nn.Linear(12, 3), nn.Linear(3, 3))
    with torch.no_grad():
        stages[0].weight.copy_(2 * x[[0, 600, 900]] + 0.2 * torch.randn(3, 12))  # too long, and off the centres
    optimiser = torch.optim.SGD(stages[0].parameters(), lr=1.0)
    rule = SoftHebb(sharpness=32.0)
    for _ in range(300):
        report = rule.step(stages, (5 * x, which), loss=F.cross_entropy)
        optimiser.step()
    weight, bias = stages[0].weight.detach(), stages[0].bias.detach()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(3), rtol=0, atol=0.01)
    torch.testing.assert_close(weight, means, rtol=0, atol=0.02)
    torch.testing.assert_close(bias.exp() / 3, shares, rtol=0, atol=0.01)
    assert report.scalars == {"norm_0": pytest.approx(1.0, abs=0.01)}


def readout_accuracy(*, plastic: bool) -> float:
    """Two layers of 32 units on digits, inputs standardised, the same readout either way."""
    found = load_digits()
    order = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(found.data / 16.0).float()[order], torch.tensor(found.target)[order]
    torch.manual_seed(0)
    norms = [nn.BatchNorm1d(width, affine=False) for width in (64, 32, 32)]
    hidden = [nn.Sequential(norm, nn.Linear(norm.num_features, 32), nn.ReLU()) for norm in norms[:2]]
    stages = nn.Sequential(*hidden, nn.Sequential(norms[2], nn.Linear(32, 10)))
    stages[:2].requires_grad_(plastic)
    optimiser = torch.optim.Adam([p for p in stages.parameters() if p.requires_grad], 3e-3)
    rule = SoftHebb()
    for i in range(250):
        at = torch.arange(64) + i * 64 % 1344
        rule.step(stages, (x[at], y[at]), loss=F.cross_entropy)
        optimiser.step()
    stages.eval()
    return float((stages(x[1437:]).argmax(1) == y[1437:]).double().mean())


def test_a_readout_does_better_on_its_units_than_on_random_ones():
    learned, random = readout_accuracy(plastic=True), readout_accuracy(plastic=False)
    assert learned > random + 0.03
    assert learned > 0.83


def test_labels_reach_the_readout_alone():
    model, batch, _ = home("softhebb")
    SoftHebb().step(model, batch)
    before = [p.grad.clone() for p in model.stages[:-1].parameters()]
    readout = model.readout.linear.weight.grad.clone()
    batch.y.copy_((batch.y + 1) % 3)
    SoftHebb().step(model, batch)
    assert all(torch.equal(p.grad, b) for p, b in zip(model.stages[:-1].parameters(), before, strict=True))
    assert not torch.equal(model.readout.linear.weight.grad, readout)


def test_an_input_of_zeros_teaches_nothing():
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 5), torch.randn(6, 4)
    padded = torch.cat([x, torch.zeros(3, 4)])
    for one, two in zip(*(SoftHebb().plasticity(layer, rows) for rows in (x, padded)), strict=True):
        torch.testing.assert_close(one, two)


def test_no_edge_crosses_a_stage_boundary():
    model, batch, _ = home("softhebb")
    assert crossings(SoftHebb(), model, batch) == (0, {2})  # hidden stages learn without autograd's graph
    stages, (x, y), loss = case("conv")
    assert crossings(SoftHebb(), stages, (x, y), loss) == (0, {3})


@pytest.mark.parametrize("victims", [{0}, {1}, {3}, {0, 2, 3}])
def test_no_layer_reads_another_stages_parameters(victims):
    stages, batch, loss = case("conv")
    assert survivors(SoftHebb(), stages, batch, victims=victims, loss=loss) == set(range(4)) - victims


def test_what_it_needs_is_told():
    assert "'table.weight'" in SoftHebb().supports(TinyModel())
    grouped = nn.Sequential(nn.Conv1d(4, 4, 3, groups=2), nn.Linear(3, 2))
    assert "convolves in groups" in SoftHebb().supports(grouped)
    assert SoftHebb().supports(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4, elementwise_affine=False))) is None
    assert SoftHebb().supports(nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)))) is None
    with pytest.raises(UsageError, match="sharpness > 0"):
        SoftHebb(sharpness=0.0)
