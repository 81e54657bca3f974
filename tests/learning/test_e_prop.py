"""e-prop: traces of the membranes, a signal straight from the readout, and where that is backprop through time."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from locality import crossings, survivors
from pc_networks import TinyModel, backprop_grads, grads, relative
from torch import nn

from learning.rules.backprop import Backprop
from learning.rules.e_prop import EProp, eligibility_reference
from learning.rules.probe import gradient_cosine
from neurons import MODELS
from neurons.errors import UsageError
from neurons.model import Model
from neurons.readouts import build_readout
from neurons.specs import IGNORE, Batch, Context, InputSpec, OutputSpec, zero_masked
from neurons.spiking.soma import SpikingSoma


class Spiking(nn.Module):
    """Synapses onto leaky integrate-and-fire neurons."""

    def __init__(self, inputs: int, outputs: int, surrogate: str = "atan") -> None:
        super().__init__()
        self.synapses = nn.Linear(inputs, outputs)
        self.soma = SpikingSoma(outputs, surrogate=surrogate, threshold=0.5)

    def forward(self, x, context: Context):
        return self.soma(self.synapses(zero_masked(x, context.mask)), context)


class SpikingModel(Model):
    def __init__(self, *widths: int, kind: str = "label", surrogate: str = "atan", steps: int = 12) -> None:
        super().__init__(InputSpec("features", steps, widths[0]), OutputSpec(kind, 3))
        readout = build_readout(self.output, width=widths[-1])
        self.stages = nn.ModuleList([*(Spiking(a, b, surrogate) for a, b in pairwise(widths)), readout])


def data(inputs: int, *, kind: str = "label", masked: bool = False, size: int = 6, steps: int = 12) -> Batch:
    y = torch.randint(0, 3, (size,) if kind == "label" else (size, steps))
    if kind == "token":
        y[0, 2] = IGNORE
    lengths = torch.tensor([steps, 5, 9, 1, steps, 7])[:, None]
    mask = torch.arange(steps) < lengths if masked else None
    return Batch(2 * torch.randn(size, steps, inputs).double(), y, mask)


@pytest.mark.parametrize("surrogate", ["atan", "fast_sigmoid"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["label", "token"])
def test_one_spiking_layer_learns_as_by_backpropagation_through_time(kind, masked, surrogate):
    torch.manual_seed(0)
    model = SpikingModel(4, 7, kind=kind, surrogate=surrogate).double()
    batch = data(4, kind=kind, masked=masked)
    seen = model.loss(batch)
    wanted = backprop_grads(model, seen.objective / seen.count)
    EProp().step(model, batch)
    assert relative(grads(model), wanted) < 1e-12
    assert model.stages[0].synapses.weight.grad.abs().min() > 0


def spied(model: SpikingModel, batch: Batch) -> list[dict[str, torch.Tensor]]:
    """Input, membrane and surrogate derivative of each spiking stage."""
    found, x, context = [], batch.x, model.context(batch)
    for stage in model.stages[:-1]:
        x, soma = zero_masked(x, batch.mask), stage.soma
        current = stage.synapses(x).detach()
        potential, before = [], torch.zeros_like(current[:, 0])
        for t in range(current.shape[1]):
            new = soma.beta * before + current[:, t] - soma.threshold * (before > soma.threshold)
            before = new if batch.mask is None else torch.where(batch.mask[:, t, None], new, before)
            potential.append(before)
        over = torch.stack(potential, 1) - soma.threshold
        found.append({"x": x.detach(), "psi": 1 / (1 + (torch.pi * over) ** 2)})
        x = stage(x, context).detach()
    return found


@pytest.mark.parametrize("feedback", ["symmetric", "random"])
@pytest.mark.parametrize("masked", [False, True])
def test_every_layer_gets_what_its_traces_gather_online(feedback, masked):
    torch.manual_seed(1)
    model, rule = SpikingModel(5, 7, 7, 7).double(), EProp(feedback=feedback)
    batch = data(5, masked=masked)
    seen: list[torch.Tensor] = []
    hidden = model.stages[-2].register_forward_hook(lambda _, args, out: seen.append(out))
    rule.step(model, batch)
    hidden.remove()
    x = seen[0].detach().requires_grad_()
    loss = model.readout.loss(x, batch)
    (direct,) = torch.autograd.grad(loss.objective / loss.count, x)
    logits = model.readout(x.detach(), model.context(batch)).softmax(-1)
    error = (logits - nn.functional.one_hot(batch.y, 3)) / len(batch)
    real = torch.ones(6, 12).double() if batch.mask is None else batch.mask.double()
    for index, spy in enumerate(spied(model, batch)):
        signal = direct
        if feedback == "random":
            signal = (error @ rule.state_dict()[str(index)])[:, None] * (real / real.sum(1, keepdim=True))[..., None]
        stage = model.stages[index]
        wanted = eligibility_reference(spy["x"], signal, spy["psi"], stage.soma.beta, batch.mask)
        # snntorch's surrogate answers in float32, so a signal passes it with seven digits.
        torch.testing.assert_close(stage.synapses.weight.grad, wanted, rtol=1e-5, atol=1e-8)


def test_traces_know_nothing_of_the_future():
    torch.manual_seed(2)
    x, signal, psi = torch.randn(2, 9, 3).double(), torch.randn(2, 9, 4).double(), torch.rand(2, 9, 4).double()
    signal[:, 5:] = 0  # the signal ends: what comes after it cannot matter
    before = eligibility_reference(x, signal, psi, 0.8)
    x[:, 5:] = torch.randn(2, 4, 3).double()
    assert torch.equal(eligibility_reference(x, signal, psi, 0.8), before)
    x[:, 0] += 1
    assert not torch.allclose(eligibility_reference(x, signal, psi, 0.8), before)


def circuit_model(**options: object) -> Model:
    torch.manual_seed(0)
    built = {"width": 16, "heads": 2, "layers": 3, "dropout": 0.0, "embedding_dropout": 0.0, **options}
    return MODELS.build(
        "spiking_neuronsv2", input=InputSpec("tokens", 9, 20), output=OutputSpec("label", 3), **built
    ).double()


def tokens() -> Batch:
    mask = torch.arange(9) < torch.tensor([9, 4, 7, 9])[:, None]
    return Batch(torch.randint(1, 20, (4, 9)), torch.randint(0, 3, (4,)), mask)


def test_in_the_spiking_model_it_is_the_gradient_without_what_later_circuits_make_of_a_spike():
    model, batch = circuit_model(), tokens()
    context, x, stream = model.context(batch), batch.x, None
    for stage in model.stages[:-1]:  # each circuit's answer enters the stream; what it reads is cut off
        answer = stage(x, context)
        stream = answer if stream is None else stream.detach() + (stream - stream.detach()) + (answer - x)
        x = answer.detach()
    wanted = backprop_grads(model, model.readout.loss(stream, batch).objective / 4)
    EProp().step(model, batch)
    assert relative(grads(model), wanted) < 1e-12


def test_beside_backpropagation_through_time():
    batch = tokens()
    exact = gradient_cosine(EProp(), circuit_model(layers=1), batch)
    assert exact["cosine_2"] == pytest.approx(1.0, abs=1e-12)
    assert exact["cosine_3"] == pytest.approx(1.0, abs=1e-12)
    deep = gradient_cosine(EProp(), circuit_model(), batch)
    assert deep["cosine_4"] == pytest.approx(1.0, abs=1e-12)
    assert 0.3 < deep["cosine_2"] < 0.99999
    two = gradient_cosine(EProp(), SpikingModel(5, 7, 7).double(), data(5))
    assert two["cosine_1"] < 0.9
    assert two["cosine_2"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("feedback", ["symmetric", "random"])
def test_a_cue_is_remembered(feedback):
    """Which of three inputs fired in the first two of ten steps; noise after that. Two spiking layers."""
    torch.manual_seed(0)
    model, rule = SpikingModel(3, 24, 24, steps=10), EProp(feedback=feedback)
    y = torch.randint(0, 3, (240,))
    x = torch.randn(240, 10, 3) * 0.3
    x[:, :2] += 1.5 * nn.functional.one_hot(y, 3)[:, None]
    rule.prepare(model)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for i in range(150):
        part = slice(i % 3 * 60, i % 3 * 60 + 60)
        rule.step(model, Batch(x[part], y[part]))
        optimiser.step()
    right = model(Batch(x[180:], y[180:])).argmax(-1) == y[180:]
    assert right.double().mean() > 0.9


@pytest.mark.parametrize("feedback", ["symmetric", "random"])
def test_no_edge_crosses_a_stage_boundary(feedback):
    model, rule = circuit_model(), EProp(feedback=feedback)
    assert crossings(rule, model, tokens()) == (0, {0, 1, 2, 3, 4})
    assert crossings(Backprop(), circuit_model(), tokens())[0] == 4


@pytest.mark.parametrize("victims", [{0}, {2}, {3}, {1, 3}])
@pytest.mark.parametrize("feedback", ["symmetric", "random"])
def test_no_update_reads_another_hidden_stages_parameters_after_the_forward_pass(feedback, victims):
    found = survivors(EProp(feedback=feedback), circuit_model(), tokens(), victims=victims)
    assert found == set(range(5)) - victims


def test_what_it_needs_is_told():
    assert EProp().supports(circuit_model()) is None
    assert "no spiking soma" in EProp().supports(TinyModel())
    twice = SpikingModel(4, 5, 5)
    twice.stages[1].second = SpikingSoma(5)
    assert "stage 2 has 2 spiking somas" in EProp().supports(twice)
    with pytest.raises(UsageError, match=r"stage 1 answers \(6, 12, 7\).*Try: rule\.feedback=random"):
        EProp().step(SpikingModel(4, 7, 5).double(), data(4))
    with pytest.raises(UsageError, match="'symmetric' or 'random'"):
        EProp(feedback="both")
    other = EProp(feedback="random")
    other.step(SpikingModel(4, 7, 5).double(), data(4))
    assert sorted(other.state_dict()) == ["0", "1"]
