"""Direct feedback alignment: the output error itself reaches every stage, and nothing else does."""

from __future__ import annotations

import pytest
import torch
from locality import crossings, survivors
from pc_networks import TinyModel, backprop_grads, case, grads, relative, squared, tiny_batch
from torch import nn
from torch.nn import functional as F

from learning.rules.direct_feedback_alignment import DirectFeedbackAlignment
from learning.rules.probe import gradient_cosine
from neurons.errors import UsageError
from neurons.model import Model
from neurons.readouts import LabelReadout, TokenReadout
from neurons.specs import IGNORE, Batch, Context, InputSpec, OutputSpec, zero_masked


def with_products(layers: list[nn.Linear]) -> DirectFeedbackAlignment:
    """B_l = W_L .. W_{l+1}."""
    rule, product, state = DirectFeedbackAlignment(), layers[-1].weight.detach(), {}
    for index in range(len(layers) - 2, -1, -1):
        state[str(index)] = product.clone()
        product = product @ layers[index].weight.detach()
    rule.load_state_dict(state)
    return rule


@pytest.mark.parametrize("loss", [squared, F.cross_entropy])
def test_in_a_linear_network_with_products_of_weights_it_is_backprop(loss):
    torch.manual_seed(0)
    stages = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 8), nn.Linear(8, 4)).double()
    x, y = torch.randn(6, 5).double(), torch.randn(6, 4).double().softmax(-1)
    wanted = backprop_grads(stages, loss(stages(x), y))
    with_products(list(stages)).step(stages, (x, y), loss=loss)
    assert relative(grads(stages), wanted) < 1e-12


class Token(nn.Module):
    """A linear map of every token; ``streams`` copies of it side by side."""

    def __init__(self, inputs: int, outputs: int, streams: int = 0) -> None:
        super().__init__()
        self.linear, self.streams = nn.Linear(inputs, outputs), streams

    def forward(self, x, context: Context):
        if self.streams:
            x = x.unsqueeze(2).expand(-1, -1, self.streams, -1)
        return zero_masked(self.linear(x), context.mask)


class Merge(Token):
    def forward(self, x, context: Context):
        return super().forward(x.mean(2), context)


class LinearModel(Model):
    """Linear throughout: stages over tokens, in two streams for a while, and a readout without its norm."""

    def __init__(self, kind: str) -> None:
        super().__init__(InputSpec("features", 6, 3), OutputSpec(kind, 4))
        readout = LabelReadout(width=5, classes=4) if kind == "label" else TokenReadout(width=5, vocabulary=4, chunk=7)
        readout.norm = nn.Identity()
        self.stages = nn.ModuleList([Token(3, 5, streams=2), Token(5, 6), Merge(6, 5), readout])
        self.double()

    def layers(self) -> list[nn.Linear]:
        return [m for m in self.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["label", "token"])
def test_over_tokens_and_streams_too(kind, masked):
    torch.manual_seed(0)
    model = LinearModel(kind)
    y = torch.randint(0, 4, (5,)) if kind == "label" else torch.randint(0, 4, (5, 6))
    if kind == "token":
        y[0, 2] = y[3, 5] = IGNORE
    mask = torch.arange(6) < torch.tensor([6, 3, 5, 6, 1])[:, None] if masked else None
    batch = Batch(torch.randn(5, 6, 3).double(), y, mask)
    seen = model.loss(batch)
    wanted = backprop_grads(model, seen.objective / seen.count)
    report = with_products(model.layers()).step(model, batch)
    assert relative(grads(model), wanted) < 1e-12
    assert report.loss.count == seen.count
    assert report.passes == 4 + 4


