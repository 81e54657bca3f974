from __future__ import annotations

import pytest
import torch
from pc_networks import TinyModel, squared, tiny_batch
from torch import nn
from torch.nn import functional as F

from learning import OPTIMIZERS, RULES
from learning.chain import Chain, stages_of, trainable, unsupported
from neurons.errors import UsageError
from neurons.specs import Batch


def run(chain: Chain) -> torch.Tensor:
    x = chain.input
    for index in range(len(chain) - 1):
        x = chain.stage(index, x)
    return chain.loss(x).objective


def test_our_model_is_its_own_loss():
    torch.manual_seed(0)
    model, batch = TinyModel(), tiny_batch()
    chain = Chain(model, batch)
    assert len(chain) == 4
    torch.testing.assert_close(run(chain), model.loss(batch).objective, rtol=0, atol=0)


def test_a_given_loss_replaces_the_readouts():
    model, batch = TinyModel(), tiny_batch()
    base = model.readout.loss

    def doubled(x, batch):
        seen = base(x, batch)
        return seen._replace(objective=2 * seen.objective)

    torch.testing.assert_close(run(Chain(model, batch, doubled)), 2 * model.loss(batch).objective)


@pytest.mark.parametrize("wrap", [lambda m: m, list, lambda m: nn.ModuleList(m)])
def test_plain_modules_give_sums(wrap):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(5, 3), torch.randint(0, 2, (5,))
    wanted = F.cross_entropy(model(x), y, reduction="sum")
    for batch in ((x, y), [x, y], Batch(x, y)):
        torch.testing.assert_close(run(Chain(wrap(model), batch, F.cross_entropy)), wanted)
    pair = Chain(wrap(model), (x, y), lambda p, y: (F.cross_entropy(p, y, reduction="sum"), 7))
    torch.testing.assert_close(run(pair), wanted)
    assert pair.loss(torch.randn(5, 4)).count == 7
    assert Chain(wrap(model), (x, y), F.cross_entropy).loss(torch.randn(5, 4)).count == 5


def test_in_place_stages_leave_their_input_alone():
    chain = Chain(
        [nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 1)], (torch.randn(4, 3), torch.randn(4, 1)), squared
    )
    x = torch.randn(4, 3)
    before = x.clone()
    torch.testing.assert_close(chain.stage(1, x), before.clamp_min(0))
    assert torch.equal(x, before)


def test_half_precision_comes_out_float32_under_autocast_only():
    batch = (torch.randn(4, 3), torch.randn(4, 1))
    chain = Chain([nn.Linear(3, 3), nn.Linear(3, 1)], batch, squared)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nn.Linear(3, 3)(batch[0]).dtype == torch.bfloat16
        assert chain.stage(0, batch[0]).dtype == torch.float32
    half = Chain(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)).bfloat16(), batch, squared)
    assert half.stage(0, batch[0].bfloat16()).dtype == torch.bfloat16


def test_parameters_are_listed_once_and_filled():
    shared = nn.Linear(3, 3)
    frozen = nn.Linear(3, 3).requires_grad_(False)
    chain = Chain([shared, frozen, shared, nn.Linear(3, 1)], (torch.randn(4, 3), torch.randn(4, 1)), squared)
    assert [p.shape for p in chain.parameters] == [(3, 3), (3,), (1, 3), (1,)]
    chain.fill([None, torch.ones(3), None, torch.ones(1)])
    assert torch.equal(shared.weight.grad, torch.zeros(3, 3))
    assert torch.equal(shared.bias.grad, torch.ones(3))
    assert frozen.weight.grad is None
    assert len(trainable([frozen])) == 0


class Orphan(TinyModel):
    def __init__(self) -> None:
        super().__init__()
        self.lost = nn.Parameter(torch.zeros(1))


def test_what_is_no_chain_is_told_so():
    with pytest.raises(UsageError, match="Linear is not a chain"):
        stages_of(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="no stages"):
        stages_of([])
    with pytest.raises(UsageError, match="not function"):
        stages_of([nn.Linear(2, 2), squared])
    assert unsupported(TinyModel()) is None
    assert unsupported([nn.Linear(2, 2)]) is None
    assert "not a chain" in str(unsupported(nn.Linear(2, 2)))
    assert unsupported(Orphan()) == "parameter 'lost' belongs to no stage"


def test_bad_batches_and_losses_are_told_so():
    stages, x, y = [nn.Linear(3, 3), nn.Linear(3, 1)], torch.randn(4, 3), torch.randn(4, 1)
    with pytest.raises(UsageError, match="needs loss="):
        Chain(stages, (x, y))
    with pytest.raises(UsageError, match=r"batch=\(x, y\), not Tensor"):
        Chain(stages, x, squared)
    with pytest.raises(UsageError, match="TinyModel takes a neurons Batch, not tuple"):
        Chain(TinyModel(), (x, y))
    with pytest.raises(UsageError, match="empty"):
        Chain(stages, (x[:0], y[:0]), squared)
    with pytest.raises(UsageError, match=r"shape \(4, 1\)"):
        Chain(stages, (x, y), lambda p, y: (p - y).square()).loss(x)
    with pytest.raises(UsageError, match="a float;"):
        Chain(stages, (x, y), lambda p, y: 1.0).loss(x)


def test_a_stage_that_returns_no_float_tensor_is_told_so():
    x, y = torch.randint(0, 5, (4, 3)), torch.randn(4, 1)
    with pytest.raises(UsageError, match=r"stage 1 \(Identity\) returns a torch.int64 tensor"):
        Chain([nn.Identity(), nn.Linear(3, 1)], (x, y), squared).stage(0, x)
    with pytest.raises(UsageError, match=r"stage 1 \(LSTM\) returns a tuple"):
        Chain([nn.LSTM(3, 3), nn.Linear(3, 1)], (x.float(), y), squared).stage(0, x.float())


class Transposed(torch.autograd.Function):
    """The identity, whose gradient is a transposed view."""

    @staticmethod
    def forward(ctx, weight):
        return weight.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.t().contiguous().t()


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x):
        return x @ Transposed.apply(self.weight).t()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_gradient_that_is_a_view_moves_the_weights_it_belongs_to(name):
    torch.manual_seed(0)
    stage, batch = Strided(), (torch.randn(5, 4), torch.randn(5, 3))
    model = nn.ModuleList([nn.Identity(), stage])
    RULES.build("backprop").step(model, batch, loss=nn.functional.mse_loss)
    assert stage.weight.grad.stride() == stage.weight.stride()
    fused = OPTIMIZERS.build(name).build(model, lr=0.1, weight_decay=0.01)
    twin = nn.Parameter(stage.weight.detach().clone())
    twin.grad = stage.weight.grad.clone()
    plain = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    options = {"momentum": 0.9} if name == "sgd" else {}
    reference = plain([twin], lr=0.1, weight_decay=0.01, foreach=False, fused=False, **options)
    fused.step()
    reference.step()
    torch.testing.assert_close(stage.weight, twin, rtol=1e-6, atol=1e-7)
