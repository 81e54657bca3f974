"""Feedback alignment and sign-symmetry: what the error's way down is made of, and what the papers claim of it."""

from __future__ import annotations

import pytest
import torch
from locality import crossings, survivors
from pc_networks import TinyModel, backprop_grads, case, grads, relative, squared, tiny_batch
from torch import nn
from torch.nn import functional as F

from learning.rules.asymmetric import weight_layers
from learning.rules.backprop import Backprop
from learning.rules.feedback_alignment import FeedbackAlignment
from learning.rules.probe import gradient_cosine
from learning.rules.sign_symmetry import SignSymmetry
from neurons.errors import UsageError

RULES = [FeedbackAlignment, SignSymmetry]


@pytest.mark.parametrize("name", ["mlp-squared", "mlp-entropy", "conv", "residual"])
def test_with_the_weights_as_feedback_it_is_backprop(name):
    stages, (x, y), loss = case(name)
    wanted = backprop_grads(stages, loss(stages(x), y))
    rule = FeedbackAlignment()
    rule.load_state_dict({key: layer.weight.detach().clone() for key, layer in weight_layers(stages).items()})
    rule.step(stages, (x, y), loss=loss)
    assert relative(grads(stages), wanted) < 1e-12


def test_one_of_our_models_with_the_weights_as_feedback():
    torch.manual_seed(0)
    model, batch = TinyModel(depth=3).double(), tiny_batch()
    wanted = backprop_grads(model, model.loss(batch).objective / 5)
    rule = FeedbackAlignment()
    rule.load_state_dict({key: layer.weight.detach().clone() for key, layer in weight_layers(model.stages).items()})
    rule.step(model, batch)
    assert relative(grads(model), wanted) < 1e-12