def test_the_papers_equations():
    """Nøkland 2016: da_l = (e B_l) * f'(a_l) for every hidden layer, at once."""
    torch.manual_seed(0)
    first, second, third = nn.Linear(4, 6).double(), nn.Linear(6, 5).double(), nn.Linear(5, 3).double()
    stages = [nn.Sequential(first, nn.Tanh()), nn.Sequential(second, nn.Tanh()), third]
    x, y = torch.randn(7, 4).double(), torch.randn(7, 3).double()
    rule = DirectFeedbackAlignment(seed=3)
    rule.step(stages, (x, y), loss=squared)
    b1, b2 = rule.state_dict()["0"], rule.state_dict()["1"]
    assert b1.shape == (3, 6)
    assert b2.shape == (3, 5)
    with torch.no_grad():
        h1 = torch.tanh(first(x))
        h2 = torch.tanh(second(h1))
        error = (third(h2) - y) / 7
        d1, d2 = (error @ b1) * (1 - h1**2), (error @ b2) * (1 - h2**2)
    for layer, delta, h in ((third, error, h2), (second, d2, h1), (first, d1, x)):
        torch.testing.assert_close(layer.weight.grad, delta.T @ h, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(layer.bias.grad, delta.sum(0), rtol=1e-12, atol=1e-14)


def test_the_update_turns_towards_backprops_in_learning():
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(30, 30), nn.Tanh()) for _ in range(2)]
    stages, rule = nn.Sequential(*hidden, nn.Linear(30, 10)), DirectFeedbackAlignment(seed=1)
    with torch.no_grad():
        for stage in hidden:
            stage[0].weight.mul_(0.3)
    optimiser = torch.optim.SGD(stages.parameters(), lr=0.05)
    x = torch.randn(256, 30)
    batch = (x, x @ torch.randn(30, 10) / 30**0.5)
    cosines, losses = [], []
    for _ in range(800):
        cosines.append(gradient_cosine(rule, stages, batch, squared))
        losses.append(rule.step(stages, batch, loss=squared).mean)
        optimiser.step()
    for key in ("cosine_1", "cosine_2"):
        assert abs(cosines[0][key]) < 0.3
        assert min(row[key] for row in cosines[400:]) > 0.3
    assert losses[-1] < 0.15 * losses[0]


def test_matrices_follow_the_seed_and_stay():
    stages, batch, loss = case("conv")
    one, two, other = (DirectFeedbackAlignment(seed=seed) for seed in (1, 1, 2))
    for rule in (one, two, other):
        torch.manual_seed(len(rule.state_dict()))
        rule.step(stages, batch, loss=loss)
    before = {key: value.clone() for key, value in one.state_dict().items()}
    one.step(stages, batch, loss=loss)
    assert {key: tuple(value.shape) for key, value in before.items()} == {"0": (4, 256), "1": (4, 64), "2": (4, 12)}
    for key, value in before.items():
        assert torch.equal(value, one.state_dict()[key])
        assert torch.equal(value, two.state_dict()[key])
        assert not torch.equal(value, other.state_dict()[key])
    one.prepare(stages)
    one.step(stages, batch, loss=loss)
    assert torch.equal(before["0"], one.state_dict()["0"])


def test_a_model_of_another_shape_is_refused():
    rule = DirectFeedbackAlignment()
    data = torch.randn(2, 3), torch.randn(2, 2)
    rule.step(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), data, loss=squared)
    with pytest.raises(UsageError, match=r"stage 1 is \(2, 4\), but this model needs \(2, 5\)"):
        rule.step(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), data, loss=squared)


def test_a_readout_without_output_is_told():
    stages = [nn.Linear(3, 2).requires_grad_(False)]
    with pytest.raises(UsageError, match="no output error to send"):
        DirectFeedbackAlignment().step(stages, (torch.randn(2, 3), torch.randn(2, 2)), loss=squared)


def test_no_edge_crosses_a_stage_boundary():
    torch.manual_seed(0)
    assert crossings(DirectFeedbackAlignment(), TinyModel(depth=3), tiny_batch()) == (0, {0, 1, 2, 3, 4})
    stages, batch, loss = case("attention")
    assert crossings(DirectFeedbackAlignment(), stages, batch, loss) == (0, {0, 1, 2, 3})


@pytest.mark.parametrize("victims", [{0}, {2}, {4}, {0, 1, 3, 4}])
def test_no_hidden_update_reads_another_stages_weight_after_the_forward_pass(victims):
    stages, batch, loss = case("residual")
    assert survivors(DirectFeedbackAlignment(), stages, batch, victims=victims, loss=loss) == set(range(6)) - victims