def test_the_papers_equations():
    """Lillicrap et al. 2016, three layers, by hand: readout's error, B in place of W, f' of the true activities."""
    torch.manual_seed(0)
    first, second, third = nn.Linear(4, 6).double(), nn.Linear(6, 5).double(), nn.Linear(5, 3).double()
    stages = [nn.Sequential(first, nn.Tanh()), nn.Sequential(second, nn.Tanh()), third]
    x, y = torch.randn(7, 4).double(), torch.randn(7, 3).double()
    rule = FeedbackAlignment(seed=3)
    rule.prepare(stages)
    rule.step(stages, (x, y), loss=squared)
    b2, b3 = rule.state_dict()["1.0"], rule.state_dict()["2"]
    with torch.no_grad():
        h1 = torch.tanh(first(x))
        h2 = torch.tanh(second(h1))
        d3 = (third(h2) - y) / 7
        d2 = d3 @ b3 * (1 - h2**2)
        d1 = d2 @ b2 * (1 - h1**2)
    for layer, delta, h in ((third, d3, h2), (second, d2, h1), (first, d1, x)):
        torch.testing.assert_close(layer.weight.grad, delta.T @ h, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(layer.bias.grad, delta.sum(0), rtol=1e-12, atol=1e-14)


def test_the_update_turns_towards_backprops_in_learning():
    """A linear teacher, as in the paper's first figure: the hidden angle starts near 90 degrees and falls."""
    torch.manual_seed(0)
    stages = nn.Sequential(nn.Linear(30, 20, bias=False), nn.Linear(20, 10, bias=False))
    teacher, rule = torch.randn(10, 30) / 30**0.5, FeedbackAlignment(seed=1)
    rule.prepare(stages)
    optimiser = torch.optim.SGD(stages.parameters(), lr=0.05)
    x = torch.randn(256, 30)
    batch = (x, x @ teacher.T)
    hidden = []
    losses = []
    for _ in range(1500):
        hidden.append(gradient_cosine(rule, stages, batch, squared)["cosine_1"])
        losses.append(rule.step(stages, batch, loss=squared).mean)
        optimiser.step()
    assert abs(hidden[0]) < 0.3
    assert min(hidden[300:]) > 0.5
    assert losses[-1] < 0.02 * losses[0]


def test_matrices_are_fixed_and_follow_the_seed_alone():
    stages, batch, loss = case("conv")
    one, two, other = FeedbackAlignment(seed=1), FeedbackAlignment(seed=1), FeedbackAlignment(seed=2)
    torch.manual_seed(1)
    one.prepare(stages)
    torch.manual_seed(2)
    two.prepare(stages)
    other.prepare(stages)
    before = {key: value.clone() for key, value in one.state_dict().items()}
    one.step(stages, batch, loss=loss)
    assert list(before) == ["0.0", "1.0", "2.0", "3.1"]
    for key, value in before.items():
        assert torch.equal(value, two.state_dict()[key])
        assert torch.equal(value, one.state_dict()[key])
        assert not torch.equal(value, other.state_dict()[key])
        size = weight_layers(stages)[key].weight.detach().square().mean().sqrt()
        assert value.square().mean().sqrt() == pytest.approx(float(size), rel=0.3)


def test_a_model_of_another_shape_is_refused():
    rule = FeedbackAlignment()
    rule.prepare(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    with pytest.raises(UsageError, match=r"layer '0' has none .* Call rule\.prepare"):
        rule.step(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), (torch.randn(2, 3), torch.randn(2, 2)), loss=squared)


@pytest.mark.parametrize("name", ["mlp-entropy", "conv", "residual"])
def test_sign_symmetry_is_backprop_where_all_weights_of_a_layer_are_equally_strong(name):
    stages, (x, y), loss = case(name)
    with torch.no_grad():
        for scale, layer in enumerate(weight_layers(stages).values(), start=1):
            layer.weight.copy_(layer.weight.sign() * 0.1 * scale)
    wanted = backprop_grads(stages, loss(stages(x), y))
    SignSymmetry().step(stages, (x, y), loss=loss)
    assert relative(grads(stages), wanted) < 1e-12


def test_sign_symmetry_follows_signs_and_mean_strength_only():
    torch.manual_seed(0)
    first, second = nn.Linear(4, 6).double(), nn.Linear(6, 3).double()
    x, y = torch.randn(7, 4).double(), torch.randn(7, 3).double()
    SignSymmetry().step([first, second], (x, y), loss=squared)
    with torch.no_grad():
        error = (second(first(x)) - y) / 7
        feedback = torch.sign(second.weight) * second.weight.abs().mean()
    torch.testing.assert_close(first.weight.grad, (error @ feedback).T @ x, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(second.weight.grad, error.T @ first(x).detach(), rtol=1e-12, atol=1e-14)


def test_sign_symmetry_agrees_with_backprop_in_sign_more_often_than_random_feedback():
    agreement = {SignSymmetry: 0.0, FeedbackAlignment: 0.0}
    for seed in range(10):
        torch.manual_seed(seed)
        widths = [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(3)]
        stages, x, y = nn.Sequential(*widths, nn.Linear(16, 4)), torch.randn(8, 16), torch.randn(8, 4)
        wanted = backprop_grads(stages, squared(stages(x), y))[0].sign()
        for rule in agreement:
            rule(**({"seed": seed} if rule is FeedbackAlignment else {})).step(stages, (x, y), loss=squared)
            agreement[rule] += float((grads(stages)[0].sign() == wanted).double().mean()) / 10
    assert agreement[SignSymmetry] > 0.7
    assert 0.4 < agreement[FeedbackAlignment] < 0.6


@pytest.mark.parametrize("rule", RULES)
def test_no_edge_crosses_a_stage_boundary(rule):
    torch.manual_seed(0)
    assert crossings(rule(), TinyModel(depth=3), tiny_batch()) == (0, {0, 1, 2, 3, 4})
    stages, batch, loss = case("conv")
    assert crossings(rule(), stages, batch, loss) == (0, {0, 1, 2, 3})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("victims", [{1}, {2}, {5}, {2, 4, 5}])
def test_no_update_reads_another_stages_weight_after_the_forward_pass(rule, victims):
    stages, batch, loss = case("residual")
    assert survivors(rule(), stages, batch, victims=victims, loss=loss) == set(range(6)) - victims


def test_the_same_test_catches_backprop_in_the_act():
    stages, batch, loss = case("residual")
    assert survivors(Backprop(), stages, batch, victims={5}, loss=loss) == set()
    assert survivors(Backprop(), stages, batch, victims={2}, loss=loss) == {3, 4, 5}


def test_weights_it_does_not_know_are_named():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.eye(4))

        def forward(self, x):
            return x @ self.matrix

    reason = FeedbackAlignment().supports(nn.Sequential(nn.Linear(4, 4), Mixed(), nn.Linear(4, 2)))
    assert "stage 2 (Mixed) holds 'matrix'" in reason
    assert FeedbackAlignment().supports(nn.Sequential(Mixed(), nn.Linear(4, 2))) is None
    assert "in_proj_weight" in SignSymmetry().supports(case("attention").stages)


def test_a_layer_whose_weight_is_read_behind_its_back_is_an_error():
    class Sly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return F.linear(x, self.linear.weight)

    stages = nn.Sequential(nn.Linear(4, 4), Sly(), nn.Linear(4, 2))
    with pytest.raises(UsageError, match=r"layer '1\.linear' was never called"):
        SignSymmetry().step(stages, (torch.randn(2, 4), torch.randn(2, 2)), loss=squared)
    assert not stages[0]._forward_hooks
    assert not stages[0]._forward_pre_hooks
